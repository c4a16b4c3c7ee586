//! A folder of this machine as a build context.
//!
//! Modes, times, links, devices and FIFOs are the folder's own; owners are not looked at. Sockets
//! are left out. Of extended attributes only those come along that mean the same elsewhere.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use super::ContextError;
use super::digests::{ContextDigests, FileIdentity, Known, Xattrs};
use crate::fs::Root;
use crate::layer::DEPTH_LIMIT;
use crate::layer::entry::{Entry, EntryKind, join_path, split_path};
use crate::snapshot::{FileRef, FileTree, Node, TreeError};
use crate::store::Store;

/// Longest value of an extended attribute that is read; the kernel's own limit.
const XATTR_LIMIT: usize = 1 << 16;
/// Links followed before a path counts as a circle; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// A folder of this machine.
pub struct LocalTree {
    root: Root,
    digests: Option<ContextDigests>,
}

impl LocalTree {
    /// Opens a folder. `store` keeps file digests between builds where the folder's file system
    /// has stable identities.
    ///
    /// # Errors
    /// When the path is no folder that can be read.
    pub fn open(path: &Path, store: Option<&Store>) -> Result<Self, ContextError> {
        let opened = |source| ContextError::Open {
            path: path.display().to_string(),
            source,
        };
        let root = Root::open(path).map_err(|error| opened(error.source))?;
        let digests = store.and_then(|store| ContextDigests::new(root.as_fd(), store));
        Ok(Self { root, digests })
    }

