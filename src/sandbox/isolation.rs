//! Which rung of the isolation ladder works here, found by trying it in a throw-away process:
//! what a kernel, a container engine or a security module refuses can't be told beforehand, and
//! entering a namespace can't be undone.
//!
//! Each rung that is refused leaves a [`Refusal`]: what was tried, what refused it, and what to
//! do about it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, retry};
use super::id_map::{IdMaps, IdRange, MapError};
use super::mount::{self, MountError};
use super::spec::XattrNamespace;
use super::syscall::{self, Fork};

/// The rungs of the ladder, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Namespaces made with `CAP_SYS_ADMIN`.
    Root,
    /// A user namespace with a range of ids.
    UserNamespace,
    /// A user namespace with one id.
    UserNamespaceSingle,
    /// No sandbox: everything but RUN.
    None,
}

impl Rung {
    /// Every rung that makes a sandbox, strongest first.
    pub const SANDBOXES: [Self; 3] = [Self::Root, Self::UserNamespace, Self::UserNamespaceSingle];

    /// The name that `--isolation` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::UserNamespace => "userns",
            Self::UserNamespaceSingle => "userns-single",
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
#[error("unknown isolation `{0}`: expected `root`, `userns`, `userns-single` or `none`")]
pub struct UnknownRung(pub String);

impl std::str::FromStr for Rung {
    type Err = UnknownRung;

