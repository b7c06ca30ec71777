//! The exchanges of a soak: a random mix. Pure: the same seed gives the same exchanges.

use fastrand::Rng;

/// The protocol and transport of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speech {
    pub(crate) is_tls: bool,
    pub(crate) is_http2: bool,
}

/// The body of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) bytes: u64,
    /// Whether it has a Content-Length.
    pub(crate) is_declared: bool,
}

/// The course of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// The whole body arrives.
    Delivered,
    /// The source is killed inside its body.
    SourceKilled,
    /// The destination is killed inside the body.
    DestinationKilled,
    /// A side waits and leaves.
    Abandoned,
    /// A side waits until the stream has expired.
    Expired,
    /// A side waits and gets a reported error.
    Reported,
    /// An invalid request.
    Broken,
}

/// One exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) course: Course,
    pub(crate) source: Speech,
    pub(crate) destination: Speech,
    pub(crate) upload: Upload,
}

/// One exchange in this number fails as planned.
const FAILS: u32 = 20;
const FAILURES: [Course; 6] = [
    Course::SourceKilled,
    Course::DestinationKilled,
    Course::Abandoned,
    Course::Expired,
    Course::Reported,
    Course::Broken,
];
/// More than the kernel buffers between the two sides, so that a killed side is inside its body.
const KILLED_BYTES: u64 = 32 << 20;

impl Exchange {
    pub(crate) fn by_chance(chance: &mut Rng) -> Self {
        let course = if chance.u32(..FAILS) == 0 {
            chance.choice(FAILURES).unwrap_or(Course::Broken)
        } else {
            Course::Delivered
        };
        let bytes = match course {
            Course::SourceKilled | Course::DestinationKilled => KILLED_BYTES,
            // Most bodies are small, and most bytes are in the large ones.
            _ => match chance.u32(..16) {
                0 => 0,
                1..=11 => chance.u64(1..4 << 10),
                12..=14 => chance.u64(4 << 10..256 << 10),
                _ => chance.u64(256 << 10..8 << 20),
            },
        };
        let speech = |chance: &mut Rng| Speech { is_tls: chance.bool(), is_http2: chance.bool() };
        let (source, destination) = (speech(chance), speech(chance));
        Self { course, source, destination, upload: Upload { bytes, is_declared: chance.bool() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_all_that_there_is_and_one_in_twenty_fails() {
        let exchanges = |seed| {
            let mut chance = Rng::with_seed(seed);
            (0..20_000).map(|_| Exchange::by_chance(&mut chance)).collect::<Vec<_>>()
        };
        let all = exchanges(1);
        assert_eq!(all, exchanges(1));
        assert_ne!(all, exchanges(2));
        let of = |course| all.iter().filter(|exchange| exchange.course == course).count();
        let failed = all.len() - of(Course::Delivered);
        assert!((900..1100).contains(&failed), "{failed}");
        assert!(FAILURES.iter().all(|course| of(*course) > 100));
        for is_tls in [false, true] {
            for is_http2 in [false, true] {
                let speech = Speech { is_tls, is_http2 };
                assert!(all.iter().any(|exchange| exchange.source == speech));
                assert!(all.iter().any(|exchange| exchange.destination == speech));
            }
        }
        assert!(all.iter().any(|exchange| exchange.upload.bytes == 0));
        assert!(all.iter().any(|exchange| exchange.upload.is_declared));
        assert!(all.iter().any(|exchange| !exchange.upload.is_declared));
    }
}
