//! Listing a directory, and walking a folder in the order that layers have: a directory, then all
//! that is inside it, names sorted by their bytes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir, Stat};

use super::FsError;
use super::descent::Descent;
use super::root::{file_type, stat_in};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name, one component.
    pub name: Vec<u8>,
    /// What it is, as far as the directory itself says; [`FileType::Unknown`] on some file systems.
    pub kind: FileType,
    /// The inode number.
    pub inode: u64,
}

/// What is in an open directory, sorted by name, without `.` and `..`. The descriptor must be open
/// for reading and stand at the directory's start.
///
/// # Errors
/// Those of getdents64(2).
pub fn list(directory: BorrowedFd<'_>) -> io::Result<Vec<DirectoryEntry>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut raw = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            entries.push(DirectoryEntry {
                name: name.to_vec(),
                kind: entry.file_type(),
                inode: entry.ino(),
            });
        }
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A path that a walk has come to.
pub struct Visited<'a> {
    /// The path, relative to where the walk began.
    pub path: &'a [u8],
    /// Its last component.
    pub name: &'a [u8],
    /// The directory that it is in.
    pub directory: BorrowedFd<'a>,
    /// Its metadata; links are not followed.
    pub stat: &'a Stat,
}

/// Whether a walk goes into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// It does.
    Enter,
    /// It goes on beside it.
    Skip,
}

/// Visits everything below an open directory, the directory itself not among it. Links are never
/// followed. A directory is visited before what is inside it; the answer for anything else than a
/// directory means nothing. What disappears while the walk goes on is left out.
///
/// # Errors
/// When a directory can't be read, and whatever `visit` gives.
pub fn walk<E: From<FsError>>(
    directory: BorrowedFd<'_>,
    visit: &mut dyn FnMut(Visited<'_>) -> Result<Descend, E>,
) -> Result<(), E> {
    let mut descent = Descent::new(directory);
    let mut pending = vec![reversed_names(&mut descent)?];
    while let Some(names) = pending.last_mut() {
        let Some(name) = names.pop() else {
            pending.pop();
            descent.leave();
            continue;
        };
        let mut path = descent.path().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let failed = |operation, error| FsError::new(operation, &path, error);
        let directory = descent
            .fd()
            .map_err(|error| failed("open the directory of", error))?;
        let stat = match stat_in(directory, &name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("read the metadata of", error).into()),
        };
        let visited = Visited {
            path: &path,
            name: &name,
            directory,
            stat: &stat,
        };
        let descend = visit(visited)?;
        if file_type(&stat) == FileType::Directory && descend == Descend::Enter {
            descent
                .enter(&name)
                .map_err(|error| failed("open", error))?;
            pending.push(reversed_names(&mut descent)?);
        }
    }
    Ok(())
}

fn reversed_names(descent: &mut Descent<'_>) -> Result<Vec<Vec<u8>>, FsError> {
    let listed = descent
        .reopen()
        .and_then(|fd| list(std::os::fd::AsFd::as_fd(&fd)));
    let entries = listed.map_err(|error| FsError::new("list", descent.path(), error))?;
    Ok(entries.into_iter().rev().map(|entry| entry.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_walk_is_sorted_and_follows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/b", "a-b", "skipped/x"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        std::fs::write(folder.path().join("a/b/c"), "").unwrap();
        std::fs::write(folder.path().join("a.b"), "").unwrap();
        symlink("/", folder.path().join("a/link")).unwrap();
        let root = super::super::Root::open(folder.path()).unwrap();
        let mut seen = Vec::new();
        walk::<FsError>(root.as_fd(), &mut |visited| {
            seen.push(String::from_utf8(visited.path.to_vec()).unwrap());
            Ok(if visited.name == b"skipped" {
                Descend::Skip
            } else {
                Descend::Enter
            })
        })
        .unwrap();
        assert_eq!(
            seen,
            ["a", "a/b", "a/b/c", "a/link", "a-b", "a.b", "skipped"]
        );
    }

    #[test]
    fn folders_deeper_than_the_descriptors_last_are_walked_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = super::super::Root::open(folder.path()).unwrap();
        let mut descent = Descent::new(root.as_fd());
        const DEPTH: usize = 1200;
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(descent.fd().unwrap(), "dd", rustix::fs::Mode::RWXU).unwrap();
            rustix::fs::mkdirat(descent.fd().unwrap(), "e", rustix::fs::Mode::RWXU).unwrap();
            descent.enter(b"dd").unwrap();
        }
        drop(descent);
        let mut seen = 0;
        walk::<FsError>(root.as_fd(), &mut |_| {
            seen += 1;
            Ok(Descend::Enter)
        })
        .unwrap();
        assert_eq!(seen, 2 * DEPTH);
        super::super::remove::remove_all(root.as_fd(), b"dd").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