    fn from_str(name: &str) -> Result<Self, UnknownRung> {
        [
            Self::Root,
            Self::UserNamespace,
            Self::UserNamespaceSingle,
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
    /// What makes it work: a command or a setting.
    pub fix: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.rung, self.tried, self.reason)?;
        match &self.fix {
            Some(fix) => write!(f, "; to fix it: {fix}"),
            None => Ok(()),
        }
    }
}

/// What was found out about one rung.
pub struct Attempt {
    /// The rung.
    pub rung: Rung,
    /// Whether it works.
    pub result: Result<(), Refusal>,
}

/// Tries every rung and changes nothing. Only before any thread exists.
pub fn diagnose() -> Vec<Attempt> {
    Rung::SANDBOXES
        .into_iter()
        .map(|rung| Attempt {
            rung,
            result: attempt(rung).map(drop),
        })
        .collect()
}

/// A rung that works, ready to be entered.
pub(super) struct Found {
    pub(super) isolation: Isolation,
    pub(super) xattr_namespace: XattrNamespace,
    /// The user and mount namespace that were made and tried, where the rung has them.
    pub(super) namespaces: Option<Namespaces>,
}

pub(super) struct Namespaces {
    pub(super) user: OwnedFd,
    pub(super) mount: OwnedFd,
}

/// Tries one rung.
pub(super) fn attempt(rung: Rung) -> Result<Found, Refusal> {
    match rung {
        Rung::Root => attempt_root(),
        Rung::UserNamespace => attempt_range(),
        Rung::UserNamespaceSingle => attempt_single(),
        Rung::None => Ok(Found {
            isolation: Isolation::None,
            xattr_namespace: XattrNamespace::User,
            namespaces: None,
        }),
    }
}

fn attempt_root() -> Result<Found, Refusal> {
    let refused = |tried: &str, reason: String, fix: Option<String>| Refusal {
        rung: Rung::Root,
        tried: tried.to_owned(),
        reason,
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
        .finish()
        .map_err(|failure| failure.into_refusal(Rung::Root))?;
    Ok(Found {
        isolation: Isolation::Root,
        xattr_namespace: if capable.trusted_xattrs {
            XattrNamespace::Trusted
        } else {
            XattrNamespace::User
        },
        namespaces: None,
    })
}

fn attempt_range() -> Result<Found, Refusal> {
    let rung = Rung::UserNamespace;
    let refused = |tried: &str, MapError { reason, fix }: MapError| Refusal {
        rung,
        tried: tried.to_owned(),
        reason,
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
    probe
        .finish()
        .map_err(|failure| failure.into_refusal(rung))?;
    Ok(Found {
        isolation: Isolation::UserNamespace { range: maps.users },
        xattr_namespace: XattrNamespace::User,
        namespaces: Some(namespaces),
    })
}

fn attempt_single() -> Result<Found, Refusal> {
    let rung = Rung::UserNamespaceSingle;
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    let probe = Probe::start(flags, Some(IdMaps::single()))
        .map_err(|failure| failure.into_refusal(rung))?;
    let namespaces = probe
        .namespaces()
        .map_err(|failure| failure.into_refusal(rung))?;
    probe
        .finish()
        .map_err(|failure| failure.into_refusal(rung))?;
    Ok(Found {
        isolation: Isolation::UserNamespaceSingle,
        xattr_namespace: XattrNamespace::User,
        namespaces: Some(namespaces),
    })
}

fn count(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.2)).sum()
}

fn has_capabilities(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// What a probe's process tries, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Trial {
    Fork,
    Unshare,
    MapIds,
    OpenNamespaces,
    Tmpfs,
    Overlay,
    Namespaces,
}

impl Trial {
    fn describe(self) -> &'static str {
        match self {
            Self::Fork => "start a process to try it in",
            Self::Unshare => "make user and mount namespaces",
            Self::MapIds => "map the own id in a user namespace",
            Self::OpenNamespaces => "open the new namespaces in /proc",
            Self::Tmpfs => "mount a tmpfs",
            Self::Overlay => "mount an overlay",
            Self::Namespaces => "make process, IPC, host name and cgroup namespaces",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Failure {
    trial: Trial,
    errno: i32,
}

impl Failure {
    fn new(trial: Trial, errno: Errno) -> Self {
        Self {
            trial,
            errno: errno.raw_os_error(),
        }
    }

    fn into_refusal(self, rung: Rung) -> Refusal {
        Refusal {
            rung,
            tried: self.trial.describe().to_owned(),
            reason: std::io::Error::from_raw_os_error(self.errno).to_string(),
            fix: self.fix(rung),
        }
    }

    /// What usually stands behind a refusal at this point.
    fn fix(&self, rung: Rung) -> Option<String> {
        let setting = |path: &str| std::fs::read_to_string(path).ok();
        let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
        let fix = match self.trial {
            Trial::Unshare | Trial::MapIds | Trial::Namespaces => {
                if is("/proc/sys/user/max_user_namespaces", "0") {
                    "sysctl -w user.max_user_namespaces=15000"
                } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
                    "sysctl -w kernel.unprivileged_userns_clone=1"
                } else if is(
                    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                    "1",
                ) {
                    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give rbuild an AppArmor profile that allows `userns`"
                } else if self.errno == Errno::NOSPC.raw_os_error() {
                    "raise the limits in /proc/sys/user"
                } else {
                    "in a container: allow the system calls unshare, clone and mount (Docker and Podman: `--security-opt seccomp=unconfined`); not in a chroot"
                }
            }
            Trial::Tmpfs | Trial::Overlay => {
                if rung != Rung::Root
                    && is(
                        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                        "1",
                    )
                {
                    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give rbuild an AppArmor profile that allows `userns`"
                } else if self.errno == Errno::NODEV.raw_os_error() {
                    "load the kernel module: modprobe overlay"
                } else if rung != Rung::Root && self.trial == Trial::Overlay {
                    "use Linux 5.11 or newer; in a container: `--security-opt apparmor=unconfined`"
                } else {
                    "in a container: `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`"
                }
            }
            Trial::OpenNamespaces => "mount /proc",
            Trial::Fork => return None,
        };
        Some(fix.to_owned())
    }
}

/// What a probe that succeeded learnt beside.
#[derive(Serialize, Deserialize)]
struct Capable {
    trusted_xattrs: bool,
}

/// A process that has entered new namespaces and waits to be told to try mounts in them.
struct Probe {
    pid: Pid,
    channel: Channel,
}

impl Probe {
    /// Starts it; it writes `own_maps` itself, if given.
    fn start(flags: UnshareFlags, own_maps: Option<IdMaps>) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(Trial::Fork, errno);
        let (near, far) = Channel::pair().map_err(failed)?;
        match syscall::fork().map_err(failed)? {
            Fork::Child => {
                drop(near);
                try_namespaces(&far, flags, own_maps);
                syscall::exit(0)
            }
            Fork::Parent(pid) => {
                drop(far);
                let probe = Self { pid, channel: near };
                probe.answer::<()>()??;
                Ok(probe)
            }
        }
    }

