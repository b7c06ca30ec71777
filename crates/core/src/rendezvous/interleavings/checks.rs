//! The invariants of a stream, checked after all threads of a case have ended.

use rendezvous_protocol::{Side, StreamKind};

use super::super::*;
use super::fixture::{ActionResult, Attempt, BODY, End, Fixture, Published};
use super::observed;
use crate::outcome::Fault;

impl Fixture {
    /// Checks all invariants. Returns the results that were [`observed`].
    pub(super) fn check(self, results: &[ActionResult]) -> u32 {
        // An ended stream is forgotten by the second expiry at the latest.
        self.expire();
        self.expire();
        let table = self.rendezvous.table.lock();
        assert!(table.is_empty());
        drop(table);
        assert_eq!(Arc::strong_count(&self.rendezvous), 1, "a reference to the table is left");
        assert_eq!(Arc::strong_count(&self.bodies), 1, "a body was not dropped");

        let counted = usize::try_from(self.rendezvous.body_bytes()).unwrap();
        let published = &*self.published;
        let attempts: Vec<_> = results.iter().filter_map(ActionResult::attempt).collect();
        let all = match self.kind() {
            StreamKind::Created => {
                check_transfer(&attempts, published, counted);
                check_report(results, &attempts, published);
                let ends = published.count(|change| matches!(change, Change::Ended { .. }));
                assert_eq!(ends, 1, "a stream ends once");
                0
            }
            StreamKind::Path => check_transfers(&attempts, published),
        };
        all | attempts.iter().fold(0, |all, attempt| all | check_attempt(attempt, &attempts, published))
    }
}

