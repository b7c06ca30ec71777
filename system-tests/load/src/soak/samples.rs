//! The resources of a server, second by second, and the check that they are flat.

use anyhow::ensure;
use measure::figures::{Trend, quantile};
use measure::process::{Descriptors, Process};

/// The most that the line through the second half may rise, as a share of its mean. More is a leak.
const MOST_RISE: f64 = 0.02;
/// The most that the end may exceed the end of the first quarter, as a share.
const MOST_GROWTH: f64 = 0.05;
/// The standard errors beyond which a deviation is significant.
const NO_CHANCE: f64 = 2.0;
/// The samples at the end and at the end of the first quarter that are compared: at most a minute.
const WINDOW: usize = 60;

/// The resources of a server at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Resident memory, in KiB.
    pub(crate) resident: u64,
    pub(crate) descriptors: Descriptors,
    pub(crate) threads: u64,
    /// Known streams, including ended ones.
    pub(crate) streams: usize,
}

impl Sample {
    pub(crate) fn of(process: &Process, seconds: f64, streams: usize) -> anyhow::Result<Self> {
        Ok(Self {
            seconds,
            resident: process.resident()?,
            descriptors: process.descriptors()?,
            threads: process.threads()?,
            streams,
        })
    }
}

/// A resource that must be flat.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Series {
    Memory,
    Descriptors,
}

impl Series {
    pub(crate) const ALL: [Self; 2] = [Self::Memory, Self::Descriptors];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "MiB of memory",
            Self::Descriptors => "descriptors",
        }
    }

    pub(crate) fn value(self, sample: &Sample) -> f64 {
        match self {
            Self::Memory => sample.resident as f64 / 1024.0,
            Self::Descriptors => sample.descriptors.all as f64,
        }
    }

    /// Describes its change.
    ///
    /// # Errors
    /// It is not flat.
    pub(crate) fn verdict(self, samples: &[Sample]) -> anyhow::Result<String> {
        let points: Vec<_> = samples.iter().map(|sample| (sample.seconds, self.value(sample))).collect();
        let flatness = Flatness::of(&points);
        ensure!(flatness.is_some(), "{}: too few samples to tell", self.name());
        let flatness = flatness.unwrap_or_default();
        let words = format!(
            "{}: {:.1} on average, {:+.1} ± {:.1} over the second half, {:+.1} ± {:.1} from the first quarter to the end",
            self.name(),
            flatness.mean,
            flatness.rise.0,
            flatness.rise.1,
            flatness.growth.0,
            flatness.growth.1
        );
        ensure!(flatness.holds(), "not flat: {words}");
        Ok(words)
    }
}

/// The changes of values, each with its standard error.
#[derive(Debug, Default)]
struct Flatness {
    mean: f64,
    /// Over the second half.
    rise: (f64, f64),
    /// From the end of the first quarter to the end.
    growth: (f64, f64),
}

impl Flatness {
    fn of(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len();
        let trend = Trend::of(points.get(count / 2..)?)?;
        let window = WINDOW.min(count / 6);
        let values = |end: usize| -> Option<Vec<f64>> {
            Some(points.get(end.checked_sub(window)?..end)?.iter().map(|point| point.1).collect())
        };
        let (early, late) = (values((count / 4).max(window))?, values(count)?);
        let error = NO_CHANCE * (error(&early).powi(2) + error(&late).powi(2)).sqrt();
        let growth = quantile(late, 0.5) - quantile(early, 0.5);
        Some(Self { mean: trend.mean, rise: (trend.rise, NO_CHANCE * trend.error), growth: (growth, error) })
    }

    fn holds(&self) -> bool {
        let within = |(by, chance): (f64, f64), share: f64| by - chance <= share * self.mean;
        within(self.rise, MOST_RISE) && within(self.growth, MOST_GROWTH)
    }
}

/// The standard error of the median of these values, if they were normally distributed.
fn error(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    1.25 * (variance / count).sqrt()
}

/// All samples, as a table for other programs.
pub(crate) fn csv(servers: &[(&str, Vec<Sample>)]) -> String {
    let lines = servers.iter().flat_map(|(name, samples)| {
        samples.iter().map(move |sample| {
            let Sample { seconds, resident, descriptors, threads, streams } = sample;
            let Descriptors { all, pipes } = descriptors;
            format!("{name},{seconds:.0},{resident},{all},{pipes},{threads},{streams}\n")
        })
    });
    let head = "server,seconds,resident_kib,descriptors,pipes,threads,streams\n".to_owned();
    head + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a server with about 40 MiB, and with this much more at the end.
    fn holds(more: f64, seed: u64) -> bool {
        let mut chance = fastrand::Rng::with_seed(seed);
        let points: Vec<_> = (0..600)
            .map(|second| {
                let x = f64::from(second);
                (x, 40.0 + 4.0 * chance.f64() + more * x / 600.0)
            })
            .collect();
        Flatness::of(&points).unwrap().holds()
    }

    #[test]
    fn what_only_scatters_is_flat() {
        assert!((1..50).all(|seed| holds(0.0, seed)));
    }

    #[test]
    fn what_grows_by_a_tenth_is_not() {
        assert!((1..50).all(|seed| !holds(4.0, seed)));
    }

    #[test]
    fn few_samples_say_nothing() {
        assert!(Flatness::of(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]).is_none());
    }
}
