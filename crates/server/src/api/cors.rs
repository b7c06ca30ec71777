//! Cross-origin requests from web pages: CORS (Fetch standard, "CORS protocol") and the refusal of requests from other sites.
//!
//! A browser sends many cross-origin requests without a preflight and only hides the response from the page. Such a request can
//! still create a stream or use one up. So the server refuses requests from pages of another site unless their origin is allowed. It
//! recognizes them by `Origin` and `Sec-Fetch-Site`, which a page cannot set and which other clients do not send. Pure.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Uri};
use rendezvous_core::token::AuthError;

use super::connection::{Audience, ListenerInfo};
use super::head::RequestHead;
use super::route::Route;
use crate::config::CorsOrigin;

/// The relation between the page that sends the request and the server: `cross-site`, `same-site`, `same-origin`, or `none` if the user
/// caused the request.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// The mode of the request. It is `navigate` if the response is shown or saved and not passed to a page.
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

/// What the response is for.
const SEC_FETCH_DEST: &str = "sec-fetch-dest";
/// The destinations that a page loads without its user: they are navigations too, but nobody has followed a link.
const EMBEDDED: [&[u8]; 5] = [b"iframe", b"frame", b"embed", b"object", b"fencedframe"];

/// The time in seconds for which a browser may cache the response to a preflight. Browsers cache none longer than two hours.
const MAX_AGE: u64 = 2 * 60 * 60;

/// The allowed origins of a server (`--cors-origin`). Default: none, and no response has CORS fields.
#[derive(Debug, Default)]
pub(crate) struct Cors {
    origins: Vec<CorsOrigin>,
}

/// The value of `Access-Control-Allow-Origin` for a request from an allowed origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllowedOrigin(HeaderValue);

impl Cors {
    /// Allows pages of these origins.
    #[must_use]
    pub(crate) fn new(origins: Vec<CorsOrigin>) -> Self {
        Self { origins }
    }

    /// Returns the origin of a request if it is allowed. The admin listener allows none.
    #[must_use]
    pub(crate) fn allowed_origin(
        &self,
        listener: ListenerInfo,
        head: &impl RequestHead,
    ) -> Option<AllowedOrigin> {
        let mut origins = head.values("origin");
        let origin = origins.next().filter(|_| listener.audience == Audience::Clients)?;
        if self.allows_any() {
            return Some(AllowedOrigin(HeaderValue::from_static("*")));
        }
        let matches =
            |allowed: &CorsOrigin| matches!(allowed, CorsOrigin::This(text) if text.as_bytes() == origin);
        let is_allowed = self.origins.iter().any(matches) && origins.next().is_none();
        is_allowed.then(|| HeaderValue::from_bytes(origin).ok().map(AllowedOrigin)).flatten()
    }

    /// Checks whether the origin of a request may use a route. All values of a repeated field must be allowed.
    ///
    /// For a page of the same site (another port or subdomain) only `Origin` counts. Browsers omit it only from `GET` and `HEAD`, whose only
    /// effect is to use up a stream whose id the page knows.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`] if it may not.
    pub(crate) fn check(
        &self,
        listener: ListenerInfo,
        route: &Route,
        head: &impl RequestHead,
    ) -> Result<(), AuthError> {
        let is_allowed = || {
            let is_any = self.allows_any() && listener.audience == Audience::Clients;
            is_any || self.allowed_origin(listener, head).is_some()
        };
        if (is_cross_site(route, head) || is_cross_origin(head)) && !is_allowed() {
            return Err(AuthError::Forbidden(
                "This request is from a web page of another site: to allow it, start the server with --cors-origin ORIGIN. A proxy \
                 must pass on Host",
            ));
        }
        Ok(())
    }

    fn allows_any(&self) -> bool {
        self.origins.contains(&CorsOrigin::Any)
    }
}

/// Whether `Sec-Fetch-Site` reports a page of another site. A navigation to a `GET` route does not count, because the user follows a link, but that of a frame inside the page does.
fn is_cross_site(route: &Route, head: &impl RequestHead) -> bool {
    let is_trusted = |site: &[u8]| [&b"same-origin"[..], b"same-site", b"none"].contains(&site);
    if head.values(SEC_FETCH_SITE).all(is_trusted) {
        return false;
    }
    let mut modes = head.values(SEC_FETCH_MODE).peekable();
    let is_navigation = modes.peek().is_some() && modes.all(|mode| mode == b"navigate");
    let is_embedded = head.values(SEC_FETCH_DEST).any(|destination| EMBEDDED.contains(&destination));
    !(is_navigation && !is_embedded && route.is_read())
}

