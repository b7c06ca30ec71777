//! One transfer: plays the scenario and collects the observations.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::body::Body;
use crate::client::{self, Dial, Errand, Kept, View};
use crate::control::Control;
use crate::laws::{Circumstances, Facts, REPORTED, Status};
use crate::log::Log;
use crate::plan::{Act, Fault, Manner, Moment, Order, Program, Scenario, Side, Stage, Step};
use crate::server::{TTL, connections};

/// The time within which a seat must become free.
const FREE_WITHIN: Duration = Duration::from_millis(3500);
/// The time within which a side must get its seat.
const SEATED_WITHIN: Duration = Duration::from_secs(3);
/// The time within which a proxy has read the body of a waiting side.
const BODY_IS_READ: Duration = Duration::from_millis(50);
/// The time within which a stream must end that both sides have left.
const ENDS_WITHIN: Duration = Duration::from_secs(8);
/// The time after the end of its plan and after the last byte, after which a client without a response hangs. The idle limit does not
/// hide that: unless it is short, it is 6 h.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause between two looks at a status.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// The place and the state of a transfer.
pub(crate) struct Play<'a> {
    scenario: &'a Scenario,
    dial: &'a Dial,
    control: &'a Control,
    log: Log,
    stream: String,
    progress: watch::Sender<u64>,
    paired: watch::Sender<bool>,
    kept: Kept,
}

