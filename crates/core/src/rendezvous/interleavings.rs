//! What many threads do to one stream at once, in whatever order a scheduler finds.
//!
//! [`shuttle`] runs the threads of a case one at a time, and decides at each of our locks, taken or given back, and at each
//! waking, who goes on. So a case is played in thousands of orders, and each that breaks a law can be played again. What it does
//! not see: the inside of tokio's channels, of which each step counts as one; and orders that a processor gives to memory, on
//! which nothing of ours rests. Sockets are not here either: `tests/wire/races.rs` has those.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use rendezvous_protocol::Side;
use shuttle::rand::Rng;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
use shuttle::{Config, Runner, thread};
use tokio::time::Instant;

use super::*;
use crate::events::Event as StreamEvent;
use crate::outcome::Fault;
use crate::transfer::{Departure, Piece, PresenceCheck, Relay, SourceBody, StreamLimits};

/// Longer than a case takes by any clock: only [`Act::PassTime`] and the end of a case let it pass.
const TTL: Duration = Duration::from_hours(1);
/// Orders that each scheduler plays of a case; `INTERLEAVINGS` says another number.
const ORDERS: usize = 3000;
/// Bytes of a whole body, in two frames.
const BODY: usize = 5;

/// What one thread does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Put(Conduct),
    Get(Conduct),
    Report,
    PassTime,
    /// The server ends: nobody may come any more, and then what runs is cut.
    ShutDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    /// Waits for whatever comes of it.
    Stays,
    /// Leaves its seat at once.
    Leaves,
    /// Leaves its seat at once, comes again, and stays.
    Returns,
    /// Leaves in the middle of the transfer.
    Breaks,
    /// Its connection breaks before it comes or while it waits, and it notices only later.
    Vanishes,
}

/// A connection.
#[derive(Default)]
struct Line {
    is_broken: AtomicBool,
}

impl Presence for Line {
    fn has_left(&self, _: Side) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    fn source_may_have_left(&self) -> bool {
        false
    }
}

impl Line {
    fn of(conduct: Conduct) -> Arc<Self> {
        let line = Arc::<Self>::default();
        if conduct == Conduct::Vanishes && shuttle::rand::thread_rng().gen_bool(0.5) {
            line.breaks();
        }
        line
    }

    fn breaks(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }
}

/// What came of an act.
#[derive(Debug)]
enum Event {
    Visit(Visit),
    Reported(Result<(), SeatError>),
    Nothing,
}

#[derive(Debug)]
struct Visit {
    side: Side,
    /// Each byte of its body, if it is a source.
    tag: u8,
    /// It was given the seat, whatever came of that.
    seated: bool,
    end: End,
}

#[derive(Debug)]
enum End {
    Refused(SeatError),
    /// It left. `unmet`: and was seen to have left before it met anybody.
    Left {
        unmet: bool,
    },
    Transferred {
        outcome: Outcome,
        /// What came, of a destination.
        received: Vec<u8>,
        /// It came to its proper end.
        whole: bool,
    },
}

/// What is there in the world of a case.
struct Stage {
    rendezvous: Arc<Rendezvous<Frames>>,
    published: Arc<Published>,
    id: StreamId,
    /// Who holds each seat, or streams on it.
    held: [AtomicUsize; 2],
    /// Every body has a share in it.
    bodies: Arc<()>,
}

/// What was seen in some order of a case, so that its silence proves something.
mod sight {
    pub(super) const FINISHED: u32 = 1;
    pub(super) const FAILED: u32 = 1 << 1;
    pub(super) const EXPIRED: u32 = 1 << 2;
    pub(super) const REPORT_TOLD: u32 = 1 << 3;
    pub(super) const SEAT_TAKEN: u32 = 1 << 4;
    pub(super) const LEFT_UNMET: u32 = 1 << 5;
    pub(super) const LEFT_AS_IT_MET: u32 = 1 << 6;
    pub(super) const SHUT_DOWN: u32 = 1 << 7;
}

/// A source's body: its frames, and then its end, or nothing for ever.
struct Frames {
    left: VecDeque<Bytes>,
    ends: bool,
    _share: Arc<()>,
}

impl SourceBody for Frames {
    type Kernel = ();

    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self.left.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn in_kernel(&self) -> Option<((), u64)> {
        None
    }

    fn skip(&mut self, _: u64) {}

