//! Whole transfers, header sets, refused heads, and requests that are not part of a transfer.

use crate::play::assert_recorded;

/// The head of a source, its body, and whether it waits for a `100 Continue` before the body.
const UPLOADS: [(&str, &str, bool); 18] = [
    ("put Content-Length: 5", "hello", false),
    ("put Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", false),
    ("put Content-Length: 5 ~ Expect: 100-continue", "hello", true),
    ("put10 Content-Length: 5 ~ Expect: 100-continue ~ Connection: keep-alive", "hello", false),
    ("put10", "", false),
    (
        "put Transfer-Encoding: CHUNKED ~ TE: trailers ~ Trailer: X",
        "A;a=b;c=\"d e\"\r\n0123456789\r\n1 \r\nx\r\n00;x\r\nX-T: 1\r\n\r\n",
        false,
    ),
    ("put content-LENGTH:  5  ~ Connection: close", "hello", false),
    ("put Content-Length: 5 ~ Connection: keep-alive, Upgrade ~ Upgrade: x", "hello", false),
    ("put Content-Length: 0", "", false),
    ("put", "", false),
    ("S> PUT {src} HTTP/1.1\r\nHost:\r\n\r\n", "", false),
    ("put Transfer-Encoding: chunked", "0\r\n\r\n", false),
    ("put Content-Length: 5 ~ Expect: 100-Continue", "hello", false),
    ("put Content-Length: 5 ~ Expect: something", "hello", false),
    ("put Transfer-Encoding: chunked ~ Expect: 100-continue", "1\r\nx\r\n0\r\n\r\n", true),
    ("put Transfer-Encoding: chunked ~ Expect: 100-continue", "0\r\n\r\n", true),
    ("put Content-Length: 0 ~ Expect: 100-continue", "", false),
    ("put10 Content-Length: 5", "hello", false),
];