impl<'a> Play<'a> {
    /// Creates the stream. `None` if no server creates it.
    pub(crate) async fn new(
        scenario: &'a Scenario,
        dial: &'a Dial,
        control: &'a Control,
        log: Log,
    ) -> Option<Self> {
        #[derive(Deserialize)]
        struct Made {
            stream: String,
        }
        let body = if scenario.is_promised {
            format!(r#"{{"download_headers":{{"Content-Length":{}}}}}"#, scenario.size)
        } else {
            String::new()
        };
        let made = control.insist("POST", "/stream", &body, 201).await?;
        let Made { stream } = serde_json::from_slice(&made).ok()?;
        log.note("stream", &stream);
        let (progress, paired, kept) = (watch::Sender::new(0), watch::Sender::new(false), Kept::default());
        Some(Self { scenario, dial, control, log, stream, progress, paired, kept })
    }

    /// Plays the scenario to the end.
    pub(crate) async fn run(self) -> Facts {
        let mut facts = Facts {
            scenario: self.scenario.clone(),
            circumstances: Circumstances { ttl: TTL, ..Circumstances::default() },
            source: None,
            destination: None,
            intruder: None,
            report: None,
            freed: Vec::new(),
            status: None,
            took: Duration::ZERO,
        };
        match &self.scenario.fault {
            Fault::Replaced(manners) => {
                for (index, manner) in manners.iter().enumerate() {
                    let was_seated = self.come_and_go(*manner, index as u64 + 1).await;
                    facts.freed.extend(Some(self.is_freed().await).filter(|_| was_seated));
                }
                self.meet(&mut facts).await;
            }
            Fault::Abandoned { manner, at_once } => {
                // With the body of the transfer: a part of it may arrive if the departure is not visible, but not the whole.
                let was_seated = self.come_and_go(*manner, 0).await;
                if !at_once && !self.scenario.leaves_unseen(*manner) {
                    facts.freed.extend(Some(self.is_freed().await).filter(|_| was_seated));
                }
                let side = self.scenario.first().other();
                seen(&mut facts, self.send(side).await);
            }
            Fault::Absent(side) => {
                let view = self.send(side.other()).await;
                seen(&mut facts, view);
            }
            Fault::Forgotten => sleep(TTL).await,
            Fault::Reported(Stage::Before) => {
                facts.report = self.report().await;
                self.meet(&mut facts).await;
            }
            _ => self.meet(&mut facts).await,
        }
        facts.status = self.last_status().await;
        if let Some(status) = &facts.status {
            self.log.note("status", format!("{} after {} bytes", status.state, status.bytes_transferred));
        }
        facts.took = self.log.elapsed();
        facts
    }

    /// Runs both sides in their order, and the third client, if any.
    async fn meet(&self, facts: &mut Facts) {
        let first = self.scenario.first();
        let (first_is_over, over) = (Notify::new(), Notify::new());
        let first_view = async {
            let view = self.send(first).await;
            first_is_over.notify_one();
            view
        };
        let second = async {
            if let Order::First(_) = self.scenario.order {
                tokio::select! {
                    _ = self.until_seated(first) => {}
                    () = first_is_over.notified() => {}
                }
                match self.scenario.fault {
                    Fault::Reported(Stage::Waiting) => facts.report = self.report().await,
                    Fault::Intruder(side, Stage::Waiting) => facts.intruder = Some(self.intrude(side).await),
                    _ => {}
                }
            }
            self.send(first.other()).await
        };
        let both = async {
            let views = tokio::join!(first_view, second);
            over.notify_one();
            views
        };
        let meddle = async {
            let (stage, side) = match self.scenario.fault {
                Fault::Reported(stage) => (stage, None),
                Fault::Intruder(side, stage) => (stage, Some(side)),
                _ => return (None, None),
            };
            let Stage::Streaming(offset) = stage else { return (None, None) };
            let mut progress = self.progress.subscribe();
            tokio::select! {
                _ = progress.wait_for(|bytes| *bytes > offset) => {}
                () = over.notified() => return (None, None),
            }
            match side {
                None => (self.report().await, None),
                Some(side) => (None, Some(self.intrude(side).await)),
            }
        };
        let (views, (report, intruder), ()) = tokio::join!(both, meddle, self.tell_the_pair());
        facts.report = facts.report.or(report);
        facts.intruder = facts.intruder.take().or(intruder);
        seen(facts, views.0);
        seen(facts, views.1);
    }

    /// Notifies the waiting steps when both sides have their seats, or never will.
    async fn tell_the_pair(&self) {
        let steps = [Side::Source, Side::Destination].map(|side| self.scenario.steps(side));
        if steps.concat().iter().any(|step| step.act == Act::AwaitPair) {
            let alone = ["CREATED", waiting(Side::Source), waiting(Side::Destination)];
            self.until(TTL * 2, |status| !alone.contains(&status.state.as_str())).await;
            self.paired.send_replace(true);
        }
    }

    /// Runs a planned side.
    async fn send(&self, side: Side) -> View {
        self.run_client(self.errand(side, 0, self.scenario.steps(side).to_vec())).await
    }

    /// Runs another client that tries to take the seat.
    async fn intrude(&self, side: Side) -> View {
        self.log.note(side, "another client connects");
        let mut errand = self.errand(side, u64::MAX, Vec::new());
        errand.party.program = Program::Own;
        // Its bytes are not progress of the transfer.
        errand.progress = watch::Sender::new(0);
        self.run_client(errand).await
    }

    /// Runs one client. One without a response in time counts as hanging, which the transcript notes with the status of the stream.
    async fn run_client(&self, errand: Errand) -> View {
        let side = errand.side;
        let mut view = View::new(side);
        {
            let mut client = pin!(client::run(errand, self.dial, &mut view));
            let (mut limit, mut received) = (TTL + self.scenario.takes() + PATIENCE, 0);
            while timeout(limit, &mut client).await.is_err() {
                // On a busy machine a transfer may be slow. One that moves does not hang.
                let before = std::mem::replace(&mut received, *self.progress.borrow());
                if received > before {
                    limit = PATIENCE;
                    continue;
                }
                // While the client is still connected.
                self.log.note(side, format!("hangs, and the stream is {}", self.raw_status().await));
                self.log.note("connections", connections(self.dial.server));
                break;
            }
        }
        let status = view.status().map_or_else(|| "-".to_owned(), |status| status.to_string());
        self.log.note(side, format!("ended: {:?}, status {status}, {} bytes", view.ending, view.bytes));
        view
    }

    /// Runs a first side that waits and leaves. False if the machine was too busy to give it its seat before that: a proxy may then send
    /// its request to the server after it has left.
    async fn come_and_go(&self, manner: Manner, attempt: u64) -> bool {
        let side = self.scenario.first();
        // nginx does not notice a FIN that arrives together with the end of a body.
        let pause = self.scenario.party(side).proxy.map(|_| Act::Stall(BODY_IS_READ));
        let acts = pause.into_iter().chain([Act::Leave(manner)]);
        let steps = acts.map(|act| Step { moment: Moment::Waiting, act }).collect();
        let errand = self.errand(side, attempt, steps);
        let waits = Arc::clone(&errand.waits);
        let mut visit = pin!(self.run_client(errand));
        let is_seated = tokio::select! {
            // It got no seat, which is not what this checks.
            _ = &mut visit => return true,
            is_seated = self.until_seated(side) => is_seated,
        };
        waits.notify_one();
        visit.await;
        is_seated
    }

    /// Checks that the seat of the first side becomes free soon.
    async fn is_freed(&self) -> bool {
        let side = self.scenario.first();
        let (freed, _) = self.until(FREE_WITHIN, |status| status.state != waiting(side)).await;
        self.log.note(side, if freed { "its seat is free" } else { "its seat is not free" });
        freed
    }

    fn errand(&self, side: Side, attempt: u64, steps: Vec<Step>) -> Errand {
        let Scenario { seed, number, size, .. } = *self.scenario;
        let key = seed.rotate_left(32) ^ number ^ attempt.rotate_right(8);
        Errand {
            path: format!("/stream/{}", self.stream),
            side,
            party: self.scenario.party(side).clone(),
            framing: self.scenario.framing,
            body: Body::new(key, size),
            steps,
            waits: Arc::new(Notify::new()),
            progress: self.progress.clone(),
            paired: self.paired.clone(),
            kept: Arc::clone(&self.kept),
            log: self.log.clone(),
        }
    }

    async fn report(&self) -> Option<u16> {
        let body = format!(r#"{{"http_status":{REPORTED},"name":"ChaosError","message":"chaos"}}"#);
        let answer = self.control.ask("POST", &format!("/stream/{}/error", self.stream), &body).await;
        let status = answer.ok().map(|(status, _)| status);
        self.log.note("report", format!("answered {status:?}"));
        status
    }

    /// Waits until this side waits, or can no longer wait. False if it gets no seat in time.
    async fn until_seated(&self, side: Side) -> bool {
        let (is_seated, _) = self.until(SEATED_WITHIN, |status| status.state != "CREATED").await;
        self.log.note(side, if is_seated { "has its seat, or never will" } else { "has no seat yet" });
        is_seated
    }

    /// Polls the status until `enough`, or the stream is no longer known, or the time is over. Returns whether it was enough, and the
    /// last status.
    async fn until(&self, limit: Duration, is_so: impl Fn(&Status) -> bool) -> (bool, Option<Status>) {
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let status = self.status().await;
            let is_over = status.as_ref().is_none_or(&is_so);
            if is_over || begun.elapsed() >= limit {
                return (is_over, status);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn status(&self) -> Option<Status> {
        let status = self.control.insist("GET", &self.status_path(), "", 200).await?;
        serde_json::from_slice(&status).ok()
    }

    /// The raw status object, for a report.
    async fn raw_status(&self) -> String {
        match self.control.ask("GET", &self.status_path(), "").await {
            Ok((_, status)) => String::from_utf8_lossy(&status).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn status_path(&self) -> String {
        format!("/stream/{}/status", self.stream)
    }

    /// The last status: the stream has ended, or no side waits on it.
    async fn last_status(&self) -> Option<Status> {
        // Not only once: the server may still be about to serve a client that has left, and then notice.
        self.until(ENDS_WITHIN, |status| !status.active || status.state == "CREATED").await.1
    }
}

fn seen(facts: &mut Facts, view: View) {
    match view.side {
        Side::Source => facts.source = Some(view),
        Side::Destination => facts.destination = Some(view),
    }
}

fn waiting(side: Side) -> &'static str {
    match side {
        Side::Source => "SRC_CONNECTED",
        Side::Destination => "DST_CONNECTED",
    }
}
