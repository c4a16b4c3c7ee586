//! Numbers as people read them.

use std::time::Duration;

/// A count of bytes in decimal units, as Docker writes them: `48B`, `2.15kB`, `31.42MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // 999.995 would be written as 1000.00.
        if value < 999.995 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

/// Seconds with one decimal: `0.3s`, `73.0s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// The time that stands before a line of output: `0.123`, `12.34`, `123.4`.
pub(crate) fn log_time(at: Duration) -> String {
    let seconds = at.as_secs_f64();
    let decimals = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.decimals$}")
}

/// A length of time in Docker's words: `5 seconds`, `About a minute`, `3 hours`, `2 weeks`.
pub(crate) fn rough(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0 => return "Less than a second".to_owned(),
        s if s < 60 => (s, "second"),
        s if s < 2 * 60 => return "About a minute".to_owned(),
        s if s < 60 * 60 => (s / 60, "minute"),
        s if s < 2 * 60 * 60 => return "About an hour".to_owned(),
        s if s < 2 * DAY => (s / (60 * 60), "hour"),
        s if s < 14 * DAY => (s / DAY, "day"),
        s if s < 60 * DAY => (s / (7 * DAY), "week"),
        s if s < 730 * DAY => (s / (30 * DAY), "month"),
        s => (s / (365 * DAY), "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A text of at most `width` characters, with an ellipsis where something is left out.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decimal() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (2150, "2.15kB"),
            (999_999, "1.00MB"),
            (31_420_000, "31.42MB"),
            (5_000_000_000, "5.00GB"),
            (u64::MAX, "18446.74PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times_keep_four_digits() {
        for (millis, text) in [
            (0, "0.000"),
            (123, "0.123"),
            (12_345, "12.35"),
            (123_456, "123.5"),
        ] {
            assert_eq!(log_time(Duration::from_millis(millis)), text);
        }
        assert_eq!(seconds(Duration::from_millis(1260)), "1.3s");
    }

    #[test]
    fn ages_are_rough() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (400 * 86400, "13 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
