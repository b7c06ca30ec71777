//! Plays scripts to servers, and compares what the clients receive with the record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use rendezvous_server::config::DataPath;
use serde_json::{Value, json};
use testkit::client::{Client, End, Response, with_timeout};
use testkit::messages::request;
use testkit::script::{Place, Role, Script, Step, Targets};
use testkit::server::{TestServer, get};

/// A server that splices, and one that copies.
pub(crate) struct Servers {
    splicing: TestServer,
    copying: TestServer,
}

/// Recorded as the end of a script that hangs, or that gets a response which is not HTTP.
pub(crate) const HANGS: &str = "it hangs, or panics";

impl Servers {
    pub(crate) async fn start() -> Self {
        let splicing = TestServer::start_with(|config| config.data_path = DataPath::Splice).await;
        let copying = TestServer::start_with(|config| config.data_path = DataPath::Copy).await;
        Self { splicing, copying }
    }

    /// Plays the script to both servers with both forms of targets. `splits` is the seed of the places at which its bytes are split;
    /// 0 sends them whole. Returns the record, if it is the same in all runs, or how they differ.
    pub(crate) async fn play(&self, script: &Script, splits: u64) -> Result<Vec<String>, String> {
        let seen = play(&self.splicing, script, Targets::Plain, 0).await;
        let others = [
            (&self.splicing, Targets::Rare, 0),
            (&self.copying, Targets::Plain, splits),
            (&self.copying, Targets::Rare, splits),
        ];
        for (server, targets, splits) in others {
            let other = play(server, script, targets, splits).await;
            if other != seen {
                let lines = other.iter().zip(&seen).filter(|(other, seen)| other != seen);
                let lines = lines.map(|(other, seen)| format!("  {other}\n  instead of {seen}\n"));
                let (lines, steps) = (lines.collect::<String>(), format!("{:?}", script.steps));
                return Err(format!(
                    "{steps:.3000}\n{}\n{targets:?} targets, split by {splits}\n{lines}",
                    script.create
                ));
            }
        }
        Ok(seen)
    }
}

/// Plays all scripts, with their bytes whole and split, and asserts that each run matches the record `records/<name>.snap`.
pub(crate) async fn assert_recorded<S: AsRef<str>>(name: &str, scripts: impl IntoIterator<Item = S>) {
    let servers = Servers::start().await;
    let (mut records, mut differences) = (String::new(), Vec::new());
    for text in scripts {
        let script = Script::parse(text.as_ref());
        let mut seen = Vec::new();
        for splits in 0..3 {
            match servers.play(&script, splits).await {
                Ok(all) => seen = all,
                Err(difference) => differences.push(difference),
            }
        }
        let text: String = text.as_ref().escape_debug().take(200).collect();
        writeln!(records, "{text}\n  {}\n", seen.join("\n  ")).unwrap();
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("records");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, records));
}

/// Returns all that the clients receive, in the order of the script, and the stream's last status.
async fn play(server: &TestServer, script: &Script, targets: Targets, splits: u64) -> Vec<String> {
    let (place, tokens) =
        if script.at_path { (new_path(), Default::default()) } else { create(server, script).await };
    let (clients, open, seen) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    let mut stage = Stage { server, place, tokens, targets, splits, racy: script.racy, clients, open, seen };
    let played = async {
        for step in &script.steps {
            stage.take(step).await;
        }
        // Checks that the connections which no response closed are open.
        for role in std::mem::take(&mut stage.open) {
            stage.take(&Step::Send(role, get("/ping").into())).await;
            stage.take(&Step::Answer(role)).await;
        }
    };
    let played = AssertUnwindSafe(played).catch_unwind().await;
    let end = if played.is_ok() { stage.status().await } else { HANGS.into() };
    stage.seen.push(end);
    stage.seen
}

async fn create(server: &TestServer, script: &Script) -> (Place, [String; 2]) {
    let created = server.create_response(&script.create).await;
    let text = |name: &str| created[name].as_str().unwrap_or_default().to_owned();
    (Place::Stream(text("stream")), [text("upload_token"), text("download_token")])
}

