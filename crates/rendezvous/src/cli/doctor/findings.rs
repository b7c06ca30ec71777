//! What the observations of the probes mean. Pure.

use std::time::Duration;

use super::mend::Mend;
use super::probes::{Access, Arrival, BodyLimit, Identity, Idle, Interim, LARGEST_BODY};
use super::wire::Handshake;
use crate::cli::transfer::text::{size, time};

/// A clock that differs by more seconds than this is a fault.
const CLOCK_FAULT: u64 = 60;
/// A difference that the network and whole seconds explain.
const CLOCK_EQUAL: u64 = 3;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// Worth knowing, and no fault.
    Note,
    Fault,
    /// The probe could not be made.
    Unknown,
}

impl Verdict {
    /// The word in the report.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Fault => "fault",
            Self::Unknown => "unknown",
        }
    }
}

/// The result of one check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) text: String,
    pub(super) mend: Option<Mend>,
}

impl Finding {
    pub(super) fn new(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { check, verdict, text: text.into(), mend: None }
    }

    fn fault(check: &'static str, text: impl Into<String>, mend: Mend) -> Self {
        Self { mend: Some(mend), ..Self::new(check, Verdict::Fault, text) }
    }

    /// The finding of a probe that failed.
    pub(super) fn unknown(check: &'static str, error: &anyhow::Error) -> Self {
        Self::new(check, Verdict::Unknown, format!("could not be measured: {error:#}"))
    }
}

pub(super) fn version(identity: &Identity) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match &identity.version {
        Some(version) if version == ours => {
            Finding::new("version", Verdict::Good, format!("{version}, the same as this program's"))
        }
        Some(version) => {
            Finding::new("version", Verdict::Note, format!("{version}; this program's is {ours}"))
        }
        None => {
            let text = format!(
                "this is no http-rendezvous relay: /openapi.json gets status {}. Check the URL",
                identity.status
            );
            Finding::new("version", Verdict::Fault, text)
        }
    }
}

pub(super) fn tls(handshake: Option<&Handshake>, is_loopback: bool) -> Finding {
    match handshake {
        Some(Handshake { version, .. }) => Finding::new(
            "TLS",
            Verdict::Good,
            format!("{version}, with a certificate that this machine trusts"),
        ),
        None if is_loopback => Finding::new("TLS", Verdict::Good, "none, and none is needed on this machine"),
        None => Finding::new(
            "TLS",
            Verdict::Fault,
            "none: tokens, names of paths and everything that is not sent by `rendezvous send` can be read on the way. \
             Give the proxy a certificate, or the relay --tls-cert and --tls-key",
        ),
    }
}

pub(super) fn http2(handshake: Option<&Handshake>) -> Finding {
    match handshake {
        Some(Handshake { offers_http2: true, .. }) => Finding::new("HTTP/2", Verdict::Good, "offered"),
        Some(_) => {
            Finding::new("HTTP/2", Verdict::Note, "not offered: clients use HTTP/1.1, which is no fault")
        }
        None => Finding::new(
            "HTTP/2",
            Verdict::Note,
            "not offered without TLS: clients use HTTP/1.1, which is no fault",
        ),
    }
}

pub(super) fn access(access: &Access) -> Finding {
    let (verdict, text) = match access {
        Access::Open => (Verdict::Good, "named paths can be used".to_owned()),
        Access::TokenNeeded => {
            (Verdict::Fault, "a token is needed: give its file with --token-file".to_owned())
        }
        Access::TokenRefused => {
            (Verdict::Fault, "the token was refused: ask the operator for the right one".to_owned())
        }
        Access::NoPaths => {
            (Verdict::Fault, "named paths are off: start the relay without --no-paths".to_owned())
        }
        Access::Other(answer) => {
            (Verdict::Fault, format!("a named path gets an unexpected answer: {answer}"))
        }
    };
    Finding::new("paths", verdict, text)
}

