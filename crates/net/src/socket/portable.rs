//! Substitutes for `linux` on other systems.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Departure;

/// Interval between two checks of a connection whose unread data hides a FIN or a reset.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn departed(stream: &TcpStream) -> Departure {
    loop {
        match stream.peek(&mut [0]).await {
            Ok(0) => return Departure::Closed,
            Ok(_) => tokio::time::sleep(CHECK_INTERVAL).await,
            Err(_) => return Departure::Reset,
        }
    }
}

pub(super) fn departure(_: &TcpStream) -> Option<Departure> {
    None
}

pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(socket, buffers)?)
}

pub(super) fn unacknowledged(_: &TcpStream) -> usize {
    0
}

pub(super) fn unsent(_: &TcpStream) -> usize {
    0
}

pub(super) fn shortest_round_trip(_: &TcpStream) -> Duration {
    Duration::ZERO
}

pub(super) fn set_user_timeout(_: BorrowedFd<'_>, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

pub(super) async fn unresponsive(_: &TcpStream, _: Duration) {
    std::future::pending().await
}
