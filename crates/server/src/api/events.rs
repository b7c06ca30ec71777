//! Server-sent events (HTML standard, "Server-sent events"): the changes of one stream, or of all, as they happen (docs/api.md, section 11).
//!
//! Each event is a whole status, so a client that missed some is right again with the next one.
//!
//! *Concurrency.* Runs in the task of its connection, which the feed and two timers wake.
//!
//! *Bounds.* A subscriber holds one part, of little more than [`PART`] bytes or of one large status, whose memory is reserved. A subscriber that
//! reads too slowly holds its part, and not what follows. If the memory of the part is reserved, a client that reads nothing
//! for the request timeout is disconnected.

use std::io::Write;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{pending, poll_fn};
use rendezvous_core::budget::{Budget, Exhausted, Reservation, allocated};
use rendezvous_core::feed::{News, Subscription};
use rendezvous_core::snapshot::{Snapshot, SnapshotState};
use rendezvous_protocol::StreamId;
use tokio::time::{Instant, sleep_until};

use super::status::status;
use crate::hop::others::OtherEvents;
use crate::request_body::Rendezvous;

/// The bytes after which no further event is added to a part.
const PART: usize = 4 * 1024;
/// How often a comment shows clients and proxies that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often the bytes of a running transfer are sent, if they have changed.
const PROGRESS: Duration = Duration::from_secs(1);
const COMMENT: &[u8] = b":\n\n";

/// The events of one stream or of all streams, for one subscriber.
pub(crate) struct Events {
    /// What a subscriber gets at once, until it is sent.
    first: Vec<u8>,
    subject: Subject,
    subscription: Subscription,
    memory: Arc<Budget>,
    next_comment: Instant,
    /// The memory of the part that is being sent.
    reserved: Option<Reservation>,
    /// There may be more than a part had room for.
    is_behind: bool,
    is_finished: bool,
}

enum Subject {
    Stream(Box<Watched>),
    /// Also those of other nodes, in a cluster.
    All(Option<OtherEvents>),
}

/// The stream that is watched.
struct Watched {
    rendezvous: Arc<Rendezvous>,
    id: StreamId,
    /// The version and the bytes that were sent.
    sent: Option<(u64, u64)>,
    /// When the bytes of a running transfer are sent again.
    next_progress: Option<Instant>,
}

/// Why a body cannot be completed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// A status cannot be serialized, which is a defect.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The node that the body comes from is lost.
    #[error("the node that has the stream is lost")]
    NodeLost,
    /// The budget of large responses is used up. The client connects again.
    #[error(transparent)]
    Memory(#[from] Exhausted),
}

/// What happens next.
enum Next {
    News(News),
    /// Of another node.
    OtherNews(News<Bytes>),
    Progress,
    Comment,
}

impl Events {
    /// The events of one stream, from its present state on.
    ///
    /// # Errors
    /// [`PartError`]
    pub(crate) fn of_stream(
        rendezvous: Arc<Rendezvous>,
        id: StreamId,
        present: &Snapshot,
        subscription: Subscription,
        memory: Arc<Budget>,
    ) -> Result<Self, PartError> {
        let watched = Watched { rendezvous, id, sent: None, next_progress: None };
        let mut events = Self::new(Subject::Stream(Box::new(watched)), subscription, memory);
        let mut first = Vec::new();
        events.add_status(present, &mut first, |part| write_event(present, part))?;
        Ok(Self { first, ..events })
    }

    /// The events of all streams. The response begins now, not with the first event.
    pub(crate) fn of_all(
        subscription: Subscription,
        others: Option<OtherEvents>,
        memory: Arc<Budget>,
    ) -> Self {
        Self { first: COMMENT.to_vec(), ..Self::new(Subject::All(others), subscription, memory) }
    }

    fn new(subject: Subject, subscription: Subscription, memory: Arc<Budget>) -> Self {
        // Those who subscribe at the same time do not get their comments at the same time.
        let next_comment = Instant::now() + KEEP_ALIVE.mul_f64(subscription.spread());
        Self {
            first: Vec::new(),
            subject,
            subscription,
            memory,
            next_comment,
            reserved: None,
            is_behind: false,
            is_finished: false,
        }
    }

    /// Whether the part that was returned last holds memory of the budget.
    pub(crate) fn holds_memory(&self) -> bool {
        self.reserved.is_some()
    }

