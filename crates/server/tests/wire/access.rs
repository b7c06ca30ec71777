//! Authorization by tokens: of streams with split access, and of creation.

use rendezvous_server::config::Token;
use testkit::client::Response;
use testkit::messages::{bearer, request};
use testkit::server::{TestServer, get, post, put_head};

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
pub(crate) async fn verdict(server: &TestServer, request: &str) -> String {
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
    const RETAINED: usize = 2;
    let server = TestServer::start_with(|config| config.max_streams = RETAINED).await;
    let finish = async |stream: &Split| {
        let mut destination = server.connect_and_send(stream.get(&bearer(&stream.down))).await;
        let mut source = server.connect_and_send(stream.put(&bearer(&stream.up)) + "hi").await;
        assert_eq!(destination.response().await.body, b"hi");
        assert_eq!(source.response().await.status, 200);
    };
    let forgotten = Split::new(&server).await;
    finish(&forgotten).await;
    // As many ended streams are retained as there may be others.
    for retained in 1..=RETAINED {
        let status = request("GET", &format!("/stream/{}/status", forgotten.id), &bearer(&forgotten.up));
        assert_eq!(verdict(&server, &status).await, "200", "{retained}");
        finish(&Split::new(&server).await).await;
    }
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
