//! The transport that h2 reads from and writes to. It passes every byte to [`Traffic`], and replaces h2's flow control of bodies by that of
//! [`Windows`].
//!
//! *Invariant.* h2 gets no bytes beyond the current turn, and none behind the frame with which the client violates a limit. Frames that h2 has not
//! written come between those of h2, but not inside a header block.
//!
//! *Bounds.* The read-ahead buffer holds the bytes read to detect the version of HTTP, or the rest of one read of h2. Frames of our own are one
//! update for each window.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rendezvous_codec::frames::{Frame, HEADER_BYTES, Position};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::traffic::Traffic;
use super::windows::{Windows, is_substituted, substitute};
use crate::wire::Wire;

pub(super) struct Io {
    wire: Arc<Wire>,
    /// Bytes that were read and not given to h2: those read to detect the version of HTTP, and those beyond the current turn.
    read_ahead: BytesMut,
    traffic: Arc<Traffic>,
    windows: Arc<Windows>,
    /// Frames that h2 has not written, to be sent before its next frame.
    own: Vec<u8>,
}

impl Io {
    /// Wraps `wire` and takes over its read-ahead buffer.
    pub(super) fn new(wire: Arc<Wire>, traffic: Arc<Traffic>, windows: Arc<Windows>) -> Self {
        let read_ahead = wire.input().lock().take_read_ahead();
        Self { wire, read_ahead, traffic, windows, own: Vec::new() }
    }

