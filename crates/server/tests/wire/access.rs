//! Authorization: tokens, the list, the admin listener, and CORS.

use rendezvous_server::config::{Config, Token};
use rendezvous_server::internal::DOCUMENT;
use serde_json::Value;
use testkit::client::Response;
use testkit::messages::{bearer, request};
use testkit::server::{TestServer, get, post, put_head};
use testkit::settings::{
    ADMIN_TOKEN, behind_a_proxy, on_all_addresses, with_admin_listener, with_admin_token, with_open_list,
};

const SPLIT: &str = r#"{"access":"split"}"#;

/// A stream with split access: each side has a token.
struct Split {
    id: String,
    up: String,
    down: String,
}

impl Split {
    async fn new(server: &TestServer) -> Self {
        Self::with(server, SPLIT).await
    }

    async fn with(server: &TestServer, body: &str) -> Self {
        let created = server.create_response(body).await;
        let text = |name: &str| created[name].as_str().unwrap().to_owned();
        Self { id: text("stream"), up: text("upload_token"), down: text("download_token") }
    }

    fn path(&self) -> String {
        format!("/stream/{}", self.id)
    }

    fn status(&self) -> String {
        format!("{}/status?token={}", self.path(), self.up)
    }

    fn get(&self, fields: &str) -> String {
        request("GET", &self.path(), fields)
    }

    /// The head of a PUT of two bytes.
    fn put(&self, fields: &str) -> String {
        put_head(&self.id, &format!("{fields}Content-Length: 2\r\n"))
    }
}

/// The response in short: the status, and the name of an error unless the response is to HEAD.
async fn verdict(server: &TestServer, request: &str) -> String {
    let mut client = server.connect_and_send(request).await;
    if request.starts_with("HEAD ") {
        return client.head().await.unwrap()[9..12].to_owned();
    }
    let response = client.response().await;
    if response.status == 401 {
        assert_eq!(response.fields("www-authenticate"), ["Bearer"], "{response:?}");
    }
    if response.status < 400 { response.status.to_string() } else { response.error() }
}

