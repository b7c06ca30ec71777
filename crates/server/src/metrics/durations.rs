//! A histogram of durations that needs no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A histogram of durations, made of atomics. The one of the library takes a lock for each observation.
#[derive(Debug, Clone)]
pub(super) struct Durations(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Upper bounds in seconds in ascending order, each with the count of durations above the bound before it.
    bounded: Vec<(f64, AtomicU64)>,
    /// Durations above the last bound.
    beyond: AtomicU64,
    /// The sum. Nanoseconds might overflow 64 bits within the life of a server.
    microseconds: AtomicU64,
}

impl Durations {
    pub(super) fn new(bounds: &[f64]) -> Self {
        let bounded = bounds.iter().map(|bound| (*bound, AtomicU64::default())).collect();
        Self(Arc::new(Buckets { bounded, beyond: AtomicU64::default(), microseconds: AtomicU64::default() }))
    }

    pub(super) fn observe(&self, duration: Duration) {
        let Buckets { bounded, beyond, microseconds } = &*self.0;
        let seconds = duration.as_secs_f64();
        let bucket = bounded.iter().find(|(bound, _)| seconds <= *bound).map_or(beyond, |(_, count)| count);
        bucket.fetch_add(1, Ordering::Relaxed);
        microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let Buckets { bounded, beyond, microseconds } = &*self.0;
        let beyond = (f64::INFINITY, beyond.load(Ordering::Relaxed));
        let bounded = bounded.iter().map(|(bound, count)| (*bound, count.load(Ordering::Relaxed)));
        let counts: Vec<_> = bounded.chain([beyond]).collect();
        let count = counts.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(microseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_includes_it() {
        let durations = Durations::new(&[0.1, 1.0]);
        for milliseconds in [0, 100, 101, 1000, 1001, 10_000_000] {
            durations.observe(Duration::from_millis(milliseconds));
        }
        let mut registry = Registry::default();
        registry.register_with_unit("x", "y", Unit::Seconds, durations);
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        assert_eq!(
            text.lines().skip(3).collect::<Vec<_>>(),
            [
                "x_seconds_sum 10002.202",
                "x_seconds_count 6",
                "x_seconds_bucket{le=\"0.1\"} 2",
                "x_seconds_bucket{le=\"1.0\"} 4",
                "x_seconds_bucket{le=\"+Inf\"} 6",
            ]
        );
    }
}
