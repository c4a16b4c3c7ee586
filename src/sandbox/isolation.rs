//! Which rung of the isolation ladder works here, found by trying it in a throw-away process:
//! what a kernel, a container engine or a security module refuses can't be told beforehand, and
//! entering a namespace can't be undone.
//!
//! Each rung that is refused leaves a [`Refusal`]: what was tried, what refused it, and what to
//! do about it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, retry};
use super::id_map::{IdMaps, IdRange, MapError};
use super::mount::{self, MountError, Overlay};
use super::spec::{HostPath, XattrNamespace};
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
            result: attempt_at(rung, Some(folder)).map(|found| Works {
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

pub(super) struct Namespaces {
    pub(super) user: OwnedFd,
    pub(super) mount: OwnedFd,
}

/// Tries one rung.
pub(super) fn attempt(rung: Rung) -> Result<Found, Refusal> {
    attempt_at(rung, None)
}

/// The same, and whether overlay can write to `folder`.
fn attempt_at(rung: Rung, folder: Option<&Path>) -> Result<Found, Refusal> {
    match rung {
        Rung::Root => attempt_root(folder),
        Rung::UserNamespace => attempt_range(folder),
        Rung::UserNamespaceSingle => attempt_single(folder),
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

fn count(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.2)).sum()
}

fn has_capabilities(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

const MAX_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";
const USERNS_CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";
const APPARMOR_RESTRICTION: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

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

impl Trial {
    /// The system call behind it, where its description doesn't say.
    fn call(self) -> Option<&'static str> {
        match self {
            Self::Unshare | Self::Namespaces => Some("unshare"),
            Self::Fork | Self::MapIds | Self::OpenNamespaces | Self::Tmpfs | Self::Overlay => None,
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
        let tried = match self.trial.call() {
            Some(call) => format!("{} with `{call}`", self.trial.describe()),
            None => self.trial.describe().to_owned(),
        };
        Refusal {
            rung,
            tried,
            reason: std::io::Error::from_raw_os_error(self.errno).to_string(),
            cause: self.cause(rung),
            fix: self.fix(rung),
        }
    }

    /// What stands behind a refusal at this point, where it can be told.
    fn cause(&self, rung: Rung) -> Option<String> {
        let setting = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned())
        };
        let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
        let namespaces = matches!(
            self.trial,
            Trial::Unshare | Trial::MapIds | Trial::Namespaces
        );
        if namespaces && is(MAX_NAMESPACES, "0") {
            return Some("user.max_user_namespaces is 0".to_owned());
        }
        if namespaces && is(USERNS_CLONE, "0") {
            return Some("kernel.unprivileged_userns_clone is 0".to_owned());
        }
        if rung != Rung::Root && is(APPARMOR_RESTRICTION, "1") {
            return Some("AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1".to_owned());
        }
        let refused = [Errno::PERM, Errno::ACCESS]
            .iter()
            .any(|errno| errno.raw_os_error() == self.errno);
        if !refused {
            return None;
        }
        let profile = setting("/proc/self/attr/current").unwrap_or_default();
        if profile.ends_with("(enforce)") {
            return Some(format!("AppArmor's profile `{profile}`"));
        }
        let status = setting("/proc/self/status").unwrap_or_default();
        if status.lines().any(|line| line == "Seccomp:\t2") {
            return Some("a system call filter (seccomp)".to_owned());
        }
        (rung != Rung::Root && self.trial == Trial::Overlay).then(|| {
            let release = rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned();
            format!("Linux {release}; overlay in user namespaces came with 5.11")
        })
    }

    /// What usually mends a refusal at this point.
    fn fix(&self, rung: Rung) -> Option<String> {
        let setting = |path: &str| std::fs::read_to_string(path).ok();
        let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
        let fix = match self.trial {
            Trial::Unshare | Trial::MapIds | Trial::Namespaces => {
                if is(MAX_NAMESPACES, "0") {
                    "sysctl -w user.max_user_namespaces=15000"
                } else if is(USERNS_CLONE, "0") {
                    "sysctl -w kernel.unprivileged_userns_clone=1"
                } else if is(APPARMOR_RESTRICTION, "1") {
                    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give rbuild an AppArmor profile that allows `userns`"
                } else if self.errno == Errno::NOSPC.raw_os_error() {
                    "raise the limits in /proc/sys/user"
                } else {
                    "in a container: allow the system calls unshare, clone and mount (Docker and Podman: `--security-opt seccomp=unconfined`); not in a chroot"
                }
            }
            Trial::Tmpfs | Trial::Overlay => {
                if rung != Rung::Root && is(APPARMOR_RESTRICTION, "1") {
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
    /// See [`Found`].
    upper: Option<i32>,
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

    /// Has it try the rest, and to write to `folder`.
    fn finish(self, folder: Option<&Path>) -> Result<Capable, Failure> {
        self.channel
            .send(&folder.map(HostPath::from), &[])
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
    if let Ok(Some(received)) = channel.receive::<Option<HostPath>>() {
        let folder = received.message;
        // The answer's reader may be gone; so are we, then.
        let _ = channel.send(&try_mounts(folder.as_ref()), &[]);
    }
}

fn try_mounts(folder: Option<&HostPath>) -> Result<Capable, Failure> {
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
    let upper = folder.map(
        |folder| match try_upper(folder.as_path(), &tmpfs, trusted_xattrs) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        },
    );
    syscall::unshare(
        UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
    .map_err(|errno| Failure::new(Trial::Namespaces, errno))?;
    Ok(Capable {
        trusted_xattrs,
        upper,
    })
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

/// Whether overlay can write to a folder of this machine. What is made there for it goes again.
fn try_upper(folder: &Path, tmpfs: &OwnedFd, trusted_xattrs: bool) -> Result<(), Errno> {
    // Seen from the folder itself: what lies over `/` by now hides nothing below it.
    let name = format!(".rbuild-probe-{}", std::process::id());
    let place = folder.join(&name);
    let kernel = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    std::fs::create_dir(&place).map_err(kernel)?;
    let result = (|| {
        let here = mount::open_host(&place)?;
        let upper = mount::make_directory(here.as_fd(), "upper")?;
        let work = mount::make_directory(here.as_fd(), "work")?;
        let lower = mount::make_directory(tmpfs.as_fd(), "lower")?;
        let lower = mount::descriptor_path(lower.as_fd());
        let overlay = Overlay {
            lower: vec![Path::new(&lower)],
            writable: Some((upper.as_fd(), work.as_fd())),
            xattr_namespace: match trusted_xattrs {
                true => XattrNamespace::Trusted,
                false => XattrNamespace::User,
            },
        };
        let workshop = mount::make_directory(tmpfs.as_fd(), "workshop")?;
        let mounted = overlay
            .mount(workshop.as_fd())
            .map_err(|error| error.error.errno)?;
        // A file system may take the mount and not the marks.
        rustix::fs::mkdirat(&mounted, "folder", Mode::from(0o755))?;
        rustix::fs::unlinkat(&mounted, "folder", AtFlags::REMOVEDIR)
    })();
    // Best effort: what can't be removed is empty folders.
    let _ = crate::fs::remove::remove_folder(&place);
    result
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
