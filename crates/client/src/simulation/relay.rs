//! The relay of the simulation: seats at paths, and lies.

use std::collections::HashMap;
use std::time::Duration;

use super::queue::Queue;
use super::{Event, Lies, Path, Request, Sealed};

/// The lies stop then, so that it is seen whether the clients recover.
pub(super) const HONEST_FROM: Duration = Duration::from_mins(10);

/// What was delayed, a ghost, or a receiver that was down shows for so long after it.
pub(super) const AFTERMATH: Duration = Duration::from_secs(40);

pub(super) struct Relay {
    lies: Lies,
    /// The waiting requests: the path, and whether it is a PUT.
    seats: HashMap<(Path, bool), Request>,
    /// Seats of clients that have vanished.
    ghosts: Vec<(Path, bool)>,
    /// Everything that ever was put.
    recorded: Vec<Sealed>,
    /// The paired requests: GET to PUT.
    pub(super) pairs: HashMap<u64, u64>,
    /// Whether it ever told somebody falsely that a credential is missing.
    pub(super) false_401: bool,
}

/// Returns whether a lie of this likelihood is told now.
pub(super) fn tells(queue: &Queue, random: &mut fastrand::Rng, percent: u8) -> bool {
    queue.now < HONEST_FROM && random.u8(0..100) < percent
}

impl Relay {
    pub(super) fn new(lies: Lies) -> Self {
        Self {
            lies,
            seats: HashMap::new(),
            ghosts: Vec::new(),
            recorded: Vec::new(),
            pairs: HashMap::new(),
            false_401: false,
        }
    }

    /// A client sends a request.
    pub(super) fn send(&mut self, queue: &mut Queue, random: &mut fastrand::Rng, request: Request) {
        queue.after(request.wait + Duration::from_secs(5), Event::GiveUp(request.id));
        let mut latency = Duration::from_millis(random.u64(1..40));
        if tells(queue, random, self.lies.delayed) {
            latency += Duration::from_millis(random.u64(0..20_000));
        }
        if !tells(queue, random, self.lies.lost) {
            queue.after(latency, Event::Arrive(request));
        }
    }

    pub(super) fn arrive(&mut self, queue: &mut Queue, random: &mut fastrand::Rng, request: Request) {
        if tells(queue, random, self.lies.false_status) {
            let code = *random.choice(&[200, 401, 408, 429, 500, 502, 503, 504]).unwrap();
            self.false_401 |= code == 401;
            return queue.after(Duration::from_millis(5), Event::Answer(request.id, Some(code)));
        }
        let is_put = request.body.is_some();
        if let Some(sealed) = &request.body
            && self.recorded.len() < 500
        {
            self.recorded.push(sealed.clone());
        }
        if !is_put
            && tells(queue, random, self.lies.replayed)
            && let Some(sealed) = random.choice(&self.recorded).cloned()
        {
            let (whole, damaged) = (true, false);
            return queue.after(
                Duration::from_millis(5),
                Event::Body { get: request.id, put: 0, sealed, whole, damaged },
            );
        }
        let seat = (request.path.clone(), is_put);
        if self.ghosts.contains(&seat) || self.seats.contains_key(&seat) {
            return queue.after(Duration::from_millis(5), Event::Answer(request.id, Some(429)));
        }
        match self.seats.remove(&(request.path.clone(), !is_put)) {
            Some(other) if is_put => self.pair(queue, random, other.id, &request),
            Some(other) => self.pair(queue, random, request.id, &other),
            None => {
                queue.after(request.wait, Event::WaitOver(request.id));
                self.seats.insert(seat, request);
            }
        }
    }

    fn pair(&mut self, queue: &mut Queue, random: &mut fastrand::Rng, get: u64, put: &Request) {
        let Some(mut sealed) = put.body.clone() else { return };
        let damaged = tells(queue, random, self.lies.damaged);
        if tells(queue, random, self.lies.replayed)
            && let Some(other) = random.choice(&self.recorded)
        {
            sealed = other.clone();
        }
        let whole = !tells(queue, random, self.lies.cut);
        self.pairs.insert(get, put.id);
        let latency = Duration::from_millis(random.u64(1..40));
        queue.after(latency, Event::Body { get, put: put.id, sealed, whole, damaged });
    }

    pub(super) fn wait_over(&mut self, queue: &mut Queue, id: u64) {
        let seat = self.seats.iter().find(|(_, request)| request.id == id).map(|(seat, _)| seat.clone());
        if let Some(seat) = seat {
            self.seats.remove(&seat);
            queue.after(Duration::from_millis(5), Event::Answer(id, Some(503)));
        }
    }

    /// A client closed a request. The relay may take a while to notice.
    pub(super) fn close(&mut self, queue: &mut Queue, random: &mut fastrand::Rng, id: u64) {
        let seat = self.seats.iter().find(|(_, request)| request.id == id).map(|(seat, _)| seat.clone());
        if let Some(seat) = seat {
            self.seats.remove(&seat);
            if tells(queue, random, self.lies.ghost) {
                self.ghosts.push(seat.clone());
                queue.after(
                    Duration::from_millis(random.u64(0..u64::try_from(AFTERMATH.as_millis()).unwrap())),
                    Event::GhostGone(seat.0, seat.1),
                );
            }
        }
    }

    pub(super) fn ghost_gone(&mut self, path: &Path, is_put: bool) {
        self.ghosts.retain(|(ghost, put)| ghost != path || *put != is_put);
    }
}