/// Whether the request has an `Origin` that is not the server's own.
fn is_cross_origin(head: &impl RequestHead) -> bool {
    head.values("origin").any(|origin| !is_own_origin(origin, head))
}

/// Whether an origin has the host and port of the request. The scheme is not compared: behind a proxy that terminates TLS, the server does
/// not know it.
fn is_own_origin(origin: &[u8], head: &impl RequestHead) -> bool {
    let Ok(origin) = Uri::try_from(origin) else { return false };
    let (Some(scheme), Some(host)) = (origin.scheme_str(), origin.host()) else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = origin.port_u16().unwrap_or(default_port);
    let mut authorities = head.authorities().peekable();
    authorities.peek().is_some()
        && authorities.all(|authority| {
            authority.is_some_and(|own| {
                own.host().eq_ignore_ascii_case(host) && own.port_u16().unwrap_or(default_port) == port
            })
        })
}

impl AllowedOrigin {
    /// Adds the CORS fields to a response. Fields that are there already, from the stream's header set, stay.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        if self.0 != "*" {
            vary_by_origin(headers);
        }
        headers.entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert_with(|| self.0.clone());
        headers.entry(ACCESS_CONTROL_EXPOSE_HEADERS).or_insert(HeaderValue::from_static("*"));
    }
}

/// Whether the request is a CORS preflight.
#[must_use]
pub(crate) fn is_preflight(request: &impl RequestHead) -> bool {
    *request.method() == Method::OPTIONS && request.has(ACCESS_CONTROL_REQUEST_METHOD.as_str())
}

/// Returns the fields of a preflight response, except for those of [`AllowedOrigin::add_to`].
#[must_use]
pub(crate) fn preflight(request: &impl RequestHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT, POST"));
    let requested = request.values(ACCESS_CONTROL_REQUEST_HEADERS.as_str()).next();
    if let Some(requested) = requested.and_then(|names| HeaderValue::from_bytes(names).ok()) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE.into());
    vary_by_origin(&mut headers);
    headers
}

