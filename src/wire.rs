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

/// What a client that expects it waits for; and what asks one that has sent all or much of its body whether it is
/// still there: it ignores this (RFC 9110, section 15.2), while the kernel of a client that is gone answers with a
/// reset.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Between two probes of a source whose unread body fills its buffer. Few, because some clients take no more
/// than five interim answers (Go's, before 1.23).
const PROBE_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];
/// For a client to acknowledge what it was told: a little more than it may take its time for that.
const UNTIL_QUIET: Duration = Duration::from_millis(50);
/// Unread bytes behind which a FIN may be stuck: less than the smallest buffer that kernels give a
/// connection.
const FULL: usize = 32 * 1024;

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
    /// A reset is a leave, and so is a FIN inside the body. A FIN behind a whole body is legal (RFC 9112,
    /// section 9.6), but most often it is a client that was ended; and a FIN behind more than the kernel's
    /// buffer takes can not come in at all. In both cases the client is asked, by a `100 Continue` that it
    /// need not heed.
    pub async fn source_left(&self) {
        // In a box, so that who needs no probes does not carry the room for them.
        let probing = self.may_fill().then(|| Box::pin(self.probe_while_full()));
        let probing = async {
            match probing {
                Some(probing) => probing.await,
                None => pending().await,
            }
        };
        let departed = tokio::select! {
            departed = self.socket.departed() => departed,
            () = probing => Departure::Reset,
        };
        if departed == Departure::Reset {
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

    /// Whether the body of the source that waits may fill the kernel's buffer. What TLS adds to a body can not be told.
    fn may_fill(&self) -> bool {
        !self.socket.is_plain() || self.inbound.lock().may_hold(FULL)
    }

    /// Asks a source whose unread body may hide its leaving, less and less often. Never ends.
    ///
    /// A proxy is not asked: nginx takes a `100 Continue` that it has not asked for as the answer, and passes on
    /// no more of the body. Behind its FIN it can be asked, because nginx closes only when its client has gone.
    async fn probe_while_full(&self) {
        for pause in PROBE_PAUSES {
            sleep(pause).await;
            if self.socket.unread() >= FULL && !self.inbound.lock().may_mistake_a_probe() {
                self.probe();
            }
        }
        pending::<()>().await;
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
