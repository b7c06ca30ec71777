//! The access log: one line for each request.
//!
//! A [`Record`] tells its line when it is dropped, so there is one whatever becomes of the request: it was answered, its
//! download has ended, or its client has left. No line has a whole id, a token, or a path that the server does not know.

use std::net::IpAddr;
use std::time::Duration;

use http::Version;
use rendezvous_core::outcome::Outcome;
use rendezvous_core::transfer::{DestinationHalf, Transfer};
use rendezvous_protocol::StreamId;
use tokio::time::Instant;
use tracing::{Level, enabled, info};

use super::refusal::Refusal;
use super::response::{self, Body, Response};

/// What is known of a request so far.
pub(crate) struct Record(Option<Box<Line>>);

struct Line {
    request: &'static str,
    stream: Option<StreamId>,
    client: IpAddr,
    protocol: Version,
    began: Instant,
    wait: Option<Duration>,
    status: Option<u16>,
    bytes: u64,
    outcome: &'static str,
}

impl Record {
    /// A request of this client has come. Nothing is kept where nobody wants the line.
    #[must_use]
    pub(crate) fn begin(client: IpAddr, protocol: Version) -> Self {
        let line = || {
            Box::new(Line {
                request: "no such route",
                stream: None,
                client,
                protocol,
                began: Instant::now(),
                wait: None,
                status: None,
                bytes: 0,
                outcome: "left",
            })
        };
        Self(enabled!(target: "access", Level::INFO).then(line))
    }

    /// This is what it asks for.
    pub(crate) fn asks(&mut self, request: &'static str) {
        self.note(|line| line.request = request);
    }

    /// It concerns this stream.
    pub(crate) fn concerns(&mut self, stream: &StreamId) {
        self.note(|line| line.stream = Some(stream.clone()));
    }

    /// It gets nothing.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.note(|line| line.outcome = response::refusal_name(refusal));
    }

    /// Its transfer is over.
    pub(crate) fn transferred(&mut self, transfer: &Transfer) {
        self.note(|line| {
            line.wait = Some(transfer.started().saturating_duration_since(line.began));
            line.bytes = transfer.bytes();
            // Where another thread is about to say why, this one only knows that.
            line.outcome = transfer.ending().map_or("cut", Outcome::name);
        });
    }

    /// This is its response. That of a download is over with the download.
    pub(crate) fn answered(&mut self, response: &Response) {
        self.note(|line| {
            line.status = Some(response.head.status.as_u16());
            if line.wait.is_some() {
                return;
            }
            if let Body::Bytes(body) = &response.body {
                line.bytes = body.len() as u64;
            }
            if response.head.status.is_success() {
                line.outcome = "answered";
            }
        });
    }

    /// Its answer is a download, which `half` ends.
    pub(crate) fn downloads(&mut self, half: &mut DestinationHalf) {
        let Some(mut line) = self.0.take() else { return };
        line.status = Some(200);
        let mut record = Self(Some(line));
        half.on_end(move |transfer| record.transferred(transfer));
    }

    fn note(&mut self, note: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.0 {
            note(line);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        info!(
            target: "access",
            stream = self.stream.as_ref().map(|stream| tracing::field::display(stream.short())),
            status = self.status,
            outcome = self.outcome,
            bytes = self.bytes,
            wait_us = self.wait.map(microseconds),
            duration_us = microseconds(self.began.elapsed()),
            client = %self.client,
            protocol = ?self.protocol,
            "{}", self.request
        );
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
