//! Whole connections: a script is played to a server that splices, and to one that copies. After each step all clients have seen the
//! same, and no end of a transfer is a lie.
//!
//! The script is in the language of `tests/scripts/script.rs`; what is no step of it is left out. Nothing is waited for: behind
//! each step the server gets all the time that it needs to come to rest, by a clock that stands still otherwise, and
//! whatever it says is read. Two words are added: `wait` is twenty seconds, and `{64k}` so many bytes.
//!
//! The sockets are real, because what the server does rests on what only a kernel tells: who has left, what is acknowledged,
//! what can be spliced. On loopback they are as good as memory: what is sent has arrived when the call returns.

mod answers;
mod client;
mod requests;
mod rest;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rendezvous_server::config::Token;
use rendezvous_server::config::{Config, DataPath};
use rendezvous_server::internal::HTTP2_PREFACE;
use rendezvous_server::{ListenerKind, Server};
use serde_json::Value;
use testkit::script::{Script, Step, Targets, Who, fill};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::chunked::{self, Body};
use answers::{Answer, Mask};
use client::Client;
use requests::{Request, requests};

const MAX_STEPS: usize = 40;
/// Larger ones take time and hold nothing more.
const MAX_BYTES: usize = 512 * 1024;
/// The same of a body that was promised, which is said byte by byte.
const MAX_PROMISED_BYTES: usize = 1024;
/// Longer than a stream lives, and than it is kept after that.
const UNTIL_FORGOTTEN: Duration = Duration::from_secs(200);

