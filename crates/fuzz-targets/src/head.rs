//! Request heads: an accepted head is unambiguous and within the limits, and hyper reads it in the same way.

use http::Version;
use rendezvous_codec::body::Framing;
use rendezvous_codec::head::{Head, HeadError, HeadScanner, MAX_HEAD_FIELDS, parse};

use super::hyper_reads;

/// The limit on the bytes of a head.
pub(crate) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The longest body that hyper can count, in bytes.
const MAX_LENGTH_OF_HYPER: u64 = u64::MAX - 2;

/// Checks the first bytes of a connection.
pub fn check(data: &[u8]) {
    // A connection buffers no more.
    let data = &data[..data.len().min(MAX_HEAD_BYTES)];
    let at_once = HeadScanner::default().scan(data, MAX_HEAD_BYTES);
    let mut scanner = HeadScanner::default();
    let bytewise = (0..=data.len())
        .map(|end| scanner.scan(&data[..end], MAX_HEAD_BYTES))
        .find(|result| *result != Ok(None));
    assert_eq!(bytewise.unwrap_or(Ok(None)), at_once, "the result depends on how the bytes are split");

    if let Ok(Some(length)) = at_once {
        let bytes = &data[..length];
        // A refused head cannot be misunderstood.
        let _ = parse(bytes, |head| {
            let naive = NaiveHead::read(bytes);
            naive.assert_same(head);
            assert_like_hyper(head, bytes, &naive);
            assert_limits(bytes, &naive);
        });
    }
}

/// An accepted head, parsed naively: lines, each with a colon.
struct NaiveHead<'a> {
    method: &'a str,
    target: &'a str,
    version: &'a str,
    fields: Vec<(String, &'a [u8])>,
}

impl<'a> NaiveHead<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        for (at, byte) in bytes.iter().enumerate() {
            assert!(*byte != 0, "a NUL");
            assert!(*byte != b'\r' || bytes.get(at + 1) == Some(&b'\n'), "a CR alone");
            assert!(*byte != b'\n' || at > 0 && bytes[at - 1] == b'\r', "a LF alone");
        }
        let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let lines: Vec<&[u8]> = lines.skip_while(|line| line.is_empty()).collect();
        let [line, fields @ .., b"", b""] = &lines[..] else {
            panic!("the head does not end in an empty line")
        };
        let line: Vec<&str> = std::str::from_utf8(line).unwrap().split(' ').collect();
        let [method, target, version] = line[..] else { panic!("a request line of {line:?}") };
        let fields = fields.iter().map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a line without a colon");
            let name = std::str::from_utf8(&line[..colon]).unwrap();
            assert!(is_token(name), "a field name {name:?}, or a folded line");
            (name.to_ascii_lowercase(), line[colon + 1..].trim_ascii())
        });
        Self { method, target, version, fields: fields.collect() }
    }

    fn all(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| *value).collect()
    }

    /// Compares with the framing rules of RFC 9112, section 6.3, where all ambiguous heads are refused.
    fn assert_same(&self, head: &Head<'_>) {
        assert!(is_token(self.method), "{:?} is not a method", self.method);
        assert!(["HTTP/1.0", "HTTP/1.1"].contains(&self.version));
        let is_http11 = head.version == Version::HTTP_11;
        assert_eq!(is_http11, self.version == "HTTP/1.1");
        assert_eq!(head.method.as_str(), self.method);
        let hosts = self.all("host").len();
        assert!(hosts == 1 || hosts == 0 && !is_http11, "{hosts} Host fields");
        let expectations = self.all("expect");
        let mut expectations = expectations.iter().flat_map(|value| value.split(|byte| *byte == b','));
        let expects = expectations.any(|value| value.trim_ascii().eq_ignore_ascii_case(b"100-continue"));
        assert_eq!(head.expects_continue, expects && is_http11);
        let connection = self.all("connection");
        let mut options = connection.iter().flat_map(|value| value.split(|byte| *byte == b','));
        let closes = options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        assert_eq!(head.closes, closes || !is_http11);
        let expected = match (&self.all("content-length")[..], &self.all("transfer-encoding")[..]) {
            ([], []) => Framing::NONE,
            ([length], []) => {
                assert!(
                    !length.is_empty() && length.iter().all(u8::is_ascii_digit),
                    "a length of {length:?}"
                );
                Framing::Length(std::str::from_utf8(length).unwrap().parse().unwrap())
            }
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && is_http11 => Framing::Chunked,
            both => panic!("accepted, with lengths and codings of {both:?}"),
        };
        assert_eq!(head.framing, expected);
    }
}

fn assert_like_hyper(head: &Head<'_>, bytes: &[u8], naive: &NaiveHead<'_>) {
    assert_eq!(head.target, naive.target.parse::<http::Uri>().unwrap());
    for (name, _) in &naive.fields {
        assert_eq!(head.values(name).collect::<Vec<_>>(), naive.all(name), "{name}");
    }
    if head.framing.length().is_some_and(|length| length > MAX_LENGTH_OF_HYPER) {
        return;
    }
    let read = hyper_reads::request(bytes).expect("hyper refuses the head");
    assert_eq!((read.method.as_str(), read.length), (naive.method, head.framing.length()));
    assert_eq!(read.uri, head.target);
}

/// Fills the head up to each limit, where it is still accepted, and over it, where it is refused.
fn assert_limits(bytes: &[u8], naive: &NaiveHead<'_>) {
    let read_with = |more: &[u8]| {
        let filled = [&bytes[..bytes.len() - 2], more, b"\r\n"].concat();
        let length = HeadScanner::default().scan(&filled, MAX_HEAD_BYTES)?;
        assert!(length.is_none_or(|length| length == filled.len()));
        parse(&filled, |_| ())
    };
    let length = bytes.len();
    assert!(length <= MAX_HEAD_BYTES && naive.fields.len() <= MAX_HEAD_FIELDS);

    let fields = b"X:\r\n".repeat(MAX_HEAD_FIELDS - naive.fields.len());
    if length + fields.len() + 4 <= MAX_HEAD_BYTES {
        assert_eq!(read_with(&fields), Ok(()), "{MAX_HEAD_FIELDS} fields");
        let more = [&fields[..], b"X:\r\n"].concat();
        assert_eq!(read_with(&more), Err(HeadError::TooManyFields));
    }
    if length + 4 <= MAX_HEAD_BYTES && naive.fields.len() < MAX_HEAD_FIELDS {
        let value = "a".repeat(MAX_HEAD_BYTES - length - 4);
        assert_eq!(read_with(format!("X:{value}\r\n").as_bytes()), Ok(()));
        assert_eq!(read_with(format!("X:{value}a\r\n").as_bytes()), Err(HeadError::TooLong(MAX_HEAD_BYTES)));
    }
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}
