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
    /// `{src}` and `{dst}` become the stream's target, in the form for the lane that this side is to be in; `{id}` its id, `{up}`
    /// and `{down}` its tokens.
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
            let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
            self = match verb {
                "put" => self.say(Who::Source, head("PUT {src} HTTP/1.1\r\nHost: a\r\n", rest)),
                "put10" => self.say(Who::Source, head("PUT {src} HTTP/1.0\r\n", rest)),
                "get" => self.say(Who::Destination, head("GET {dst} HTTP/1.1\r\nHost: a\r\n", rest)),
                "get10" => self.say(Who::Destination, head("GET {dst} HTTP/1.0\r\n", rest)),
                "both" => self.step(Step::Answer(Who::Destination)).step(Step::Answer(Who::Source)),
                "until" => self.step(Step::Until(rest.into())),
                "passed" => self.step(Step::Passed(rest.parse().unwrap())),
                "create" => Self { create: rest.into(), ..self },
                "racy" => Self { racy: true, ..self },
                _ => {
                    let who = match &verb[..1] {
                        "S" => Who::Source,
                        "D" => Who::Destination,
                        _ => Who::Other,
                    };
                    match rest {
                        _ if verb.ends_with('>') => self.say(who, rest),
                        "close" => self.step(Step::Close(who)),
                        "reset" => self.step(Step::Reset(who)),
                        "half-close" => self.step(Step::HalfClose(who)),
                        "100" => self.step(Step::Interim(who)),
                        "answer" => self.step(Step::Answer(who)),
                        _ => panic!("{step:?} is no step"),
                    }
                }
            };
        }
        self
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
