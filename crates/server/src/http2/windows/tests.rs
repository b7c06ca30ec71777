use futures_util::FutureExt;
use tokio::time::advance;

use super::*;

const HEADERS: u8 = 0x1;
const DATA: u8 = 0x0;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;

fn frame(stream: u32, kind: u8, flags: u8, payload: u32) -> Frame {
    let [_, length @ ..] = payload.to_be_bytes();
    let header = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    Frame::of_header(header.first_chunk().unwrap())
}

fn data(stream: u32, payload: u32) -> Frame {
    frame(stream, DATA, 0, payload)
}

/// Windows with this budget. The client has acknowledged the settings, and begun an upload on HTTP/2 stream 1.
fn open(memory: u64) -> Arc<Windows> {
    let windows = Windows::new(100, Budget::new(memory));
    windows.received(frame(0, SETTINGS, ACK, 0)).unwrap();
    windows.received(frame(1, HEADERS, 0, 9)).unwrap();
    windows
}

/// The updates that are due, as pairs of an HTTP/2 stream and an increment.
fn updates(windows: &Windows) -> Vec<(u32, u32)> {
    let mut frames = Vec::new();
    windows.take_updates(&mut frames);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let update = |frame: &[u8]| {
        assert_eq!(frame[..5], [0, 0, 4, 8, 0]);
        (number(&frame[5..9]), number(&frame[9..]))
    };
    frames.chunks(13).map(update).collect()
}

fn size(windows: &Windows, stream: u32) -> u32 {
    windows.state.lock().windows[&stream].size
}

#[test]
fn what_the_reader_takes_is_granted_again_from_half_a_window_on() {
    let windows = open(0);
    let body = windows.of_body(1);
    windows.received(data(1, 60_000)).unwrap();
    assert_eq!(updates(&windows), []);
    body.taken(32_766);
    assert_eq!(updates(&windows), []);
    body.taken(1);
    assert_eq!(updates(&windows), [(1, 32_767)]);
    body.taken(60_000 - 32_767);
    assert_eq!(updates(&windows), []);
    windows.received(frame(1, DATA, END_STREAM, 5535)).unwrap();
    body.taken(5535);
    assert_eq!(updates(&windows), [], "the body has ended");
}

#[test]
fn nothing_is_granted_before_the_client_knows_the_settings() {
    let windows = Windows::new(100, Budget::new(0));
    windows.received(frame(1, HEADERS, 0, 9)).unwrap();
    let body = windows.of_body(1);
    windows.received(data(1, 65_535)).unwrap();
    body.taken(65_535);
    // Those of the client.
    windows.received(frame(0, SETTINGS, 0, 0)).unwrap();
    assert_eq!(updates(&windows), []);
    windows.received(frame(0, SETTINGS, ACK, 0)).unwrap();
    assert_eq!(updates(&windows), [(1, 65_535)]);
}

#[test]
fn a_client_may_send_its_window_and_not_a_byte_more() {
    let windows = open(0);
    windows.received(data(1, 65_535)).unwrap();
    windows.received(data(1, 0)).unwrap();
    assert_eq!(windows.received(data(1, 1)), Err(Reason::FLOW_CONTROL_ERROR));
    assert_eq!(windows.received(data(7, 1 << 20)), Ok(false), "h2 judges frames of other HTTP/2 streams");
}

#[test]
fn a_body_with_new_frames_is_returned_until_they_are_decoded() {
    let windows = open(0);
    assert!(windows.take_arrived(true).is_empty());
    for _ in 0..2 {
        windows.received(data(1, 10)).unwrap();
        windows.received(data(1, 10)).unwrap();
        windows.received(data(3, 10)).unwrap();
        assert_eq!(windows.take_arrived(true), BTreeSet::from([1]));
    }
    windows.received(data(1, 10)).unwrap();
    assert_eq!(windows.take_arrived(false), BTreeSet::from([1]));
    assert_eq!(windows.take_arrived(true), BTreeSet::from([1]));
    assert!(windows.take_arrived(true).is_empty());
    let continuation = 0x9;
    windows.received(frame(1, continuation, 0, 9)).unwrap();
    assert_eq!(windows.take_arrived(true), BTreeSet::from([1]), "trailers may end with it");
}

