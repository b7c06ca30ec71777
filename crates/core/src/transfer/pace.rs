//! A stream's bytes, no faster than they may be: a few at a time, many times a second.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rendezvous_protocol::Size;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Departure, SourceBody};
use crate::rate::Rate;

/// The time whose bytes may be passed on at once. Half of it is slept at a time, so that a timer that is late loses
/// nothing.
const AT_ONCE: Duration = Duration::from_millis(50);

/// The pace of one stream.
pub(super) struct Pace {
    rate: Rate,
    pause: Duration,
    started: Instant,
    /// When what was passed on will have been earned.
    earned_at: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    /// `None` where it can not be seen, or once it has been.
    source_left: Option<Departure>,
}

impl Pace {
    /// `rate` bytes a second of `body`.
    pub(super) fn new(rate: Size, body: &impl SourceBody) -> Self {
        let second = Duration::from_secs(1);
        let at_once = AT_ONCE.max(2 * Rate::new(rate.get(), second, AT_ONCE).time_of(1));
        Self {
            rate: Rate::new(rate.get(), second, at_once),
            pause: at_once / 2,
            started: Instant::now(),
            earned_at: Duration::ZERO,
            sleep: None,
            source_left: body.departure(),
        }
    }

    /// How many bytes may be passed on now: at least one.
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

    /// So many bytes were passed on.
    pub(super) fn take(&mut self, bytes: u64) {
        self.earned_at = self.rate.take(self.earned_at, self.started.elapsed(), bytes);
    }

    /// The source has left inside its body. One that has left behind it is needed no more.
    pub(super) fn poll_source_left(&mut self, cx: &mut Context<'_>, body: &impl SourceBody) -> Poll<()> {
        let Some(source_left) = &mut self.source_left else { return Poll::Pending };
        ready!(source_left.as_mut().poll(cx));
        self.source_left = None;
        if body.has_arrived() { Poll::Pending } else { Poll::Ready(()) }
    }
}
