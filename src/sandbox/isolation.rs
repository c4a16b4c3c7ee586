//! Which rung of the isolation ladder works here, found by trying it in a throw-away process:
//! what a kernel, a container engine or a security module refuses can't be told beforehand, and
//! entering a namespace can't be undone.
//!
//! Each rung that is refused leaves a [`Refusal`]: what was tried, what refused it, and what to
//! do about it.

mod failure;
mod probe;

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};

use self::probe::Probe;
use super::chroot;
use super::id_map::{IdMaps, IdRange, MapError};
use super::spec::XattrNamespace;

/// The rungs of the ladder, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Namespaces made with `CAP_SYS_ADMIN`.
    Root,
    /// A user namespace with a range of ids.
    UserNamespace,
    /// A user namespace with one id.
    UserNamespaceSingle,
    /// A root directory of its own, and nothing else: no namespaces, no mounts.
    Chroot,
    /// No sandbox: everything but RUN.
    None,
}

impl Rung {
    /// Every rung that makes a sandbox, strongest first.
    pub const SANDBOXES: [Self; 4] = [
        Self::Root,
        Self::UserNamespace,
        Self::UserNamespaceSingle,
        Self::Chroot,
    ];

    /// The name that `--isolation` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::UserNamespace => "userns",
            Self::UserNamespaceSingle => "userns-single",
            Self::Chroot => "chroot",
            Self::None => "none",
        }
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no rung's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown isolation `{0}`: expected `root`, `userns`, `userns-single`, `chroot` or `none`")]
pub struct UnknownRung(pub String);

impl std::str::FromStr for Rung {
    type Err = UnknownRung;

    fn from_str(name: &str) -> Result<Self, UnknownRung> {
        [
            Self::Root,
            Self::UserNamespace,
            Self::UserNamespaceSingle,
            Self::Chroot,
            Self::None,
        ]
        .into_iter()
        .find(|rung| rung.name() == name)
        .ok_or_else(|| UnknownRung(name.to_owned()))
    }
}

/// The isolation in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// See [`Rung::Root`].
    Root,
    /// See [`Rung::UserNamespace`].
    UserNamespace {
        /// The user ids inside, and what they are outside.
        range: Vec<IdRange>,
    },
    /// See [`Rung::UserNamespaceSingle`]: user and group 0 are the caller, nobody else exists.
    UserNamespaceSingle,
    /// See [`Rung::Chroot`].
    Chroot,
    /// See [`Rung::None`].
    None,
}

impl Isolation {
    /// Its rung.
    pub fn rung(&self) -> Rung {
        match self {
            Self::Root => Rung::Root,
            Self::UserNamespace { .. } => Rung::UserNamespace,
            Self::UserNamespaceSingle => Rung::UserNamespaceSingle,
            Self::Chroot => Rung::Chroot,
            Self::None => Rung::None,
        }
    }
}

/// Why a rung can't be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rung.
    pub rung: Rung,
    /// What was tried.
    pub tried: String,
    /// What came of it.
    pub reason: String,
    /// What stands behind that: a setting of the machine, a security module, where it can be told.
    pub cause: Option<String>,
    /// What makes it work: a command or a setting.
    pub fix: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.rung, self.tried, self.reason)?;
        if let Some(cause) = &self.cause {
            write!(f, " ({cause})")?;
        }
        match &self.fix {
            Some(fix) => write!(f, "; to fix it: {fix}"),
            None => Ok(()),
        }
    }
}

/// What was found out about one rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The rung.
    pub rung: Rung,
    /// How it works, or why it doesn't.
    pub result: Result<Works, Refusal>,
}

/// What a rung that works gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Works {
    /// The user ids of a sandbox, and what they are for this process.
    pub users: Vec<IdRange>,
    /// The same for groups.
    pub groups: Vec<IdRange>,
    /// Whether a sandbox can write to the folder that was asked about, or what the kernel said.
    pub upper: Result<(), String>,
}