#[test]
fn a_body_ends_with_its_last_data_or_with_trailers() {
    for last in [frame(1, DATA, END_STREAM, 0), frame(1, HEADERS, END_STREAM, 9)] {
        let windows = open(0);
        assert_eq!(windows.received(data(1, 10)), Ok(false));
        assert_eq!(windows.received(last), Ok(true));
    }
    assert_eq!(open(0).received(frame(3, HEADERS, END_STREAM, 9)), Ok(false), "a request without a body");
}

#[test]
fn nothing_is_granted_on_an_http2_stream_that_was_reset() {
    for is_by_client in [false, true] {
        let windows = open(0);
        let body = windows.of_body(1);
        windows.received(data(1, 65_535)).unwrap();
        body.taken(40_000);
        let reset = frame(1, RST_STREAM, 0, 4);
        if is_by_client {
            windows.received(reset).unwrap();
        } else {
            windows.sent(reset);
        }
        body.taken(25_535);
        assert_eq!(updates(&windows), [], "{is_by_client}");
    }
}

#[test]
fn padding_is_granted_again_at_once() {
    let windows = open(0);
    windows.received(Frame { padding: 40_000, ..data(1, 50_000) }).unwrap();
    assert_eq!(updates(&windows), [(1, 40_000)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_round_trip_is_that_of_the_settings() {
    let windows = Windows::new(100, Budget::new(0));
    for (milliseconds, round_trip) in [(70, 70), (5000, 1000)] {
        windows.sent(frame(0, SETTINGS, 0, 12));
        advance(Duration::from_millis(milliseconds)).await;
        windows.received(frame(0, SETTINGS, ACK, 0)).unwrap();
        assert_eq!(windows.state.lock().round_trip, Some(Duration::from_millis(round_trip)));
    }
}

/// Lets bytes arrive for a reader that takes them and waits for more, after this number of milliseconds.
async fn pass(windows: &Windows, body: &BodyWindow, bytes: u32, milliseconds: u64) {
    advance(Duration::from_millis(milliseconds)).await;
    windows.received(data(body.stream, bytes)).unwrap();
    body.taken(bytes as usize);
    body.awaited();
}

fn set_round_trip(windows: &Windows, milliseconds: u64) {
    windows.state.lock().round_trip = Some(Duration::from_millis(milliseconds));
}

#[tokio::test(start_paused = true)]
async fn a_window_grows_if_half_of_it_arrives_within_two_round_trips() {
    for (bytes, milliseconds, grows) in
        [(65_535, 50, true), (32_767, 100, true), (32_766, 50, false), (65_535, 101, false)]
    {
        let windows = open(1 << 30);
        set_round_trip(&windows, 50);
        let body = windows.of_body(1);
        pass(&windows, &body, bytes, milliseconds).await;
        assert_eq!(
            size(&windows, 1),
            if grows { 4 * MIN_WINDOW } else { MIN_WINDOW },
            "{bytes} {milliseconds}"
        );
        if grows {
            assert_eq!(updates(&windows), [(1, 3 * MIN_WINDOW + bytes)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_of_a_slow_destination_does_not_grow() {
    let windows = open(1 << 30);
    set_round_trip(&windows, 50);
    let body = windows.of_body(1);
    for _ in 0..100 {
        windows.received(data(1, 32_767)).unwrap();
        body.taken(32_767);
        updates(&windows);
        advance(Duration::from_millis(10)).await;
    }
    body.awaited();
    assert_eq!(size(&windows, 1), MIN_WINDOW);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_useful_while_the_round_trip_is_unknown_or_may_have_become_longer() {
    // Without settings that were sent, none is known.
    let is_useful = |windows: &Windows| windows.ping_is_useful.notified().now_or_never().is_some();
    let windows = open(1 << 30);
    let body = windows.of_body(1);
    pass(&windows, &body, 32_766, 10).await;
    assert!(!is_useful(&windows), "not half of a window");
    pass(&windows, &body, 1, 10).await;
    assert!(is_useful(&windows), "unknown");
    set_round_trip(&windows, 50);
    updates(&windows);
    pass(&windows, &body, 32_767, 10).await;
    assert!(!is_useful(&windows), "the window has grown");
    updates(&windows);
    pass(&windows, &body, 4 * 32_768, 101).await;
    assert!(is_useful(&windows), "too slow for the last one");
}

/// Lets a body pass whose window is its limit, until the window does not grow any more.
fn grow(windows: &Windows, body: &BodyWindow) {
    loop {
        let before = size(windows, body.stream);
        let left = windows.state.lock().windows[&body.stream].left;
        windows.received(data(body.stream, left)).unwrap();
        body.taken(left as usize);
        body.awaited();
        windows.take_updates(&mut Vec::new());
        if size(windows, body.stream) == before {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn windows_grow_to_8_mib_and_leave_memory_for_others() {
    let memory = Budget::new(256 << 20);
    let windows = Windows::new(100, Arc::clone(&memory));
    windows.received(frame(0, SETTINGS, ACK, 0)).unwrap();
    set_round_trip(&windows, 50);
    let mut bodies = Vec::new();
    for stream in (1..200).step_by(2) {
        windows.received(frame(stream, HEADERS, 0, 9)).unwrap();
        let body = windows.of_body(stream);
        grow(&windows, &body);
        bodies.push(body);
    }
    assert_eq!(size(&windows, 1), MAX_WINDOW);
    assert_eq!(size(&windows, 15), MAX_WINDOW, "eight at once");
    assert!(size(&windows, 199) < MAX_WINDOW);
    let half = memory.reserve(128 << 20).unwrap();
    drop((bodies, half));
    assert!(memory.reserve(256 << 20).is_ok(), "all is given back");
}

#[tokio::test(start_paused = true)]
async fn a_window_grows_by_exactly_the_memory_that_it_takes() {
    // At most an eighth of half of the budget may be taken for one window.
    let enough = u64::from(MIN_WINDOW * (GROWTH - 1)) * 16;
    for (memory, grows) in [(enough, true), (enough - 16, false)] {
        let windows = open(memory);
        set_round_trip(&windows, 50);
        let body = windows.of_body(1);
        grow(&windows, &body);
        assert_eq!(size(&windows, 1) > MIN_WINDOW, grows, "{memory}");
    }
}

#[test]
fn the_head_of_a_response_does_not_end_the_window_of_its_request() {
    let windows = open(0);
    windows.sent(frame(1, HEADERS, 0, 9));
    assert_eq!(size(&windows, 1), MIN_WINDOW);
}

#[test]
fn a_request_that_is_never_accepted_is_forgotten_and_their_number_is_bounded() {
    let count = |windows: &Windows| windows.state.lock().windows.len();
    for ending in [frame(1, RST_STREAM, 0, 4), frame(1, HEADERS, END_STREAM, 9)] {
        let windows = open(0);
        assert_eq!(count(&windows), 1);
        windows.sent(ending);
        assert_eq!(count(&windows), 0);
    }
    let windows = open(0);
    windows.received(frame(1, RST_STREAM, 0, 4)).unwrap();
    windows.received(frame(3, HEADERS, END_STREAM, 9)).unwrap();
    assert_eq!(count(&windows), 0);

    let windows = open(0);
    let body = windows.of_body(1);
    windows.sent(frame(1, HEADERS, END_STREAM, 9));
    assert_eq!(count(&windows), 1, "a request may be answered before its body has arrived");
    drop(body);
    assert_eq!(count(&windows), 0);
    for stream in (3..2051).step_by(2) {
        windows.received(frame(stream, HEADERS, 0, 9)).unwrap();
    }
    assert_eq!(windows.received(frame(2051, HEADERS, 0, 9)), Err(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(windows.received(frame(2053, HEADERS, END_STREAM, 9)), Ok(false));
    assert_eq!(count(&windows), 1024);
}

#[test]
fn the_client_receives_the_real_initial_window_and_no_update_of_h2() {
    let settings = [0, 0, 12, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0x7f, 0xff, 0xff, 0xff];
    let expected = [0, 0, 12, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0xff, 0xff];
    let mut frames = Vec::new();
    substitute(&settings, &mut frames);
    assert_eq!(frames, expected);
    frames.clear();
    substitute(&[0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 1, 0], &mut frames);
    assert!(frames.is_empty());

    for (frame, expected) in [
        (frame(0, SETTINGS, 0, 12), true),
        (frame(0, SETTINGS, ACK, 0), false),
        (frame(1, 8, 0, 4), true),
        (frame(0, 8, 0, 4), false),
        (frame(1, DATA, 0, 4), false),
    ] {
        assert_eq!(is_substituted(frame), expected, "{frame:?}");
    }
}