    /// Writes the frames that h2 has not written, if other frames may come between those of h2.
    fn poll_write_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.own.is_empty() && self.traffic.position() == Position::Boundary {
            self.windows.take_updates(&mut self.own);
        }
        while !self.own.is_empty() {
            match ready!(self.wire.socket().poll_write(cx, &[IoSlice::new(&self.own)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.own.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns what to do with h2's next bytes. They begin with `bytes`, which has the whole of each frame that is substituted.
    fn next_step(&self, bytes: &[u8]) -> Step {
        let mut at = match self.traffic.position() {
            Position::Boundary | Position::HeaderBlock => 0,
            // What follows is known once this is written.
            Position::Header(missing) => return Step::WriteSome(missing),
            Position::Payload(missing) => missing,
        };
        while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let frame = Frame::of_header(header);
            let length = HEADER_BYTES + frame.payload;
            if is_substituted(frame) {
                return if at == 0 { Step::Substitute(length) } else { Step::WriteSome(at) };
            }
            at += length;
        }
        Step::WriteAll
    }
}

/// What to do with h2's next bytes.
enum Step {
    WriteAll,
    /// Write this many bytes: then comes a frame that is substituted, or what comes is not known yet.
    WriteSome(usize),
    /// Substitute the next frame, of this length.
    Substitute(usize),
}

/// Returns the first `limit` bytes of `buffers`.
fn limited<'a>(buffers: &'a [IoSlice<'_>], mut limit: usize) -> Vec<IoSlice<'a>> {
    let first = |buffer: &'a IoSlice<'_>| {
        let bytes = buffer.get(..limit.min(buffer.len())).unwrap_or_default();
        limit -= bytes.len();
        IoSlice::new(bytes)
    };
    buffers.iter().map(first).collect()
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.traffic.asked();
        if self.traffic.is_violated() {
            return Poll::Pending;
        }
        if self.traffic.is_turn_over() {
            // The task of the connection sweeps the bodies and begins the next turn before it polls h2 again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let given = buffer.filled().len();
        if self.read_ahead.is_empty() {
            ready!(self.wire.socket().poll_read(cx, buffer))?;
            let fresh = buffer.filled().get(given..).unwrap_or_default();
            let passed = self.traffic.received(fresh);
            self.read_ahead.extend_from_slice(fresh.get(passed..).unwrap_or_default());
            buffer.set_filled(given + passed);
        } else {
            let count = self.read_ahead.len().min(buffer.remaining());
            let passed = self.traffic.received(self.read_ahead.get(..count).unwrap_or_default());
            buffer.put_slice(self.read_ahead.get(..passed).unwrap_or_default());
            self.read_ahead.advance(passed);
            if self.read_ahead.is_empty() {
                // Frees its memory.
                self.read_ahead = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_own(cx))?;
        let first = buffers.iter().find(|buffer| !buffer.is_empty()).map_or(&[][..], |buffer| buffer);
        let written = match self.next_step(first) {
            Step::WriteAll => ready!(self.wire.socket().poll_write(cx, buffers))?,
            Step::WriteSome(limit) => ready!(self.wire.socket().poll_write(cx, &limited(buffers, limit)))?,
            Step::Substitute(length) => {
                substitute(first.get(..length).unwrap_or_default(), &mut self.own);
                length.min(first.len())
            }
        };
        self.traffic.wrote(buffers, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_own(cx))?;
        ready!(self.wire.socket().poll_flush(cx))?;
        self.traffic.flushed(self.wire.socket().sent());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rendezvous_core::budget::Budget;
    use rendezvous_net::socket::Socket;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::traffic::Tolerance;
    use super::super::windows::BodyWindow;
    use super::*;

    const DATA: u8 = 0x0;
    const HEADERS: u8 = 0x1;
    const SETTINGS: u8 = 0x4;
    const WINDOW_UPDATE: u8 = 0x8;
    const CONTINUATION: u8 = 0x9;
    const END_HEADERS: u8 = 0x4;
    const ACK: u8 = 0x1;

    /// A frame with a payload of sevens.
    fn frame(stream: u8, kind: u8, flags: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], &vec![7; length.into()]].concat()
    }

    /// The transport of a connection with an upload on HTTP/2 stream 1 whose client has used its window up, and the socket of the client.
    async fn connected() -> (Io, BodyWindow, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0, Duration::from_mins(1));
        let windows = Windows::new(100, Budget::new(0));
        let of = |header: &[u8]| Frame::of_header(header.first_chunk().unwrap());
        windows.received(of(&frame(0, SETTINGS, ACK, 0))).unwrap();
        windows.received(of(&frame(1, HEADERS, END_HEADERS, 9))).unwrap();
        windows.received(of(&[0, 0xff, 0xff, DATA, 0, 0, 0, 0, 1])).unwrap();
        let body = windows.of_body(1);
        let traffic = Traffic::new(Tolerance::Client, Arc::clone(&windows));
        (Io::new(Wire::new(socket), traffic, windows), body, client)
    }

    #[tokio::test]
    async fn updates_come_neither_inside_a_frame_nor_inside_a_header_block() {
        let update = [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xff];
        let head = [frame(3, HEADERS, 0, 20), frame(3, CONTINUATION, END_HEADERS, 20)].concat();
        let body = frame(3, DATA, 0, 20);
        for (frames, written_before) in [
            (&body, 0),
            (&body, 4),
            (&body, 15),
            (&head, 0),
            (&head, 4),
            (&head, 15),
            (&head, 29),
            (&head, 33),
        ] {
            let (mut io, window, mut client) = connected().await;
            let (before, after) = frames.split_at(written_before);
            io.write_all(before).await.unwrap();
            window.taken(65_535);
            io.write_all(after).await.unwrap();
            io.flush().await.unwrap();
            let expected = match written_before {
                0 => [&update[..], frames].concat(),
                _ => [&frames[..], &update].concat(),
            };
            let mut received = vec![0; expected.len()];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected, "{written_before}");
        }
    }

    #[tokio::test]
    async fn the_windows_that_the_library_grants_do_not_reach_the_client() {
        let settings =
            |window: u32| [&[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 4][..], &window.to_be_bytes()].concat();
        let [of_stream, of_connection] = [1, 0].map(|stream| frame(stream, WINDOW_UPDATE, 0, 4));
        let data = frame(3, DATA, 0, 20);
        let (header, payload) = data.split_at(9);
        let first = [&settings(u32::MAX >> 1), &of_connection, &of_stream, &of_stream, header].concat();
        let expected = [settings(65_535), of_connection, data.clone()].concat();
        for split in 0..first.len() {
            // The first part was not taken as a whole.
            let (mut io, _window, mut client) = connected().await;
            let mut at = 0;
            while at < first.len() {
                let buffers = [IoSlice::new(&first[at..]), IoSlice::new(payload)];
                let limit = if at < split { 1 } else { 2 };
                at += io.write_vectored(&buffers[..limit]).await.unwrap();
            }
            io.write_all(&payload[at - first.len()..]).await.unwrap();
            io.flush().await.unwrap();
            let mut received = vec![0; expected.len()];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected, "{split}");
        }
    }
}
