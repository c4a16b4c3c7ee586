//! Where the store is, and whether that place will do.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::{Action, StoreError};

/// What of the environment decides where the store is. Values, not lookups: whoever makes one
/// has read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootEnvironment {
    /// `$RBUILD_ROOT`.
    pub rbuild_root: Option<PathBuf>,
    /// `$XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// The user's id, outside any user namespace of our own making.
    pub uid: u32,
}

/// The place for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootChoice {
    /// The folder; it may not be there yet.
    pub path: PathBuf,
    /// One line for the user where the choice is not the expected one.
    pub note: Option<String>,
}

/// Chooses the store's folder: `$RBUILD_ROOT`; else `/var/lib/rbuild` for root; else
/// `$XDG_DATA_HOME/rbuild`; else `$HOME/.local/share/rbuild`. Where that can't be written, or is
/// on a network or FUSE file system, which has neither reliable locks nor overlay mounts,
/// `/var/tmp/rbuild-UID`. A folder that was named is used as it is.
///
/// # Errors
/// When nothing else is left and the folder in `/var/tmp` belongs to somebody else.
pub fn default_root(environment: &RootEnvironment) -> Result<RootChoice, StoreError> {
    choose(
        environment,
        Path::new("/var/lib/rbuild"),
        Path::new("/var/tmp"),
    )
}

fn choose(
    environment: &RootEnvironment,
    system: &Path,
    shared_temporary: &Path,
) -> Result<RootChoice, StoreError> {
    let set = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = set(&environment.rbuild_root) {
        let note = obstacle_of_file_system(&path).map(|obstacle| {
            format!(
                "the store `{}` is on {obstacle}: builds are slower there, and steps may not run",
                path.display()
            )
        });
        return Ok(RootChoice { path, note });
    }
    let absolute = |path: &Option<PathBuf>| set(path).filter(|path| path.is_absolute());
    let preferred = match environment.uid {
        0 => Some(system.to_owned()),
        _ => absolute(&environment.xdg_data_home)
            .or_else(|| absolute(&environment.home).map(|home| home.join(".local/share")))
            .map(|data| data.join("rbuild")),
    };
    let obstacle = match &preferred {
        None => "there is no home folder".to_owned(),
        Some(path) => match obstacle(path) {
            None => {
                return Ok(RootChoice {
                    path: path.clone(),
                    note: None,
                });
            }
            Some(obstacle) => format!("`{}` {obstacle}", path.display()),
        },
    };
    let fallback = shared_temporary.join(format!("rbuild-{}", environment.uid));
    check_fallback(&fallback, environment.uid)?;
    // Nowhere is better: stay where people look first.
    if let (Some(path), Some(_)) = (&preferred, obstacle_of_file_system(&fallback))
        && is_writable(path)
    {
        let note = Some(format!(
            "{obstacle}: builds are slower there, and steps may not run"
        ));
        return Ok(RootChoice {
            path: path.clone(),
            note,
        });
    }
    let note = format!(
        "the store is in `{}`, since {obstacle}; set RBUILD_ROOT to choose another folder",
        fallback.display()
    );
    Ok(RootChoice {
        path: fallback,
        note: Some(note),
    })
}

/// Everybody may write to the folder above the fallback: whoever made it first may be a stranger.
fn check_fallback(path: &Path, uid: u32) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() && found.uid() == uid => Ok(()),
        // Inside a user namespace that maps the user to root.
        Ok(found) if found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() => Ok(()),
        Ok(_) => Err(StoreError::NoPlace {
            path: path.to_owned(),
        }),
    }
}

/// Why a store can't be at `path`.
fn obstacle(path: &Path) -> Option<String> {
    if !is_writable(path) {
        return Some("can't be written".to_owned());
    }
    obstacle_of_file_system(path).map(|name| format!("is on {name}"))
}

fn nearest(path: &Path) -> &Path {
    let there = path.ancestors().find(|path| path.exists());
    there.unwrap_or(Path::new("/"))
}

fn is_writable(path: &Path) -> bool {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(nearest(path), access).is_ok()
}

fn obstacle_of_file_system(path: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(nearest(path)).ok()?;
    shared_file_system(found.f_type as u32)
}

/// Whether the folder is on a file system whose locks and shared memory SQLite's write-ahead log
/// can't rely on.
pub(super) fn is_shared(directory: &File) -> bool {
    rustix::fs::fstatfs(directory)
        .is_ok_and(|found| shared_file_system(found.f_type as u32).is_some())
}

