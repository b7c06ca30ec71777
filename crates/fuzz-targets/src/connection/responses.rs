//! Parses the bytes that a client has received into responses.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::Method;

use super::super::chunked;
use super::requests::Request;

/// How the server has ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// A response, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct Response {
    head: String,
    pub body: Vec<u8>,
    shape: Shape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Shape {
    #[default]
    Whole,
    Unfinished,
    /// Bytes that are not a response.
    Noise,
}

impl Response {
    /// The responses to `requests` in the bytes received on a connection, which has ended as `end` says.
    pub(super) fn read(mut bytes: &[u8], end: Option<End>, requests: &[Request]) -> Vec<Self> {
        let (mut responses, mut requests) = (Vec::new(), requests.iter());
        let mut request = requests.next();
        while !bytes.is_empty() {
            let (response, length) =
                Self::first(bytes, end, request.is_some_and(|request| request.method == Method::HEAD));
            if response.status() >= 200 {
                request = requests.next();
            }
            responses.push(response);
            bytes = &bytes[length..];
        }
        responses
    }

    fn first(bytes: &[u8], end: Option<End>, to_head: bool) -> (Self, usize) {
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let Some(head_end) = head_end.filter(|_| bytes.starts_with(b"HTTP/1.")) else {
            let noise = Self { head: String::new(), body: bytes.to_vec(), shape: Shape::Noise };
            return (noise, bytes.len());
        };
        let (top, rest) = bytes.split_at(head_end);
        let mut response =
            Self { head: String::from_utf8_lossy(top).into(), body: Vec::new(), shape: Shape::Whole };
        let length = if to_head { 0 } else { response.take_body(rest, end) };
        (response, head_end + length)
    }

    fn take_body(&mut self, rest: &[u8], end: Option<End>) -> usize {
        let bodiless = self.status() < 200 || matches!(self.status(), 204 | 304);
        match (self.field("content-length"), self.field("transfer-encoding")) {
            _ if bodiless => 0,
            (Some(length), None) => {
                let length: usize = length.parse().unwrap();
                let here = length.min(rest.len());
                self.body = rest[..here].to_vec();
                self.shape = if here == length { Shape::Whole } else { Shape::Unfinished };
                here
            }
            (None, Some("chunked")) => {
                let read = chunked::Body::read(rest);
                self.body = read.data;
                match read.end {
                    chunked::End::Whole(length) => length,
                    chunked::End::Cut => {
                        self.shape = Shape::Unfinished;
                        rest.len()
                    }
                    chunked::End::Broken(at) => panic!("the server's chunks are malformed at {at}: {rest:?}"),
                }
            }
            (None, None) => {
                self.body = rest.to_vec();
                self.shape = if end == Some(End::Fin) { Shape::Whole } else { Shape::Unfinished };
                rest.len()
            }
            both => panic!("ambiguous framing: {both:?}"),
        }
    }

    /// The response as text, with values hidden by `mask`.
    pub(super) fn show(&self, mask: &Mask<'_>) -> String {
        let body = mask.hide(&String::from_utf8_lossy(&self.body));
        let body = match self.body.len() {
            0..1000 => body,
            length => {
                let mut hasher = DefaultHasher::new();
                body.hash(&mut hasher);
                format!("{length} bytes of hash {:x}", hasher.finish())
            }
        };
        format!("{}{body} {:?}", mask.hide(&self.head), self.shape)
    }

    pub(super) fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether this is a whole response of status 200.
    pub(super) fn is_whole(&self) -> bool {
        self.status() == 200 && self.shape == Shape::Whole
    }
}

/// Hides values that differ between runs: times, ids and tokens.
pub(super) struct Mask<'a> {
    id: &'a str,
    tokens: &'a [String; 2],
}

impl<'a> Mask<'a> {
    pub(super) fn new(id: &'a str, tokens: &'a [String; 2]) -> Self {
        Self { id, tokens }
    }

    pub(super) fn hide(&self, text: &str) -> String {
        let mut text = text.replace(self.id, "{id}");
        for token in self.tokens.iter().filter(|token| !token.is_empty()) {
            text = text.replace(token, "{token}");
        }
        for shape in SHAPES {
            text = hide_shape(&text, shape);
        }
        text
    }
}

/// The shapes of an HTTP date, a JSON time, an id and a token: `0` is a digit, `x` a hexadecimal digit, `a` a letter.
const SHAPES: [&str; 4] = [
    "aaa, 00 aaa 0000 00:00:00 GMT",
    "0000-00-00T00:00:00.000Z",
    "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

fn hide_shape(text: &str, shape: &str) -> String {
    let fits = |window: &[u8]| {
        window.iter().zip(shape.bytes()).all(|(byte, kind)| match kind {
            b'0' => byte.is_ascii_digit(),
            b'x' => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
            b'a' => byte.is_ascii_alphabetic(),
            kind => *byte == kind,
        })
    };
    let found = text.as_bytes().windows(shape.len()).position(fits);
    found.map_or_else(
        || text.to_owned(),
        |at| format!("{}*{}", &text[..at], hide_shape(&text[at + shape.len()..], shape)),
    )
}
