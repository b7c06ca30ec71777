//! The measured figures, and their medians.

use measure::figures::quantile;

/// The quantity that a figure measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    GibPerSecond,
    CpuPerGib,
    TransfersPerSecond,
    CpuPerThousand,
    MedianLatency,
    P99Latency,
    LongestLatency,
    Resident,
}

impl Measure {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::GibPerSecond => "GiB/s",
            Self::CpuPerGib => "CPU s/GiB",
            Self::TransfersPerSecond => "transfers/s",
            Self::CpuPerThousand => "CPU s/1000",
            Self::MedianLatency => "ms, median",
            Self::P99Latency => "ms, p99",
            Self::LongestLatency => "ms, longest",
            Self::Resident => "KiB each",
        }
    }

    /// Formats the value with its significant digits.
    pub(crate) fn format(self, value: f64) -> String {
        let digits = match self {
            Self::TransfersPerSecond => 0,
            Self::Resident => 1,
            Self::GibPerSecond | Self::P99Latency => 2,
            Self::CpuPerGib | Self::CpuPerThousand | Self::MedianLatency | Self::LongestLatency => 3,
        };
        format!("{value:.digits$}")
    }
}

pub(crate) type Figure = (Measure, f64);

/// Formats the figures in one line, to show progress.
pub(crate) fn line(figures: &[Figure]) -> String {
    let figures =
        figures.iter().map(|(measure, value)| format!("{} {}", measure.format(*value), measure.unit()));
    figures.collect::<Vec<_>>().join(", ")
}

/// The figures of one run of a workload.
pub(crate) struct Sample {
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) figures: Vec<Figure>,
}

impl Sample {
    fn figure(&self, measure: Measure) -> Option<f64> {
        self.figures.iter().find(|(taken, _)| *taken == measure).map(|(_, value)| *value)
    }
}

/// All samples.
#[derive(Default)]
pub(crate) struct Results(Vec<Sample>);

impl Results {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The quantities measured for a workload.
    pub(crate) fn measures(&self, workload: &str) -> Vec<Measure> {
        let sample = self.0.iter().find(|sample| sample.workload == workload);
        sample.into_iter().flat_map(|sample| &sample.figures).map(|(measure, _)| *measure).collect()
    }

    /// The median of all rounds, or `None` if there is no figure.
    pub(crate) fn median(&self, workload: &str, contender: &str, measure: Measure) -> Option<f64> {
        let samples = self.0.iter().filter(|one| one.workload == workload && one.contender == contender);
        let values = samples.filter_map(|sample| sample.figure(measure)).collect();
        Some(quantile(values, 0.5)).filter(|median| !median.is_nan())
    }
}
