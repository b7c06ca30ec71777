//! Safe wrappers for queries of a TCP socket on Linux that rustix, nix and socket2 do not offer: `SIOCOUTQ`, `SIOCOUTQNSD` and
//! `TCP_INFO` of tcp(7).
//!
//! *Invariant.* The only unsafe blocks of the project are here, so that every other crate can forbid unsafe code.
//!
//! *Concurrency.* Each function is one system call that does not block and does not change the socket.
//!
//! *Bounds.* Nothing is allocated.

#![cfg(target_os = "linux")]

use std::ffi::c_int;
use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` of `linux/sockios.h`, which has the value of `TIOCOUTQ`.
const SIOCOUTQ: Opcode = 0x5411;
/// `SIOCOUTQNSD` of `linux/sockios.h`.
const SIOCOUTQNSD: Opcode = 0x894B;

/// Returns how many bytes were written to the socket and not acknowledged by the peer's kernel. A FIN counts as one.
///
/// A reset does not change the value, so 0 always means that the peer's kernel has received everything.
///
/// # Errors
/// Those of ioctl(2): `EINVAL` for a listening socket, `ENOTTY` for a descriptor that is not a socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    queued::<SIOCOUTQ>(socket)
}

/// Returns how many bytes were written to the socket and not sent to the peer: they wait for its receive window, for the congestion
/// window, or for more bytes. A FIN counts as one.
///
/// # Errors
/// Those of ioctl(2): `EINVAL` for a listening socket, `ENOTTY` for a descriptor that is not a socket.
pub fn unsent(socket: impl AsFd) -> io::Result<usize> {
    queued::<SIOCOUTQNSD>(socket)
}

/// `OPCODE` is [`SIOCOUTQ`] or [`SIOCOUTQNSD`].
fn queued<const OPCODE: Opcode>(socket: impl AsFd) -> io::Result<usize> {
    // SAFETY: both write one c_int through their argument, for every kind of descriptor that supports them, and have no
    // other effect.
    let bytes = unsafe { ioctl(socket, Getter::<OPCODE, c_int>::new()) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Returns the shortest round trip that the kernel has measured on this connection, by default within five minutes. `None` before the
/// first measurement.
///
/// # Errors
/// Those of getsockopt(2), and `Unsupported` from a kernel before Linux 5.4.
pub fn shortest_round_trip(socket: impl AsFd) -> io::Result<Option<Duration>> {
    let microseconds = tcp_info(socket)?.tcpi_min_rtt;
    Ok((microseconds != u32::MAX).then(|| Duration::from_micros(microseconds.into())))
}

/// The state of a socket with unsent data whose peer has closed its receive window (RFC 9293, section 3.8.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroWindow {
    /// Window probes sent since the peer's kernel last answered. A retransmission after a loss counts too.
    pub unanswered_probes: u8,
    /// Time since the peer's kernel last sent an acknowledgement, with a resolution of 1 ms.
    pub since_last_ack: Duration,
}

/// Returns the state of a socket that cannot send because its peer's receive window is closed; `None` if the window is
/// open or there is nothing to send.
///
/// # Errors
/// Those of getsockopt(2), and `Unsupported` from a kernel before Linux 5.4, which does not report the send window.
pub fn zero_window(socket: impl AsFd) -> io::Result<Option<ZeroWindow>> {
    let info = tcp_info(socket)?;
    let is_closed = match info.tcpi_unacked {
        0 => info.tcpi_notsent_bytes > 0,
        // The peer may have closed its window after this data was sent, and dropped the data.
        _ => info.tcpi_snd_wnd == 0,
    };
    Ok(is_closed.then(|| ZeroWindow {
        unanswered_probes: info.tcpi_probes,
        since_last_ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    }))
}

fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: the structure consists of integers, for which zero is a valid value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed. The kernel writes at most `length` bytes to `info`, which is
    // that long, and the number of bytes written to `length`.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let needed = offset_of!(libc::tcp_info, tcpi_snd_wnd) + size_of_val(&info.tcpi_snd_wnd);
    if (length as usize) < needed {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_count_until_the_peer_acknowledges_them() {
        let (mut near, mut far) = pair();
        assert_eq!(unacknowledged(&near).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(bytes) = near.write(&[7; 8192]) {
            written += bytes;
        }
        let queued = unacknowledged(&near).unwrap();
        assert!(queued > 0 && queued <= written, "{queued} of {written}");
        let unsent_bytes = unsent(&near).unwrap();
        assert!(
            unsent_bytes > 0 && unsent_bytes <= queued,
            "{unsent_bytes} of {queued}: the window is closed"
        );
        far.read_exact(&mut vec![0; written]).unwrap();
        while unacknowledged(&near).unwrap() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(unsent(&near).unwrap(), 0);
    }

    #[test]
    fn the_handshake_measures_the_round_trip() {
        let (near, far) = pair();
        for end in [near, far] {
            let round_trip = shortest_round_trip(&end).unwrap().unwrap();
            assert!(round_trip < Duration::from_secs(1), "{round_trip:?} on loopback");
        }
        assert!(shortest_round_trip(std::io::stdin()).is_err());
    }

    #[test]
    fn a_full_receive_buffer_is_a_zero_window_until_it_is_read() {
        let (mut near, mut far) = pair();
        assert_eq!(zero_window(&near).unwrap(), None);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while zero_window(&near).unwrap().is_none() {
            written += near.write(&[7; 8192]).unwrap_or(0);
        }
        // The peer's kernel answers the probes.
        while zero_window(&near).unwrap().is_none_or(|window| window.unanswered_probes > 0) {
            std::thread::yield_now();
        }
        far.read_exact(&mut vec![0; written]).unwrap();
        while zero_window(&near).unwrap().is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reset_does_not_look_like_an_acknowledgement() {
        let (mut near, far) = pair();
        near.set_nonblocking(true).unwrap();
        while near.write(&[7; 8192]).is_ok() {}
        drop(far); // with unread data: RST
        while near.take_error().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(unacknowledged(&near).unwrap() > 0);
    }
}