/// Tries every rung, and on each whether overlay can write to a folder, in which that takes
/// making a folder for the moment. Changes nothing else. Only before any thread exists.
pub fn diagnose(folder: &Path) -> Vec<Attempt> {
    Rung::SANDBOXES
        .into_iter()
        .map(|rung| Attempt {
            rung,
            result: attempt(rung, Some(folder)).map(|found| Works {
                users: found.maps.users,
                groups: found.maps.groups,
                upper: match found.upper {
                    None | Some(0) => Ok(()),
                    Some(errno) => Err(std::io::Error::from_raw_os_error(errno).to_string()),
                },
            }),
        })
        .collect()
}

/// A rung that works, ready to be entered.
pub(super) struct Found {
    pub(super) isolation: Isolation,
    pub(super) xattr_namespace: XattrNamespace,
    /// The user and mount namespace that were made and tried, where the rung has them.
    pub(super) namespaces: Option<Namespaces>,
    /// Ids inside, and what they are for this process.
    maps: IdMaps,
    /// The error number with which overlay refused to write where it was tried; 0 if it didn't.
    upper: Option<i32>,
}

impl Found {
    /// Why overlay can't write where that was tried. That there is no room or no right to write
    /// says nothing about overlay.
    pub(super) fn overlay_refusal(&self) -> Option<String> {
        let errno = Errno::from_raw_os_error(self.upper.filter(|errno| *errno != 0)?);
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::ACCESS | Errno::NOENT => None,
            _ => Some(std::io::Error::from(errno).to_string()),
        }
    }
}

pub(super) struct Namespaces {
    pub(super) user: OwnedFd,
    pub(super) mount: OwnedFd,
}

/// Tries one rung, and whether overlay can write to `folder`.
pub(super) fn attempt(rung: Rung, folder: Option<&Path>) -> Result<Found, Refusal> {
    match rung {
        Rung::Root => attempt_root(folder),
        Rung::UserNamespace => attempt_range(folder),
        Rung::UserNamespaceSingle => attempt_single(folder),
        Rung::Chroot => attempt_chroot(),
        Rung::None => Ok(Found {
            isolation: Isolation::None,
            xattr_namespace: XattrNamespace::User,
            namespaces: None,
            maps: IdMaps::single(),
            upper: None,
        }),
    }
}

fn attempt_root(folder: Option<&Path>) -> Result<Found, Refusal> {
    let refused = |tried: &str, reason: String, fix: Option<String>| Refusal {
        rung: Rung::Root,
        tried: tried.to_owned(),
        reason,
        cause: None,
        fix,
    };
    if !has_capabilities(CapabilitySet::SYS_ADMIN) {
        return Err(refused(
            "look at this process's capabilities",
            "CAP_SYS_ADMIN is missing".to_owned(),
            Some("run as root, or in a container with `--privileged`".to_owned()),
        ));
    }
    let probe = Probe::start(UnshareFlags::NEWNS, None)
        .map_err(|failure| failure.into_refusal(Rung::Root))?;
    let capable = probe
        .finish(folder)
        .map_err(|failure| failure.into_refusal(Rung::Root))?;
    let maps = IdMaps::identity()
        .map_err(|error| refused("read this process's ids", error.to_string(), None))?;
    Ok(Found {
        maps,
        upper: capable.upper,
        isolation: Isolation::Root,
        xattr_namespace: if capable.trusted_xattrs {
            XattrNamespace::Trusted
        } else {
            XattrNamespace::User
        },
        namespaces: None,
    })
}

