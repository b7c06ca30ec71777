//! The body of an upload: bytes that a thread makes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A good size of a block, in bytes: handing a block to another thread costs as much as reading some KiB.
pub(crate) const BLOCK: usize = 256 * 1024;

/// So many blocks are made ahead of the connection.
const AHEAD: usize = 4;

/// The connection gets so many bytes at once, and a little more at the end of a block, so that the progress over a slow one is seen.
const FRAME: usize = 64 * 1024;

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
    /// What is left of the last block.
    block: Bytes,
    /// What is left of the length, unless that is not known.
    rest: Option<u64>,
    taken: Arc<AtomicU64>,
}

impl UploadBody {
    /// Makes both ends. Without [`UploadBody::with_length`] a body has no length, and an empty block is its end.
    pub(crate) fn new() -> (Upload, Self) {
        let (sender, blocks) = mpsc::channel(AHEAD);
        let taken = Arc::new(AtomicU64::new(0));
        (
            Upload { blocks: sender, taken: Arc::clone(&taken) },
            Self { blocks, block: Bytes::new(), rest: None, taken },
        )
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
        if this.block.is_empty() {
            let Some(block) = ready!(this.blocks.poll_recv(context)) else {
                // Its maker stopped: the source failed, or the attempt ended. A short body must not look whole.
                return Poll::Ready(Some(Err(io::Error::other("the segment was not made to its end"))));
            };
            if block.is_empty() {
                this.rest = Some(0);
                return Poll::Ready(None);
            }
            this.block = block;
        }
        let is_rest = this.block.len() < 2 * FRAME;
        let frame = this.block.split_to(if is_rest { this.block.len() } else { FRAME });
        let length = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        this.rest = this.rest.map(|rest| rest.saturating_sub(length));
        this.taken.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// The lengths of all frames, or why there are no more. Each counts as taken with its frame.
    async fn frames(mut body: UploadBody, taken: &AtomicU64) -> Result<Vec<usize>, String> {
        let (mut lengths, mut total) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let length = frame.map_err(|error| error.to_string())?.into_data().unwrap().len();
            lengths.push(length);
            total += length as u64;
            assert_eq!(taken.load(Ordering::Relaxed), total);
        }
        assert!(body.is_end_stream());
        Ok(lengths)
    }

    #[tokio::test]
    async fn the_connection_gets_large_blocks_in_parts_and_a_body_that_is_not_made_to_its_end_fails() {
        let sealed = BLOCK + 64;
        for (made, length, expected) in [
            (&[sealed, 1][..], Some(sealed + 1), Ok(vec![FRAME, FRAME, FRAME, FRAME + 64, 1])),
            (&[BLOCK, 0], None, Ok(vec![FRAME; 4])),
            (&[], Some(0), Ok(vec![])),
            (&[BLOCK], Some(BLOCK + 1), Err(())),
            (&[BLOCK], None, Err(())),
        ] {
            let (upload, body) = UploadBody::new();
            let body = match length {
                Some(length) => body.with_length(length as u64),
                None => body,
            };
            for &bytes in made {
                upload.blocks.try_send(Bytes::from(vec![7; bytes])).unwrap();
            }
            drop(upload.blocks);
            assert_eq!(frames(body, &upload.taken).await.map_err(drop), expected, "{made:?} of {length:?}");
        }
    }
}