pub(super) fn uploads(with_length: Arrival, chunked: Arrival) -> Finding {
    let worst = [with_length, chunked].into_iter().max_by_key(|arrival| match arrival {
        Arrival::Live => 0,
        Arrival::Filled => 1,
        Arrival::End => 2,
        Arrival::Never => 3,
    });
    let which = match (with_length == Arrival::Live, chunked == Arrival::Live) {
        (true, false) => " in chunks",
        (false, true) => " with a length",
        _ => "",
    };
    match worst {
        None | Some(Arrival::Live) => {
            Finding::new("uploads", Verdict::Good, "live: each byte arrives before the next is sent")
        }
        Some(Arrival::Filled) => Finding::fault(
            "uploads",
            format!("buffered: a body{which} is held until some ten KiB of it are there"),
            Mend::Buffering,
        ),
        Some(Arrival::End) => Finding::fault(
            "uploads",
            format!("buffered: a body{which} is held until its end, so nothing is live"),
            Mend::Buffering,
        ),
        Some(Arrival::Never) => {
            Finding::fault("uploads", format!("a body{which} does not arrive at all"), Mend::Buffering)
        }
    }
}

pub(super) fn body(limit: &BodyLimit) -> Finding {
    match limit {
        BodyLimit { refused: Some((refused, true)), .. } => Finding::new(
            "body",
            Verdict::Note,
            format!("{} are refused by the relay's own --max-stream-bytes", size(*refused)),
        ),
        BodyLimit { accepted, refused: Some((refused, false)), .. } => {
            let accepted = match accepted {
                0 => String::new(),
                accepted => format!(", while {} are accepted", size(*accepted)),
            };
            Finding::fault(
                "body",
                format!(
                    "limited: {} get 413{accepted}. send makes do with it, other uploads fail",
                    size(*refused)
                ),
                Mend::BodyLimit,
            )
        }
        BodyLimit { failed: Some(failed), .. } => {
            Finding::fault("body", format!("a body of 2 MiB failed: {failed}"), Mend::BodyLimit)
        }
        BodyLimit { .. } => {
            Finding::new("body", Verdict::Good, format!("{} in one request", size(LARGEST_BODY)))
        }
    }
}

/// `waited` is the time of the probes. `pausing` is an error if a transfer could not be begun.
pub(super) fn idle(waiting: &Idle, pausing: &anyhow::Result<Idle>, waited: Duration) -> Finding {
    let exact = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
    let advice = "more than the relay's own limits is right";
    match (waiting, pausing) {
        (Idle::Cut(after, how), _) => Finding::fault(
            "idle",
            format!("a receiver that waits is cut after {} ({how}): {advice}", exact(after)),
            Mend::IdleLimit,
        ),
        (_, Ok(Idle::Cut(after, how))) => Finding::fault(
            "idle",
            format!("a transfer that pauses is cut after {} ({how}): {advice}", exact(after)),
            Mend::IdleLimit,
        ),
        (Idle::Ttl(after), _) => Finding::new(
            "idle",
            Verdict::Note,
            format!(
                "the relay's own --ttl ends a wait after {}: longer ones were not measured",
                exact(after)
            ),
        ),
        (Idle::Kept, Err(error)) => Finding::new(
            "idle",
            Verdict::Note,
            format!(
                "a wait of {} is not cut; a pause within a transfer was not measured: {error:#}",
                time(waited)
            ),
        ),
        (Idle::Kept, Ok(_)) => Finding::new(
            "idle",
            Verdict::Good,
            format!("neither a wait nor a pause of {} is cut; longer ones were not measured", time(waited)),
        ),
    }
}

pub(super) fn interim(interim: Interim) -> Finding {
    match interim {
        Interim::Paired => {
            Finding::new("interim", Verdict::Good, "100 Continue comes once the receiver is there")
        }
        Interim::Early => Finding::new(
            "interim",
            Verdict::Note,
            "a proxy sends 100 Continue itself, before the receiver is there",
        ),
        Interim::Dropped => Finding::fault(
            "interim",
            "100 Continue is dropped: curl waits a second before each upload, and other clients for ever",
            Mend::Interim,
        ),
    }
}

pub(super) fn departure(is_free: Option<bool>) -> Finding {
    match is_free {
        Some(true) => Finding::new("seats", Verdict::Good, "a receiver that leaves frees its seat"),
        Some(false) => Finding::fault(
            "seats",
            "a receiver that has left keeps its seat: others get 429, and a sender gets 200 for data that nobody has",
            Mend::Departure,
        ),
        None => Finding::new(
            "seats",
            Verdict::Unknown,
            "could not be measured: HEAD did not see a waiting receiver",
        ),
    }
}

