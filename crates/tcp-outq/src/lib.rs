//! `SIOCOUTQ` and `TCP_INFO` of tcp(7), which no well-kept crate offers as safe functions.
//!
//! It is a crate of its own so that the server can forbid unsafe code: here are the only unsafe blocks of the
//! project.

#![cfg(target_os = "linux")]

use std::ffi::c_int;
use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` of `linux/sockios.h`, which is `TIOCOUTQ`.
const SIOCOUTQ: Opcode = 0x5411;

/// Bytes (a FIN counts as one) written to the socket that the peer's kernel has not acknowledged.
///
/// After a reset it stays what it was, so 0 always means that the peer's kernel has got everything.
///
/// # Errors
/// Whatever ioctl(2) says: `EINVAL` for a listening socket, `ENOTTY` for what is no socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    // SAFETY: SIOCOUTQ writes one c_int through its argument, for every kind of descriptor that knows it, and has no
    // other effect.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// What was written waits, because the peer's kernel has said that it has no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standstill {
    /// How often that kernel was asked for room since it has last answered. A loss on the way is one too.
    pub unanswered: u8,
    /// How long ago that kernel was last heard of.
    pub silent: Duration,
}

/// The standstill of the socket; `None` where the peer's kernel has room, or nothing waits for it.
///
/// # Errors
/// Whatever getsockopt(2) says, and `Unsupported` from a kernel that does not tell all that is needed (before Linux 5.4).
pub fn standstill(socket: impl AsFd) -> io::Result<Option<Standstill>> {
    let info = tcp_info(socket)?;
    let is_closed = match info.tcpi_unacked {
        0 => info.tcpi_notsent_bytes > 0,
        // It has thrown away what was in flight.
        _ => info.tcpi_snd_wnd == 0,
    };
    Ok(is_closed.then(|| Standstill {
        unanswered: info.tcpi_probes,
        silent: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    }))
}

fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: it consists of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open as long as it is borrowed. The kernel writes at most `length` bytes to where `info`
    // is, which has as many, and the count of those to `length`.
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
    fn what_the_peer_has_not_got_is_counted_and_what_it_has_is_not() {
        let (mut near, mut far) = pair();
        assert_eq!(unacknowledged(&near).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(bytes) = near.write(&[7; 8192]) {
            written += bytes;
        }
        let held = unacknowledged(&near).unwrap();
        assert!(held > 0 && held <= written, "{held} of {written}");
        far.read_exact(&mut vec![0; written]).unwrap();
        while unacknowledged(&near).unwrap() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_peer_without_room_is_a_standstill_and_one_with_room_is_not() {
        let (mut near, mut far) = pair();
        assert_eq!(standstill(&near).unwrap(), None);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while standstill(&near).unwrap().is_none() {
            written += near.write(&[7; 8192]).unwrap_or(0);
        }
        // It answers.
        while standstill(&near).unwrap().is_none_or(|standstill| standstill.unanswered > 0) {
            std::thread::yield_now();
        }
        far.read_exact(&mut vec![0; written]).unwrap();
        while standstill(&near).unwrap().is_some() {
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
