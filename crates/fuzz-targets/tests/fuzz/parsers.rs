//! The parsers agree with hyper's.
//!
//! hyper accepts more: two equal lengths, a chunk size of more than 16 digits with leading zeros, a lone LF at the start of a
//! trailer. The server refuses these, which is safe. What the server accepts, hyper must accept with the same meaning.

use proptest::prelude::*;
use proptest::sample::select;

/// Mutations of single bytes: the position, the byte, and whether it is inserted (0), replaces the byte there (1), or that byte is removed (2).
fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![select(b"\r\n\t :;,019aAfF\0\x7f\x80".to_vec()), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), byte, 0..3u8), 0..3)
}

fn mutate(mut bytes: Vec<u8>, mutations: Vec<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
    for (at, byte, how) in mutations {
        let at = at.index(bytes.len());
        match how {
            0 => bytes.insert(at, byte),
            1 => bytes[at] = byte,
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET /stream/a HTTP/1.1",
        "PUT /stream/a HTTP/1.1",
        "PUT http://b/stream/a?x HTTP/1.1",
        "PUT /stream/a HTTP/1.0",
        "x *#y HTTP/1.1",
    ]);
    let name = select(vec![
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "X",
        "content-LENGTH",
    ]);
    let value = select(vec![
        "",
        "a",
        "5",
        " 5 ",
        "05",
        "5, 5",
        "+5",
        "18446744073709551615",
        "18446744073709551613",
        "chunked",
        "Chunked",
        "gzip, chunked",
        "chunked,",
        "100-continue",
        "close",
        "\u{e9}",
    ]);
    let shape = select(vec![
        "",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:chunked \r\n",
    ]);
    (line, shape, prop::collection::vec((name, value), 0..3)).prop_map(|(line, shape, fields)| {
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields = fields.collect::<Vec<_>>().concat();
        format!("{line}\r\nHost: a\r\n{shape}{fields}\r\n").into_bytes()
    })
}

fn chunked_bodies() -> impl Strategy<Value = Vec<u8>> {
    let long = (16_300..16_400usize).prop_map(|length| format!(";{}", "e".repeat(length)));
    let short =
        select(vec!["", "", ";", ";a=b", " ", "\t ;a=\"b;c\"", ";\u{e9}", " ; a"]).prop_map(str::to_owned);
    let extension = prop_oneof![20 => short, 1 => long];
    let size = select(vec![0usize, 1, 2, 16]);
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), extension, size, any::<bool>());
    let trailers = select(vec!["", "", "X: 1\r\n", "X: 1\r\ny:\r\n"]);
    (prop::collection::vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
        let mut body = Vec::new();
        for (data, extension, width, upper) in chunks {
            let size =
                if upper { format!("{:0width$X}", data.len()) } else { format!("{:0width$x}", data.len()) };
            body.extend([size.as_bytes(), extension.as_bytes(), b"\r\n", &data, b"\r\n"].concat());
        }
        body.extend(format!("0\r\n{trailers}\r\n").bytes());
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_an_accepted_head_in_the_same_way(head in heads(), mutations in mutations()) {
        fuzz_targets::head::check(&mutate(head, mutations));
    }

    #[test]
    fn noise_is_not_a_head_and_causes_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), head in heads()) {
        fuzz_targets::head::check(&bytes);
        fuzz_targets::head::check(&[head, bytes].concat());
    }

    #[test]
    fn hyper_reads_an_accepted_chunked_body_in_the_same_way(
        body in chunked_bodies(),
        mutations in mutations(),
    ) {
        fuzz_targets::chunked::check(&mutate(body, mutations));
    }
}
