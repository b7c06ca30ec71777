//! Plays a script, and records every byte of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use testkit::client::{Client, WAIT_TIMEOUT, find, with_timeout};
use testkit::script::{Role, Script, Step};
use testkit::server::{TestServer, get, post};
use testkit::transport::{CERTIFICATE, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Variant;
use crate::redact::show;

/// Returns all bytes that the clients of a script send and receive. Each script has a separate stream.
pub(crate) async fn play(server: &TestServer, variant: Variant, text: &str) -> String {
    let script = Script::parse(text);
    let mut stage =
        Stage { server, variant, clients: BTreeMap::new(), names: Vec::new(), seen: String::new() };
    if text.contains('{') || text.contains("put") || text.contains("get") {
        stage.create(&script.create).await;
    }
    for step in &script.steps {
        stage.take(step).await;
    }
    stage.seen + "\n"
}

struct Stage<'a> {
    server: &'a TestServer,
    variant: Variant,
    clients: BTreeMap<Role, Connection>,
    /// The placeholders of the script, and their values for this stream.
    names: Vec<(&'static str, String)>,
    seen: String,
}

/// A connection, and the received bytes that are not recorded yet.
struct Connection {
    transport: Transport,
    input: Vec<u8>,
    /// The last request is a HEAD.
    is_head: bool,
}

/// How much of a message has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// All of it, with its length in bytes.
    Whole(usize),
    Partial,
    /// The message ends with the connection.
    UntilClose,
}

impl Stage<'_> {
    async fn create(&mut self, settings: &str) {
        let mut client = Client::over(self.connect().await);
        client.send(post("/stream", settings)).await;
        let created = client.response().await.json();
        let text = |name: &str| created[name].as_str().unwrap_or_default().to_owned();
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
        if self.variant == Variant::Tls {
            Transport::Tls(Box::new(CERTIFICATE.connect(address, &["http/1.1"]).await.unwrap()))
        } else {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            Transport::Plain(stream)
        }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Send(role, bytes) => self.send(*role, std::str::from_utf8(bytes).unwrap()).await,
            Step::HalfClose(role) => self.connection(*role).transport.shutdown().await.unwrap(),
            Step::Close(role) => drop(self.clients.remove(role)),
            Step::Reset(role) => {
                self.clients.remove(role).unwrap().transport.tcp().set_zero_linger().unwrap();
            }
            Step::Until(state) => self.until(|status| status["state"] == **state).await,
            Step::Passed(bytes) => self.until(|status| status["bytes_transferred"] == *bytes).await,
            Step::Interim(role) => self.receive_interim(*role).await,
            Step::Answer(role) => self.receive(*role).await,
        }
    }

    fn connection(&mut self, role: Role) -> &mut Connection {
        self.clients.get_mut(&role).unwrap()
    }

    async fn send(&mut self, role: Role, text: &str) {
        self.seen += &show(&format!("{}>", letter(role)), text.as_bytes());
        let text = self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        if !self.clients.contains_key(&role) {
            let transport = self.connect().await;
            self.clients.insert(role, Connection { transport, input: Vec::new(), is_head: false });
        }
        let connection = self.connection(role);
        connection.is_head = text.starts_with("HEAD ");
        // The server may have closed already. Its response is what the transcript compares.
        let _ = with_timeout(connection.transport.write_all(text.as_bytes())).await;
        let _ = with_timeout(connection.transport.flush()).await;
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
        tokio::time::timeout(WAIT_TIMEOUT, reached).await.unwrap();
    }

    async fn receive_interim(&mut self, role: Role) {
        let connection = self.connection(role);
        let end = loop {
            match find(&connection.input, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => connection.fill().await.unwrap(),
            }
        };
        let received: Vec<u8> = connection.input.drain(..end).collect();
        self.record(role, &received, "");
    }

    /// Receives a response, and the end of the connection if the response announces it.
    async fn receive(&mut self, role: Role) {
        let connection = self.connection(role);
        let (length, end) = loop {
            match connection.message() {
                Message::Whole(length) if !connection.announces_close() => break (length, "open"),
                message => {
                    let Err(error) = connection.fill().await else { continue };
                    let is_whole = message != Message::Partial && error == ErrorKind::WriteZero;
                    break (connection.input.len(), if is_whole { "closed" } else { "cut" });
                }
            }
        };
        let received: Vec<u8> = connection.input.drain(..length).collect();
        self.record(role, &received, end);
    }

    fn record(&mut self, role: Role, received: &[u8], end: &str) {
        let mark = format!("{}<", letter(role));
        self.seen += &show(&mark, received);
        if !end.is_empty() {
            self.seen.extend([mark.as_str(), " (", end, ")\n"]);
        }
    }
}

fn letter(role: Role) -> char {
    match role {
        Role::Source => 'S',
        Role::Destination => 'D',
        Role::Other => 'O',
    }
}

impl Connection {
    /// Reads once. The regular end of the connection is [`ErrorKind::WriteZero`].
    async fn fill(&mut self) -> Result<(), ErrorKind> {
        match with_timeout(self.transport.read_buf(&mut self.input)).await {
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
        if self.is_head || ["204", "304"].iter().any(|status| text.starts_with(&format!("http/1.1 {status}")))
        {
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
