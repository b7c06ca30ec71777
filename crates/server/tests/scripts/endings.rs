//! Sides that leave, violate HTTP, or receive a reported error.

use crate::play::assert_recorded;

/// Steps that pair two sides, that send half of a body, and that send the rest.
const FRAMINGS: [(&str, &str, &str); 3] = [
    ("get | until DST_CONNECTED | put Content-Length: 9 | until STREAMING", "S> half", "S>  more"),
    (PAIR, "S> 4\r\nhalf\r\n", "S> 5\r\n more\r\n0\r\n\r\n"),
    (
        "get10 | until DST_CONNECTED | put Transfer-Encoding: chunked | until STREAMING",
        "S> 4\r\nhalf\r\n",
        "S> 5\r\n more\r\n0\r\n\r\n",
    ),
];
const PAIR: &str = "get | until DST_CONNECTED | put Transfer-Encoding: chunked | until STREAMING";

/// Transfers in each framing, before the first byte and after half of the body.
fn begun() -> impl Iterator<Item = String> {
    FRAMINGS.iter().flat_map(|(pair, half, _)| [(*pair).to_owned(), format!("{pair} | {half} | passed 4")])
}

#[tokio::test]
async fn sources_that_leave() {
    let mut scripts = Vec::new();
    for leaves in ["close | D answer", "reset | D answer", "half-close | both"] {
        scripts.extend(begun().map(|begun| format!("{begun} | S {leaves} | until SRC_DISCONNECTED")));
    }
    for (leaves, (pair, half, rest)) in
        ["close", "reset"].iter().flat_map(|leaves| FRAMINGS.map(|framing| (leaves, framing)))
    {
        scripts.push(format!("{pair} | {half} | S {leaves} | D answer | until SRC_DISCONNECTED | racy"));
        scripts.push(format!("{pair} | {half} | {rest} | D answer | S {leaves} | until FINISHED"));
    }
    assert_recorded("sources_that_leave", scripts).await;
}

#[tokio::test]
async fn destinations_that_leave() {
    let mut scripts = Vec::new();
    for leaves in ["close", "reset", "half-close | D answer"] {
        scripts
            .extend(begun().map(|begun| format!("{begun} | D {leaves} | S answer | until DST_DISCONNECTED")));
    }
    let expects = "get | until DST_CONNECTED | put Expect: 100-continue";
    scripts.extend([
        format!("{} | S> half | passed 4 | D close | S> nonsense | S answer | racy", FRAMINGS[0].0),
        format!("{expects} ~ Content-Length: 9 | until STREAMING | D close | S answer"),
        format!("{expects} ~ Transfer-Encoding: chunked | until STREAMING | D close | S answer"),
    ]);
    assert_recorded("destinations_that_leave", scripts).await;
}

#[tokio::test]
async fn sources_that_half_close_after_a_whole_body() {
    let bodies =
        ["put Content-Length: 2 | S> hi", "put Transfer-Encoding: chunked | S> 2\r\nhi\r\n0\r\n\r\n"];
    let scripts = bodies.iter().flat_map(|body| {
        [
            format!("get | until DST_CONNECTED | {body} | S half-close | both"),
            // With a 100, the server checks whether the source is still connected.
            format!("{body} | until SRC_CONNECTED | S half-close | S 100 | get | both"),
        ]
    });
    assert_recorded("sources_that_half_close_after_a_whole_body", scripts).await;
}

#[tokio::test]
async fn sides_that_leave_while_they_wait_and_return() {
    let puts =
        ["Content-Length: 2", "Transfer-Encoding: chunked", "Content-Length: 2 ~ Expect: 100-continue"];
    assert_recorded(
        "sides_that_leave_while_they_wait_and_return",
        puts.iter().flat_map(|put| {
            ["close", "reset", "half-close | S close"].map(|leaves| {
                let left = format!("put {put} | until SRC_CONNECTED | S {leaves} | until CREATED");
                format!("{left} | put Content-Length: 2 | S> hi | until SRC_CONNECTED | get | both")
            })
        }),
    )
    .await;
    assert_recorded("sides_that_leave_in_turn", ["close", "reset"].iter().flat_map(|leaves| {
        let gets = format!("get | until DST_CONNECTED | D {leaves} | until CREATED | get | until DST_CONNECTED");
        [
            // The second download contains nothing of the first upload.
            format!("put Content-Length: 4 | S> half | until SRC_CONNECTED | S {leaves} | until CREATED | {gets} | put Content-Length: 2 | S> hi | both"),
            // The whole body arrives before the source leaves.
            format!("put Content-Length: 2 | S> hi | until SRC_CONNECTED | S {leaves} | until CREATED"),
        ]
    }))
    .await;
    assert_recorded(
        "a_destination_that_half_closes_while_it_waits",
        ["get | until DST_CONNECTED | D half-close | until CREATED | D answer"],
    )
    .await;
}