    fn has_arrived(&self) -> bool {
        false
    }

    fn departure(&self) -> Option<Departure> {
        None
    }

    fn presence(&self) -> Option<PresenceCheck> {
        None
    }
}

/// What was published.
#[derive(Default)]
struct Published(Mutex<Vec<Change>>);

impl Subscriber for Published {
    fn publish(&self, event: &StreamEvent) {
        self.0.lock().push(event.change.clone());
    }
}

impl Published {
    fn count(&self, is_one: impl Fn(&Change) -> bool) -> usize {
        self.0.lock().iter().filter(|change| is_one(change)).count()
    }

    /// How many streams have ended by an outcome of this name.
    fn ended(&self, name: &str) -> usize {
        self.count(|change| matches!(change, Change::Ended { outcome, .. } if outcome.name() == name))
    }
}

/// A waker that lets others go first: whoever tells two waiters can be interrupted between them.
struct Hesitant(Waker);

impl Wake for Hesitant {
    fn wake(self: Arc<Self>) {
        others_may_go_first();
        self.0.wake_by_ref();
    }
}

fn others_may_go_first() {
    AtomicUsize::new(0).load(Ordering::SeqCst);
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    shuttle::future::block_on(poll_fn(|cx| {
        let waker = Waker::from(Arc::new(Hesitant(cx.waker().clone())));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    }))
}

impl Stage {
    fn new() -> Self {
        let transfer = transfer::Limits { idle: TTL, stream: StreamLimits::default() };
        let published = Arc::new(Published::default());
        let limits = Limits { ttl: TTL, transfer, max_streams: 10 };
        let rendezvous = Rendezvous::new(limits, vec![Arc::clone(&published) as _]);
        let id = rendezvous.create(NewStream::default(), || Ok(None)).unwrap();
        Self { rendezvous, published, id, held: Default::default(), bodies: Arc::default() }
    }

    fn perform(&self, act: Act, tag: u8) -> Vec<Event> {
        let visit: &dyn Fn(Conduct, u8) -> Visit = match act {
            Act::Put(_) => &|conduct, tag| self.put(conduct, tag),
            _ => &|conduct, tag| self.get(conduct, tag),
        };
        match act {
            Act::Put(Conduct::Returns) | Act::Get(Conduct::Returns) => {
                let visits = [visit(Conduct::Leaves, tag), visit(Conduct::Stays, tag + 100)];
                visits.map(Event::Visit).into()
            }
            Act::Put(conduct) | Act::Get(conduct) => vec![Event::Visit(visit(conduct, tag))],
            Act::Report => vec![Event::Reported(self.rendezvous.report(&self.id, report(), None))],
            Act::PassTime => {
                self.pass_time();
                vec![Event::Nothing]
            }
            Act::ShutDown => {
                self.rendezvous.close();
                self.rendezvous.cut();
                vec![Event::Nothing]
            }
        }
    }

    fn pass_time(&self) {
        self.rendezvous.pass_deadlines(Instant::now() + TTL);
    }

    fn put(&self, conduct: Conduct, tag: u8) -> Visit {
        let ends = conduct != Conduct::Breaks;
        let left = [vec![tag; BODY - 2], vec![tag; 2]].map(Bytes::from).into();
        let body = Frames { left, ends, _share: Arc::clone(&self.bodies) };
        let offer = Offer { body, length: None, headers: None };
        let line = Line::of(conduct);
        let seat = self.rendezvous.seat_source(&self.id, Box::new(offer), Arc::clone(&line) as _);
        self.visit(Side::Source, conduct, tag, &line, seat, |half| {
            if conduct == Conduct::Breaks {
                return End::Left { unmet: false };
            }
            let outcome = wait(half.transfer().outcome()).clone();
            End::Transferred { outcome, received: Vec::new(), whole: false }
        })
    }

    fn get(&self, conduct: Conduct, tag: u8) -> Visit {
        let line = Line::of(conduct);
        let seat = self.rendezvous.seat_destination(&self.id, Arc::clone(&line) as _);
        self.visit(Side::Destination, conduct, tag, &line, seat, |meeting| download(meeting, conduct))
    }

