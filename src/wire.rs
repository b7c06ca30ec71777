//! One connection below HTTP: its socket, and the gate on its input.
//!
//! The gate lets nothing through that two readers could understand differently; see [`inbound`].

pub mod chunked;
pub mod frames;
pub mod head;
pub mod inbound;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::outcome::Refusal;
use crate::socket::{Departure, Socket};
use inbound::Inbound;

/// The interim response that a client with `Expect: 100-continue` waits for. It also probes a client that has closed its sending
/// side: a client that still reads ignores it (RFC 9110, section 15.2), and the kernel of a client that has gone resets the
/// connection. Nobody else gets it unasked: several clients and proxies take it for the final response.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// For a client to acknowledge what it was told: a little more than it may take its time for that.
const UNTIL_QUIET: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// Locked by whoever reads the connection, and never across an await.
    inbound: Mutex<Inbound>,
}

impl Wire {
    /// A fresh connection, whose request heads may take `head_timeout` each.
    #[must_use]
    pub fn new(socket: Socket, head_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { socket, inbound: Mutex::new(Inbound::new(head_timeout)) })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The input.
    #[must_use]
    pub fn inbound(&self) -> &Mutex<Inbound> {
        &self.inbound
    }

    /// Why the request at hand is a stand-in for one that was refused, if it is.
    #[must_use]
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.inbound.lock().take_refusal()
    }

    /// Waits until a source that waits has left.
    ///
    /// A reset is a departure, and so is a FIN inside the body. A FIN behind a whole body is legal (RFC 9112, section 9.6), but
    /// most often it is a client that was ended: so it is probed. A FIN that is stuck behind a full buffer is not seen before
    /// there is room for it; until then the source keeps its seat.
    pub async fn source_left(&self) {
        if self.socket.departed().await == Departure::Reset {
            return;
        }
        let whole = self.inbound.lock().holds_whole_body(&self.socket);
        match whole {
            Some(false) => {}
            Some(true) => {
                tokio::select! {
                    () = self.socket.reset() => {}
                    () = Box::pin(self.probe_when_quiet()) => {}
                }
            }
            // The sides have paired in this very moment.
            None => pending().await,
        }
    }

    /// Asks a source as soon as it has acknowledged what it was told before. Never ends.
    async fn probe_when_quiet(&self) {
        while !self.probe() {
            sleep(UNTIL_QUIET).await;
        }
        pending::<()>().await;
    }

    /// Asks, where that may be and the kernel has room for all of it: a part of it would spoil the answer. False where it
    /// is too early.
    fn probe(&self) -> bool {
        if !self.inbound.lock().may_probe() {
            return true;
        }
        let is_quiet = self.socket.unacknowledged() == 0;
        if is_quiet {
            self.socket.try_write(CONTINUE);
        }
        is_quiet
    }

    /// Waits until a destination has left. One that only closes its sending side can not be told from one
    /// that is gone.
    pub async fn destination_left(&self) {
        self.socket.departed().await;
    }
}