    /// The content of a regular file; `None` when it isn't there.
    ///
    /// # Errors
    /// When it is there and can't be read.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, ContextError> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let failed = |source| ContextError::Read {
            path: shown.clone(),
            source,
        };
        let file = match self.root.open_file(path) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| failed(error.source))?,
        };
        let mut content = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut content)
            .map_err(failed)?;
        if content.len() as u64 > limit {
            return Err(failed(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {limit} bytes"),
            )));
        }
        Ok(Some(content))
    }

    fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.root.open_at(path, flags).map_err(|error| error.source)
    }

    /// The node of `stat`, which is in `directory`.
    fn node(
        directory: &OwnedFd,
        path: Vec<u8>,
        stat: &Stat,
        known: Option<&mut Known<'_>>,
    ) -> io::Result<Option<Node>> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory { opaque: false },
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            _ => return Ok(None),
        };
        let mut entry = Entry::new(path, kind);
        entry.mode = if kind == EntryKind::Symlink {
            0o777
        } else {
            stat.st_mode & 0o7777
        };
        entry.mtime = stat.st_mtime;
        match kind {
            EntryKind::File => entry.size = stat.st_size.try_into().unwrap_or(0),
            EntryKind::Symlink => {
                let name = OsStr::from_bytes(split_path(&entry.path).1);
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                entry.link = target.into_bytes();
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                entry.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
            }
            _ => {}
        }
        let identity = FileIdentity::of(stat);
        let several_names = kind == EntryKind::File && stat.st_nlink > 1;
        let attributes = || xattrs(directory, split_path(&entry.path).1);
        let (digest, xattrs) = match (known, &kind) {
            (_, EntryKind::Symlink) => (None, Xattrs::new()),
            (Some(known), EntryKind::File) => {
                known.see(split_path(&entry.path).1, &identity, attributes)
            }
            _ => (None, attributes()),
        };
        entry.xattrs = xattrs;
        Ok(Some(Node {
            entry,
            identity: several_names.then(|| identity.file()),
            layer: 0,
            digest,
        }))
    }

    /// Calls `look` with what is known of the files in `directory`, if anything is kept.
    fn with_known<T>(
        &self,
        directory: &OwnedFd,
        path: &[u8],
        look: impl FnOnce(Option<&mut Known<'_>>) -> io::Result<T>,
    ) -> io::Result<T> {
        match &self.digests {
            Some(digests) => digests.with(directory, path, |known| look(Some(known))),
            None => look(None),
        }
    }

    /// The node at a path of which no component but the last may be a link.
    fn at(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if path.is_empty() {
            let directory = self.directory(b"")?;
            let stat = rustix::fs::fstat(&directory)?;
            return Self::node(&directory, Vec::new(), &stat, None);
        }
        let (parent, name) = split_path(path);
        let directory = match self.directory(parent) {
            Err(error) if is_absent(&error) => return Ok(None),
            opened => opened?,
        };
        match rustix::fs::statat(
            &directory,
            OsStr::from_bytes(name),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => self.with_known(&directory, parent, |known| {
                Self::node(&directory, path.to_vec(), &stat, known)
            }),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn walk_to(&self, path: &[u8], follow: bool) -> io::Result<Option<Node>> {
        let mut resolved: Vec<u8> = Vec::new();
        let mut rest: Vec<Vec<u8>> = path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut links = 0;
        let mut node = self.at(b"")?;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => resolved.truncate(split_path(&resolved).0.len()),
                _ => resolved = join_path(&resolved, &name),
            }
            node = self.at(&resolved)?;
            let Some(found) = &node else { return Ok(None) };
            if found.entry.kind == EntryKind::Symlink && (follow || !rest.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                if found.entry.link.starts_with(b"/") {
                    resolved.clear();
                } else {
                    resolved.truncate(split_path(&resolved).0.len());
                }
                rest.extend(found.entry.link.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
                node = self.at(&resolved)?;
            }
        }
        Ok(node)
    }
}

impl FileTree for LocalTree {
    fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError> {
        self.walk_to(path, follow).map_err(TreeError::file(path))
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError> {
        let failed = TreeError::file(path);
        // What no layer may have is not looked into: the stack of a walk has an end.
        if path.iter().filter(|byte| **byte == b'/').count() >= DEPTH_LIMIT {
            let message = format!("more than {DEPTH_LIMIT} folders inside each other");
            return Err(failed(io::Error::other(message)));
        }
        let listed = || -> io::Result<Vec<Node>> {
            let directory = self.directory(path)?;
            let listed = list(&directory)?;
            self.with_known(&directory, path, |mut known| {
                let mut nodes = Vec::with_capacity(listed.len());
                for (name, stat) in listed {
                    let path = join_path(path, &name);
                    nodes.extend(Self::node(&directory, path, &stat, known.as_deref_mut())?);
                }
                Ok(nodes)
            })
        };
        listed().map_err(failed)
    }

    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self
            .root
            .open_at(&file.path, flags)
            .map_err(|error| error.source)
            .map_err(TreeError::file(&file.path))?;
        // What was a file when it was looked at may have become a FIFO or a device since.
        let stat = rustix::fs::fstat(&opened)
            .map_err(io::Error::from)
            .map_err(TreeError::file(&file.path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let changed = io::Error::other("it is no longer a regular file");
            return Err(TreeError::file(&file.path)(changed));
        }
        if let Some(digests) = &self.digests {
            digests.opened(&file.path, &FileIdentity::of(&stat));
        }
        Ok(Box::new(File::from(opened)))
    }

    fn learn_digest(&self, file: &FileRef, digest: [u8; 32]) {
        if let Some(digests) = &self.digests {
            digests.learn(&file.path, digest);
        }
    }

    fn save_digests(&self) {
        if let Some(digests) = &self.digests {
            digests.save();
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Names and metadata of a directory's entries, sorted by name. What vanishes meanwhile is left
/// out.
fn list(directory: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Stat)>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => entries.push((name.to_bytes().to_vec(), stat)),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// Attributes that mean the same on another machine: the user's own, and file capabilities.
fn xattrs(directory: &OwnedFd, name: &[u8]) -> Xattrs {
    let mut found = Xattrs::new();
    // The name is one component and is not followed, so the path can't leave the directory.
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = OsStr::from_bytes(&path);
    let mut names = vec![0; 1 << 10];
    let length = loop {
        match rustix::fs::llistxattr(path, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) if names.len() < XATTR_LIMIT => {
                names.resize(names.len() * 4, 0)
            }
            // No attributes, no support for them, or no /proc: the file is copied without.
            Err(_) => return found,
        }
    };
    for key in names[..length]
        .split(|b| *b == 0)
        .filter(|key| travels(key))
    {
        let mut value = vec![0; XATTR_LIMIT];
        if let Ok(length) =
            rustix::fs::lgetxattr(path, OsStr::from_bytes(key), value.as_mut_slice())
        {
            value.truncate(length);
            found.insert(key.to_vec(), value);
        }
    }
    found
}

fn travels(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"user.")
            && !key.starts_with(b"user.overlay.")
            && !key.starts_with(b"user.containers.")
}
