//! Programs of other processors: whether they run here, and making them run.
//!
//! In this order: the machine runs them, by its processor or by what is registered with its
//! `binfmt_misc`, which is found out by running one; else QEMU's emulator on PATH is registered in
//! a user namespace of rbuild's own ([`instance`]), which steps of that processor enter. Nothing is
//! left on the machine, and steps for its own processor never come here.
//!
//! Lives in processes with one thread: the launcher, which keeps what it has found out, and the
//! one that `rbuild doctor` asks.

mod instance;
mod machine;
mod program;
mod report;
mod trial;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::instance::{Instance, Missing};
use self::machine::{MACHINES, Machine};
use self::program::Search;
use crate::platform::Platform;

pub(super) use instance::join;
pub use report::{Means, PlatformReport, diagnose};

/// Why programs of a platform can't be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "programs for {platform} don't run on this machine: {reason}{}",
    .fix.as_ref().map(|fix| format!("; to fix it: {fix}")).unwrap_or_default()
)]
pub struct Unavailable {
    /// The platform: `linux/arm64`.
    pub platform: String,
    /// What is missing.
    pub reason: String,
    /// What makes it work.
    pub fix: Option<String>,
}

/// What is known, and what was made.
pub(super) struct Emulation {
    /// Where emulators are looked for.
    folders: Vec<PathBuf>,
    /// Whether steps can be in a user namespace of their own.
    can_enter: bool,
    instance: Option<Result<Instance, Missing>>,
    known: BTreeMap<&'static str, Result<Means, Unavailable>>,
}

impl Emulation {
    /// Knows nothing yet. Without `can_enter`, steps can't be in a user namespace of their own.
    pub(super) fn new(folders: Vec<PathBuf>, can_enter: bool) -> Self {
        Self {
            folders,
            can_enter,
            instance: None,
            known: BTreeMap::new(),
        }
    }

    /// Sees to it that programs of the platform run. Gives the user namespace that they have to be
    /// in, where it must be another one. In `place` one is tried where nothing can be mounted.
    pub(super) fn provide(
        &mut self,
        platform: &Platform,
        place: Option<&Path>,
    ) -> Result<Option<BorrowedFd<'_>>, Unavailable> {
        match self.means(platform, place)? {
            Means::Processor | Means::Machine => Ok(None),
            Means::Emulator { .. } => Ok(match &self.instance {
                Some(Ok(instance)) => Some(instance.user_namespace()),
                _ => None,
            }),
        }
    }

    /// By what means they run, which is made where it isn't there yet.
    pub(super) fn means(
        &mut self,
        platform: &Platform,
        place: Option<&Path>,
    ) -> Result<Means, Unavailable> {
        let host = Platform::host();
        if platform.os == host.os && platform.architecture == host.architecture {
            return Ok(Means::Processor);
        }
        let machine = Machine::of(platform).ok_or_else(|| Unavailable {
            platform: platform.to_string(),
            reason: format!("it is {host}, and there is no way to emulate them"),
            fix: None,
        })?;
        if let Some(known) = self.known.get(machine.architecture) {
            return known.clone();
        }
        let found = self.find(machine, platform, &host, place);
        self.known.insert(machine.architecture, found.clone());
        found
    }

    fn find(
        &mut self,
        machine: &'static Machine,
        platform: &Platform,
        host: &Platform,
        place: Option<&Path>,
    ) -> Result<Means, Unavailable> {
        let unavailable = |reason: String, fix: Option<String>| Unavailable {
            platform: platform.to_string(),
            reason,
            fix,
        };
        let tried = |inside: Option<BorrowedFd<'_>>| {
            trial::runs(machine, inside, place)
                .map_err(|errno| unavailable(format!("none can be tried: {errno}"), None))
        };
        if tried(None)? {
            return Ok(match machine.is_native_on(&host.architecture) {
                true => Means::Processor,
                false => Means::Machine,
            });
        }
        let emulator = format!("qemu-{}-static", machine.qemu);
        let install = format!("install the package `{PACKAGE}`, or put `{emulator}` on PATH");
        let path = match program::search(machine, &self.folders) {
            Search::Found(path) => path,
            Search::Dynamic(path) => {
                let path = path.display();
                let reason = format!("`{path}` needs libraries of this machine, which no step has");
                return Err(unavailable(reason, Some(install)));
            }
            Search::Nothing => {
                let reason = format!("there is no `{emulator}` on PATH");
                return Err(unavailable(reason, Some(install)));
            }
        };
        let shown = path.display();
        let refused = |reason: String| {
            let reason = format!("`{shown}` can't be registered for the build: {reason}");
            let fix = format!(
                "register emulators with the machine: install the package `{PACKAGE}` there (from \
                 Debian 13 on, `qemu-user-binfmt`)"
            );
            unavailable(reason, Some(fix))
        };
        if !self.can_enter {
            return Err(refused(
                "with the isolation `chroot` steps have no user namespace".to_owned(),
            ));
        }
        let instance = match self.instance.get_or_insert_with(Instance::make) {
            Ok(instance) => instance,
            Err(missing) => return Err(refused(missing.to_string())),
        };
        let kernel = |errno: Errno| refused(format!("the kernel says: {errno}"));
        // The second way is for emulators from before they were told their program's own name.
        for keeps_argument in [true, false] {
            let line = path.to_str();
            let line = line.and_then(|path| machine.registration(path, keeps_argument));
            let line = line.ok_or_else(|| refused("its path can't be written".to_owned()))?;
            instance.register(&line).map_err(kernel)?;
            if tried(Some(instance.user_namespace()))? {
                return Ok(Means::Emulator {
                    path: path.as_path().into(),
                });
            }
            let name = machine.name();
            instance.unregister(&name).map_err(kernel)?;
        }
        let reason = format!("`{shown}` doesn't run them either");
        Err(unavailable(reason, Some(install)))
    }
}

/// Has emulators that are statically linked, and registers them where it is installed.
const PACKAGE: &str = "qemu-user-static";

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = |errno: i32| std::io::Error::from_raw_os_error(errno);
        match *self {
            Self::Process(errno) => write!(f, "no process can be started: {}", said(errno)),
            Self::UserNamespace(errno) => {
                write!(f, "no user namespace can be made: {}", said(errno))
            }
            Self::Ids(errno) => write!(f, "no user namespace gets ids: {}", said(errno)),
            Self::Registry(errno) if errno == Errno::PERM.raw_os_error() => {
                f.write_str("user namespaces have no `binfmt_misc` of their own before Linux 6.7")
            }
            Self::Registry(errno) if errno == Errno::NODEV.raw_os_error() => {
                f.write_str("this kernel has no `binfmt_misc`")
            }
            Self::Registry(errno) => write!(f, "`binfmt_misc` is refused: {}", said(errno)),
        }
    }
}