/// A script.
pub fn hold(data: &[u8]) {
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
        let runtime = rest::runtime();
        let (splicing, copying) = runtime.block_on(async {
            // A program in Rust does not die of a closed pipe, but one whose `main` is the fuzzer's does. To listen is enough.
            drop(signal(SignalKind::pipe()).unwrap());
            (serve(DataPath::Splice).await, serve(DataPath::Copy).await)
        });
        Self { runtime, splicing, copying }
    }

    /// Plays it to both, with each form of the targets.
    fn compare(&self, play: &Play) {
        for targets in [Targets::Plain, Targets::Rare] {
            let watch = |server| self.runtime.block_on(Stage::new(server, targets, play).play(play));
            let (expected, actual) = (watch(self.splicing), watch(self.copying));
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
    // The list and the metrics tell of more than one play.
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
    /// Those that were left too.
    clients: Vec<(Who, Client)>,
    /// Who speaks for whom now.
    current: BTreeMap<Who, usize>,
    said: usize,
    log: Vec<String>,
}

impl Stage {
    fn new(server: SocketAddr, targets: Targets, play: &Play) -> Self {
        let promises = play.create.to_ascii_lowercase().contains("length");
        let (id, tokens) = ("none".to_owned(), [String::new(), String::new()]);
        let (clients, current, log) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { server, targets, id, tokens, promises, clients, current, said: 0, log }
    }

    /// All that the clients see.
    async fn play(mut self, play: &Play) -> Vec<String> {
        self.create(&play.create).await;
        for event in &play.events {
            if !self.take(event).await {
                break;
            }
            self.look();
        }
        self.judge().await;
        self.end().await;
        self.log
    }

    async fn create(&mut self, body: &str) {
        let head =
            format!("POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let made = self.ask(format!("{head}{body}").as_bytes()).await;
        if let Ok(Value::Object(made)) = serde_json::from_slice(&made.body) {
            let text = |name: &str| made.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            self.tokens = [text("upload_token"), text("download_token")];
            if made.contains_key("stream") {
                self.id = text("stream");
            }
        }
        self.log.push(made.show(&Mask::new(&self.id, &self.tokens)));
    }

    /// The answer to a request of a connection of its own.
    async fn ask(&mut self, request: &[u8]) -> Answer {
        let mut client = [(Who::Other, Client::connect(self.server))];
        client[0].1.say(request);
        rest::settle(&mut client, false).await;
        client[0].1.answers().pop().unwrap_or_default()
    }

    /// False where the play is over.
    async fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Wait => {
                for _ in 0..20 {
                    tokio::time::advance(Duration::from_secs(1)).await;
                    rest::settle(&mut self.clients, false).await;
                }
            }
            Event::Step(Step::Say(who, bytes)) => return self.say(*who, bytes).await,
            Event::Step(Step::HalfClose(who)) => self.leave(*who, Client::half_close),
            Event::Step(Step::Close(who)) => {
                self.leave(*who, Client::close);
                self.current.remove(who);
            }
            Event::Step(Step::Reset(who)) => {
                self.leave(*who, Client::reset);
                self.current.remove(who);
            }
            // Everything is waited for.
            Event::Step(Step::Until(_) | Step::Passed(_) | Step::Interim(_) | Step::Answer(_)) => {
                return true;
            }
        }
        rest::settle(&mut self.clients, true).await;
        true
    }

    fn leave(&mut self, who: Who, how: impl Fn(&mut Client)) {
        if let Some(at) = self.current.get(&who) {
            how(&mut self.clients[*at].1);
        }
    }

    async fn say(&mut self, who: Who, bytes: &[u8]) -> bool {
        let bytes = self.targets.fill(bytes, &self.id, &self.tokens);
        let bytes = fill(&bytes, b"{64k}", &b"0123456789abcdef".repeat(4096));
        self.said += bytes.len();
        if self.said > if self.promises { MAX_PROMISED_BYTES } else { MAX_BYTES } {
            return false;
        }
        let at = *self.current.entry(who).or_insert_with(|| {
            self.clients.push((who, Client::connect(self.server)));
            self.clients.len() - 1
        });
        let said = [self.clients[at].1.said(), &bytes].concat();
        // It is not this protocol that is compared; and it compresses the date.
        if said.starts_with(&HTTP2_PREFACE[..14]) {
            return false;
        }
        if self.ends_in_a_secret(&said) {
            return false;
        }
        let mut from = said.len() - bytes.len();
        for piece in pieces(&said, from, self.promises) {
            if piece.needs_pair && !self.has_paired().await {
                return false;
            }
            self.clients[at].1.say(&said[from..piece.end]);
            from = piece.end;
            rest::settle(&mut self.clients, true).await;
        }
        true
    }

    /// Whether the body of a `PUT` ends in an id or a token. If only a part of that is in it, it can not be hidden, and each
    /// server has its own.
    fn ends_in_a_secret(&self, said: &[u8]) -> bool {
        const STAND_IN: u8 = b'z';
        let secrets =
            [&self.id, &self.tokens[0], &self.tokens[1]].into_iter().filter(|secret| !secret.is_empty());
        let hidden = secrets.fold(said.to_vec(), |said, secret| {
            fill(&said, secret.as_bytes(), &vec![STAND_IN; secret.len()])
        });
        requests(&hidden).pop().is_some_and(|last| last.is_put && last.body.last() == Some(&STAND_IN))
    }

    async fn status(&mut self) -> Value {
        let target = format!("/stream/{}/status?token={}", self.id, self.tokens[0]);
        let answer = self.ask(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    async fn has_paired(&mut self) -> bool {
        let status = self.status().await;
        !["CREATED", "SRC_CONNECTED", "DST_CONNECTED"].contains(&status["state"].as_str().unwrap_or_default())
    }

    /// Writes down what has been heard since the last look.
    fn look(&mut self) {
        let mask = Mask::new(&self.id, &self.tokens);
        for (at, (who, client)) in self.clients.iter_mut().enumerate() {
            if client.has_news() {
                let answers = client.answers();
                let shown: Vec<_> = answers.iter().map(|answer| answer.show(&mask)).collect();
                self.log.push(format!("{who:?} {at} hears {shown:#?}, {:?}", client.end()));
            }
        }
        self.log.push("--".into());
    }

    /// The first law: a transfer that is not finished never looks whole, and one that is was received as it was sent.
    async fn judge(&mut self) {
        let status = self.status().await;
        let mask = Mask::new(&self.id, &self.tokens);
        self.log.push(mask.hide(&status.to_string()));
        let answers = self.clients.iter().flat_map(|(_, client)| client.answers());
        let whole: Vec<_> = answers.filter(Answer::is_whole_download).collect();
        assert!(whole.len() <= 1, "two have received it: {whole:?}");
        // A stream that is forgotten has no status.
        let Some(state) = status["state"].as_str() else { return };
        assert_eq!(!whole.is_empty(), state == "FINISHED", "{status}, {whole:?}");
        if let [download] = &whole[..] {
            assert_eq!(status["bytes_transferred"], download.body.len());
            let is_what_was_sent = |(_, client): &(Who, Client)| {
                requests(client.said()).iter().any(|request| request.is_put && request.body == download.body)
            };
            assert!(self.clients.iter().any(is_what_was_sent), "nobody has sent {download:?}");
        }
    }

    /// Nothing of it is there when the next begins.
    async fn end(&mut self) {
        self.clients.iter_mut().for_each(|(_, client)| client.reset());
        rest::settle(&mut self.clients, false).await;
        for _ in 0..2 {
            tokio::time::advance(UNTIL_FORGOTTEN).await;
            rest::settle(&mut self.clients, false).await;
        }
    }
}

/// A part of what a client says, said by itself.
struct Piece {
    end: usize,
    /// Two servers show the same only if the bytes before it have been passed on.
    needs_pair: bool,
}

/// `said` behind `from`, so split that no byte of a body races with a failure of that body: how many are passed on before
/// its cut is not the same each time, and need not be.
fn pieces(said: &[u8], from: usize, promises: bool) -> Vec<Piece> {
    let mut splits = Vec::new();
    if let Some(Request { is_put: true, chunked_from: Some(start), .. }) = requests(said).pop() {
        if let chunked::End::Broken(after) = Body::read(&said[start..]).end {
            splits.push(start + after);
        }
        if promises {
            // Any byte may be the last that was promised, or one too many.
            splits.extend(start..said.len());
        }
    }
    splits.retain(|at| (from + 1..said.len()).contains(at) || *at == from);
    splits.sort_unstable();
    splits.dedup();
    let starts: Vec<usize> = splits.iter().copied().filter(|at| *at > from).collect();
    let ends = starts.iter().copied().chain([said.len()]);
    let begins = [from].into_iter().chain(starts.iter().copied());
    begins.zip(ends).map(|(begin, end)| Piece { end, needs_pair: splits.contains(&begin) }).collect()
}
