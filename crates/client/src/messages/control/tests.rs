//! What is taken and what is refused, of control messages and heads.

use super::*;
use crate::destination::Complete;
use crate::messages::{Head, Refused, SegmentHead};
use crate::receive::Refusal;
use crate::source::{Description, Kind};

const KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const ID: &str = "0123456789abcdefghijklmnop";

fn id() -> Id {
    ID.parse().unwrap()
}

fn ask() -> String {
    format!(
        r#"{{"v":1,"type":"ask","attempt":"{ID}","offset":5,"recipient":"{KEY}","receiver":"{ID}","n":3,"later":[{{"a":1}}]}}"#
    )
}

#[test]
fn messages_are_read_back_as_they_were_written() {
    let digest = [7; 32].into();
    let bodies = [
        Body::Ask(Ask { attempt: id(), offset: 0, recipient: KEY.into(), transfer: None }),
        Body::Ask(Ask { attempt: id(), offset: INTEGER_MAX, recipient: KEY.into(), transfer: Some(id()) }),
        Body::Done(Done { attempt: id(), transfer: id(), bytes: 9, sha256: digest, stored: Stored::Handed }),
        Body::Failed(Failed {
            attempt: id(),
            transfer: id(),
            reason: Failure::NoSpace,
            message: "full".into(),
        }),
    ];
    for body in bodies {
        let message = Control { receiver: id(), n: 1, body };
        assert_eq!(Control::parse(&message.to_json()), Ok(message));
    }
    let description = Description {
        kind: Kind::Tar,
        name: "holiday\n/".into(),
        size: Some(12),
        mtime: Some(-1),
        mode: Some(0o644),
    };
    let segment = SegmentHead {
        transfer: id(),
        attempt: id(),
        segment: 0,
        offset: 12,
        description: Some(description),
        end: Some(Complete { bytes: 12, sha256: digest }),
        error: None,
    };
    let error = Some((Refused::ForGood(Refusal::Gone), "too far back".into()));
    let refusal = SegmentHead { description: None, end: None, error, ..segment.clone() };
    for head in [Head::Segment(Box::new(segment)), Head::Segment(Box::new(refusal)), Head::Bye] {
        assert_eq!(Head::parse(&head.to_json()), Ok(head));
    }
}

const INTEGER_MAX: u64 = (1 << 53) - 1;

#[test]
fn unknown_fields_are_ignored_and_all_else_is_strict() {
    assert!(Control::parse(ask().as_bytes()).is_ok());
    let long = "1".repeat(27);
    for (from, to) in [
        ("\"v\":1", "\"v\":2"),
        ("\"v\":1", "\"v\":1,\"v\":1"),
        ("\"a\":1", "\"a\":1,\"a\":2"),
        ("\"ask\"", "\"other\""),
        ("\"offset\":5", "\"offset\":-1"),
        ("\"offset\":5", "\"offset\":5.0"),
        ("\"offset\":5", "\"offset\":\"5\""),
        ("\"offset\":5", "\"offset\":9007199254740992"),
        ("\"offset\":5,", ""),
        ("0123456789abcdefghijklmnop", "../456789abcdefghijklmnop"),
        ("0123456789abcdefghijklmnop", long.as_str()),
        ("age1t7", "age1t8"),
        ("{\"v\"", "\u{feff}{\"v\""),
        ("]}", "]}}"),
    ] {
        let bad = ask().replace(from, to);
        assert_ne!(bad, ask(), "{from} stands in the message");
        assert!(Control::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(Control::parse(b"[]"), Err(InvalidMessage::Json));
    assert_eq!(Control::parse(&vec![b'['; 32 * 1024]), Err(InvalidMessage::Json), "deep nesting");
}

#[test]
fn a_message_of_the_peer_has_no_controls_and_is_short() {
    let hostile = format!("\u{1b}[31mred\u{202e}dlrow{}", "x".repeat(5000));
    let shown = printable(&hostile);
    assert!(shown.starts_with("[31mreddlrow"), "{shown}");
    assert!(shown.len() <= 1000);
}
