//! How many bytes of data the next segment has.
//!
//! Small segments pass proxies that limit bodies or times; large ones cost fewer requests. So the size follows what was seen.

use std::time::Duration;

/// Limits of the protocol, in bytes of data.
pub(super) const SMALLEST: u64 = 64 * 1024;
const FIRST: u64 = 256 * 1024;
const LARGEST: u64 = 64 * 1024 * 1024;

/// Two segments faster than this double the size.
const FAST: Duration = Duration::from_secs(1);
/// One segment slower than this halves it.
const SLOW: Duration = Duration::from_secs(8);

/// The size of segments, and the limit that failures have set.
#[derive(Debug)]
pub(crate) struct SegmentSize {
    size: u64,
    limit: u64,
    /// Whether the segment before was fast.
    fast_before: bool,
    /// The size at which the last request failed without a status.
    failed_at: Option<u64>,
}

impl SegmentSize {
    /// Starts at 256 KiB, with a limit that may be lower than the protocol's.
    pub(crate) fn new(limit: u64) -> Self {
        let limit = limit.clamp(SMALLEST, LARGEST);
        Self { size: FIRST.min(limit), limit, fast_before: false, failed_at: None }
    }

    /// Returns the size of the next segment.
    pub(crate) fn get(&self) -> u64 {
        self.size
    }

    /// A segment of the full size was delivered within this time.
    pub(crate) fn delivered(&mut self, took: Duration) {
        self.failed_at = None;
        if took > SLOW {
            self.set(self.size / 2);
        } else if took >= FAST {
            self.fast_before = false;
        } else if self.fast_before {
            self.set(self.size.saturating_mul(2));
        } else {
            self.fast_before = true;
        }
    }

    /// A segment was cut: the status tells so.
    pub(crate) fn cut(&mut self) {
        self.set(self.size / 2);
    }

    /// A segment with this much data failed without a status. Perhaps something between limits the size of bodies.
    pub(crate) fn failed(&mut self, data: u64) {
        if data <= SMALLEST {
            return;
        }
        if self.failed_at == Some(data) {
            self.too_large(data);
        } else {
            self.failed_at = Some(data);
            self.fast_before = false;
        }
    }

    /// 413: for this run, segments have at most half as much data.
    pub(crate) fn too_large(&mut self, data: u64) {
        self.failed_at = None;
        self.limit = (data / 2).clamp(SMALLEST, self.limit);
        self.set(self.size.min(self.limit));
    }

    fn set(&mut self, size: u64) {
        self.size = size.clamp(SMALLEST, self.limit);
        self.fast_before = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const QUICK: Duration = Duration::from_millis(900);

    #[test]
    fn two_fast_segments_double_the_size_up_to_64_mib() {
        let mut size = SegmentSize::new(u64::MAX);
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(size.get());
            size.delivered(QUICK);
        }
        assert_eq!(seen[..6], [MIB / 4, MIB / 4, MIB / 2, MIB / 2, MIB, MIB]);
        assert_eq!(size.get(), 64 * MIB);
    }

    #[test]
    fn a_slow_or_cut_segment_halves_it_down_to_64_kib() {
        let mut size = SegmentSize::new(u64::MAX);
        size.delivered(Duration::from_secs(9));
        assert_eq!(size.get(), MIB / 8);
        size.delivered(QUICK);
        size.delivered(Duration::from_secs(3));
        size.delivered(QUICK);
        assert_eq!(size.get(), MIB / 8, "one fast segment is not enough");
        for _ in 0..5 {
            size.cut();
        }
        assert_eq!(size.get(), SMALLEST);
    }

    #[test]
    fn after_413_or_two_failures_at_one_size_the_limit_is_half_of_it() {
        let mut size = SegmentSize::new(u64::MAX);
        size.too_large(2 * MIB);
        for _ in 0..20 {
            size.delivered(QUICK);
        }
        assert_eq!(size.get(), MIB);
        size.failed(MIB);
        assert_eq!(size.get(), MIB, "one failure may be the network's");
        size.failed(MIB);
        for _ in 0..20 {
            size.delivered(QUICK);
        }
        assert_eq!(size.get(), MIB / 2);
        size.too_large(SMALLEST);
        assert_eq!(size.get(), SMALLEST);
    }
}
