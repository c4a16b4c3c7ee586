//! Mount points inside a root file system: found, and made where they may be, through
//! [`fs::Root`](crate::fs::Root), so that no link leads outside of it.
//!
//! Results are `O_PATH` descriptors: to be mounted on, copied from, or changed into.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::Root;

/// Opens `path` inside `root`, following links as if `root` were `/`.
pub(super) fn open(root: &Root, path: &[u8]) -> Result<OwnedFd, Errno> {
    root.open_at(path, OFlags::PATH)
        .map_err(|error| Errno::from_io_error(&error.source).unwrap_or(Errno::IO))
}

/// Opens a directory that lies in `root` itself and is no link.
pub(super) fn open_real_directory(root: &Root, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, name, flags, Mode::empty())
}

/// Opens a mount point. What is missing of it is created if it lies on another file system than
/// `root` itself, that is below another mount: there it can't leak into a layer.
pub(super) fn open_mount_point(
    root: &Root,
    path: &[u8],
    directory: bool,
) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.contains(&&b".."[..]) {
        return Err(Errno::NOENT);
    }
    // The longest part that exists.
    let mut existing = names.len();
    let mut here = loop {
        existing = existing.checked_sub(1).ok_or(Errno::NOENT)?;
        match open(root, &names[..existing].join(&b'/')) {
            Err(Errno::NOENT) => {}
            other => break other?,
        }
    };
    if rustix::fs::fstat(&here)?.st_dev == rustix::fs::fstat(root)?.st_dev {
        return Err(Errno::NOENT);
    }
    for (index, name) in names.iter().enumerate().skip(existing) {
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if index + 1 == names.len() && !directory {
            let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            rustix::fs::openat(&here, *name, flags | create, Mode::from(0o644))?;
            here = rustix::fs::openat(&here, *name, flags | OFlags::PATH, Mode::empty())?;
        } else {
            rustix::fs::mkdirat(&here, *name, Mode::from(0o755))?;
            let open = OFlags::PATH | OFlags::DIRECTORY;
            here = rustix::fs::openat(&here, *name, flags | open, Mode::empty())?;
        }
    }
    Ok(here)
}

/// Whether a descriptor is that of a directory.
pub(super) fn is_directory(descriptor: impl AsFd) -> Result<bool, Errno> {
    let metadata = rustix::fs::statat(descriptor, c"", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(metadata.st_mode).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_mount_point_is_never_created_on_the_root_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(
            open_mount_point(&root, b"a/b", true).map(drop),
            Err(Errno::NOENT)
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_no_real_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(open_real_directory(&root, "real").is_ok());
        assert_eq!(
            open_real_directory(&root, "link").map(drop),
            Err(Errno::NOTDIR)
        );
    }
}
