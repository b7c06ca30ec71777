//! One transfer: plays the scenario and collects the observations.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::body::Body;
use crate::client::{self, Dial, Errand, Kept, View};
use crate::laws::{Circumstances, Facts, REPORTED};
use crate::log::Log;
use crate::place::{Place, Sight};
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

/// The place and the state of a transfer.
pub(crate) struct Play<'a> {
    scenario: &'a Scenario,
    dial: &'a Dial,
    place: Place<'a>,
    log: Log,
    progress: watch::Sender<u64>,
    cue: watch::Sender<bool>,
    kept: Kept,
}

impl<'a> Play<'a> {
    /// Plays the scenario at this place.
    #[must_use]
    pub(crate) fn new(scenario: &'a Scenario, dial: &'a Dial, place: Place<'a>, log: Log) -> Self {
        log.note("place", place.target(Side::Source));
        let (progress, cue, kept) = (watch::Sender::new(0), watch::Sender::new(false), Kept::default());
        Self { scenario, dial, place, log, progress, cue, kept }
    }

    /// Plays the scenario to the end. Returns the facts of each round, and only a loop has more than one.
    pub(crate) async fn run(self) -> Vec<Facts> {
        let mut facts = Facts {
            scenario: self.scenario.clone(),
            circumstances: Circumstances { ttl: TTL, ..Circumstances::default() },
            source: None,
            destination: None,
            intruder: None,
            in_vain: Vec::new(),
            report: None,
            freed: Vec::new(),
            sight: Sight::Unknown,
            took: Duration::ZERO,
        };
        let mut rounds = Vec::new();
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
            Fault::Impatient(times) => {
                for attempt in 1..=*times {
                    facts.in_vain.push(self.wait_in_vain(attempt).await);
                    // Before the response is sent, the seat is free.
                    facts.freed.push(self.place.look().await.is_free(self.scenario.first()));
                }
                self.meet(&mut facts).await;
            }
            Fault::Looped(times) => rounds = self.meet_again_and_again(*times).await,
            Fault::Absent(side) => {
                let view = self.send(side.other()).await;
                seen(&mut facts, view);
            }
            Fault::Forgotten => sleep(self.scenario.own_ttl().unwrap_or(TTL)).await,
            Fault::Reported(Stage::Before) => {
                facts.report = self.report().await;
                self.meet(&mut facts).await;
            }
            _ => self.meet(&mut facts).await,
        }
        // Not only once: the server may still be about to serve a client that has left, and then notice.
        facts.sight = self.place.look_until(ENDS_WITHIN, Sight::is_left).await.1;
        self.log.note("last sight", format!("{:?}", facts.sight));
        facts.took = self.log.elapsed();
        if rounds.is_empty() {
            return vec![facts];
        }
        let of_round = |(source, destination)| Facts { source, destination, ..facts.clone() };
        rounds.into_iter().map(of_round).collect()
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
                Some(side) => {
                    let view = self.intrude(side).await;
                    self.cue.send_replace(true);
                    (None, Some(view))
                }
            }
        };
        let (views, (report, intruder), ()) = tokio::join!(both, meddle, self.tell_the_pair());
        facts.report = facts.report.or(report);
        facts.intruder = facts.intruder.take().or(intruder);
        seen(facts, views.0);
        seen(facts, views.1);
    }

    /// Runs both sides in a loop. Each ends with its first round without a 200: the other must not meet another round of it then.
    async fn meet_again_and_again(&self, times: u64) -> Vec<(Option<View>, Option<View>)> {
        let repeat = async |side| {
            let mut views = Vec::new();
            let is_good = |view: &View| view.is_whole(200);
            while views.len() as u64 != times && views.last().is_none_or(is_good) {
                views.push(self.run_client(self.errand(side, views.len() as u64, Vec::new())).await);
            }
            views
        };
        let (sources, destinations) = tokio::join!(repeat(Side::Source), repeat(Side::Destination));
        let (mut sources, mut destinations) = (sources.into_iter(), destinations.into_iter());
        let rounds = std::iter::repeat_with(|| (sources.next(), destinations.next()));
        rounds.take_while(|(source, destination)| source.is_some() || destination.is_some()).collect()
    }

    /// Notifies the waiting steps when both sides have their seats, or never will.
    async fn tell_the_pair(&self) {
        let steps = [Side::Source, Side::Destination].map(|side| self.scenario.steps(side));
        if steps.concat().iter().any(|step| step.act == Act::AwaitPair) {
            self.place.look_until(TTL * 2, Sight::is_paired).await;
            self.cue.send_replace(true);
        }
    }

    /// Runs a planned side.
    async fn send(&self, side: Side) -> View {
        let mut steps = self.scenario.steps(side).to_vec();
        if let Some(offset) = self.scenario.awaits_intruder_at().filter(|_| side == Side::Source) {
            steps.push(Step { moment: Moment::Body(offset), act: Act::AwaitIntruder });
        }
        self.run_client(self.errand(side, 0, steps)).await
    }

    /// Runs another client that tries to take the seat.
    async fn intrude(&self, side: Side) -> View {
        self.log.note(side, "another client connects");
        let mut errand = self.errand(side, u64::MAX, Vec::new());
        errand.party.program = Program::Own;
        // A path may be free again, so that it gets a seat there. A second is enough to see that.
        errand.party.wait = Some(1);
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
            let ttl = self.scenario.own_ttl().unwrap_or(TTL);
            let (mut limit, mut received) = (ttl + self.scenario.takes() + PATIENCE, 0);
            while timeout(limit, &mut client).await.is_err() {
                // On a busy machine a transfer may be slow. One that moves does not hang.
                let before = std::mem::replace(&mut received, *self.progress.borrow());
                if received > before {
                    limit = PATIENCE;
                    continue;
                }
                // While the client is still connected.
                self.log.note(side, format!("hangs, and third clients see {:?}", self.place.look().await));
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

    /// Runs a first side that waits for a second only, until it has its response.
    async fn wait_in_vain(&self, attempt: u64) -> View {
        let mut errand = self.errand(self.scenario.first(), attempt, Vec::new());
        errand.party.program = Program::Own;
        errand.party.wait = Some(1);
        self.run_client(errand).await
    }

    /// Checks that the seat of the first side becomes free soon.
    async fn is_freed(&self) -> bool {
        let side = self.scenario.first();
        let (freed, _) = self.place.look_until(FREE_WITHIN, |sight| sight.is_free(side)).await;
        self.log.note(side, if freed { "its seat is free" } else { "its seat is not free" });
        freed
    }

    fn errand(&self, side: Side, attempt: u64, steps: Vec<Step>) -> Errand {
        let Scenario { seed, number, size, .. } = *self.scenario;
        let key = seed.rotate_left(32) ^ number ^ attempt.rotate_right(8);
        Errand {
            target: self.place.target(side),
            side,
            party: self.scenario.party(side).clone(),
            framing: self.scenario.framing,
            body: Body::new(key, size),
            steps,
            waits: Arc::new(Notify::new()),
            progress: self.progress.clone(),
            cue: self.cue.clone(),
            kept: Arc::clone(&self.kept),
            log: self.log.clone(),
        }
    }

    async fn report(&self) -> Option<u16> {
        let body = format!(r#"{{"http_status":{REPORTED},"name":"ChaosError","message":"chaos"}}"#);
        let status = self.place.report(&body).await;
        self.log.note("report", format!("answered {status:?}"));
        status
    }

    /// Waits until this side waits, or can no longer wait. False if it gets no seat in time.
    async fn until_seated(&self, side: Side) -> bool {
        let (is_seated, _) = self.place.look_until(SEATED_WITHIN, Sight::is_seated).await;
        self.log.note(side, if is_seated { "has its seat, or never will" } else { "has no seat yet" });
        is_seated
    }
}

fn seen(facts: &mut Facts, view: View) {
    match view.side {
        Side::Source => facts.source = Some(view),
        Side::Destination => facts.destination = Some(view),
    }
}
