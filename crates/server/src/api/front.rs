//! `GET /`: the first commands for this server, as a page for browsers and as text for other clients.

use std::net::Ipv6Addr;

use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use super::connection::ConnectionInfo;
use super::head::RequestHead;
use super::response::{self, Response};

const PAGE: &str = include_str!("front.html");
const TEXT: &str = include_str!("front.txt");
/// Allows only the page's own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the response. With `needs_token`, the first command sends the create token from `$TOKEN`.
pub(super) fn front(connection: ConnectionInfo, head: &impl RequestHead, needs_token: bool) -> Response {
    let is_page = head.values(ACCEPT.as_str()).any(|value| {
        let ranges = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        ranges.map(<[u8]>::to_ascii_lowercase).any(|range| is_html(&range))
    });
    let token = if needs_token { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
    let base = base(connection, head);
    // Brackets are special in some shells.
    let quote = if base.contains('[') { "\"" } else { "" };
    let text = if is_page { PAGE } else { TEXT }
        .replace("{base}", &base)
        .replace("{quote}", quote)
        .replace("{token}", token)
        .replace("{version}", env!("CARGO_PKG_VERSION"));
    let content_type = if is_page { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let mut response = response::with_body(StatusCode::OK, text.into());
    response.head.headers.extend([
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (VARY, HeaderValue::from_static("Accept")),
    ]);
    response
}

/// Returns the base URL under which the client reached the server. If the host has characters that are special in a shell or in HTML, it
/// is a placeholder, because users paste the commands of the page.
fn base(connection: ConnectionInfo, head: &impl RequestHead) -> String {
    let is_https = connection.is_tls
        || connection.is_proxy
            && head
                .values("x-forwarded-proto")
                .any(|proto| proto.trim_ascii().eq_ignore_ascii_case(b"https"));
    let scheme = if is_https { "https" } else { "http" };
    let authority = head.authorities().flatten().next().filter(|authority| is_plain(authority.host()));
    let Some(authority) = authority else { return format!("{scheme}://THIS-SERVER") };
    let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}", authority.host())
}

/// Whether a host is a name without special characters, or an address.
fn is_plain(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    }
}

/// Whether a media range of `Accept`, in lower case, asks for HTML. With `q=0` it refuses it (RFC 9110, section 12.4.2).
fn is_html(range: &[u8]) -> bool {
    let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    parts.next() == Some(b"text/html")
        && !parts
            .any(|part| part.strip_prefix(b"q=").is_some_and(|q| q.iter().all(|byte| b"0.".contains(byte))))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::connection::{Audience, ListenerInfo};
    use super::super::response::Body;
    use super::*;

    fn render(is_tls: bool, is_proxy: bool, fields: &[(&str, &str)]) -> (String, String) {
        let listener = ListenerInfo { audience: Audience::Clients, is_loopback: false };
        let connection = ConnectionInfo { listener, address: [192, 0, 2, 1].into(), is_proxy, is_tls };
        let request =
            fields.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        let response = front(connection, &request.body(()).unwrap(), false);
        let Body::Bytes(body) = response.body else { panic!("it has no body") };
        let content_type = response.head.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
        (content_type, String::from_utf8(body.into()).unwrap())
    }

    #[test]
    fn a_browser_gets_a_page_and_other_clients_get_text() {
        for (accept, is_page) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, Text/HTML", true),
            ("text/html;q=0, text/plain", false),
            ("text/html; q=0.1", true),
            ("text/html-not", false),
            ("*/*", false),
            ("text/plain", false),
        ] {
            let (content_type, body) =
                render(false, false, &[("host", "relay.example:9999"), ("accept", accept)]);
            assert_eq!(content_type.starts_with("text/html"), is_page, "{accept}");
            assert_eq!(body.contains("<html"), is_page, "{accept}");
            assert!(body.contains("curl -s -X POST http://relay.example:9999/stream"), "{body}");
            assert!(!body.contains(['{', '}']) || is_page, "{body}");
        }
    }

    #[test]
    fn the_commands_have_the_address_of_the_server_and_nothing_dangerous() {
        for (is_tls, is_proxy, fields, base) in [
            (true, false, &[("host", "relay.example")][..], "https://relay.example/stream"),
            (
                false,
                true,
                &[("host", "relay.example"), ("x-forwarded-proto", "https")],
                "https://relay.example/stream",
            ),
            (
                false,
                false,
                &[("host", "relay.example"), ("x-forwarded-proto", "https")],
                "http://relay.example/stream",
            ),
            (
                false,
                true,
                &[("host", "relay.example"), ("x-forwarded-proto", "HTTPS")],
                "https://relay.example/stream",
            ),
            (false, false, &[("host", "[2001:db8::1]:80")], r#" "http://[2001:db8::1]:80/stream""#),
            (false, false, &[("host", "[reboot]")], "http://THIS-SERVER/stream"),
            (false, false, &[("host", "reboot@relay.example")], "http://relay.example/stream"),
            (false, false, &[("host", "a;reboot")], "http://THIS-SERVER/stream"),
            (false, false, &[("host", "a$(reboot)")], "http://THIS-SERVER/stream"),
            (false, false, &[], "http://THIS-SERVER/stream"),
        ] {
            let (_, body) = render(is_tls, is_proxy, fields);
            assert!(body.contains(base), "{body}");
            assert!(!body.contains("reboot"), "{body}");
        }
    }
}
