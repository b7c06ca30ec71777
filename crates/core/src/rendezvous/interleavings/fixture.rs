//! One stream or path in a table, and the sides that connect to it: performs the actions of a case and records their results.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use rendezvous_protocol::{PathName, Side, StreamKind};
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
use tokio::time::Instant;

use super::super::*;
use super::{Action, Behavior};
use crate::events::Event;
use crate::outcome::Fault;
use crate::snapshot::SnapshotState;
use crate::transfer::{Departure, Piece, PresenceCheck, Relay, SourceBody, StreamLimits};

/// Longer than a case takes on any clock: time passes only by [`Action::Expire`] and at the end of a case.
const TTL: Duration = Duration::from_hours(1);
/// The longest wait that a side asks for: see [`Behavior::WaitsBriefly`].
const BRIEF_WAIT: Duration = Duration::from_secs(1);
/// Bytes of a whole body, in two frames.
pub(super) const BODY: usize = 5;

/// The table with one stream, and counts that are kept outside of it.
pub(super) struct Fixture {
    pub(super) rendezvous: Arc<Rendezvous<Frames>>,
    pub(super) published: Arc<Published>,
    name: StreamName,
    /// The number of holders of each seat, from the seat to the end of the transfer.
    holders: [AtomicUsize; 2],
    /// Shared by all bodies, to detect one that is not dropped.
    pub(super) bodies: Arc<()>,
}

/// The result of an action.
#[derive(Debug)]
pub(super) enum ActionResult {
    Attempt(Attempt),
    Reported(Result<(), SeatError>),
    Nothing,
}

/// One connection of a side.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) side: Side,
    /// The value of each byte of its body, if it is a source.
    pub(super) tag: u8,
    /// Whether it was given the seat.
    pub(super) seated: bool,
    pub(super) end: End,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    Refused(SeatError),
    Left {
        /// Whether it is certain that the side left before the stream paired.
        unpaired: bool,
    },
    Transferred {
        outcome: Outcome,
        /// The bytes that a destination received.
        received: Vec<u8>,
        /// Whether a destination received the proper end of the body.
        whole: bool,
    },
}

impl ActionResult {
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Attempt(attempt) => Some(attempt),
            _ => None,
        }
    }
}

/// The connection of a side.
#[derive(Default)]
struct Connection {
    is_closed: AtomicBool,
}