    fn answer<T: serde::de::DeserializeOwned>(&self) -> Result<Result<T, Failure>, Failure> {
        match self.channel.receive() {
            Ok(Some(received)) => Ok(received.message),
            Ok(None) => Err(Failure::new(Trial::Fork, Errno::CHILD)),
            Err(errno) => Err(Failure::new(Trial::Fork, errno)),
        }
    }

    /// Handles on its namespaces, which keep them alive.
    fn namespaces(&self) -> Result<Namespaces, Failure> {
        let open = |kind: &str| {
            rustix::fs::open(
                format!("/proc/{}/ns/{kind}", self.pid.as_raw_nonzero()),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| Failure::new(Trial::OpenNamespaces, errno))
        };
        Ok(Namespaces {
            user: open("user")?,
            mount: open("mnt")?,
        })
    }

    /// Has it try the rest.
    fn finish(self) -> Result<Capable, Failure> {
        self.channel
            .send(&(), &[])
            .map_err(|errno| Failure::new(Trial::Fork, errno))?;
        self.answer::<Capable>()?
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Without a word from us it ends.
        self.channel.shutdown();
        let _ = retry(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()));
    }
}

/// The probe's process.
fn try_namespaces(channel: &Channel, flags: UnshareFlags, own_maps: Option<IdMaps>) {
    let entered = syscall::unshare(flags)
        .map_err(|errno| Failure::new(Trial::Unshare, errno))
        .and_then(|()| match own_maps {
            Some(maps) => maps.write_own().map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Failure::new(Trial::MapIds, errno)
            }),
            None => Ok(()),
        });
    if channel.send(&entered, &[]).is_err() || entered.is_err() {
        return;
    }
    if let Ok(Some(_)) = channel.receive::<()>() {
        // The answer's reader may be gone; so are we, then.
        let _ = channel.send(&try_mounts(), &[]);
    }
}

fn try_mounts() -> Result<Capable, Failure> {
    let failed = |trial| move |error: MountError| Failure::new(trial, error.errno);
    // The namespace that may be kept stays clean.
    syscall::unshare(UnshareFlags::NEWNS)
        .and_then(|()| {
            rustix::mount::mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )
        })
        .map_err(|errno| Failure::new(Trial::Unshare, errno))?;
    let tmpfs = mount::private_tmpfs().map_err(failed(Trial::Tmpfs))?;
    let root = mount::open_host("/".as_ref()).map_err(|errno| Failure::new(Trial::Tmpfs, errno))?;
    // What lies over `/` hides nothing from a process whose root is beneath.
    mount::attach(tmpfs.as_fd(), root.as_fd())
        .map_err(|errno| Failure::new(Trial::Tmpfs, errno))?;
    let trusted_xattrs = try_overlay(&tmpfs)?;
    syscall::unshare(
        UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
    .map_err(|errno| Failure::new(Trial::Namespaces, errno))?;
    Ok(Capable { trusted_xattrs })
}

/// Whether an overlay can be mounted, and whether its marks can be `trusted` attributes.
fn try_overlay(tmpfs: &OwnedFd) -> Result<bool, Failure> {
    let failed = |errno| Failure::new(Trial::Overlay, errno);
    let mut layers = Vec::new();
    for name in ["a", "b"] {
        layers.push(mount::make_directory(tmpfs.as_fd(), name).map_err(failed)?);
    }
    let readable = rustix::fs::openat(
        tmpfs,
        "a",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    let trusted_xattrs = rustix::fs::fsetxattr(
        &readable,
        "trusted.overlay.opaque",
        b"n",
        rustix::fs::XattrFlags::empty(),
    )
    .is_ok();
    let lower: Vec<String> = layers
        .iter()
        .map(|layer| mount::descriptor_path(layer.as_fd()))
        .collect();
    let lower = lower.join(":");
    let mut options = vec![("lowerdir", Some(lower.as_str()))];
    if !trusted_xattrs {
        options.push(("userxattr", None));
    }
    mount::new_filesystem("overlay", &options, MountAttrFlags::empty())
        .map_err(|error| failed(error.errno))?;
    Ok(trusted_xattrs)
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
            "unknown isolation `docker`: expected `root`, `userns`, `userns-single` or `none`"
        );
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = Failure::new(Trial::Overlay, Errno::NODEV).into_refusal(Rung::Root);
        assert_eq!(
            refusal.to_string(),
            "root: mount an overlay: No such device (os error 19); to fix it: load the kernel module: modprobe overlay"
        );
    }
}
