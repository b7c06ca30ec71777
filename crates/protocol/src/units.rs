//! Durations and numbers of bytes, as command-line flags and JSON bodies write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration from 1 ms to 365 days. A number without a unit is in seconds.
///
/// Parses a decimal number with an optional unit: `60`, `2.5`, `500ms`, `60s`, `10m`, `6h` or `1d`.
///
/// ```
/// use std::time::Duration;
/// use rendezvous_protocol::Period;
///
/// assert_eq!("2.5".parse::<Period>()?.get(), Duration::from_millis(2500));
/// assert_eq!("10m".parse::<Period>()?.get(), Duration::from_secs(600));
/// assert!("366d".parse::<Period>().is_err(), "above the range");
/// assert!("1h30m".parse::<Period>().is_err(), "one number only");
/// # Ok::<_, rendezvous_protocol::BadPeriod>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

/// The text is not a [`Period`]. The message quotes it and describes the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: give seconds such as 60 or 2.5, or a number with ms, s, m, h or d; from 1ms to 365d"
)]
pub struct BadPeriod(String);

impl Period {
    const MIN: Duration = Duration::from_millis(1);
    const MAX: Duration = Duration::from_hours(365 * 24);

    /// Creates a period of `seconds`, clamped to the range.
    #[must_use]
    pub fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds).clamp(Self::MIN, Self::MAX))
    }

    /// Returns the duration.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        let bad = || BadPeriod(text.to_owned());
        let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let seconds_each = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 60.0 * 60.0,
            "d" => 24.0 * 60.0 * 60.0,
            _ => return Err(bad()),
        };
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number: f64 = number.parse().ok().filter(|_| plain).ok_or_else(bad)?;
        let period = Duration::try_from_secs_f64(number * seconds_each).map_err(|_| bad())?;
        (Self::MIN..=Self::MAX).contains(&period).then_some(Self(period)).ok_or_else(bad)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// A number of bytes, at least 1. The units are powers of 1024.
///
/// Parses a whole number with an optional unit, in either case: `65536`, `64k`, `10m`, `2g` or `1t`.
///
/// ```
/// use rendezvous_protocol::Size;
///
/// assert_eq!("64k".parse::<Size>()?.get(), 65_536);
/// assert!("0".parse::<Size>().is_err(), "below the range");
/// assert!("1.5m".parse::<Size>().is_err(), "whole numbers only");
/// # Ok::<_, rendezvous_protocol::BadSize>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// The text is not a [`Size`]. The message quotes it and describes the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of bytes: give 1 or more, such as 65536, 64k, 10m, 2g or 1t (k is 1024)")]
pub struct BadSize(String);

impl Size {
    /// Creates a size of `bytes`, or of 1 for 0.
    #[must_use]
    pub fn bytes(bytes: u64) -> Self {
        Self(bytes.max(1))
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = || BadSize(text.to_owned());
        let unit_at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let bytes_each = match unit.to_ascii_lowercase().as_str() {
            "" => 1,
            "k" => 1 << 10,
            "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            _ => return Err(bad()),
        };
        let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(bytes_each));
        bytes.filter(|bytes| *bytes >= 1).map(Self).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_in_bytes_unless_it_names_a_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("65536", 65_536),
            ("64k", 65_536),
            ("10m", 10 << 20),
            ("2G", 2 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().get(), bytes, "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "k",
            "1.5m",
            "10mb",
            "10 m",
            "1e3",
            "16777216t",
            "0k",
            "ſ",
            "18446744073709551616",
        ] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not a number of bytes: give 1 or more")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_period_is_in_seconds_unless_it_names_a_unit() {
        for (text, milliseconds) in [
            ("60", 60_000),
            ("2.5", 2_500),
            ("60s", 60_000),
            ("500ms", 500),
            ("10m", 600_000),
            ("6h", 21_600_000),
            ("1d", 86_400_000),
            ("0.001", 1),
            ("365d", 31_536_000_000),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.get(), Duration::from_millis(milliseconds), "{text}");
        }
    }

    #[test]
    fn the_error_of_a_bad_period_describes_the_format() {
        for text in
            ["", "0", "-1", "1e3", "inf", "nan", "s", "6 h", "6hours", "1h30m", "366d", "1.2.3", "0.0001"]
        {
            let error = text.parse::<Period>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not a duration: give seconds such as 60")),
                "{error}"
            );
        }
    }
}
