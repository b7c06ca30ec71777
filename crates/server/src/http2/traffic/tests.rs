use rendezvous_core::budget::Budget;

use super::*;

/// A frame of an HTTP/2 stream (RFC 9113, section 4.1) with a payload of zeros.
fn frame(stream: u8, kind: u8, length: u8) -> Vec<u8> {
    let head = [0, 0, length, kind, 0, 0, 0, 0, stream];
    [&head[..], &vec![0; usize::from(length)]].concat()
}

fn traffic() -> Arc<Traffic> {
    let windows = Windows::new(100, Budget::new(0));
    let traffic = Traffic::new(Tolerance::Client, windows);
    assert_eq!(traffic.received(HTTP2_PREFACE), HTTP2_PREFACE.len());
    traffic
}

#[test]
fn idle_frames_flood_a_connection_and_the_reset_of_a_response_is_no_idle_frame() {
    let (reset, ping, window_update) = (3, 6, 8);
    for (kind, stream, length, floods) in
        [(reset, 1, 4, true), (reset, 3, 4, false), (ping, 0, 8, true), (window_update, 1, 4, false)]
    {
        let traffic = traffic();
        let _response = traffic.watch(3);
        for _ in 0..MAX_IDLE_FRAMES {
            traffic.received(&frame(stream, kind, length));
        }
        assert!(!traffic.is_violated(), "{kind} on {stream}");
        traffic.received(&frame(stream, kind, length));
        assert_eq!(traffic.is_violated(), floods, "{kind} on {stream}");
    }
}

#[test]
fn a_turn_ends_at_its_limit_of_small_frames() {
    let traffic = traffic();
    let small = frame(1, 0, 1);
    let bytes = small.repeat(SMALL_FRAMES_PER_TURN + 5);
    assert!(!traffic.is_turn_over());
    let passed = traffic.received(&bytes);
    assert_eq!(passed, small.len() * SMALL_FRAMES_PER_TURN);
    assert_eq!(traffic.received(&bytes[passed..]), 0);
    traffic.begin_turn();
    assert!(traffic.is_turn_over(), "h2 may have frames of this turn");
    traffic.asked();
    traffic.begin_turn();
    assert!(!traffic.is_turn_over());
    assert_eq!(traffic.received(&bytes[passed..]), bytes.len() - passed);
}

/// Returns how many of such frames h2 is given in one turn.
fn frames_in_a_turn(kind: u8, flags: u8, payload: &[u8]) -> usize {
    let traffic = traffic();
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0, high, low, kind, flags, 0, 0, 0, 1];
    let frame = [&head[..], payload].concat();
    traffic.received(&frame.repeat(5000)) / frame.len()
}

#[test]
fn a_turn_ends_at_its_limit_of_bodies_of_small_frames_or_of_other_bytes() {
    let (data, unknown, padded) = (0, 20, 8);
    let padding = 100;
    let with_padding = [&[padding][..], &[0; SMALL_FRAME + 50]].concat();
    for (name, seen, expected) in [
        (
            "frames that are not small",
            frames_in_a_turn(data, 0, &[0; SMALL_FRAME]),
            BODY_BYTES_PER_TURN / SMALL_FRAME,
        ),
        ("smaller ones", frames_in_a_turn(data, 0, &[0; SMALL_FRAME - 1]), SMALL_FRAMES_PER_TURN),
        ("small ones that are padded", frames_in_a_turn(data, padded, &with_padding), SMALL_FRAMES_PER_TURN),
        ("others", frames_in_a_turn(unknown, 0, &[0; 1024]), OTHER_BYTES_PER_TURN / 1024),
    ] {
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn a_turn_ends_with_a_body_before_its_http2_stream_is_reset() {
    let (data, headers, reset, end_headers, end_stream) = (0, 1, 3, 4, 1);
    let traffic = traffic();
    let body =
        [[0, 0, 0, headers, end_headers, 0, 0, 0, 1], [0, 0, 0, data, end_stream, 0, 0, 0, 1]].concat();
    let passed = traffic.received(&[&body[..], &frame(1, reset, 4)].concat());
    assert_eq!(passed, body.len());
}

#[test]
fn acknowledgements_of_pings_are_no_idle_frames_and_others_are() {
    let traffic = traffic();
    let acknowledgement = [0, 0, 8, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let pings = 3;
    (0..pings).for_each(|_| traffic.expect_pong());
    for _ in 0..MAX_IDLE_FRAMES + pings {
        traffic.received(&acknowledgement);
    }
    assert!(!traffic.is_violated());
    traffic.received(&acknowledgement);
    assert!(traffic.is_violated());
}

#[test]
fn resets_of_a_response_that_is_over_are_idle_frames() {
    let traffic = traffic();
    drop(traffic.watch(3));
    for _ in 0..=MAX_IDLE_FRAMES {
        traffic.received(&frame(3, 3, 4));
    }
    assert!(traffic.is_violated());
}

#[tokio::test]
async fn a_response_is_watched_to_its_last_frame_or_its_reset() {
    let traffic = traffic();
    let end = [0, 0, 0, 0, 1, 0, 0, 0, 1];
    let write = |bytes: &[u8]| traffic.wrote(&[IoSlice::new(bytes)], bytes.len());

    let mut watch = traffic.watch(1);
    write(&end);
    traffic.flushed(70);
    assert_eq!(watch.in_kernel().await, Some(70));
    traffic.received(&frame(1, 3, 4));
    watch.given_up(IDLE_FRAME_PERIOD).await;
    assert_eq!(watch.in_kernel().await, Some(70), "a reset does not undo what was sent before it");

    let mut watch = traffic.watch(3);
    traffic.received(&frame(3, 3, 4));
    assert_eq!(watch.in_kernel().await, None);

    let mut watch = traffic.watch(5);
    traffic.end();
    assert_eq!(watch.in_kernel().await, None);
    assert_eq!(traffic.watch(7).in_kernel().await, None);
}
