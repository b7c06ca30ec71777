//! Performs the actions of the receiver's state machine.
//!
//! *Concurrency.* One task owns the machine. Requests are tasks of its [`JoinSet`], so they end with it; two threads decrypt and write.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{ReceiveEnding, ReceiveEvent, ReceiveOptions};
use crate::clock::Clock;
use crate::destination::{Destination, DestinationError, ReceiverId, Resumed, Stored};
use crate::http::{Fetched, Http, next_chunk, unusable};
use crate::keys::Keys;
use crate::link::Id;
use crate::messages::Head;
use crate::receiver::{Action, Ending, Input, Receiver, Start};
use crate::receiving::{self, BODY, Command, Event, Held};
use crate::reply::{Reply, WAIT};
use crate::seal::{ControlSeal, Identity};
use crate::send::Failure;

/// So many reports of the threads wait.
const EVENTS: usize = 64;

/// What a task of the driver reports.
enum Done {
    Told(Reply),
    /// A GET has a body, or was answered otherwise.
    Opened {
        attempt: Id,
        segment: u64,
        body: Result<mpsc::Receiver<Bytes>, Reply>,
    },
    /// A body was passed on to its end.
    Passed,
    Bye(Fetched),
}

struct Driver<O> {
    machine: Receiver,
    clock: Clock,
    http: Http,
    keys: Arc<Keys>,
    seal: Arc<ControlSeal>,
    identity: Identity,
    commands: Sender<Command>,
    tasks: JoinSet<Done>,
    gets: Vec<AbortHandle>,
    /// The attempt whose segments are taken, the next of them, and whether one is with the threads.
    attempt: Option<Id>,
    next: u64,
    is_open: bool,
    bodies: HashMap<u64, mpsc::Receiver<Bytes>>,
    /// How many [`Command::Close`] are not answered yet.
    closing: u32,
    stored_at: Option<PathBuf>,
    failure: Option<DestinationError>,
    observe: O,
}

/// Receives, from the first look at the destination on.
pub(super) async fn run<O: FnMut(ReceiveEvent) + Send>(
    mut destination: Box<dyn Destination>,
    options: &ReceiveOptions,
    http: Http,
    stop: &CancellationToken,
    mut observe: O,
) -> ReceiveEnding {
    let resumed = match destination.resume() {
        Ok(resumed) => resumed,
        Err(error) => return ReceiveEnding::Destination(error),
    };
    if let Some(resumed) = &resumed {
        observe(ReceiveEvent::Description(resumed.description.clone()));
        observe(ReceiveEvent::Resumed { offset: resumed.bytes });
        if resumed.complete.is_some() && destination.stored_at().is_none() {
            let warning = "an earlier run has stored it, but it is no longer there: only the sender is told";
            observe(ReceiveEvent::Warning(warning.into()));
        }
    }
    let identity = Identity::generate();
    let new_receiver = || ReceiverId { name: Id::random(), run: 0 };
    let (id, resumed, held) = match resumed {
        Some(Resumed { transfer, receiver, bytes, hasher, complete, .. }) => {
            (receiver, Some((transfer, bytes, complete)), Held { bytes, hasher })
        }
        None => (new_receiver(), None, Held::default()),
    };
    let start = Start {
        id: id.clone(),
        recipient: identity.recipient(),
        give_up: options.give_up,
        passes_on: !destination.can_continue(),
        resumed,
        seed: fastrand::u64(..),
    };
    let stored_at = destination.stored_at().map(Into::into);
    let (sender, events) = mpsc::channel(EVENTS);
    let keys = Keys::of(options.link.secret());
    let driver = Driver {
        machine: Receiver::new(start),
        clock: Clock::start(),
        http,
        seal: Arc::new(ControlSeal::new(&keys)),
        keys: Arc::new(keys),
        commands: receiving::start(destination, id, held, identity.clone(), sender),
        identity,
        tasks: JoinSet::new(),
        gets: Vec::new(),
        attempt: None,
        next: 0,
        is_open: false,
        bodies: HashMap::new(),
        closing: 0,
        stored_at,
        failure: None,
        observe,
    };
    driver.run(stop, events, options).await
}

