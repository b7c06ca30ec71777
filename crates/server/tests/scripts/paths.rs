//! Named paths: whole transfers, rounds over one path, taken seats, sides that leave, and names that are refused.

use crate::play::assert_recorded;

const UPLOADS: [&str; 7] = [
    "put Content-Length: 5 | S> hello",
    "put Transfer-Encoding: chunked | S> 5\r\nhello\r\n0\r\n\r\n",
    "put10 Content-Length: 5 | S> hello",
    "put Content-Length: 0",
    "put",
    "S> POST {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "S> POST {src} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
];
const DOWNLOADS: [&str; 3] = ["get", "get10", "get Connection: close"];

#[tokio::test]
async fn transfers_over_paths() {
    let scripts = UPLOADS.iter().flat_map(|put| {
        DOWNLOADS.iter().flat_map(move |get| {
            [
                format!("path | {put} | until TAKEN | {get} | both | until FREE"),
                format!("path | {get} | until TAKEN | {put} | both | until FREE"),
            ]
        })
    });
    assert_recorded("transfers_over_paths", scripts).await;
}

#[tokio::test]
async fn rounds_over_one_path() {
    let bodies = [
        "put Content-Length: 2 | S> hi",
        "put Transfer-Encoding: chunked | S> 2\r\nhi\r\n0\r\n\r\n",
        "S> POST {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ];
    let scripts = bodies.iter().flat_map(|put| {
        // Each side connects again as soon as it has its response, in the order that the responses end.
        let round = format!("{put} | D answer | get | S answer");
        [
            format!("path | get | until TAKEN | {round} | until TAKEN | {round} | {put} | both"),
            format!("path | get | {put} | both | {put} | get | both | get | {put} | both"),
        ]
    });
    assert_recorded("rounds_over_one_path", scripts).await;
}

#[tokio::test]
async fn expectations_at_paths() {
    let expects = ["Content-Length: 5", "Transfer-Encoding: chunked"]
        .into_iter()
        .zip(["hello", "5\r\nhello\r\n0\r\n\r\n"]);
    let scripts = expects.flat_map(|(framing, body)| {
        let put = format!("put {framing} ~ Expect: 100-continue");
        [
            format!("path | {put} | until TAKEN | get | S 100 | S> {body} | both"),
            format!("path | get | until TAKEN | {put} | S 100 | S> {body} | both"),
        ]
    });
    assert_recorded("expectations_at_paths", scripts).await;
}

#[tokio::test]
async fn taken_seats_of_paths() {
    let put =
        "O> PUT {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n | O answer";
    let post = "O> POST {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nno | O answer";
    let get =
        "O> GET {dst} HTTP/1.1\r\nHost: a\r\n\r\nGET {dst} HTTP/1.1\r\nHost: a\r\n\r\n | O answer | O answer";
    let rest = "S> hi | both | until FREE";
    // The half of the body shows that the sides have paired.
    let pair = "get | until TAKEN | put Content-Length: 4 ~ Expect: 100-continue | S 100";
    let scripts = [put, post].into_iter().flat_map(|put| {
        [
            format!("path | put Content-Length: 2 | until TAKEN | {put} | get | {rest}"),
            format!("path | {pair} | {put} | S> hi | {rest}"),
        ]
    });
    let gets = [
        format!("path | get | until TAKEN | {get} | put Content-Length: 2 | {rest}"),
        format!("path | {pair} | {get} | S> hi | {rest}"),
    ];
    assert_recorded("taken_seats_of_paths", scripts.chain(gets)).await;
}

#[tokio::test]
async fn sides_that_leave_a_path_while_they_wait() {
    let whole = "get | until TAKEN | put Content-Length: 2 | S> hi | both | until FREE";
    let scripts = ["close", "reset", "half-close | S close"].iter().flat_map(|leaves| {
        ["put Content-Length: 4 | S> half", "put Transfer-Encoding: chunked", "put Content-Length: 2 | S> no"]
            .map(|put| format!("path | {put} | until TAKEN | S {leaves} | until FREE | {whole}"))
    });
    let gets = ["close", "reset", "half-close | D answer | D close"]
        .map(|leaves| format!("path | get | until TAKEN | D {leaves} | until FREE | {whole}"));
    let half_closes = UPLOADS[..2]
        .iter()
        .map(|put| format!("path | {put} | until TAKEN | S half-close | S 100 | get | both | until FREE"));
    assert_recorded("sides_that_leave_a_path_while_they_wait", scripts.chain(gets).chain(half_closes)).await;
}

#[tokio::test]
async fn sides_that_leave_a_path_in_mid_body() {
    let mut scripts = Vec::new();
    for get in ["get", "get10"] {
        for (framing, half) in
            [("Content-Length: 9", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")]
        {
            // A 100 shows that the sides have paired.
            let pair = format!("path | {get} | until TAKEN | put {framing} ~ Expect: 100-continue | S 100");
            for leaves in ["S close | D answer", "S reset | D answer", "S half-close | both"] {
                scripts.push(format!("{pair} | {leaves} | until FREE"));
                scripts.push(format!("{pair} | S> {half} | {leaves} | until FREE | racy"));
            }
            for leaves in ["close", "reset"] {
                scripts.push(format!("{pair} | D {leaves} | S answer | until FREE"));
                scripts.push(format!("{pair} | S> {half} | D {leaves} | S answer | until FREE"));
            }
            if framing == "Transfer-Encoding: chunked" {
                scripts.push(format!("{pair} | S> nonsense\r\n | both | until FREE | racy"));
            }
        }
    }
    assert_recorded("sides_that_leave_a_path_in_mid_body", scripts).await;
}

#[tokio::test]
async fn names_of_paths_and_requests_that_are_refused() {
    let long = format!("/p/{}", "a".repeat(513));
    let targets = [
        "/p/",
        "/p",
        "/p//a",
        "/p/a//b",
        "/p/../a",
        "/p/a/%2e%2E",
        "/p/%00",
        "/p/%",
        "/p/%4",
        "/p/a?n=2",
        &long,
    ];
    let lines = targets.iter().flat_map(|target| {
        ["GET", "PUT"].map(|method| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    });
    let others = [
        "DELETE {src} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET {dst} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "PUT {src} HTTP/1.1\r\nHost: a\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nhi",
        "GET {dst} HTTP/1.1\r\nHost: a\r\nSec-Purpose: prefetch\r\n\r\n",
        "GET {dst} HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n\r\n",
        "GET /stream/{id} HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /stream/{id}/error HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    ];
    let heads = lines.chain(others.map(str::to_owned));
    let scripts = heads.map(|head| format!("path | O> {head} | O answer"));
    assert_recorded("names_of_paths_and_requests_that_are_refused", scripts).await;
}
