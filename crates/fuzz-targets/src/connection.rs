//! Whole connections: a script is played to a server that splices, and to one that copies. After each step the clients of both must
//! have received the same, and the end of a transfer must be truthful.
//!
//! The script is in the language of [`testkit::script`]; anything that is not a step is skipped. The steps that wait do nothing:
//! after each step the server runs until it is idle, by a clock that is otherwise paused, and the clients read all that it sends.
//! Two additions: the step `wait` advances the clock by twenty seconds, and the placeholder `{64k}` stands for 64 KiB.
//!
//! The sockets are real, because the server relies on information that only a kernel has: whether a client has left, which bytes are
//! acknowledged, and what can be spliced. On loopback they are as predictable as memory: bytes have arrived when the call that sends
//! them returns.
//!
//! All runs in one thread, with one pair of servers per thread. `MAX_STEPS` and `MAX_BYTES` bound a script.

mod client;
mod idle;
mod requests;
mod responses;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rendezvous_server::config::{Config, DataPath, Token};
use rendezvous_server::internal::HTTP2_PREFACE;
use rendezvous_server::{ListenerKind, Server};
use serde_json::Value;
use testkit::script::{Role, Script, Step, Targets, fill};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::chunked::{self, Body};
use client::Client;
use requests::{Request, requests};
use responses::{Mask, Response};

const MAX_STEPS: usize = 40;
/// The limit of all bytes that a script sends. More would only take more time.
const MAX_BYTES: usize = 512 * 1024;
/// As [`MAX_BYTES`], for streams with a promised length, whose bodies are sent byte by byte.
const MAX_PROMISED_BYTES: usize = 1024;
/// More than the ttl of a stream, and than the retention after it.
const UNTIL_FORGOTTEN: Duration = Duration::from_secs(200);

/// Checks a script.
pub fn check(data: &[u8]) {
    thread_local! {
        static SERVERS: Servers = Servers::start();
    }
    SERVERS.with(|servers| servers.compare(&parse(&String::from_utf8_lossy(data))));
}

#[derive(Debug)]
enum Event {
    Step(Step),
    Wait,
}

struct Play {
    create: String,
    events: Vec<Event>,
}

fn parse(text: &str) -> Play {
    let (mut script, mut events) = (Script::default(), Vec::new());
    for step in text.split(" | ") {
        if step == "wait" {
            events.push(Event::Wait);
        } else {
            script.take(step);
            events.extend(script.steps.drain(..).map(Event::Step));
        }
    }
    events.truncate(MAX_STEPS);
    Play { create: script.create, events }
}

struct Servers {
    runtime: Runtime,
    splicing: SocketAddr,
    copying: SocketAddr,
}

impl Servers {
    fn start() -> Self {
        let runtime = idle::runtime();
        let (splicing, copying) = runtime.block_on(async {
            // Rust's runtime ignores SIGPIPE, but it does not start under the fuzzer's `main`. A signal handler is enough.
            drop(signal(SignalKind::pipe()).unwrap());
            (serve(DataPath::Splice).await, serve(DataPath::Copy).await)
        });
        Self { runtime, splicing, copying }
    }

    /// Plays the script to both servers with each form of targets, and compares the logs.
    fn compare(&self, play: &Play) {
        for targets in [Targets::Plain, Targets::Rare] {
            let log = |server| self.runtime.block_on(Stage::new(server, targets, play).play(play));
            let (expected, actual) = (log(self.splicing), log(self.copying));
            let differing = actual.iter().zip(&expected).filter(|(actual, expected)| actual != expected);
            let shown: Vec<_> = differing
                .map(|(copied, spliced)| format!("  copied:  {copied}\n  spliced: {spliced}\n"))
                .collect();
            let shown = shown.concat();
            assert!(actual == expected, "{:?}\n{:?}\n{targets:?}\n{shown}", play.create, play.events);
        }
    }
}

/// Starts a server, whose task ends with the runtime.
async fn serve(data_path: DataPath) -> SocketAddr {
    // The token keeps scripts from the list and the metrics, which depend on earlier scripts.
    let config = Config { port: 0, data_path, admin_token: Some(Token::mint()), ..Config::default() };
    let server = Server::bind(config, Vec::new()).await.unwrap();
    let address = server.address(ListenerKind::Main).unwrap();
    tokio::spawn(server.run(std::future::pending()));
    address
}

