//! What a receiver does about a relay of no use.

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn receiver() -> Receiver {
    Receiver::new(Start {
        id: ReceiverId { name: Id::random(), run: 0 },
        recipient: "age1".into(),
        give_up: Duration::from_hours(24),
        passes_on: false,
        resumed: None,
        seed: 7,
    })
}

/// Runs a receiver whose messages and GETs get these replies at once. Returns the number of requests, and how it ended.
fn requests_within(time: Duration, told: &Reply, got: &Reply) -> (u32, Vec<String>, Option<Ending>) {
    let (mut receiver, mut requests, mut cuts, mut now) = (receiver(), 0, Vec::new(), Duration::ZERO);
    while now < time {
        match receiver.action() {
            Some(Action::Tell(_)) => {
                requests += 1;
                receiver.handle(now, Input::Told(told.clone()));
            }
            Some(Action::Get { segment, .. }) => {
                requests += 1;
                receiver.handle(now, Input::Got { segment, reply: got.clone() });
            }
            Some(Action::Close) => receiver.handle(now, Input::Closed),
            Some(Action::Event(ReceiveEvent::Cut { why })) => cuts.push(why),
            Some(Action::End(ending)) => return (requests, cuts, Some(ending)),
            Some(other) => panic!("{other:?}"),
            None => {
                now = now.max(receiver.deadline());
                receiver.handle(now, Input::Tick);
            }
        }
    }
    (requests, cuts, None)
}

#[test]
fn a_relay_that_does_not_wait_is_asked_about_once_a_second_and_people_are_told() {
    let ok = Reply::status(200);
    for code in [503, 504] {
        let at_once = Reply::status(code);
        for (told, got) in [(&at_once, &ok), (&ok, &at_once)] {
            let (requests, cuts, ending) = requests_within(MINUTE, told, got);
            assert!((10..90).contains(&requests), "{requests} requests after {told:?}, {got:?}");
            assert!(!cuts.is_empty() && ending.is_none(), "{cuts:?} {ending:?}");
        }
    }
    let later = Reply::Status { code: 503, retry_after: Some(Duration::from_secs(10)) };
    let (requests, ..) = requests_within(MINUTE, &later, &ok);
    assert!(requests <= 7, "{requests} requests in spite of Retry-After");
}

#[test]
fn what_is_no_relay_ends_it_at_the_first_request() {
    for code in [301, 400, 405] {
        let reply = Reply::status(code);
        let (requests, _, ending) = requests_within(MINUTE, &reply, &reply);
        assert_eq!((requests, ending), (1, Some(Ending::Unusable { verdict: Verdict::Foreign(code) })));
    }
}
