//! Whole connections: a script is played to a server that splices, and to one that copies. After each step the clients of both must
//! have received the same, and the end of a transfer must be truthful. The sides meet at a stream, or after the step `path` at a path.
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
use testkit::script::{Place, Role, Script, Step, Targets, fill};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::chunked::{self, Body};
use client::Client;
use requests::{Request, Target, requests};
use responses::{Mask, Response};

const MAX_STEPS: usize = 40;
/// The limit of all bytes that a script sends. More would only take more time.
const MAX_BYTES: usize = 512 * 1024;
/// As [`MAX_BYTES`], for streams with a promised length, whose bodies are sent byte by byte.
const MAX_PROMISED_BYTES: usize = 1024;
/// The path of scripts at a path. A script leaves nothing there.
const PATH: &str = "fuzz/path";
/// The token for the metrics.
const ADMIN_TOKEN: &str = "fuzz-admin-token-16";
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
    at_path: bool,
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
    Play { create: script.create, at_path: script.at_path, events }
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
            let Play { create, at_path, events } = play;
            assert!(actual == expected, "{create:?}, at a path: {at_path}\n{events:?}\n{targets:?}\n{shown}");
        }
    }
}

/// Starts a server, whose task ends with the runtime.
async fn serve(data_path: DataPath) -> SocketAddr {
    // The token keeps scripts from the list and the metrics, which depend on earlier scripts.
    let admin_token = Token::parse(ADMIN_TOKEN).ok();
    let config = Config { port: 0, data_path, admin_token, ..Config::default() };
    let server = Server::bind(config, Vec::new()).await.unwrap();
    let address = server.address(ListenerKind::Main).unwrap();
    tokio::spawn(server.run(std::future::pending()));
    address
}

