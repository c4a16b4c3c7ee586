//! `/proc`, `/sys` and missing devices for a step in whose root directory nothing is mounted: what
//! it opens, reads or asks about there is the container's own, and `self` is who asks.
//!
//! The thread that answers has the container's root directory. A path is taken apart here and opened
//! beneath `/proc/PID` of who asked, or of another process of the step; no link of a process leads
//! further than to what it is a link to. Of the rest of `/proc` and of `/sys` nothing can be written.
//! Whatever else is asked about is left to the kernel, with the step's own root directory.
//!
//! A step is no prisoner here: who is user 0 in it can do what the container's user 0 can. This is
//! for programs that need those files, and keeps them from reaching others' by mistake.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::stat::Shown;
use super::target::{Memory, Numbers};
use super::{Answering, int, serve_in_thread};
use crate::sandbox::seccomp::supervised::{self, FileCall, Naming, StatLayout};
use crate::sandbox::standard_mounts::DEVICES;
use crate::sandbox::syscall::notification::{self, Answer, Listener, Question};

/// The kernel's limit for a path with its end.
const PATH_LIMIT: usize = 4096;
/// statx: everything that stat tells, and the birth.
const WANTED: u32 = 0xfff;

/// Starts answering in a thread of this process, whose working directory becomes `/proc`. `devices`
/// are those that the step's `/dev` lacks.
pub(in crate::sandbox) fn start(
    listener: OwnedFd,
    devices: Vec<&'static str>,
) -> Result<(), Errno> {
    rustix::process::chdir("/proc")?;
    let init = rustix::process::getpid().as_raw_nonzero().get();
    serve_in_thread(move || Server {
        listener: Listener::from(listener),
        calls: supervised::file_calls(),
        persona: (0, 0),
        init,
        devices,
    })
}

/// Devices that a step's `/dev` lacks.
pub(in crate::sandbox) fn missing_devices(root: &OwnedFd) -> Vec<&'static str> {
    let is_there = |name: &str| {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(root, format!("dev/{name}"), flags).is_ok()
    };
    let names = DEVICES.iter().map(|(name, _, _)| *name);
    names.filter(|name| !is_there(name)).collect()
}

/// Who asks.
struct Asker {
    thread: u32,
    process: i32,
    user: u32,
    group: u32,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below `/proc/PID`.
    Process(i32, Vec<u8>),
    /// Elsewhere in `/proc`, or its own folder.
    Proc(Vec<u8>),
    /// In `/sys`.
    Sys(Vec<u8>),
    /// A device of the container.
    Device(Vec<u8>),
}

struct Server {
    listener: Listener,
    calls: std::collections::HashMap<(u32, u32), FileCall>,
    /// The user and group that this thread now is to the kernel: who may look into a process of a
    /// user is that user.
    persona: (u32, u32),
    init: i32,
    devices: Vec<&'static str>,
}

impl Answering for Server {
    fn listener(&self) -> &Listener {
        &self.listener
    }

    fn answer(&mut self, question: &Question) -> Result<Answer, Errno> {
        let key = (question.architecture, question.number);
        let Some(&call) = self.calls.get(&key) else {
            return Ok(Answer::Continue);
        };
        let argument = usize::from(call.naming() == Naming::At);
        let Ok(path) = self.text(question, question.arguments[argument]) else {
            return Ok(Answer::Continue);
        };
        // Nearly every path.
        if ![&b"/proc"[..], b"/sys", b"/dev"]
            .iter()
            .any(|start| path.starts_with(start))
        {
            return Ok(Answer::Continue);
        }
        let asker = asker(question.thread)?;
        let Some(place) = self.place(&path, &asker)? else {
            return Ok(Answer::Continue);
        };
        self.become_user((asker.user, asker.group))?;
        let arguments = &question.arguments[argument + 1..];
        self.carry_out(question, call, arguments, &path, &place, &asker)
    }
}

impl Server {
    fn carry_out(
        &self,
        question: &Question,
        call: FileCall,
        arguments: &[u64],
        path: &[u8],
        place: &Place,
        asker: &Asker,
    ) -> Result<Answer, Errno> {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        let memory = Memory::of(question, &self.listener, Numbers::Same)?;
        match call {
            FileCall::Open { .. } => {
                let flags = OFlags::from_bits_retain(int(argument(0)).cast_unsigned());
                Ok(Answer::Descriptor {
                    descriptor: open(place, flags)?,
                    close_on_exec: flags.contains(OFlags::CLOEXEC),
                })
            }
            FileCall::ReadLink { .. } => {
                let target = read_link(place, path, asker)?;
                let length = usize::try_from(argument(1)).unwrap_or(usize::MAX);
                let shown = &target[..target.len().min(length)];
                memory.write(argument(0), shown)?;
                Ok(Answer::Value(shown.len() as i64))
            }
            FileCall::Access { .. } => {
                let writes = argument(0) & libc::W_OK as u64 != 0;
                open(place, OFlags::PATH)?;
                match writes && !matches!(place, Place::Process(..) | Place::Device(_)) {
                    true => Err(Errno::ROFS),
                    false => Ok(Answer::Value(0)),
                }
            }
            FileCall::Stat { naming, layout } => {
                let flags = if naming == Naming::At { argument(1) } else { 0 };
                let shown = look(place, naming, flags)?;
                let bytes = match layout {
                    StatLayout::Native => shown.native(),
                    StatLayout::X86 => shown.x86(),
                };
                memory.write(argument(0), &bytes)?;
                Ok(Answer::Value(0))
            }
            FileCall::Statx => {
                let shown = look(place, Naming::At, argument(0))?;
                memory.write(argument(2), shown.statx())?;
                Ok(Answer::Value(0))
            }
        }
    }

