//! Waits until the server is idle: no task can proceed, and no bytes are in flight.

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use testkit::script::Role;
use tokio::runtime::{Builder, Runtime};

use super::client::Client;

/// The waker of the task that waits for the runtime to park. There is one at a time, as each thread has its own runtime.
type ParkWaker = std::sync::Arc<Mutex<Option<Waker>>>;

thread_local! {
    static PARK_WAKER: ParkWaker = ParkWaker::default();
}

/// Turns of the runtime without received bytes after which the server counts as idle. A new connection takes the most turns: it is
/// accepted in the first, read in the second, and served in the third.
const QUIET_TURNS: usize = 4;
/// As [`QUIET_TURNS`], after a timer, where there is less to do.
const QUIET_TURNS_AFTER_TIMER: usize = 2;
/// How far the clock advances after each step: past the server's polls for acknowledgements, but not past longer timers.
const TIMER_STEPS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(60), Duration::from_millis(70)];

/// A runtime for this thread, with a paused clock.
pub(super) fn runtime() -> Runtime {
    let park_waker = PARK_WAKER.with(ParkWaker::clone);
    let park = move || {
        if let Some(waker) = park_waker.lock().take() {
            waker.wake();
        }
    };
    Builder::new_current_thread().enable_all().start_paused(true).on_thread_park(park).build().unwrap()
}

/// Runs the server until it is idle, and lets the clients read all that it sends. With `timers`, short timers of the server expire
/// too.
pub(super) async fn settle(clients: &mut [(Role, Client)], timers: bool) {
    until_quiet(clients, QUIET_TURNS).await;
    for step in TIMER_STEPS.iter().filter(|_| timers) {
        tokio::time::advance(*step).await;
        until_quiet(clients, QUIET_TURNS_AFTER_TIMER).await;
    }
}

async fn until_quiet(clients: &mut [(Role, Client)], turns: usize) {
    let mut quiet = 0;
    while quiet < turns {
        turn().await;
        let moved = clients.iter_mut().fold(false, |moved, (_, client)| client.turn() | moved);
        quiet = if moved { 0 } else { quiet + 1 };
    }
}

/// Waits until the runtime parks: every task has run, and the runtime has polled the kernel for events.
async fn turn() {
    let mut has_parked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_parked, true) {
            return Poll::Ready(());
        }
        PARK_WAKER.with(|park_waker| *park_waker.lock() = Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}