    fn visit<M>(
        &self,
        side: Side,
        conduct: Conduct,
        tag: u8,
        line: &Line,
        seat: Result<Seat<M, Frames>, SeatError>,
        transfer: impl FnOnce(M) -> End,
    ) -> Visit {
        let mut seat = match seat {
            Ok(seat) => seat,
            Err(refusal) => return Visit { side, tag, seated: false, end: End::Refused(refusal) },
        };
        if conduct == Conduct::Vanishes {
            // Who comes so meets nobody.
            let was_broken = line.has_left(side);
            line.breaks();
            others_may_go_first();
            drop(seat);
            let unmet = was_broken || self.has_met_nobody();
            return Visit { side, tag, seated: true, end: End::Left { unmet } };
        }
        let held = &self.held[usize::from(side == Side::Destination)];
        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "the {side}'s seat was given twice");
        let end = if conduct == Conduct::Leaves {
            // Asked once, so that somebody is told who does not listen.
            let _ = pin!(seat.met()).poll(&mut Context::from_waker(Waker::noop()));
            held.fetch_sub(1, Ordering::SeqCst);
            drop(seat);
            End::Left { unmet: self.has_met_nobody() }
        } else {
            let met = wait(seat.met());
            // As a destination's handler does, when the download begins.
            drop(seat);
            let end = met.map_or_else(End::Refused, transfer);
            held.fetch_sub(1, Ordering::SeqCst);
            end
        };
        Visit { side, tag, seated: true, end }
    }

    fn has_met_nobody(&self) -> bool {
        let state = self.rendezvous.snapshot(&self.id).map(|snapshot| snapshot.state);
        matches!(state, Some(SnapshotState::Created | SnapshotState::Waiting(_)))
    }

    /// The laws, when all have gone.
    fn judge(self, events: &[Event]) -> u32 {
        // What has ended is forgotten by the second time at the latest.
        self.pass_time();
        self.pass_time();
        let table = self.rendezvous.table.lock();
        assert!(table.is_empty());
        drop(table);
        assert_eq!(Arc::strong_count(&self.rendezvous), 1, "somebody still holds the table");
        assert_eq!(Arc::strong_count(&self.bodies), 1, "a body was not dropped");

        let counted = usize::try_from(self.rendezvous.body_bytes()).unwrap();
        let published = &*self.published;
        let visits: Vec<_> = events.iter().filter_map(Event::visit).collect();
        judge_transfer(&visits, published, counted);
        judge_report(events, &visits, published);
        let ends = published.count(|change| matches!(change, Change::Ended { .. }));
        assert_eq!(ends, 1, "a stream ends once");
        visits.iter().fold(0, |seen, visit| seen | judge_visit(visit, &visits, published))
    }
}

fn download(meeting: Meeting<Frames>, conduct: Conduct) -> End {
    let Meeting { half, offer, is_source_in_doubt } = meeting;
    let transfer = Arc::clone(half.transfer());
    let mut relay = Relay::new(*offer, is_source_in_doubt, Arc::clone(&transfer), pending());
    let mut received = Vec::new();
    let whole = wait(async {
        loop {
            let data = tokio::select! {
                biased;
                data = relay.next() => data,
                _ = transfer.failed() => return false,
            };
            match data {
                Ok(Piece::Data(data)) => received.extend(data),
                Ok(Piece::Last(data)) => {
                    received.extend(data);
                    return true;
                }
                Err(_) => return false,
            }
            if conduct == Conduct::Breaks {
                return false;
            }
            others_may_go_first();
        }
    });
    drop(relay);
    match transfer.whole_body() {
        Some(body) if whole => half.delivered(body),
        _ => drop(half),
    }
    let outcome = wait(transfer.outcome()).clone();
    End::Transferred { outcome, received, whole }
}

