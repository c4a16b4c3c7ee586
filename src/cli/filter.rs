//! `--filter NAME=VALUE` and the ages and sizes that Docker's options take.
//!
//! Pure: text in, values out; the current time is given.

use super::error::Failure;
use crate::time::Timestamp;

/// One `--filter`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// What is compared.
    pub name: String,
    /// With what.
    pub value: String,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("a filter is written as NAME=VALUE")?;
        Ok(Self {
            name: name.trim().to_lowercase(),
            value: value.trim().to_owned(),
        })
    }
}

impl Filter {
    /// The error for a filter that a command doesn't have.
    pub fn unknown(&self, known: &str) -> Failure {
        Failure::user(format!("unknown filter `{}`", self.name)).hint(format!("there are {known}"))
    }

    /// The error for a value that a filter can't have.
    pub fn invalid(&self, expected: &str) -> Failure {
        let Self { name, value } = self;
        Failure::user(format!("invalid value `{value}` for the filter `{name}`"))
            .hint(format!("it is {expected}"))
    }

    /// The value of `until`: an age as in `24h` or `1h30m`, or a point in time.
    ///
    /// # Errors
    /// When it is neither.
    pub fn time(&self, now: Timestamp) -> Result<Timestamp, Failure> {
        let seconds = self.value.parse::<i64>().ok().map(Timestamp::from_seconds);
        let ago = || {
            let age = i64::try_from(age(&self.value)?).ok()?;
            Some(Timestamp::from_seconds(now.seconds().saturating_sub(age)))
        };
        seconds
            .or_else(ago)
            .or_else(|| Timestamp::from_text(&self.value))
            .ok_or_else(|| self.invalid("an age like 24h or 7d, or a date like 2026-01-31"))
    }
}

/// A length of time in whole seconds: numbers with the units `w d h m s`.
fn age(text: &str) -> Option<u64> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = rest[end..].chars().next()?;
        let length = match unit {
            'w' => 7 * 24 * 3600,
            'd' => 24 * 3600,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(length)?)?;
        rest = &rest[end + unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(seconds)
}

/// A number of bytes: `512`, `10kB`, `1.5GB`, `2GiB`. Units are decimal unless they have an `i`.
///
/// # Errors
/// When it is none of these.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "a size is a number with a unit: 500MB, 10GB, 2GiB".to_owned();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = text[end..].trim().to_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = match unit.strip_suffix('i') {
        Some(prefix) => (prefix, 1024_f64),
        None => (unit, 1000_f64),
    };
    let power = match (prefix, base as u32) {
        ("", 1000) => 0,
        ("k", _) => 1,
        ("m", _) => 2,
        ("g", _) => 3,
        ("t", _) => 4,
        ("p", _) => 5,
        _ => return Err(wrong()),
    };
    Ok((number * base.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_an_age_or_a_time() {
        let now = Timestamp::from_seconds(1_000_000);
        for (value, seconds) in [
            ("24h", Some(1_000_000 - 86_400)),
            ("1h30m", Some(1_000_000 - 5400)),
            ("7d", Some(1_000_000 - 604_800)),
            ("10", Some(10)),
            ("1970-01-02", Some(86_400)),
            ("soon", None),
            ("1x", None),
            ("", None),
            ("99999999999999999999h", None),
        ] {
            let filter: Filter = format!("until={value}").parse().unwrap();
            let found = filter.time(now).ok().map(Timestamp::seconds);
            assert_eq!(found, seconds, "{value}");
        }
        assert!("until".parse::<Filter>().is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512b", Some(512)),
            ("10kB", Some(10_000)),
            ("1.5GB", Some(1_500_000_000)),
            ("2GiB", Some(2 << 30)),
            ("2g", Some(2_000_000_000)),
            ("", None),
            ("i", None),
            ("1i", None),
            ("1x", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(text).ok(), size, "{text}");
        }
    }
}