    /// Whether the last part was returned.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Waits for the next part.
    ///
    /// # Errors
    /// [`PartError`]
    pub(crate) async fn next_part(&mut self) -> Result<Bytes, PartError> {
        if !self.first.is_empty() {
            return Ok(std::mem::take(&mut self.first).into());
        }
        // The part before was sent.
        self.reserved = None;
        if std::mem::take(&mut self.is_behind) {
            self.subscription.turn().await;
        }
        let mut part = Vec::new();
        while part.is_empty() && !self.is_finished {
            let next = self.next().await;
            self.add(next, &mut part)?;
        }
        while part.len() < PART && !self.is_finished {
            let Some(next) = self.at_hand().await else { break };
            self.add(next, &mut part)?;
        }
        self.is_behind = part.len() >= PART;
        Ok(part.into())
    }

    async fn next(&mut self) -> Next {
        let next_progress = match &self.subject {
            Subject::Stream(watched) => watched.next_progress,
            Subject::All(_) => None,
        };
        let wakes_at = next_progress.map_or(self.next_comment, |progress| progress.min(self.next_comment));
        tokio::select! {
            biased;
            news = self.subscription.next() => Next::News(news),
            news = self.subject.next_of_others() => Next::OtherNews(news),
            () = sleep_until(wakes_at) => if wakes_at == self.next_comment { Next::Comment } else { Next::Progress },
        }
    }

    /// Returns the next news if there are any, without waiting.
    async fn at_hand(&mut self) -> Option<Next> {
        poll_fn(|cx| {
            if let Poll::Ready(news) = self.subscription.poll_next(cx) {
                return Poll::Ready(Some(Next::News(news)));
            }
            if let Subject::All(Some(others)) = &mut self.subject
                && let Poll::Ready(news) = others.poll_next(cx)
            {
                return Poll::Ready(Some(Next::OtherNews(news)));
            }
            Poll::Ready(None)
        })
        .await
    }

    fn add(&mut self, next: Next, part: &mut Vec<u8>) -> Result<(), PartError> {
        match next {
            Next::Comment => {
                self.next_comment = Instant::now() + KEEP_ALIVE;
                part.extend_from_slice(COMMENT);
                Ok(())
            }
            Next::News(News::Changed(published)) => {
                self.add_status(&published.snapshot, part, |part| published.write_to(part, write_event))
            }
            Next::News(News::Missed(count)) => match &self.subject {
                Subject::Stream(_) => self.add_current(part),
                Subject::All(_) => {
                    add_lagged(count, part);
                    Ok(())
                }
            },
            Next::OtherNews(News::Changed(text)) => {
                part.extend_from_slice(&text);
                self.reserve(part)
            }
            Next::OtherNews(News::Missed(count)) => {
                add_lagged(count, part);
                Ok(())
            }
            Next::News(News::Closed) | Next::OtherNews(News::Closed) => {
                self.is_finished = true;
                Ok(())
            }
            Next::Progress => self.add_current(part),
        }
    }

    /// Adds the current status of the stream that is watched.
    fn add_current(&mut self, part: &mut Vec<u8>) -> Result<(), PartError> {
        let Subject::Stream(watched) = &self.subject else { return Ok(()) };
        let current = watched.rendezvous.snapshot(&watched.id);
        self.is_finished = current.is_none();
        current.map_or(Ok(()), |current| self.add_status(&current, part, |part| write_event(&current, part)))
    }

    /// Adds a status, unless this subscriber has it or a later one. `write` appends its event.
    fn add_status(
        &mut self,
        snapshot: &Snapshot,
        part: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), PartError> {
        if let Subject::Stream(watched) = &mut self.subject {
            let is_streaming = snapshot.state == SnapshotState::Streaming;
            watched.next_progress = is_streaming.then(|| Instant::now() + PROGRESS);
            let state = (snapshot.version, snapshot.bytes_transferred);
            if watched.sent.is_some_and(|sent| state <= sent) {
                return Ok(());
            }
            watched.sent = Some(state);
            self.is_finished = snapshot.is_final();
        }
        write(part)?;
        self.reserve(part)
    }

    /// Reserves the memory of a large part.
    fn reserve(&mut self, part: &Vec<u8>) -> Result<(), PartError> {
        if part.len() > 2 * PART {
            self.reserved = Some(self.memory.reserve_alone(allocated(part.capacity()))?);
        }
        Ok(())
    }
}

impl Subject {
    async fn next_of_others(&mut self) -> News<Bytes> {
        match self {
            Self::All(Some(others)) => others.next().await,
            Self::All(None) | Self::Stream(_) => pending().await,
        }
    }
}

fn add_lagged(count: u64, part: &mut Vec<u8>) {
    part.extend_from_slice(format!("event: lagged\ndata: {count}\n\n").as_bytes());
}

fn write_event(snapshot: &Snapshot, part: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    // Writing to a vector does not fail.
    let _ = write!(part, "id: {}\nevent: status\ndata: ", snapshot.version);
    serde_json::to_writer(&mut *part, &status(snapshot))?;
    part.extend_from_slice(b"\n\n");
    Ok(())
}