/// A pair is one transfer, with one outcome, and its bytes are those of the source that is told so.
fn judge_transfer(visits: &[&Visit], published: &Published, counted: usize) {
    let pairings = published.count(|change| matches!(change, Change::Paired { .. }));
    assert!(pairings <= 1, "a stream pairs at most once");
    let transfers = published.count(|change| matches!(change, Change::Ended { duration: Some(_), .. }));
    assert_eq!(transfers, pairings);
    let transferred = |of: Side| {
        let mut ends = visits.iter().filter_map(move |visit| match &visit.end {
            End::Transferred { outcome, received, whole } if visit.side == of => {
                Some((visit.tag, outcome, received, *whole))
            }
            _ => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "two of a side have met somebody");
        end
    };
    let (source, destination) = (transferred(Side::Source), transferred(Side::Destination));
    for (_, outcome, ..) in source.iter().chain(&destination) {
        assert_eq!(pairings, 1);
        assert_eq!(published.ended(outcome.name()), 1, "{outcome}: the table has ended otherwise");
    }
    let nothing = Vec::new();
    let received = destination.map_or(&nothing, |(_, _, received, _)| received);
    // What goes on between a failure and its being seen is not counted.
    assert!(counted <= received.len(), "{counted} bytes were counted, and {} came", received.len());
    let Some((_, outcome, received, whole)) = destination else { return };
    if *outcome == Outcome::Finished {
        assert!(whole && counted == BODY, "it says that it was delivered, and {counted} bytes were counted");
    }
    if whole {
        assert_eq!(received.len(), BODY);
        assert_ne!(*outcome, Outcome::Failed(Fault::DestinationDisconnected), "it was delivered");
    }
    if let Some(tag) = received.first() {
        assert!(received.iter().all(|byte| byte == tag), "two bodies in one");
        let of = visits.iter().find(|visit| visit.side == Side::Source && visit.tag == *tag).unwrap();
        assert!(
            !matches!(of.end, End::Left { unmet: true } | End::Refused(_)),
            "bytes of who had gone: {of:?}"
        );
        assert!(source.is_none_or(|(met, ..)| met == *tag), "the source that is told so sent other bytes");
    }
}

/// A report is taken once, and told once at most.
fn judge_report(events: &[Event], visits: &[&Visit], published: &Published) {
    let reports = events.iter().filter_map(|event| match event {
        Event::Reported(result) => Some(result),
        _ => None,
    });
    let taken = reports.filter(|result| result.is_ok()).count();
    let told =
        visits.iter().filter(|visit| matches!(visit.end, End::Refused(SeatError::Reported(_)))).count();
    assert!(told <= taken && taken <= 1, "{told} told of {taken} reports");
    assert_eq!(published.ended("reported"), taken);
}

/// Who is refused is refused for what has happened.
fn judge_visit(visit: &Visit, visits: &[&Visit], published: &Published) -> u32 {
    match &visit.end {
        End::Refused(SeatError::AlreadyConnected(side)) => {
            assert_eq!((*side, visit.seated), (visit.side, false));
            let has_seat = |other: &&&Visit| other.side == visit.side && other.seated;
            assert!(visits.iter().any(|other| has_seat(&other)), "nobody had the seat");
            sight::SEAT_TAKEN
        }
        End::Refused(SeatError::Expired) => {
            assert!(visit.seated);
            assert_eq!(published.ended("expired"), 1);
            sight::EXPIRED
        }
        End::Refused(SeatError::Reported(_)) => sight::REPORT_TOLD,
        End::Refused(SeatError::ShuttingDown) => sight::SHUT_DOWN,
        End::Refused(SeatError::NotFound) => {
            assert!(!visit.seated, "who waits is told why it waits no longer");
            0
        }
        End::Refused(refusal) => panic!("nothing is refused by {refusal:?} here"),
        End::Left { unmet: true } => sight::LEFT_UNMET,
        End::Left { unmet: false } => sight::LEFT_AS_IT_MET,
        End::Transferred { outcome: Outcome::Finished, .. } => sight::FINISHED,
        End::Transferred { .. } => sight::FAILED,
    }
}

impl Event {
    fn visit(&self) -> Option<&Visit> {
        match self {
            Self::Visit(visit) => Some(visit),
            _ => None,
        }
    }
}

fn report() -> Report {
    Report { status: 418, name: "N".into(), message: "M".into() }
}

/// One order of a case: all acts at once, and the end of the stream's time for those who wait. `patience` is how long that
/// waits; `None` where nobody waits for it.
fn play(acts: &[Act], patience: Option<usize>) -> u32 {
    let stage = Arc::new(Stage::new());
    let threads: Vec<_> = (1..)
        .zip(acts.to_vec())
        .map(|(tag, act)| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || stage.perform(act, tag))
        })
        .collect();
    if let Some(patience) = patience {
        (0..patience).for_each(|_| others_may_go_first());
        stage.pass_time();
    }
    let events: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    Arc::into_inner(stage).unwrap().judge(&events)
}

