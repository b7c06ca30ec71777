//! One episode: a server, its transfers, its trouble, and the resources that it holds in the end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::Dial;
use crate::control::Control;
use crate::laws::{Breach, Circumstances, Facts, Law, judge};
use crate::log::Log;
use crate::plan::{Episode, Mix, Scenario, Trouble};
use crate::server::{ENDS_WITHIN, MAX_STREAMS, Server, TTL, Workshop, connections};
use crate::transfer::Play;

/// Transfers of an episode at the same time.
const AT_ONCE: usize = 8;
/// The time within which a server gives back the resources of a transfer: a stream stays known for one ttl, and some responses linger.
const GIVES_BACK_WITHIN: Duration = Duration::from_secs(15);
/// The memory that the allocator may keep beyond that of a fresh server, in KiB.
const MAY_KEEP: u64 = 48 << 10;
/// The descriptors of the pipes that a server may keep.
const MAY_KEEP_PIPES: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The results of an episode.
#[derive(Default)]
pub(crate) struct Findings {
    /// The played transfers.
    pub(crate) played: Vec<Facts>,
    /// The broken laws.
    pub(crate) broken: Vec<Broken>,
}

/// A broken law with the transcript.
pub(crate) struct Broken {
    /// The laws.
    pub(crate) breaches: Vec<Breach>,
    /// The transfer that broke them; `None` for the server itself.
    pub(crate) number: Option<u64>,
    /// The transcript.
    pub(crate) transcript: String,
}

/// The environment of an episode.
#[derive(Clone)]
pub(crate) struct Props {
    /// Makes servers.
    pub(crate) workshop: Arc<Workshop>,
    /// The parameters of the run's plan.
    pub(crate) mix: Arc<Mix>,
}

/// The state that the transfers of an episode share.
struct Stage {
    props: Props,
    episode: Episode,
    dial: Dial,
    control: Control,
    /// Odd while there is no server, or while the server is about to end.
    upheavals: AtomicU64,
    begun: watch::Sender<u64>,
    waiting: Mutex<VecDeque<u64>>,
    findings: Mutex<Findings>,
}

/// Plays the transfers of these numbers.
///
/// # Errors
/// A server does not start.
pub(crate) async fn run(props: Props, episode: Episode, numbers: VecDeque<u64>) -> anyhow::Result<Findings> {
    let server = Server::start(&props.workshop, &episode, None).await.with_context(|| episode.to_string())?;
    let mut dial = server.dial.clone();
    let proxy = match episode.proxy {
        Some(proxy) => Some(props.workshop.start_proxy(proxy, &episode, &mut dial).await?),
        None => None,
    };
    let stage = Arc::new(Stage {
        control: Control::new(dial.server.plain),
        dial,
        props,
        episode,
        upheavals: AtomicU64::new(0),
        begun: watch::Sender::new(0),
        waiting: Mutex::new(numbers),
        findings: Mutex::default(),
    });
    let mut players = JoinSet::new();
    for _ in 0..AT_ONCE {
        let stage = Arc::clone(&stage);
        players.spawn(async move { stage.play().await });
    }
    let mut trouble = JoinSet::new();
    if episode.trouble == Trouble::FewDescriptors {
        let stage = Arc::clone(&stage);
        trouble.spawn(async move { stage.flood().await });
    }
    let mut server = stage.befall(server).await?;
    while players.join_next().await.is_some() {}
    trouble.shutdown().await;
    stage.control.close();
    if let Some(proxy) = proxy {
        proxy.end().await.with_context(|| episode.to_string())?;
    }
    stage.close(&mut server).await;
    Ok(std::mem::take(&mut *stage.findings.lock()))
}

impl Stage {
    async fn play(&self) {
        loop {
            let Some(number) = self.waiting.lock().pop_front() else { return };
            let scenario = Scenario::new(&self.props.mix, number);
            self.begun.send_modify(|begun| *begun += 1);
            let log = Log::start();
            // Before the stream is created: the server may end right after it.
            let before = self.upheavals.load(Ordering::SeqCst);
            let Some(play) = Play::new(&scenario, &self.dial, &self.control, log.clone()).await else {
                let how = "no stream can be made".to_owned();
                self.blame(vec![Breach { law: Law::ServerLives, how }], Some(number), &scenario);
                continue;
            };
            let mut facts = play.run().await;
            let has_ended = before % 2 == 1 || self.upheavals.load(Ordering::SeqCst) != before;
            let is_crowded = self.episode.trouble == Trouble::FewDescriptors;
            facts.circumstances =
                Circumstances { has_ended, is_crowded, ttl: TTL, idle: self.episode.idle() };
            let breaches = judge(&facts);
            if !breaches.is_empty() {
                self.blame(breaches, Some(number), format_args!("{}\n{log}{}", scenario, Seen(&facts)));
            }
            self.findings.lock().played.push(facts);
        }
    }

    fn blame(&self, breaches: Vec<Breach>, number: Option<u64>, what: impl fmt::Display) {
        let transcript = format!("{}\n{what}", self.episode);
        self.findings.lock().broken.push(Broken { breaches, number, transcript });
    }

