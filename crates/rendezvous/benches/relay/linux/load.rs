//! Puts load on a contender, and measures the cost.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::client::Client;
use super::contender::Running;
use super::transfer::{Body, finish};

/// The pause after the last transfer, so that the CPU time includes the closing of connections.
const SETTLING: Duration = Duration::from_millis(50);
/// The pause between two bytes of a trickle, within which the contender goes idle.
pub(crate) const TRICKLE_PAUSE: Duration = Duration::from_millis(50);
/// How many of the waiting sides are paired at the end, to check that the contender still holds them.
const PAIRED: usize = 20;

/// Many transfers of the same body.
pub(crate) struct Transfers {
    pub(crate) count: usize,
    pub(crate) at_once: usize,
    pub(crate) body: Body,
}

impl Transfers {
    pub(crate) fn bytes(&self) -> u64 {
        self.count as u64 * self.body.bytes()
    }

    pub(crate) fn run(&self, running: &Running) -> anyhow::Result<Cost> {
        let (cpu, start) = (running.process.cpu()?, Instant::now());
        let latencies = self.run_threads(&running.client)?;
        let seconds = start.elapsed().as_secs_f64();
        thread::sleep(SETTLING);
        Ok(Cost { seconds, cpu: running.process.cpu()? - cpu, latencies })
    }

    /// Runs a thread for each concurrent transfer, which begins the next transfer when one has ended. Returns the latencies.
    fn run_threads(&self, client: &Client) -> anyhow::Result<Vec<f64>> {
        let begun = AtomicUsize::new(0);
        let work = || {
            let mut latencies = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < self.count {
                let start = Instant::now();
                finish(client.pair(&self.body)?)?;
                latencies.push(milliseconds(start));
            }
            anyhow::Ok(latencies)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.at_once).map(|_| scope.spawn(work)).collect();
            let mut latencies = Vec::with_capacity(self.count);
            for worker in workers {
                latencies.extend(worker.join().unwrap_or_else(|_| bail!("a client panicked"))?);
            }
            Ok(latencies)
        })
    }
}

impl fmt::Display for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.count, size(self.body.bytes()))?;
        if self.at_once < self.count {
            write!(f, ", {} at once", self.at_once)?;
        }
        if self.body.chunked {
            write!(f, " in chunks of {}", size(self.body.piece as u64))?;
        }
        Ok(())
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        whole if whole.trailing_zeros() >= 30 => format!("{} GiB", whole >> 30),
        whole if whole.trailing_zeros() >= 20 => format!("{} MiB", whole >> 20),
        whole => format!("{} KiB", whole >> 10),
    }
}

/// The cost of transfers.
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// The CPU time of the contender, in seconds.
    pub(crate) cpu: f64,
    /// The duration of each transfer, in milliseconds.
    pub(crate) latencies: Vec<f64>,
}

/// Sends `bytes` single bytes, and returns for each the milliseconds from its write to its arrival.
pub(crate) fn trickle(bytes: usize, client: &Client) -> anyhow::Result<Vec<f64>> {
    // The first byte is sent with the head, and does not count.
    let body = Body { piece: 1, pieces: bytes + 1, chunked: true };
    let (mut upload, mut download) = client.pair(&body)?;
    let mut latencies = Vec::with_capacity(body.pieces);
    for _ in 0..body.pieces {
        let start = Instant::now();
        upload.send_piece()?;
        download.take(1)?;
        latencies.push(milliseconds(start));
        thread::sleep(TRICKLE_PAUSE);
    }
    finish((upload, download))?;
    Ok(latencies.split_off(1))
}

/// The side that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiting {
    Receivers,
    /// Each has sent half of its body.
    Senders,
}

/// Returns the resident memory for each of `count` waiting sides, in KiB.
pub(crate) fn waiting(side: Waiting, count: usize, running: &Running) -> anyhow::Result<f64> {
    let client = &running.client;
    let body = Body { piece: 1024, pieces: 2, chunked: false };
    let before = running.process.settled()?;
    let (mut receivers, mut senders) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let path = client.new_path()?;
        match side {
            Waiting::Receivers => receivers.push((client.download(&path, &body)?, path)),
            Waiting::Senders => {
                let mut upload = client.upload(&path, &body)?;
                upload.send_piece()?;
                senders.push((upload, path));
            }
        }
    }
    let grown = running.process.settled()?.saturating_sub(before);
    let every = count.div_ceil(PAIRED).max(1);
    for (download, path) in receivers.into_iter().step_by(every) {
        finish((client.upload(&path, &body)?, download))?;
    }
    for (upload, path) in senders.into_iter().step_by(every) {
        finish((upload, client.download(&path, &body)?))?;
    }
    Ok(grown as f64 / count as f64)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
