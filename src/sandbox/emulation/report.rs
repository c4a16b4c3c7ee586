//! What `rbuild doctor` asks: which platforms' programs run here, and how.

use std::path::{Path, PathBuf};

use rustix::process::WaitOptions;
use serde::{Deserialize, Serialize};

use super::{Emulation, MACHINES, Unavailable};
use crate::platform::Platform;
use crate::sandbox::channel::{Channel, retry};
use crate::sandbox::isolation::{self, Rung};
use crate::sandbox::process;
use crate::sandbox::spec::HostPath;
use crate::sandbox::syscall::{self, Fork};

/// By what programs of a platform run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Means {
    /// This machine's processor.
    Processor,
    /// An emulator that is registered with the machine.
    Machine,
    /// An emulator that rbuild registers for its steps.
    Emulator {
        /// Where it is.
        path: HostPath,
    },
}

/// What is known of one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformReport {
    /// Its name: `linux/arm64`.
    pub platform: String,
    /// By what its programs run, or why they don't and what to do about it.
    pub means: Result<Means, Unavailable>,
}

/// Tries every platform on a rung, with the emulators in `folders`, in a process of its own, and where
/// nothing can be mounted in `place`. Empty where there is no sandbox to try them in. Only before any
/// thread exists.
pub fn diagnose(rung: Rung, folders: &[PathBuf], place: &Path) -> Vec<PlatformReport> {
    if rung == Rung::None {
        return Vec::new();
    }
    let Ok((near, far)) = Channel::pair() else {
        return Vec::new();
    };
    match syscall::fork() {
        Ok(Fork::Child) => {
            drop(near);
            // Nobody is left to be told if this fails.
            let _ = far.send(&try_all(rung, folders, place), &[]);
            syscall::exit(0)
        }
        Ok(Fork::Parent(pid)) => {
            drop(far);
            let reports = near.receive::<Vec<PlatformReport>>();
            let _ = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
            reports
                .ok()
                .flatten()
                .map_or_else(Vec::new, |received| received.message)
        }
        Err(_) => Vec::new(),
    }
}

fn try_all(rung: Rung, folders: &[PathBuf], place: &Path) -> Vec<PlatformReport> {
    let Ok(found) = isolation::attempt(rung, None) else {
        return Vec::new();
    };
    if process::enter_found(&found).is_err() {
        return Vec::new();
    }
    let mut emulation = Emulation::new(folders.to_vec(), rung != Rung::Chroot);
    let reports = MACHINES.iter().map(|machine| {
        let platform = Platform::new("linux", machine.architecture, None);
        PlatformReport {
            means: emulation.means(&platform, Some(place)),
            platform: platform.to_string(),
        }
    });
    let mut reports: Vec<PlatformReport> = reports.collect();
    // What runs first, and of that what needs nobody.
    reports.sort_by_key(|report| match &report.means {
        Ok(Means::Processor) => 0,
        Ok(_) => 1,
        Err(_) => 2,
    });
    reports
}
