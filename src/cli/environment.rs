//! The environment variables of the process, read once.
//!
//! Everything in `cli/` asks this value and never the process, so that a test can say what the
//! environment is. Rooms below `cli/` get plain settings and never see it. Values are not to be
//! logged: they may hold secrets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// A snapshot of environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// A variable's value. A variable that is set to nothing counts as not set, as for most
    /// tools that read the same variables.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.0
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Like [`Self::get_os`]; bytes that are not UTF-8 are replaced.
    pub fn get(&self, name: &str) -> Option<String> {
        self.get_os(name)
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// Whether the variable exists at all, empty or not.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(OsStr::new(name))
    }

    /// A variable's value even where that is empty, for `--build-arg NAME`.
    pub fn get_even_empty(&self, name: &str) -> Option<String> {
        self.0
            .get(OsStr::new(name))
            .map(|value| value.to_string_lossy().into_owned())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_not_set() {
        let environment = Environment::from_iter([("A", ""), ("B", "b")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("B").as_deref(), Some("b"));
        assert_eq!(environment.get("C"), None);
        assert!(environment.contains("A") && !environment.contains("C"));
        assert_eq!(environment.get_even_empty("A").as_deref(), Some(""));
    }

    #[test]
    fn debug_output_holds_no_values() {
        let environment = Environment::from_iter([("TOKEN", "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"{"TOKEN"}"#);
    }
}