impl Connection {
    fn of(behavior: Behavior) -> Arc<Self> {
        let connection = Arc::<Self>::default();
        if behavior == Behavior::Vanishes && shuttle::rand::thread_rng().gen_bool(0.5) {
            connection.close();
        }
        connection
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
}

impl Presence for Connection {
    fn has_left(&self, _: Side) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    fn source_may_have_left(&self) -> bool {
        false
    }
}

/// The body of a source: its frames, then its end; or, if it does not end, nothing.
pub(super) struct Frames {
    remaining: VecDeque<Bytes>,
    ends: bool,
    _share: Arc<()>,
}

impl SourceBody for Frames {
    type Kernel = ();

    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self.remaining.pop_front() {
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

/// Records the published changes.
#[derive(Default)]
pub(super) struct Published(Mutex<Vec<Change>>);

impl Subscriber for Published {
    fn publish(&self, event: &Event) {
        self.0.lock().push(event.change.clone());
    }
}

impl Published {
    /// Returns the number of changes that match.
    pub(super) fn count(&self, matches: impl Fn(&Change) -> bool) -> usize {
        self.0.lock().iter().filter(|change| matches(change)).count()
    }

    /// Returns the number of streams that ended with the outcome of this name.
    pub(super) fn ended(&self, name: &str) -> usize {
        self.count(|change| matches!(change, Change::Ended { outcome, .. } if outcome.name() == name))
    }
}

/// A waker with a yield point, so that a thread that wakes two others can be interrupted in between.
struct YieldingWaker(Waker);

impl Wake for YieldingWaker {
    fn wake(self: Arc<Self>) {
        yield_point();
        self.0.wake_by_ref();
    }
}

/// Lets the scheduler switch to another thread.
pub(super) fn yield_point() {
    AtomicUsize::new(0).load(Ordering::SeqCst);
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    shuttle::future::block_on(poll_fn(|cx| {
        let waker = Waker::from(Arc::new(YieldingWaker(cx.waker().clone())));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    }))
}

impl Fixture {
    /// Creates a table with one stream, or with none for the sides of a path.
    pub(super) fn new(kind: StreamKind) -> Self {
        let transfer = transfer::Limits { idle: TTL, stream: StreamLimits::default() };
        let published = Arc::new(Published::default());
        let limits = Limits { ttl: TTL, transfer, max_streams: 10 };
        let rendezvous = Rendezvous::new(limits, vec![Arc::clone(&published) as _]);
        let name = match kind {
            StreamKind::Created => {
                StreamName::Id(rendezvous.create(NewStream::default(), || Ok(None)).unwrap())
            }
            StreamKind::Path => StreamName::Path(PathName::parse("a").unwrap()),
        };
        Self { rendezvous, published, name, holders: Default::default(), bodies: Arc::default() }
    }

    pub(super) fn kind(&self) -> StreamKind {
        self.name.kind()
    }

    fn request(
        &self,
        behavior: Behavior,
        connection: &Arc<Connection>,
    ) -> SeatRequest<'_, impl FnOnce() -> Result<Option<Permit>, TooMany>> {
        let wait = (behavior == Behavior::WaitsBriefly).then_some(BRIEF_WAIT.as_secs());
        let presence = Arc::clone(connection) as _;
        let waited = Duration::ZERO;
        SeatRequest { name: &self.name, presence, wait, waited, creation: Ok(()), permit: || Ok(None) }
    }

    /// Performs an action. The bytes of a source have the value `tag`, or `tag + 100` after it has returned.
    pub(super) fn perform(&self, action: Action, tag: u8) -> Vec<ActionResult> {
        let attempt: &dyn Fn(Behavior, u8) -> Attempt = match action {
            Action::Put(_) => &|behavior, tag| self.put(behavior, tag),
            _ => &|behavior, tag| self.get(behavior, tag),
        };
        match action {
            Action::Put(Behavior::Returns) | Action::Get(Behavior::Returns) => {
                let attempts = [attempt(Behavior::Leaves, tag), attempt(Behavior::Stays, tag + 100)];
                attempts.map(ActionResult::Attempt).into()
            }
            Action::Put(behavior) | Action::Get(behavior) => {
                vec![ActionResult::Attempt(attempt(behavior, tag))]
            }
            Action::Report => {
                let report = Report { status: 418, name: "N".into(), message: "M".into() };
                let StreamName::Id(id) = &self.name else { panic!("no error can be reported at a path") };
                vec![ActionResult::Reported(self.rendezvous.report(id, report, None))]
            }
            Action::Expire => {
                self.expire();
                vec![ActionResult::Nothing]
            }
            Action::EndWaits => {
                self.rendezvous.pass_deadlines(Instant::now() + BRIEF_WAIT);
                vec![ActionResult::Nothing]
            }
            Action::ShutDown => {
                self.rendezvous.close();
                self.rendezvous.abort_transfers();
                vec![ActionResult::Nothing]
            }
        }
    }

    pub(super) fn expire(&self) {
        self.rendezvous.pass_deadlines(Instant::now() + TTL);
    }

    fn put(&self, behavior: Behavior, tag: u8) -> Attempt {
        let ends = behavior != Behavior::Breaks;
        let remaining = [vec![tag; BODY - 2], vec![tag; 2]].map(Bytes::from).into();
        let body = Frames { remaining, ends, _share: Arc::clone(&self.bodies) };
        let offer = Offer { body, length: None, headers: None };
        let connection = Connection::of(behavior);
        let seat = self.rendezvous.seat_source(self.request(behavior, &connection), Box::new(offer));
        self.attempt(Side::Source, behavior, tag, &connection, seat, |half| {
            if behavior == Behavior::Breaks {
                return End::Left { unpaired: false };
            }
            let outcome = block_on(half.transfer().outcome()).clone();
            End::Transferred { outcome, received: Vec::new(), whole: false }
        })
    }

    fn get(&self, behavior: Behavior, tag: u8) -> Attempt {
        let connection = Connection::of(behavior);
        let seat = self.rendezvous.seat_destination(self.request(behavior, &connection));
        self.attempt(Side::Destination, behavior, tag, &connection, seat, |pairing| {
            download(pairing, behavior)
        })
    }

    fn attempt<M>(
        &self,
        side: Side,
        behavior: Behavior,
        tag: u8,
        connection: &Connection,
        seat: Result<Seat<M, Frames>, SeatError>,
        transfer: impl FnOnce(M) -> End,
    ) -> Attempt {
        let mut seat = match seat {
            Ok(seat) => seat,
            Err(refusal) => return Attempt { side, tag, seated: false, end: End::Refused(refusal) },
        };
        if behavior == Behavior::Vanishes {
            // A side whose connection was closed before it connected is never paired.
            let was_closed = connection.has_left(side);
            connection.close();
            yield_point();
            drop(seat);
            let unpaired = was_closed || self.is_unpaired();
            return Attempt { side, tag, seated: true, end: End::Left { unpaired } };
        }
        let held = self.hold(side, behavior);
        let end = if behavior == Behavior::Leaves {
            // Polled once, to register a waker that no task waits on.
            let _ = pin!(seat.paired()).poll(&mut Context::from_waker(Waker::noop()));
            drop(held);
            drop(seat);
            End::Left { unpaired: self.is_unpaired() }
        } else {
            let paired = block_on(seat.paired());
            // The server's handlers drop the seat when the transfer begins.
            drop(seat);
            let end = paired.map_or_else(End::Refused, transfer);
            drop(held);
            end
        };
        Attempt { side, tag, seated: true, end }
    }

    /// Counts a holder of a seat, and asserts that there is no other. `None` if another may take the seat before this task knows that it has
    /// lost it: at a path, and after a brief wait.
    fn hold(&self, side: Side, behavior: Behavior) -> Option<Held<'_>> {
        let is_sure = self.name.kind() == StreamKind::Created && behavior != Behavior::WaitsBriefly;
        let holders = &self.holders[usize::from(side == Side::Destination)];
        is_sure.then(|| {
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "the {side}'s seat has two holders");
            Held(holders)
        })
    }

    fn is_unpaired(&self) -> bool {
        // At a path, another transfer may run by now, so it is never certain.
        let StreamName::Id(id) = &self.name else { return false };
        let state = self.rendezvous.snapshot(id).map(|snapshot| snapshot.state);
        matches!(state, Some(SnapshotState::Created | SnapshotState::Waiting(_)))
    }
}

/// A counted holder of a seat.
struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Performs the destination's part of a transfer.
fn download(pairing: Pairing<Frames>, behavior: Behavior) -> End {
    let Pairing { half, offer, source_may_have_left } = pairing;
    let transfer = Arc::clone(half.transfer());
    let mut relay = Relay::new(*offer, source_may_have_left, Arc::clone(&transfer), pending());
    let mut received = Vec::new();
    let whole = block_on(async {
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
            if behavior == Behavior::Breaks {
                return false;
            }
            yield_point();
        }
    });
    drop(relay);
    match transfer.whole_body() {
        Some(body) if whole => half.delivered(body),
        _ => drop(half),
    }
    let outcome = block_on(transfer.outcome()).clone();
    End::Transferred { outcome, received, whole }
}
