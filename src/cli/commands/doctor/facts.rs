//! What there is to know about the machine, gathered once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf, absolute};

use crate::cli::error::Failure;
use crate::cli::settings::Settings;
use crate::sandbox::isolation::Attempt;
use crate::sandbox::{PlatformReport, Rung};
use crate::snapshot::StorageDriver;
use crate::store::RootChoice;

/// Everything that the report says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The kernel's release.
    pub(super) kernel: String,
    /// The user who asks.
    pub(super) uid: u32,
    /// Every rung, strongest first.
    pub(super) attempts: Vec<Attempt>,
    /// The one that was asked for.
    pub(super) forced: Option<Rung>,
    /// The one that a build would use for RUN.
    pub(super) chosen: Option<Rung>,
    /// `--storage-driver`.
    pub(super) driver: Option<StorageDriver>,
    /// Where the store is, or would be.
    pub(super) store: Place,
    /// The platforms whose programs RUN steps may start, tried on the chosen rung.
    pub(super) platforms: Vec<PlatformReport>,
}

impl Facts {
    /// Puts together what was found out.
    pub(super) fn new(attempts: Vec<Attempt>, store: Place, settings: &Settings) -> Self {
        let kernel = rustix::system::uname();
        Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            uid: settings.uid,
            chosen: choose(&attempts, settings.isolation),
            attempts,
            forced: settings.isolation,
            driver: settings.storage_driver,
            store,
            platforms: Vec::new(),
        }
    }

    /// Whether overlay can write where the store is, on the rung that a build uses, or else on the
    /// first that works at all. `None` where none does.
    pub(super) fn upper(&self) -> Option<&Result<(), String>> {
        self.tried()?.result.as_ref().ok().map(|works| &works.upper)
    }

    /// The rung that this was tried on.
    pub(super) fn rung(&self) -> Option<Rung> {
        self.tried().map(|attempt| attempt.rung)
    }

    fn tried(&self) -> Option<&Attempt> {
        let wanted = self.forced;
        self.attempts.iter().find(|attempt| {
            attempt.result.is_ok() && wanted.is_none_or(|rung| attempt.rung == rung)
        })
    }

    /// What the file systems of steps are made of.
    pub(super) fn driver(&self) -> StorageDriver {
        self.driver.unwrap_or(match self.upper() {
            Some(Err(_)) => StorageDriver::Copy,
            _ => StorageDriver::Overlay,
        })
    }
}

/// The rung that a build takes: the first that works, or the one that was asked for if it does.
fn choose(attempts: &[Attempt], forced: Option<Rung>) -> Option<Rung> {
    let attempt = attempts.iter().find(|attempt| match forced {
        Some(rung) => attempt.rung == rung,
        None => attempt.result.is_ok(),
    })?;
    attempt.result.is_ok().then_some(attempt.rung)
}

/// A folder for a store, with the file system it is on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The folder.
    pub(super) path: PathBuf,
    /// Whether it is there.
    pub(super) exists: bool,
    /// The nearest folder that is: where things are tried.
    pub(super) tried: PathBuf,
    /// What the kernel calls the file system.
    pub(super) file_system: String,
    /// Bytes that this user may still write.
    pub(super) free: u64,
    /// Its size in bytes.
    pub(super) total: u64,
    /// Why it is not the usual one.
    pub(super) note: Option<String>,
    /// Folders of other file systems that this user may write to, where overlay can: volumes.
    pub(super) volumes: Vec<PathBuf>,
}

impl Place {
    /// Looks at the store's folder, or where that would be made.
    pub(super) fn of(choice: RootChoice) -> Result<Self, Failure> {
        let unreadable = |error: &std::io::Error| {
            Failure::user(format!("can't look at `{}`", choice.path.display())).caused_by(error)
        };
        let path = absolute(&choice.path).map_err(|error| unreadable(&error))?;
        let tried = path.ancestors().find(|path| path.is_dir());
        let tried = tried.unwrap_or(Path::new("/")).to_owned();
        let found = rustix::fs::statvfs(&tried).map_err(|errno| unreadable(&errno.into()))?;
        Ok(Self {
            exists: tried == path,
            file_system: file_system(&tried).unwrap_or_else(|| "unknown".to_owned()),
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
            note: choice.note.clone(),
            volumes: volumes(),
            tried,
            path,
        })
    }
}

/// The kind of file system that holds a folder, from the kernel's list of mounts.
fn file_system(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let device = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let real = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string(MOUNTS).ok()?;
    file_system_in(&mounts, &device, &real)
}

/// The kernel's list of mounts.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Mounted folders that may hold a store.
fn volumes() -> Vec<PathBuf> {
    let writable = |path: &Path| {
        path.is_dir() && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    };
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    let mut volumes = volumes_in(&mounts);
    volumes.retain(|path| writable(path));
    volumes
}

