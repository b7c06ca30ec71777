//! What a sender does about a relay of no use, about lost answers, and about its own end.

use super::*;
use crate::messages::{Ask, Body, Control, Done};
use crate::seal::Identity;

const MINUTE: Duration = Duration::from_mins(1);

/// Runs a sender whose control requests and probes are all answered at once by `answer`. Returns the number of requests, and what people saw.
fn requests_within(time: Duration, answer: impl Fn() -> Input) -> (u32, Vec<SendEvent>) {
    let mut sender = Sender::new(Id::random(), u64::MAX, Duration::from_hours(24), 7);
    let (mut requests, mut events, mut now) = (0, Vec::new(), Duration::ZERO);
    while now < time {
        let input = match sender.action() {
            Some(Action::Listen { .. }) => answer(),
            Some(Action::Probe) => match answer() {
                Input::Listened(reply) => Input::Probed(reply),
                _ => Input::Probed(Reply::status(200)),
            },
            Some(Action::Event(event)) => {
                events.push(event);
                continue;
            }
            Some(Action::Link) => continue,
            Some(other) => panic!("{other:?}"),
            None => {
                now = now.max(sender.deadline());
                sender.handle(now, Input::Tick);
                continue;
            }
        };
        requests += 1;
        sender.handle(now, input);
    }
    (requests, events)
}

#[test]
fn a_relay_that_fails_at_once_is_asked_about_twice_a_second_at_most_and_people_are_told() {
    for code in [429, 500, 503, 504] {
        let (requests, events) = requests_within(MINUTE, || Input::Listened(Reply::status(code)));
        assert!((10..120).contains(&requests), "{requests} requests after {code}");
        assert!(events.iter().any(|event| matches!(event, SendEvent::Cut { .. })), "{code}: {events:?}");
    }
    let (requests, _) = requests_within(MINUTE, || Input::Listened(Reply::Lost { why: "refused".into() }));
    assert!((10..120).contains(&requests), "{requests} requests without a relay");
}

#[test]
fn something_that_answers_anything_is_asked_once_a_second_and_people_are_warned_once() {
    let (requests, events) = requests_within(MINUTE, || Input::Unreadable);
    assert!((10..80).contains(&requests), "{requests} requests");
    assert!(matches!(&events[..], [SendEvent::Warning(_)]), "{events:?}");
}

/// Returns a sender that has sent all of a source, and an accepted receipt for it.
fn confirming(give_up: Duration) -> Sender {
    let (transfer, attempt, receiver) = (Id::random(), Id::random(), Id::random());
    let complete = Complete { bytes: 3, sha256: [1; 32].into() };
    let mut sender = Sender::new(transfer.clone(), u64::MAX, give_up, 7);
    let mut hear = |n, body| {
        sender.handle(Duration::ZERO, Input::Heard(Control { receiver: receiver.clone(), n, body }));
        if n == 1 {
            let end = Some(complete.clone());
            let made = Made { attempt: attempt.clone(), segment: 0, data: 3, sealed: 300, end };
            sender.handle(Duration::ZERO, Input::Made(made));
            let reply = Reply::status(200);
            sender.handle(Duration::ZERO, Input::Put { attempt: attempt.clone(), segment: 0, reply });
        }
    };
    let recipient = Identity::generate().recipient();
    hear(1, Body::Ask(Ask { attempt: attempt.clone(), offset: 0, recipient, transfer: None }));
    let Complete { bytes, sha256 } = complete;
    hear(2, Body::Done(Done { attempt: attempt.clone(), transfer, bytes, sha256, stored: Stored::Disk }));
    sender
}

#[test]
fn an_accepted_receipt_counts_even_if_nobody_fetches_its_confirmation_before_the_sender_would_give_up() {
    let mut sender = confirming(Duration::from_secs(2));
    let mut now = Duration::ZERO;
    loop {
        match sender.action() {
            Some(Action::End(ending)) => {
                assert!(matches!(ending, Ending::Received { stored: Stored::Disk, .. }), "{ending:?}");
                return;
            }
            Some(Action::Bye { .. }) => sender.handle(now, Input::ByePut(Reply::status(503))),
            Some(_) => {}
            None => {
                assert!(now <= BYE, "no end");
                now = now.max(sender.deadline());
                sender.handle(now, Input::Tick);
            }
        }
    }
}

/// Returns a sender that serves an attempt from the start of its source.
fn serving(attempt: &Id) -> Sender {
    let mut sender = Sender::new(Id::random(), u64::MAX, Duration::from_hours(24), 7);
    let recipient = Identity::generate().recipient();
    let body = Body::Ask(Ask { attempt: attempt.clone(), offset: 0, recipient, transfer: None });
    sender.handle(Duration::ZERO, Input::Heard(Control { receiver: Id::random(), n: 1, body }));
    sender
}

