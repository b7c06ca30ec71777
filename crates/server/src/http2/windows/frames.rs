//! The frames of flow control that the client gets instead of those of h2.

use bytes::BufMut;
use rendezvous_codec::frames::{Frame, FrameKind, HEADER_BYTES};

use super::MIN_WINDOW;

/// The identifier of `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113, section 6.5.2).
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// Whether this frame of h2 must not be sent as it is: see [`substitute`].
pub(in super::super) fn is_substituted(frame: Frame) -> bool {
    match frame.kind {
        FrameKind::Settings => !frame.is_acknowledgement(),
        // The window of the connection is h2's.
        FrameKind::WindowUpdate => frame.stream != 0,
        _ => false,
    }
}

/// Appends what is sent instead of a whole frame of h2 that [`is_substituted`]: settings with the real initial window, and nothing for an
/// update of a window.
pub(in super::super) fn substitute(frame: &[u8], substitute: &mut Vec<u8>) {
    let Some((header, settings)) = frame.split_first_chunk::<HEADER_BYTES>() else { return };
    if Frame::of_header(header).kind != FrameKind::Settings {
        return;
    }
    substitute.extend_from_slice(header);
    for setting in settings.chunks(6) {
        if setting.starts_with(&INITIAL_WINDOW_SIZE) {
            substitute.extend_from_slice(&INITIAL_WINDOW_SIZE);
            substitute.put_u32(MIN_WINDOW);
        } else {
            substitute.extend_from_slice(setting);
        }
    }
}

/// Appends a `WINDOW_UPDATE` (RFC 9113, section 6.9).
pub(super) fn put_window_update(frames: &mut Vec<u8>, stream: u32, increment: u32) {
    const WINDOW_UPDATE: u8 = 0x8;
    frames.extend_from_slice(&[0, 0, 4, WINDOW_UPDATE, 0]);
    frames.put_u32(stream);
    frames.put_u32(increment);
}
