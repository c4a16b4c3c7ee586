//! Going down folders one component at a time, by descriptor, following no link, and coming back
//! up without `..`.
//!
//! However deep it goes, only so many directories stay open; one that was closed is opened again
//! from its nearest open ancestor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How many directories stay open: well below the usual limit of 1024 for a process.
const OPEN_LIMIT: usize = 64;

/// Where one is, below a directory.
pub struct Descent<'a> {
    root: BorrowedFd<'a>,
    path: Vec<u8>,
    levels: Vec<Level>,
}

struct Level {
    /// Where the path of this level ends.
    end: usize,
    /// `None` when closed to spare descriptors.
    fd: Option<OwnedFd>,
}

/// What to do where a directory on the way is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Fail with `ENOENT`.
    Fail,
    /// Make it, with mode 0700.
    Create,
}

impl<'a> Descent<'a> {
    /// Starts at an open directory.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            path: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// The path of the current directory; empty at the start.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The current directory; good for `*at` calls only.
    ///
    /// # Errors
    /// When it had been closed and can't be opened again.
    pub fn fd(&mut self) -> io::Result<BorrowedFd<'_>> {
        let open = self.levels.iter().rposition(|level| level.fd.is_some());
        let from = open.map_or(0, |i| i + 1);
        for i in from..self.levels.len() {
            let start = i
                .checked_sub(1)
                .map_or(0, |above| self.levels[above].end + 1);
            let name = &self.path[start..self.levels[i].end];
            let fd = open_component(self.fd_of(i), name)?;
            self.levels[i].fd = Some(fd);
            if i > from && i + OPEN_LIMIT / 2 < self.levels.len() {
                self.levels[i - 1].fd = None;
            }
        }
        Ok(self.fd_of(self.levels.len()))
    }

    /// The directory of so many levels, which must be open.
    fn fd_of(&self, levels: usize) -> BorrowedFd<'_> {
        levels
            .checked_sub(1)
            .and_then(|i| self.levels[i].fd.as_ref())
            .map_or(self.root, AsFd::as_fd)
    }

    /// Opens the current directory once more, for reading, at its start.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn reopen(&mut self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.fd()?, ".", flags, Mode::empty())?)
    }

    /// Goes into the directory `name`, one component.
    ///
    /// # Errors
    /// When it isn't there or is no directory; `ENOTDIR` for a link.
    pub fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        let fd = open_component(self.fd()?, name)?;
        self.push(name, fd);
        Ok(())
    }

    fn push(&mut self, name: &[u8], fd: OwnedFd) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.levels.push(Level {
            end: self.path.len(),
            fd: Some(fd),
        });
        // The topmost ones stay: whoever comes back far enough starts from there.
        let closing = self.levels.len().checked_sub(OPEN_LIMIT / 2 + 1);
        if let Some(closing) = closing.filter(|&i| i >= OPEN_LIMIT / 2) {
            self.levels[closing].fd = None;
        }
    }

    /// Goes back to the directory above; stays at the start.
    pub fn leave(&mut self) {
        self.levels.pop();
        self.path
            .truncate(self.levels.last().map_or(0, |level| level.end));
    }

    /// Goes to the directory `path`, from as near as the current place allows, and gives its
    /// descriptor, good for `*at` calls.
    ///
    /// # Errors
    /// When a component isn't there or is no directory.
    pub fn go_to(&mut self, path: &[u8], missing: Missing) -> io::Result<BorrowedFd<'_>> {
        while !(self.path.is_empty()
            || path == self.path
            || path.len() > self.path.len()
                && path[self.path.len()] == b'/'
                && path.starts_with(&self.path))
        {
            self.leave();
        }
        let rest = path[self.path.len()..].to_vec();
        for name in rest.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            match self.enter(name) {
                Err(error)
                    if missing == Missing::Create && error.kind() == io::ErrorKind::NotFound =>
                {
                    match rustix::fs::mkdirat(self.fd()?, name, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => self.enter(name)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                result => result?,
            }
        }
        self.fd()
    }

    /// Leaves every directory inside or at `path`, because it is about to be removed.
    pub fn forget(&mut self, path: &[u8]) {
        while !self.path.is_empty()
            && self.path.starts_with(path)
            && self.path.get(path.len()).is_none_or(|&b| b == b'/')
        {
            self.leave();
        }
    }
}

fn open_component(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    // A component is one name: anything else could lead elsewhere.
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens a file for reading, following no link and waiting for no pipe.
///
/// # Errors
/// When it isn't there, is a link or may not be read.
pub fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_no_way_down() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        symlink("/", folder.path().join("a/out")).unwrap();
        let root = super::super::Root::open(folder.path()).unwrap();
        let mut descent = Descent::new(root.as_fd());
        assert!(descent.go_to(b"a/b", Missing::Fail).is_ok());
        for path in ["a/out", "a/out/etc", "a/../a", "a/none"] {
            assert!(
                descent.go_to(path.as_bytes(), Missing::Fail).is_err(),
                "{path}"
            );
        }
        assert!(descent.go_to(b"a/new/deep", Missing::Create).is_ok());
        assert!(descent.go_to(b"a/out/etc", Missing::Create).is_err());
        assert!(folder.path().join("a/new/deep").is_dir());
    }
}