const DOWNLOADS: [&str; 8] = [
    "get",
    "get Connection: close ~ Content-Length: 0",
    "get Connection: Keep-Alive ~ Range: bytes=1-2 ~ TE: trailers ~ If-None-Match: *",
    "get Expect: 100-continue",
    "get10",
    "get10 Host: a ~ Connection: keep-alive",
    "get10 Connection: close",
    "D> GET {dst} HTTP/1.1\r\nHost: a\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[tokio::test]
async fn whole_transfers() {
    let pairs = [(&UPLOADS[..], &DOWNLOADS[..1]), (&UPLOADS[..6], &DOWNLOADS[1..])];
    let scripts = pairs.into_iter().flat_map(|(uploads, downloads)| {
        uploads.iter().flat_map(move |(put, body, waits)| {
            downloads.iter().flat_map(move |get| {
                let (before, after) = if *waits {
                    (String::new(), format!(" | S 100 | S> {body}"))
                } else {
                    (format!(" | S> {body}"), String::new())
                };
                [
                    format!("{put}{before} | until SRC_CONNECTED | {get}{after} | both"),
                    format!("{get} | until DST_CONNECTED | {put}{before}{after} | both"),
                ]
            })
        })
    });
    assert_recorded("whole_transfers", scripts).await;
}

#[tokio::test]
async fn targets_of_other_forms() {
    let forms =
        [("{src}/", "{dst}/"), ("/stream/{id}?a=b", "/stream/{id}/?"), ("/stream/{id}#x", "/stream/{id}/#x")];
    assert_recorded("targets_of_other_forms", forms.map(|(put, get)| {
        let get = format!("D> GET {get} HTTP/1.1\r\nHost: a\r\n\r\n");
        format!("{get} | until DST_CONNECTED | S> PUT {put} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi | both")
    }))
    .await;
}

#[tokio::test]
async fn header_sets_and_passed_headers() {
    let sets = [
        r#"{"download_headers":{"X-oDd":"a","cOnTeNt-TyPe":"text/x","X-Many":["1",2,true],"x-too":["a","b"]},"upload_headers":{"LOCATION":"/x","Set-cookie":["a=1","b=2"],"x":""}}"#,
        r#"{"download_headers":{"CACHE-control":"public","x-Robots-tag":"all","X-A":"1","x-a":"2","Server":"s","X-None":[]},"upload_headers":{"content-type":"text/plain"}}"#,
        r#"{"download_headers":{"Content-Disposition":["attachment","inline"],"Content-Range":"bytes 0-4/5","Content-Encoding":" \t"},"upload_headers":{}}"#,
        r#"{"download_headers":{"content-length":"005"},"upload_headers":null}"#,
    ];
    let passed = "content-TYPE: text/a ~ Content-Type: text/b ~ Content-Encoding: gzip ~ Content-Language: de ~ Repr-Digest: b ~ Content-Disposition: inline; filename=\"\u{e9}\" ~ Content-Digest: a ~ Content-Location: c ~ X-Not: d";
    assert_recorded("header_sets_and_passed_headers", sets.iter().flat_map(|set| {
        [
            format!("create {set} | get | until DST_CONNECTED | put Content-Length: 5 | S> hello | both"),
            format!("create {set} | get | until DST_CONNECTED | put {passed} ~ Content-Length: 5 | S> hello | both"),
            format!("create {set} | put Transfer-Encoding: chunked | until SRC_CONNECTED | get10 | S> 5\r\nhello\r\n0\r\n\r\n | both"),
        ]
    }))
    .await;
}

#[tokio::test]
async fn header_sets_with_a_length() {
    let set = r#"{"download_headers":{"X-A":1,"Content-LENGTH":5,"X-B":2}}"#;
    assert_recorded(
        "header_sets_with_a_length",
        [format!("create {set} | get | until DST_CONNECTED | put Content-Length: 5 | S> hello | both")],
    )
    .await;
}

#[tokio::test]
async fn header_sets_with_a_length_of_zero() {
    let set = r#"{"download_headers":{"x-a":1,"content-length":0,"x-b":2}}"#;
    assert_recorded("header_sets_with_a_length_of_zero", [
        format!("create {set} | get | until DST_CONNECTED | put | both"),
        format!(
            "create {set} | get | until DST_CONNECTED | put Transfer-Encoding: chunked | S> 0\r\n\r\n | both"
        ),
    ])
    .await;
}

#[tokio::test]
async fn promised_lengths_kept_and_broken() {
    let promise = r#"create {"download_headers":{"content-length":5}} | "#;
    let chunked = "get | until DST_CONNECTED | put Transfer-Encoding: chunked";
    assert_recorded("promised_lengths_kept_and_broken", [
        format!("{promise}{chunked} | S> 5\r\nhello\r\n0\r\n\r\n | both"),
        format!("{promise}{chunked} | S> 2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n | both"),
        format!("{promise}{chunked} | S> 0\r\n\r\n | both"),
        format!("{promise}{chunked} | S> 4\r\nhell\r\n | passed 4 | S> 0\r\n\r\n | both"),
        format!("{promise}{chunked} | S> 4\r\nhell\r\n | passed 4 | S> 2\r\noo\r\n0\r\n\r\n | both"),
        format!("{promise}{chunked} | S> 6\r\nhello!\r\n0\r\n\r\n | both | racy"),
        format!("{promise}put | S answer"),
        format!("{promise}put Content-Length: 6 ~ Expect: 100-continue | S answer"),
        format!("{promise}get | until DST_CONNECTED | put Content-Length: 4 | S> hell | S answer | S close | put Content-Length: 5 | S> hello | both"),
    ])
    .await;
}

#[tokio::test]
async fn sides_after_other_requests_on_a_connection() {
    let unknown = "GET /stream/unknown HTTP/1.1\r\nHost: a\r\n\r\n";
    let expects = "PUT {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let exchange = format!("S> {unknown} | S answer | ");
    assert_recorded("sides_after_other_requests_on_a_connection", [
        format!("{exchange}get | until DST_CONNECTED | S> {expects} | S 100 | S> hi | both"),
        format!("D> {unknown}GET {{dst}} HTTP/1.1\r\nHost: a\r\n\r\n | D answer | put Content-Length: 2 | S> hi | both"),
        format!("O> {unknown}{unknown}GET /ping HTTP/1.1\r\nHost: a\r\n\r\n{unknown} | O answer | O answer | O answer | O answer"),
        // After several exchanges the client delays its acknowledgements, so the response before the 100 is not acknowledged when the
        // 100 is due.
        format!("{}get | until DST_CONNECTED | S> {unknown}{expects} | S answer | S 100 | S> hi | both", exchange.repeat(20)),
    ])
    .await;
}

#[tokio::test]
async fn requests_pipelined_after_a_side() {
    let ping = "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = "put Content-Length: 2 | S> hi";
    assert_recorded("requests_pipelined_after_a_side", [
        format!("get | until DST_CONNECTED | {length}{ping} | both"),
        format!("get | until DST_CONNECTED | put Transfer-Encoding: chunked | S> 2\r\nhi\r\n0\r\n\r\n{ping} | both"),
        format!("get | until DST_CONNECTED | D> {ping} | {length} | both"),
        format!("get | until DST_CONNECTED | D> nonsense | {length} | both"),
    ])
    .await;
}

#[tokio::test]
async fn creations() {
    let forms = [
        "POST /stream HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /stream/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Type: application/json\r\n\r\n",
        "POST /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "POST /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "POST /stream?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST http://a/stream HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /stream HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        "POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]",
        "post /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    assert_recorded("creations", forms.iter().flat_map(|form| request(form))).await;
    let (creation, unknown) = (forms[0], "GET /stream/unknown HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_recorded(
        "pipelined_creations",
        [format!("O> {creation}{unknown}{creation}{} | O answer | O answer | O answer | O answer", forms[2])],
    )
    .await;
}

/// The request alone, and between two requests that keep the connection open.
fn request(request: &str) -> [String; 2] {
    let around = "GET /stream/unknown HTTP/1.1\r\nHost: a\r\n\r\n";
    [format!("O> {request} | O answer"), format!("O> {around}{request}{around} | O answer | O answer")]
}

#[tokio::test]
async fn heads_that_are_refused() {
    let fields = [
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length : 3",
        "X: a\r\n b",
        "X: a\nY: b",
        "X: a\rb",
        "X: a\0b",
        "no colon",
        ": no name",
        "Host: b",
        &format!("X: {}", "a".repeat(16 * 1024)),
        &"a: 1\r\n".repeat(100),
    ];
    assert_recorded(
        "heads_that_are_refused",
        fields
            .iter()
            .flat_map(|field| request(&format!("PUT {{src}} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\nabc"))),
    )
    .await;
    let heads = [
        "GET {dst} HTTP/1.1\r\n\r\n",
        "GET {dst} HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET {dst} HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
        "GET {dst} HTTP/1.1\nHost: a\n\n",
        "PUT {src} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET {dst} HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET {dst}\r\nHost: a\r\n\r\n",
        "GET  {dst} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        " x",
    ];
    assert_recorded("request_lines_that_are_refused", heads.iter().flat_map(|head| request(head))).await;
}

#[tokio::test]
async fn heads_at_the_limits() {
    let fields = [format!("X: {}", "a".repeat(16_000)), vec!["a: 1"; 98].join(" ~ ")];
    let script = |fields| {
        format!("get {fields} | until DST_CONNECTED | put {fields} ~ Content-Length: 2 | S> hi | both")
    };
    assert_recorded("heads_at_the_limits", fields.map(script)).await;
}

#[tokio::test]
async fn the_largest_content_length() {
    assert_recorded("the_largest_content_length", ["get | until DST_CONNECTED | put Content-Length: 18446744073709551615 | S> hi | passed 2 | S close | D answer"]).await;
}

#[tokio::test]
async fn requests_that_take_no_seat() {
    let heads = [
        "GET /stream/{id}/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "get {dst} HTTP/1.1\r\nHost: a\r\n\r\n",
        "put {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "DELETE {src} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /stream/%70 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET stream/{id} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /stream/unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "GET /stream/unknown HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "GET /stream/unknown HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "\r\n\r\nGET /stream/unknown/ HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n",
        "GET /stream/unknown HTTP/1.0\r\n\r\n",
        "GET /stream/unknown HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "PUT /stream/unknown HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT /stream/unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        "PUT /stream/unknown HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
        "PUT /stream/unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        "PUT /stream/unknown HTTP/1.0\r\nContent-Length: 9\r\n\r\n",
        "GET {dst} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        "GET {dst} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT {src} HTTP/1.1\r\nHost: a\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nhi",
    ];
    assert_recorded("requests_that_take_no_seat", heads.iter().flat_map(|head| request(head))).await;
}

#[tokio::test]
async fn requests_with_browser_fields() {
    let fields = [
        "Host: evil.example",
        "Host: localhost",
        "Host: a\r\nOrigin: http://a",
        "Host: a\r\nOrigin: https://evil.example",
        "Host: a\r\nOrigin: http://a\r\nOrigin: null",
        "Host: a\r\nSec-Fetch-Site: same-origin",
        "Host: a\r\nSec-Fetch-Site: cross-site",
        "Host: a\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate",
        "Host: a\r\nSec-Purpose: prefetch;prerender",
        "Host: a\r\nPurpose: prefetch",
    ];
    let lines = ["GET /stream/unknown", "GET /stream/unknown/status", "PUT /stream/unknown", "POST /stream"];
    assert_recorded(
        "requests_with_browser_fields",
        fields.iter().flat_map(|fields| {
            lines.iter().flat_map(move |line| request(&format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n")))
        }),
    )
    .await;
}

fn closing(value: &str) -> [String; 2] {
    request(&format!("GET /stream/unknown HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n"))
}

#[tokio::test]
async fn connection_options() {
    let values = [
        "close",
        "CLOSE",
        "keep-alive, close",
        "x,close,y",
        "close\r\nConnection: keep-alive",
        "closed",
        "\"close\"",
    ];
    assert_recorded("connection_options", values.iter().flat_map(|value| closing(value))).await;
}

#[tokio::test]
async fn connection_options_that_are_not_ascii() {
    assert_recorded("connection_options_that_are_not_ascii", closing("close, \u{e9}")).await;
}

#[tokio::test]
async fn two_expectations() {
    // hyper considers only the last Expect field. This server considers all of them, and lists.
    let values = ["x ~ Expect: 100-continue", "100-continue ~ Expect: 100-continue"];
    assert_recorded("two_expectations", values.map(|value| {
        format!("get | until DST_CONNECTED | put Content-Length: 2 ~ Expect: {value} | until STREAMING | S> hi | both")
    }))
    .await;
}

#[tokio::test]
async fn streams_with_tokens() {
    let split = r#"create {"access":"split"} | "#;
    let (up, down) = ("Authorization: Bearer {up}", "authorization: BEARER  {down}");
    let refused = [
        "",
        "Authorization: Basic {up}",
        "Authorization: Bearer",
        "Authorization: Bearer \u{e9}",
        "Authorization: Bearer {up}{down}",
        "Authorization: Bearer x ~ Authorization: Bearer {up} ~ Authorization: Bearer {down}",
        "Connection: close",
    ];
    let get = format!("get {down} | until DST_CONNECTED");
    let put = format!("put {up} ~ Content-Length: 2");
    assert_recorded(
        "streams_with_tokens",
        [
            format!("{split}{get} | {put} | S> hi | both"),
            format!("{split}{put} | S> hi | until SRC_CONNECTED | get {down} | both"),
            format!("{split}put {down} ~ Content-Length: 2 | S answer"),
            format!("{split}get {up} | D answer"),
            format!("get {down} | until DST_CONNECTED | put {up} ~ Content-Length: 2 | S> hi | both"),
        ],
    )
    .await;
    assert_recorded(
        "streams_with_wrong_tokens",
        refused.iter().flat_map(|fields| {
            let fields = if fields.is_empty() { "X: 1" } else { fields };
            let other = fields.replace(" ~ ", "\r\n");
            let get_again =
                format!("O> GET /stream/{{id}} HTTP/1.1\r\nHost: a\r\n{other}\r\n\r\n | O answer");
            [
                format!("{split}get {fields} | D answer | {put} | S> hi | until SRC_CONNECTED | {get_again}"),
                format!("{split}put {fields} ~ Content-Length: 2 | S> hi | S answer"),
                format!("{split}put {fields} ~ Content-Length: 2 ~ Expect: 100-continue | S answer"),
                format!("{split}put {fields} ~ Transfer-Encoding: chunked | S> nonsense | S answer"),
                format!("{split}put {fields} | S answer"),
                format!("{split}get10 {fields} | D answer"),
                format!("{split}{get} | {get_again} | {put} | S> hi | both"),
            ]
        }),
    )
    .await;
}

#[tokio::test]
async fn taken_seats() {
    let put =
        "O> PUT {src} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n | O answer";
    let get =
        "O> GET {dst} HTTP/1.1\r\nHost: a\r\n\r\nGET {dst} HTTP/1.1\r\nHost: a\r\n\r\n | O answer | O answer";
    let pair = "get | until DST_CONNECTED | put Content-Length: 2 | until STREAMING";
    assert_recorded(
        "taken_seats",
        [
            format!("get | until DST_CONNECTED | {get} | put Content-Length: 2 | S> hi | both"),
            format!("put Content-Length: 2 | until SRC_CONNECTED | {put} | get | S> hi | both"),
            format!("{pair} | {get} | S> hi | both"),
            format!("{pair} | {put} | S> hi | both"),
            format!("{pair} | S> hi | both | {get}"),
            format!("{pair} | S> hi | both | {put}"),
        ],
    )
    .await;
}