    /// A path in the memory of who asks.
    fn text(&mut self, question: &Question, address: u64) -> Result<Vec<u8>, Errno> {
        let read = |server: &Self| {
            Memory::of(question, &server.listener, Numbers::Same)?.text(address, PATH_LIMIT)
        };
        match read(self) {
            Err(Errno::FAULT) => {
                let asker = asker(question.thread)?;
                self.become_user((asker.user, asker.group))?;
                read(self)
            }
            other => other,
        }
    }

    /// Makes this thread a user to the kernel, with the way back to user 0.
    fn become_user(&mut self, (user, group): (u32, u32)) -> Result<(), Errno> {
        if self.persona == (user, group) {
            return Ok(());
        }
        let root = (Uid::ROOT, Gid::ROOT);
        rustix::thread::set_thread_res_uid(root.0, root.0, root.0)?;
        rustix::thread::set_thread_res_gid(root.1, root.1, root.1)?;
        self.persona = (0, 0);
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::thread::set_thread_res_gid(gid, gid, root.1)?;
        rustix::thread::set_thread_res_uid(uid, uid, root.0)?;
        self.persona = (user, group);
        Ok(())
    }

    /// What a path leads to, if it is answered here.
    fn place(&self, path: &[u8], asker: &Asker) -> Result<Option<Place>, Errno> {
        let names = names(path);
        let own = |rest: &[&[u8]]| Ok(Some(Place::Process(asker.process, rest.join(&b'/'))));
        match &names[..] {
            [b"sys", rest @ ..] => Ok(Some(Place::Sys(rest.join(&b'/')))),
            [b"proc", b"self", rest @ ..] => own(rest),
            [b"proc", b"mounts" | b"net", ..] => own(&names[1..]),
            [b"proc", b"thread-self", rest @ ..] => {
                let mut own = format!("task/{}/", asker.thread).into_bytes();
                own.extend(rest.join(&b'/'));
                Ok(Some(Place::Process(asker.process, own)))
            }
            [b"proc", first, rest @ ..] => match number(first) {
                Some(pid) if self.is_of_the_step(pid) => {
                    Ok(Some(Place::Process(pid, rest.join(&b'/'))))
                }
                // Nobody that a step knows of.
                Some(_) => Err(Errno::NOENT),
                None => Ok(Some(Place::Proc(names[1..].join(&b'/')))),
            },
            [b"proc"] => Ok(Some(Place::Proc(Vec::new()))),
            // These are links; what they lead to is not there.
            [b"dev", b"fd", rest @ ..] if !rest.is_empty() => {
                let mut own = b"fd/".to_vec();
                own.extend(rest.join(&b'/'));
                Ok(Some(Place::Process(asker.process, own)))
            }
            [b"dev", b"stdin"] => own(&[b"fd/0"]),
            [b"dev", b"stdout"] => own(&[b"fd/1"]),
            [b"dev", b"stderr"] => own(&[b"fd/2"]),
            [b"dev", name] if self.devices.iter().any(|device| device.as_bytes() == *name) => {
                Ok(Some(Place::Device(name.to_vec())))
            }
            _ => Ok(None),
        }
    }

    /// Whether a process descends from the step's init.
    fn is_of_the_step(&self, pid: i32) -> bool {
        let mut pid = pid;
        // No chain is that long.
        for _ in 0..4096 {
            match status(pid.cast_unsigned(), "PPid:") {
                Some(parent) if parent == self.init => return true,
                Some(parent) if parent > 1 => pid = parent,
                _ => return false,
            }
        }
        false
    }
}

/// The components of an absolute path, taken as written.
fn names(path: &[u8]) -> Vec<&[u8]> {
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

fn number(name: &[u8]) -> Option<i32> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// The first number of a line of a thread's status.
fn status(thread: u32, line: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    field(&status, line, 0)
}

fn field(status: &str, line: &str, index: usize) -> Option<i32> {
    let line = status.lines().find_map(|found| found.strip_prefix(line))?;
    line.split_whitespace().nth(index)?.parse().ok()
}

fn asker(thread: u32) -> Result<Asker, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::SRCH))?;
    // The effective ids.
    let number = |line: &str, index| field(&status, line, index).ok_or(Errno::SRCH);
    Ok(Asker {
        thread,
        process: number("Tgid:", 0)?,
        user: number("Uid:", 1)?.cast_unsigned(),
        group: number("Gid:", 1)?.cast_unsigned(),
    })
}

/// Opens what is at a place.
fn open(place: &Place, flags: OFlags) -> Result<OwnedFd, Errno> {
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
fn look(place: &Place, naming: Naming, flags: u64) -> Result<Shown, Errno> {
    let is_link_itself = naming == Naming::Link || flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0;
    let mut open_flags = OFlags::PATH;
    if is_link_itself {
        open_flags |= OFlags::NOFOLLOW;
    }
    let opened = open(place, open_flags)?;
    let name = CString::new(format!("/proc/thread-self/fd/{}", opened.as_raw_fd()));
    let name = name.map_err(|_| Errno::INVAL)?;
    notification::statx(&name, 0, WANTED).map(Shown::new)
}

/// Where the link at a place leads, as who asks would say it.
fn read_link(place: &Place, path: &[u8], asker: &Asker) -> Result<Vec<u8>, Errno> {
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
