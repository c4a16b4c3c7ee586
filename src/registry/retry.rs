//! When to try again, and how long to wait before it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often and how patiently a request is tried again after a passing failure: a broken
/// connection, a time-out, 408, 429, 500, 502, 503 or 504.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; at least one is made.
    pub attempts: u32,
    /// The wait before the second try; it doubles each time.
    pub first_delay: Duration,
    /// The longest wait that is chosen here.
    pub longest_delay: Duration,
    /// The longest `Retry-After` that is waited for. A registry that asks for more is not
    /// asked again: trying sooner than it says is what the header forbids.
    pub longest_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(15),
            longest_retry_after: Duration::from_secs(60),
        }
    }
}

/// The tries of one act.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Forgets earlier failures, because the act has moved on since.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How long to wait before the next try; `None` to give up.
    pub(crate) fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.policy.attempts {
            return None;
        }
        if let Some(asked) = retry_after {
            return (asked <= self.policy.longest_retry_after).then_some(asked);
        }
        let doubled = 1u32 << (self.failures - 1).min(16);
        let delay = self
            .policy
            .first_delay
            .saturating_mul(doubled)
            .min(self.policy.longest_delay);
        Some(delay.mul_f64(0.5 + jitter() / 2.0))
    }
}

/// A number in `0.0..1.0`. Many clients that fail together must not come back together.
fn jitter() -> f64 {
    // A fresh `RandomState` has random keys; no better randomness is called for.
    let random = RandomState::new().build_hasher().finish();
    f64::from((random >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// The wait a `Retry-After` header asks for (RFC 9110 §10.2.3): seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()?;
    let date = SystemTime::from(date);
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_millis(300),
            longest_retry_after: Duration::from_secs(10),
        }
    }

    #[test]
    fn delays_double_up_to_a_cap_and_end() {
        let mut backoff = Backoff::new(policy());
        for longest in [100, 200, 300] {
            let delay = backoff.next_delay(None).unwrap();
            assert!(delay >= Duration::from_millis(longest / 2), "{delay:?}");
            assert!(delay <= Duration::from_millis(longest), "{delay:?}");
        }
        assert_eq!(backoff.next_delay(None), None);
    }

    #[test]
    fn progress_gives_new_tries() {
        let mut backoff = Backoff::new(policy());
        for _ in 0..20 {
            assert!(backoff.next_delay(None).is_some());
            backoff.progressed();
        }
    }

    #[test]
    fn retry_after_is_waited_for_exactly_or_not_at_all() {
        let mut backoff = Backoff::new(policy());
        let seconds = Duration::from_secs;
        assert_eq!(backoff.next_delay(Some(seconds(7))), Some(seconds(7)));
        assert_eq!(backoff.next_delay(Some(seconds(11))), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{value}");
        }
    }
}
