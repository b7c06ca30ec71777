//! The scripts of each page. Its record is the file of the same name in `records/`.

use rendezvous_server::config::{Config, Period, Size, Token};
use testkit::settings::with_admin_token;

use crate::page;

/// The steps of one request and its response.
fn ask(line: &str, fields: &str, body: &str) -> String {
    format!("O> {line}\r\n{fields}\r\n{body} | O answer")
}

fn plain(method: &str, target: &str) -> String {
    ask(&format!("{method} {target} HTTP/1.1"), "Host: test\r\n", "")
}

fn old(method: &str, target: &str) -> String {
    ask(&format!("{method} {target} HTTP/1.0"), "", "")
}

fn post(target: &str, body: &str) -> String {
    let fields = format!("Host: test\r\nContent-Length: {}\r\n", body.len());
    ask(&format!("POST {target} HTTP/1.1"), &fields, body)
}

fn defaults(_: &mut Config) {}

#[tokio::test]
async fn routes() {
    let mut scripts = Vec::new();
    for target in ["/stream", "/ping", "/ping/?x=1", "/healthz", "/readyz", "/openapi.json", "/nothing"] {
        scripts.extend([plain("GET", target), plain("HEAD", target), old("GET", target)]);
    }
    scripts.extend([plain("DELETE", "/stream"), plain("PUT", "/ping"), plain("OPTIONS", "/stream")]);
    let pipelined = "GET /ping HTTP/1.1\r\nHost: test\r\n\r\n";
    scripts.push(format!("O> {pipelined}{pipelined} | O answer | O answer"));
    page("routes", defaults, &scripts).await;
}

#[tokio::test]
async fn creation() {
    let bodies = [
        "",
        "null",
        "{}",
        r#"{"unknown":[1]}"#,
        r#"{"download_headers":{"X-One":"1"},"upload_headers":null}"#,
        r#"{"access":"split"}"#,
        r#"{"access":"half"}"#,
        r#"{"ttl":90}"#,
        r#"{"ttl":"25h"}"#,
        "[]",
        "{",
        "\"text\"",
        r#"{"download_headers":[]}"#,
        r#"{"download_headers":{"a b":"1"}}"#,
        r#"{"download_headers":{"a":"\n"}}"#,
        r#"{"download_headers":{"a":{}}}"#,
        r#"{"download_headers":{"Connection":"close"}}"#,
        r#"{"download_headers":{"Content-Length":"many"}}"#,
        r#"{"upload_headers":{"Content-Length":"5"}}"#,
    ];
    let mut scripts: Vec<_> = bodies.iter().map(|body| post("/stream", body)).collect();
    scripts.extend([plain("POST", "/stream"), old("POST", "/stream"), plain("POST", "/stream/")]);
    scripts.push(ask("POST /stream HTTP/1.1", "Host: test\r\nContent-Length: 65537\r\n", ""));
    page("creation", defaults, &scripts).await;
}