/// Lets time pass until the sender sends another segment, which is made as large as it may be. Returns its number and its size.
fn next_segment(sender: &mut Sender, now: &mut Duration, attempt: &Id) -> (u64, u64) {
    loop {
        match sender.action() {
            Some(Action::Put { segment, limit, .. }) => {
                let made = Made { attempt: attempt.clone(), segment, data: limit, sealed: limit, end: None };
                sender.handle(*now, Input::Made(made));
                return (segment, limit);
            }
            Some(_) => {}
            None => {
                *now = (*now).max(sender.deadline());
                sender.handle(*now, Input::Tick);
            }
        }
    }
}

/// Returns the number and the limit of each segment, the first of which get these answers after so many bytes were sent.
fn segments_after(answers: &[(u64, Option<u16>)]) -> Vec<(u64, u64)> {
    let attempt = Id::random();
    let mut sender = serving(&attempt);
    let (mut now, mut segments, mut answers) = (Duration::ZERO, Vec::new(), answers.iter());
    loop {
        let (segment, limit) = next_segment(&mut sender, &mut now, &attempt);
        segments.push((segment, limit));
        let Some((bytes, status)) = answers.next() else { return segments };
        sender.handle(now, Input::Taken { attempt: attempt.clone(), segment, bytes: *bytes });
        let reply = status.map_or_else(|| Reply::Lost { why: "reset".into() }, Reply::status);
        sender.handle(now, Input::Put { attempt: attempt.clone(), segment, reply });
        if status.is_none() {
            // Nothing that was started behind it goes on.
            while sender.action().is_some() {}
        }
    }
}

#[test]
fn a_segment_that_the_receiver_may_have_is_repeated_so_small_that_it_does_not_keep_the_next_one_waiting() {
    const SMALLEST: u64 = 64 * 1024;
    const FIRST: u64 = 4 * SMALLEST;
    let (whole, lost, delivered) = (FIRST, None, Some(200));
    assert_eq!(segments_after(&[(0, lost)]), [(0, FIRST), (0, FIRST)], "it was not sent");
    assert_eq!(segments_after(&[(whole - 1, lost)]), [(0, FIRST), (0, FIRST)], "not all of it was sent");
    assert_eq!(segments_after(&[(whole, lost)]), [(0, FIRST), (0, SMALLEST)]);
    let again = segments_after(&[(whole, lost), (0, lost), (0, Some(429))]);
    assert_eq!(again[1..], [(0, SMALLEST); 3], "until it is known whether the receiver has it");
    // The small ones say nothing about whether large ones pass.
    let limited =
        segments_after(&[(whole, lost), (SMALLEST, delivered), (whole, lost), (SMALLEST, delivered)]);
    assert_eq!(limited[1..], [(0, SMALLEST), (1, FIRST), (1, SMALLEST), (2, FIRST / 2)]);
}

#[test]
fn a_segment_whose_answer_was_lost_does_not_hold_up_a_receiver_that_has_it() {
    let attempt = Id::random();
    let mut sender = serving(&attempt);
    let mut now = Duration::ZERO;
    let mut uploads = 0;
    loop {
        let (segment, limit) = next_segment(&mut sender, &mut now, &attempt);
        let mut answer = |segment, reply| {
            sender.handle(now, Input::Put { attempt: attempt.clone(), segment, reply });
        };
        uploads += 1;
        match (uploads, segment) {
            (1, 0) => answer(0, Reply::Lost { why: "reset".into() }),
            // All of it fits into the buffer of the connection, so the next one is sent too. Nobody gets this one again.
            (2, 0) => sender.handle(now, Input::Taken { attempt: attempt.clone(), segment, bytes: limit }),
            (3, 1) => {
                answer(1, Reply::status(200));
                now += WAIT;
                sender.handle(
                    now,
                    Input::Put { attempt: attempt.clone(), segment: 0, reply: Reply::status(503) },
                );
            }
            (4, 2) => return,
            other => panic!("{other:?} is sent to a receiver that has it"),
        }
    }
}

#[test]
fn an_interrupted_sender_wakes_a_waiting_receiver_also_if_the_relay_still_holds_the_segment_that_was_cut() {
    let attempt = Id::random();
    let mut sender = serving(&attempt);
    let mut now = Duration::ZERO;
    next_segment(&mut sender, &mut now, &attempt);
    sender.handle(now, Input::Stop);
    let (mut first, mut second, mut end) = (0, 0, None);
    while end.is_none() {
        match sender.action() {
            Some(Action::Nudge { attempt, segment }) => {
                // The first is in conflict with the cut segment three times; nobody comes for the second.
                let count = if segment == 0 { &mut first } else { &mut second };
                *count += 1;
                let code = if segment > 0 {
                    503
                } else if first <= 3 {
                    409
                } else {
                    200
                };
                sender.handle(now, Input::Nudged { attempt, segment, reply: Reply::status(code) });
            }
            Some(Action::End(ending)) => end = Some(ending),
            Some(_) => {}
            None => {
                now = now.max(sender.deadline());
                sender.handle(now, Input::Tick);
            }
        }
    }
    assert_eq!((first, end), (4, Some(Ending::Interrupted)));
    assert!((2..40).contains(&second), "{second} requests within {REFUSE_INTERRUPTED:?}");
}
