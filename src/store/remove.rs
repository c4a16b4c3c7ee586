//! Removing folders whose content is anybody's: no link is followed, no depth exhausts the stack
//! or the descriptors, folders without permissions are opened up first.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Descriptors held at once; what lies deeper is first moved up.
const DEPTH: usize = 64;

/// Removes the file or folder `path` with all that is in it. What is gone already is no error.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    let mut removal = Removal {
        top: parent.as_fd(),
        name: name.as_bytes(),
        moved: 0,
        pending: vec![CString::new(name.as_bytes())?],
    };
    while let Some(name) = removal.pending.pop() {
        removal.remove(removal.top, &name, 0)?;
    }
    Ok(())
}

struct Removal<'a> {
    /// The folder that holds what is to be removed.
    top: BorrowedFd<'a>,
    name: &'a [u8],
    /// How many folders have been moved up.
    moved: usize,
    /// Names in `top` that are still to be removed.
    pending: Vec<CString>,
}

impl Removal<'_> {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CString, depth: usize) -> io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Linux says ISDIR, POSIX allows PERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        if depth == DEPTH {
            return self.move_up(parent, name);
        }
        let directory = open_directory(parent, name)?;
        for entry in names(&directory)? {
            self.remove(directory.as_fd(), &entry, depth + 1)?;
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        self.moved += 1;
        let mut moved = self.name.to_vec();
        moved.extend_from_slice(format!(".{}", self.moved).as_bytes());
        let moved = CString::new(moved)?;
        renameat(parent, name, self.top, &moved)?;
        self.pending.push(moved);
        Ok(())
    }
}

/// Opens a folder so that its entries can be read and removed.
fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            open_up(parent, name)?;
            openat(parent, name, flags, Mode::empty())?
        }
        result => result?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Where it isn't ours, unlinking says so.
        let _ = fchmod(&directory, Mode::RWXU);
    }
    Ok(directory)
}

/// Gives the owner all permissions on a folder that can't even be opened. A link in its place is
/// not followed.
fn open_up(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    // fchmod refuses such descriptors; their names in /proc are allowed.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::RWXU)?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, create_dir_all, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_what_is_inside_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        create_dir_all(inside.join("a/b")).unwrap();
        create_dir(&outside).unwrap();
        write(inside.join("a/b/file"), "x").unwrap();
        write(outside.join("file"), "x").unwrap();
        symlink(&outside, inside.join("a/link")).unwrap();
        let closed = inside.join("a/b/closed");
        create_dir_all(closed.join("c")).unwrap();
        set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
        remove_tree(&inside).unwrap();
        assert!(!inside.exists());
        assert!(outside.join("file").exists());
        remove_tree(&inside).unwrap();
    }

    #[test]
    fn depth_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        create_dir(&top).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
