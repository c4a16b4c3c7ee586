//! The supervisor: a thread of a sandbox's init that answers the system calls which the step's
//! filter leaves to it.
//!
//! Where one user id of the machine stands for all of an image's, the kernel can keep no owners. So
//! chown and its kin note an owner in an attribute of the file instead, stat and its kin show what
//! was noted, devices are plain files that say what they stand for, and root's changes of user
//! succeed without effect. What was noted is read back when the step's changes become a layer. Where
//! many ids are mapped, that goes for steps on images with others; in the rest of the steps nobody is
//! asked about anything but those others and devices ([`beyond`]).
//!
//! The asking process is hostile, and its memory changes while one looks: what is answered here is
//! carried out here, on a file that was opened first. The kernel is told to go on only where it
//! would decide alone what is safe. None of this protects one user of the step from another: they
//! are the same to the kernel.
//!
//! It runs in process 1 of the sandbox, which no signal from inside reaches; its working directory
//! is the sandbox's `/proc`, from which `PID/cwd` and `PID/fd/N` lead to what an asking process
//! means. It has no way to the machine that the sandbox's init hasn't.

mod asker;
pub(super) mod beyond;
pub(super) mod changes;
pub(super) mod kernel_files;
mod names;
mod owners;
mod places;
mod rights;
mod stand_ins;
mod stat;
mod target;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::fs::override_stat::NO_ATTRIBUTES;

use super::id_map::IdMaps;
use super::seccomp::supervised::{self, Call, Naming, StatLayout, Supervision};
use super::seccomp::{self, Instruction};
use super::spec::{FileNames, NotedPath, SandboxSpec, Security, SetupFailure, Stage};
use super::syscall::notification::{self, Answer, Listener, Question};
use names::Names;
use owners::Owners;
use rights::Rights;
pub(super) use stand_ins::StandIns;
use target::{Memory, Numbers};

/// What a step is supervised for.
pub(super) enum Plan {
    /// Every owner.
    Owners(OwnersPlan),
    /// What the kernel refuses.
    Beyond(beyond::Plan),
}

/// What takes noting every owner.
pub(super) struct OwnersPlan {
    /// The step's user and group.
    user: (u32, u32),
    /// Its supplementary groups.
    groups: Vec<u32>,
    /// Whether that user has an id here.
    is_known: bool,
    /// The ids that there are.
    maps: IdMaps,
    /// Files of the image that carry no note, and their owners.
    noted: Vec<NotedPath>,
    /// Names of files that may have a note.
    names: Option<FileNames>,
    /// Where notes are written for which there is no attribute.
    notes: OwnedFd,
    /// Where the step's changes go.
    changes: OwnedFd,
}

impl Plan {
    /// `None` where a step needs no supervisor. `passed` are the files that came with the spec,
    /// `changes` is from [`changes::open`].
    pub(super) fn of(
        spec: &SandboxSpec,
        passed: &[OwnedFd],
        changes: Option<OwnedFd>,
    ) -> Result<Option<Self>, SetupFailure> {
        let (Some(owners), Some(changes)) = (&spec.owners, changes) else {
            return Ok(None);
        };
        if spec.security == Security::Insecure {
            return Ok(None);
        }
        let notes = passed
            .get(owners.notes)
            .ok_or_else(|| SetupFailure::request("the file for notes on owners was not passed"))?
            .try_clone()
            .map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                SetupFailure::new(Stage::Process, "can't keep a descriptor", errno)
            })?;
        if let Some(stand_in) = owners.stand_in {
            return Ok(Some(Self::Beyond(beyond::Plan {
                stand_in,
                notes,
                changes,
            })));
        }
        check()?;
        check_attributes(&changes)?;
        let maps = IdMaps::current().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            SetupFailure::new(Stage::User, "can't read this process's id maps", errno)
        })?;
        Ok(Some(Self::Owners(OwnersPlan {
            user: (spec.uid, spec.gid),
            groups: spec.groups.clone(),
            is_known: maps.has_user(spec.uid),
            maps,
            noted: owners.noted.clone(),
            names: owners.names.clone(),
            notes,
            changes,
        })))
    }
}

impl OwnersPlan {
    /// The user and group that the step is to be where this user namespace doesn't know them.
    pub(super) fn foreign_user(&self) -> Option<(u32, u32)> {
        (!self.is_known).then_some(self.user)
    }

    /// Whether set-id programs must give nobody rights: where the kernel tells users apart, files of
    /// those whom it doesn't know are really root's.
    pub(super) fn forbids_rights(&self) -> bool {
        self.maps.has_many()
    }

    /// The step's system call filter.
    pub(super) fn filter(&self) -> Vec<Instruction> {
        seccomp::supervised_filter(Supervision::Owners {
            is_root: self.user.0 == 0,
        })
    }
}