#[tokio::test]
async fn reported_errors() {
    let reports =
        [r#"{"http_status":404,"name":"N","message":"m \u00e9"}"#, r#"{"http_status":599}"#, "{}", "", "[]"];
    let scripts = reports.iter().flat_map(|json| {
        let length = json.len();
        let report = format!(
            "O> POST /stream/{{id}}/error HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{json} | O answer"
        );
        let (destination_end, source_end) =
            if length < 2 || *json == "[]" { ("put | both", "get | both") } else { ("D answer", "S answer") };
        [
            format!("get | until DST_CONNECTED | {report} | {destination_end}"),
            format!("get10 | until DST_CONNECTED | {report} | {destination_end}"),
            format!("put Content-Length: 4 | S> half | until SRC_CONNECTED | {report} | {source_end}"),
            format!("{report} | get | {destination_end}"),
            format!("{report} | put Content-Length: 0 | {source_end}"),
            format!("{PAIR} | {report} | S> 0\r\n\r\n | both"),
        ]
    });
    assert_recorded("reported_errors", scripts).await;
}

/// A script for each body of a chunked upload.
fn chunks<S: std::fmt::Display>(bodies: impl IntoIterator<Item = S>) -> impl Iterator<Item = String> {
    bodies.into_iter().map(|body| format!("{PAIR} | S> {body} | both | racy"))
}

#[tokio::test]
async fn invalid_chunks() {
    let starts = "zz\r\nabc\r\n|-1\r\n|0x5\r\nhello|;a\r\n|\r\n|5\nhello| 5\r\nhello|5;a\nhello|5\rhello|10000000000000000\r\n";
    let firsts = starts.split('|').chain(["3\r\nabcX", "3\r\nabc\r\nzz\r\n", "5\r\nhello!\r\n"]);
    let later = ["zz\r\n", "5\r\nhello!\r\n", "5\r\nhello\n0\r\n\r\n"]
        .map(|body| format!("{PAIR} | S> 2\r\nhi\r\n | passed 2 | S> {body} | both | racy"));
    assert_recorded("invalid_chunks", chunks(firsts).chain(later)).await;
}

#[tokio::test]
async fn chunks_that_end_too_early() {
    let scripts = ["5", "5\r", "5\r\n", "0\r\n", "0\r\n\r"]
        .map(|body| format!("{PAIR} | S> {body} | S half-close | both"));
    assert_recorded("chunks_that_end_too_early", scripts).await;
}

#[tokio::test]
async fn unusual_chunk_sizes() {
    let bodies = ["1 5\r\nx\r\n0\r\n\r\n", "1 x\r\nx\r\n0\r\n\r\n", "00000000000000000001\r\nx\r\n0\r\n\r\n"];
    assert_recorded("unusual_chunk_sizes", chunks(bodies)).await;
}

#[tokio::test]
async fn long_and_many_chunk_extensions() {
    let long = [16_000, 17_000].map(|length| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length)));
    let many = [400, 5000].map(|count| format!("{}0\r\n\r\n", "1;extension=x\r\nx\r\n".repeat(count)));
    let spaces = [16_000, 17_000].map(|length| format!("1{}\r\nx\r\n0\r\n\r\n", " ".repeat(length)));
    let both = format!("{}1;{}\r\nx\r\n0\r\n\r\n", "1;e\r\nx\r\n".repeat(5000), "e".repeat(17_000));
    let bodies = long.into_iter().chain(many).chain(spaces).chain([both]);
    assert_recorded("long_and_many_chunk_extensions", chunks(bodies)).await;
}

#[tokio::test]
async fn long_and_many_trailers() {
    // The line ends do not count towards the limit.
    let limits = [1, 50, 100].map(|count| {
        let field = format!("X:{}\r\n", "a".repeat(16 * 1024 / count - 2));
        format!("1\r\nx\r\n0\r\n{}\r\n", field.repeat(count))
    });
    let long = [16_000, 17_000].map(|length| format!("1\r\nx\r\n0\r\nX: {}\r\n\r\n", "a".repeat(length)));
    let many = [99, 101].map(|count| format!("1\r\nx\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(count)));
    let bodies = limits.into_iter().chain(long).chain(many);
    assert_recorded("long_and_many_trailers", chunks(bodies)).await;
}

#[tokio::test]
async fn invalid_trailers() {
    let bodies = [
        "0\r\n\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\n: 1\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
    ];
    assert_recorded("invalid_trailers", chunks(bodies)).await;
}
