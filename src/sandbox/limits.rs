//! Resource limits of a step's processes (`setrlimit(2)`), under the names that Docker gives them.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::spec::{SetupFailure, Stage};

/// The kinds of limits, by name.
const KINDS: [(&str, LimitKind, Resource); 15] = [
    ("core", LimitKind::Core, Resource::Core),
    ("cpu", LimitKind::Cpu, Resource::Cpu),
    ("data", LimitKind::Data, Resource::Data),
    ("fsize", LimitKind::Fsize, Resource::Fsize),
    ("locks", LimitKind::Locks, Resource::Locks),
    ("memlock", LimitKind::Memlock, Resource::Memlock),
    ("msgqueue", LimitKind::Msgqueue, Resource::Msgqueue),
    ("nice", LimitKind::Nice, Resource::Nice),
    ("nofile", LimitKind::Nofile, Resource::Nofile),
    ("nproc", LimitKind::Nproc, Resource::Nproc),
    ("rss", LimitKind::Rss, Resource::Rss),
    ("rtprio", LimitKind::Rtprio, Resource::Rtprio),
    ("rttime", LimitKind::Rttime, Resource::Rttime),
    ("sigpending", LimitKind::Sigpending, Resource::Sigpending),
    ("stack", LimitKind::Stack, Resource::Stack),
];

/// What is limited.
#[expect(
    missing_docs,
    reason = "each is the `RLIMIT_` of setrlimit(2) of its name"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LimitKind {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// A name that is no limit's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no limit `{name}`; they are {}", KINDS.map(|(name, ..)| name).join(", "))]
pub struct UnknownLimit {
    name: String,
}

impl FromStr for LimitKind {
    type Err = UnknownLimit;

    fn from_str(text: &str) -> Result<Self, UnknownLimit> {
        let found = KINDS.iter().find(|(name, ..)| *name == text);
        found.map(|(_, kind, _)| *kind).ok_or_else(|| UnknownLimit {
            name: text.to_owned(),
        })
    }
}

impl LimitKind {
    fn row(self) -> Option<&'static (&'static str, Self, Resource)> {
        KINDS.iter().find(|(_, kind, _)| *kind == self)
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().map_or("", |(name, ..)| name))
    }
}

/// One limit; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ulimit {
    /// What is limited.
    pub kind: LimitKind,
    /// What is enforced; a process may raise it up to the hard limit.
    pub soft: Option<u64>,
    /// The highest that a process may ask for.
    pub hard: Option<u64>,
}

/// Sets limits of this process.
pub(super) fn apply(limits: &[Ulimit]) -> Result<(), SetupFailure> {
    for limit in limits {
        let Some((name, _, resource)) = limit.kind.row() else {
            continue;
        };
        let wanted = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        rustix::process::setrlimit(*resource, wanted).map_err(|errno| {
            let hard = rustix::process::getrlimit(*resource).maximum;
            let reason = if errno == Errno::PERM {
                format!(", as only root can go above the hard limit {}", shown(hard))
            } else {
                String::new()
            };
            let message = format!(
                "can't set the limit {name} to {}:{}{reason}",
                shown(limit.soft),
                shown(limit.hard)
            );
            SetupFailure::new(Stage::Limits, message, errno)
        })?;
    }
    Ok(())
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name() {
        for (name, kind, _) in KINDS {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        let error = "as".parse::<LimitKind>().unwrap_err().to_string();
        assert!(error.starts_with("there is no limit `as`; they are core, cpu,"));
    }
}