fn attempt_range(folder: Option<&Path>) -> Result<Found, Refusal> {
    let rung = Rung::UserNamespace;
    let refused = |tried: &str, MapError { reason, fix }: MapError| Refusal {
        rung,
        tried: tried.to_owned(),
        reason,
        cause: None,
        fix,
    };
    // CAP_SETFCAP is asked for by the kernel when user 0 is mapped.
    let ours =
        has_capabilities(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP);
    let maps = if ours {
        IdMaps::identity().map_err(|error| MapError {
            reason: error.to_string(),
            fix: None,
        })
    } else {
        IdMaps::lent()
    }
    .map_err(|error| refused("find a range of ids", error))?;
    if count(&maps.users) < 2 || count(&maps.groups) < 2 {
        return Err(refused(
            "find a range of ids",
            MapError {
                reason: "this user namespace has one id only, so there is no range to hand on"
                    .to_owned(),
                fix: Some("map more ids into the container".to_owned()),
            },
        ));
    }
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    let probe = Probe::start(flags, None).map_err(|failure| failure.into_refusal(rung))?;
    if ours {
        maps.write(probe.pid).map_err(|error| MapError {
            reason: error.to_string(),
            fix: None,
        })
    } else {
        maps.write_by_programs(probe.pid)
    }
    .map_err(|error| refused("write the id map of a user namespace", error))?;
    let namespaces = probe
        .namespaces()
        .map_err(|failure| failure.into_refusal(rung))?;
    let capable = probe
        .finish(folder)
        .map_err(|failure| failure.into_refusal(rung))?;
    Ok(Found {
        isolation: Isolation::UserNamespace {
            range: maps.users.clone(),
        },
        xattr_namespace: XattrNamespace::User,
        namespaces: Some(namespaces),
        maps,
        upper: capable.upper,
    })
}

fn attempt_single(folder: Option<&Path>) -> Result<Found, Refusal> {
    let rung = Rung::UserNamespaceSingle;
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    let probe = Probe::start(flags, Some(IdMaps::single()))
        .map_err(|failure| failure.into_refusal(rung))?;
    let namespaces = probe
        .namespaces()
        .map_err(|failure| failure.into_refusal(rung))?;
    let capable = probe
        .finish(folder)
        .map_err(|failure| failure.into_refusal(rung))?;
    Ok(Found {
        isolation: Isolation::UserNamespaceSingle,
        xattr_namespace: XattrNamespace::User,
        namespaces: Some(namespaces),
        maps: IdMaps::single(),
        upper: capable.upper,
    })
}

fn attempt_chroot() -> Result<Found, Refusal> {
    let rung = Rung::Chroot;
    let refused = |tried: &str, reason: String, fix: Option<&str>| Refusal {
        rung,
        tried: tried.to_owned(),
        reason,
        cause: None,
        fix: fix.map(str::to_owned),
    };
    if !rustix::process::geteuid().is_root() {
        let fix = "run as user 0 in a container (Docker and Podman: `--user 0`)";
        let reason = "this is an ordinary user".to_owned();
        return Err(refused("look at this process's user", reason, Some(fix)));
    }
    for (capability, name) in chroot::NEEDED {
        if !has_capabilities(capability) {
            let fix = format!("in a container: `--cap-add {name}`");
            let reason = format!("CAP_{name} is missing");
            let tried = "look at this process's capabilities";
            return Err(refused(tried, reason, Some(&fix)));
        }
    }
    chroot::probe().map_err(|(tried, errno)| Refusal {
        cause: failure::cause_of(errno),
        ..refused(tried, std::io::Error::from(errno).to_string(), None)
    })?;
    let maps = IdMaps::identity()
        .map_err(|error| refused("read this process's ids", error.to_string(), None))?;
    Ok(Found {
        isolation: Isolation::Chroot,
        xattr_namespace: XattrNamespace::User,
        namespaces: None,
        maps,
        // Nothing can be mounted.
        upper: Some(libc::EPERM),
    })
}

fn count(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.2)).sum()
}

fn has_capabilities(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_are_known_by_name() {
        for rung in Rung::SANDBOXES.into_iter().chain([Rung::None]) {
            assert_eq!(rung.name().parse(), Ok(rung));
        }
        assert_eq!(
            "docker".parse::<Rung>().unwrap_err().to_string(),
            "unknown isolation `docker`: expected `root`, `userns`, `userns-single`, `chroot` or `none`"
        );
    }
}
