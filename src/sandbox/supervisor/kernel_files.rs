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

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::asker::{self, Asker, Persona};
use super::places::{Place, look, names, number, open, read_link};
use super::stand_ins::{Content, StandIns};
use super::stat::Shown;
use super::target::{Memory, Numbers};
use super::{Answering, int, serve_in_thread};
use crate::sandbox::seccomp::supervised::{self, FileCall, Naming, StatLayout};
use crate::sandbox::standard_mounts::DEVICES;
use crate::sandbox::syscall::notification::{Answer, Listener, Question};

/// The kernel's limit for a path with its end.
const PATH_LIMIT: usize = 4096;

/// Starts answering in a thread of this process, whose working directory becomes `/proc`. `devices`
/// are those that the step's `/dev` lacks, `stand_ins` its files that stand in for others.
pub(in crate::sandbox) fn start(
    listener: OwnedFd,
    devices: Vec<&'static str>,
    stand_ins: StandIns,
) -> Result<(), Errno> {
    rustix::process::chdir("/proc")?;
    let init = rustix::process::getpid().as_raw_nonzero().get();
    serve_in_thread(move || Server {
        listener: Listener::from(listener),
        calls: supervised::file_calls(),
        persona: None,
        init,
        devices,
        stand_ins,
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

struct Server {
    listener: Listener,
    calls: std::collections::HashMap<(u32, u32), FileCall>,
    /// Who this thread now is to the kernel: who may look into a process of a user is that user.
    persona: Option<Persona>,
    init: i32,
    devices: Vec<&'static str>,
    stand_ins: StandIns,
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
        let arguments = Arguments(&question.arguments[argument + 1..]);
        // Of the rest of the kernel's files nothing can be moved.
        let is_kernels = [&b"/proc"[..], b"/sys", b"/dev"]
            .iter()
            .any(|start| path.starts_with(start))
            && (!call.is_for_stand_ins() || call == FileCall::Create);
        // Nearly every path.
        if !is_kernels && self.stand_ins.is_empty() {
            return Ok(Answer::Continue);
        }
        let asker = asker::of(question.thread)?;
        if is_kernels && let Some(place) = self.place(&path, &asker)? {
            self.become_user(&asker.persona)?;
            let memory = Memory::of(question, &self.listener, Numbers::Same)?;
            return match self.stand_in_at(&place, call, arguments)? {
                Some(content) => show(content, call, arguments, &memory),
                None => carry_out(call, arguments, &memory, &path, &place, &asker),
            };
        }
        if self.stand_ins.is_empty() || matches!(call, FileCall::ReadLink { .. }) {
            return Ok(Answer::Continue);
        }
        self.become_user(&asker.persona)?;
        let memory = Memory::of(question, &self.listener, Numbers::Same)?;
        match self.stand_in(question, call, arguments)? {
            Some(content) => show(content, call, arguments, &memory),
            None => Ok(Answer::Continue),
        }
    }
}

impl Server {
    /// What the file stands in for that a call names, or one of both.
    fn stand_in(
        &self,
        question: &Question,
        call: FileCall,
        arguments: Arguments<'_>,
    ) -> Result<Option<&Content>, Errno> {
        let mut named = vec![*question];
        if let FileCall::Rename { naming } = call {
            let mut other = *question;
            other
                .arguments
                .rotate_left(if naming == Naming::At { 2 } else { 1 });
            named.push(other);
        }
        let flags = match follows(call, arguments) {
            true => 0,
            false => libc::AT_SYMLINK_NOFOLLOW as u64,
        };
        for question in &named {
            let memory = Memory::of(question, &self.listener, Numbers::Same)?;
            // What has no name is no file of the step's folder.
            let Ok(target) = memory.target(call.naming(), flags, true) else {
                continue;
            };
            if let Some(content) = self.stand_ins.meant(&target)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// The same for a path through `/proc`.
    fn stand_in_at(
        &self,
        place: &Place,
        call: FileCall,
        arguments: Arguments<'_>,
    ) -> Result<Option<&Content>, Errno> {
        let is_process = matches!(place, Place::Process(..));
        if !is_process || self.stand_ins.is_empty() || matches!(call, FileCall::ReadLink { .. }) {
            return Ok(None);
        }
        let mut flags = OFlags::PATH;
        if !follows(call, arguments) {
            flags |= OFlags::NOFOLLOW;
        }
        match open(place, flags) {
            Ok(file) => self.stand_ins.at(&file),
            Err(_) => Ok(None),
        }
    }

    /// A path in the memory of who asks.
    fn text(&mut self, question: &Question, address: u64) -> Result<Vec<u8>, Errno> {
        let read = |server: &Self| {
            Memory::of(question, &server.listener, Numbers::Same)?.text(address, PATH_LIMIT)
        };
        match read(self) {
            Err(Errno::FAULT) => {
                let asker = asker::of(question.thread)?;
                self.become_user(&asker.persona)?;
                read(self)
            }
            other => other,
        }
    }

    /// Makes this thread a user to the kernel.
    fn become_user(&mut self, who: &Persona) -> Result<(), Errno> {
        if self.persona.as_ref() == Some(who) {
            return Ok(());
        }
        self.persona = None;
        who.take_on()?;
        self.persona = Some(who.clone());
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
            match asker::parent(pid) {
                Some(parent) if parent == self.init => return true,
                Some(parent) if parent > 1 => pid = parent,
                _ => return false,
            }
        }
        false
    }
}

/// The arguments behind a path.
#[derive(Clone, Copy)]
struct Arguments<'a>(&'a [u64]);

impl Arguments<'_> {
    fn get(self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// An argument that is the flags of open(2).
    fn open_flags(self, index: usize) -> OFlags {
        OFlags::from_bits_retain(int(self.get(index)).cast_unsigned())
    }
}

/// Whether a call follows a link at the end of its path.
fn follows(call: FileCall, arguments: Arguments<'_>) -> bool {
    let has = |index: usize, flag: libc::c_int| arguments.get(index) & flag as u64 != 0;
    match call {
        FileCall::Open { .. } => {
            let flags = arguments.open_flags(0);
            let makes = flags.contains(OFlags::CREATE | OFlags::EXCL);
            !makes && !flags.contains(OFlags::NOFOLLOW)
        }
        FileCall::Stat { naming, .. } => match naming {
            Naming::At => !has(1, libc::AT_SYMLINK_NOFOLLOW),
            naming => naming != Naming::Link,
        },
        FileCall::Statx => !has(0, libc::AT_SYMLINK_NOFOLLOW),
        FileCall::Link { naming } => naming == Naming::At && has(2, libc::AT_SYMLINK_FOLLOW),
        FileCall::Access { .. } | FileCall::Create => true,
        FileCall::ReadLink { .. } | FileCall::Rename { .. } | FileCall::Unlink { .. } => false,
    }
}

/// Answers as if `content` were mounted, read-only, on the file that stands in for it.
fn show(
    content: &Content,
    call: FileCall,
    arguments: Arguments<'_>,
    memory: &Memory<'_>,
) -> Result<Answer, Errno> {
    match call {
        FileCall::Open { .. } => {
            let flags = arguments.open_flags(0);
            let opened = content.open(flags)?;
            Ok(Answer::Descriptor {
                descriptor: opened,
                close_on_exec: flags.contains(OFlags::CLOEXEC),
            })
        }
        FileCall::Create => Err(Errno::ROFS),
        FileCall::ReadLink { .. } => Err(Errno::INVAL),
        FileCall::Access { .. } => {
            content.access(arguments.get(0))?;
            Ok(Answer::Value(0))
        }
        FileCall::Stat { layout, .. } => write_stat(memory, arguments, layout, &content.look()?),
        FileCall::Statx => write_statx(memory, arguments, &content.look()?),
        FileCall::Link { .. } => Err(Errno::XDEV),
        FileCall::Rename { .. } | FileCall::Unlink { .. } => Err(Errno::BUSY),
    }
}

/// Answers from the container's own files.
fn carry_out(
    call: FileCall,
    arguments: Arguments<'_>,
    memory: &Memory<'_>,
    path: &[u8],
    place: &Place,
    asker: &Asker,
) -> Result<Answer, Errno> {
    match call {
        FileCall::Open { .. } | FileCall::Create => {
            let flags = match call {
                FileCall::Create => OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC,
                _ => arguments.open_flags(0),
            };
            let opened = open(place, flags)?;
            Ok(Answer::Descriptor {
                descriptor: opened,
                close_on_exec: flags.contains(OFlags::CLOEXEC),
            })
        }
        FileCall::ReadLink { .. } => {
            let target = read_link(place, path, asker)?;
            let length = usize::try_from(arguments.get(1)).unwrap_or(usize::MAX);
            let shown = &target[..target.len().min(length)];
            memory.write(arguments.get(0), shown)?;
            Ok(Answer::Value(shown.len() as i64))
        }
        FileCall::Access { .. } => {
            let writes = arguments.get(0) & libc::W_OK as u64 != 0;
            open(place, OFlags::PATH)?;
            match writes && !matches!(place, Place::Process(..) | Place::Device(_)) {
                true => Err(Errno::ROFS),
                false => Ok(Answer::Value(0)),
            }
        }
        FileCall::Stat { layout, .. } => {
            let shown = look(place, follows(call, arguments))?;
            write_stat(memory, arguments, layout, &shown)
        }
        FileCall::Statx => {
            let shown = look(place, follows(call, arguments))?;
            write_statx(memory, arguments, &shown)
        }
        FileCall::Link { .. } | FileCall::Rename { .. } | FileCall::Unlink { .. } => {
            Ok(Answer::Continue)
        }
    }
}

fn write_stat(
    memory: &Memory<'_>,
    arguments: Arguments<'_>,
    layout: StatLayout,
    shown: &Shown,
) -> Result<Answer, Errno> {
    let bytes = match layout {
        StatLayout::Native => shown.native(),
        StatLayout::X86 => shown.x86(),
    };
    memory.write(arguments.get(0), &bytes)?;
    Ok(Answer::Value(0))
}

fn write_statx(
    memory: &Memory<'_>,
    arguments: Arguments<'_>,
    shown: &Shown,
) -> Result<Answer, Errno> {
    memory.write(arguments.get(2), shown.statx())?;
    Ok(Answer::Value(0))
}
