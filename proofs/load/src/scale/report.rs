//! The figures of each size, how they grow, and what they must hold.

use std::fmt;

use anyhow::ensure;
use serde::Serialize;

/// KiB of the process that a waiting side may take.
const MOST_MEMORY: f64 = 3.0;
/// Milliseconds of a pairing that one in a hundred may exceed.
const MOST_P99: f64 = 20.0;
/// What each stream may cost more where there are ten times as many.
const MOST_GROWTH: f64 = 1.2;

/// What a number of sides came to.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) sides: usize,
    /// KiB of the process, for each side that waits, its stream among them.
    pub(super) memory: f64,
    /// KiB of the kernel, for each side that waits: both ends of its connection.
    pub(super) kernel: f64,
    /// CPU microseconds of the process for each creation, each side that comes and waits, and each pairing.
    pub(super) create: f64,
    pub(super) wait: f64,
    pub(super) pairing: f64,
    /// Milliseconds from the second side's request to the first byte of the download.
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) longest: f64,
    /// Pairings, from the first to the last.
    pub(super) per_second: f64,
    /// MiB of the process before, with all sides waiting, and when all was forgotten.
    pub(super) before: f64,
    pub(super) most: f64,
    pub(super) after: f64,
}

/// A line of the table.
struct Line {
    name: &'static str,
    digits: usize,
    value: fn(&Figures) -> f64,
    /// It is the cost of a stream, which must not grow with their number.
    is_cost: bool,
}

const fn line(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Line {
    Line { name, digits, value, is_cost: false }
}

const fn cost(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Line {
    Line { name, digits, value, is_cost: true }
}

const LINES: [Line; 13] = [
    cost("KiB of the process for each waiting side", 2, |figures| figures.memory),
    line("KiB of the kernel for each, both ends", 1, |figures| figures.kernel),
    cost("CPU µs for each creation", 1, |figures| figures.create),
    cost("CPU µs for each side that comes and waits", 1, |figures| figures.wait),
    cost("CPU µs for each pairing, to its end", 1, |figures| figures.pairing),
    line("pairing, ms: median", 2, |figures| figures.median),
    line("p99", 2, |figures| figures.p99),
    line("p999", 2, |figures| figures.p999),
    line("longest", 2, |figures| figures.longest),
    line("pairings/s", 0, |figures| figures.per_second),
    line("MiB of the process before", 1, |figures| figures.before),
    line("with all waiting", 1, |figures| figures.most),
    line("when all is forgotten", 1, |figures| figures.after),
];

/// All figures. In parentheses: the ratio to the size before.
pub(super) fn table(measured: &[Figures]) -> String {
    let heads = measured.iter().map(|figures| format!(" {} waiting |", figures.sides));
    let rule = "---:|".repeat(measured.len());
    let lines = LINES.iter().map(|line| {
        let befores = [None].into_iter().chain(measured.iter().map(Some));
        let cells = measured.iter().zip(befores).map(|(figures, before)| match before {
            Some(before) if line.is_cost => {
                format!(" {} ({:.2}×) |", line.show(figures), line.growth(before, figures))
            }
            _ => format!(" {} |", line.show(figures)),
        });
        format!("| {} |{}\n", line.name, cells.collect::<String>())
    });
    format!("| |{}\n|---|{rule}\n{}", heads.collect::<String>(), lines.collect::<String>())
}

/// # Errors
/// What does not hold.
pub(super) fn verdict(measured: &[Figures]) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    if let Some(most) = measured.iter().max_by_key(|figures| figures.sides)
        && most.memory > MOST_MEMORY
    {
        broken.push(format!("{:.2} KiB for each of {} sides, over {MOST_MEMORY}", most.memory, most.sides));
    }
    for figures in measured.iter().filter(|figures| figures.p99 > MOST_P99) {
        broken.push(format!("p99 {:.1} ms with {} sides, over {MOST_P99}", figures.p99, figures.sides));
    }
    for (before, figures) in measured.iter().zip(measured.iter().skip(1)) {
        for line in LINES.iter().filter(|line| line.is_cost && line.growth(before, figures) > MOST_GROWTH) {
            let (growth, sides) = (line.growth(before, figures), figures.sides);
            broken.push(format!("{}: {growth:.2}× with {sides} sides, over {MOST_GROWTH}×", line.name));
        }
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

impl Line {
    fn show(&self, figures: &Figures) -> String {
        format!("{:.*}", self.digits, (self.value)(figures))
    }

    fn growth(&self, before: &Figures, figures: &Figures) -> f64 {
        (self.value)(figures) / (self.value)(before)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sides", self.sides)?;
        LINES.iter().try_for_each(|line| write!(f, "; {}: {}", line.name, line.show(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(sides: usize) -> Figures {
        Figures {
            sides,
            memory: 2.0,
            kernel: 4.0,
            create: 10.0,
            wait: 20.0,
            pairing: 30.0,
            median: 1.0,
            p99: 2.0,
            p999: 3.0,
            longest: 4.0,
            per_second: 1000.0,
            before: 5.0,
            most: 10.0,
            after: 6.0,
        }
    }

    #[test]
    fn what_is_flat_and_small_holds() {
        assert!(verdict(&[flat(1000), flat(10_000)]).is_ok());
        assert!(verdict(&[flat(1000), Figures { pairing: 35.0, ..flat(10_000) }]).is_ok());
    }

    #[test]
    fn what_grows_or_is_too_much_is_named() {
        for (broken, named) in [
            (Figures { memory: 3.1, ..flat(10_000) }, "3.10 KiB"),
            (Figures { p99: 21.0, ..flat(10_000) }, "p99 21.0 ms"),
            (Figures { create: 12.5, ..flat(10_000) }, "creation: 1.25×"),
            (Figures { wait: 25.0, ..flat(10_000) }, "waits: 1.25×"),
            (Figures { pairing: 40.0, ..flat(10_000) }, "pairing, to its end: 1.33×"),
        ] {
            let error = verdict(&[flat(1000), broken]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_table_shows_growth_beside_costs() {
        let table = table(&[flat(1000), Figures { create: 11.0, ..flat(10_000) }]);
        assert!(table.contains("| CPU µs for each creation | 10.0 | 11.0 (1.10×) |"), "{table}");
        assert!(table.contains("| p99 | 2.00 | 2.00 |"), "{table}");
    }
}
