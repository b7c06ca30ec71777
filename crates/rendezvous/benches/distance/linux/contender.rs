//! The measured programs, and the protocols of the distant side.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::Context;
use measure::process::{Process, addresses};

use super::certificate::Certificate;
use super::nginx::{self, Nginx};
use super::workload::Workload;

/// The protocol of the distant side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http1Tls,
    Http2Tls,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http1Tls, Self::Http2Tls];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http1Tls => "HTTP/1.1 over TLS",
            Self::Http2Tls => "HTTP/2 over TLS",
        })
    }
}

/// A running program.
pub(crate) struct Relay {
    pub(crate) name: &'static str,
    /// Its port with TLS.
    pub(crate) secure: SocketAddrV4,
    pub(crate) kind: Kind,
}

/// How the near side takes part.
pub(crate) enum Kind {
    /// Our server, of this build or an earlier one: the near side is a client of its plain port.
    Rendezvous { process: Process, plain: SocketAddrV4, is_baseline: bool },
    /// The near side is the server behind nginx.
    Nginx(Nginx),
}

/// A program with a protocol.
pub(crate) struct Contender {
    pub(crate) relay: Rc<Relay>,
    pub(crate) protocol: Protocol,
}

/// Starts all programs that are available, and returns each with each of its protocols.
pub(crate) async fn all(
    baseline: Option<&Path>,
    certificate: &Certificate,
) -> anyhow::Result<Vec<Contender>> {
    let mut relays = vec![start(Path::new(env!("CARGO_BIN_EXE_rendezvous")), false, certificate)?];
    if let Some(program) = baseline {
        relays.push(start(program, true, certificate)?);
    }
    relays.extend(nginx::all(certificate).await?);
    let contenders = relays.into_iter().map(Rc::new).flat_map(|relay| {
        let protocols = Protocol::ALL.into_iter().filter(|protocol| match relay.kind {
            Kind::Rendezvous { is_baseline: false, .. } => true,
            Kind::Rendezvous { .. } | Kind::Nginx(_) => *protocol != Protocol::Http1,
        });
        protocols.map(|protocol| Contender { relay: Rc::clone(&relay), protocol }).collect::<Vec<_>>()
    });
    Ok(contenders.collect())
}

fn start(program: &Path, is_baseline: bool, certificate: &Certificate) -> anyhow::Result<Relay> {
    let name = if is_baseline { "baseline" } else { "rendezvous" };
    let mut command = Command::new(program);
    command.args(["serve", "--port", "0", "--plain-port", "0", "--log-level", "warn", "--threads", "2"]);
    command.arg("--tls-cert").arg(certificate.chain()).arg("--tls-key").arg(certificate.key());
    let mut process = Process::start(&mut command)?;
    let greeting = process.greeting(4).with_context(|| format!("{name} does not start"))?;
    let first = addresses(&greeting).next();
    let other = addresses(&greeting).find(|address| Some(*address) != first);
    let secure = first.with_context(|| format!("no address in {greeting:?}"))?;
    let plain = other.with_context(|| format!("no second address in {greeting:?}"))?;
    Ok(Relay { name, secure, kind: Kind::Rendezvous { process, plain, is_baseline } })
}

impl Relay {
    /// Returns the CPU time so far, in seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let nanoseconds = match &self.kind {
            Kind::Rendezvous { process, .. } => process.fine_cpu()?,
            Kind::Nginx(nginx) => nginx.cpu()?,
        };
        Ok(nanoseconds as f64 / 1e9)
    }
}

impl Contender {
    /// Where the distant side connects to.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        match (self.protocol, &self.relay.kind) {
            (Protocol::Http1, Kind::Rendezvous { plain, .. }) => *plain,
            _ => self.relay.secure,
        }
    }

    /// Whether it runs this workload.
    pub(crate) fn takes_part(&self, workload: &Workload) -> bool {
        if workload.waiting > 0 {
            return self.protocol == Protocol::Http2Tls && matches!(self.relay.kind, Kind::Rendezvous { .. });
        }
        match self.relay.kind {
            Kind::Rendezvous { is_baseline: false, .. } => true,
            Kind::Rendezvous { .. } => self.protocol == Protocol::Http2Tls || !workload.is_distant(),
            Kind::Nginx(_) => !workload.is_distant(),
        }
    }
}
