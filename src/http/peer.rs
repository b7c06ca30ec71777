//! What a handler may know of the connection it answers on, and what it leaves there for the connection's
//! task.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, SetOnce};

use crate::clients::Place;
use crate::metrics::{Lane, OpenConnection};
use crate::outcome::Fault;
use crate::relay::{DestinationHalf, Transfer};
use crate::socket::Socket;
use crate::wire::Wire;

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// Whom it serves.
    pub audience: Audience,
    /// Only programs of this machine can come in here.
    pub is_loopback: bool,
}

/// Whom a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Those who make and use streams.
    Clients,
    /// Those who watch the server.
    Operators,
}

/// What a request has of its connection.
enum Share {
    /// All of it: HTTP/1.
    Whole,
    /// One stream of HTTP/2. Whoever serves that drops the handler when the client leaves.
    Stream {
        /// Set when the request body is about to be read, for a client that is told. In a box, because most are not.
        body_wanted: Option<Box<SetOnce<()>>>,
    },
}

/// Who is at the other end of a connection.
pub struct Caller {
    /// A client's address, or a proxy's.
    pub address: IpAddr,
    /// It is a trusted proxy, that speaks for others.
    pub is_proxy: bool,
    /// What it has as long as it is connected.
    pub holds: Option<Hold>,
    /// It is counted among those that are open. `None` for a stream of HTTP/2, whose connection is.
    pub open: Option<OpenConnection>,
}

/// What a connection holds to its end.
pub enum Hold {
    /// A place among the connections of its client.
    Place(Place),
    /// A place among those that are told that there is none for them.
    Told(OwnedSemaphorePermit),
}

/// Where a request came from, as its handler sees it: an HTTP/1 connection, or a stream of an HTTP/2 connection.
pub struct Peer {
    wire: Arc<Wire>,
    share: Share,
    entrance: Entrance,
    caller: Caller,
    half: Mutex<Option<DestinationHalf>>,
    /// Set when this connection becomes a destination that has got its head.
    receiving: SetOnce<Arc<Transfer>>,
    /// Set when the sides have paired and the request is the source's.
    feeds: AtomicBool,
    /// Set when the whole request body is known to have been taken.
    body_taken: AtomicBool,
}

impl Peer {
    /// What is known of a fresh connection.
    #[must_use]
    pub fn new(wire: Arc<Wire>, entrance: Entrance, caller: Caller) -> Self {
        Self {
            wire,
            share: Share::Whole,
            entrance,
            caller,
            half: Mutex::new(None),
            receiving: SetOnce::new(),
            feeds: AtomicBool::new(false),
            body_taken: AtomicBool::new(false),
        }
    }

    /// What is known of a fresh HTTP/2 stream of this connection, which outlives it. Its client may `expect` to be told when its
    /// body is wanted.
    #[must_use]
    pub fn stream(&self, expects: bool) -> Self {
        let Caller { address, is_proxy, .. } = self.caller;
        let caller = Caller { address, is_proxy, holds: None, open: None };
        let share = Share::Stream { body_wanted: expects.then(Box::default) };
        Self { share, ..Self::new(Arc::clone(&self.wire), self.entrance, caller) }
    }

    /// Where the connection came in.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        self.entrance
    }

    /// Whom the connection comes from: a client, or a proxy.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.caller.address
    }

    /// Whether it is a trusted proxy: then its requests say whom it speaks for.
    #[must_use]
    pub fn is_proxy(&self) -> bool {
        self.caller.is_proxy
    }

    /// This lane takes a request of the connection.
    pub fn taken_by(&self, lane: Lane) {
        if let Some(open) = &self.caller.open {
            open.taken_by(lane);
        }
    }

    /// The connection.
    #[must_use]
    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// The connection, where the request has it for itself.
    #[must_use]
    pub fn own_wire(&self) -> Option<Arc<Wire>> {
        matches!(self.share, Share::Whole).then(|| Arc::clone(&self.wire))
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.wire.socket()
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

    /// Waits until the transfer that this connection receives has failed elsewhere, stands still, or is one to a client
    /// that has vanished.
    pub async fn cut(&self) {
        let transfer = self.receiving.wait().await;
        let unacknowledged = || match self.share {
            Share::Whole => self.socket().unacknowledged(),
            // What other streams of the connection move says nothing of this one.
            Share::Stream { .. } => 0,
        };
        tokio::select! {
            _ = transfer.failed() => {}
            fault = transfer.stalled(unacknowledged) => transfer.fail(fault),
            () = self.vanished() => transfer.fail(Fault::DestinationDisconnected),
        }
    }

    /// Waits until the client has vanished while it had no room for what is written.
    async fn vanished(&self) {
        match self.share {
            Share::Whole => {
                self.socket().vanished().await;
                // The kernel is not to hold the rest for it.
                self.socket().arm_reset();
            }
            // Whoever serves the connection looks.
            Share::Stream { .. } => pending().await,
        }
    }

    /// Waits until a source that waits has left.
    pub async fn source_left(&self) {
        match self.share {
            // Boxed: an HTTP/2 stream does not reserve space for it.
            Share::Whole => Box::pin(self.wire.source_left()).await,
            Share::Stream { .. } => pending().await,
        }
    }

    /// Waits until a destination has left.
    pub async fn destination_left(&self) {
        match self.share {
            // As in [`Peer::source_left`].
            Share::Whole => Box::pin(self.wire.destination_left()).await,
            Share::Stream { .. } => pending().await,
        }
    }

    /// The sides have paired: the source's body may be read.
    pub fn want_body(&self) {
        self.feeds.store(true, Ordering::Relaxed);
        match &self.share {
            Share::Whole => self.wire.inbound().lock().release(),
            // Said once; to say it again changes nothing.
            Share::Stream { body_wanted } => drop(body_wanted.as_ref().map(|wanted| wanted.set(()))),
        }
    }

    /// Whether the request is the source of a pair.
    #[must_use]
    pub fn feeds(&self) -> bool {
        self.feeds.load(Ordering::Relaxed)
    }

    /// Waits until the body of an HTTP/2 request is about to be read, where its client is to be told.
    pub async fn body_wanted(&self) {
        match &self.share {
            Share::Stream { body_wanted: Some(wanted) } => *wanted.wait().await,
            Share::Whole | Share::Stream { body_wanted: None } => pending().await,
        }
    }

    /// Takes what [`Peer::receive`] left.
    pub fn take_half(&self) -> Option<DestinationHalf> {
        self.half.lock().take()
    }

    /// The whole request body has been taken: the connection can be closed without a reset.
    pub fn body_taken(&self) {
        self.body_taken.store(true, Ordering::Relaxed);
    }

    /// The client may still be sending what nobody will take.
    #[must_use]
    pub fn may_still_send(&self) -> bool {
        let between =
            self.body_taken.load(Ordering::Relaxed) || self.wire.inbound().lock().is_between_requests();
        !between || self.socket().unread() > 0
    }
}
