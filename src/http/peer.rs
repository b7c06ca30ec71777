//! What a handler may know of the connection it answers on, and what it leaves there for the connection's
//! task.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::sleep;

use super::inbound::Inbound;
use crate::outcome::Refusal;
use crate::relay::{DestinationHalf, Transfer};
use crate::socket::{Departure, Socket};

/// Asks a client that has sent all or much of its body whether it is still there: it ignores this (RFC 9110,
/// section 15.2), while the kernel of a client that is gone answers with a reset.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Between two probes of a source whose unread body fills its buffer. Few, because some clients take no more
/// than five interim answers (Go's, before 1.23).
const PROBE_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];
/// Unread bytes behind which a FIN may be stuck: less than the smallest buffer that kernels give a
/// connection.
const FULL: usize = 32 * 1024;

/// One HTTP/1 connection, as its handlers see it.
pub struct Peer {
    socket: Socket,
    /// Only the connection's task locks these two, and never across an await.
    inbound: Mutex<Inbound>,
    half: Mutex<Option<DestinationHalf>>,
    /// Set when this connection becomes a destination that has got its head.
    receiving: SetOnce<Arc<Transfer>>,
    /// Set when the whole request body is known to have been taken.
    body_taken: SetOnce<()>,
}

impl Peer {
    /// A fresh connection, whose request heads may take `head_timeout` each.
    #[must_use]
    pub fn new(socket: Socket, head_timeout: Duration) -> Self {
        Self {
            socket,
            inbound: Mutex::new(Inbound::new(head_timeout)),
            half: Mutex::new(None),
            receiving: SetOnce::new(),
            body_taken: SetOnce::new(),
        }
    }

    /// The connection.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The connection's input.
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
        let departed = tokio::select! {
            departed = self.socket.departed() => departed,
            () = self.probe_while_full() => Departure::Reset,
        };
        if departed == Departure::Closed && self.inbound.lock().holds_whole_body(&self.socket) {
            self.probe();
            self.socket.reset().await;
        }
    }

    /// Asks a source whose unread body may hide its leaving, less and less often. Never ends.
    async fn probe_while_full(&self) {
        for pause in PROBE_PAUSES {
            sleep(pause).await;
            if self.socket.unread() >= FULL {
                self.probe();
            }
        }
        std::future::pending::<()>().await;
    }

    fn probe(&self) {
        // Only where the kernel has room for all of it: a part of it would spoil the answer.
        if self.inbound.lock().may_probe() && self.socket.unacknowledged() == 0 {
            self.socket.try_write(PROBE);
        }
    }

    /// Waits until a destination has left. One that only closes its sending side can not be told from one
    /// that is gone.
    pub async fn destination_left(&self) {
        self.socket.departed().await;
    }

    /// From now on the connection's task answers for the transfer: it sees the body out and confirms its
    /// delivery.
    pub fn receive(&self, half: DestinationHalf) {
        let transfer = Arc::clone(half.transfer());
        *self.half.lock() = Some(half);
        // A connection receives once: its answer says `Connection: close`.
        let _ = self.receiving.set(transfer);
    }

    /// The transfer that this connection receives.
    #[must_use]
    pub fn receiving(&self) -> Option<&Arc<Transfer>> {
        self.receiving.get()
    }

    /// Waits until this connection receives a transfer.
    pub async fn until_receiving(&self) -> &Arc<Transfer> {
        self.receiving.wait().await
    }

    /// Takes what [`Peer::receive`] left.
    pub fn take_half(&self) -> Option<DestinationHalf> {
        self.half.lock().take()
    }

    /// The whole request body has been taken: the connection can be closed without a reset.
    pub fn body_taken(&self) {
        // Said once; to say it again changes nothing.
        let _ = self.body_taken.set(());
    }

    /// The client may still be sending what nobody will take.
    #[must_use]
    pub fn may_still_send(&self) -> bool {
        let between = self.body_taken.get().is_some() || self.inbound.lock().is_between_requests();
        !between || self.socket.unread() > 0
    }
}