struct Stage {
    server: SocketAddr,
    targets: Targets,
    id: String,
    tokens: [String; 2],
    promises: bool,
    /// All clients, including those that have left.
    clients: Vec<(Role, Client)>,
    /// The index of the current client of each role.
    current: BTreeMap<Role, usize>,
    sent: usize,
    log: Vec<String>,
}

impl Stage {
    fn new(server: SocketAddr, targets: Targets, play: &Play) -> Self {
        let promises = play.create.to_ascii_lowercase().contains("length");
        let (id, tokens) = ("none".to_owned(), [String::new(), String::new()]);
        let (clients, current, log) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { server, targets, id, tokens, promises, clients, current, sent: 0, log }
    }

    /// Plays the script, and returns the log of all that the clients receive.
    async fn play(mut self, play: &Play) -> Vec<String> {
        self.create(&play.create).await;
        for event in &play.events {
            if !self.take(event).await {
                break;
            }
            self.record();
        }
        self.check_outcome().await;
        self.end().await;
        self.log
    }

    async fn create(&mut self, body: &str) {
        let head =
            format!("POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let created = self.ask(format!("{head}{body}").as_bytes()).await;
        if let Ok(Value::Object(object)) = serde_json::from_slice(&created.body) {
            let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            self.tokens = [text("upload_token"), text("download_token")];
            if object.contains_key("stream") {
                self.id = text("stream");
            }
        }
        self.log.push(created.show(&Mask::new(&self.id, &self.tokens)));
    }

    /// The response to a request on a new connection.
    async fn ask(&mut self, request: &[u8]) -> Response {
        let mut client = [(Role::Other, Client::connect(self.server))];
        client[0].1.send(request);
        idle::settle(&mut client, false).await;
        client[0].1.responses().pop().unwrap_or_default()
    }

    /// Plays an event. Returns false if the script ends here.
    async fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Wait => {
                for _ in 0..20 {
                    tokio::time::advance(Duration::from_secs(1)).await;
                    idle::settle(&mut self.clients, false).await;
                }
            }
            Event::Step(Step::Send(role, bytes)) => return self.send(*role, bytes).await,
            Event::Step(Step::HalfClose(role)) => self.leave(*role, Client::half_close),
            Event::Step(Step::Close(role)) => {
                self.leave(*role, Client::close);
                self.current.remove(role);
            }
            Event::Step(Step::Reset(role)) => {
                self.leave(*role, Client::reset);
                self.current.remove(role);
            }
            // The server is idle after each step, so there is nothing to wait for.
            Event::Step(Step::Until(_) | Step::Passed(_) | Step::Interim(_) | Step::Answer(_)) => {
                return true;
            }
        }
        idle::settle(&mut self.clients, true).await;
        true
    }

    fn leave(&mut self, role: Role, how: impl Fn(&mut Client)) {
        if let Some(at) = self.current.get(&role) {
            how(&mut self.clients[*at].1);
        }
    }

    async fn send(&mut self, role: Role, bytes: &[u8]) -> bool {
        let bytes = self.targets.fill(bytes, &self.id, &self.tokens);
        let bytes = fill(&bytes, b"{64k}", &b"0123456789abcdef".repeat(4096));
        self.sent += bytes.len();
        if self.sent > if self.promises { MAX_PROMISED_BYTES } else { MAX_BYTES } {
            return false;
        }
        let at = *self.current.entry(role).or_insert_with(|| {
            self.clients.push((role, Client::connect(self.server)));
            self.clients.len() - 1
        });
        let output = [self.clients[at].1.output(), &bytes].concat();
        // HTTP/2 is not compared: its responses have a compressed date, which cannot be masked.
        if output.starts_with(&HTTP2_PREFACE[..14]) {
            return false;
        }
        if self.ends_in_a_secret(&output) {
            return false;
        }
        let mut from = output.len() - bytes.len();
        for piece in pieces(&output, from, self.promises) {
            if piece.needs_pair && !self.has_paired().await {
                return false;
            }
            self.clients[at].1.send(&output[from..piece.end]);
            from = piece.end;
            idle::settle(&mut self.clients, true).await;
        }
        true
    }

    /// Whether the body of a `PUT` ends in an id or a token. A download with only a part of it could not be masked, and the
    /// servers have different ones.
    fn ends_in_a_secret(&self, output: &[u8]) -> bool {
        const STAND_IN: u8 = b'z';
        let secrets =
            [&self.id, &self.tokens[0], &self.tokens[1]].into_iter().filter(|secret| !secret.is_empty());
        let hidden = secrets.fold(output.to_vec(), |output, secret| {
            fill(&output, secret.as_bytes(), &vec![STAND_IN; secret.len()])
        });
        requests(&hidden).pop().is_some_and(|last| last.is_put && last.body.last() == Some(&STAND_IN))
    }

    async fn status(&mut self) -> Value {
        let target = format!("/stream/{}/status?token={}", self.id, self.tokens[0]);
        let response = self.ask(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        serde_json::from_slice(&response.body).unwrap_or_default()
    }

    async fn has_paired(&mut self) -> bool {
        let status = self.status().await;
        !["CREATED", "SRC_CONNECTED", "DST_CONNECTED"].contains(&status["state"].as_str().unwrap_or_default())
    }

    /// Records all that the clients have received since the last call.
    fn record(&mut self) {
        let mask = Mask::new(&self.id, &self.tokens);
        for (at, (role, client)) in self.clients.iter_mut().enumerate() {
            if client.has_new_input() {
                let responses = client.responses();
                let shown: Vec<_> = responses.iter().map(|response| response.show(&mask)).collect();
                self.log.push(format!("{role:?} {at} receives {shown:#?}, {:?}", client.end()));
            }
        }
        self.log.push("--".into());
    }

    /// Asserts that a download is whole if and only if the transfer is finished, and that it then equals the upload.
    async fn check_outcome(&mut self) {
        let status = self.status().await;
        let mask = Mask::new(&self.id, &self.tokens);
        self.log.push(mask.hide(&status.to_string()));
        let responses = self.clients.iter().flat_map(|(_, client)| client.responses());
        let whole: Vec<_> = responses.filter(Response::is_whole_download).collect();
        assert!(whole.len() <= 1, "two whole downloads: {whole:?}");
        // A forgotten stream has no status.
        let Some(state) = status["state"].as_str() else { return };
        assert_eq!(!whole.is_empty(), state == "FINISHED", "{status}, {whole:?}");
        if let [download] = &whole[..] {
            assert_eq!(status["bytes_transferred"], download.body.len());
            let has_sent_it = |(_, client): &(Role, Client)| {
                requests(client.output())
                    .iter()
                    .any(|request| request.is_put && request.body == download.body)
            };
            assert!(self.clients.iter().any(has_sent_it), "no client has sent {download:?}");
        }
    }

    /// Ends all connections, and lets the server forget the stream, before the next script.
    async fn end(&mut self) {
        self.clients.iter_mut().for_each(|(_, client)| client.reset());
        idle::settle(&mut self.clients, false).await;
        for _ in 0..2 {
            tokio::time::advance(UNTIL_FORGOTTEN).await;
            idle::settle(&mut self.clients, false).await;
        }
    }
}

/// A part of a client's bytes, sent separately.
struct Piece {
    end: usize,
    /// The results are comparable only if the bytes before this piece have been passed on, which needs a pair.
    needs_pair: bool,
}

/// Splits `output` after `from` so that no byte of a body races with a failure of that body. How many bytes are passed on before an
/// abort may differ between runs.
fn pieces(output: &[u8], from: usize, promises: bool) -> Vec<Piece> {
    let mut splits = Vec::new();
    if let Some(Request { is_put: true, chunked_from: Some(start), .. }) = requests(output).pop() {
        if let chunked::End::Broken(after) = Body::read(&output[start..]).end {
            splits.push(start + after);
        }
        if promises {
            // Any byte may be the last of the promised length, or the first beyond it.
            splits.extend(start..output.len());
        }
    }
    splits.retain(|at| (from + 1..output.len()).contains(at) || *at == from);
    splits.sort_unstable();
    splits.dedup();
    let starts: Vec<usize> = splits.iter().copied().filter(|at| *at > from).collect();
    let ends = starts.iter().copied().chain([output.len()]);
    let begins = [from].into_iter().chain(starts.iter().copied());
    begins.zip(ends).map(|(begin, end)| Piece { end, needs_pair: splits.contains(&begin) }).collect()
}
