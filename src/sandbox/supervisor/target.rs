//! The file that an asking process means: what it gave as descriptor or path, as a path that leads
//! there from the sandbox's `/proc`.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::int;
use crate::fs::Root;
use crate::sandbox::seccomp::supervised::Naming;
use crate::sandbox::syscall::notification::{self, Listener, Question};

/// The kernel's limit for a path with its end.
pub(super) const PATH_LIMIT: usize = 4096;

/// How many links are followed one after the other, as by the kernel.
const LINK_LIMIT: usize = 40;

/// How a thread's number in a question becomes its number in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// They are the same.
    Same,
    /// `/proc` is that of a process id namespace further out: no other could be mounted.
    Outer,
}

impl Numbers {
    /// Finds out. The working directory is `/proc`.
    pub(super) fn find() -> Self {
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        match rustix::fs::readlinkat(CWD, "self", Vec::new()) {
            Ok(shown) if shown.as_bytes() != own.as_bytes() => Self::Outer,
            _ => Self::Same,
        }
    }

    fn of(self, thread: u32) -> Result<u32, Errno> {
        if self == Self::Same {
            return Ok(thread);
        }
        let pid = Pid::from_raw(thread.cast_signed()).ok_or(Errno::SRCH)?;
        // Threads that lead no process can be opened since Linux 6.9.
        let flags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
        let descriptor = rustix::process::pidfd_open(pid, flags)
            .or_else(|_| rustix::process::pidfd_open(pid, PidfdFlags::empty()))?;
        let info = std::fs::read_to_string(format!("self/fdinfo/{}", descriptor.as_raw_fd()))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        info.lines()
            .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
            .ok_or(Errno::SRCH)
    }
}

/// An asking process, and what its arguments point to.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    question: &'a Question,
    listener: &'a Listener,
    /// The thread's number in `/proc`.
    thread: u32,
    numbers: Numbers,
}

impl<'a> Memory<'a> {
    /// # Errors
    /// When the asking thread is gone.
    pub(super) fn of(
        question: &'a Question,
        listener: &'a Listener,
        numbers: Numbers,
    ) -> Result<Self, Errno> {
        Ok(Self {
            question,
            listener,
            thread: numbers.of(question.thread)?,
            numbers,
        })
    }

    /// A string without its NUL, of less than `limit` bytes.
    pub(super) fn text(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        // Enough for nearly every path.
        const FIRST: usize = 240;
        let mut text = vec![0; limit.min(FIRST)];
        let mut count = 0;
        while count < limit {
            if count == text.len() {
                text.resize(limit, 0);
            }
            let more = self.read(address.wrapping_add(count as u64), &mut text[count..])?;
            if let Some(end) = text[count..count + more].iter().position(|byte| *byte == 0) {
                text.truncate(count + end);
                return Ok(text);
            }
            if more == 0 {
                return Err(Errno::FAULT);
            }
            count += more;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// So many bytes.
    pub(super) fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        let mut count = 0;
        while count < length {
            let more = self.read(address.wrapping_add(count as u64), &mut bytes[count..])?;
            if more == 0 {
                return Err(Errno::FAULT);
            }
            count += more;
        }
        Ok(bytes)
    }

    /// Writes to the asking process, if it still asks.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if !self.listener.is_waiting(self.question) {
            return Err(Errno::SRCH);
        }
        match notification::write_memory(self.question.thread, address, bytes) {
            Err(Errno::PERM) => self
                .file(OFlags::WRONLY)?
                .write_all_at(bytes, address)
                .map_err(|_| Errno::FAULT),
            other => other.map_err(hidden),
        }
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        match notification::read_memory(self.question.thread, address, buffer) {
            Err(Errno::PERM) => self
                .file(OFlags::RDONLY)?
                .read_at(buffer, address)
                .map_err(|_| Errno::FAULT),
            other => other.map_err(hidden),
        }
    }

    /// The memory as a file, which is judged by whom this thread acts as, and not by who it is.
    fn file(&self, flags: OFlags) -> Result<File, Errno> {
        let path = format!("{}/mem", self.thread);
        let file = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(|_| Errno::FAULT)?;
        match self.listener.is_waiting(self.question) {
            true => Ok(File::from(file)),
            false => Err(Errno::SRCH),
        }
    }

    /// The file that the first arguments name. `flags` are those of the call, `AT_…`; `follow` is
    /// whether a call that names a path without a word about links follows the last one.
    pub(super) fn target(
        &self,
        naming: Naming,
        flags: u64,
        follow: bool,
    ) -> Result<Target<'a>, Errno> {
        let a = &self.question.arguments;
        let flags = AtFlags::from_bits_retain(flags as u32);
        let (directory, path) = match naming {
            Naming::Descriptor => (int(a[0]), None),
            Naming::Path | Naming::Link => (libc::AT_FDCWD, Some(a[0])),
            Naming::At => (int(a[0]), Some(a[1])),
        };
        let path = match path {
            Some(0) if flags.contains(AtFlags::EMPTY_PATH) => Vec::new(),
            Some(address) => {
                let path = self.text(address, PATH_LIMIT)?;
                if path.is_empty() && !flags.contains(AtFlags::EMPTY_PATH) {
                    return Err(Errno::NOENT);
                }
                path
            }
            None => Vec::new(),
        };
        let follow = follow && naming != Naming::Link && !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
        Ok(Target {
            memory: *self,
            // A descriptor is what it is: nothing is followed but the way to it.
            follow: follow || path.is_empty(),
            directory,
            path,
        })
    }
}

