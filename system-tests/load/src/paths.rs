//! Clients that loop over a few named paths, and the cost of a transfer at a path.
//!
//! *The loop.* Each client has a connection that it keeps. It takes a side of a path that no other client has, sends or receives one body, and
//! takes the next. So as far as the clients know, every seat is free when they ask for it, and a 429 is one that the server owes to a transfer
//! that has ended. Each body names its path and its number, so a byte of another transfer shows.
//!
//! *The cost.* Pairs of clients with kept connections transfer 1 KiB, first over paths and then over streams, which need a `POST` too, in turn.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use measure::figures::quantile;
use measure::machine;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::answer::Answer;
use crate::server::{Program, STATES, Server, head};

/// A longer wait on loopback counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a body whose cost is measured.
const BODY: usize = 1024;
/// The least that a transfer at a path may be cheaper than one over a stream, as a ratio of transfers per second of CPU.
const LEAST_GAIN: f64 = 1.3;

/// Loops over named paths, and compares their cost with that of created streams
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Transfers of the loop
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    transfers: usize,
    /// Paths of the loop
    #[arg(long, value_name = "COUNT", default_value = "10")]
    paths: NonZeroUsize,
    /// Clients of the loop, half of them sources; fewer of each than paths
    #[arg(long, value_name = "COUNT", default_value = "16")]
    clients: NonZeroUsize,
    /// Rounds of the comparison of costs
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Repeats the order in which clients take paths
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    program: Program,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{}; seed {seed}", machine::description());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = arguments.program.start(&["--max-creations-per-minute", "100000000"])?;
    runtime.block_on(async {
        let looped = run_loop(&server, arguments, seed).await.with_context(|| format!("--seed {seed}"))?;
        println!("{looped}");
        compare(&server, arguments.rounds).await
    })
}

/// The sides of paths that no client has.
struct Leases {
    random: fastrand::Rng,
    /// Each path and the transfers that are left for this side of it.
    free: Vec<(usize, usize)>,
}

impl Leases {
    fn new(paths: usize, transfers: usize, seed: u64) -> RefCell<Self> {
        let share = |path: usize| transfers / paths + usize::from(path < transfers % paths);
        let free = (0..paths).map(|path| (path, share(path))).filter(|(_, left)| *left > 0).collect();
        RefCell::new(Self { random: fastrand::Rng::with_seed(seed), free })
    }

    fn take(&mut self) -> Option<(usize, usize)> {
        if self.free.is_empty() {
            return None;
        }
        let index = self.random.usize(..self.free.len());
        Some(self.free.swap_remove(index))
    }

    fn give_back(&mut self, path: usize, left: usize) {
        if left > 0 {
            self.free.push((path, left));
        }
    }
}

/// A client with a connection that it keeps.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(server: &Server) -> anyhow::Result<Self> {
        Ok(Self(BufReader::new(server.connect().await?)))
    }

    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.0.write_all(request).await?;
        timeout(PATIENCE, Answer::read(&mut self.0)).await.context("no answer")?
    }
}

/// The body of a transfer: its path and its number, over and over.
fn body(path: usize, number: usize) -> Vec<u8> {
    format!("{path}:{number};").repeat(1 + number % 40).into_bytes()
}

async fn run_loop(server: &Server, arguments: &Arguments, seed: u64) -> anyhow::Result<String> {
    let (paths, each) = (arguments.paths.get(), arguments.clients.get() / 2);
    ensure!(
        each < paths && each > 0,
        "with as many clients of a side as paths, they could wait for each other"
    );
    let begun = Instant::now();
    let sources = Leases::new(paths, arguments.transfers, seed);
    let destinations = Leases::new(paths, arguments.transfers, seed + 1);
    let received = RefCell::new(BTreeSet::new());
    let sending = (0..each).map(|_| send_all(server, &sources));
    let receiving = (0..each).map(|_| receive_all(server, &destinations, &received));
    tokio::try_join!(try_join_all(sending), try_join_all(receiving))?;
    let received = received.into_inner().len();
    ensure!(received == arguments.transfers, "{received} of {} bodies arrived", arguments.transfers);
    let left = server.streams(&STATES).await?;
    ensure!(left == 0, "{left} streams are left");
    let seconds = begun.elapsed().as_secs_f64();
    Ok(format!(
        "{received} transfers on {paths} paths by {} clients, {:.0} a second: each byte is of its own transfer, no seat was taken, nothing is left",
        2 * each,
        received as f64 / seconds
    ))
}