/// A path that no other script uses: one that failed may leave its clients there.
fn new_path() -> Place {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Place::Path(format!("script/{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

struct Stage<'a> {
    server: &'a TestServer,
    place: Place,
    /// The tokens of source and destination; empty where the stream has none.
    tokens: [String; 2],
    targets: Targets,
    splits: u64,
    racy: bool,
    clients: BTreeMap<Role, Client>,
    /// The clients whose last response did not close their connection.
    open: BTreeSet<Role>,
    seen: Vec<String>,
}

impl Stage<'_> {
    async fn take(&mut self, step: &Step) {
        match step {
            Step::Send(role, bytes) => self.send(*role, bytes).await,
            Step::HalfClose(role) => self.client(*role).half_close().await,
            Step::Close(role) => self.leaving(*role).close(),
            Step::Reset(role) => self.leaving(*role).reset(),
            Step::Until(state) => {
                with_timeout(async { while self.state().await["state"] != **state {} }).await;
            }
            Step::Passed(bytes) => {
                with_timeout(async { while self.state().await["bytes_transferred"] != *bytes {} }).await;
            }
            Step::Interim(role) => {
                let head = self.client(*role).head().await;
                self.seen.push(format!("{role:?} receives {head:?}"));
            }
            Step::Answer(role) => self.receive(*role).await,
        }
    }

    fn client(&mut self, role: Role) -> &mut Client {
        self.clients.get_mut(&role).unwrap()
    }

    fn leaving(&mut self, role: Role) -> Client {
        self.open.remove(&role);
        self.clients.remove(&role).unwrap()
    }

    async fn send(&mut self, role: Role, bytes: &[u8]) {
        let bytes = self.targets.fill(bytes, &self.place, &self.tokens);
        if !self.clients.contains_key(&role) {
            self.clients.insert(role, self.server.connect().await);
        }
        let mut random = self.splits;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut at = rest.len();
            if self.splits != 0 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                at = 1 + usize::try_from(random >> 33).unwrap() % rest.len();
            }
            // The server may have closed already. Its response is what the scripts compare.
            with_timeout(self.client(role).push(&rest[..at])).await;
            rest = &rest[at..];
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn receive(&mut self, role: Role) {
        self.open.remove(&role);
        let head = loop {
            match self.client(role).head().await {
                Ok(head) if head.starts_with("HTTP/1.1 100 ") => {
                    self.seen.push(format!("{role:?} receives {head:?}"));
                }
                Ok(head) => break head,
                Err(_) if self.racy && role == Role::Destination => return self.see_failure(),
                Err(end) => return self.seen.push(format!("{role:?} gets no response: {end:?}")),
            }
        };
        let response = self.client(role).rest(head).await;
        let cut = matches!(response.end, End::Short | End::Reset);
        if self.racy && role == Role::Destination && (cut || response.status == 502) {
            return self.see_failure();
        }
        let mut afterwards = String::new();
        if !cut && response.closes() {
            afterwards = format!(", then {:?}", self.client(role).ending().await);
        } else if !cut {
            self.open.insert(role);
        }
        self.seen.push(format!("{role:?} gets {}{afterwards}", show(&response)));
    }

    fn see_failure(&mut self) {
        self.seen.push("Destination sees a failure".into());
    }

    /// The status of the stream, or whether somebody is at the path.
    async fn state(&self) -> Value {
        match &self.place {
            Place::Stream(id) => {
                self.server.status_at(&format!("/stream/{id}/status?token={}", self.tokens[0])).await
            }
            Place::Path(name) => {
                let mut client = self
                    .server
                    .connect_and_send(request("HEAD", &format!("/p/{name}"), "Connection: close\r\n"))
                    .await;
                let is_taken = client.head().await.unwrap().starts_with("HTTP/1.1 200 ");
                json!({ "state": if is_taken { "TAKEN" } else { "FREE" } })
            }
        }
    }

    async fn status(&self) -> String {
        let mut status = self.state().await;
        for name in ["id", "created_at", "deactivated_at"] {
            if let Some(value) = status.get_mut(name) {
                *value = Value::from("*");
            }
        }
        if self.racy && status.get("bytes_transferred").is_some() {
            status["bytes_transferred"] = Value::from("*");
        }
        status.to_string()
    }
}

/// Fields of every download, which the records omit. The transcripts of `tests/transcripts` have them.
const DEFAULTS: [&str; 5] = [
    "cache-control: no-store",
    "x-content-type-options: nosniff",
    "x-robots-tag: none",
    "accept-ranges: none",
    "x-accel-buffering: no",
];

fn show(response: &Response) -> String {
    let is_date = |line: &str| line.len() == 35 && line.starts_with("date: ");
    let lines = response.head.trim_end().split("\r\n");
    let head = lines.filter(|line| !DEFAULTS.contains(line) && !is_date(line)).collect::<Vec<_>>().join(", ");
    let body = match response.body.len() {
        // The rest is the id.
        _ if response.status == 201 => String::from_utf8_lossy(&response.body).split_at(10).0.to_owned(),
        // A reset may discard bytes that the client has not read.
        _ if response.end == End::Reset => "some".into(),
        0..1000 => format!("{:?}", String::from_utf8_lossy(&response.body)),
        length => {
            let mut hasher = DefaultHasher::new();
            response.body.hash(&mut hasher);
            format!("{length} bytes of hash {:x}", hasher.finish())
        }
    };
    format!("[{head}] {body}, {:?}", response.end)
}