/// What can't be seen of a process seems not to be mapped in it.
fn hidden(errno: Errno) -> Errno {
    match errno {
        Errno::PERM | Errno::SRCH => Errno::FAULT,
        other => other,
    }
}

/// A file that an asking process means.
pub(super) struct Target<'a> {
    memory: Memory<'a>,
    directory: i32,
    /// Empty for the descriptor itself.
    path: Vec<u8>,
    /// Whether a link at its end is followed.
    pub(super) follow: bool,
}

impl Target<'_> {
    /// Whether whoever asked still waits: else its number may be another's by now.
    pub(super) fn is_wanted(&self) -> bool {
        self.memory.listener.is_waiting(self.memory.question)
    }

    /// The path as it was given; empty for a descriptor.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The asking thread.
    pub(super) fn thread(&self) -> u32 {
        self.memory.thread
    }

    /// A path from `/proc` that leads where the asking process's does, as long as that has the same
    /// root directory as this one.
    pub(super) fn name(&self) -> Result<CString, Errno> {
        let thread = self.memory.thread;
        let mut name = match self.path.strip_prefix(b"/") {
            Some(rest) => match own(rest) {
                // `self` is somebody else here.
                Some((place, rest)) => {
                    let mut name = format!("{thread}/{place}").into_bytes();
                    name.extend_from_slice(rest);
                    return CString::new(name).map_err(|_| Errno::INVAL);
                }
                None => Vec::with_capacity(self.path.len()),
            },
            None if self.directory == libc::AT_FDCWD => format!("{thread}/cwd").into_bytes(),
            None => format!("{thread}/fd/{}", self.directory).into_bytes(),
        };
        if !self.path.is_empty() {
            if !self.path.starts_with(b"/") {
                name.push(b'/');
            }
            name.extend_from_slice(&self.path);
        }
        CString::new(name).map_err(|_| Errno::INVAL)
    }

    /// Opens it, to be looked at and changed but not read. With `own_root`, its path begins at the
    /// asking process's own root directory.
    pub(super) fn open(&self, own_root: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let opened = match own_root {
            _ if self.path.is_empty() => rustix::fs::open(&*self.name()?, flags, Mode::empty()),
            true => self.open_in_own_root(flags),
            false => self.resolve(flags, Mode::empty()),
        };
        opened.map_err(|errno| self.explain(errno))
    }

    /// Opens it as the asking process would, to be looked at: links are followed in its own root
    /// directory, wherever its directories are.
    pub(super) fn look_up(&self) -> Result<OwnedFd, Errno> {
        if self.path.starts_with(b"/") {
            return self.open(true);
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        let start = match self.directory {
            libc::AT_FDCWD => format!("{}/cwd", self.memory.thread),
            directory => format!("{}/fd/{directory}", self.memory.thread),
        };
        let directory = rustix::fs::open(start, flags, Mode::empty())?;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&directory, &self.path, flags, Mode::empty(), below) {
            // It leads further up, or there is no such call.
            Err(Errno::XDEV | Errno::AGAIN | Errno::NOSYS | Errno::PERM) => self.open(true),
            other => other,
        }
    }

    /// What isn't there may be the descriptor.
    fn explain(&self, errno: Errno) -> Errno {
        let is_open = || {
            let link = format!("{}/fd/{}", self.memory.thread, self.directory);
            rustix::fs::readlinkat(CWD, link, Vec::new()).is_ok()
        };
        let is_relative = self.directory != libc::AT_FDCWD && !self.path.starts_with(b"/");
        match errno {
            Errno::NOENT if is_relative && !is_open() => Errno::BADF,
            other => other,
        }
    }

    /// Makes a regular file there, which must not exist, not even as a link.
    pub(super) fn create(&self, own_root: bool, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = match own_root {
            true => self.open_in_own_root(flags)?,
            false => self.resolve(flags, mode)?,
        };
        rustix::fs::fchmod(&file, mode)?;
        Ok(file)
    }

    /// Opens the path as the asking process means it. Links of the kernel's own in `/proc` are
    /// followed where they are that process's, and nowhere else: this one's lead out of the sandbox,
    /// to rbuild's program and its files.
    fn resolve(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut path = self.path.clone();
        for _ in 0..LINK_LIMIT {
            let (start, rest) = self.start(&path);
            let anchor = match &start {
                Some(start) if rest.is_empty() => return rustix::fs::open(start, flags, mode),
                Some(start) => {
                    let directory = OFlags::PATH | OFlags::CLOEXEC;
                    Some(rustix::fs::open(start, directory, Mode::empty())?)
                }
                None => None,
            };
            let anchor = anchor.as_ref().map_or(CWD, AsFd::as_fd);
            let open = |flags, mode| {
                rustix::fs::openat2(anchor, &rest, flags, mode, ResolveFlags::NO_MAGICLINKS)
            };
            let error = match open(flags, mode) {
                // Before Linux 5.6, or hidden by a filter.
                Err(Errno::NOSYS | Errno::PERM) => return self.open_in_own_root(flags),
                Err(error) if self.follow && !flags.contains(OFlags::CREATE) => error,
                other => return other,
            };
            // Perhaps a link at its end, through which the asking process gets further.
            let link = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let link = open(link, Mode::empty()).map_err(|_| error)?;
            path = behind_link(&link, &path).ok_or(error)?;
        }
        Err(Errno::LOOP)
    }

    /// Where a path begins, if neither at the root directory nor in `/proc`, and the rest.
    fn start(&self, path: &[u8]) -> (Option<String>, Vec<u8>) {
        let thread = self.memory.thread;
        let Some(absolute) = path.strip_prefix(b"/") else {
            let start = match self.directory {
                libc::AT_FDCWD => format!("{thread}/cwd"),
                directory => format!("{thread}/fd/{directory}"),
            };
            return (Some(start), path.to_vec());
        };
        let (process, rest) = match (own(absolute), of_process(absolute)) {
            (Some((place, rest)), _) => (thread, [place.as_bytes(), rest].concat()),
            (None, Some((number, rest)))
                if self.memory.numbers == Numbers::Same && !is_own_thread(number) =>
            {
                (number, rest.to_vec())
            }
            _ => return (None, path.to_vec()),
        };
        let mut parts = rest
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty());
        let place = match (parts.next(), parts.next()) {
            (Some(b"cwd"), _) => "cwd".to_owned(),
            (Some(b"root"), _) => "root".to_owned(),
            (Some(b"exe"), _) => "exe".to_owned(),
            (Some(b"fd"), Some(number)) => match number_in(number) {
                Some(number) => format!("fd/{number}"),
                None => return (None, [process.to_string().as_bytes(), b"/", &rest].concat()),
            },
            _ => return (None, [process.to_string().as_bytes(), b"/", &rest].concat()),
        };
        let used = place.split('/').count();
        let mut behind = rest
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .skip(used)
            .collect::<Vec<_>>()
            .join(&b'/');
        if behind.is_empty() && rest.ends_with(b"/") {
            behind = b".".to_vec();
        }
        (Some(format!("{process}/{place}")), behind)
    }

    fn open_in_own_root(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (root, path) = self.in_own_root()?;
        Root::new(root)
            .open_at(&path, flags)
            .map_err(|error| Errno::from_io_error(&error.source).unwrap_or(Errno::IO))
    }

    /// The asking process's root directory, and the path from there.
    fn in_own_root(&self) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let thread = self.memory.thread;
        let root = format!("{thread}/root");
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(&root, open, Mode::empty())?;
        if self.path.starts_with(b"/") {
            return Ok((descriptor, self.path.clone()));
        }
        // Where the directory is, said from the same root.
        let link = match self.directory {
            libc::AT_FDCWD => format!("{thread}/cwd"),
            directory => format!("{thread}/fd/{directory}"),
        };
        let read = |link: &str| {
            rustix::fs::readlinkat(CWD, link, Vec::new()).map(std::ffi::CString::into_bytes)
        };
        let (root, directory) = (read(&root)?, read(&link)?);
        let below = match root.as_slice() {
            b"/" => directory.as_slice(),
            root => directory
                .strip_prefix(root)
                .filter(|below| below.is_empty() || below.starts_with(b"/"))
                .ok_or(Errno::XDEV)?,
        };
        let mut path = below.to_vec();
        path.push(b'/');
        path.extend_from_slice(&self.path);
        Ok((descriptor, path))
    }
}

