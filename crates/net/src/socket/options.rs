//! Options that are set on a listener and inherited by every connection it accepts.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::system;

/// Keepalive probes in a row, in the second half of the peer timeout.
pub(super) const KEEPALIVE_PROBES: u32 = 4;

/// Makes the kernel reset a connection whose peer's kernel has not answered for `timeout`, which must be at least 3 s.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_peer_timeout(listener: impl AsFd, timeout: Duration) -> io::Result<()> {
    sockopt::set_socket_keepalive(&listener, true)?;
    sockopt::set_tcp_keepidle(&listener, whole_seconds(timeout / 2))?;
    sockopt::set_tcp_keepintvl(&listener, whole_seconds(timeout / 2 / KEEPALIVE_PROBES))?;
    sockopt::set_tcp_keepcnt(&listener, KEEPALIVE_PROBES)?;
    system::set_user_timeout(listener.as_fd(), Some(timeout))
}

/// Sends written bytes at once (`TCP_NODELAY` of tcp(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_nodelay(listener: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(listener, true)?)
}

/// Keeps urgent data in its place among all other data (`SO_OOBINLINE` of socket(7)): HTTP does not use urgent data, and no
/// byte of a message may be taken out of it.
///
/// # Errors
/// Those of setsockopt(2).
pub fn keep_urgent_data_inline(listener: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_oobinline(listener, true)?)
}

/// Keepalive options count whole seconds: rounds down, so that the probes are early enough, but to at least 1 s.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}
