//! Cache mounts that lie in a step's folder while the step runs, because nothing can be mounted there.
//!
//! Each is noted before it is moved. What a killed process had lent is brought home before its
//! temporary folder is removed, so that a cache outlives whoever used it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::fs::Root;
use crate::fs::descent::{Descent, Missing};

/// What notes are called: `lent-` and a number.
const PREFIX: &str = "lent-";
/// The folder beside a note in which things are lent: that of `snapshot::WorkFolder`.
const FOLDER: &str = "root";
/// No path is longer.
const NOTE_LIMIT: u64 = 64 << 10;

/// Notes, beside the path `aside`, that the folder at `home` is going to `path` in the step's folder
/// there. It goes with the scratch folder that both are in.
///
/// # Errors
/// When the note can't be written.
pub fn note_lent(aside: &Path, number: usize, home: &Path, path: &[u8]) -> io::Result<()> {
    let mut note = home.as_os_str().as_bytes().to_vec();
    note.push(0);
    note.extend_from_slice(path);
    std::fs::write(aside.with_file_name(format!("{PREFIX}{number}")), note)
}

/// Brings home what a process that is no more had lent, as far as that goes: `temporary` is its
/// folder.
pub(super) fn bring_home(temporary: &Path) {
    let Some(store) = temporary.parent().and_then(Path::parent) else {
        return;
    };
    let scratch = std::fs::read_dir(temporary).into_iter().flatten().flatten();
    for scratch in scratch
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink())
    {
        for note in std::fs::read_dir(&scratch).into_iter().flatten().flatten() {
            if note.file_name().as_bytes().starts_with(PREFIX.as_bytes())
                && let Err(error) = bring_back(&note.path(), &scratch, &store.join("mounts"))
            {
                tracing::debug!(path = %note.path().display(), %error, "a cache is lost");
            }
        }
    }
}

fn bring_back(note: &Path, scratch: &Path, mounts: &Path) -> io::Result<()> {
    if note.symlink_metadata()?.len() > NOTE_LIMIT {
        return Err(Errno::FBIG.into());
    }
    let text = std::fs::read(note)?;
    let mut parts = text.splitn(2, |byte| *byte == 0);
    let (home, path) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let home = PathBuf::from(OsStr::from_bytes(home));
    // Other things are lent, too, which go with the folder.
    if !home.starts_with(mounts) || home.components().any(|part| part.as_os_str() == "..") {
        return Ok(());
    }
    let root = Root::open(&scratch.join(FOLDER))?;
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    let mut descent = Descent::new(root.as_fd());
    let directory = descent.go_to(parent, Missing::Fail)?;
    match rustix::fs::renameat_with(directory, name, CWD, &home, RenameFlags::NOREPLACE) {
        // It came home, or there is a new one by now.
        Err(Errno::NOENT | Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_had_comes_home_and_nothing_else() {
        let store = tempfile::tempdir().unwrap();
        let at = |path: &str| store.path().join(path);
        for path in [
            "mounts/form",
            "tmp/dead/3/root/var/cache",
            "tmp/dead/3/root/other",
        ] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("tmp/dead/3/root/var/cache/file"), "kept").unwrap();
        let aside = at("tmp/dead/3/aside");
        note_lent(&aside, 0, &at("mounts/form/id"), b"var/cache").unwrap();
        note_lent(&aside, 1, &at("elsewhere"), b"other").unwrap();
        note_lent(&aside, 2, &at("mounts/form/gone"), b"none/there").unwrap();
        bring_home(&at("tmp/dead"));
        assert_eq!(
            std::fs::read_to_string(at("mounts/form/id/file")).unwrap(),
            "kept"
        );
        assert!(!at("elsewhere").exists() && !at("mounts/form/gone").exists());
    }
}
