//! Requests that browsers send without their users' intent: from pages of other sites, by DNS rebinding, and as prefetches.
//!
//! Each rule is tested over HTTP/1 and HTTP/2.

use rendezvous_server::config::{ClientLimits, Config};
use testkit::client::{End, Response};
use testkit::server::{TestServer, get, put_head};
use testkit::settings::{behind_a_proxy, on_all_addresses, with_admin_listener, with_open_list};

use crate::http2::Http2;

type Fields<'a> = &'a [(&'a str, &'a str)];

const NAVIGATION: Fields = &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")];

/// All protected requests: method, path and body.
fn requests_of(id: &str) -> [(&'static str, String, &'static str); 8] {
    [
        ("POST", "/stream".into(), r#"{"download_headers":{"x":"1"}}"#),
        ("GET", "/stream".into(), ""),
        ("GET", "/".into(), ""),
        ("HEAD", format!("/stream/{id}"), ""),
        ("GET", format!("/stream/{id}"), ""),
        ("PUT", format!("/stream/{id}"), "hi"),
        ("POST", format!("/stream/{id}/error"), "{}"),
        ("GET", format!("/stream/{id}/status"), ""),
    ]
}

/// Sends a request, and returns the status and body of the response.
async fn ask(
    server: &TestServer,
    version: u8,
    (method, path, body): (&str, &str, &str),
    host: &str,
    fields: Fields<'_>,
) -> (u16, String) {
    let length = body.len().to_string();
    let length = [("Content-Length", length.as_str())];
    let fields = [if body.is_empty() { &[] } else { &length[..] }, fields].concat();
    if version == 2 {
        let connection = Http2::connect(server).await;
        let (response, mut send) =
            connection.request_to(&format!("http://{host}{path}"), method, &fields, body.is_empty()).await;
        if !body.is_empty() {
            // This fails where the server has refused the request already.
            let _ = send.send_data(body.to_owned().into(), true);
        }
        let response = crate::http2::response(response).await;
        return (response.status.as_u16(), String::from_utf8(response.body).unwrap());
    }
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields = fields.collect::<Vec<_>>().concat();
    let mut client = server
        .connect_and_send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n{body}"))
        .await;
    let head = client.head().await.unwrap();
    if method == "HEAD" {
        return (head[9..12].parse().unwrap(), String::new());
    }
    let response = client.rest(head).await;
    (response.status, String::from_utf8(response.body).unwrap())
}

/// Asserts that the server refuses all protected requests with `message`, and that they change nothing.
async fn assert_refused(server: &TestServer, host: &str, fields: Fields<'_>, message: &str) {
    for version in [1, 2] {
        let id = server.create().await;
        let before = server.ask(get("/stream")).await.body;
        for (method, path, body) in &requests_of(&id) {
            let (status, text) = ask(server, version, (method, path, body), host, fields).await;
            let case = format!("HTTP/{version} {method} {path} {host} {fields:?}: {text}");
            assert_eq!(status, 403, "{case}");
            assert!(*method == "HEAD" || text.contains(r#""name":"ForbiddenError""#), "{case}");
            assert!(*method == "HEAD" || text.contains(message), "{case}");
        }
        assert_eq!(
            server.ask(get("/stream")).await.body,
            before,
            "no seat is taken, and no stream is created or ended"
        );
    }
}

/// Asserts that the server refuses none of the protected requests.
async fn assert_served(server: &TestServer, host: &str, fields: Fields<'_>) {
    for version in [1, 2] {
        for number in 0..8 {
            // The sides of a stream with a reported error get that error, and do not wait.
            let id = server.create().await;
            let (method, path, body) = &requests_of(&id)[number];
            if matches!(*method, "PUT") || (*method == "GET" && path.ends_with(&id)) {
                server.post(&format!("/stream/{id}/error"), r#"{"http_status":418}"#).await;
            }
            let (status, text) = ask(server, version, (method, path, body), host, fields).await;
            assert!(
                matches!(status, 200 | 201 | 418),
                "HTTP/{version} {method} {path} {host} {fields:?}: {status} {text}"
            );
        }
    }
}

async fn public_routes_answer(server: &TestServer, host: &str, fields: Fields<'_>) {
    for version in [1, 2] {
        for path in ["/ping", "/healthz", "/readyz", "/openapi.json"] {
            let (status, _) = ask(server, version, ("GET", path, ""), host, fields).await;
            assert_eq!(status, 200, "HTTP/{version} {path} {host} {fields:?}");
        }
    }
}

#[tokio::test]
async fn a_loopback_listener_answers_only_to_names_of_this_machine() {
    let server = TestServer::start().await;
    for host in ["evil.example", "evil.example:9999", "localhost.evil.example", "10.0.0.5"] {
        // The request of a page after DNS rebinding: its browser takes the server for the site of the page.
        let origin = format!("http://{host}");
        let fields = [("Origin", origin.as_str()), ("Sec-Fetch-Site", "same-origin")];
        assert_refused(&server, host, &fields, "--allow-host").await;
        assert_refused(&server, host, &[], "--allow-host").await;
        public_routes_answer(&server, host, &fields).await;
    }
    for host in ["localhost", "LocalHost:9999", "a.localhost", "127.0.0.1", "127.8.0.1:1", "[::1]:9999"] {
        assert_served(&server, host, &[]).await;
    }
}

#[tokio::test]
async fn an_allowed_host_name_and_the_listening_host_are_answered() {
    let server = TestServer::start_with(|config| {
        config.allowed_hosts.extend(["relay.example", "10.0.0.5"].map(|name| name.parse().unwrap()));
        config.host = "localhost".into();
    })
    .await;
    for host in ["Relay.example:80", "10.0.0.5"] {
        assert_served(&server, host, &[]).await;
    }
    assert_refused(&server, "other.example", &[], "--allow-host").await;
}

#[tokio::test]
async fn the_host_of_an_absolute_target_is_checked_like_the_host_field() {
    let server = TestServer::start().await;
    for (target, host, status) in [
        ("http://evil.example/stream", "localhost", 403),
        ("http://localhost/stream", "evil.example", 403),
        ("http://localhost/stream", "localhost", 200),
        ("http://127.0.0.1:9/stream", "localhost", 200),
    ] {
        let (actual, text) = ask(&server, 1, ("GET", target, ""), host, &[]).await;
        assert_eq!(actual, status, "{target} {host}: {text}");
    }
    // An HTTP/2 request may have both.
    let rebound = [("Host", "evil.example")];
    assert_eq!(ask(&server, 2, ("GET", "/stream", ""), "localhost", &rebound).await.0, 403);
    // A request without a host is not from a browser.
    assert_eq!(server.ask("GET /stream HTTP/1.0\r\n\r\n").await.status, 200);
    assert_eq!(server.ask("GET /stream HTTP/1.1\r\nHost:\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn any_host_name_is_answered_on_other_addresses_and_behind_a_trusted_proxy() {
    for adjust in [on_all_addresses as fn(&mut Config), behind_a_proxy] {
        let server = TestServer::start_with(|config| {
            adjust(config);
            with_open_list(config);
        })
        .await;
        assert_served(&server, "relay.example", &[]).await;
        assert_served(&server, "relay.example", &[("Origin", "https://relay.example")]).await;
        assert_refused(&server, "relay.example", &[("Origin", "https://evil.example")], "--cors-origin")
            .await;
    }
}

#[tokio::test]
async fn the_admin_listener_has_the_same_rules() {
    let server = TestServer::start_with(with_admin_listener).await;
    let request =
        |path: &str, host: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    for path in ["/stream", "/metrics"] {
        for (host, fields) in [
            ("evil.example", ""),
            ("localhost", "Origin: https://evil.example\r\n"),
            ("localhost", "Sec-Fetch-Site: cross-site\r\n"),
        ] {
            assert_eq!(
                server.ask_admin(request(path, host, fields)).await.error(),
                "403 ForbiddenError",
                "{path} {host} {fields}"
            );
        }
        assert_eq!(server.ask_admin(request(path, "localhost", "")).await.status, 200, "{path}");
    }
    assert_eq!(server.ask_admin(request("/readyz", "evil.example", "")).await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_site_can_neither_change_nor_read_anything() {
    let server = TestServer::start().await;
    for fields in [
        &[("Origin", "https://evil.example")][..],
        &[("Origin", "null")],
        &[("Origin", "")],
        &[("Origin", "http://test:81")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "http://test"), ("Origin", "https://evil.example")],
        &[("Origin", "https://evil.example"), ("Origin", "http://test")],
        // Each field alone is enough for a refusal.
        &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", "http://test"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_refused(&server, "test", fields, "--cors-origin").await;
        public_routes_answer(&server, "test", fields).await;
    }
}

#[tokio::test]
async fn same_origin_pages_and_clients_that_are_not_browsers_are_served() {
    let server = TestServer::start().await;
    for fields in [
        &[][..],
        &[("Origin", "http://test")],
        &[("Origin", "https://test")],
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors"), ("Origin", "http://test")],
        &[("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")],
        &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")],
        &[("Referer", "https://evil.example/")],
    ] {
        assert_served(&server, "test", fields).await;
    }
}

#[tokio::test]
async fn following_a_link_on_another_site_downloads_the_stream() {
    let server = TestServer::start().await;
    for version in [1, 2] {
        let id = server.create().await;
        let mut source = server.put(&id, "Content-Length: 2\r\n").await;
        source.send("hi").await;
        let path = format!("/stream/{id}");
        // A form on that page is refused, because it is not a link.
        for target in ["/stream".to_owned(), format!("{path}/error")] {
            assert_eq!(
                ask(&server, version, ("POST", &target, "{}"), "test", NAVIGATION).await.0,
                403,
                "{target}"
            );
        }
        assert_eq!(ask(&server, version, ("GET", &path, ""), "test", NAVIGATION).await, (200, "hi".into()));
        assert_eq!(source.response().await.status, 200);
        let status = format!("{path}/status");
        assert_eq!(ask(&server, version, ("GET", &status, ""), "test", NAVIGATION).await.0, 200);
    }
}

#[tokio::test]
async fn only_pages_of_allowed_origins_are_served() {
    let far = ("Sec-Fetch-Site", "cross-site");
    let [app, evil] = ["https://app.example", "https://evil.example"].map(|origin| ("Origin", origin));
    for (origins, allowed, refused) in [
        (
            &["https://app.example"][..],
            &[&[app, far][..], &[app]][..],
            &[&[evil, far][..], &[far], &[app, evil], &[evil, app]][..],
        ),
        // Without restrictions, requests without an origin are served as well.
        (&["*"], &[&[app, far], &[evil, far], &[far], &[("Origin", "null"), far]], &[]),
    ] {
        let server = TestServer::start_with(|config| {
            config.cors_origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        })
        .await;
        for fields in allowed {
            assert_served(&server, "test", fields).await;
        }
        for fields in refused {
            assert_refused(&server, "test", fields, "--cors-origin").await;
        }
        // The rule for host names holds for all origins.
        assert_refused(&server, "evil.example", &[app, far], "--allow-host").await;
    }
}

#[tokio::test]
async fn a_refused_request_does_not_count_against_its_address() {
    let server = TestServer::start_with(|config| {
        config.clients = ClientLimits {
            max_creations_per_minute: Some(1),
            max_streams: Some(1),
            ..ClientLimits::default()
        };
    })
    .await;
    for version in [1, 2] {
        for (host, fields) in [
            ("evil.example", &[][..]),
            ("test", &[("Origin", "https://evil.example")]),
            ("test", &[("Sec-Purpose", "prefetch")]),
        ] {
            assert_eq!(ask(&server, version, ("POST", "/stream", ""), host, fields).await.0, 403);
        }
    }
    server.create().await;
}

/// The response to this request with the field line of a prefetch.
async fn prefetch(server: &TestServer, request: &str, field: &str) -> Response {
    server.ask(request.replacen("\r\n", &format!("\r\n{field}\r\n"), 1)).await
}

#[tokio::test]
async fn a_prefetch_takes_no_seat_and_ends_nothing() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let path = format!("/stream/{id}");
    for field in [
        "Sec-Purpose: prefetch",
        "sec-purpose: prefetch;prerender",
        "Sec-Purpose: PREFETCH; anonymous-client-ip",
        "Sec-Purpose: x, prefetch",
        "Sec-Purpose: x\r\nSec-Purpose: prefetch",
        "Purpose: prefetch",
        "X-Moz: prefetch",
    ] {
        for request in [get(&path), put_head(&id, ""), get(&format!("{path}/error")).replace("GET", "POST")] {
            let refused = prefetch(&server, &request, field).await;
            assert_eq!(refused.error(), "403 ForbiddenError", "{field}: {request}");
            assert_eq!(
                refused.fields("cache-control"),
                ["no-store"],
                "{field}: browsers must not show it later"
            );
            assert_eq!(server.status(&id).await["state"], "CREATED", "{field}: {request}");
        }
        for harmless in [format!("{path}/status"), "/stream".into(), "/ping".into()] {
            assert_eq!(prefetch(&server, &get(&harmless), field).await.status, 200, "{field}: {harmless}");
        }
        let refused = ask(
            &server,
            2,
            ("GET", &path, ""),
            "test",
            &[field.split("\r\n").last().unwrap().split_once(": ").unwrap()],
        )
        .await;
        assert_eq!(refused.0, 403, "{field}");
    }
    // A request that is not a prefetch still gets the stream.
    let mut destination =
        server.connect_and_send(get(&path).replacen("\r\n", "\r\nSec-Purpose: x\r\nPurpose: \r\n", 1)).await;
    let mut source = server.put(&id, "Content-Length: 2\r\n").await;
    source.send("hi").await;
    let download = destination.response().await;
    assert_eq!((download.body.as_slice(), download.end), (&b"hi"[..], End::Whole));
}
