//! Sides that leave, break HTTP, or are told that nothing comes.

use crate::play::same;

/// A pair; half of its body; the rest.
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

/// With each framing, before the first byte and behind it.
fn begun() -> impl Iterator<Item = String> {
    FRAMINGS.iter().flat_map(|(pair, half, _)| [(*pair).to_owned(), format!("{pair} | {half} | passed 4")])
}

#[tokio::test]
async fn sources_that_leave() {
    for leaves in ["close | D answer", "reset | D answer", "half-close | both"] {
        same(begun().map(|begun| format!("{begun} | S {leaves} | until SRC_DISCONNECTED"))).await;
    }
    for leaves in ["close", "reset"] {
        same(FRAMINGS.iter().map(|(pair, half, _)| {
            format!("{pair} | {half} | S {leaves} | D answer | until SRC_DISCONNECTED | racy")
        }))
        .await;
        same(FRAMINGS.iter().map(|(pair, half, rest)| {
            format!("{pair} | {half} | {rest} | D answer | S {leaves} | until FINISHED")
        }))
        .await;
    }
}

#[tokio::test]
async fn destinations_that_leave() {
    for leaves in ["close", "reset", "half-close | D answer"] {
        same(begun().map(|begun| format!("{begun} | D {leaves} | S answer | until DST_DISCONNECTED"))).await;
    }
    let expects = "get | until DST_CONNECTED | put Expect: 100-continue";
    same([
        format!("{} | S> half | passed 4 | D close | S> nonsense | S answer | racy", FRAMINGS[0].0),
        format!("{expects} ~ Content-Length: 9 | until STREAMING | D close | S answer"),
        format!("{expects} ~ Transfer-Encoding: chunked | until STREAMING | D close | S answer"),
    ])
    .await;
}

#[tokio::test]
async fn sources_that_close_their_sending_side_behind_a_whole_body() {
    for body in ["put Content-Length: 2 | S> hi", "put Transfer-Encoding: chunked | S> 2\r\nhi\r\n0\r\n\r\n"]
    {
        same([
            format!("get | until DST_CONNECTED | {body} | S half-close | both"),
            // The server asks by a 100 whether it is still there.
            format!("{body} | until SRC_CONNECTED | S half-close | S 100 | get | both"),
        ])
        .await;
    }
}

#[tokio::test]
async fn sides_that_leave_while_they_wait_and_come_again() {
    let puts =
        ["Content-Length: 2", "Transfer-Encoding: chunked", "Content-Length: 2 ~ Expect: 100-continue"];
    same(puts.iter().flat_map(|put| {
        ["close", "reset", "half-close | S close"].map(|leaves| {
            let left = format!("put {put} | until SRC_CONNECTED | S {leaves} | until CREATED");
            format!("{left} | put Content-Length: 2 | S> hi | until SRC_CONNECTED | get | both")
        })
    }))
    .await;
    same(["close", "reset"].iter().flat_map(|leaves| {
        let gets = format!("get | until DST_CONNECTED | D {leaves} | until CREATED | get | until DST_CONNECTED");
        [
            // Nothing of the first upload comes out of the second.
            format!("put Content-Length: 4 | S> half | until SRC_CONNECTED | S {leaves} | until CREATED | {gets} | put Content-Length: 2 | S> hi | both"),
            // A body that is there as a whole.
            format!("put Content-Length: 2 | S> hi | until SRC_CONNECTED | S {leaves} | until CREATED"),
        ]
    }))
    .await;
    same(["get | until DST_CONNECTED | D half-close | until CREATED | D answer"]).await;
}

