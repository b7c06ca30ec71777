//! The figures of each size, their growth and their bounds.

use std::fmt;

use anyhow::{Context, ensure};
use measure::figures::quantile;
use serde::Serialize;

/// The most KiB of the process for a waiting side.
const MOST_MEMORY: f64 = 3.0;
/// The most milliseconds of a pairing at the 99th percentile.
const MOST_P99: f64 = 20.0;
/// The most that the cost of a stream may grow from the smallest size, as a ratio.
const MOST_GROWTH: f64 = 1.2;

/// The measurements of one round. Memory is in KiB.
pub(super) struct Round {
    /// The process without streams.
    pub(super) before: u64,
    /// With the shared connections and the additional streams.
    pub(super) connected: u64,
    /// With all waiting sides.
    pub(super) waiting: u64,
    /// The increase of the kernel's memory, for both ends.
    pub(super) kernel: u64,
    pub(super) create: Spent,
    pub(super) wait: Spent,
    pub(super) pairing: Spent,
    /// Milliseconds from the second side's request to the beginning of the download.
    pub(super) latencies: Vec<f64>,
    /// From the first pairing to the end of the last.
    pub(super) seconds: f64,
}

/// Seconds of CPU time.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    /// In total.
    pub(super) all: f64,
    /// In user mode and in the kernel, by samples.
    pub(super) user: f64,
    pub(super) kernel: f64,
}

/// The results of one size over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) sides: usize,
    pub(super) rounds: usize,
    /// KiB of the process for each waiting side, including its stream.
    pub(super) memory: f64,
    /// The part of it for shared HTTP/2 connections and additional streams.
    pub(super) shared: f64,
    /// KiB of the kernel for each waiting side: both ends of its connection.
    pub(super) kernel_memory: f64,
    /// CPU microseconds of the process for each creation, each side that connects and waits, and each pairing.
    pub(super) create: f64,
    pub(super) wait: f64,
    pub(super) pairing: f64,
    /// CPU microseconds of all these: in user mode and in the kernel.
    pub(super) user: f64,
    pub(super) kernel: f64,
    /// Milliseconds of a pairing.
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) longest: f64,
    /// Pairings per second, from the first to the last.
    pub(super) per_second: f64,
    /// MiB of the process before, with all waiting sides, and after all streams are forgotten.
    pub(super) before: f64,
    pub(super) most: f64,
    pub(super) after: f64,
}

impl Figures {
    /// Memory is the median of the rounds. `after` is that after the last one, in KiB.
    pub(super) fn of(sides: usize, rounds: &[Round], after: u64) -> anyhow::Result<Self> {
        let first = rounds.first().context("nothing was measured")?;
        let latencies: Vec<_> = rounds.iter().flat_map(|round| &round.latencies).copied().collect();
        let milliseconds = |share| quantile(latencies.clone(), share);
        let (before, most) = (first.before as f64 / 1024.0, first.waiting as f64 / 1024.0);
        let each = sides as f64;
        let kib = |size: fn(&Round) -> u64| {
            quantile(rounds.iter().map(|round| size(round) as f64 / each).collect(), 0.5)
        };
        let all = each * rounds.len() as f64;
        let sum = |seconds: &dyn Fn(&Round) -> f64| rounds.iter().map(seconds).sum::<f64>();
        let micros = |seconds: fn(&Round) -> f64| sum(&seconds) * 1e6 / all;
        // The total of each phase is exact, and its parts are samples.
        let parts = |round: &Round| [round.create, round.wait, round.pairing];
        let user = sum(&|round| parts(round).iter().map(|spent| spent.user).sum());
        let kernel = sum(&|round| parts(round).iter().map(|spent| spent.kernel).sum());
        let whole = micros(|round| round.create.all + round.wait.all + round.pairing.all);
        Ok(Self {
            sides,
            rounds: rounds.len(),
            memory: kib(|round| round.waiting.saturating_sub(round.before)),
            shared: kib(|round| round.connected.saturating_sub(round.before)),
            kernel_memory: kib(|round| round.kernel),
            create: micros(|round| round.create.all),
            wait: micros(|round| round.wait.all),
            pairing: micros(|round| round.pairing.all),
            user: whole * user / (user + kernel),
            kernel: whole * kernel / (user + kernel),
            per_second: all / sum(&|round| round.seconds),
            before,
            most,
            after: after as f64 / 1024.0,
            median: milliseconds(0.5),
            p99: milliseconds(0.99),
            p999: milliseconds(0.999),
            longest: milliseconds(1.0),
        })
    }
}

/// A line of the table.
struct Line {
    name: &'static str,
    digits: usize,
    value: fn(&Figures) -> f64,
    kind: Kind,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Figure,
    /// A cost of a stream, whose growth with the number of streams the table shows.
    Cost,
    /// A cost of a stream in the process, which must not grow.
    Judged,
}

