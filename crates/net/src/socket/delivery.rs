//! The end of a connection: confirming that the peer's kernel has acknowledged what was written, closing after that, or
//! aborting in a way that the peer can detect.

mod schedule;

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::sockopt;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Departure, Socket, poll_once, system};
use schedule::Schedule;

/// How long a client has to read what its kernel has acknowledged, before an undecryptable record is sent.
const READ_GRACE: Duration = Duration::from_millis(200);
/// A record of application data (RFC 8446, section 5.1) with a payload that no key decrypts.
const UNDECRYPTABLE_RECORD: &[u8] = &[
    23, 3, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0,
];
/// Size of the buffer into which input is read that is discarded, in bytes.
const DISCARD_BUFFER: usize = 16 * 1024;

impl Socket {
    /// Closes the sending side, and waits until the peer's kernel has acknowledged every byte before the FIN. Returns false if the
    /// connection breaks first. Calls `on_progress` whenever bytes have been acknowledged. `written` is the time of the last write.
    ///
    /// The FIN is not waited for: a kernel may delay the acknowledgement of a lone FIN by 40 ms. `close_notify` is sent only once
    /// everything else is acknowledged: a peer that closes without reading it answers with a reset, after which it would be
    /// unknown whether the earlier bytes had arrived.
    pub async fn deliver(&self, written: Instant, on_progress: impl Fn()) -> bool {
        if !self.is_plain() {
            let delivered = self.acknowledged_since(written, self.sent(), on_progress).await;
            self.shutdown_write().await;
            return delivered;
        }
        // A queued FIN counts as one unacknowledged byte, the last; on a broken connection there is none.
        let fin = u64::from(self.shutdown_write().await);
        // Nothing else uses the connection meanwhile, so no read or write can consume the error of a reset.
        self.until_acknowledged(written, || fin, || false, on_progress).await
    }

    /// Waits until the peer's kernel has acknowledged the first `sent` bytes, as [`Socket::sent`] counts them. Returns false if the
    /// connection breaks first. Calls `on_progress` whenever bytes have been acknowledged. Should be called right after
    /// the last of these bytes was written, because the intervals between its checks count from then.
    pub async fn acknowledged_up_to(&self, sent: u64, on_progress: impl Fn()) -> bool {
        self.acknowledged_since(Instant::now(), sent, on_progress).await
    }

    /// Returns whether the peer's kernel has acknowledged the first `sent` bytes, as [`Socket::sent`] counts them.
    #[must_use]
    pub fn is_acknowledged(&self, sent: u64) -> bool {
        self.unacknowledged_of(sent) == 0
    }

    /// Returns how many of the first `sent` bytes, as [`Socket::sent`] counts them, the peer's kernel has not acknowledged.
    #[must_use]
    pub fn unacknowledged_of(&self, sent: u64) -> u64 {
        self.unacknowledged_before(|| self.sent() - sent)
    }

    async fn acknowledged_since(&self, written: Instant, sent: u64, on_progress: impl Fn()) -> bool {
        let is_reset = || self.departure() == Some(Departure::Reset);
        self.until_acknowledged(written, || self.sent() - sent, is_reset, on_progress).await
    }

    /// Returns how many bytes are not acknowledged, without the last `behind`.
    fn unacknowledged_before(&self, behind: impl Fn() -> u64) -> u64 {
        // In this order, bytes that are sent in between are counted: the result is never too small.
        let behind = behind();
        (self.unacknowledged() as u64).saturating_sub(behind)
    }

    async fn until_acknowledged(
        &self,
        written: Instant,
        behind: impl Fn() -> u64,
        is_reset: impl Fn() -> bool,
        on_progress: impl Fn(),
    ) -> bool {
        let remaining = || self.unacknowledged_before(&behind);
        // In this order, bytes that are sent in between do not count, which would delay the next look.
        let has_unsent = || system::unsent(self.tcp.stream()) as u64 > behind();
        let mut before = remaining();
        if before == 0 {
            return true;
        }
        let round_trip = system::shortest_round_trip(self.tcp.stream());
        let mut schedule = Schedule::new(written.elapsed(), before, round_trip);
        let mut look = pin!(sleep_until(written + schedule.due()));
        let mut reset = pin!(self.reset_by_peer());
        loop {
            let is_broken = tokio::select! {
                () = &mut reset => true,
                () = &mut look => false,
            };
            let now = remaining();
            if now == 0 {
                return true;
            }
            if is_broken || is_reset() {
                // The last bytes may have been acknowledged before the reset, but after they were counted.
                return remaining() == 0;
            }
            if std::mem::replace(&mut before, now) > now {
                on_progress();
            }
            schedule.looked(written.elapsed(), now, has_unsent);
            look.as_mut().reset(written + schedule.due());
        }
    }

    /// Makes every later end of this connection an RST, even after a crash of the server: a body that ends with the
    /// connection must not look complete before it is.
    pub fn arm_reset(&self) {
        // Fails only on a connection that is broken already.
        let _ = self.tcp.stream().set_zero_linger();
        self.resets_on_close.store(true, Ordering::Relaxed);
    }

    /// Undoes [`Socket::arm_reset`], once the body is complete.
    pub fn disarm_reset(&self) {
        if self.resets_on_close.swap(false, Ordering::Relaxed) {
            let _ = sockopt::set_socket_linger(self.tcp.stream(), None);
        }
    }

    /// Aborts a message in the middle: every later end of this connection is an RST. Waits up to `limit` for the acknowledgement of what
    /// was written, because a reset discards what has not arrived.
    ///
    /// Over TLS, some clients take a reset for a clean end. None accepts a record that it cannot decrypt, so such a record is sent before the
    /// reset if TLS holds nothing back; after a short delay, because some clients then discard what they have not read.
    pub async fn abort(&self, limit: Duration) {
        self.arm_reset();
        let arrival = || timeout(limit, self.acknowledged_up_to(self.sent(), || {}));
        let has_arrived = arrival().await == Ok(true);
        let Some(tls) = self.tls.as_ref().filter(|_| has_arrived) else { return };
        sleep(READ_GRACE).await;
        let is_flushed = matches!(poll_once(|cx| tls.poll_flush(cx)), Poll::Ready(Ok(())));
        let record = [IoSlice::new(UNDECRYPTABLE_RECORD)];
        if is_flushed && poll_once(|cx| self.tcp.poll_write(cx, &record)).is_ready() {
            // After the limit, the reset is sent anyway.
            let _ = arrival().await;
        }
    }

    /// Sends FIN, and discards input until the peer closes, for at most `limit` (RFC 9112, section 9.6): an RST in answer to input
    /// would discard the response before the peer has read it.
    pub async fn linger(&self, limit: Duration) {
        let mut scratch = BytesMut::with_capacity(DISCARD_BUFFER);
        let discarding = async {
            self.shutdown_write().await;
            loop {
                // Nothing else in this loop yields, not even to the timeout, while there is input.
                consume_budget().await;
                scratch.clear();
                match self.try_read(&mut scratch) {
                    Ok(1..) => {}
                    // `poll_read_buf` must not be used: the task that has read the body may still poll it, and only the
                    // last task to do so is woken.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.tcp.stream().readable().await.is_err() {
                            return;
                        }
                    }
                    Ok(0) | Err(_) => return,
                }
            }
        };
        // After the limit, the connection is closed even if the peer still sends.
        let _ = timeout(limit, discarding).await;
    }
}