#[tokio::test]
async fn one_stream() {
    let scripts = [
        plain("GET", "/stream/{id}/status"),
        plain("HEAD", "/stream/{id}/status"),
        plain("HEAD", "{src}"),
        old("HEAD", "{src}"),
        "create {\"download_headers\":{\"X-Down\":1},\"upload_headers\":{\"X-Up\":[\"a\",true]}} | \
         O> GET {src}/status/ HTTP/1.1\r\nHost: test\r\n\r\n | O answer"
            .into(),
        format!("put | until SRC_CONNECTED | {}", plain("GET", "{src}/status")),
        format!("get | until DST_CONNECTED | {}", plain("GET", "{src}/status")),
        format!(
            "put Content-Length: 5 | until SRC_CONNECTED | get | S> he | passed 2 | {}",
            plain("GET", "{src}/status")
        ),
        format!("put | until SRC_CONNECTED | get | both | {}", plain("GET", "{src}/status")),
        format!("put | until SRC_CONNECTED | get | both | {}", plain("HEAD", "{src}")),
        format!(
            "{} | {}",
            post("{src}/error", r#"{"http_status":418,"name":"N","message":"M"}"#),
            plain("GET", "{src}/status")
        ),
    ];
    page("one_stream", defaults, &scripts).await;
}

#[tokio::test]
async fn transfers() {
    let length = "put Content-Length: 5 | until SRC_CONNECTED | get | S> hello | both";
    let chunked =
        "put Transfer-Encoding: chunked | until SRC_CONNECTED | get | S> 5\r\nhello\r\n0\r\n\r\n | both";
    let headers = r#"create {"download_headers":{"X-Down":"1","CONTENT-TYPE":"text/x"},"upload_headers":{"Location":["a","b"]}}"#;
    let promise = r#"create {"download_headers":{"Content-Length":"5"}}"#;
    let scripts = [
        length.into(),
        chunked.into(),
        "get | until DST_CONNECTED | put Content-Length: 5 | S> hello | both".into(),
        "put | until SRC_CONNECTED | get | both".into(),
        "put Content-Length: 0 | until SRC_CONNECTED | get | both".into(),
        "put Transfer-Encoding: chunked | until SRC_CONNECTED | get | S> 0\r\n\r\n | both".into(),
        "put Transfer-Encoding: chunked | until SRC_CONNECTED | get | S> 5;x=y\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n | both".into(),
        "put10 Content-Length: 5 | until SRC_CONNECTED | get | S> hello | both".into(),
        "put Content-Length: 5 | until SRC_CONNECTED | get10 | S> hello | both".into(),
        "put Transfer-Encoding: chunked | until SRC_CONNECTED | get10 | S> 5\r\nhello\r\n0\r\n\r\n | both".into(),
        "put Content-Length: 5 ~ Expect: 100-continue | until SRC_CONNECTED | get | S 100 | S> hello | both".into(),
        "put Content-Length: 5 ~ Content-Type: text/plain ~ Content-Language: en ~ X-Not: passed | until SRC_CONNECTED | get Range: bytes=0-1 | S> hello | both".into(),
        format!("{headers} | {length}"),
        format!("{headers} | {chunked}"),
        format!("{promise} | {length}"),
        format!("{promise} | {chunked}"),
    ];
    page("transfers", defaults, &scripts).await;
}

#[tokio::test]
async fn paths() {
    let get = "D> GET /p/a/b HTTP/1.1\r\nHost: test\r\n\r\n";
    let send =
        |method| format!("S> {method} /p/a%2Fb/ HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    let mut scripts =
        vec![format!("{get} | {} | both", send("PUT")), format!("{} | {get} | both", send("POST"))];
    for target in ["/p/a//b", "/p/%2e%2e", "/p/a%zz", "/p/%00", "/p/", "/p/a?n=2"] {
        scripts.push(plain("GET", target));
    }
    scripts.extend([plain("HEAD", "/p/a"), plain("DELETE", "/p/a"), plain("GET", "/p")]);
    page("paths", defaults, &scripts).await;
    page("paths_turned_off", |config| config.no_paths = true, &[plain("GET", "/p/a"), plain("GET", "/p/")])
        .await;
}

#[tokio::test]
async fn waits() {
    let scripts = ["GET", "PUT"].map(|method| {
        let fields = "Host: test\r\nContent-Length: 0\r\nPrefer: wait=1\r\n";
        ask(&format!("{method} /p/a HTTP/1.1"), fields, "")
    });
    page("waits", defaults, &scripts).await;
}

#[tokio::test]
async fn watching() {
    let with = |target: &str, fields: &str| {
        ask(&format!("GET {target} HTTP/1.1"), &format!("Host: test\r\n{fields}"), "")
    };
    let whole = "put | until SRC_CONNECTED | get | both";
    let scripts = [
        with("{src}/status", "If-None-Match: W/\"1\"\r\nPrefer: wait=1\r\n"),
        with("{src}/status", "If-None-Match: W/\"7\"\r\nPrefer: wait=1\r\n"),
        with("{src}/status", "If-None-Match: W/\"1\"\r\n"),
        format!("{whole} | {}", plain("GET", "{src}/events")),
        format!("{whole} | {}", with("{src}/events", "Last-Event-ID: 4\r\n")),
        format!("{whole} | {}", old("GET", "{src}/events")),
        plain("HEAD", "{src}/events"),
        plain("HEAD", "/events"),
        plain("GET", "/stream/unknown/events"),
    ];
    page("watching", defaults, &scripts).await;
}

#[tokio::test]
async fn failures() {
    let promise = r#"create {"download_headers":{"Content-Length":"5"}}"#;
    let streaming = "until SRC_CONNECTED | get | until STREAMING";
    let report = post("{src}/error", r#"{"http_status":418,"name":"N","message":"M"}"#);
    let scripts = [
        format!("put Content-Length: 5 | {streaming} | S close | D answer"),
        format!("put Content-Length: 5 | {streaming} | S> he | passed 2 | S close | D answer"),
        format!("put Transfer-Encoding: chunked | {streaming} | S> 2\r\nhe\r\n | passed 2 | S close | D answer"),
        format!("put Transfer-Encoding: chunked | {streaming} | S> x\r\n | both"),
        format!("put Content-Length: 5 | {streaming} | S> he | passed 2 | D close | S answer"),
        format!("put Content-Length: 5 | {streaming} | D close | S answer"),
        format!("{promise} | put Content-Length: 6 | S answer"),
        format!("{promise} | put Transfer-Encoding: chunked | {streaming} | S> 4\r\nhell\r\n0\r\n\r\n | S answer"),
        format!("{promise} | put Transfer-Encoding: chunked | {streaming} | S> 6\r\nhello!\r\n0\r\n\r\n | both"),
        "put Content-Length: 5 | until SRC_CONNECTED | O> PUT {src} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n | O answer".into(),
        format!("get | until DST_CONNECTED | {}", plain("GET", "{dst}")),
        format!("put Content-Length: 5 | until SRC_CONNECTED | {report} | S answer"),
        format!("get | until DST_CONNECTED | {report} | D answer"),
        format!("{report} | get | D answer"),
        format!("{report} | put Content-Length: 5 ~ Expect: 100-continue | S answer"),
        format!("get | until DST_CONNECTED | {} | D answer", post("{src}/error", "{}")),
        format!("{report} | {report}"),
        post("{src}/error", ""),
        post("{src}/error", r#"{"http_status":200}"#),
        post("{src}/error", r#"{"name":1}"#),
        post("/stream/unknown/error", "{}"),
        plain("GET", "/stream/unknown"),
        plain("HEAD", "/stream/unknown"),
        old("GET", "/stream/unknown"),
        plain("PUT", "/stream/unknown"),
        plain("GET", "/stream/unknown/status"),
        plain("GET", "/stream/a.b"),
        "put Content-Length: 5 ~ Content-Range: bytes 0-4/5 | S answer".into(),
    ];
    page("failures", defaults, &scripts).await;
}

#[tokio::test]
async fn broken_requests() {
    let head = |fields: &str| ask("GET /ping HTTP/1.1", fields, "");
    let many = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect::<Vec<_>>().concat();
    let scripts = [
        head(""),
        head("Host: a\r\nHost: b\r\n"),
        head("Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n"),
        head("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        head("Host: a\r\nContent-Length: one\r\n"),
        head("Host: a\r\nTransfer-Encoding: gzip\r\n"),
        head("Host: a\r\n folded\r\n"),
        head("Host : a\r\n"),
        head("Host: a\rb\r\n"),
        head("Host: a\nX: b\r\n"),
        head(&format!("Host: a\r\n{many}")),
        head(&format!("Host: a\r\nX-Long: {}\r\n", "x".repeat(17_000))),
        ask("GET /ping HTTP/1.2", "Host: a\r\n", ""),
        ask("GET /ping HTTP/3.0", "Host: a\r\n", ""),
        ask("GET /pi ng HTTP/1.1", "Host: a\r\n", ""),
        ask("nothing", "", ""),
    ];
    page("broken_requests", defaults, &scripts).await;
}

#[tokio::test]
async fn authorization() {
    let adjust = |config: &mut Config| {
        with_admin_token(config);
        config.create_token = Token::parse("secret-16-bytes-x").ok();
        config.cors_origins = vec!["https://app.example".parse().unwrap()];
    };
    let with = |line: &str, fields: &str| ask(line, &format!("Host: test\r\n{fields}"), "");
    let mut scripts = Vec::new();
    for line in ["POST /stream HTTP/1.1", "GET /stream HTTP/1.1"] {
        scripts.extend(["", "Authorization: Bearer wrong\r\n"].map(|fields| with(line, fields)));
    }
    scripts.extend([
        with("POST /stream?token=secret-16-bytes-x HTTP/1.1", ""),
        with("GET /ping HTTP/1.1", "Origin: https://app.example\r\n"),
        with("GET /ping HTTP/1.1", "Origin: https://other.example\r\n"),
        with("GET /nothing HTTP/1.1", "Origin: https://app.example\r\n"),
        with(
            "OPTIONS /stream HTTP/1.1",
            "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n",
        ),
    ]);
    page("authorization", adjust, &scripts).await;

    let scripts = [
        with("POST /stream HTTP/1.1", "Origin: https://other.example\r\n"),
        with("GET /stream HTTP/1.1", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"),
        with("GET /stream HTTP/1.1", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"),
        ask("GET /stream HTTP/1.1", "Host: other.example\r\n", ""),
        with("GET {dst} HTTP/1.1", "Sec-Purpose: prefetch;prerender\r\n"),
        with("GET {dst} HTTP/1.1", "Content-Length: 5\r\n"),
        with("HEAD {dst} HTTP/1.1", "Transfer-Encoding: chunked\r\n"),
    ];
    page("browsers", defaults, &scripts).await;

    let split = r#"create {"access":"split"}"#;
    let scripts = [
        format!("{split} | put Content-Length: 5 | S answer"),
        format!("{split} | put Content-Length: 5 ~ Authorization: Bearer {{down}} | S answer"),
        format!("{split} | get | D answer"),
        format!("{split} | get Authorization: Bearer {{up}} | D answer"),
        format!(
            "{split} | put Content-Length: 5 ~ Authorization: Bearer {{up}} | get Authorization: Bearer {{down}} | \
             S> hello | both"
        ),
    ];
    page("split_access", defaults, &scripts).await;
}

#[tokio::test]
async fn limits() {
    let create = plain("POST", "/stream");
    page("limit_of_streams", |config| config.max_streams = 1, &[create.clone(), create.clone()]).await;
    let adjust = |config: &mut Config| config.clients.max_streams = Some(1);
    page("limit_of_a_client", adjust, &[create.clone(), create]).await;
    let adjust = |config: &mut Config| config.streams.max_bytes = Some(Size::bytes(4));
    let scripts = [
        "put Content-Length: 5 | S answer".into(),
        "put Transfer-Encoding: chunked | until SRC_CONNECTED | get | S> 5\r\nhello\r\n0\r\n\r\n | both"
            .into(),
    ];
    page("limit_of_bytes", adjust, &scripts).await;
}

#[tokio::test]
async fn timeouts() {
    let adjust = |config: &mut Config| config.head_timeout = "100ms".parse().unwrap();
    let scripts = [
        "O> GET /pi | O answer".into(),
        "O> POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n[ | O answer".into(),
    ];
    page("timeouts", adjust, &scripts).await;
    let adjust = |config: &mut Config| config.ttl = Period::from_secs(2);
    let waits = "until SRC_CONNECTED | S answer | ";
    let scripts = [
        format!("put Content-Length: 5 | {waits}{}", plain("GET", "{src}/status")),
        format!("get | until DST_CONNECTED | D answer | {}", plain("GET", "{dst}")),
    ];
    page("expiry", adjust, &scripts).await;
}

#[tokio::test]
async fn metrics() {
    let with = |fields: &str| ask("GET /metrics HTTP/1.1", &format!("Host: test\r\n{fields}"), "");
    let scripts = [with(""), with("Accept: application/openmetrics-text\r\n"), plain("HEAD", "/metrics")];
    page("metrics", defaults, &scripts).await;
}
