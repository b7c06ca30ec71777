//! Performs the actions of the sender's state machine.
//!
//! *Concurrency.* One task owns the machine. Requests are tasks of its [`JoinSet`], so they end with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{SendEnding, SendEvent};
use crate::clock::Clock;
use crate::destination::Stored;
use crate::http::{Fetched, Http, UploadBody, unusable};
use crate::keys::Keys;
use crate::link::{Id, Link};
use crate::messages::{Head, Refused, SegmentHead};
use crate::receive::Refusal;
use crate::reply::{Reply, WAIT};
use crate::seal::{self, ControlSeal};
use crate::sender::{Action, Ending, Input, Made, Sender};
use crate::sending::maker::BUFFERED;
use crate::sending::{Job, Maker, Report};
use crate::source::{Source, SourceError};

/// How often the progress of uploads is looked at.
const PROGRESS: Duration = Duration::from_millis(100);

/// What a task of the driver reports.
enum Done {
    Fetched(Fetched),
    Probed(Reply),
    /// The length of a segment is known, and here is its body.
    Made {
        upload: u64,
        made: Made,
        body: UploadBody,
    },
    /// Nothing: a segment was not made because the source failed, which is reported by itself.
    Nothing,
    Put {
        upload: u64,
        reply: Reply,
    },
    Nudged {
        attempt: Id,
        segment: u64,
        reply: Reply,
    },
    Refused(Reply),
    Bye(Reply),
}

/// An upload of the running attempt.
struct Running {
    /// Tells it from an earlier upload of the same segment.
    upload: u64,
    attempt: Id,
    taken: Arc<AtomicU64>,
    reported: u64,
    task: AbortHandle,
}

pub(super) struct Driver<O> {
    machine: Sender,
    clock: Clock,
    http: Http,
    keys: Keys,
    seal: ControlSeal,
    transfer: Id,
    maker: Maker,
    earliest: Arc<AtomicU64>,
    failed: oneshot::Receiver<SourceError>,
    failure: Option<SourceError>,
    link: Link,
    tasks: JoinSet<Done>,
    uploads: HashMap<u64, Running>,
    next_upload: u64,
    observe: O,
}

impl<O: FnMut(SendEvent) + Send> Driver<O> {
    pub(super) fn new(
        source: Box<dyn Source>,
        link: Link,
        http: Http,
        give_up: Duration,
        observe: O,
    ) -> Self {
        let keys = Keys::of(link.secret());
        let transfer = Id::random();
        let largest = if source.description().size.is_some() { u64::MAX } else { BUFFERED };
        let earliest = Arc::new(AtomicU64::new(0));
        let (report, failed) = oneshot::channel();
        let maker = Maker::start(source, transfer.clone(), Arc::clone(&earliest), report);
        Self {
            machine: Sender::new(transfer.clone(), largest, give_up, fastrand::u64(..)),
            clock: Clock::start(),
            http,
            seal: ControlSeal::new(&keys),
            keys,
            transfer,
            maker,
            earliest,
            failed,
            failure: None,
            link,
            tasks: JoinSet::new(),
            uploads: HashMap::new(),
            next_upload: 0,
            observe,
        }
    }

