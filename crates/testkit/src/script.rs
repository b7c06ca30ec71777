//! What clients do, as a list of steps.

use bytes::Bytes;

/// A connection. It is opened by the first bytes said, and anew after it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Source,
    Destination,
    Other,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// `{src}` and `{dst}` become the stream's target, in the form that this side gives it; `{id}` its id, `{up}` and `{down}` its
    /// tokens.
    Say(Who, Bytes),
    HalfClose(Who),
    /// Leaves by FIN.
    Close(Who),
    /// Leaves by RST.
    Reset(Who),
    /// Waits for the state.
    Until(String),
    /// Waits until so many bytes were passed on.
    Passed(usize),
    /// Reads a `100 Continue`.
    Interim(Who),
    /// Reads an answer to its end, and past the interim ones before it.
    Answer(Who),
}

/// The form of the request targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// The path.
    Plain,
    /// With a query, and in absolute form.
    Rare,
}

impl Targets {
    /// What is said in the words of [`Step::Say`] about the stream of this id, whose tokens are the source's and the
    /// destination's.
    pub fn fill(self, bytes: &[u8], id: &str, tokens: &[String; 2]) -> Vec<u8> {
        let (source, destination) = match self {
            Self::Plain => (format!("/stream/{id}"), format!("/stream/{id}")),
            Self::Rare => (format!("/stream/{id}?x"), format!("http://test/stream/{id}")),
        };
        let blanks: [(&[u8], &str); 5] = [
            (b"{src}", &source),
            (b"{dst}", &destination),
            (b"{id}", id),
            (b"{up}", &tokens[0]),
            (b"{down}", &tokens[1]),
        ];
        blanks.iter().fold(bytes.to_vec(), |bytes, (name, value)| fill(&bytes, name, value.as_bytes()))
    }
}

/// `text` with `value` wherever it has `name`.
pub fn fill(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    match text.windows(name.len()).position(|window| window == name) {
        Some(at) => [&text[..at], value, &fill(&text[at + name.len()..], name, value)].concat(),
        None => text.to_vec(),
    }
}

#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The body of `POST /stream`.
    pub create: String,
    pub steps: Vec<Step>,
    /// Bytes race with a failure. How much of the download comes before its cut may differ then, and `bytes_transferred`
    /// with it; and where the first byte is in the race, also whether it is cut or a 502. Nothing else may.
    pub racy: bool,
}

impl Script {
    /// The steps of `text`, with ` | ` between them:
    ///
    /// - `S> bytes`, `D> bytes`, `O> bytes`: the source, the destination, another say this
    /// - `put fields`, `get fields`: the source's or the destination's head, fields with ` ~ ` between them; `put10`, `get10`
    /// - `S close`, `S reset`, `S half-close`, `S 100`, `S answer`: and so on
    /// - `both`: the destination's answer, and then the source's
    /// - `until STATE`, `passed BYTES`, `create JSON`, `racy`
    pub fn parse(text: &str) -> Self {
        Self::default().then(text)
    }

    pub fn then(mut self, text: &str) -> Self {
        for step in text.split(" | ") {
            assert!(self.take(step), "{step:?} is no step");
        }
        self
    }

    /// Takes one more step of that text; false where it is none.
    pub fn take(&mut self, step: &str) -> bool {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        let (who, says) = match verb.split_at_checked(1) {
            Some(("S", says)) => (Who::Source, says),
            Some(("D", says)) => (Who::Destination, says),
            Some(("O", says)) => (Who::Other, says),
            _ => (Who::Other, verb),
        };
        let is_who = says.len() < verb.len();
        let say = |who, bytes: String| Step::Say(who, bytes.into());
        let steps = match (verb, rest) {
            ("put", _) => vec![say(Who::Source, head("PUT {src} HTTP/1.1\r\nHost: a\r\n", rest))],
            ("put10", _) => vec![say(Who::Source, head("PUT {src} HTTP/1.0\r\n", rest))],
            ("get", _) => vec![say(Who::Destination, head("GET {dst} HTTP/1.1\r\nHost: a\r\n", rest))],
            ("get10", _) => vec![say(Who::Destination, head("GET {dst} HTTP/1.0\r\n", rest))],
            ("both", _) => vec![Step::Answer(Who::Destination), Step::Answer(Who::Source)],
            ("until", _) => vec![Step::Until(rest.into())],
            ("passed", _) if rest.parse::<usize>().is_ok() => vec![Step::Passed(rest.parse().unwrap())],
            ("create", _) => {
                self.create = rest.into();
                vec![]
            }
            ("racy", _) => {
                self.racy = true;
                vec![]
            }
            _ if is_who && says == ">" => vec![say(who, rest.into())],
            _ if !is_who || !says.is_empty() => return false,
            (_, "close") => vec![Step::Close(who)],
            (_, "reset") => vec![Step::Reset(who)],
            (_, "half-close") => vec![Step::HalfClose(who)],
            (_, "100") => vec![Step::Interim(who)],
            (_, "answer") => vec![Step::Answer(who)],
            _ => return false,
        };
        self.steps.extend(steps);
        true
    }

    pub fn say(self, who: Who, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Say(who, bytes.into().into()))
    }

    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

fn head(line: &str, fields: &str) -> String {
    let fields = if fields.is_empty() { String::new() } else { fields.replace(" ~ ", "\r\n") + "\r\n" };
    format!("{line}{fields}\r\n")
}
