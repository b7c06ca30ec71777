//! What `send`, `recv` and `doctor` share: the relay, what is shown, and how they are ended.

pub(crate) mod relay;
pub(crate) mod text;
pub(crate) mod view;

use std::pin::pin;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::signals::Signals;

/// The threads of the runtime: one encrypts while the other waits for the network.
const THREADS: usize = 2;

/// Runs a transfer to its end. The first signal cancels its token, so that it can tell the other side; a second one ends it at once.
///
/// # Errors
/// If the runtime cannot start, or with [`Exit::Interrupted`] after a second signal.
pub(crate) fn run<T: Future>(transfer: impl FnOnce(CancellationToken) -> T) -> Result<T::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.context("cannot start the threads of the program")?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new().context("cannot listen for signals")?;
        let stop = CancellationToken::new();
        let mut transfer = pin!(transfer(stop.clone()));
        tokio::select! {
            ended = &mut transfer => return Ok(ended),
            () = signals.next() => stop.cancel(),
        }
        tokio::select! {
            ended = &mut transfer => Ok(ended),
            () = signals.next() => Err(Failure::new(Exit::Interrupted, "ended by a second signal")),
        }
    });
    // Does not wait for blocking tasks: a read of a silent pipe may never end.
    runtime.shutdown_background();
    ended
}