struct Stage {
    server: SocketAddr,
    targets: Targets,
    place: Place,
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
        let place =
            if play.at_path { Place::Path(PATH.to_owned()) } else { Place::Stream("none".to_owned()) };
        let tokens = [String::new(), String::new()];
        let (clients, current, log) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { server, targets, place, tokens, promises, clients, current, sent: 0, log }
    }

    /// Plays the script, and returns the log of all that the clients receive.
    async fn play(mut self, play: &Play) -> Vec<String> {
        if !play.at_path {
            self.create(&play.create).await;
        }
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
                self.place = Place::Stream(text("stream"));
            }
        }
        self.log.push(created.show(&Mask::new(self.place.name(), &self.tokens)));
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
        let bytes = self.targets.fill(bytes, &self.place, &self.tokens);
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
            if piece.needs_pair && !self.has_paired(piece.target).await {
                return false;
            }
            self.clients[at].1.send(&output[from..piece.end]);
            from = piece.end;
            idle::settle(&mut self.clients, true).await;
        }
        true
    }

    /// Whether the body of an upload ends in an id or a token. A download with only a part of it could not be masked, and the
    /// servers have different ones.
    fn ends_in_a_secret(&self, output: &[u8]) -> bool {
        const STAND_IN: u8 = b'z';
        let secrets = [self.place.name(), &self.tokens[0], &self.tokens[1]]
            .into_iter()
            .filter(|secret| !secret.is_empty());
        let hidden = secrets.fold(output.to_vec(), |output, secret| {
            fill(&output, secret.as_bytes(), &vec![STAND_IN; secret.len()])
        });
        requests(&hidden).pop().is_some_and(|last| last.is_upload() && last.body.last() == Some(&STAND_IN))
    }

    /// The status of the stream, if there is one: not for a path, nor for a stream that is forgotten.
    async fn status(&mut self) -> Value {
        let Place::Stream(id) = &self.place else { return Value::Null };
        let target = format!("/stream/{id}/status?token={}", self.tokens[0]);
        let response = self.ask(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        serde_json::from_slice(&response.body).unwrap_or_default()
    }

    /// Whether the source at this target has met its destination. A path does not show that, so no source may wait at any.
    async fn has_paired(&mut self, target: Target) -> bool {
        if target == Target::Path {
            return self.sources_at_paths().await == 0;
        }
        let status = self.status().await;
        !["CREATED", "SRC_CONNECTED", "DST_CONNECTED"].contains(&status["state"].as_str().unwrap_or_default())
    }

    /// The number of sources that wait at paths.
    async fn sources_at_paths(&mut self) -> usize {
        const NAME: &str = r#"rendezvous_streams{state="source_waits",kind="path"} "#;
        let request = format!("GET /metrics?token={ADMIN_TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let metrics = self.ask(request.as_bytes()).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        metrics.lines().find_map(|line| line.strip_prefix(NAME)?.parse().ok()).unwrap()
    }

    /// Records all that the clients have received since the last call.
    fn record(&mut self) {
        let mask = Mask::new(self.place.name(), &self.tokens);
        for (at, (role, client)) in self.clients.iter_mut().enumerate() {
            if client.has_new_input() {
                let responses = client.responses();
                let shown: Vec<_> = responses.iter().map(|response| response.show(&mask)).collect();
                self.log.push(format!("{role:?} {at} receives {shown:#?}, {:?}", client.end()));
            }
        }
        self.log.push("--".into());
    }

    /// Asserts that a download of the stream is whole if and only if the transfer is finished, that each whole one equals an upload, and
    /// that each source at a path that gets 200 has been received.
    async fn check_outcome(&mut self) {
        let status = self.status().await;
        self.log.push(Mask::new(self.place.name(), &self.tokens).hide(&status.to_string()));
        let exchanges: Vec<_> = self.clients.iter().flat_map(|(_, client)| client.exchanges()).collect();
        let whole = |target| {
            let is_so = move |(request, response): &&(Request, Response)| {
                request.is_download() && request.target == target && response.is_whole()
            };
            exchanges.iter().filter(is_so).map(|(_, response)| response).collect::<Vec<_>>()
        };
        let (of_stream, of_paths) = (whole(Target::Stream), whole(Target::Path));
        for (target, downloads) in [(Target::Stream, &of_stream), (Target::Path, &of_paths)] {
            for download in downloads {
                assert!(self.has_sent(target, &download.body), "no client has sent {download:?}");
            }
        }
        let is_delivered = |(request, response): &&(Request, Response)| {
            request.is_upload() && request.target == Target::Path && response.status() == 200
        };
        let delivered = exchanges.iter().filter(is_delivered).count();
        assert!(delivered <= of_paths.len(), "{delivered} sources get 200: {of_paths:?}");
        assert!(of_stream.len() <= 1, "two whole downloads: {of_stream:?}");
        // A forgotten stream has no status.
        let Some(state) = status["state"].as_str() else { return };
        assert_eq!(!of_stream.is_empty(), state == "FINISHED", "{status}, {of_stream:?}");
        if let [download] = &of_stream[..] {
            assert_eq!(status["bytes_transferred"], download.body.len());
        }
    }

    /// Whether a client has sent this body to such a target.
    fn has_sent(&self, target: Target, body: &[u8]) -> bool {
        let has_sent_it = |(_, client): &(Role, Client)| {
            let mut uploads = requests(client.output()).into_iter().filter(Request::is_upload);
            uploads.any(|upload| upload.target == target && upload.body == body)
        };
        self.clients.iter().any(has_sent_it)
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
    /// The target of the request that it belongs to.
    target: Target,
    /// The results are comparable only if the bytes before this piece have been passed on, which needs a pair.
    needs_pair: bool,
}

/// Splits `output` after `from` so that no byte of a body races with a failure of that body. How many bytes are passed on before an
/// abort may differ between runs.
fn pieces(output: &[u8], from: usize, promises: bool) -> Vec<Piece> {
    let (mut splits, mut target) = (Vec::new(), Target::Other);
    if let Some(upload) = requests(output).pop().filter(Request::is_upload)
        && let Some(start) = upload.chunked_from
    {
        target = upload.target;
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
    begins.zip(ends).map(|(begin, end)| Piece { end, target, needs_pair: splits.contains(&begin) }).collect()
}
