//! What a source gives, and when.

use std::time::Duration;

/// A silent source ends its segment after this, as in `sending::maker`.
const SILENT: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A source that gives all its bytes at once, or in bursts.
pub(super) struct Bursts {
    pub(super) size: u64,
    /// When the source has given up to which offset, in this order. The end is known with the last.
    given: Vec<(Duration, u64)>,
}

/// What the maker of segments does now.
pub(super) enum Step {
    /// Sends so many bytes, with the end or without.
    Send { data: u64, is_end: bool },
    /// Looks again then.
    Wait(Duration),
}

impl Bursts {
    pub(super) fn at_once(size: u64) -> Self {
        Self { size, given: vec![(Duration::ZERO, size)] }
    }

    /// A pipe of few bursts, with up to two minutes of silence between them.
    pub(super) fn silent(random: &mut fastrand::Rng) -> Self {
        let (mut at, mut offset) = (Duration::ZERO, 0);
        let mut given = Vec::new();
        for _ in 0..random.u32(1..12) {
            given.push((at, offset));
            at += Duration::from_millis(if random.bool() {
                random.u64(0..3000)
            } else {
                random.u64(0..120_000)
            });
            offset += random.u64(0..500_000);
        }
        given.push((at, offset));
        Self { size: offset, given }
    }

    /// Decides about a segment that was begun at `since`.
    pub(super) fn step(
        &self,
        now: Duration,
        since: Duration,
        is_first: bool,
        offset: u64,
        limit: u64,
    ) -> Step {
        let come = self.given.iter().rev().find(|(at, _)| *at <= now);
        let (last_at, available) = come.copied().unwrap_or_default();
        let next_at = self.given.iter().map(|(at, _)| *at).find(|at| *at > now);
        let data = limit.min(available.saturating_sub(offset));
        let is_end = next_at.is_none() && offset + data == self.size;
        let patience_ends = if data > 0 {
            (last_at.max(since) + SILENT).min(since + SLOW)
        } else {
            since + if is_first { SILENT } else { KEEP_ALIVE }
        };
        match next_at {
            Some(next_at) if data < limit && now < patience_ends => Step::Wait(patience_ends.min(next_at)),
            _ => Step::Send { data, is_end },
        }
    }
}