fn vary_by_origin(headers: &mut HeaderMap) {
    let has_origin = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    };
    if !headers.get_all(VARY).iter().any(has_origin) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use rendezvous_protocol::{StreamId, StreamName};

    use super::*;

    const CLIENTS: ListenerInfo = ListenerInfo { audience: Audience::Clients, is_loopback: true };

    fn allowed_origin(allowed: &[&str], origin: &str) -> Option<AllowedOrigin> {
        let cors = Cors::new(allowed.iter().map(|origin| origin.parse().unwrap()).collect());
        let request = Request::builder().header("origin", origin).body(()).unwrap();
        let operators = ListenerInfo { audience: Audience::Operators, ..CLIENTS };
        assert_eq!(cors.allowed_origin(operators, &request), None);
        cors.allowed_origin(CLIENTS, &request)
    }

    #[test]
    fn only_the_configured_origins_are_allowed() {
        let named = ["https://a.example", "http://localhost:3000"];
        for (allowed, origin, expected) in [
            (&named[..], "https://a.example", Some("https://a.example")),
            (&named[..], "http://localhost:3000", Some("http://localhost:3000")),
            (&named[..], "http://a.example", None),
            (&named[..], "https://a.example.evil.example", None),
            (&named[..], "https://a.example:444", None),
            (&named[..], "null", None),
            (&["*"][..], "https://a.example", Some("*")),
            (&["https://a.example", "*"][..], "null", Some("*")),
            (&[][..], "https://a.example", None),
        ] {
            let seen = allowed_origin(allowed, origin);
            assert_eq!(
                seen,
                expected.map(|value| AllowedOrigin(HeaderValue::from_str(value).unwrap())),
                "{origin}"
            );
        }
        assert_eq!(
            Cors::new(vec![CorsOrigin::Any]).allowed_origin(CLIENTS, &Request::new(())),
            None,
            "the request has no origin"
        );
    }

    #[test]
    fn fields_of_the_streams_header_set_stay() {
        let origin = "https://a.example";
        let add_to = |given: &[(&'static str, &'static str)]| {
            let lines = given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let mut headers: HeaderMap = lines.collect();
            allowed_origin(&[origin], origin).unwrap().add_to(&mut headers);
            let of = |name: &str| {
                let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
                values.collect::<Vec<_>>().join(" | ")
            };
            [of("vary"), of("access-control-allow-origin"), of("access-control-expose-headers")]
        };
        assert_eq!(add_to(&[]), ["Origin", origin, "*"]);
        let given = [
            ("vary", "Accept, ORIGIN"),
            ("access-control-allow-origin", "https://b.example"),
            ("access-control-expose-headers", "X-A"),
        ];
        assert_eq!(add_to(&given), ["Accept, ORIGIN", "https://b.example", "X-A"]);
        assert_eq!(add_to(&[("vary", "Accept")])[0], "Accept | Origin");
    }

    /// Whether a request with these fields and this `Host` passes.
    fn passes(allowed: &[&str], route: &Route, host: &str, fields: &[(&str, &str)]) -> bool {
        let cors = Cors::new(allowed.iter().map(|origin| origin.parse().unwrap()).collect());
        let request = Request::builder().header("host", host);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        cors.check(CLIENTS, route, &request.body(()).unwrap()).is_ok()
    }

    fn get() -> Route {
        Route::Destination(StreamName::Id(StreamId::parse("a").unwrap()))
    }

    #[test]
    fn an_origin_is_own_if_its_host_and_port_are() {
        for (host, origin, own) in [
            ("relay.example", "https://relay.example", true),
            ("relay.example", "http://relay.example", true),
            ("Relay.Example", "https://relay.example", true),
            ("relay.example:443", "https://relay.example", true),
            ("relay.example:80", "http://relay.example", true),
            ("localhost:9999", "http://localhost:9999", true),
            ("[::1]:9999", "http://[::1]:9999", true),
            ("relay.example:80", "https://relay.example", false),
            ("relay.example", "https://relay.example:444", false),
            ("localhost:9999", "http://localhost:3000", false),
            ("localhost:9999", "http://127.0.0.1:9999", false),
            ("localhost:9999", "http://localhost", false),
            ("relay.example", "https://evil.example", false),
            ("relay.example", "https://relay.example.evil.example", false),
            ("relay.example", "https://evil.example@other.example", false),
            ("relay.example", "null", false),
            ("relay.example", "", false),
            ("relay.example", "relay.example", false),
            ("relay.example", "file://relay.example", false),
            ("", "https://relay.example", false),
        ] {
            assert_eq!(passes(&[], &Route::Create, host, &[("origin", origin)]), own, "{host} {origin}");
        }
    }

    #[test]
    fn every_value_of_a_repeated_field_counts() {
        let (own, foreign) = (("origin", "http://a"), ("origin", "https://evil.example"));
        let (near, far) = (("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site"));
        let navigates = ("sec-fetch-mode", "navigate");
        for (fields, expected) in [
            (&[own, own][..], true),
            (&[own, foreign], false),
            (&[foreign, own], false),
            (&[near, near], true),
            (&[near, far], false),
            (&[far, near], false),
            (&[near, own, foreign], false),
            (&[far, navigates], true),
            (&[far, far, navigates, navigates], true),
            (&[far, navigates, ("sec-fetch-mode", "no-cors")], false),
            (&[("sec-fetch-site", "same-origin, cross-site")], false),
        ] {
            assert_eq!(passes(&[], &get(), "a", fields), expected, "{fields:?}");
        }
        let allowed = ("origin", "https://app.example");
        for (fields, expected) in [
            (&[allowed][..], true),
            (&[allowed, far], true),
            (&[allowed, foreign], false),
            (&[foreign, allowed], false),
        ] {
            assert_eq!(passes(&["https://app.example"], &get(), "a", fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_get_routes_can_be_navigated_to_from_another_site() {
        let id = || StreamId::parse("a").unwrap();
        let name = || StreamName::Id(id());
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        for (route, expected) in [
            (Route::Destination(name()), true),
            (Route::Status(id()), true),
            (Route::List, true),
            (Route::Metrics, true),
            (Route::Create, false),
            (Route::Source(name()), false),
            (Route::Report(id()), false),
        ] {
            assert_eq!(passes(&[], &route, "a", &link), expected, "{route:?}");
            // Without `navigate` a page gets the response, instead of a user that follows a link.
            assert!(!passes(&[], &route, "a", &[link[0], ("sec-fetch-mode", "no-cors")]), "{route:?}");
            assert!(!passes(&[], &route, "a", &link[..1]), "{route:?}");
            for (destination, is_frame) in
                [("document", false), ("empty", false), ("iframe", true), ("object", true)]
            {
                let fields = [link[0], link[1], ("sec-fetch-dest", destination)];
                assert_eq!(
                    passes(&[], &route, "a", &fields),
                    expected && !is_frame,
                    "{route:?} {destination}"
                );
            }
            assert!(passes(&["*"], &route, "a", &link[..1]), "{route:?}");
            for site in ["same-origin", "same-site", "none"] {
                assert!(passes(&[], &route, "a", &[("sec-fetch-site", site)]), "{route:?} {site}");
            }
        }
    }
}