/// Mount points of the kinds of file systems that overlay writes to and that outlive a program.
/// Neither the root directory nor what the system itself keeps in such places is anybody's volume.
fn volumes_in(mounts: &str) -> Vec<PathBuf> {
    const SYSTEM: [&str; 9] = [
        "/boot", "/dev", "/etc", "/home", "/proc", "/run", "/sys", "/usr", "/var/run",
    ];
    let mut volumes: Vec<PathBuf> = fields_of(mounts)
        .filter(|(_, _, kind)| matches!(*kind, "ext4" | "xfs" | "btrfs" | "f2fs"))
        .map(|(_, target, _)| PathBuf::from(target))
        .filter(|target| target.as_path() != Path::new("/"))
        .filter(|target| !SYSTEM.iter().any(|system| target.starts_with(system)))
        .collect();
    volumes.sort();
    volumes.dedup();
    volumes
}

/// Device, mount point and kind of every mount.
fn fields_of(mounts: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(2);
        let (device, target) = (fields.next()?, fields.nth(1)?);
        Some((device, target, right.split(' ').next()?))
    })
}

/// By device, or where the file system has one of its own for each subvolume, by path.
fn file_system_in(mounts: &str, device: &str, path: &Path) -> Option<String> {
    let mounts: Vec<(&str, &str, &str)> = fields_of(mounts).collect();
    let by_device = mounts.iter().find(|mount| mount.0 == device);
    let by_path = || {
        let above = mounts.iter().filter(|mount| path.starts_with(mount.1));
        above.max_by_key(|mount| mount.1.len())
    };
    by_device
        .or_else(by_path)
        .map(|(_, _, kind)| (*kind).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Refusal;
    use crate::sandbox::isolation::Works;

    fn attempt(rung: Rung, upper: Option<Result<(), String>>) -> Attempt {
        Attempt {
            rung,
            result: upper
                .map(|upper| Works {
                    users: vec![(0, 1000, 1)],
                    groups: vec![(0, 1000, 1)],
                    upper,
                })
                .ok_or(Refusal {
                    rung,
                    tried: String::new(),
                    reason: String::new(),
                    cause: None,
                    fix: None,
                }),
        }
    }

    #[test]
    fn a_build_takes_the_first_that_works() {
        let refused = || Some(Err("Invalid argument".to_owned()));
        let (root, range) = (Rung::Root, Rung::UserNamespace);
        for (uppers, forced, chosen) in [
            ([Some(Ok(())), Some(Ok(()))], None, Some(root)),
            ([Some(Ok(())), Some(Ok(()))], Some(range), Some(range)),
            ([None, Some(Ok(()))], None, Some(range)),
            ([None, Some(Ok(()))], Some(root), None),
            ([refused(), Some(Ok(()))], None, Some(root)),
            ([None, None], None, None),
            ([Some(Ok(())), None], Some(Rung::None), None),
        ] {
            let [first, second] = uppers;
            let attempts = [attempt(root, first), attempt(range, second)];
            assert_eq!(choose(&attempts, forced), chosen, "{attempts:?}");
        }
    }

    #[test]
    fn the_file_system_is_found_by_device_or_by_path() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      30 22 0:45 / /dev/shm rw - tmpfs tmpfs rw\n\
                      31 22 0:50 /sub /data rw - btrfs /dev/sdb rw\n";
        for (device, path, kind) in [
            ("8:1", "/home", Some("ext4")),
            ("0:45", "/dev/shm/x", Some("tmpfs")),
            ("0:99", "/data/x", Some("btrfs")),
            ("0:99", "/database", Some("ext4")),
        ] {
            let found = file_system_in(mounts, device, Path::new(path));
            assert_eq!(found.as_deref(), kind, "{path}");
        }
        assert_eq!(file_system_in("nonsense\n", "8:1", Path::new("/")), None);
    }

    #[test]
    fn volumes_are_what_was_mounted_for_the_user() {
        let mounts = "22 1 0:30 / / rw,relatime - overlay overlay rw\n\
                      23 22 8:1 /h /etc/hosts rw - ext4 /dev/sda1 rw\n\
                      24 22 0:45 / /dev/shm rw - tmpfs tmpfs rw\n\
                      25 22 8:1 /volumes/1 /cache rw - ext4 /dev/sda1 rw\n\
                      26 22 8:2 /volumes/2 /builds rw - xfs /dev/sdb rw\n\
                      27 22 0:31 / /shared rw - nfs4 server:/ rw\n";
        assert_eq!(
            volumes_in(mounts),
            [Path::new("/builds"), Path::new("/cache")]
        );
    }
}
