//! The access log: one line per request.
//!
//! *Invariants.* Each request has exactly one line, logged when its [`Record`] is dropped: after the response, at the end of the download, or
//! when the client disconnects. No line contains a whole id, a token or an unknown path.

use std::net::IpAddr;
use std::time::Duration;

use http::{StatusCode, Version};
use rendezvous_core::outcome::Outcome;
use rendezvous_core::transfer::{DestinationHalf, Transfer};
use rendezvous_protocol::{StreamName, Tag};
use tokio::time::Instant;
use tracing::{Level, enabled, info};

use super::errors::refusal_name;
use super::refusal::Refusal;

/// The access log line of a request, filled in as the request proceeds. `None` if the access log is disabled.
pub(crate) struct Record(Option<Box<Line>>);

struct Line {
    request: &'static str,
    stream: Option<StreamName>,
    client: IpAddr,
    protocol: Version,
    started: Instant,
    wait: Option<Duration>,
    status: Option<u16>,
    bytes: u64,
    outcome: &'static str,
    /// The node that has the stream, or has passed the request on.
    node: Option<Tag>,
    is_cancelled: bool,
}

impl Record {
    /// Starts the line of a request from `client`. Allocates nothing if the access log is disabled.
    #[must_use]
    pub(crate) fn begin(client: IpAddr, protocol: Version) -> Self {
        let line = || {
            Box::new(Line {
                request: "no such route",
                stream: None,
                client,
                protocol,
                started: Instant::now(),
                wait: None,
                status: None,
                bytes: 0,
                outcome: "left",
                node: None,
                is_cancelled: false,
            })
        };
        Self(enabled!(target: "access", Level::INFO).then(line))
    }

    /// Sets the name of the route.
    pub(crate) fn set_route(&mut self, name: &'static str) {
        self.update(|line| line.request = name);
    }

    /// Sets the stream of the request.
    pub(crate) fn set_stream(&mut self, stream: StreamName) {
        self.update(|line| line.stream = Some(stream));
    }

    /// Sets the outcome of a refused request.
    pub(crate) fn set_refusal(&mut self, refusal: &Refusal) {
        self.update(|line| line.outcome = refusal_name(refusal));
    }

    /// Sets the wait, the bytes and the outcome of an ended transfer.
    pub(crate) fn set_transfer(&mut self, transfer: &Transfer) {
        self.update(|line| {
            line.wait = Some(transfer.started().saturating_duration_since(line.started));
            line.bytes = transfer.bytes();
            // Another thread may be ending the transfer, and may not have set the outcome yet.
            line.outcome = transfer.ending().map_or("cut", Outcome::name);
        });
    }

    /// Sets the wait and the bytes of a transfer that another node judges.
    pub(crate) fn set_passed(&mut self, transfer: &Transfer) {
        self.update(|line| {
            line.wait = Some(transfer.started().saturating_duration_since(line.started));
            line.bytes = transfer.bytes();
            line.outcome = "passed";
        });
    }

    /// Sets the node that has the stream.
    pub(crate) fn set_node(&mut self, node: Option<Tag>) {
        self.update(|line| line.node = node);
    }

    /// Sets the status of the response.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.update(|line| line.status = Some(status.as_u16()));
    }

    /// Adds bytes of the response, unless a transfer has set them.
    pub(crate) fn add_bytes(&mut self, bytes: u64) {
        self.update(|line| {
            if line.wait.is_none() {
                line.bytes += bytes;
            }
        });
    }

    /// Sets the outcome of a response that is complete, unless a transfer has set it.
    pub(crate) fn set_answered(&mut self) {
        self.update(|line| {
            if line.wait.is_none() {
                line.outcome = "answered";
            }
        });
    }

    /// Delays the line until `half` reports the end of the download.
    pub(crate) fn log_at_end_of(&mut self, half: &mut DestinationHalf) {
        let Some(mut line) = self.0.take() else { return };
        line.status = Some(200);
        let mut record = Self(Some(line));
        half.on_end(move |transfer| record.set_transfer(transfer));
    }

    /// Drops the record without a line: the request is routed again.
    pub(crate) fn cancel(&mut self) {
        self.update(|line| line.is_cancelled = true);
        self.0 = None;
    }

    /// Returns the record, and leaves a disabled one.
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    fn update(&mut self, change: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.0 {
            change(line);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_cancelled {
            return;
        }
        info!(
            target: "access",
            stream = self.stream.as_ref().map(|stream| tracing::field::display(stream.short())),
            node = self.node.map(tracing::field::display),
            status = self.status,
            outcome = self.outcome,
            bytes = self.bytes,
            wait_us = self.wait.map(microseconds),
            duration_us = microseconds(self.started.elapsed()),
            client = %self.client,
            protocol = ?self.protocol,
            "{}", self.request
        );
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