/// A path from `/` that leads to something of the asking process's own: what in `/proc/PID`, and the
/// rest.
fn own(path: &[u8]) -> Option<(&'static str, &[u8])> {
    const OWN: [(&[u8], &str); 6] = [
        (b"proc/self", ""),
        (b"proc/thread-self", ""),
        (b"dev/fd", "fd"),
        (b"dev/stdin", "fd/0"),
        (b"dev/stdout", "fd/1"),
        (b"dev/stderr", "fd/2"),
    ];
    OWN.iter().find_map(|(prefix, place)| {
        let rest = path.strip_prefix(*prefix)?;
        (rest.is_empty() || rest.starts_with(b"/")).then_some((*place, rest))
    })
}

/// A path from `/` that leads to something of another process's: its number, and the rest.
fn of_process(path: &[u8]) -> Option<(u32, &[u8])> {
    let path = path.strip_prefix(b"proc/")?;
    let end = path.iter().position(|byte| *byte == b'/')?;
    let number = number_in(&path[..end])?;
    // Process 1 is this one, which nobody looks into.
    (number > 1).then_some((number, &path[end..]))
}

/// Whether a number in `/proc` is that of a thread of this process, each of which has a folder there.
fn is_own_thread(number: u32) -> bool {
    rustix::fs::access(format!("self/task/{number}"), rustix::fs::Access::EXISTS).is_ok()
}

