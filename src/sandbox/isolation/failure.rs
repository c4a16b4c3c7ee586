//! What a refusal of the kernel means: the setting or security module behind it, and what mends it.
//! Only reads.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Refusal, Rung};

const MAX_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";
const USERNS_CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";
const APPARMOR_RESTRICTION: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// What a probe's process tries, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trial {
    Fork,
    Unshare,
    MapIds,
    OpenNamespaces,
    Tmpfs,
    Copy,
    Overlay,
    Namespaces,
    Supervision,
}

impl Trial {
    fn describe(self) -> &'static str {
        match self {
            Self::Fork => "start a process to try it in",
            Self::Unshare => "make user and mount namespaces",
            Self::MapIds => "map the own id in a user namespace",
            Self::OpenNamespaces => "open the new namespaces in /proc",
            Self::Tmpfs => "mount a tmpfs",
            Self::Copy => "copy a mount",
            Self::Overlay => "mount an overlay",
            Self::Namespaces => "make process, IPC, host name and cgroup namespaces",
            Self::Supervision => "have one process answer the system calls of another",
        }
    }
}

impl Trial {
    /// The system call behind it, where its description doesn't say.
    fn call(self) -> Option<&'static str> {
        match self {
            Self::Unshare | Self::Namespaces => Some("unshare"),
            Self::Supervision => Some("seccomp"),
            Self::Copy => Some("open_tree"),
            Self::Fork | Self::MapIds | Self::OpenNamespaces | Self::Tmpfs | Self::Overlay => None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    trial: Trial,
    errno: i32,
}

impl Failure {
    pub(super) fn new(trial: Trial, errno: Errno) -> Self {
        Self {
            trial,
            errno: errno.raw_os_error(),
        }
    }

    pub(super) fn into_refusal(self, rung: Rung) -> Refusal {
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
        if let Some(cause) = security_module() {
            return Some(cause);
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
            Trial::Tmpfs | Trial::Copy | Trial::Overlay
                if self.errno == Errno::NOSYS.raw_os_error() =>
            {
                "use Linux 5.4 or newer, which has fsopen, fsconfig, fsmount, open_tree and move_mount; in a container, whose filter may hide them: `--security-opt seccomp=unconfined`"
            }
            Trial::Tmpfs | Trial::Copy | Trial::Overlay => {
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
            Trial::Supervision if self.errno == Errno::BUSY.raw_os_error() => {
                "the container's engine answers system calls itself, and the kernel has one such place only: give the user a range of ids (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`)"
            }
            Trial::Supervision => {
                "use Linux 5.5 or newer, or give the user a range of ids (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`)"
            }
            Trial::Fork => return None,
        };
        Some(fix.to_owned())
    }
}

/// What stands behind an error, where it is a refusal and that can be told.
pub(super) fn cause_of(errno: Errno) -> Option<String> {
    match errno {
        Errno::PERM | Errno::ACCESS => security_module(),
        _ => None,
    }
}

/// A security module or filter that this process is under.
fn security_module() -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let profile = read("/proc/self/attr/current");
    let profile = profile.trim();
    if profile.ends_with("(enforce)") {
        return Some(format!("AppArmor's profile `{profile}`"));
    }
    let status = read("/proc/self/status");
    status
        .lines()
        .any(|line| line == "Seccomp:\t2")
        .then(|| "a system call filter (seccomp)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = Failure::new(Trial::Overlay, Errno::NODEV).into_refusal(Rung::Root);
        assert_eq!(
            refusal.to_string(),
            "root: mount an overlay: No such device (os error 19); to fix it: load the kernel module: modprobe overlay"
        );
    }
}
