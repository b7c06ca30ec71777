//! The rate limit of one stream: a few bytes at a time, many times a second.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rendezvous_protocol::Size;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Departure, SourceBody};
use crate::rate::Rate;

/// The burst, as a time at the limited rate. The relay sleeps for half of it, so that a late timer loses no throughput.
const BURST: Duration = Duration::from_millis(50);

/// The rate limit of one stream, and the watch over the source while the relay sleeps for it.
pub(super) struct Pace {
    rate: Rate,
    pause: Duration,
    started: Instant,
    /// The state of `rate`.
    earned_at: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    /// `None` if the departure cannot be observed, or once it has been.
    source_left: Option<Departure>,
}

impl Pace {
    /// Creates a limit of `rate` bytes per second for `body`. The burst is at least two bytes.
    pub(super) fn new(rate: Size, body: &impl SourceBody) -> Self {
        let second = Duration::from_secs(1);
        let burst = BURST.max(2 * Rate::new(rate.get(), second, BURST).time_of(1));
        Self {
            rate: Rate::new(rate.get(), second, burst),
            pause: burst / 2,
            started: Instant::now(),
            earned_at: Duration::ZERO,
            sleep: None,
            source_left: body.departure(),
        }
    }

    /// Polls for the number of bytes that may be passed on now, at least 1.
    pub(super) fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.rate.available(self.earned_at, self.started.elapsed()) {
                0 => {
                    let until = self.started + self.earned_at.saturating_sub(self.pause);
                    self.sleep = Some(Box::pin(sleep_until(until)));
                }
                allowed => return Poll::Ready(allowed),
            }
        }
    }

    /// Records that bytes were passed on.
    pub(super) fn take(&mut self, bytes: u64) {
        self.earned_at = self.rate.take(self.earned_at, self.started.elapsed(), bytes);
    }

    /// Polls for the departure of the source before the end of its body. After the end it does not matter.
    pub(super) fn poll_source_left(&mut self, cx: &mut Context<'_>, body: &impl SourceBody) -> Poll<()> {
        let Some(source_left) = &mut self.source_left else { return Poll::Pending };
        ready!(source_left.as_mut().poll(cx));
        self.source_left = None;
        if body.has_arrived() { Poll::Pending } else { Poll::Ready(()) }
    }
}