fn explore<S: Scheduler + 'static>(
    scheduler: S,
    case: impl Fn() -> u32 + Send + Sync + 'static,
) -> (usize, u32) {
    let seen = Arc::new(AtomicU32::new(0));
    let mut config = Config::default();
    config.stack_size = 1 << 18;
    let sights = Arc::clone(&seen);
    let orders = Runner::new(scheduler, config).run(move || {
        sights.fetch_or(case(), Ordering::Relaxed);
    });
    (orders, seen.load(Ordering::Relaxed))
}

/// Plays `acts` in many orders, and holds that all of `sights` were seen.
fn many_orders(acts: &'static [Act], sights: u32) {
    let orders = std::env::var("INTERLEAVINGS").map_or(ORDERS, |orders| orders.parse().unwrap());
    let case = || play(acts, Some(shuttle::rand::thread_rng().gen_range(0..150)));
    let (_, at_random) = explore(RandomScheduler::new(orders), case);
    let (_, by_priority) = explore(PctScheduler::new(3, orders), case);
    assert_eq!((at_random | by_priority) & sights, sights, "not all that can happen was seen");
}

#[test]
fn two_of_each_side_and_a_report() {
    use Conduct::Stays;
    many_orders(
        &[Act::Put(Stays), Act::Get(Stays), Act::Put(Stays), Act::Get(Stays), Act::Report],
        sight::FINISHED | sight::EXPIRED | sight::REPORT_TOLD | sight::SEAT_TAKEN,
    );
}

#[test]
fn some_leave_and_return() {
    use Conduct::{Returns, Stays};
    many_orders(
        &[Act::Put(Returns), Act::Get(Stays), Act::Put(Stays), Act::Get(Returns)],
        sight::FINISHED
            | sight::FAILED
            | sight::EXPIRED
            | sight::SEAT_TAKEN
            | sight::LEFT_UNMET
            | sight::LEFT_AS_IT_MET,
    );
}

#[test]
fn some_vanish_and_others_take_their_seats() {
    use Conduct::{Stays, Vanishes};
    many_orders(
        &[Act::Put(Vanishes), Act::Get(Vanishes), Act::Put(Stays), Act::Get(Stays), Act::Get(Vanishes)],
        sight::FINISHED | sight::FAILED | sight::EXPIRED | sight::SEAT_TAKEN | sight::LEFT_UNMET,
    );
}

#[test]
fn either_side_breaks_off_the_transfer() {
    use Conduct::{Breaks, Leaves, Stays};
    many_orders(
        &[Act::Put(Breaks), Act::Get(Breaks), Act::Get(Stays), Act::Put(Stays), Act::Put(Leaves)],
        sight::FINISHED | sight::FAILED | sight::SEAT_TAKEN | sight::LEFT_UNMET | sight::LEFT_AS_IT_MET,
    );
}

#[test]
fn the_server_ends_meanwhile() {
    use Conduct::{Returns, Stays};
    many_orders(
        &[Act::Put(Stays), Act::Get(Stays), Act::ShutDown, Act::Get(Returns)],
        sight::FINISHED | sight::FAILED | sight::SHUT_DOWN,
    );
}

#[test]
fn all_of_it_at_once() {
    use Conduct::{Breaks, Leaves, Returns, Stays};
    many_orders(
        &[
            Act::Put(Stays),
            Act::Get(Stays),
            Act::Put(Returns),
            Act::Get(Returns),
            Act::Put(Breaks),
            Act::Get(Breaks),
            Act::Put(Leaves),
            Act::Report,
            Act::Report,
            Act::PassTime,
            Act::ShutDown,
        ],
        sight::FINISHED | sight::FAILED | sight::REPORT_TOLD | sight::SHUT_DOWN | sight::LEFT_UNMET,
    );
}

/// Small cases, and each order that there is.
#[test]
fn every_order_of_one_who_leaves_and_one_who_does_something_else() {
    let (put, get) = (Act::Put(Conduct::Leaves), Act::Get(Conduct::Leaves));
    for acts in [[put, Act::Report], [get, Act::PassTime], [put, Act::ShutDown]] {
        let most = 1_000_000;
        let (orders, seen) = explore(DfsScheduler::new(Some(most), false), move || play(&acts, None));
        assert!(orders < most && seen & sight::LEFT_UNMET != 0, "{acts:?}: {orders} orders, seen {seen:b}");
    }
}
