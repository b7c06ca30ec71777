//! The clients: each runs one errand, which is one side of one transfer, and returns what it observed ([`View`]).
//!
//! - [`connection`]: how a client of this process connects; [`script`]: its steps; [`view`]: its observations
//! - [`http1`], [`http2`]: clients inside this process; [`curl`]: a client in a process of its own

mod connection;
mod curl;
mod http1;
mod http2;
mod script;
mod view;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

pub(crate) use self::connection::{Addresses, Dial};
use self::connection::{Connection, Switches};
pub(crate) use self::http1::Asker;
use self::script::Script;
#[cfg(test)]
pub(crate) use self::view::Answer;
pub(crate) use self::view::{Ending, View};
use crate::body::Body;
use crate::log::Log;
use crate::plan::{Framing, Party, Program, Side, Step};

/// One side of one transfer, for one client.
pub(crate) struct Errand {
    /// The target of its request.
    pub(crate) target: String,
    /// Its side.
    pub(crate) side: Side,
    /// How it behaves.
    pub(crate) party: Party,
    /// How an upload is framed.
    pub(crate) framing: Framing,
    /// The body that it sends or must receive.
    pub(crate) body: Body,
    /// Its steps.
    pub(crate) steps: Vec<Step>,
    /// Notifies it that it waits.
    pub(crate) waits: Arc<Notify>,
    /// The bytes that the destination of the transfer has received.
    pub(crate) progress: watch::Sender<u64>,
    /// Whether the other event has happened that its steps wait for: both sides have their seats, or the third client has its response.
    pub(crate) cue: watch::Sender<bool>,
    /// Connections that stay open after the reset of their HTTP/2 stream, until the transfer has ended.
    pub(crate) kept: Kept,
    /// The transcript that it writes to.
    pub(crate) log: Log,
}

/// Tasks of open connections. They end when the last clone is dropped.
pub(crate) type Kept = Arc<Mutex<JoinSet<()>>>;

/// Runs the errand. `view` has the observations so far, even if this future is dropped.
pub(crate) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    match (errand.party.program, errand.party.transport.is_h2()) {
        (Program::Curl, _) => Box::pin(curl::run(errand, dial, view)).await,
        (Program::Own, false) => Box::pin(http1::run(errand, dial, view)).await,
        (Program::Own, true) => Box::pin(http2::run(errand, dial, view)).await,
    }
}

/// Counts interim responses: the reader of a connection adds, and its writer waits for the first.
#[derive(Debug, Default)]
struct Interims(watch::Sender<u32>);

impl Interims {
    fn came(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits for 100 if the source expects it.
    async fn until_continue(&self, errand: &Errand) {
        if errand.party.expects.is_some() {
            // Fails only without a sender, which is `self`.
            let _ = self.0.subscribe().wait_for(|count| *count > 0).await;
            errand.log.note(errand.side, "gets its 100");
        }
    }
}

/// Waits until the destination has this number of bytes.
async fn until_received(errand: &Errand, offset: u64) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.progress.subscribe().wait_for(|bytes| *bytes >= offset).await;
}

/// Waits until both sides have their seats, or the third client has its response.
async fn until_cue(errand: &Errand) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.cue.subscribe().wait_for(|cue| *cue).await;
}
