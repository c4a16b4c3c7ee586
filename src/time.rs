//! Points in time as images carry them: RFC 3339 in configs, whole seconds in tar headers.
//!
//! Nothing here reads the clock except [`Timestamp::now`], and nothing that ends in a digest
//! may call that when `SOURCE_DATE_EPOCH` is set.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in UTC. Serialised as RFC 3339, as the OCI image config wants it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(jiff::Timestamp);

/// Why a `SOURCE_DATE_EPOCH` value can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid SOURCE_DATE_EPOCH `{0}`: expected seconds since 1970-01-01 as a whole number")]
pub struct InvalidEpoch(pub String);

impl Timestamp {
    /// The current time.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// A time from seconds since the Unix epoch, clamped to the years that RFC 3339 can write.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(
            jiff::Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
                jiff::Timestamp::MIN
            } else {
                jiff::Timestamp::MAX
            }),
        )
    }

    /// Reads the value of `SOURCE_DATE_EPOCH`: seconds since the Unix epoch.
    ///
    /// # Errors
    /// When the value is not a whole number of seconds.
    pub fn from_source_date_epoch(value: &str) -> Result<Self, InvalidEpoch> {
        value
            .trim()
            .parse()
            .map(Self::from_seconds)
            .map_err(|_| InvalidEpoch(value.to_owned()))
    }

    /// Reads a time as people write it: RFC 3339, or a date in UTC with or without a time of day.
    pub fn from_text(text: &str) -> Option<Self> {
        let utc = |text: &str| {
            let civil: jiff::civil::DateTime = text.parse().ok()?;
            civil.to_zoned(jiff::tz::TimeZone::UTC).ok()
        };
        let exact = text.parse::<jiff::Timestamp>().ok();
        exact
            .or_else(|| utc(text).map(|zoned| zoned.timestamp()))
            .map(Self)
    }

    /// Reads a time of an HTTP header, in any of the three forms of RFC 9110 §5.6.7.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let text = text.trim();
        let newest = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
        if let Ok(time) = newest {
            return Some(Self(time));
        }
        ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
            .iter()
            .find_map(|format| jiff::civil::DateTime::strptime(format, text).ok())
            .and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .map(|zoned| Self(zoned.timestamp()))
    }

    /// Seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.as_nanosecond().div_euclid(1_000_000_000) as i64
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_have_three_forms() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("yesterday", None),
            ("", None),
        ] {
            let read = Timestamp::from_http_date(text).map(Timestamp::seconds);
            assert_eq!(read, seconds, "{text}");
        }
    }

    #[test]
    fn source_date_epoch_is_whole_seconds() {
        let time = Timestamp::from_source_date_epoch("1700000000").unwrap();
        assert_eq!(time.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(time.seconds(), 1_700_000_000);
        assert!(Timestamp::from_source_date_epoch("yesterday").is_err());
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("1970-01-02", Some(86_400)),
            ("1970-01-02T00:00:01", Some(86_401)),
            ("1970-01-02T01:00:00+01:00", Some(86_400)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("yesterday", None),
        ] {
            let found = Timestamp::from_text(text).map(Timestamp::seconds);
            assert_eq!(found, seconds, "{text}");
        }
    }

    #[test]
    fn times_are_rfc_3339_in_json() {
        let json = "\"2023-11-14T22:13:20Z\"";
        let time: Timestamp = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&time).unwrap(), json);
    }
}