/// Sends until no path has transfers left.
async fn send_all(server: &Server, leases: &RefCell<Leases>) -> anyhow::Result<()> {
    let mut client = Client::connect(server).await?;
    loop {
        let lease = leases.borrow_mut().take();
        let Some((path, left)) = lease else { return Ok(()) };
        let body = body(path, left);
        let head = head("PUT", &format!("/p/loop/{path}"), &format!("Content-Length: {}\r\n", body.len()));
        let answer = client.ask(&[head.as_bytes(), &body].concat()).await;
        answer.and_then(|answer| answer.expect(200)).with_context(|| format!("PUT {path}, {left} left"))?;
        leases.borrow_mut().give_back(path, left - 1);
    }
}

/// Receives until no path has transfers left. Adds the path and number of each body to `received`.
async fn receive_all(
    server: &Server,
    leases: &RefCell<Leases>,
    received: &RefCell<BTreeSet<(usize, usize)>>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(server).await?;
    loop {
        let lease = leases.borrow_mut().take();
        let Some((path, left)) = lease else { return Ok(()) };
        let request = head("GET", &format!("/p/loop/{path}"), "");
        let answer = client.ask(request.as_bytes()).await.and_then(|answer| answer.expect(200));
        let answer = answer.with_context(|| format!("GET {path}, {left} left"))?;
        let (of, number) = named(&answer.body).context("the body names no transfer")?;
        ensure!(of == path && answer.body == body(path, number), "path {path} has bytes of another transfer");
        ensure!(
            received.borrow_mut().insert((path, number)),
            "transfer {number} of path {path} arrived twice"
        );
        leases.borrow_mut().give_back(path, left - 1);
    }
}

/// The path and the number that a body names.
fn named(body: &[u8]) -> Option<(usize, usize)> {
    let (path, rest) = std::str::from_utf8(body).ok()?.split_once(':')?;
    Some((path.parse().ok()?, rest.split(';').next()?.parse().ok()?))
}

/// How the sides of a measured transfer find each other.
#[derive(Debug, Clone, Copy)]
enum Way {
    Path,
    Stream,
}

/// Measures both ways in turn, and prints the medians.
async fn compare(server: &Server, rounds: usize) -> anyhow::Result<()> {
    const PAIRS: usize = 8;
    const EACH: usize = 2500;
    let mut gains = Vec::new();
    let mut text = String::new();
    for round in 0..=rounds {
        let (path, stream) = (
            measure(server, Way::Path, PAIRS, EACH).await?,
            measure(server, Way::Stream, PAIRS, EACH).await?,
        );
        // The first round allocates memory that all share.
        if round > 0 {
            writeln!(text, "| {round} | {path:.0} | {stream:.0} | {:.2} |", path / stream)?;
            gains.push(path / stream);
        }
    }
    let gain = quantile(gains, 0.5);
    println!(
        "\n| round | transfers of 1 KiB per second of CPU at a path | over a stream | ratio |\n|---|---|---|---|\n{text}\nmedian: {gain:.2}"
    );
    if gain < LEAST_GAIN {
        bail!(
            "a transfer at a path is only {gain:.2} times as cheap as one over a stream, under {LEAST_GAIN}"
        );
    }
    Ok(())
}

/// Returns the transfers per second of the server's CPU.
async fn measure(server: &Server, way: Way, pairs: usize, each: usize) -> anyhow::Result<f64> {
    let before = server.process.fine_cpu()?;
    try_join_all((0..pairs).map(|pair| transfer(server, way, pair, each))).await?;
    let seconds = (server.process.fine_cpu()? - before) as f64 / 1e9;
    Ok((pairs * each) as f64 / seconds)
}

/// Transfers `count` bodies between two clients.
async fn transfer(server: &Server, way: Way, pair: usize, count: usize) -> anyhow::Result<()> {
    let (tell, mut told) = mpsc::channel::<String>(1);
    let sending = async {
        let mut client = Client::connect(server).await?;
        for _ in 0..count {
            let target = match way {
                Way::Path => format!("/p/pair/{pair}"),
                Way::Stream => {
                    let created =
                        client.ask(head("POST", "/stream", "Content-Length: 0\r\n").as_bytes()).await?;
                    format!("/stream/{}", created.expect(201)?.text("stream")?)
                }
            };
            tell.send(target.clone()).await?;
            let head = head("PUT", &target, &format!("Content-Length: {BODY}\r\n"));
            client.ask(&[head.as_bytes(), &[7; BODY]].concat()).await?.expect(200)?;
        }
        drop(tell);
        anyhow::Ok(())
    };
    let receiving = async {
        let mut client = Client::connect(server).await?;
        while let Some(target) = told.recv().await {
            let download = client.ask(head("GET", &target, "").as_bytes()).await?.expect(200)?;
            ensure!(download.body == [7; BODY], "the download is not the upload");
        }
        Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}
