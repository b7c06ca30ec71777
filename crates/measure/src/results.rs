//! The measured figures, and their medians.

use crate::figures::quantile;

/// The quantity that a figure measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Throughput in GiB per second.
    GibPerSecond,
    /// Throughput in 10⁶ bytes per second.
    MegabytesPerSecond,
    /// CPU seconds for each GiB of bodies.
    CpuPerGib,
    /// Transfers per second.
    TransfersPerSecond,
    /// CPU seconds for each 1000 transfers.
    CpuPerThousand,
    /// The median latency in milliseconds.
    MedianLatency,
    /// The 99th percentile of the latency in milliseconds.
    P99Latency,
    /// The longest latency in milliseconds.
    LongestLatency,
    /// Resident memory for each side in KiB.
    Resident,
}

impl Measure {
    /// Returns the unit, as the report names it.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::GibPerSecond => "GiB/s",
            Self::MegabytesPerSecond => "MB/s",
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
    #[must_use]
    pub fn format(self, value: f64) -> String {
        let digits = match self {
            Self::MegabytesPerSecond if value < 10.0 => 2,
            Self::MegabytesPerSecond if value < 100.0 => 1,
            Self::TransfersPerSecond | Self::MegabytesPerSecond => 0,
            Self::Resident => 1,
            Self::GibPerSecond | Self::P99Latency => 2,
            Self::CpuPerGib | Self::CpuPerThousand | Self::MedianLatency | Self::LongestLatency => 3,
        };
        format!("{value:.digits$}")
    }
}

/// A quantity and its value.
pub type Figure = (Measure, f64);

/// Formats the figures in one line, to show progress.
#[must_use]
pub fn line(figures: &[Figure]) -> String {
    let figures =
        figures.iter().map(|(measure, value)| format!("{} {}", measure.format(*value), measure.unit()));
    figures.collect::<Vec<_>>().join(", ")
}

/// The figures of one run of a workload.
pub struct Sample {
    /// The name of the workload.
    pub workload: String,
    /// The name of what was measured.
    pub contender: String,
    /// The measured values.
    pub figures: Vec<Figure>,
}

impl Sample {
    fn figure(&self, measure: Measure) -> Option<f64> {
        self.figures.iter().find(|(taken, _)| *taken == measure).map(|(_, value)| *value)
    }
}

/// All samples.
#[derive(Default)]
pub struct Results(Vec<Sample>);

impl Results {
    /// Adds a sample.
    pub fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Returns the quantities measured for a workload.
    #[must_use]
    pub fn measures(&self, workload: &str) -> Vec<Measure> {
        let sample = self.0.iter().find(|sample| sample.workload == workload);
        sample.into_iter().flat_map(|sample| &sample.figures).map(|(measure, _)| *measure).collect()
    }

    /// Returns the median of all rounds, or `None` if there is no figure.
    #[must_use]
    pub fn median(&self, workload: &str, contender: &str, measure: Measure) -> Option<f64> {
        let samples = self.0.iter().filter(|one| one.workload == workload && one.contender == contender);
        let values = samples.filter_map(|sample| sample.figure(measure)).collect();
        Some(quantile(values, 0.5)).filter(|median| !median.is_nan())
    }
}