    fn blame_server(&self, law: Law, how: String) {
        self.blame(vec![Breach { law, how }], None, "");
    }

    /// Opens more silent connections than the server has room for. Never ends.
    async fn flood(&self) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.props.mix.seed ^ self.episode.number);
        loop {
            sleep(Duration::from_millis(rng.random_range(20..200))).await;
            let mut crowd = Vec::new();
            for _ in 0..rng.random_range(20..80) {
                crowd.push(TcpStream::connect(self.dial.server.plain).await);
            }
            sleep(Duration::from_millis(rng.random_range(20..150))).await;
        }
    }

    /// Ends and restarts the server when the planned number of transfers have begun.
    async fn befall(&self, mut server: Server) -> anyhow::Result<Server> {
        let (signal, after) = match self.episode.trouble {
            Trouble::Stopped(after) => (Signal::TERM, after),
            Trouble::Killed(after) => (Signal::KILL, after),
            _ => return Ok(server),
        };
        let mut begun = self.begun.subscribe();
        // A transfer that is played alone must not wait for others.
        let alone = after.min(self.waiting.lock().len() as u64 + *begun.borrow());
        begun.wait_for(|begun| *begun >= alone).await?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.props.mix.seed ^ self.episode.number);
        sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        self.upheavals.fetch_add(1, Ordering::SeqCst);
        server.signal(signal);
        self.see_off(&mut server, signal).await;
        let next = Server::start(&self.props.workshop, &self.episode, Some(&server)).await?;
        self.upheavals.fetch_add(1, Ordering::SeqCst);
        Ok(next)
    }

    async fn see_off(&self, server: &mut Server, signal: Signal) {
        match server.ended().await {
            Ok(exit) if signal == Signal::TERM && !exit.success() => {
                self.blame_server(Law::ServerLives, format!("after SIGTERM it ended with {exit}"));
            }
            Ok(_) => {}
            Err(_) => {
                self.blame_server(
                    Law::ServerLives,
                    format!("it has not ended {ENDS_WITHIN:?} after SIGTERM"),
                );
                server.signal(Signal::KILL);
                let _ = server.ended().await;
            }
        }
        for panic in server.panics() {
            self.blame_server(Law::ServerLives, panic);
        }
    }

    /// After all transfers: checks that their resources are given back, and ends the server.
    async fn close(&self, server: &mut Server) {
        if server.runs() {
            let begun = Instant::now();
            let mut left = self.left_behind(server).await;
            while left.is_some() && begun.elapsed() < GIVES_BACK_WITHIN {
                sleep(LOOK_AGAIN).await;
                left = self.left_behind(server).await;
            }
            match left {
                Some(left) => {
                    self.blame_server(Law::NothingLeft, format!("{left}{}", server.live_streams().await));
                }
                None => self.use_up_the_quota().await,
            }
        } else {
            self.blame_server(Law::ServerLives, "it has ended by itself".to_owned());
        }
        server.signal(Signal::TERM);
        self.see_off(server, Signal::TERM).await;
    }

    /// Checks that the client may create as many streams as on a fresh server.
    async fn use_up_the_quota(&self) {
        let begun = Instant::now();
        let mut made = 0;
        while made <= MAX_STREAMS && self.control.insist("POST", "/stream", "", 201).await.is_some() {
            made += 1;
        }
        self.control.close();
        // On a busy machine the first streams expire before the last are created.
        if made != MAX_STREAMS && begun.elapsed() < TTL {
            let how = format!("a client with a quota of {MAX_STREAMS} streams can make {made}");
            self.blame_server(Law::NothingLeft, how);
        }
    }

    async fn left_behind(&self, server: &Server) -> Option<String> {
        // Before the request, whose connection would count.
        let (now, fresh) = match server.footprint() {
            Ok(now) => (now, server.fresh()),
            Err(error) => return Some(error.to_string()),
        };
        let metrics = match server.metrics().await {
            Ok(metrics) => metrics,
            Err(error) => return Some(format!("{error:#}")),
        };
        let is_left = metrics.open_connections > 1
            || metrics.pipes_in_use > 0
            || metrics.busy_streams + metrics.idle_streams > 0
            || now.sockets > fresh.sockets
            || now.pipes > fresh.pipes + MAY_KEEP_PIPES
            || now.in_pipes > 0
            || now.others > fresh.others
            || now.threads > fresh.threads
            || now.memory > fresh.memory + MAY_KEEP;
        is_left.then(|| {
            format!("{metrics:?}; {now}; when it was fresh: {fresh}\n  {}", connections(server.dial.server))
        })
    }
}

/// The views of the sides, for a report.
struct Seen<'a>(&'a Facts);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { source, destination, intruder, report, freed, status, took, circumstances, .. } = self.0;
        let views = [("source", source), ("destination", destination), ("another", intruder)];
        for (who, view) in views.into_iter().filter_map(|(who, view)| Some((who, view.as_ref()?))) {
            writeln!(f, "  {who}: {view:?}")?;
        }
        writeln!(f, "  report: {report:?}, seats free: {freed:?}, status: {status:?}, took {took:?}")?;
        write!(f, "  {circumstances:?}")
    }
}