/// Tries what a supervisor works by, before anybody relies on it.
fn check() -> Result<(), SetupFailure> {
    let failed =
        |message: &'static str| move |errno| SetupFailure::new(Stage::Seccomp, message, errno);
    // Without these every answer would be an error that the step can't understand.
    notification::try_memory().map_err(failed(
        "can't supervise the step without `process_vm_readv` and `process_vm_writev`, which a filter hides here",
    ))?;
    notification::statx(c".", 0, 0)
        .map_err(failed(
            "can't supervise the step without `statx`, which a filter hides here",
        ))
        .map(drop)
}

/// Tries whether the files of a step can carry their owners: what only the supervisor remembered
/// would be lost with the step.
fn check_attributes(changes: &OwnedFd) -> Result<(), SetupFailure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(changes, c".", flags, Mode::empty())
        .and_then(|folder| {
            rustix::fs::fsetxattr(&folder, TRIED, b"", XattrFlags::empty())?;
            rustix::fs::fremovexattr(&folder, TRIED)
        })
        .map_err(|errno| {
            let message = format!("can't keep the owners of files: {NO_ATTRIBUTES}");
            SetupFailure::new(Stage::Seccomp, message, errno)
        })
}

/// An attribute that means nothing.
const TRIED: &str = "user.rbuild.tried";

/// Who answers a step's questions.
trait Answering {
    fn listener(&self) -> &Listener;

    fn answer(&mut self, question: &Question) -> Result<Answer, Errno>;
}

/// Starts the supervisor as a thread of this process, whose working directory becomes `/proc`.
pub(super) fn start(listener: OwnedFd, plan: OwnersPlan) -> Result<(), SetupFailure> {
    let failed =
        |message: &'static str| move |errno| SetupFailure::new(Stage::Seccomp, message, errno);
    rustix::process::chdir("/proc").map_err(failed("can't supervise the step from `/proc`"))?;
    serve_in_thread(move || Supervisor {
        calls: supervised::calls(),
        numbers: Numbers::find(),
        has_users: plan.maps.has_many(),
        owners: Owners::new(
            plan.foreign_user(),
            &plan.noted,
            Names::new(plan.names),
            plan.notes,
            plan.changes,
            plan.groups,
            plan.maps,
        ),
        listener: Listener::from(listener),
    })
    .map_err(failed("can't start the step's supervisor"))
}

/// Answers in a thread of this process, until nobody is left to ask.
fn serve_in_thread<A: Answering>(make: impl FnOnce() -> A + Send + 'static) -> Result<(), Errno> {
    std::thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(move || serve(make()))
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
}

