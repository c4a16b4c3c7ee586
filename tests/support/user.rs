//! As whom a test runs rbuild: root, or an unprivileged user with a range of subordinate ids.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{needs::program, skip};

/// Who runs a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Caller,
    /// Another user; only root can start programs as one.
    Other {
        /// Numeric user id.
        uid: u32,
        /// Numeric id of its first group.
        gid: u32,
        /// Whether it may have no entry in /etc/passwd: then no supplementary groups are looked up.
        nameless: bool,
    },
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a case as root and as an unprivileged user; where the tests themselves run as an ordinary
/// user, just as that one.
pub(crate) fn each_user(case: impl Fn(&User)) {
    case(&User::Caller);
    if is_root() {
        as_other_user(case);
    }
}

/// Runs a case as the unprivileged user, or says why not.
pub(crate) fn as_other_user(case: impl FnOnce(&User)) {
    match test_user() {
        Some(user) => case(&user),
        None => skip(
            "not tried as an unprivileged user: make one with a range in /etc/subuid and \
             /etc/subgid and name it in RBUILD_TEST_USER",
        ),
    }
}

/// The unprivileged user: `RBUILD_TEST_USER`, else `rbuild-test` where there is one.
pub(super) fn test_user() -> Option<User> {
    let name = std::env::var("RBUILD_TEST_USER").unwrap_or_else(|_| "rbuild-test".into());
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(&name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User::Other {
        uid,
        gid,
        nameless: false,
    })
}

impl User {
    /// A user that the machine doesn't know: no name, no home, no subordinate ids.
    pub(crate) fn stranger() -> User {
        User::Other {
            uid: 54_321,
            gid: 54_321,
            nameless: true,
        }
    }

    /// Whether this user is root.
    pub(crate) fn is_root(&self) -> bool {
        *self == User::Caller && is_root()
    }

    /// A command that runs `program` as this user, its environment empty but for PATH.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self {
            User::Caller => Command::new(program),
            User::Other { uid, gid, nameless } => {
                let mut command = Command::new(setpriv());
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .arg(if *nameless {
                        "--clear-groups"
                    } else {
                        "--init-groups"
                    })
                    .args(["--inh-caps=-all", "--"])
                    .arg(program);
                command
            }
        };
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .current_dir("/");
        command
    }

    /// Makes a path this user's own.
    pub(crate) fn own(&self, path: &Path) {
        if let User::Other { uid, gid, .. } = self {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).unwrap();
        }
    }

    /// The rbuild binary, at a place that this user can reach.
    pub(crate) fn binary(&self) -> PathBuf {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_rbuild"));
        match self {
            User::Caller => built,
            User::Other { .. } => {
                static REACHABLE: OnceLock<PathBuf> = OnceLock::new();
                REACHABLE
                    .get_or_init(|| {
                        if reachable_by_all(&built) {
                            built
                        } else {
                            copy_for_all(&built)
                        }
                    })
                    .clone()
            }
        }
    }
}

fn setpriv() -> PathBuf {
    program("setpriv").expect("`setpriv` (util-linux) is needed to run as another user")
}

/// Whether every folder on the way lets everyone through.
fn reachable_by_all(path: &Path) -> bool {
    path.ancestors().all(|part| {
        part.as_os_str().is_empty()
            || std::fs::metadata(part).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
    })
}

/// A copy in a folder that everyone can reach, kept for later runs and replaced when it is old.
fn copy_for_all(binary: &Path) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("rbuild-test-binary-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.join("rbuild");
    std::fs::copy(binary, &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}
