//! Pages of other origins: which requests are allowed, and the CORS fields of responses.

use rendezvous_server::config::Token;
use testkit::client::Response;
use testkit::messages::{bearer, request};
use testkit::server::TestServer;
use testkit::settings::with_admin_listener;

/// The CORS fields of a response, sorted: those that begin with `access-control-`, and `vary`.
fn cors_fields(response: &Response) -> Vec<String> {
    let lines = response.head.lines().map(str::to_ascii_lowercase);
    let mut fields: Vec<_> =
        lines.filter(|line| line.starts_with("access-control-") || line.starts_with("vary:")).collect();
    fields.sort();
    fields
}

const PAGE: &str = "Origin: https://a.example\r\n";

async fn start_with_origins(origins: &[&str]) -> TestServer {
    TestServer::start_with(|config| {
        config.cors_origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    })
    .await
}

fn preflight(target: &str, fields: &str) -> String {
    request("OPTIONS", target, &format!("{fields}Access-Control-Request-Method: PUT\r\n"))
}

#[tokio::test]
async fn without_allowed_origins_no_response_has_cors_fields() {
    let server = TestServer::start().await;
    for request in
        [preflight("/stream", PAGE), request("GET", "/ping", PAGE), request("POST", "/stream", PAGE)]
    {
        let response = server.ask(&request).await;
        assert_eq!(response.status == 404, request.starts_with("OPTIONS"), "{response:?}");
        assert_eq!(cors_fields(&response), [""; 0], "{request}");
    }
}

#[tokio::test]
async fn a_preflight_from_an_allowed_origin_lists_what_is_allowed() {
    for (origins, allowed) in [(&["https://a.example", "http://b"][..], "https://a.example"), (&["*"], "*")] {
        let server = start_with_origins(origins).await;
        for target in ["/stream", "/stream/x", "/stream/x/error", "/stream/x/status?y", "/ping", "/readyz"] {
            let fields = format!("{PAGE}Access-Control-Request-Headers: authorization, x-a\r\n");
            let answer = server.ask(preflight(target, &fields)).await;
            assert_eq!((answer.status, answer.body.len(), answer.closes()), (204, 0, false), "{target}");
            assert_eq!(
                cors_fields(&answer),
                [
                    "access-control-allow-headers: authorization, x-a",
                    "access-control-allow-methods: get, head, put, post",
                    &format!("access-control-allow-origin: {allowed}"),
                    "access-control-expose-headers: *",
                    "access-control-max-age: 7200",
                    "vary: origin",
                ],
                "{target}"
            );
        }
        assert_eq!(server.ask(preflight("/nowhere", PAGE)).await.error(), "404 BadRouteError");
        assert_eq!(server.ask(request("OPTIONS", "/stream", PAGE)).await.error(), "404 BadRouteError");
        assert_eq!(server.ask(preflight("/stream", "")).await.error(), "404 BadRouteError");
    }
}

#[tokio::test]
async fn every_response_to_an_allowed_origin_has_cors_fields() {
    let server = TestServer::start_with(|config| {
        config.cors_origins = vec!["https://a.example".parse().unwrap()];
        config.create_token = Token::parse("s3cret-of-makers").ok();
    })
    .await;
    let expected = [
        "access-control-allow-origin: https://a.example",
        "access-control-expose-headers: *",
        "vary: origin",
    ];
    let created =
        server.ask(request("POST", "/stream", &format!("{PAGE}{}", bearer("s3cret-of-makers")))).await;
    let id = created.stream_id();
    let mut destination = server.connect_and_send(request("GET", &format!("/stream/{id}"), PAGE)).await;
    let mut source = server.put(&id, &format!("{PAGE}Content-Length: 2\r\n")).await;
    source.send("hi").await;
    let download = destination.response().await;
    assert_eq!(download.body, b"hi");
    for response in [
        created,
        download,
        source.response().await,
        server.ask(request("GET", "/stream/unknown", PAGE)).await,
        server.ask(request("POST", "/stream", PAGE)).await,
        server.ask(request("GET", "/nowhere", PAGE)).await,
        server.ask(request("GET", &format!("/stream/{id}/status"), PAGE)).await,
    ] {
        assert_eq!(cors_fields(&response), expected, "{response:?}");
    }
    let other_origin = "Origin: https://a.example.evil\r\n";
    for response in [
        server.ask(request("GET", "/ping", "")).await,
        server.ask(request("GET", "/ping", other_origin)).await,
        server.ask(request("GET", "/ping", "Origin: null\r\n")).await,
        server.ask(preflight("/stream", other_origin)).await,
    ] {
        assert_eq!(cors_fields(&response), [""; 0], "{response:?}");
    }
}

#[tokio::test]
async fn cors_fields_set_by_the_creator_are_kept() {
    let server = start_with_origins(&["*"]).await;
    let id = server
        .create_with(
            r#"{"download_headers":{"Access-Control-Allow-Origin":"https://b.example","Vary":"Accept"}}"#,
        )
        .await;
    let mut destination = server.connect_and_send(request("GET", &format!("/stream/{id}"), PAGE)).await;
    let _source = server.put(&id, "").await;
    let download = destination.response().await;
    assert_eq!(
        cors_fields(&download),
        [
            "access-control-allow-origin: https://b.example",
            "access-control-expose-headers: *",
            "vary: accept"
        ]
    );
}

#[tokio::test]
async fn the_admin_listener_sends_no_cors_fields() {
    let server = TestServer::start_with(|config| {
        with_admin_listener(config);
        config.cors_origins = vec!["*".parse().unwrap()];
    })
    .await;
    assert_eq!(cors_fields(&server.ask_admin(request("GET", "/stream", PAGE)).await), [""; 0]);
    assert_eq!(server.ask_admin(preflight("/stream", PAGE)).await.error(), "404 BadRouteError");
}
