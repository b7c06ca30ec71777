//! Scripts: the actions of the clients of one stream or path, as a list of steps.
//!
//! A script is data, without a connection. `crates/server/tests/scripts` runs each against several servers and compares the results,
//! `crates/server/tests/transcripts` records the responses, and the fuzz target `connection` generates scripts.

use bytes::Bytes;

/// The client of a step. It connects with the first bytes that it sends, and again after its connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// A third client.
    Other,
}

/// One action.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends bytes. Placeholders are replaced: `{src}` and `{dst}` by the request target of the source and the destination ([`Targets`]),
    /// `{id}` by the id of the stream or the name of the path, `{up}` and `{down}` by the tokens of the stream.
    Send(Role, Bytes),
    /// Closes the sending side of the connection.
    HalfClose(Role),
    /// Closes the connection with FIN.
    Close(Role),
    /// Closes the connection with RST.
    Reset(Role),
    /// Waits for the stream to be in this state, or for the path to be `TAKEN` or `FREE`.
    Until(String),
    /// Waits until this many bytes of the body were passed on, which a path does not show.
    Passed(usize),
    /// Reads a `100 Continue`.
    Interim(Role),
    /// Reads the final response to its end, and skips interim ones before it.
    Answer(Role),
}

/// Where the sides of a script meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A stream with this id.
    Stream(String),
    /// A path with this name.
    Path(String),
}

impl Place {
    /// Returns its name: the id or the path.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Stream(name) | Self::Path(name) => name,
        }
    }
}

/// The form of the request targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// Only the path.
    Plain,
    /// With a query for the source, and in absolute form for the destination (RFC 9112, section 3.2.2), which escapes a byte of a path.
    Rare,
}

impl Targets {
    /// Replaces the placeholders of [`Step::Send`] in `bytes`. `tokens` are those of the source and the destination.
    pub fn fill(self, bytes: &[u8], place: &Place, tokens: &[String; 2]) -> Vec<u8> {
        let (plain, escaped) = match place {
            Place::Stream(id) => (format!("/stream/{id}"), format!("/stream/{id}")),
            Place::Path(name) => {
                let (first, rest) = name.split_at(1);
                (format!("/p/{name}"), format!("/p/%{:02X}{rest}", first.as_bytes()[0]))
            }
        };
        let (source, destination) = match self {
            Self::Plain => (plain.clone(), plain),
            Self::Rare => (format!("{plain}?x"), format!("http://test{escaped}")),
        };
        let placeholders: [(&[u8], &str); 5] = [
            (b"{src}", &source),
            (b"{dst}", &destination),
            (b"{id}", place.name()),
            (b"{up}", &tokens[0]),
            (b"{down}", &tokens[1]),
        ];
        placeholders.iter().fold(bytes.to_vec(), |bytes, (name, value)| fill(&bytes, name, value.as_bytes()))
    }
}

/// Returns `text` with every `name` replaced by `value`.
pub fn fill(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    match text.windows(name.len()).position(|window| window == name) {
        Some(at) => [&text[..at], value, &fill(&text[at + name.len()..], name, value)].concat(),
        None => text.to_vec(),
    }
}

/// The steps at one stream or path.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The body of `POST /stream`. Default: empty.
    pub create: String,
    /// Whether the sides meet at a path, which needs no creation. Default: false.
    pub at_path: bool,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Whether bytes race with a failure. Default: false.
    ///
    /// If so, the length of the download before its cut may differ between runs, and `bytes_transferred` with it. If the first byte is in
    /// the race, the destination may get a 502 instead of a cut. Nothing else may differ.
    pub racy: bool,
}

impl Script {
    /// Parses steps separated by ` | `. Panics if one is not valid.
    ///
    /// - `S> bytes`, `D> bytes`, `O> bytes`: the source, the destination or the third client sends the bytes
    /// - `put fields`, `get fields`: the source or the destination sends its head, with fields separated by ` ~ `; `put10` and `get10` do
    ///   so in HTTP/1.0
    /// - `S close`, `S reset`, `S half-close`, `S 100`, `S answer`: the other steps of the source; likewise with `D` and `O`
    /// - `both`: reads the response to the destination, then that to the source
    /// - `until STATE`, `passed BYTES`: waits
    /// - `create JSON`, `path`, `racy`: sets the fields of [`Script`]
    ///
    /// ```
    /// use testkit::script::Script;
    ///
    /// let script = Script::parse("get | until DST_CONNECTED | put Content-Length: 2 | S> hi | both");
    /// assert_eq!(script.steps.len(), 6);
    /// ```
    pub fn parse(text: &str) -> Self {
        Self::default().then(text)
    }

    /// Appends steps in the syntax of [`Script::parse`].
    #[must_use]
    pub fn then(mut self, text: &str) -> Self {
        for step in text.split(" | ") {
            assert!(self.take(step), "{step:?} is not a step");
        }
        self
    }

    /// Appends one step in the syntax of [`Script::parse`]. Returns false if it is not valid.
    pub fn take(&mut self, step: &str) -> bool {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        let (role, action) = match verb.split_at_checked(1) {
            Some(("S", action)) => (Role::Source, action),
            Some(("D", action)) => (Role::Destination, action),
            Some(("O", action)) => (Role::Other, action),
            _ => (Role::Other, verb),
        };
        let has_client = action.len() < verb.len();
        let send = |role, bytes: String| Step::Send(role, bytes.into());
        let steps = match (verb, rest) {
            ("put", _) => vec![send(Role::Source, head("PUT {src} HTTP/1.1\r\nHost: a\r\n", rest))],
            ("put10", _) => vec![send(Role::Source, head("PUT {src} HTTP/1.0\r\n", rest))],
            ("get", _) => vec![send(Role::Destination, head("GET {dst} HTTP/1.1\r\nHost: a\r\n", rest))],
            ("get10", _) => vec![send(Role::Destination, head("GET {dst} HTTP/1.0\r\n", rest))],
            ("both", _) => vec![Step::Answer(Role::Destination), Step::Answer(Role::Source)],
            ("until", _) => vec![Step::Until(rest.into())],
            ("passed", _) if rest.parse::<usize>().is_ok() => vec![Step::Passed(rest.parse().unwrap())],
            ("create", _) => {
                self.create = rest.into();
                vec![]
            }
            ("path", _) => {
                self.at_path = true;
                vec![]
            }
            ("racy", _) => {
                self.racy = true;
                vec![]
            }
            _ if has_client && action == ">" => vec![send(role, rest.into())],
            _ if !has_client || !action.is_empty() => return false,
            (_, "close") => vec![Step::Close(role)],
            (_, "reset") => vec![Step::Reset(role)],
            (_, "half-close") => vec![Step::HalfClose(role)],
            (_, "100") => vec![Step::Interim(role)],
            (_, "answer") => vec![Step::Answer(role)],
            _ => return false,
        };
        self.steps.extend(steps);
        true
    }

    /// Appends a [`Step::Send`].
    #[must_use]
    pub fn send(self, role: Role, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(role, bytes.into().into()))
    }

    /// Appends a step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

fn head(line: &str, fields: &str) -> String {
    let fields = if fields.is_empty() { String::new() } else { fields.replace(" ~ ", "\r\n") + "\r\n" };
    format!("{line}{fields}\r\n")
}
