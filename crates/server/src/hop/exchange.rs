//! One request on a hop, and the heads of its responses.
//!
//! *Invariant.* A connection of the pool that ends before a byte of a response is replaced once by a new one: nothing of a body was sent.
//!
//! *Bounds.* [`MAX_HEAD`] and [`MAX_BODY`].

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rendezvous_codec::body::Framing;
use rendezvous_codec::response::{self, ResponseHead};
use rendezvous_core::header_set::Spellings;
use rendezvous_core::transfer::SourceBody;
use tokio::sync::OwnedSemaphorePermit;

use super::HopError;
use super::request::HopRequest;
use crate::api::events::PartError;
use crate::api::response as api;
use crate::cluster::peers::{Peer, Peers, Use};
use crate::request_body::{RequestBody, SocketBody};

/// The limit on the bytes of a response head: two header sets and what the owner adds.
pub(crate) const MAX_HEAD: usize = 192 * 1024;
/// The limit on the bytes of a response body that the edge reads before it answers: a status with two header sets and a report.
pub(crate) const MAX_BODY: usize = 512 * 1024;

/// A connection to the owner of a stream, with a request on it.
pub(crate) struct Hop {
    used: Arc<Use>,
    is_head: bool,
}

/// What the owner has answered.
pub(crate) enum Reply {
    /// The sides of the stream have paired.
    Paired(Hop),
    /// A final response.
    Final(Hop, Answer),
}

/// The head of a final response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) framing: Framing,
    closes: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) spellings: Option<Spellings>,
}

/// A head of a response.
enum Head {
    Continue,
    Final(Answer),
}

/// The hop has ended without the head of a response.
#[derive(Debug)]
struct Lost {
    /// Nothing of a head has arrived.
    is_silent: bool,
}

impl Hop {
    /// Sends a request to a node, and waits for the first answer: that the sides have paired, or a final response.
    ///
    /// # Errors
    /// [`HopError`] if the node cannot be reached, or is lost.
    pub(crate) async fn begin(
        peers: &Peers,
        peer: &Arc<Peer>,
        request: &HopRequest,
        list: u64,
    ) -> Result<Reply, HopError> {
        if let Some(used) = peer.take_idle() {
            match Self::ask(used, request, list).await {
                Err(Lost { is_silent: true }) => {}
                answered => return answered.map_err(|_| HopError::OwnerUnreachable),
            }
        }
        let used = peers.connect(peer).await?;
        Self::ask(used, request, list).await.map_err(|_| HopError::OwnerUnreachable)
    }

    async fn ask(used: Arc<Use>, request: &HopRequest, list: u64) -> Result<Reply, Lost> {
        let head = request.encode(list);
        // A failure shows again as the end of the connection, behind an answer that has arrived before it.
        let _ = used.wire().socket().write_all(&mut [IoSlice::new(&head)]).await;
        let hop = Self { used, is_head: request.is_head };
        match hop.head().await? {
            Head::Continue => {
                hop.used.set_paired(true);
                Ok(Reply::Paired(hop))
            }
            Head::Final(answer) => Ok(Reply::Final(hop, answer)),
        }
    }

    /// Returns the connection.
    pub(crate) fn used(&self) -> &Arc<Use> {
        &self.used
    }

    /// Waits for the final response.
    ///
    /// # Errors
    /// [`HopError::OwnerLost`]
    pub(crate) async fn answer(&self) -> Result<Answer, HopError> {
        loop {
            match self.head().await {
                Ok(Head::Final(answer)) => return Ok(answer),
                Ok(Head::Continue) => {}
                Err(_) => return Err(HopError::OwnerLost),
            }
        }
    }

    async fn head(&self) -> Result<Head, Lost> {
        let wire = self.used.wire();
        let read = poll_fn(|cx| wire.input().lock().poll_head(wire.socket(), MAX_HEAD, cx)).await;
        let is_silent = !wire.input().lock().has_read_ahead();
        let Ok(Ok(head)) = read else { return Err(Lost { is_silent: is_silent && read.is_err() }) };
        let parsed = response::parse(&head, |parsed| Answer::of(&head, parsed, self.is_head));
        let Ok(Some(answer)) = parsed else { return Err(Lost { is_silent: false }) };
        self.used.note_heard();
        wire.input().lock().begin_body(answer.framing, true);
        Ok(if answer.status == StatusCode::CONTINUE { Head::Continue } else { Head::Final(answer) })
    }

