//! The bodies of a soak, whose bytes can be computed without storing them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use anyhow::ensure;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::plan::Upload;

/// Bytes per frame.
const PIECE: u64 = 16 * 1024;
/// An odd length, so that a lost or doubled piece shows.
const BLOCK: u64 = 65_521;

/// A block of noise followed by its own beginning, so that each piece is contiguous.
static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut chance = fastrand::Rng::with_seed(1);
    let block: Vec<u8> = (0..BLOCK).map(|_| chance.u8(..)).collect();
    block.iter().chain(&block).copied().collect()
});

/// A piece of the bytes from this offset on.
fn piece(at: u64, most: u64) -> Bytes {
    let start = usize::try_from(at % BLOCK).unwrap_or_default();
    let length = usize::try_from(most.min(PIECE)).unwrap_or_default();
    NOISE.slice(start..start + length)
}

/// The body of an upload.
pub(crate) struct Noise {
    upload: Upload,
    sent: u64,
}

impl Noise {
    pub(crate) fn new(upload: Upload) -> Self {
        Self { upload, sent: 0 }
    }
}

impl Body for Noise {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = piece(self.sent, self.upload.bytes - self.sent);
        self.sent += data.len() as u64;
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.upload.is_declared && self.sent == self.upload.bytes
    }

    fn size_hint(&self) -> SizeHint {
        if self.upload.is_declared {
            SizeHint::with_exact(self.upload.bytes - self.sent)
        } else {
            SizeHint::default()
        }
    }
}

/// Checks a download.
#[derive(Default)]
pub(crate) struct Check {
    pub(crate) received: u64,
}

impl Check {
    /// # Errors
    /// These are not the next bytes.
    pub(crate) fn take(&mut self, mut data: Bytes) -> anyhow::Result<()> {
        while !data.is_empty() {
            let expected = piece(self.received, data.len() as u64);
            ensure!(data.split_to(expected.len()) == expected, "wrong bytes behind {}", self.received);
            self.received += expected.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_what_is_expected() {
        for is_declared in [true, false] {
            let upload = Upload { bytes: 200_000, is_declared };
            let sent = Noise::new(upload).collect().await.unwrap().to_bytes();
            let mut check = Check::default();
            check.take(sent.slice(..7)).unwrap();
            check.take(sent.slice(7..)).unwrap();
            assert_eq!(check.received, 200_000);
        }
    }

    #[test]
    fn a_byte_that_is_lost_shows() {
        let mut check = Check::default();
        check.take(piece(0, 100)).unwrap();
        assert!(check.take(piece(101, 100)).is_err());
    }
}
