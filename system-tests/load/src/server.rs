//! A server under test and requests to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, bail, ensure};
use measure::process::{Process, addresses};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::answer::Answer;

/// A running server. Dropping it ends the server.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// Its plain address.
    pub(crate) plain: SocketAddrV4,
    /// Its TLS address, if it has one.
    pub(crate) secure: Option<SocketAddrV4>,
}

/// The program to start.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Program {
    /// Another server with flags: "target/release/rendezvous --threads 1" [default: the release build beside this]
    #[arg(long)]
    server: Option<String>,
}

impl Program {
    /// Starts it on a free port.
    pub(crate) fn start(&self, flags: &[&str]) -> anyhow::Result<Server> {
        let (process, greeting) = self.greet(flags, 1)?;
        let plain = addresses(&greeting).next().with_context(|| format!("no address in {greeting:?}"))?;
        Ok(Server { process, plain, secure: None })
    }

    /// Starts it with a TLS port, by the certificate in `flags`, and a plain port.
    pub(crate) fn start_secure(&self, flags: &[&str]) -> anyhow::Result<Server> {
        let flags: Vec<_> = flags.iter().copied().chain(["--plain-port", "0"]).collect();
        let (process, greeting) = self.greet(&flags, 4)?;
        let secure = addresses(&greeting).next();
        let plain = addresses(&greeting).find(|address| Some(*address) != secure);
        let (Some(secure), Some(plain)) = (secure, plain) else { bail!("no address in {greeting:?}") };
        Ok(Server { process, plain, secure: Some(secure) })
    }

    fn greet(&self, flags: &[&str], lines: usize) -> anyhow::Result<(Process, String)> {
        let (program, given) = self.words()?;
        let mut command = Command::new(&program);
        command.args(["serve", "--port", "0", "--log-level", "warn"]).args(flags).args(given);
        let mut process = Process::start(&mut command)?;
        let greeting = process.greeting(lines)?;
        Ok((process, greeting))
    }

    fn words(&self) -> anyhow::Result<(PathBuf, Vec<String>)> {
        if let Some(given) = &self.server {
            let mut words = given.split_whitespace().map(str::to_owned);
            let program = words.next().context("--server names no program")?;
            return Ok((program.into(), words.collect()));
        }
        let program = std::env::current_exe()?.with_file_name("rendezvous");
        ensure!(program.is_file(), "there is no {}: `cargo build --release` makes it", program.display());
        Ok((program, Vec::new()))
    }
}

impl Server {
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        connect(self.plain).await
    }

    /// Sends a request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> anyhow::Result<Answer> {
        let mut stream = self.connect().await?;
        stream.write_all(request.as_bytes()).await?;
        Answer::read(&mut BufReader::new(stream)).await
    }

    /// The number of streams in each of these states. The server walks all streams for it, so not during a measurement.
    pub(crate) async fn streams(&self, states: &[&str]) -> anyhow::Result<usize> {
        let answer = self.ask(&head("GET", "/metrics", "Connection: close\r\n")).await?;
        let text = String::from_utf8(answer.expect(200)?.body)?;
        let count = |state: &&str| {
            let name = format!("rendezvous_streams{{state=\"{state}\",");
            let kinds = text.lines().filter_map(|line| line.strip_prefix(&name)?.split_once("} "));
            let counts = kinds.map(|(_, count)| count.parse::<usize>()).collect::<Result<Vec<_>, _>>()?;
            ensure!(!counts.is_empty(), "/metrics has no {name}");
            Ok(counts.into_iter().sum::<usize>())
        };
        states.iter().map(count).sum()
    }
}

/// All states of a stream.
pub(crate) const STATES: [&str; 5] = ["created", "source_waits", "destination_waits", "streaming", "ended"];

/// Connects from one of 250 addresses in turn: a single address has too few ports.
pub(crate) async fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    static TURN: AtomicU8 = AtomicU8::new(0);
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::new(127, 0, 0, 2 + TURN.fetch_add(1, Ordering::Relaxed) % 250);
    socket.bind(SocketAddrV4::new(source, 0).into())?;
    socket.set_nodelay(true)?;
    socket.connect(address.into()).await
}

/// A request's head.
pub(crate) fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// Raises the limit of descriptors, for this process and its children.
pub(crate) fn allow_descriptors(count: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map(|maximum| maximum.max(count));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum.map(|_| count), maximum });
    raised.with_context(|| {
        format!("{count} descriptors are needed: be root, or raise the hard limit (`ulimit -Hn {count}`)")
    })
}