impl<O: FnMut(ReceiveEvent) + Send> Driver<O> {
    async fn run(
        mut self,
        stop: &CancellationToken,
        mut events: mpsc::Receiver<Event>,
        options: &ReceiveOptions,
    ) -> ReceiveEnding {
        let mut is_stopped = false;
        loop {
            while let Some(action) = self.machine.action() {
                if let Some(ending) = self.act(action) {
                    return self.end(ending, &mut events, options).await;
                }
            }
            let pause = self.machine.deadline().saturating_sub(self.clock.now()).min(Clock::LOOK);
            tokio::select! {
                // What has come goes before deadlines that have passed, in case that the process was stopped.
                biased;
                Some(event) = events.recv() => self.take_event(event),
                Some(done) = self.tasks.join_next() => {
                    if let Ok(done) = done {
                        self.take(done);
                    }
                }
                () = stop.cancelled(), if !is_stopped => {
                    is_stopped = true;
                    self.tell(Input::Stop);
                }
                () = tokio::time::sleep(pause) => self.tell(Input::Tick),
            }
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.clock.now();
        self.machine.handle(now, input);
    }

    fn command(&self, command: Command) {
        // The threads end only with the driver, or with a panic that the next deadline shows.
        drop(self.commands.send(command));
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Told(reply) => self.tell(Input::Told(reply)),
            Done::Opened { attempt, segment, body } => {
                if self.attempt.as_ref() != Some(&attempt) {
                    return;
                }
                match body {
                    Ok(body) => {
                        self.bodies.insert(segment, body);
                        self.open_next();
                    }
                    Err(reply) => self.tell(Input::Got { segment, reply }),
                }
            }
            Done::Passed => {}
            Done::Bye(Fetched::Body(sealed)) => {
                let opened = matches!(self.identity.open(&sealed[..]), Ok((Head::Bye, _)));
                let reply = Reply::Status { code: 200, retry_after: None };
                self.tell(Input::ByeGot { opened, reply });
            }
            Done::Bye(Fetched::Not(reply)) => self.tell(Input::ByeGot { opened: false, reply }),
        }
    }

    /// Gives the threads the next segment, if its body is there and they are free.
    fn open_next(&mut self) {
        if !self.is_open
            && let Some(body) = self.bodies.remove(&self.next)
        {
            self.is_open = true;
            self.command(Command::Open { segment: self.next, body });
        }
    }

    fn take_event(&mut self, event: Event) {
        // After a Close, what the threads report of segments is of the last attempt; only written bytes count.
        let is_current = self.closing == 0;
        match event {
            Event::Opened { segment, head } if is_current => self.tell(Input::Opened { segment, head }),
            Event::Unopened { segment } if is_current => {
                let reply = Reply::Status { code: 200, retry_after: None };
                self.tell(Input::Got { segment, reply });
            }
            Event::Ended { segment, whole } if is_current => {
                self.next = segment + 1;
                self.is_open = false;
                self.tell(Input::Ended { segment, whole });
                self.open_next();
            }
            Event::Opened { .. }
            | Event::Unopened { .. }
            | Event::Ended { .. }
            | Event::Wrote(0)
            | Event::Over(_) => {}
            Event::Wrote(bytes) => self.tell(Input::Wrote { bytes }),
            Event::Closed => {
                self.closing = self.closing.saturating_sub(1);
                if self.closing == 0 {
                    self.tell(Input::Closed);
                }
            }
            Event::Stored { stored, at } => {
                self.stored_at = at;
                self.tell(Input::Stored(stored));
            }
            Event::Mismatch(why) => self.tell(Input::Mismatch { why }),
            Event::Failed(error) => {
                let reason = failure_of(&error);
                let message = "the receiver cannot store the data".to_owned();
                self.failure = Some(error);
                self.tell(Input::DestinationFailed { reason, message });
            }
        }
    }

