//! Opening paths as a process with this root directory would: absolute links start at the root,
//! `..` stops there, and no magic link of /proc leads out.
//!
//! The kernel does it in one call (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6), which seccomp
//! filters of containers often refuse. Then the path is walked here, one component at a time, each
//! opened without following links and held by descriptor; `..` goes back to a descriptor already
//! held, so a directory moved away meanwhile can't lead outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::FsError;
use super::walk::{DirectoryEntry, list};

/// As many links as the kernel follows.
const LINK_LIMIT: usize = 40;
/// A rename somewhere on the machine makes the kernel give up; it seldom happens twice in a row.
const RETRIES: usize = 8;

/// A directory that is the root of everything opened through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    walk_only: bool,
}

impl Root {
    /// Opens the directory at `path`, a path of the machine.
    ///
    /// # Errors
    /// When it isn't there or is no directory.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map(Self::new)
            .map_err(|error| FsError {
                operation: "open the directory",
                path: path.display().to_string(),
                source: error.into(),
            })
    }

    /// Takes an open directory.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            walk_only: false,
        }
    }

    /// Never uses `openat2`, as if the kernel had none.
    #[must_use]
    pub fn without_openat2(mut self) -> Self {
        self.walk_only = true;
        self
    }

    /// Opens `path` with `flags`, following links inside the root; with [`OFlags::NOFOLLOW`] the
    /// last component is not followed. A path is absolute or relative alike; the empty path is
    /// the root itself. Files that the flags create have mode 0600.
    ///
    /// # Errors
    /// Those of open(2); `ELOOP` when more than 40 links are followed.
    pub fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, FsError> {
        self.open_raw(path, flags)
            .map_err(|error| FsError::new("open", path, error))
    }

    fn open_raw(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if !self.walk_only {
            let whole = if path.is_empty() { b"." } else { path };
            for _ in 0..RETRIES {
                match rustix::fs::openat2(
                    &self.fd,
                    whole,
                    flags,
                    creation_mode(flags),
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
                ) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // ENOSYS: an old kernel. EPERM: a seccomp filter, or the file; the walk tells.
                    Err(Errno::NOSYS | Errno::PERM) => break,
                    result => return result,
                }
            }
        }
        self.walk_to(path, flags)
    }

    /// The walk without `openat2`.
    fn walk_to(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut rest = components_reversed(path);
        let mut wants_directory = ends_as_directory(path);
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                held.pop();
                continue;
            }
            let at = held.last().map_or(self.fd.as_fd(), AsFd::as_fd);
            let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let is_last = rest.is_empty();
            let fd = match rustix::fs::openat(at, &component[..], step, Mode::empty()) {
                Err(Errno::NOENT)
                    if is_last && flags.contains(OFlags::CREATE) && !wants_directory =>
                {
                    return rustix::fs::openat(
                        at,
                        &component[..],
                        flags | OFlags::NOFOLLOW,
                        creation_mode(flags),
                    );
                }
                result => result?,
            };
            let kind = file_type(&rustix::fs::fstat(&fd)?);
            let follows = !is_last || wants_directory || !flags.contains(OFlags::NOFOLLOW);
            if kind == FileType::Symlink && follows {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    held.clear();
                }
                if is_last {
                    wants_directory |= ends_as_directory(&target);
                }
                rest.extend(components_reversed(&target));
                continue;
            }
            if is_last {
                let directory = if wants_directory {
                    OFlags::DIRECTORY
                } else {
                    OFlags::empty()
                };
                // Not to follow, should it have become a link since.
                return rustix::fs::openat(
                    at,
                    &component[..],
                    flags | directory | OFlags::NOFOLLOW,
                    creation_mode(flags),
                );
            }
            if kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            held.push(fd);
        }
        let at = held.last().map_or(self.fd.as_fd(), AsFd::as_fd);
        rustix::fs::openat(at, ".", flags - OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a regular file for reading; links are followed inside the root. Anything else (a
    /// device, a pipe that would block) is refused.
    ///
    /// # Errors
    /// When it can't be opened or is no regular file.
    pub fn open_file(&self, path: &[u8]) -> Result<File, FsError> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| FsError::new("read", path, error))?;
        if file_type(&stat) != FileType::RegularFile {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(FsError::new("read", path, error));
        }
        Ok(File::from(fd))
    }

    /// The metadata of `path`; the last component is followed when `follow` is set.
    ///
    /// # Errors
    /// When nothing is there, or the way there can't be searched.
    pub fn metadata(&self, path: &[u8], follow: bool) -> Result<Stat, FsError> {
        let flags = if follow {
            OFlags::PATH
        } else {
            OFlags::PATH | OFlags::NOFOLLOW
        };
        let fd = self.open_at(path, flags)?;
        rustix::fs::fstat(&fd).map_err(|error| FsError::new("read the metadata of", path, error))
    }

    /// The target of the symbolic link at `path`, as written.
    ///
    /// # Errors
    /// When nothing is there, or no link.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, FsError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        rustix::fs::readlinkat(&fd, "", Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|error| FsError::new("read the link", path, error))
    }

    /// The names in the directory at `path`, sorted by their bytes.
    ///
    /// # Errors
    /// When it can't be read or is no directory.
    pub fn read_dir(&self, path: &[u8]) -> Result<Vec<DirectoryEntry>, FsError> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        list(fd.as_fd()).map_err(|error| FsError::new("list", path, error))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The metadata of `name`, one component, in an open directory; links are not followed.