/// The name of a file system on which a store does badly, by its number (statfs(2); the number is
/// of 32 bits, whatever the field's type).
fn shared_file_system(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0x6573_5546 => Some("FUSE"),
        0x0102_1997 => Some("9p"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => Some("SMB"),
        0x00C3_6400 => Some("Ceph"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x5346_414F | 0x6B41_4653 => Some("AFS"),
        _ => None,
    }
}

/// Whether the folder is ours and holds a store or nothing; closes it to others.
pub(super) fn check_ownership(root: &Path, directory: &File) -> Result<(), StoreError> {
    let found = directory.metadata().action("examine", root)?;
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(StoreError::ForeignOwner {
            path: root.to_owned(),
            owner: found.uid(),
            user,
            suggestion: suggestion(root, user),
        });
    }
    // In this order: another process may be making the store just now.
    if !is_empty(root)? && !root.join("rbuild.db").exists() {
        return Err(StoreError::NotAStore {
            path: root.to_owned(),
            suggestion: root.join("rbuild"),
        });
    }
    if found.mode() & 0o077 != 0 {
        let mode = std::fs::Permissions::from_mode(0o700);
        directory
            .set_permissions(mode)
            .action("set the mode of", root)?;
    }
    Ok(())
}

/// A place near `root` where this user can make a folder, else one in `/var/tmp`.
fn suggestion(root: &Path, user: u32) -> PathBuf {
    if is_writable(root) {
        return root.join("rbuild");
    }
    PathBuf::from(format!("/var/tmp/rbuild-{user}"))
}

/// What a process makes for a moment, to see whether overlay can write there.
const PROBE_PREFIX: &[u8] = b".rbuild-probe-";

/// Whether nothing but our own lock and what comes with a new file system is there.
fn is_empty(root: &Path) -> Result<bool, StoreError> {
    let ours = [
        "open.lock",
        "blobs",
        "indexes",
        "trees",
        "mounts",
        "locks",
        "logs",
        "tmp",
        "lost+found",
    ];
    for entry in root.read_dir().action("read", root)? {
        let name = entry.action("read", root)?.file_name();
        let is_probe = name.as_encoded_bytes().starts_with(PROBE_PREFIX);
        if !is_probe && !ours.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text))
    }

    #[test]
    fn the_first_place_that_is_named_wins() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let here = folder.path();
        let there = here.join("system");
        let choose = |rbuild_root, xdg_data_home, home, uid| {
            let environment = RootEnvironment {
                rbuild_root,
                xdg_data_home,
                home,
                uid,
            };
            choose(&environment, &there, here).unwrap().path
        };
        let (xdg, home) = (Some(here.join("xdg")), Some(here.join("home")));
        assert_eq!(
            choose(path("/else"), xdg.clone(), home.clone(), 0),
            PathBuf::from("/else")
        );
        assert_eq!(
            choose(path("else"), xdg.clone(), home.clone(), 7),
            PathBuf::from("else")
        );
        assert_eq!(choose(None, xdg.clone(), home.clone(), 0), there);
        assert_eq!(
            choose(None, xdg.clone(), home.clone(), 7),
            here.join("xdg/rbuild")
        );
        assert_eq!(
            choose(path(""), None, home.clone(), 7),
            here.join("home/.local/share/rbuild")
        );
        assert_eq!(
            choose(None, path("relative"), home, 7),
            here.join("home/.local/share/rbuild")
        );
        assert_eq!(choose(None, path(""), None, 7), here.join("rbuild-7"));
    }

    #[test]
    fn a_fallback_says_why() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let environment = RootEnvironment {
            uid: 7,
            ..RootEnvironment::default()
        };
        let choice = choose(&environment, folder.path(), folder.path()).unwrap();
        let note = choice.note.unwrap();
        assert!(note.contains("there is no home folder"), "{note}");
        assert!(note.contains("RBUILD_ROOT"), "{note}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_left() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        // Nobody, root included, can make a folder in /proc.
        assert!(
            !is_writable(Path::new("/proc/self/nothing")) || rustix::process::geteuid().is_root()
        );
        let home = path("/proc/self/fdinfo/nothing");
        let environment = RootEnvironment {
            home,
            uid: 7,
            ..RootEnvironment::default()
        };
        let choice = choose(&environment, folder.path(), folder.path()).unwrap();
        if rustix::process::geteuid().is_root() {
            eprintln!("skipped for root, whom access(2) allows everything");
            return;
        }
        assert_eq!(choice.path, folder.path().join("rbuild-7"));
    }

    #[test]
    fn a_stranger_in_the_common_folder_is_noticed() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("rbuild-7")).unwrap();
        let environment = RootEnvironment {
            uid: 7,
            ..RootEnvironment::default()
        };
        let error = choose(&environment, folder.path(), folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::NoPlace { .. }));
    }

    #[test]
    fn shared_file_systems_are_known_by_number() {
        for (magic, name) in [
            (0x6969, Some("NFS")),
            (0x6573_5546, Some("FUSE")),
            (0x0102_1997, Some("9p")),
            (0xEF53, None),
            (0x794C_7630, None),
        ] {
            assert_eq!(shared_file_system(magic), name);
        }
    }
}
