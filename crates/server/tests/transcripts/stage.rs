//! Plays a script, and writes down every byte of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use testkit::client::{Client, soon};
use testkit::script::{Script, Step, Who};
use testkit::server::{PATIENCE, TestServer, get, post};
use testkit::transport::{CERTIFICATE, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Way;
use crate::redact::show;

/// All that is said and heard in a script, which has a stream of its own.
pub(crate) async fn play(server: &TestServer, way: Way, text: &str) -> String {
    let script = Script::parse(text);
    let mut stage = Stage { server, way, clients: BTreeMap::new(), names: Vec::new(), seen: String::new() };
    if text.contains('{') || text.contains("put") || text.contains("get") {
        stage.make(&script.create).await;
    }
    for step in &script.steps {
        stage.take(step).await;
    }
    stage.seen + "\n"
}

struct Stage<'a> {
    server: &'a TestServer,
    way: Way,
    clients: BTreeMap<Who, Line>,
    /// What the script calls this stream's own.
    names: Vec<(&'static str, String)>,
    seen: String,
}

/// A connection, and what was heard of it and not yet written down.
struct Line {
    transport: Transport,
    input: Vec<u8>,
    asked_for_head: bool,
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// It is whole, and so long.
    Whole(usize),
    Partial,
    /// It is whole when the connection ends.
    UntilClose,
}

impl Stage<'_> {
    async fn make(&mut self, settings: &str) {
        let mut client = Client::over(self.connect().await);
        client.send(post("/stream", settings)).await;
        let made = client.response().await.json();
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        let id = text("stream");
        self.names = vec![
            ("{src}", format!("/stream/{id}")),
            ("{dst}", format!("/stream/{id}")),
            ("{up}", text("upload_token")),
            ("{down}", text("download_token")),
            ("{id}", id),
        ];
    }

    async fn connect(&self) -> Transport {
        let address = self.server.address();
        if self.way == Way::Tls {
            Transport::Tls(Box::new(CERTIFICATE.connect(address, &["http/1.1"]).await.unwrap()))
        } else {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            Transport::Plain(stream)
        }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Say(who, bytes) => self.say(*who, std::str::from_utf8(bytes).unwrap()).await,
            Step::HalfClose(who) => self.line(*who).transport.shutdown().await.unwrap(),
            Step::Close(who) => drop(self.clients.remove(who)),
            Step::Reset(who) => self.clients.remove(who).unwrap().transport.tcp().set_zero_linger().unwrap(),
            Step::Until(state) => self.until(|status| status["state"] == **state).await,
            Step::Passed(bytes) => self.until(|status| status["bytes_transferred"] == *bytes).await,
            Step::Interim(who) => self.hear_interim(*who).await,
            Step::Answer(who) => self.hear(*who).await,
        }
    }

    fn line(&mut self, who: Who) -> &mut Line {
        self.clients.get_mut(&who).unwrap()
    }

    async fn say(&mut self, who: Who, text: &str) {
        self.seen += &show(&format!("{}>", letter(who)), text.as_bytes());
        let text = self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        if !self.clients.contains_key(&who) {
            let line = Line { transport: self.connect().await, input: Vec::new(), asked_for_head: false };
            self.clients.insert(who, line);
        }
        let line = self.line(who);
        line.asked_for_head = text.starts_with("HEAD ");
        // It may have closed already: what it answered is what counts.
        let _ = soon(line.transport.write_all(text.as_bytes())).await;
        let _ = soon(line.transport.flush()).await;
    }

    async fn until(&self, is_so: impl Fn(&serde_json::Value) -> bool) {
        let target = self.names.iter().find(|(name, _)| *name == "{src}").unwrap().1.clone() + "/status";
        let mut client = Client::over(self.connect().await);
        let reached = async {
            loop {
                client.send(get(&target)).await;
                if is_so(&client.response().await.json()) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    async fn hear_interim(&mut self, who: Who) {
        let line = self.line(who);
        let end = loop {
            match find(&line.input, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => line.fill().await.unwrap(),
            }
        };
        let heard: Vec<u8> = line.input.drain(..end).collect();
        self.write_down(who, &heard, "");
    }

    /// An answer, and the end of the connection where the answer announces it.
    async fn hear(&mut self, who: Who) {
        let line = self.line(who);
        let (length, end) = loop {
            match line.message() {
                Message::Whole(length) if !line.announces_close() => break (length, "open"),
                message => {
                    let Err(error) = line.fill().await else { continue };
                    let is_whole = message != Message::Partial && error == ErrorKind::WriteZero;
                    break (line.input.len(), if is_whole { "closed" } else { "cut" });
                }
            }
        };
        let heard: Vec<u8> = line.input.drain(..length).collect();
        self.write_down(who, &heard, end);
    }

    fn write_down(&mut self, who: Who, heard: &[u8], end: &str) {
        let mark = format!("{}<", letter(who));
        self.seen += &show(&mark, heard);
        if !end.is_empty() {
            self.seen.extend([mark.as_str(), " (", end, ")\n"]);
        }
    }
}

fn letter(who: Who) -> char {
    match who {
        Who::Source => 'S',
        Who::Destination => 'D',
        Who::Other => 'O',
    }
}

impl Line {
    /// Reads once. A good end is [`ErrorKind::WriteZero`], any other is what it is.
    async fn fill(&mut self) -> Result<(), ErrorKind> {
        match soon(self.transport.read_buf(&mut self.input)).await {
            Ok(0) => Err(ErrorKind::WriteZero),
            Ok(_) => Ok(()),
            Err(error) => Err(error.kind()),
        }
    }

    fn message(&self) -> Message {
        let mut start = 0;
        while self.input[start..].starts_with(b"HTTP/1.1 100 ") {
            let Some(end) = find(&self.input[start..], b"\r\n\r\n") else { return Message::Partial };
            start += end + 4;
        }
        let Some(end) = find(&self.input[start..], b"\r\n\r\n") else { return Message::Partial };
        let (head, body) = (start + end + 4, &self.input[start + end + 4..]);
        let text = String::from_utf8_lossy(&self.input[start..head]).to_ascii_lowercase();
        let field = |name: &str| Some(text.split_once(name)?.1.split("\r\n").next().unwrap().to_owned());
        if self.asked_for_head || text.starts_with("http/1.1 204") {
            return Message::Whole(head);
        }
        if field("\r\ntransfer-encoding: ").is_some() {
            return find(body, b"0\r\n\r\n").map_or(Message::Partial, |last| Message::Whole(head + last + 5));
        }
        match field("\r\ncontent-length: ").map(|length| length.parse().unwrap()) {
            Some(length) if body.len() >= length => Message::Whole(head + length),
            Some(_) => Message::Partial,
            None => Message::UntilClose,
        }
    }

    fn announces_close(&self) -> bool {
        let text = String::from_utf8_lossy(&self.input).to_ascii_lowercase();
        text.contains("\r\nconnection: close\r\n")
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