    /// Performs an action, and returns the ending if it is the last.
    fn act(&mut self, action: Action) -> Option<Ending> {
        let http = self.http.clone();
        match action {
            Action::Tell(message) => {
                let (path, seal) = (self.keys.control_path(), Arc::clone(&self.seal));
                self.tasks.spawn(async move {
                    match seal.seal(&message) {
                        Ok(sealed) => Done::Told(http.put(&path, WAIT, sealed).await),
                        Err(error) => Done::Told(Reply::Lost { why: error.to_string() }),
                    }
                });
            }
            Action::Get { attempt, segment } => self.get(attempt, segment),
            Action::Take { begin, .. } => self.command(Command::Take { begin }),
            Action::Close => {
                for get in self.gets.drain(..) {
                    get.abort();
                }
                self.attempt = None;
                self.bodies.clear();
                self.next = 0;
                self.is_open = false;
                self.closing += 1;
                self.command(Command::Close);
            }
            Action::Finish(complete) => self.command(Command::Finish(complete)),
            Action::GetBye { attempt } => {
                let path = self.keys.bye_path(&attempt);
                self.tasks.spawn(async move { Done::Bye(http.fetch(&path, WAIT).await) });
            }
            Action::Confirmed => {}
            Action::Event(event) => (self.observe)(event),
            Action::End(ending) => return Some(ending),
        }
        None
    }

    fn get(&mut self, attempt: Id, segment: u64) {
        self.attempt = Some(attempt.clone());
        let path = self.keys.segment_path(&attempt, segment);
        let http = self.http.clone();
        let (blocks, body) = mpsc::channel(BODY);
        // One task opens it and reports that; it lives on as the one that passes on the body.
        let (opened, report) = tokio::sync::oneshot::channel();
        let pass = self.tasks.spawn(async move {
            match http.open(&path, WAIT).await {
                Ok(mut response) => {
                    drop(opened.send(Ok(())));
                    while let Ok(Some(chunk)) = next_chunk(&mut response).await {
                        if blocks.send(chunk).await.is_err() {
                            break;
                        }
                    }
                }
                Err(reply) => drop(opened.send(Err(reply))),
            }
            Done::Passed
        });
        let tell = self.tasks.spawn(async move {
            let lost = || Reply::Lost { why: "the request was dropped".into() };
            let opened = report.await.unwrap_or_else(|_| Err(lost()));
            Done::Opened { attempt, segment, body: opened.map(|()| body) }
        });
        self.gets.retain(|get| !get.is_finished());
        self.gets.extend([pass, tell]);
    }

    /// Leaves the destination as it must be, and describes the ending.
    async fn end(
        mut self,
        ending: Ending,
        events: &mut mpsc::Receiver<Event>,
        options: &ReceiveOptions,
    ) -> ReceiveEnding {
        self.tasks.abort_all();
        let last = match &ending {
            Ending::Stored { confirmed: true, .. } => Some(Command::Confirmed),
            Ending::Integrity { .. } | Ending::Refused { .. } | Ending::Destination => Some(Command::Abandon),
            _ => None,
        };
        if let Some(last) = last {
            self.command(last);
            // Written bytes may still be reported before.
            while let Some(event) = events.recv().await {
                if let Event::Over(error) = event {
                    if let Some(error) = error {
                        (self.observe)(ReceiveEvent::Warning(error.to_string()));
                    }
                    break;
                }
            }
        }
        match ending {
            Ending::Stored { complete, stored: Stored::Disk, confirmed } => {
                let at = self.stored_at;
                ReceiveEnding::Stored { bytes: complete.bytes, sha256: complete.sha256, at, confirmed }
            }
            Ending::Stored { complete, stored: Stored::Handed, confirmed } => {
                ReceiveEnding::Handed { bytes: complete.bytes, sha256: complete.sha256, confirmed }
            }
            Ending::NoPeer => ReceiveEnding::NoPeer,
            Ending::Cut { why, bytes } => ReceiveEnding::Cut { why, bytes },
            Ending::Refused { reason, message } => ReceiveEnding::Refused { reason, message },
            Ending::Integrity { why } => ReceiveEnding::Integrity { why },
            Ending::Destination => match self.failure {
                Some(error) => ReceiveEnding::Destination(error),
                None => ReceiveEnding::Interrupted,
            },
            Ending::Unusable { verdict } => ReceiveEnding::Unusable(unusable(&verdict, options.link.relay())),
            Ending::Interrupted => ReceiveEnding::Interrupted,
        }
    }
}

fn failure_of(error: &DestinationError) -> Failure {
    match error {
        DestinationError::NoSpace { .. } => Failure::NoSpace,
        DestinationError::Exists { .. } => Failure::Exists,
        DestinationError::Refused { .. } => Failure::Refused,
        DestinationError::PassedOn { .. } => Failure::Integrity,
        DestinationError::Io { .. } => Failure::Other,
    }
}