#[tokio::test]
async fn a_stream_with_split_access_has_a_token_for_each_side() {
    let server = TestServer::start().await;
    let response = server.post("/stream", SPLIT).await;
    let created = response.json();
    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    let (up, down) = (text("upload_token"), text("download_token"));
    assert_eq!(
        String::from_utf8(response.body).unwrap(),
        format!(r#"{{"stream":"{}","upload_token":"{up}","download_token":"{down}"}}"#, text("stream"))
    );
    assert_ne!(up, down);
    for token in [up, down] {
        assert!(token.len() >= 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    }
}

#[tokio::test]
async fn access_accepts_split_or_nothing() {
    let server = TestServer::start().await;
    for access in ["\"open\"", "\"Split\"", "\"\"", "true", "false", "0", "[\"split\"]", "{}"] {
        let refused = server.post("/stream", format!(r#"{{"access":{access}}}"#)).await;
        assert_eq!(refused.error(), "400 InvalidBodyError", "{access}");
        assert!(refused.message().contains("must be \"split\" or absent"), "{access}");
    }
    for body in ["", "{}", r#"{"access":null}"#] {
        let created = server.create_response(body).await;
        assert_eq!(created.as_object().unwrap().keys().collect::<Vec<_>>(), ["stream"], "{body}");
    }
}

#[tokio::test]
async fn every_route_of_a_split_stream_needs_one_of_its_own_tokens() {
    let server = TestServer::start().await;
    let stream = Split::new(&server).await;
    let other = Split::new(&server).await;
    let (path, error, status) =
        (stream.path(), format!("{}/error", stream.path()), format!("{}/status", stream.path()));
    let routes = [("PUT", &path), ("GET", &path), ("HEAD", &path), ("POST", &error), ("GET", &status)];
    for (method, target) in routes {
        let mut wrong = vec!["x", &other.up, &other.down, &stream.id, &stream.up[1..]];
        match (method, target == &path) {
            ("PUT", _) => wrong.push(&stream.down),
            ("GET", true) => wrong.push(&stream.up),
            _ => {}
        }
        let mut cases = vec![
            ("401 UnauthorizedError", request(method, target, "")),
            ("401 UnauthorizedError", request(method, target, "Authorization: Basic eDp5\r\n")),
            ("401 UnauthorizedError", request(method, target, &format!("Authorization: {}\r\n", stream.up))),
            ("401 UnauthorizedError", request(method, target, "Authorization: Bearer\r\n")),
            ("401 UnauthorizedError", request(method, &format!("{target}?token="), "")),
            ("401 UnauthorizedError", request(method, &format!("{target}?tok={}", stream.up), "")),
        ];
        for token in wrong {
            cases.push(("403 ForbiddenError", request(method, target, &bearer(token))));
            cases.push(("403 ForbiddenError", request(method, &format!("{target}?token={token}"), "")));
            // The header takes precedence over the query, and the first parameter over the second.
            let query = format!("{target}?token={}", if method == "PUT" { &stream.up } else { &stream.down });
            cases.push(("403 ForbiddenError", request(method, &query, &bearer(token))));
            let query = query.replace("token=", &format!("token={token}&token="));
            cases.push(("403 ForbiddenError", request(method, &query, "")));
        }
        for (expected, request) in cases {
            let expected = if method == "HEAD" { &expected[..3] } else { expected };
            assert_eq!(verdict(&server, &request).await, expected, "{request}");
        }
        assert_eq!(server.status_at(&stream.status()).await["state"], "CREATED", "{method} {target}");
    }
    for token in [&stream.up, &stream.down] {
        for (method, target) in [("HEAD", &path), ("GET", &status)] {
            for scheme in ["Bearer", "bearer", "BEARER  "] {
                let request = request(method, target, &format!("Authorization: {scheme} {token}\r\n"));
                assert_eq!(verdict(&server, &request).await, "200", "{request}");
            }
            let request = request(method, &format!("{target}?x&token={token}&y"), "");
            assert_eq!(verdict(&server, &request).await, "200", "{request}");
        }
        let reported = Split::new(&server).await;
        let token = if token == &stream.up { &reported.up } else { &reported.down };
        let target = format!("{}/error", reported.path());
        assert_eq!(verdict(&server, &request("POST", &target, &bearer(token))).await, "200");
        assert_eq!(server.status_at(&reported.status()).await["state"], "CLIENT_ERROR");
    }
}

#[tokio::test]
async fn only_a_refused_put_with_a_body_closes_its_connection() {
    let server = TestServer::start().await;
    let stream = Split::new(&server).await;
    for fields in ["", "Authorization: Bearer x\r\n"] {
        for body in ["", "Content-Length: 3\r\n", "Content-Length: 3\r\nExpect: 100-continue\r\n"] {
            let refused = server.put(&stream.id, &format!("{fields}{body}")).await.response().await;
            assert!(matches!(refused.status, 401 | 403), "{refused:?}");
            assert_eq!(refused.closes(), !body.is_empty(), "{refused:?}");
        }
        let mut client = server.connect().await;
        for target in [stream.path(), format!("{}/status", stream.path())] {
            client.send(request("GET", &target, fields)).await;
            let refused = client.response().await;
            assert!(matches!(refused.status, 401 | 403) && !refused.closes(), "{refused:?}");
        }
        let report = format!("{fields}Content-Length: 2\r\n");
        client.send(request("POST", &format!("{}/error", stream.path()), &report) + "{}").await;
        assert!(matches!(client.response().await.status, 401 | 403));
        client.send(get("/ping")).await;
        assert_eq!(client.response().await.body, b"pong");
    }
}

#[tokio::test]
async fn a_split_stream_accepts_its_tokens_in_the_header_and_in_the_query() {
    let server = TestServer::start().await;
    for source_first in [true, false] {
        for (by_header_up, by_header_down) in [(true, true), (true, false), (false, true), (false, false)] {
            let stream = Split::new(&server).await;
            let side = |method: &str, by_header: bool, token: &str, fields: &str| {
                if by_header {
                    request(method, &stream.path(), &format!("{}{fields}", bearer(token)))
                } else {
                    request(method, &format!("{}?token={token}", stream.path()), fields)
                }
            };
            let put = side("PUT", by_header_up, &stream.up, "Content-Length: 5\r\n") + "hello";
            let get = side("GET", by_header_down, &stream.down, "");
            let (first, second) = if source_first { (&put, &get) } else { (&get, &put) };
            let first = server.connect_and_send(first).await;
            let state = if source_first { "SRC_CONNECTED" } else { "DST_CONNECTED" };
            server.until_at(&stream.status(), state).await;
            let second = server.connect_and_send(second).await;
            let (mut source, mut destination) = if source_first { (first, second) } else { (second, first) };
            assert_eq!(destination.response().await.body, b"hello");
            assert_eq!(source.response().await.status, 200);
            assert_eq!(server.until_at(&stream.status(), "FINISHED").await["bytes_transferred"], 5);
        }
    }
}

#[tokio::test]
async fn a_refused_request_affects_no_waiting_or_streaming_side() {
    let server = TestServer::start().await;
    let stream = Split::with(&server, r#"{"access":"split","download_headers":{"Content-Length":2}}"#).await;
    // The authorization is checked before everything else that would refuse these requests.
    let intrude = async |state: &str| {
        let longer = put_head(&stream.id, "Content-Length: 3\r\n");
        let part = stream.put("Content-Range: bytes 0-1/2\r\n");
        let report = request("POST", &format!("{}/error", stream.path()), "Content-Length: 1\r\n") + "{";
        for (expected, request) in [
            ("401 UnauthorizedError", stream.get("")),
            ("401 UnauthorizedError", stream.put("")),
            ("401 UnauthorizedError", longer),
            ("401 UnauthorizedError", part),
            ("401 UnauthorizedError", report),
            ("403 ForbiddenError", stream.get(&bearer(&stream.up))),
            ("403 ForbiddenError", stream.put(&bearer(&stream.down))),
        ] {
            assert_eq!(verdict(&server, &request).await, expected, "{state}: {request}");
        }
        assert_eq!(server.status_at(&stream.status()).await["state"], state);
    };
    intrude("CREATED").await;
    let leaving = server.connect_and_send(stream.put(&bearer(&stream.up))).await;
    server.until_at(&stream.status(), "SRC_CONNECTED").await;
    intrude("SRC_CONNECTED").await;
    leaving.reset();
    server.until_at(&stream.status(), "CREATED").await;
    let mut destination = server.connect_and_send(stream.get(&bearer(&stream.down))).await;
    server.until_at(&stream.status(), "DST_CONNECTED").await;
    intrude("DST_CONNECTED").await;
    assert_eq!(verdict(&server, &stream.get(&bearer(&stream.down))).await, "429 AlreadyConnectedError");
    let longer = put_head(&stream.id, &format!("{}Content-Length: 3\r\n", bearer(&stream.up)));
    assert_eq!(verdict(&server, &longer).await, "400 LengthMismatchError");
    let mut source = server.connect_and_send(stream.put(&bearer(&stream.up))).await;
    server.until_at(&stream.status(), "STREAMING").await;
    intrude("STREAMING").await;
    source.send("hi").await;
    assert_eq!(destination.response().await.body, b"hi");
    assert_eq!(source.response().await.status, 200);
    intrude("FINISHED").await;
    assert_eq!(verdict(&server, &stream.get(&bearer(&stream.down))).await, "404 SessionNotFoundError");
}

#[tokio::test]
async fn an_unknown_or_forgotten_stream_is_404_with_any_token() {
    let server = TestServer::start_with(|config| config.max_streams = 1).await;
    let finish = async |stream: &Split| {
        let mut destination = server.connect_and_send(stream.get(&bearer(&stream.down))).await;
        let mut source = server.connect_and_send(stream.put(&bearer(&stream.up)) + "hi").await;
        assert_eq!(destination.response().await.body, b"hi");
        assert_eq!(source.response().await.status, 200);
    };
    let forgotten = Split::new(&server).await;
    finish(&forgotten).await;
    // With `max_streams` of 1, only one ended stream is retained.
    finish(&Split::new(&server).await).await;
    for fields in [String::new(), bearer("x"), bearer(&forgotten.up)] {
        for id in ["unknown", &forgotten.id] {
            for (method, rest) in [("GET", ""), ("PUT", ""), ("POST", "/error"), ("GET", "/status")] {
                let request = request(method, &format!("/stream/{id}{rest}"), &fields);
                assert_eq!(verdict(&server, &request).await, "404 SessionNotFoundError", "{request}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_without_tokens_ignores_them() {
    let server = TestServer::start().await;
    for fields in ["Authorization: Bearer x\r\n", "Authorization: Basic eDp5\r\n", "Authorization: \r\n"] {
        let id = server.create().await;
        let path = format!("/stream/{id}");
        let mut destination = server.connect_and_send(request("GET", &path, fields)).await;
        server.until(&id, "DST_CONNECTED").await;
        assert_eq!(verdict(&server, &request("GET", &path, fields)).await, "429 AlreadyConnectedError");
        assert_eq!(verdict(&server, &request("HEAD", &format!("{path}?token=x"), fields)).await, "200");
        let mut source = server.put(&id, &format!("{fields}Content-Length: 2\r\n")).await;
        source.send("hi").await;
        assert_eq!(destination.response().await.body, b"hi");
        assert_eq!(source.response().await.status, 200);
    }
}

#[tokio::test]
async fn tokens_are_returned_to_the_creator_only() {
    let server = TestServer::start().await;
    let stream = Split::new(&server).await;
    let shown = |response: &Response| format!("{}{}", response.head, String::from_utf8_lossy(&response.body));
    let mut destination = server.connect_and_send(stream.get(&bearer(&stream.down))).await;
    server.until_at(&stream.status(), "DST_CONNECTED").await;
    let mut responses = vec![
        server.ask(get("/stream")).await,
        server.ask(get(&stream.status())).await,
        server.ask(stream.get(&bearer(&stream.down))).await,
        server.ask(stream.get(&bearer(&stream.up))).await,
        server.ask(stream.put(&bearer(&stream.down))).await,
    ];
    let mut source = server.connect_and_send(stream.put(&bearer(&stream.up)) + "hi").await;
    responses.push(destination.response().await);
    responses.push(source.response().await);
    responses.push(server.ask(get("/stream")).await);
    for response in responses {
        let shown = shown(&response);
        assert!(!shown.contains(&stream.up) && !shown.contains(&stream.down), "{shown}");
    }
}

#[tokio::test]
async fn with_a_create_token_creation_requires_it() {
    let server =
        TestServer::start_with(|config| config.create_token = Token::parse("s3cret/+=of-makers=").ok()).await;
    let with_body = |fields: &str, body: &str| {
        request("POST", "/stream", &format!("{fields}Content-Length: {}\r\n", body.len())) + body
    };
    for (fields, expected) in [
        ("", "401 UnauthorizedError"),
        ("Authorization: Basic s3cret/+=of-makers=\r\n", "401 UnauthorizedError"),
        ("Authorization: Bearer s3cret/+=of-makers\r\n", "403 ForbiddenError"),
        ("Authorization: Bearer s3cret/+=of-makers=\r\n", "201"),
    ] {
        assert_eq!(verdict(&server, &request("POST", "/stream", fields)).await, expected, "{fields}");
        assert_eq!(verdict(&server, &request("POST", "/stream/", fields)).await, expected, "{fields}");
        assert_eq!(verdict(&server, &with_body(fields, SPLIT)).await, expected, "{fields}");
        // Without authorization, the body is not parsed.
        let expected = if expected == "201" { "400 InvalidBodyError" } else { expected };
        assert_eq!(verdict(&server, &with_body(fields, "not JSON")).await, expected, "{fields}");
    }
    assert_eq!(verdict(&server, &request("POST", "/stream?token=s3cret/+=of-makers=", "")).await, "201");
    assert_eq!(
        verdict(&server, &request("POST", "/stream?token=s3cret/+=of-makers", "")).await,
        "403 ForbiddenError"
    );

    // The connection stays open, and the stream needs no further token.
    let mut client = server
        .connect_and_send([post("/stream", "{}"), request("POST", "/stream", "").into()].concat())
        .await;
    for _ in 0..2 {
        let refused = client.response().await;
        assert_eq!((refused.error().as_str(), refused.closes()), ("401 UnauthorizedError", false));
    }
    client.send(request("POST", "/stream", &bearer("s3cret/+=of-makers="))).await;
    let id = client.response().await.stream_id();
    assert_eq!(server.status(&id).await["state"], "CREATED");
}

type Adjust<'a> = &'a dyn Fn(&mut Config);

#[tokio::test]
async fn the_list_is_served_to_loopback_or_as_the_flags_allow() {
    let (unauthorized, forbidden) = ("401 UnauthorizedError", "403 ForbiddenError");
    // Behind a proxy, a connection from loopback may be that of any client.
    let cases: [(&str, &[Adjust], [&str; 3]); 9] = [
        ("loopback", &[], ["200", "200", "200"]),
        ("loopback, token", &[&with_admin_token], [unauthorized, forbidden, "200"]),
        ("loopback, token, open", &[&with_admin_token, &with_open_list], [unauthorized, forbidden, "200"]),
        ("behind a proxy", &[&behind_a_proxy], [forbidden, forbidden, forbidden]),
        ("behind a proxy, token", &[&behind_a_proxy, &with_admin_token], [unauthorized, forbidden, "200"]),
        ("behind a proxy, open", &[&behind_a_proxy, &with_open_list], ["200", "200", "200"]),
        ("all addresses", &[&on_all_addresses], [forbidden, forbidden, forbidden]),
        ("all addresses, token", &[&on_all_addresses, &with_admin_token], [unauthorized, forbidden, "200"]),
        ("all addresses, open", &[&on_all_addresses, &with_open_list], ["200", "200", "200"]),
    ];
    for (case, adjusts, expected) in cases {
        let server = TestServer::start_with(|config| adjusts.iter().for_each(|adjust| adjust(config))).await;
        for (given, expected) in ["", "wrong", ADMIN_TOKEN].into_iter().zip(expected) {
            let fields = if given.is_empty() { String::new() } else { bearer(given) };
            assert_eq!(
                verdict(&server, &request("GET", "/stream", &fields)).await,
                expected,
                "{case}: {given}"
            );
            assert_eq!(verdict(&server, &request("HEAD", "/stream", &fields)).await, expected[..3], "{case}");
            let query = format!("/stream?token={given}");
            assert_eq!(verdict(&server, &get(&query)).await, expected, "{case}: {given}");
        }
        // The other routes need no token.
        let id = server.create().await;
        assert_eq!(server.status(&id).await["state"], "CREATED", "{case}");
        assert_eq!(server.ask(get("/healthz")).await.body, b"ok", "{case}");
    }
    let server = TestServer::start_with(on_all_addresses).await;
    let message = server.ask(get("/stream")).await.message();
    assert!(message.contains("--admin-token-file") && message.contains("--open-list"), "{message}");
}

#[tokio::test]
async fn health_and_readiness_are_plain_text() {
    let server = TestServer::start().await;
    for (target, text) in [("/healthz", "ok"), ("/readyz", "ready"), ("/readyz/?x", "ready")] {
        let response = server.ask(get(target)).await;
        assert_eq!((response.status, response.body.as_slice()), (200, text.as_bytes()), "{target}");
        assert_eq!(response.fields("content-type"), ["text/plain; charset=utf-8"]);
        assert_eq!(verdict(&server, &request("HEAD", target, "")).await, "200", "{target}");
        assert_eq!(verdict(&server, &request("POST", target, "")).await, "404 BadRouteError", "{target}");
    }
}

#[tokio::test]
async fn the_api_description_is_public_on_every_listener() {
    let server = TestServer::start_with(|config| {
        with_admin_listener(config);
        with_admin_token(config);
        config.create_token = Token::parse("create-16-bytes-x").ok();
    })
    .await;
    for target in ["/openapi.json", "/openapi.json/?x"] {
        for response in [server.ask(get(target)).await, server.ask_admin(get(target)).await] {
            assert_eq!(
                (response.status, response.fields("content-type")),
                (200, vec!["application/json"]),
                "{target}"
            );
            assert_eq!(response.body, DOCUMENT.as_bytes(), "{target}");
        }
        assert_eq!(verdict(&server, &request("HEAD", target, "")).await, "200", "{target}");
        assert_eq!(verdict(&server, &request("POST", target, "")).await, "404 BadRouteError", "{target}");
    }
}

#[tokio::test]
async fn operator_routes_move_to_the_admin_listener_which_serves_no_others() {
    let server = TestServer::start_with(with_admin_listener).await;
    let id = server.create().await;
    let (path, status, error) =
        (format!("/stream/{id}"), format!("/stream/{id}/status"), format!("/stream/{id}/error"));
    for (method, target) in [("GET", "/stream"), ("GET", "/healthz"), ("GET", "/readyz")] {
        assert_eq!(server.ask_admin(request(method, target, "")).await.status, 200, "{target}");
        assert_eq!(verdict(&server, &request(method, target, "")).await, "404 BadRouteError", "{target}");
    }
    for (method, target) in [
        ("POST", "/stream"),
        ("PUT", &path),
        ("GET", &path),
        ("GET", &status),
        ("POST", &error),
        ("OPTIONS", "/stream"),
        ("GET", "/metricsx"),
    ] {
        let refused = server.ask_admin(request(method, target, "")).await;
        assert_eq!(refused.error(), "404 BadRouteError", "{method} {target}");
    }
    assert_eq!(server.ask(get("/ping")).await.body, b"pong");
    assert_eq!(server.ask_admin(get("/ping")).await.body, b"pong");
    let list = server.ask_admin(get("/stream")).await.json();
    assert_eq!((&list[0]["id"], &list[0]["state"]), (&Value::from(id), &"CREATED".into()));
}

#[tokio::test]
async fn a_reachable_admin_listener_without_a_token_serves_health_and_metrics_but_no_list() {
    let reachable = |config: &mut Config| config.admin_listen = Some("0.0.0.0:0".parse().unwrap());
    let (forbidden, unauthorized) = ("403 ForbiddenError", "401 UnauthorizedError");
    let cases: [(&str, &[Adjust], [&str; 2]); 7] = [
        ("loopback", &[&with_admin_listener], ["200", "200"]),
        ("loopback, with a proxy", &[&with_admin_listener, &behind_a_proxy], ["200", "200"]),
        ("loopback, token", &[&with_admin_listener, &with_admin_token], [unauthorized, unauthorized]),
        ("reachable", &[&reachable], [forbidden, "200"]),
        ("reachable, with a proxy", &[&reachable, &behind_a_proxy], [forbidden, "200"]),
        ("reachable, open", &[&reachable, &with_open_list], ["200", "200"]),
        (
            "reachable, token, open",
            &[&reachable, &with_admin_token, &with_open_list],
            [unauthorized, unauthorized],
        ),
    ];
    let verdict = |response: Response| {
        if response.status == 200 { "200".to_owned() } else { response.error() }
    };
    for (case, adjusts, expected) in cases {
        let server = TestServer::start_with(|config| adjusts.iter().for_each(|adjust| adjust(config))).await;
        for (target, expected) in ["/stream", "/metrics"].into_iter().zip(expected) {
            assert_eq!(verdict(server.ask_admin(get(target)).await), expected, "{case}: {target}");
            if expected == unauthorized {
                let wrong = server.ask_admin(get(&format!("{target}?token=x"))).await;
                assert_eq!(wrong.error(), forbidden, "{case}: {target}");
                let right = server.ask_admin(request("GET", target, &bearer(ADMIN_TOKEN))).await;
                assert_eq!(right.status, 200, "{case}: {target}");
            }
        }
        for probe in ["/healthz", "/readyz", "/ping"] {
            assert_eq!(server.ask_admin(get(probe)).await.status, 200, "{case}: {probe}");
        }
    }
}

#[tokio::test]
async fn a_draining_server_reports_not_ready_until_it_ends() {
    let mut server = TestServer::start_with(with_admin_listener).await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 2\r\n").await;
    server.until(&id, "STREAMING").await;
    assert_eq!(server.ask_admin(get("/readyz")).await.body, b"ready");
    server.stop().await;
    let refused = server.ask_admin(get("/readyz")).await;
    assert_eq!(refused.error(), "503 ShuttingDownError");
    assert_eq!(refused.fields("retry-after").len(), 1);
    assert_eq!(server.ask_admin(get("/healthz")).await.body, b"ok");
    assert_eq!(server.ask_admin(get("/stream")).await.json()[0]["state"], "STREAMING");
    source.send("hi").await;
    assert_eq!(destination.response().await.body, b"hi");
    assert_eq!(source.response().await.status, 200);
    server.ended().await;
}

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
