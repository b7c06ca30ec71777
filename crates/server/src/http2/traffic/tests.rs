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