/// A stream pairs at most once. Both sides get the same outcome, and the destination gets the bytes of the source that it
/// was paired with.
fn check_transfer(attempts: &[&Attempt], published: &Published, counted: usize) {
    let pairings = published.count(|change| matches!(change, Change::Paired { .. }));
    assert!(pairings <= 1, "a stream pairs at most once");
    let transfers = published.count(|change| matches!(change, Change::Ended { duration: Some(_), .. }));
    assert_eq!(transfers, pairings);
    let transferred = |of: Side| {
        let mut ends = attempts.iter().filter_map(move |attempt| match &attempt.end {
            End::Transferred { outcome, received, whole } if attempt.side == of => {
                Some((attempt.tag, outcome, received, *whole))
            }
            _ => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "two of the same side were paired");
        end
    };
    let (source, destination) = (transferred(Side::Source), transferred(Side::Destination));
    for (_, outcome, ..) in source.iter().chain(&destination) {
        assert_eq!(pairings, 1);
        assert_eq!(published.ended(outcome.name()), 1, "{outcome}: the table has another outcome");
    }
    let nothing = Vec::new();
    let received = destination.map_or(&nothing, |(_, _, received, _)| received);
    // Bytes passed on between a failure and its detection are not counted.
    assert!(counted <= received.len(), "{counted} bytes were counted, and {} received", received.len());
    let Some((_, outcome, received, whole)) = destination else { return };
    if *outcome == Outcome::Finished {
        assert!(whole && counted == BODY, "the outcome is finished, and {counted} bytes were counted");
    }
    if whole {
        assert_eq!(received.len(), BODY);
        assert_ne!(*outcome, Outcome::Failed(Fault::DestinationDisconnected), "it was delivered");
    }
    if let Some(tag) = received.first() {
        assert!(received.iter().all(|byte| byte == tag), "two bodies were mixed");
        let sender =
            attempts.iter().find(|attempt| attempt.side == Side::Source && attempt.tag == *tag).unwrap();
        assert!(
            !matches!(sender.end, End::Left { unpaired: true } | End::Refused(_)),
            "the bytes are of a source that had left: {sender:?}"
        );
        assert!(source.is_none_or(|(paired, ..)| paired == *tag), "the bytes are not of the paired source");
    }
}

/// Each transfer at a path has one source and one destination, which get the same outcome, and the bytes of the source.
fn check_transfers(attempts: &[&Attempt], published: &Published) -> u32 {
    let pairings = published.count(|change| matches!(change, Change::Paired { .. }));
    let transfers = published.count(|change| matches!(change, Change::Ended { duration: Some(_), .. }));
    assert_eq!(transfers, pairings, "each transfer ends once");
    let finished = |side: Side| {
        let ends = attempts.iter().filter(|attempt| attempt.side == side).map(|attempt| &attempt.end);
        ends.filter(|end| matches!(end, End::Transferred { outcome: Outcome::Finished, .. })).count()
    };
    let count = finished(Side::Destination);
    assert_eq!(published.ended("finished"), count);
    // A source may have left behind its body.
    assert!(finished(Side::Source) <= count);
    let mut senders = Vec::new();
    for attempt in attempts {
        let End::Transferred { outcome, received, whole } = &attempt.end else { continue };
        assert!(*outcome != Outcome::Finished || attempt.side == Side::Source || *whole);
        assert!(!whole || received.len() == BODY, "a body is not whole");
        let Some(tag) = received.first() else { continue };
        assert!(received.iter().all(|byte| byte == tag), "two bodies were mixed");
        assert!(!senders.contains(tag), "two destinations have bytes of one source");
        senders.push(*tag);
        let is_sender = |other: &&&Attempt| other.side == Side::Source && other.tag == *tag;
        let sender = attempts.iter().find(is_sender).unwrap();
        match &sender.end {
            End::Transferred { outcome: of_sender, .. } => assert_eq!(of_sender, outcome),
            End::Left { unpaired: false } => {}
            end => panic!("the bytes are of a source that was not paired: {end:?}"),
        }
    }
    if count > 1 { observed::TWO_FINISHED } else { 0 }
}

/// At most one report is accepted, and at most one side receives it.
fn check_report(results: &[ActionResult], attempts: &[&Attempt], published: &Published) {
    let reports = results.iter().filter_map(|result| match result {
        ActionResult::Reported(result) => Some(result),
        _ => None,
    });
    let accepted = reports.filter(|result| result.is_ok()).count();
    let is_report = |attempt: &&&Attempt| matches!(attempt.end, End::Refused(SeatError::Reported(_)));
    let received = attempts.iter().filter(is_report).count();
    assert!(received <= accepted && accepted <= 1, "{received} received of {accepted} reports");
    assert_eq!(published.ended("reported"), accepted);
}

/// A refusal has its cause. Returns the results that were [`observed`].
fn check_attempt(attempt: &Attempt, attempts: &[&Attempt], published: &Published) -> u32 {
    match &attempt.end {
        End::Refused(SeatError::AlreadyConnected(side)) => {
            assert_eq!((*side, attempt.seated), (attempt.side, false));
            let had_seat = |other: &&&Attempt| other.side == attempt.side && other.seated;
            assert!(attempts.iter().any(|other| had_seat(&other)), "the seat was never taken");
            observed::SEAT_TAKEN
        }
        End::Refused(SeatError::Expired) => {
            assert!(attempt.seated);
            assert!(published.ended("expired") >= 1);
            observed::EXPIRED
        }
        End::Refused(SeatError::PeerNotConnected { seconds: 1 }) => {
            assert!(attempt.seated);
            assert!(published.count(|change| *change == Change::Left(attempt.side)) >= 1);
            observed::WAIT_ENDED
        }
        End::Refused(SeatError::Reported(_)) => observed::REPORT_RECEIVED,
        End::Refused(SeatError::ShuttingDown) => observed::SHUT_DOWN,
        End::Refused(SeatError::NotFound) => {
            assert!(!attempt.seated, "a waiting side must receive why its wait ended");
            0
        }
        End::Refused(refusal) => panic!("{refusal:?} cannot occur here"),
        End::Left { unpaired: true } => observed::LEFT_UNPAIRED,
        End::Left { unpaired: false } => observed::LEFT_PAIRED,
        End::Transferred { outcome: Outcome::Finished, .. } => observed::FINISHED,
        End::Transferred { .. } => observed::FAILED,
    }
}