pub(super) fn clock(ahead: Option<i64>) -> Finding {
    let Some(ahead) = ahead else {
        return Finding::new("clock", Verdict::Unknown, "the response has no Date");
    };
    let seconds = ahead.unsigned_abs();
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    match seconds {
        0..=CLOCK_EQUAL => Finding::new("clock", Verdict::Good, "the same as ours"),
        _ if seconds <= CLOCK_FAULT => {
            Finding::new("clock", Verdict::Note, format!("{seconds} s {way} ours"))
        }
        _ => Finding::new(
            "clock",
            Verdict::Fault,
            format!(
                "{} {way} ours: set the wrong one by NTP (timedatectl set-ntp true). Transfers do not need it, \
                 certificates and logs do",
                time(Duration::from_secs(seconds))
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn verdict(finding: &Finding) -> (Verdict, Option<Mend>) {
        (finding.verdict, finding.mend)
    }

    const GOOD: (Verdict, Option<Mend>) = (Verdict::Good, None);
    const NOTE: (Verdict, Option<Mend>) = (Verdict::Note, None);

    #[test]
    fn an_upload_is_good_only_if_it_is_live_in_both_framings() {
        use Arrival::{End, Filled, Live, Never};
        let buffered = (Verdict::Fault, Some(Mend::Buffering));
        for (with_length, chunked, expected, part) in [
            (Live, Live, GOOD, "live"),
            (Live, End, buffered, "a body in chunks is held until its end"),
            (Filled, Live, buffered, "a body with a length is held until some ten KiB"),
            (End, Never, buffered, "a body does not arrive"),
        ] {
            let finding = uploads(with_length, chunked);
            assert_eq!(verdict(&finding), expected);
            assert!(finding.text.contains(part), "{}", finding.text);
        }
    }

    #[test]
    fn a_limit_of_the_relay_is_told_apart_from_that_of_a_proxy() {
        let limit = |accepted, refused| BodyLimit { accepted, refused, failed: None };
        assert_eq!(verdict(&body(&limit(LARGEST_BODY, None))), GOOD);
        assert_eq!(verdict(&body(&limit(0, Some((1 << 20, true))))), NOTE);
        let finding = body(&limit(1 << 20, Some((2 << 20, false))));
        assert_eq!(verdict(&finding), (Verdict::Fault, Some(Mend::BodyLimit)));
        assert!(finding.text.contains("2.0 MiB get 413, while 1.0 MiB are accepted"), "{}", finding.text);
        let failed = BodyLimit { failed: Some("status 502".into()), ..limit(LARGEST_BODY, None) };
        assert_eq!(verdict(&body(&failed)), (Verdict::Fault, Some(Mend::BodyLimit)));
    }

    #[test]
    fn an_idle_limit_is_a_fault_unless_it_is_the_relays() {
        let second = Duration::from_secs(1);
        let cut = || Idle::Cut(second * 2, "closed".into());
        let fault = (Verdict::Fault, Some(Mend::IdleLimit));
        for (waiting, pausing, expected) in [
            (Idle::Kept, Ok(Idle::Kept), GOOD),
            (Idle::Kept, Err(anyhow!("uploads are not live")), NOTE),
            (Idle::Ttl(second), Ok(Idle::Kept), NOTE),
            (cut(), Err(anyhow!("uploads are not live")), fault),
            (Idle::Kept, Ok(cut()), fault),
        ] {
            assert_eq!(verdict(&idle(&waiting, &pausing, second)), expected, "{waiting:?}");
        }
        assert!(idle(&cut(), &Ok(Idle::Kept), second).text.contains("cut after 2.0 s (closed)"));
    }

    #[test]
    fn a_clock_may_be_some_seconds_off() {
        for (ahead, expected) in [
            (0, Verdict::Good),
            (-3, Verdict::Good),
            (10, Verdict::Note),
            (-61, Verdict::Fault),
            (3600, Verdict::Fault),
        ] {
            assert_eq!(clock(Some(ahead)).verdict, expected, "{ahead}");
        }
        assert!(clock(Some(-61)).text.starts_with("1 min 1 s behind ours"));
    }

    #[test]
    fn no_tls_is_a_fault_beyond_this_machine() {
        assert_eq!(tls(None, true).verdict, Verdict::Good);
        assert_eq!(tls(None, false).verdict, Verdict::Fault);
    }
}
