//! The interfaces that only Linux has: RDHUP, `MSG_MORE`, `TCP_USER_TIMEOUT`, `SIOCOUTQ`, round trips and
//! the zero-window state.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Departure;

/// Checks of a connection within the peer timeout.
const CHECKS_PER_TIMEOUT: u32 = 4;
/// Window probes in a row that an unresponsive peer leaves unanswered. A few may be lost on the way.
const MAX_UNANSWERED_PROBES: u8 = 3;

/// tokio's interest in "priority" data, for which the kernel is never asked here, is also an interest in a
/// closed read side (`EPOLLRDHUP`), and unlike an interest in reading it is not satisfied by data.
///
/// A read or a write that fails consumes the error of a reset, possibly before tokio has seen it. So the kernel is asked whether
/// it was a close or a reset.
pub(super) async fn departed(stream: &TcpStream) -> Departure {
    match stream.ready(Interest::PRIORITY | Interest::ERROR).await {
        Ok(ready) if !ready.is_error() => departure(stream).unwrap_or(Departure::Closed),
        _ => Departure::Reset,
    }
}

pub(super) fn departure(stream: &TcpStream) -> Option<Departure> {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    // With a zero timeout it does not wait. If it fails, no event is reported.
    let _ = poll(&mut polled, Some(&Timespec::default()));
    let [seen] = polled.map(|polled| polled.revents());
    // POLLHUP means that both directions are closed: after a reset, or after a FIN in both directions, and this is not called
    // once a FIN was sent.
    if seen.intersects(PollFlags::ERR | PollFlags::HUP) {
        Some(Departure::Reset)
    } else {
        seen.contains(PollFlags::RDHUP).then_some(Departure::Closed)
    }
}

/// Writes with `MSG_MORE`: the kernel may hold the last segment back for at most 0.2 s.
pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, buffers, &mut SendAncillaryBuffer::default(), flags)?)
}

pub(super) fn unacknowledged(stream: &TcpStream) -> usize {
    tcp_outq::unacknowledged(stream).unwrap_or(0)
}

/// Returns how many bytes were written and not sent, because the peer's window or the network's capacity is used up.
pub(super) fn unsent(stream: &TcpStream) -> usize {
    tcp_outq::unsent(stream).unwrap_or(0)
}

/// Returns the shortest round trip of the last five minutes; zero if that is unknown.
///
/// The smoothed round trip would be too long: it contains the time for which the peer delays acknowledgements.
pub(super) fn shortest_round_trip(stream: &TcpStream) -> Duration {
    tcp_outq::shortest_round_trip(stream).ok().flatten().unwrap_or_default()
}

/// Limits how long bytes may be unacknowledged, whether they are in flight or wait for the peer's window; `None` is no limit.
pub(super) fn set_user_timeout(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let milliseconds = timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
    Ok(sockopt::set_tcp_user_timeout(socket, milliseconds)?)
}

pub(super) async fn unresponsive(stream: &TcpStream, peer_timeout: Duration) {
    loop {
        sleep(peer_timeout / CHECKS_PER_TIMEOUT).await;
        let zero_window = tcp_outq::zero_window(stream);
        // If the state is unknown, keeping a dead peer for too long is better than aborting a live one.
        let timeout = matches!(zero_window, Ok(None)).then_some(peer_timeout);
        // Fails only on a connection that is broken already.
        let _ = set_user_timeout(stream.as_fd(), timeout);
        if let Ok(Some(window)) = zero_window
            && window.unanswered_probes >= MAX_UNANSWERED_PROBES
            && window.since_last_ack >= peer_timeout
        {
            return;
        }
    }
}
