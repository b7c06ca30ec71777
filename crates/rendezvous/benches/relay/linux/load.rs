//! Puts a load on a contender, and takes its cost.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::client::Client;
use super::contender::Running;
use super::transfer::{Body, finish};

/// After the last transfer, so that a server's work on closing connections counts as well.
const AFTERMATH: Duration = Duration::from_millis(50);
/// Between two bytes of a trickle: whoever relays it has gone to sleep.
pub(crate) const SILENCE: Duration = Duration::from_millis(50);
/// How many of the sides that waited are met in the end, to see that they were not forgotten.
const MET: usize = 20;

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
        let latencies = self.crowd(&running.client)?;
        let seconds = start.elapsed().as_secs_f64();
        thread::sleep(AFTERMATH);
        Ok(Cost { seconds, cpu: running.process.cpu()? - cpu, latencies })
    }

    /// As many threads as transfers at once; each begins the next transfer when it has ended one.
    fn crowd(&self, client: &Client) -> anyhow::Result<Vec<f64>> {
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

/// What transfers cost.
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// CPU seconds of the contender.
    pub(crate) cpu: f64,
    /// Milliseconds that each took.
    pub(crate) latencies: Vec<f64>,
}

/// Milliseconds from the writing of a byte to its arrival, for so many single bytes.
pub(crate) fn trickle(bytes: usize, client: &Client) -> anyhow::Result<Vec<f64>> {
    // One more: the first carries the head.
    let body = Body { piece: 1, pieces: bytes + 1, chunked: true };
    let (mut upload, mut download) = client.pair(&body)?;
    let mut latencies = Vec::with_capacity(body.pieces);
    for _ in 0..body.pieces {
        let start = Instant::now();
        upload.send_piece()?;
        download.take(1)?;
        latencies.push(milliseconds(start));
        thread::sleep(SILENCE);
    }
    finish((upload, download))?;
    Ok(latencies.split_off(1))
}

/// Who waits for the other side.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiting {
    Receivers,
    /// Each has sent half of its body.
    Senders,
}

/// KiB of resident memory for each side that waits.
pub(crate) fn waiting(side: Waiting, count: usize, running: &Running) -> anyhow::Result<f64> {
    let client = &running.client;
    let body = Body { piece: 1024, pieces: 2, chunked: false };
    let before = running.process.settled()?;
    let (mut receivers, mut senders) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let path = client.meeting_point()?;
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
    let every = count.div_ceil(MET).max(1);
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
