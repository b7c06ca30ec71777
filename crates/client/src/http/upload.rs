//! The body of a segment's PUT: bytes that a thread makes, of a length known before.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// So many blocks are made ahead of the connection: 1 MiB.
const AHEAD: usize = 16;

/// The end of an upload at which its bytes are made.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) blocks: mpsc::Sender<Bytes>,
    pub(crate) taken: Arc<AtomicU64>,
}

/// The end that the connection reads.
#[derive(Debug)]
pub(crate) struct UploadBody {
    blocks: mpsc::Receiver<Bytes>,
    /// What is left of the length, unless that is not known.
    rest: Option<u64>,
    taken: Arc<AtomicU64>,
}

impl UploadBody {
    /// Makes both ends. Without [`UploadBody::with_length`] a body has no length, and an empty block is its end.
    pub(crate) fn new() -> (Upload, Self) {
        let (sender, blocks) = mpsc::channel(AHEAD);
        let taken = Arc::new(AtomicU64::new(0));
        (Upload { blocks: sender, taken: Arc::clone(&taken) }, Self { blocks, rest: None, taken })
    }

    pub(crate) fn with_length(self, length: u64) -> Self {
        Self { rest: Some(length), ..self }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.rest == Some(0) {
            return Poll::Ready(None);
        }
        let Some(block) = ready!(this.blocks.poll_recv(context)) else {
            // Its maker stopped: the source failed, or the attempt ended. A short body must not look whole.
            return Poll::Ready(Some(Err(io::Error::other("the segment was not made to its end"))));
        };
        if block.is_empty() {
            this.rest = Some(0);
            return Poll::Ready(None);
        }
        let length = u64::try_from(block.len()).unwrap_or(u64::MAX);
        this.rest = this.rest.map(|rest| rest.saturating_sub(length));
        this.taken.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