    pub(super) async fn run(mut self, stop: &CancellationToken) -> SendEnding {
        let mut is_stopped = false;
        loop {
            while let Some(action) = self.machine.action() {
                if let Some(ending) = self.act(action) {
                    return ending;
                }
            }
            let pause = self.machine.deadline().saturating_sub(self.clock.now());
            let look = if self.uploads.is_empty() { Clock::LOOK } else { PROGRESS };
            tokio::select! {
                // What has come goes before deadlines that have passed, in case that the process was stopped.
                biased;
                Some(done) = self.tasks.join_next() => {
                    if let Ok(done) = done {
                        self.take(done);
                    }
                }
                Ok(error) = &mut self.failed, if self.failure.is_none() => {
                    let refusal = match error {
                        SourceError::Changed { .. } => Refusal::Changed,
                        SourceError::Gone { .. } => Refusal::Gone,
                        SourceError::Io { .. } => Refusal::Other,
                    };
                    // A path of the sender is none of the receiver's business.
                    let message = match refusal {
                        Refusal::Changed => "the data changed while it was sent",
                        Refusal::Gone => "the data is no longer held",
                        Refusal::Other => "the data cannot be read any more",
                    };
                    self.failure = Some(error);
                    self.tell(Input::SourceFailed { refusal, message: message.into() });
                }
                () = stop.cancelled(), if !is_stopped => {
                    is_stopped = true;
                    self.tell(Input::Stop);
                }
                () = tokio::time::sleep(pause.min(look)) => {
                    self.report_progress();
                    self.tell(Input::Tick);
                }
            }
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.clock.now();
        self.machine.handle(now, input);
    }

    /// Tells how much of each upload the connection has taken.
    fn report_progress(&mut self) {
        let mut taken = Vec::new();
        for (segment, running) in &mut self.uploads {
            let bytes = running.taken.load(Ordering::Relaxed);
            if bytes > running.reported {
                running.reported = bytes;
                taken.push(Input::Taken { attempt: running.attempt.clone(), segment: *segment, bytes });
            }
        }
        for input in taken {
            self.tell(input);
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Fetched(Fetched::Body(sealed)) => {
                let earliest = self.earliest.load(Ordering::Relaxed);
                self.tell(Input::Earliest(earliest));
                let input = self.seal.open(&sealed).map_or(Input::Unreadable, Input::Heard);
                self.tell(input);
            }
            Done::Fetched(Fetched::Not(reply)) => self.tell(Input::Listened(reply)),
            Done::Probed(reply) => self.tell(Input::Probed(reply)),
            Done::Made { upload, made, body } => self.upload(upload, made, body),
            Done::Nothing => {}
            Done::Put { upload, reply } => {
                self.report_progress();
                let segment = self.uploads.iter().find(|(_, running)| running.upload == upload);
                if let Some((&segment, _)) = segment
                    && let Some(running) = self.uploads.remove(&segment)
                {
                    self.tell(Input::Put { attempt: running.attempt, segment, reply });
                }
            }
            Done::Nudged { attempt, segment, reply } => self.tell(Input::Nudged { attempt, segment, reply }),
            Done::Refused(reply) => self.tell(Input::RefusalPut(reply)),
            Done::Bye(reply) => self.tell(Input::ByePut(reply)),
        }
    }

    /// Performs an action, and returns the ending if it is the last.
    fn act(&mut self, action: Action) -> Option<SendEnding> {
        let http = self.http.clone();
        match action {
            Action::Listen { wait } => {
                let path = self.keys.control_path();
                self.tasks.spawn(async move { Done::Fetched(http.fetch(&path, wait).await) });
            }
            Action::Probe => {
                let path = self.keys.control_path();
                self.tasks.spawn(async move { Done::Probed(http.probe(&path).await) });
            }
            Action::Link => (self.observe)(SendEvent::Link(self.link.clone())),
            Action::Put { attempt, recipient, segment, offset, limit } => {
                self.make(attempt, recipient, segment, offset, limit);
            }
            Action::Close { segment: from } => {
                self.uploads.retain(|segment, running| {
                    let stays = *segment < from;
                    if !stays {
                        running.task.abort();
                    }
                    stays
                });
            }
            Action::Nudge { attempt, segment } => {
                let path = self.keys.segment_path(&attempt, segment);
                self.tasks.spawn(async move {
                    let reply = http.put(&path, WAIT, Vec::new()).await;
                    Done::Nudged { attempt, segment, reply }
                });
            }
            Action::Refuse { attempt, recipient, reason, message } => {
                let path = self.keys.segment_path(&attempt, 0);
                let body = self.refusal(attempt, &recipient, reason, message);
                self.tasks.spawn(async move { Done::Refused(http.put(&path, WAIT, body).await) });
            }
            Action::Bye { attempt, recipient } => {
                let path = self.keys.bye_path(&attempt);
                let body = sealed(&recipient, &Head::Bye);
                self.tasks.spawn(async move { Done::Bye(http.put(&path, WAIT, body).await) });
            }
            Action::Event(event) => (self.observe)(event),
            Action::End(ending) => return Some(self.ending(ending)),
        }
        None
    }

    /// Has a segment made. The upload begins once its length is known.
    fn make(&mut self, attempt: Id, recipient: String, segment: u64, offset: u64, limit: u64) {
        self.next_upload += 1;
        let upload = self.next_upload;
        let (input, body) = UploadBody::new();
        let (report, made) = oneshot::channel();
        let job =
            Job { attempt: attempt.clone(), recipient, segment, offset, limit, output: input.blocks, report };
        self.maker.make(job);
        let id = attempt.clone();
        let task = self.tasks.spawn(async move {
            let Ok(Report { data, sealed, end }) = made.await else { return Done::Nothing };
            let made = Made { attempt: id, segment, data, sealed, end };
            Done::Made { upload, made, body: body.with_length(sealed) }
        });
        self.uploads.insert(segment, Running { upload, attempt, taken: input.taken, reported: 0, task });
    }

    fn upload(&mut self, upload: u64, made: Made, body: UploadBody) {
        let Some(running) = self.uploads.get_mut(&made.segment).filter(|running| running.upload == upload)
        else {
            return;
        };
        let path = self.keys.segment_path(&made.attempt, made.segment);
        let http = self.http.clone();
        running.task = self.tasks.spawn(async move {
            let reply = http.upload(&path, WAIT, body).await;
            Done::Put { upload, reply }
        });
        self.tell(Input::Made(made));
    }

    fn refusal(&self, attempt: Id, recipient: &str, reason: Refused, message: String) -> Vec<u8> {
        let head = SegmentHead {
            transfer: self.transfer.clone(),
            attempt,
            segment: 0,
            offset: 0,
            description: None,
            end: None,
            error: Some((reason, message)),
        };
        sealed(recipient, &Head::Segment(Box::new(head)))
    }

    fn ending(&mut self, ending: Ending) -> SendEnding {
        match ending {
            Ending::Received { complete, stored: Stored::Disk } => {
                SendEnding::Stored { bytes: complete.bytes, sha256: complete.sha256 }
            }
            Ending::Received { complete, stored: Stored::Handed } => {
                SendEnding::Handed { bytes: complete.bytes, sha256: complete.sha256 }
            }
            Ending::Unconfirmed { bytes } => SendEnding::Unconfirmed { bytes },
            Ending::NoPeer => SendEnding::NoPeer,
            Ending::Cut { why, bytes } => SendEnding::Cut { why, bytes },
            Ending::Failed { reason, message } => SendEnding::Failed { reason, message },
            Ending::Source => match self.failure.take() {
                Some(error) => SendEnding::Source(error),
                None => SendEnding::Interrupted,
            },
            Ending::Unusable { verdict } => SendEnding::Unusable(unusable(&verdict, self.link.relay())),
            Ending::Interrupted => SendEnding::Interrupted,
        }
    }
}

/// Seals a message without data.
fn sealed(recipient: &str, head: &Head) -> Vec<u8> {
    // The recipient was checked when it arrived: an empty message stands for what cannot be.
    seal::sealed(recipient, head, &[]).unwrap_or_default()
}