#[tokio::test]
async fn reports_to_a_side_that_waits() {
    let reports =
        [r#"{"http_status":404,"name":"N","message":"m \u00e9"}"#, r#"{"http_status":599}"#, "{}", "", "[]"];
    for json in reports {
        let length = json.len();
        let report = format!(
            "O> POST /stream/{{id}}/error HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{json} | O answer"
        );
        let (told, sent) =
            if length < 2 || json == "[]" { ("put | both", "get | both") } else { ("D answer", "S answer") };
        same([
            format!("get | until DST_CONNECTED | {report} | {told}"),
            format!("get10 | until DST_CONNECTED | {report} | {told}"),
            format!("put Content-Length: 4 | S> half | until SRC_CONNECTED | {report} | {sent}"),
            format!("{report} | get | {told}"),
            format!("{report} | put Content-Length: 0 | {sent}"),
            format!("{PAIR} | {report} | S> 0\r\n\r\n | both"),
        ])
        .await;
    }
}

async fn chunks<S: std::fmt::Display>(bodies: impl IntoIterator<Item = S>) {
    same(bodies.into_iter().map(|body| format!("{PAIR} | S> {body} | both | racy"))).await;
}

#[tokio::test]
async fn chunks_that_are_none() {
    let starts = "zz\r\nabc\r\n|-1\r\n|0x5\r\nhello|;a\r\n|\r\n|5\nhello| 5\r\nhello|5;a\nhello|5\rhello|10000000000000000\r\n";
    chunks(starts.split('|')).await;
    chunks(["3\r\nabcX", "3\r\nabc\r\nzz\r\n", "5\r\nhello!\r\n"]).await;
    let behind = ["zz\r\n", "5\r\nhello!\r\n", "5\r\nhello\n0\r\n\r\n"];
    same(behind.map(|body| format!("{PAIR} | S> 2\r\nhi\r\n | passed 2 | S> {body} | both | racy"))).await;
}

#[tokio::test]
async fn chunks_that_end_too_early() {
    same(
        ["5", "5\r", "5\r\n", "0\r\n", "0\r\n\r"]
            .map(|body| format!("{PAIR} | S> {body} | S half-close | both")),
    )
    .await;
}

#[tokio::test]
async fn chunk_sizes_with_something_behind_their_space() {
    chunks(["1 5\r\nx\r\n0\r\n\r\n", "1 x\r\nx\r\n0\r\n\r\n"]).await;
}

#[tokio::test]
async fn chunk_sizes_of_many_leading_zeros() {
    chunks(["00000000000000000001\r\nx\r\n0\r\n\r\n"]).await;
}

#[tokio::test]
async fn chunk_extensions_that_are_very_long() {
    chunks([16_000, 17_000].map(|length| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length)))).await;
}

#[tokio::test]
async fn chunk_extensions_that_are_very_many() {
    chunks([400, 5000].map(|count| format!("{}0\r\n\r\n", "1;extension=x\r\nx\r\n".repeat(count)))).await;
    chunks([16_000, 17_000].map(|length| format!("1{}\r\nx\r\n0\r\n\r\n", " ".repeat(length)))).await;
    let (many, too_long) = ("1;e\r\nx\r\n".repeat(5000), "e".repeat(17_000));
    chunks([format!("{many}1;{too_long}\r\nx\r\n0\r\n\r\n")]).await;
}

#[tokio::test]
async fn trailers_that_are_as_long_as_they_may_be() {
    // What counts of a field is not the end of its line.
    for count in [1, 50, 100] {
        let field = format!("X:{}\r\n", "a".repeat(16 * 1024 / count - 2));
        chunks([format!("1\r\nx\r\n0\r\n{}\r\n", field.repeat(count))]).await;
    }
}

#[tokio::test]
async fn trailers_that_are_very_long() {
    chunks([16_000, 17_000].map(|length| format!("1\r\nx\r\n0\r\nX: {}\r\n\r\n", "a".repeat(length)))).await;
}

#[tokio::test]
async fn trailers_that_are_very_many() {
    chunks([99, 101].map(|count| format!("1\r\nx\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(count)))).await;
}

#[tokio::test]
async fn trailers_that_are_no_fields() {
    chunks([
        "0\r\n\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\n: 1\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
    ])
    .await;
}