/// A decimal number, written as the kernel does.
fn number_in(digits: &[u8]) -> Option<u32> {
    let number: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == digits).then_some(number)
}

/// The path that a link at the end of `path` leads to; `None` if it is no link, or one of the
/// kernel's own, which hold no path.
fn behind_link(link: &OwnedFd, path: &[u8]) -> Option<Vec<u8>> {
    if rustix::fs::fstatfs(link).ok()?.f_type as u64 == PROC_SUPER_MAGIC as u64 {
        return None;
    }
    let target = rustix::fs::readlinkat(link, c"", Vec::new()).ok()?;
    let target = target.as_bytes();
    if target.starts_with(b"/") {
        return Some(target.to_vec());
    }
    let folder = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    Some([&path[..folder], target].concat())
}

/// A path that leads to what a descriptor of this process is.
pub(super) fn descriptor_name(descriptor: &OwnedFd) -> Result<CString, Errno> {
    CString::new(format!("self/fd/{}", descriptor.as_raw_fd())).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::{of_process, own};

    #[test]
    fn what_self_means_is_the_asking_processs() {
        for (path, expected) in [
            (&b"proc/self/exe"[..], Some(("", &b"/exe"[..]))),
            (b"proc/self", Some(("", b""))),
            (b"proc/selfish", None),
            (b"dev/fd/3", Some(("fd", b"/3"))),
            (b"dev/stdout", Some(("fd/1", b""))),
            (b"etc/passwd", None),
        ] {
            assert_eq!(own(path), expected);
        }
    }

    #[test]
    fn nobody_is_led_to_this_process() {
        for (path, expected) in [
            (&b"proc/12/fd/3"[..], Some((12, &b"/fd/3"[..]))),
            (b"proc/1/exe", None),
            (b"proc/01/exe", None),
            (b"proc/+1/exe", None),
            (b"proc/self/exe", None),
            (b"proc/12", None),
        ] {
            assert_eq!(of_process(path), expected);
        }
    }
}
