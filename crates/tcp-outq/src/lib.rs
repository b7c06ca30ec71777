//! `SIOCOUTQ` of tcp(7), which no well-kept crate offers as a safe function.
//!
//! It is a crate of its own so that the server can forbid unsafe code: here is the only unsafe block of the
//! project.

#![cfg(target_os = "linux")]

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

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
