//! Places in the container's `/proc`, `/sys` and `/dev`: what is there, opened beneath the folder of
//! whom it is.
//!
//! No link of a process leads further than to what it is a link to, and of the rest of `/proc` and of
//! `/sys` nothing can be written.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::asker::Asker;
use super::owners::WANTED;
use super::stat::Shown;
use crate::sandbox::syscall::notification;

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below `/proc/PID`.
    Process(i32, Vec<u8>),
    /// Elsewhere in `/proc`, or its own folder.
    Proc(Vec<u8>),
    /// In `/sys`.
    Sys(Vec<u8>),
    /// A device of the container.
    Device(Vec<u8>),
}

/// The components of an absolute path, taken as written.
pub(super) fn names(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names
}

pub(super) fn number(name: &[u8]) -> Option<i32> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Opens what is at a place.
pub(super) fn open(place: &Place, flags: OFlags) -> Result<OwnedFd, Errno> {
    let writing = OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND;
    let wants_to_write = flags.intersects(writing) && !flags.contains(OFlags::PATH);
    // Nothing is created: what isn't there can't be.
    let flags = (flags - OFlags::CREATE - OFlags::EXCL) | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open_in = |directory: &str, path: &[u8], resolve| {
        let open = OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, open, Mode::empty())?;
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve)
    };
    match place {
        Place::Sys(_) | Place::Proc(_) if wants_to_write => Err(Errno::ROFS),
        Place::Sys(path) => open_in("/sys", path, beneath),
        Place::Proc(path) => open_in("/proc", path, beneath),
        Place::Device(name) => {
            let mut path = b"/dev/".to_vec();
            path.extend_from_slice(name);
            rustix::fs::open(path, flags, Mode::empty())
        }
        Place::Process(pid, path) => {
            let own = format!("/proc/{pid}");
            let Some((link, rest)) = split_link(path) else {
                return open_in(&own, path, beneath);
            };
            let link = format!("{own}/{link}");
            match rest {
                None => open_link(&link, flags),
                Some(rest) if link.ends_with("/root") => {
                    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                    open_in(&link, rest, inside)
                }
                Some(rest) => open_in(&link, rest, beneath),
            }
        }
    }
}

/// A path below `/proc/PID` that goes through one of the links of a process: up to that, and what
/// comes behind it.
fn split_link(path: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    let mut start = 0;
    let mut components = path.split(|byte| *byte == b'/');
    let mut first = components.next()?;
    if first == b"task" {
        let thread = components.next()?;
        start = first.len() + thread.len() + 2;
        first = components.next()?;
    }
    let end = match first {
        b"exe" | b"cwd" | b"root" => start + first.len(),
        b"fd" => {
            let descriptor = components.next()?;
            start + first.len() + 1 + descriptor.len()
        }
        _ => return None,
    };
    let link = std::str::from_utf8(path.get(..end)?).ok()?;
    let rest = path.get(end + 1..).filter(|rest| !rest.is_empty());
    Some((link, rest))
}

/// Opens what a link of a process leads to. A pipe without anybody at its other end is not waited
/// for.
fn open_link(link: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let waits = flags.intersects(OFlags::PATH | OFlags::NONBLOCK);
    if waits {
        return rustix::fs::open(link, flags, Mode::empty());
    }
    let opened = rustix::fs::open(link, flags | OFlags::NONBLOCK, Mode::empty())?;
    let now = rustix::fs::fcntl_getfl(&opened)?;
    rustix::fs::fcntl_setfl(&opened, now - OFlags::NONBLOCK)?;
    Ok(opened)
}

/// What is at a place.
pub(super) fn look(place: &Place, follow: bool) -> Result<Shown, Errno> {
    let mut open_flags = OFlags::PATH;
    if !follow {
        open_flags |= OFlags::NOFOLLOW;
    }
    let opened = open(place, open_flags)?;
    let name = CString::new(format!("/proc/thread-self/fd/{}", opened.as_raw_fd()));
    let name = name.map_err(|_| Errno::INVAL)?;
    notification::statx(&name, 0, WANTED).map(Shown::new)
}

/// Where the link at a place leads, as who asks would say it.
pub(super) fn read_link(place: &Place, path: &[u8], asker: &Asker) -> Result<Vec<u8>, Errno> {
    match &names(path)[..] {
        [b"proc", b"self"] => return Ok(asker.process.to_string().into_bytes()),
        [b"proc", b"thread-self"] => {
            return Ok(format!("{}/task/{}", asker.process, asker.thread).into_bytes());
        }
        _ => {}
    }
    let link = open(place, OFlags::PATH | OFlags::NOFOLLOW)?;
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes();
    let Place::Process(pid, _) = place else {
        return Ok(target);
    };
    // Said from the container's root directory; who asks has another.
    let root = rustix::fs::readlinkat(CWD, format!("/proc/{pid}/root"), Vec::new())?;
    match target.strip_prefix(root.as_bytes()) {
        Some([]) if root.as_bytes() != b"/" => Ok(b"/".to_vec()),
        Some(rest) if rest.starts_with(b"/") => Ok(rest.to_vec()),
        _ => Ok(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_s_links_are_ends_of_their_own() {
        for (path, expected) in [
            ("status", None),
            ("exe", Some(("exe", None))),
            ("fd", None),
            ("fd/63", Some(("fd/63", None))),
            ("cwd/a/b", Some(("cwd", Some("a/b")))),
            ("task/7/root/etc", Some(("task/7/root", Some("etc")))),
            ("task/7/stat", None),
            ("fdinfo/3", None),
        ] {
            let expected =
                expected.map(|(link, rest): (_, Option<&str>)| (link, rest.map(str::as_bytes)));
            assert_eq!(split_link(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn paths_are_taken_apart_as_written() {
        for (path, expected) in [
            ("/proc/./self//fd/../exe", "proc/self/exe"),
            ("/proc/../../sys", "sys"),
            ("/", ""),
        ] {
            assert_eq!(names(path.as_bytes()).join(&b'/'), expected.as_bytes());
        }
    }
}
