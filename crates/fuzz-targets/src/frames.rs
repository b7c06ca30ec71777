//! HTTP/2 frames: each is reported once, with its last byte, however the bytes are split.

use rendezvous_codec::frames::{Frame, FrameKind, FrameScanner};

/// Checks the bytes of one direction of a connection.
pub fn check(data: &[u8]) {
    let expected = read(data);
    for split in [1, 2, 7, data.len().max(1)] {
        let (mut scanner, mut reported, mut received) = (FrameScanner::default(), Vec::new(), 0);
        for piece in data.chunks(split) {
            received += piece.len();
            scanner.scan(piece, |frame| reported.push((received, frame)));
        }
        // Each frame is reported with the piece that contains its last byte.
        let in_pieces = |end: usize| (end.div_ceil(split) * split).min(data.len());
        let expected: Vec<_> = expected.iter().map(|(end, frame)| (in_pieces(*end), *frame)).collect();
        assert_eq!(reported, expected, "in pieces of {split}");
    }
}

/// The complete frames of `data`, each with the position of its end.
fn read(data: &[u8]) -> Vec<(usize, Frame)> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some((head, rest)) = data[at..].split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if rest.len() < length {
            break;
        }
        at += head.len() + length;
        let kind = match head[3] {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::Reset,
            4 => FrameKind::Settings,
            6 => FrameKind::Ping,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Other,
        };
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let padding = match (head[3], head[4] & 8, rest[..length].first()) {
            (0, 8, Some(padding)) => (1 + usize::from(*padding)).min(length),
            _ => 0,
        };
        frames.push((at, Frame { kind, flags: head[4], stream, payload: length, padding }));
    }
    frames
}