fn serve(mut supervisor: impl Answering) {
    // Who acts here as somebody of the step is in no group of the caller's. With one id only, the
    // kernel lets nobody change groups.
    let _ = rustix::thread::set_thread_groups(&[]);
    supervisor.listener().wake_directly();
    loop {
        match supervisor.listener().receive() {
            Ok(question) => {
                let answer = supervisor.answer(&question).unwrap_or_else(Answer::Error);
                supervisor.listener().answer(&question, answer);
            }
            // The asking process was killed, or a signal came.
            Err(Errno::NOENT | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

struct Supervisor {
    listener: Listener,
    calls: HashMap<(u32, u32), Call>,
    numbers: Numbers,
    owners: Owners,
    /// Whether the kernel tells users apart.
    has_users: bool,
}

/// An argument that is a C `int`.
fn int(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}

/// An argument that is a user or group id; `None` for -1, which leaves it as it is.
fn id(argument: u64, narrow: bool) -> Option<u32> {
    match (narrow, argument as u32) {
        (true, id) if id as u16 == u16::MAX => None,
        (true, id) => Some(id & 0xffff),
        (false, u32::MAX) => None,
        (false, id) => Some(id),
    }
}

impl Answering for Supervisor {
    fn listener(&self) -> &Listener {
        &self.listener
    }

    fn answer(&mut self, question: &Question) -> Result<Answer, Errno> {
        let Some(&call) = self.calls.get(&(question.architecture, question.number)) else {
            return Ok(Answer::Continue);
        };
        let memory = Memory::of(question, &self.listener, self.numbers)?;
        let a = &question.arguments;
        match call {
            Call::Chown { naming, narrow } => {
                let (ids, flags) = match naming {
                    Naming::At => (2, a[4]),
                    _ => (1, 0),
                };
                let target = memory.target(naming, flags, true)?;
                if self.user(&target)?.is_some() {
                    // The kernel knows what is that one's to give, and of other owners nothing.
                    return match self.owners.is_noted(&target) {
                        Ok(true) => Err(Errno::PERM),
                        _ => Ok(Answer::Continue),
                    };
                }
                self.owners
                    .change(&target, id(a[ids], narrow), id(a[ids + 1], narrow))
            }
            Call::Mknod { naming } => {
                let mode = if naming == Naming::At { 2 } else { 1 };
                let target = memory.target(naming, 0, false)?;
                if self.user(&target)?.is_some() {
                    return Err(Errno::PERM);
                }
                self.owners
                    .make_device(&target, a[mode] as u32, a[mode + 1])
            }
            Call::Stat { naming, layout } => {
                let (buffer, flags) = match naming {
                    Naming::At => (a[2], a[3]),
                    _ => (a[1], 0),
                };
                let Ok(target) = memory.target(naming, flags, true) else {
                    return Ok(Answer::Continue);
                };
                let Some(shown) = self.owners.look(&target, 0)? else {
                    return Ok(Answer::Continue);
                };
                let bytes = match layout {
                    StatLayout::Native => shown.native(),
                    StatLayout::X86 => shown.x86(),
                };
                memory.write(buffer, &bytes)?;
                Ok(Answer::Value(0))
            }
            Call::Statx => {
                let Ok(target) = memory.target(Naming::At, a[2], true) else {
                    return Ok(Answer::Continue);
                };
                let Some(shown) = self.owners.look(&target, a[3] as u32)? else {
                    return Ok(Answer::Continue);
                };
                memory.write(a[4], shown.statx())?;
                Ok(Answer::Value(0))
            }
            Call::SetXattr { naming } => self.set_xattr(&memory, naming, a),
            Call::RemoveXattr { naming } => {
                let target = memory.target(naming, 0, true)?;
                let name = memory.text(a[1], 256)?;
                let act = || self.owners.remove_xattr(&target, &name);
                match self.user(&target)? {
                    Some(user) => user.act(act),
                    None => act(),
                }
            }
            Call::ListXattr { naming } => {
                let target = memory.target(naming, 0, true)?;
                let names = self.owners.list_xattrs(&target)?;
                let length = i64::try_from(names.len()).map_err(|_| Errno::TOOBIG)?;
                if a[2] != 0 {
                    if names.len() as u64 > a[2] {
                        return Err(Errno::RANGE);
                    }
                    memory.write(a[1], &names)?;
                }
                Ok(Answer::Value(length))
            }
            Call::GetGroups { narrow } => self.groups(&memory, int(a[0]), a[1], narrow),
            Call::Rename { at } => {
                let (from, to, flags) = if at { (1, 3, a[4]) } else { (0, 1, 0) };
                let path = |index: usize| memory.text(a[index], target::PATH_LIMIT);
                // The kernel says what is wrong with one that can't be read.
                if let (Ok(from), Ok(to)) = (path(from), path(to)) {
                    self.owners.rename(&from, &to, flags);
                }
                Ok(Answer::Continue)
            }
            Call::Symlink { naming } => {
                let path = a[if naming == Naming::At { 2 } else { 1 }];
                if let Ok(path) = memory.text(path, target::PATH_LIMIT) {
                    self.owners.link(&path);
                }
                Ok(Answer::Continue)
            }
            Call::Chroot => {
                // From now on a path of an asking process may begin elsewhere.
                self.owners.roots_differ();
                Ok(Answer::Continue)
            }
        }
    }
}

impl Supervisor {
    /// getgroups: the groups that the step began with.
    fn groups(
        &self,
        memory: &Memory<'_>,
        room: i32,
        address: u64,
        narrow: bool,
    ) -> Result<Answer, Errno> {
        let groups = self.owners.groups();
        let count = i32::try_from(groups.len()).map_err(|_| Errno::INVAL)?;
        if room != 0 {
            if room < count {
                return Err(Errno::INVAL);
            }
            let bytes: Vec<u8> = match narrow {
                true => {
                    let low = groups.iter().map(|gid| *gid as u16);
                    low.flat_map(u16::to_ne_bytes).collect()
                }
                false => groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect(),
            };
            if !bytes.is_empty() {
                memory.write(address, &bytes)?;
            }
        }
        Ok(Answer::Value(count.into()))
    }

    fn set_xattr(
        &self,
        memory: &Memory<'_>,
        naming: Naming,
        a: &[u64; 6],
    ) -> Result<Answer, Errno> {
        let target = memory.target(naming, 0, true)?;
        let name = memory.text(a[1], 256)?;
        // The kernel's own limit.
        let length = usize::try_from(a[3]).map_err(|_| Errno::TOOBIG)?;
        if length > 64 * 1024 {
            return Err(Errno::TOOBIG);
        }
        let value = memory.bytes(a[2], length)?;
        let flags = int(a[4]).cast_unsigned();
        let act = || self.owners.set_xattr(&target, &name, &value, flags);
        match self.user(&target)? {
            Some(user) => user.act(act),
            None => act(),
        }
    }

    /// Who asks, where that isn't root and the kernel tells users apart: then it has no more rights
    /// here than there.
    fn user(&self, target: &target::Target<'_>) -> Result<Option<Rights>, Errno> {
        if !self.has_users {
            return Ok(None);
        }
        Rights::of(target.thread()).map(|asker| (asker.uid != 0).then_some(asker))
    }
}