    /// Returns the body of the final response, to be read from the connection.
    pub(crate) fn body(&self) -> RequestBody {
        RequestBody::Socket(SocketBody::from_node(Arc::clone(self.used.wire())))
    }

    /// Reads the whole body of a final response, and keeps the connection if it is clean.
    ///
    /// # Errors
    /// [`HopError::OwnerLost`] if the body does not end, or is too long.
    pub(crate) async fn finish(self, answer: Answer) -> Result<api::Response, HopError> {
        let mut body = RequestBody::Socket(SocketBody::small(Arc::clone(self.used.wire()), false));
        let mut bytes = BytesMut::new();
        while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
            let data = data.map_err(|_| HopError::OwnerLost)?;
            if bytes.len() + data.len() > MAX_BODY {
                return Err(HopError::OwnerLost);
            }
            bytes.extend_from_slice(&data);
        }
        self.release(&answer);
        Ok(answer.into_response(bytes.freeze()))
    }

    /// Keeps the connection for a later request, unless its owner closes it.
    pub(crate) fn release(&self, answer: &Answer) {
        self.used.set_paired(false);
        if !answer.closes {
            self.used.keep();
        }
    }

    /// Writes to the owner.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.used.wire().socket().write_all(&mut [IoSlice::new(bytes)]).await
    }
}

/// The body of a response in parts, as they come from the node that generates it.
pub(crate) struct PassedBody {
    body: SocketBody,
    _hop: Hop,
    /// Held for a client.
    _place: Option<OwnedSemaphorePermit>,
    is_finished: bool,
}

impl PassedBody {
    /// For the client that has this place among those that watch.
    pub(crate) fn new(hop: Hop, place: Option<OwnedSemaphorePermit>) -> Self {
        let body = SocketBody::small(Arc::clone(hop.used.wire()), false);
        Self { body, _hop: hop, _place: place, is_finished: false }
    }

    /// Waits for the next part. The last one is empty.
    ///
    /// # Errors
    /// [`PartError::NodeLost`]
    pub(crate) async fn next_part(&mut self) -> Result<Bytes, PartError> {
        match poll_fn(|cx| self.body.poll_data(cx)).await {
            Some(Ok(data)) => Ok(data),
            Some(Err(_)) => Err(PartError::NodeLost),
            None => {
                self.is_finished = true;
                Ok(Bytes::new())
            }
        }
    }

    /// Returns whether the last part was returned.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl Answer {
    /// Takes what the edge passes on from a head and its parsed form. `None` if no node answers so.
    fn of(bytes: &Bytes, head: &ResponseHead<'_>, is_of_head_request: bool) -> Option<Self> {
        let mut headers = HeaderMap::with_capacity(head.fields().count());
        for (name, value) in head.fields() {
            let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_maybe_shared(bytes.slice_ref(value)),
            ) else {
                continue;
            };
            // The edge frames its response itself. A length that the stream's creator has promised keeps its spelling.
            if name != CONNECTION && name != TRANSFER_ENCODING && name != DATE {
                headers.append(name, value);
            }
        }
        Some(Self {
            status: StatusCode::from_u16(head.status).ok()?,
            framing: if is_of_head_request { Framing::NONE } else { head.framing? },
            closes: head.closes,
            headers,
            spellings: Spellings::of_names(head.fields().map(|(name, _)| name)),
        })
    }

    /// Returns the response for the client, with a complete body.
    fn into_response(self, body: Bytes) -> api::Response {
        let head = api::ResponseHead {
            status: self.status,
            headers: self.headers,
            spellings: self.spellings,
            // As the owner closes its connection, so does the edge: above all after a failure.
            closes: self.closes,
            says_paired: false,
        };
        api::Response { head, body: api::Body::Bytes(body) }
    }
}