const fn line(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Line {
    Line { name, digits, value, kind: Kind::Figure }
}

const fn cost(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Line {
    Line { name, digits, value, kind: Kind::Cost }
}

const fn judged(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Line {
    Line { name, digits, value, kind: Kind::Judged }
}

const LINES: [Line; 17] = [
    judged("KiB of the process for each waiting side", 2, |figures| figures.memory),
    line("of it, a part of what sides share", 2, |figures| figures.shared),
    line("KiB of the kernel for each, both ends", 1, |figures| figures.kernel_memory),
    cost("CPU µs for each creation", 1, |figures| figures.create),
    cost("CPU µs for each side that comes and waits", 1, |figures| figures.wait),
    cost("CPU µs for each pairing, to its end", 1, |figures| figures.pairing),
    judged("CPU µs of all that, in the process", 1, |figures| figures.user),
    cost("and in the kernel for it", 1, |figures| figures.kernel),
    line("pairing, ms: median", 2, |figures| figures.median),
    line("p99", 2, |figures| figures.p99),
    line("p999", 2, |figures| figures.p999),
    line("longest", 2, |figures| figures.longest),
    line("pairings/s", 0, |figures| figures.per_second),
    line("rounds", 0, |figures| figures.rounds as f64),
    line("MiB of the process before", 1, |figures| figures.before),
    line("with all waiting", 1, |figures| figures.most),
    line("when all is forgotten", 1, |figures| figures.after),
];

/// All figures, with the ratio to the first size in parentheses.
pub(super) fn table(measured: &[Figures]) -> String {
    let heads = measured.iter().map(|figures| format!(" {} waiting |", figures.sides));
    let rule = "---:|".repeat(measured.len());
    let lines = LINES.iter().map(|line| {
        let cells = measured.iter().enumerate().map(|(index, figures)| match measured.first() {
            Some(first) if index > 0 && line.kind != Kind::Figure => {
                format!(" {} ({:.2}×) |", line.show(figures), line.growth(first, figures))
            }
            _ => format!(" {} |", line.show(figures)),
        });
        format!("| {} |{}\n", line.name, cells.collect::<String>())
    });
    let slow = measured.iter().filter(|figures| figures.p99 > MOST_P99).map(|figures| figures.sides);
    let slow: Vec<_> = slow.collect();
    let verdict = if slow.is_empty() { "held".to_owned() } else { format!("exceeded with {slow:?} waiting") };
    format!(
        "| |{}\n|---|{rule}\n{}\np99 below {MOST_P99} ms on two CPUs that do nothing else: {verdict}\n",
        heads.collect::<String>(),
        lines.collect::<String>()
    )
}

/// Checks the bounds on memory and on the growth of costs. Latencies depend on the machine, so the table only compares them.
///
/// # Errors
/// The bounds that do not hold.
pub(super) fn verdict(measured: &[Figures]) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    if let Some(most) = measured.iter().max_by_key(|figures| figures.sides)
        && most.memory > MOST_MEMORY
    {
        broken.push(format!("{:.2} KiB for each of {} sides, over {MOST_MEMORY}", most.memory, most.sides));
    }
    let first = measured.first();
    for (first, figures) in measured.iter().skip(1).filter_map(|figures| Some((first?, figures))) {
        for line in LINES.iter().filter(|line| line.kind == Kind::Judged) {
            let (growth, sides) = (line.growth(first, figures), figures.sides);
            if growth > MOST_GROWTH {
                broken.push(format!("{}: {growth:.2}× with {sides} sides, over {MOST_GROWTH}×", line.name));
            }
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
            rounds: 1,
            memory: 2.0,
            shared: 0.5,
            kernel_memory: 4.0,
            create: 10.0,
            wait: 20.0,
            pairing: 30.0,
            user: 20.0,
            kernel: 40.0,
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
        assert!(verdict(&[flat(1000), Figures { user: 23.0, ..flat(10_000) }]).is_ok());
        assert!(verdict(&[flat(1000), Figures { kernel: 60.0, ..flat(10_000) }]).is_ok());
    }

    #[test]
    fn what_grows_or_is_too_much_is_named() {
        for (broken, named) in [
            (Figures { memory: 3.1, ..flat(10_000) }, "3.10 KiB"),
            (Figures { memory: 2.5, ..flat(10_000) }, "waiting side: 1.25×"),
            (Figures { user: 25.0, ..flat(10_000) }, "in the process: 1.25×"),
        ] {
            let error = verdict(&[flat(1000), broken]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn growth_is_told_from_the_first_size() {
        let grown = |sides, user| Figures { user, ..flat(sides) };
        let error = verdict(&[flat(1000), grown(10_000, 23.0), grown(100_000, 26.0)]).unwrap_err();
        assert!(error.to_string().contains("1.30× with 100000 sides"), "{error}");
    }

    #[test]
    fn the_table_shows_growth_beside_costs_and_which_latencies_are_long() {
        let table = table(&[flat(1000), Figures { create: 11.0, p99: 21.0, ..flat(10_000) }]);
        assert!(table.contains("| CPU µs for each creation | 10.0 | 11.0 (1.10×) |"), "{table}");
        assert!(table.contains("| p99 | 2.00 | 21.00 |"), "{table}");
        assert!(table.contains("exceeded with [10000] waiting"), "{table}");
    }

    #[test]
    fn figures_are_those_of_all_rounds() {
        let spent = |all, user, kernel| Spent { all, user, kernel };
        let round = |waiting, all| Round {
            before: 1000,
            connected: 1100,
            waiting,
            kernel: 500,
            create: spent(0.0, 0.0, 0.0),
            wait: spent(0.0, 0.0, 0.0),
            pairing: spent(all, 0.1, 0.3),
            latencies: vec![1.0, 3.0],
            seconds: 0.1,
        };
        let figures = Figures::of(100, &[round(1300, 0.001), round(1300, 0.003)], 2048).unwrap();
        assert!((figures.memory - 3.0).abs() < 1e-9, "{figures}");
        assert!((figures.shared - 1.0).abs() < 1e-9, "{figures}");
        assert!((figures.pairing - 20.0).abs() < 1e-9, "{figures}");
        assert!((figures.user - 5.0).abs() < 1e-9 && (figures.kernel - 15.0).abs() < 1e-9, "{figures}");
        assert!((figures.longest - 3.0).abs() < 1e-9 && (figures.after - 2.0).abs() < 1e-9, "{figures}");
    }
}
