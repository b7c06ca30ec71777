//! Text for people: sizes, rates and times, and what a peer wrote, made harmless. Pure.

use std::time::Duration;

/// The longest text of a peer that is shown, in characters.
const LONGEST: usize = 200;
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a text of the other side without control characters and marks that change the direction of text, and not too long.
///
/// Escape sequences of terminals could otherwise hide or forge what is shown.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown: String = printable(text).chars().take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns a text of this program, which may name files, without the characters that [`harmless`] replaces. Its end says what to do, so it is
/// not shortened.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|letter| if is_harmful(letter) { '_' } else { letter }).collect()
}

/// Whether a character could change what a terminal shows beyond its own cell: controls, line and paragraph separators, and marks of
/// direction or of no width.
pub(crate) fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(letter, '\u{e0000}'..='\u{e007f}')
}

/// Returns a number of bytes with a unit: `0 bytes`, `1 byte`, `1.5 KiB`, `94 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        1 => return "1 byte".to_owned(),
        0..1024 => return format!("{bytes} bytes"),
        _ => {}
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // 1023.5 would be shown as 1024.
    while value >= 1023.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Returns a rate: `94 MiB/s`.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a negative rate is shown as 0"
    )]
    let whole = bytes_per_second as u64;
    format!("{}/s", size(whole))
}

/// Returns a time in its two largest units: `8 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

/// Returns the rate of a whole transfer, if it took long enough for the figure to mean something.
pub(crate) fn overall_rate(bytes: u64, time: Duration) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let bytes = bytes as f64;
    (time >= Duration::from_millis(50)).then(|| rate(bytes / time.as_secs_f64()))
}

/// Returns the text in quotes for a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_and_the_largest_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (10_188, "9.9 KiB"),
            (10_189, "10 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_064, "1.0 MiB"),
            (3_328_599_655, "3.1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (125, "2 min 5 s"),
            (3600, "1 h 0 min"),
            (86_399, "23 h 59 min"),
            (100_000, "1 d 3 h"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn the_rate_of_a_transfer_of_no_time_is_not_shown() {
        assert_eq!(overall_rate(1 << 20, Duration::from_millis(500)), Some("2.0 MiB/s".to_owned()));
        assert_eq!(overall_rate(1 << 20, Duration::from_millis(1)), None);
    }

    #[test]
    fn what_a_peer_wrote_cannot_steer_the_terminal() {
        for (text, shown) in [
            ("a name", "a name"),
            ("Grüße 日本 🎉", "Grüße 日本 🎉"),
            ("a\x1b[2Jb", "a_[2Jb"),
            ("a\r\nrendezvous: stored", "a__rendezvous: stored"),
            ("\u{9b}31m", "_31m"),
            ("photo\u{202e}gpj.exe", "photo_gpj.exe"),
            ("\u{200b}\u{2066}\u{feff}\u{e0041}", "____"),
        ] {
            assert_eq!(harmless(text), shown);
        }
        assert_eq!(harmless(&"x".repeat(1000)).chars().count(), LONGEST + 1);
        assert_eq!(harmless(&"x".repeat(LONGEST)).chars().count(), LONGEST);
        let long = format!("\x1b{}", "x".repeat(1000));
        assert_eq!(printable(&long), long.replace('\x1b', "_"), "a text of our own is whole");
    }

    #[test]
    fn quotes_hold_in_a_shell() {
        assert_eq!(quoted("https://relay.example/r#A"), "'https://relay.example/r#A'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
