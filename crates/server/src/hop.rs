//! Hops: how a request for a stream of another node is passed on to it, and its response comes back.
//!
//! The node that a client has connected to is the *edge*, the one that has the stream the *owner*. A request goes one hop, never further. On a hop
//! everything is HTTP/1.1 with a length or chunks, whatever the client speaks.
//!
//! ```text
//!   PUT   edge ── head, Expect: 100-continue ──► owner        GET   edge ── head, Expect, chunked ──► owner
//!         edge ◄── 100: the sides have paired ── owner              edge ◄── 100: paired ──────────── owner
//!         edge ── the body ────────────────────► owner              edge ◄── 200 and the body ─────── owner
//!         edge ◄── the outcome ───────────────── owner              edge ── delivered N ───────────► owner
//! ```
//!
//! - *Paired is said.* A 100 on a hop means that the sides have paired. Before it, the edge takes nothing of its client's body beyond the
//!   read-ahead buffer. So if the owner is lost before the 100, the body is whole and the client can repeat the request.
//! - *Receipt.* The request of a `GET` on a hop has a chunked body that stays open. Once the client's kernel has acknowledged the last byte, the edge
//!   sends one chunk, `delivered` and the number of body bytes. The owner settles the transfer as delivered only if that is what it has passed on.
//!   `failed stalled` is a destination that has stood still for the idle limit, any other end of the hop one that has left.
//! - *Neither FIN nor RST ends a body.* A hop that ends inside a message is lost, after what the kernel still holds was read.
//!
//! *Invariants.* The edge judges nothing that the owner judges: tokens of streams, seats, ttl, limits of streams. It enforces what belongs to its
//! client: limits on heads and connections, the create and the admin token, origins, the form of a cut.
//!
//! *Concurrency.* A hop belongs to the task of its client's request. Reading and writing may overlap.
//!
//! *Bounds.* One head of at most [`exchange::MAX_HEAD`] bytes, and bodies of responses of at most [`exchange::MAX_BODY`].

pub(crate) mod download;
pub(crate) mod exchange;
pub(crate) mod gather;
pub(crate) mod others;
pub(crate) mod pass;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod upload;

/// Why a request cannot be passed on, or the owner of a stream refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HopError {
    /// Another node has the stream.
    #[error("Another node has this stream")]
    Misdirected,
    /// The owner cannot be reached, or was lost before the sides had paired.
    #[error("The server that has this stream cannot be reached: try again")]
    OwnerUnreachable,
    /// The owner was lost after the sides had paired.
    #[error("The server that had this stream was lost, and the stream is used up")]
    OwnerLost,
    /// It is not known which node has the stream.
    #[error("It is not known which server has this stream: try again")]
    DirectoryUnavailable,
    /// Not all nodes have answered.
    #[error("Not all servers of the cluster have answered: try again, or without strict")]
    PartialList,
    /// This node has as many connections to others as it may, or the machine has no port left for another.
    #[error("The server has too many connections to the one that has this stream: try again later")]
    NoRoom,
}