///
/// # Errors
/// Those of fstatat(2).
pub fn stat_in(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// What kind of file this is the metadata of.
pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn creation_mode(flags: OFlags) -> Mode {
    if flags.contains(OFlags::CREATE) {
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::empty()
    }
}

fn ends_as_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.") || path == b"."
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn sample() -> (tempfile::TempDir, [Root; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join("root").join(path);
        std::fs::create_dir_all(at("usr/bin")).unwrap();
        std::fs::write(folder.path().join("secret"), "outside").unwrap();
        std::fs::write(at("usr/bin/sh"), "inside").unwrap();
        std::fs::write(at("secret"), "inside").unwrap();
        for (path, target) in [
            ("bin", "usr/bin"),
            ("abs", "/usr/bin"),
            ("up", "../../../../secret"),
            ("usr/up", "../../secret"),
            ("out", "/../../secret"),
            ("loop", "loop"),
            ("dangling", "none"),
            ("slash", "usr/bin/"),
            ("chain", "abs"),
        ] {
            symlink(target, at(path)).unwrap();
        }
        let root = || Root::open(&folder.path().join("root")).unwrap();
        let roots = [root(), root().without_openat2()];
        (folder, roots)
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (_folder, roots) = sample();
        for root in roots {
            for path in [
                "secret",
                "/secret",
                "up",
                "usr/up",
                "out",
                "../../secret",
                "bin/sh",
                "abs/sh",
                "chain/../../secret",
                "usr/bin/../../../../secret",
                "slash/sh",
            ] {
                let mut content = String::new();
                root.open_file(path.as_bytes())
                    .unwrap()
                    .read_to_string(&mut content)
                    .unwrap();
                assert_eq!(content, "inside", "{path} {root:?}");
            }
        }
    }

    #[test]
    fn both_ways_give_the_same_errors() {
        let (_folder, roots) = sample();
        for (path, flags, expected) in [
            ("loop", OFlags::PATH, Errno::LOOP),
            ("dangling", OFlags::PATH, Errno::NOENT),
            ("none/x", OFlags::PATH, Errno::NOENT),
            ("secret/x", OFlags::PATH, Errno::NOTDIR),
            ("secret/", OFlags::PATH, Errno::NOTDIR),
            ("secret", OFlags::PATH | OFlags::DIRECTORY, Errno::NOTDIR),
            ("bin", OFlags::RDONLY | OFlags::NOFOLLOW, Errno::LOOP),
        ] {
            for root in &roots {
                assert_eq!(
                    root.open_raw(path.as_bytes(), flags).unwrap_err(),
                    expected,
                    "{path} {root:?}"
                );
            }
        }
    }

    #[test]
    fn the_last_link_is_followed_only_when_asked() {
        let (_folder, roots) = sample();
        for root in roots {
            assert_eq!(
                file_type(&root.metadata(b"bin", false).unwrap()),
                FileType::Symlink
            );
            assert_eq!(
                file_type(&root.metadata(b"bin", true).unwrap()),
                FileType::Directory
            );
            assert_eq!(
                file_type(&root.metadata(b"bin/", false).unwrap()),
                FileType::Directory
            );
            assert_eq!(
                file_type(&root.metadata(b"", false).unwrap()),
                FileType::Directory
            );
            assert_eq!(root.read_link(b"abs").unwrap(), b"/usr/bin");
            assert!(root.read_link(b"secret").is_err());
            let names: Vec<_> = root
                .read_dir(b"chain")
                .unwrap()
                .into_iter()
                .map(|e| e.name)
                .collect();
            assert_eq!(names, [b"sh"]);
        }
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = Path::new("/proc/self/fd");
        if !proc.exists() {
            println!("skipped: no /proc");
            return;
        }
        let file = File::open("/").unwrap();
        let path = format!("{}/etc", std::os::fd::AsRawFd::as_raw_fd(&file));
        for root in [
            Root::open(proc).unwrap(),
            Root::open(proc).unwrap().without_openat2(),
        ] {
            assert!(
                root.open_at(path.as_bytes(), OFlags::PATH).is_err(),
                "{root:?}"
            );
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let (folder, roots) = sample();
        let pipe = folder.path().join("root/pipe");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        for root in roots {
            assert!(root.open_file(b"pipe").is_err());
            assert!(root.open_file(b"usr").is_err());
        }
    }

    #[test]
    fn created_files_stay_inside_too() {
        let (folder, roots) = sample();
        for (i, root) in roots.iter().enumerate() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            root.open_at(format!("abs/../../../new{i}").as_bytes(), flags)
                .unwrap();
            assert!(folder.path().join(format!("root/new{i}")).exists());
        }
    }
}
