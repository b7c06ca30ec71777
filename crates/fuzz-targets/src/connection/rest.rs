//! A server at rest: nothing is left to do for it, and nothing on its way.

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use testkit::script::Who;
use tokio::runtime::{Builder, Runtime};

use super::client::Client;

/// Whoever waits for the runtime to have nothing to do. One at a time: each thread has a runtime of its own.
type Idler = std::sync::Arc<Mutex<Option<Waker>>>;

thread_local! {
    static IDLER: Idler = Idler::default();
}

/// Turns of the runtime in which nothing is heard before it counts as at rest. A connection that is new takes the most:
/// it is accepted in one, read in the next, and what comes of it is done in a third.
const QUIET_TURNS: usize = 4;
/// Behind an alarm there is less to do.
const QUIET_TURNS_OF_ALARMS: usize = 2;
/// How far the clock goes behind each step: past the server's looks at what is acknowledged, and no further than that.
const ALARMS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(60), Duration::from_millis(70)];

/// A runtime of this thread, whose clock goes only when it is told to.
pub(super) fn runtime() -> Runtime {
    let idler = IDLER.with(Idler::clone);
    let park = move || {
        if let Some(waker) = idler.lock().take() {
            waker.wake();
        }
    };
    Builder::new_current_thread().enable_all().start_paused(true).on_thread_park(park).build().unwrap()
}

/// Lets the server do all that it has to, and reads all that it says; with `alarms`, also what is due in a moment.
pub(super) async fn settle(clients: &mut [(Who, Client)], alarms: bool) {
    until_quiet(clients, QUIET_TURNS).await;
    for pause in ALARMS.iter().filter(|_| alarms) {
        tokio::time::advance(*pause).await;
        until_quiet(clients, QUIET_TURNS_OF_ALARMS).await;
    }
}

async fn until_quiet(clients: &mut [(Who, Client)], turns: usize) {
    let mut quiet = 0;
    while quiet < turns {
        turn().await;
        let moved = clients.iter_mut().fold(false, |moved, (_, client)| client.turn() | moved);
        quiet = if moved { 0 } else { quiet + 1 };
    }
}

/// Until every task has done what it can, and the kernel was asked what has come meanwhile.
async fn turn() {
    let mut has_parked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_parked, true) {
            return Poll::Ready(());
        }
        IDLER.with(|idler| *idler.lock() = Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}
