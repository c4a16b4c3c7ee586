//! Owners beyond the mapped ids, and devices: what the kernel refuses of an ordinary step in a user
//! namespace. It decides everything else by itself, and is asked nothing about owners.
//!
//! A file that is given to such an owner belongs to a stand-in, the highest id up to which all are
//! mapped; a device is an empty file. What they stand for is noted where the step has no way to, never
//! in an attribute: nothing that a step writes is believed. Who gives a file to the stand-in itself is
//! asked, too, so a note on an owner holds for as long as the file belongs to it: what the kernel does
//! without asking says the rest. A file of the stand-in's that is given to the stand-in stays whose it
//! was: programs give files to whom `stat` says they belong to.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::owners::device_kind;
use super::rights::Rights;
use super::stat::{HAS_MOUNT, Shown};
use super::target::{Memory, Numbers, Target, descriptor_name};
use super::{Answering, changes, check, id, serve_in_thread};
use crate::fs::override_stat::Kind;
use crate::sandbox::id_map::IdMaps;
use crate::sandbox::note::Note;
use crate::sandbox::seccomp::supervised::{self, Call, Naming};
use crate::sandbox::spec::HighestIds;
use crate::sandbox::syscall::notification::{self, Answer, Listener, Question};

/// statx: everything that stat tells, the birth and the mount.
const WANTED: u32 = 0xfff | HAS_MOUNT;

/// How often a file is looked for that is moved at that moment.
const TRIES: usize = 8;

/// What a supervisor needs, once somebody asks.
pub(in crate::sandbox) struct Plan {
    /// Who stands in.
    pub(super) stand_in: HighestIds,
    /// Where notes are written.
    pub(super) notes: OwnedFd,
    /// Where the step's changes go.
    pub(super) changes: OwnedFd,
}

impl Plan {
    /// Starts answering in a thread of this process, whose working directory becomes `/proc`.
    pub(in crate::sandbox) fn start(self, listener: OwnedFd) -> Result<(), Errno> {
        rustix::process::chdir("/proc")?;
        serve_in_thread(move || Supervisor {
            listener: Listener::from(listener),
            calls: supervised::calls(),
            numbers: Numbers::find(),
            works: check().ok().and_then(|()| IdMaps::current().ok()),
            root: look(c"/").ok(),
            stand_in: self.stand_in,
            notes: File::from(self.notes),
            changes: self.changes,
        })
    }
}

struct Supervisor {
    listener: Listener,
    calls: HashMap<(u32, u32), Call>,
    numbers: Numbers,
    /// The ids that there are; `None` where nothing can be answered.
    works: Option<IdMaps>,
    /// The step's root directory.
    root: Option<Shown>,
    stand_in: HighestIds,
    notes: File,
    changes: OwnedFd,
}

impl Answering for Supervisor {
    fn listener(&self) -> &Listener {
        &self.listener
    }

    fn answer(&mut self, question: &Question) -> Result<Answer, Errno> {
        let call = self.calls.get(&(question.architecture, question.number));
        let (Some(&call), Some(_)) = (call, &self.works) else {
            // Which refuses.
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
                let known = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
                if !known.contains(AtFlags::from_bits_retain(flags as u32)) {
                    return Err(Errno::INVAL);
                }
                let target = memory.target(naming, flags, true)?;
                self.change(&target, id(a[ids], narrow), id(a[ids + 1], narrow))
            }
            Call::Mknod { naming } => {
                let mode = if naming == Naming::At { 2 } else { 1 };
                match device_kind(a[mode] as u32, a[mode + 1]) {
                    // Overlay's mark for what is gone: the kernel knows who may make it.
                    Kind::CharDevice(0, 0) => Ok(Answer::Continue),
                    device => {
                        let target = memory.target(naming, 0, false)?;
                        self.make_device(&target, a[mode] as u32, device)
                    }
                }
            }
            _ => Ok(Answer::Continue),
        }
    }
}

impl Supervisor {
    /// chown: gives the file to whom the kernel can, and notes the rest.
    fn change(
        &self,
        target: &Target<'_>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<Answer, Errno> {
        let maps = self.works.as_ref().ok_or(Errno::INVAL)?;
        let is_user = uid.is_some_and(|uid| maps.has_user(uid));
        let is_group = gid.is_some_and(|gid| maps.has_group(gid));
        let asker = Rights::of(target.thread())?;
        match asker.needs(CapabilitySet::CHOWN) {
            // The kernel knows these, and who may give what is theirs.
            Err(_) if is_user == uid.is_some() && is_group == gid.is_some() => {
                return Ok(Answer::Continue);
            }
            // Nobody is, or is in a group, that isn't mapped: who may give files to anybody may this.
            other => other?,
        }
        let file = match target.open(asker.has_own_root) {
            // By a link of `/proc`: to what isn't the asking process's, or the kernel's own to judge.
            Err(Errno::LOOP) => return Ok(Answer::Continue),
            other => other?,
        };
        let name = descriptor_name(&file)?;
        let before = look(&name)?;
        if self.is_on_root(&before) && before.born().is_none() {
            // No note could name it.
            return Ok(Answer::Continue);
        }
        if !target.is_wanted() {
            return Err(Errno::SRCH);
        }
        let (own, stand_in) = (before.owner(), self.stand_in);
        let (real_uid, uid) = given(uid, is_user, own.0, stand_in.uid);
        let (real_gid, gid) = given(gid, is_group, own.1, stand_in.gid);
        rustix::fs::chownat(
            &file,
            c"",
            real_uid.map(Uid::from_raw),
            real_gid.map(Gid::from_raw),
            AtFlags::EMPTY_PATH,
        )?;
        self.note(&name, uid, gid, None)
    }

    /// mknod: makes an empty file, and notes which device it stands for.
    fn make_device(&self, target: &Target<'_>, mode: u32, device: Kind) -> Result<Answer, Errno> {
        let asker = Rights::of(target.thread())?;
        asker.needs(CapabilitySet::MKNOD)?;
        if asker.uid != 0 {
            return Err(Errno::PERM);
        }
        if self.root.as_ref().is_none_or(|root| root.born().is_none()) {
            return Ok(Answer::Continue);
        }
        let permissions = mode & 0o7777 & !asker.umask;
        if !target.is_wanted() {
            return Err(Errno::SRCH);
        }
        // The folder may hand on its group: the kernel knows.
        let made = asker.act(|| target.create(asker.has_own_root, permissions));
        let file = made?;
        let name = descriptor_name(&file)?;
        self.note(&name, None, None, Some(device))
    }

    fn is_on_root(&self, shown: &Shown) -> bool {
        self.root
            .as_ref()
            .is_some_and(|root| (shown.device(), shown.mount()) == (root.device(), root.mount()))
    }

    /// Notes what a file stands for, where that gets into a layer.
    fn note(
        &self,
        name: &CStr,
        uid: Option<u32>,
        gid: Option<u32>,
        device: Option<Kind>,
    ) -> Result<Answer, Errno> {
        let done = Ok(Answer::Value(0));
        if (uid, gid, device) == (None, None, None) {
            return done;
        }
        for _ in 0..TRIES {
            let shown = look(name)?;
            if !self.is_on_root(&shown) || shown.links() == 0 {
                return done;
            }
            // A device was made just now and copied from nowhere: its number is the same in both.
            let is_it = |stored: &(u64, _)| device.is_none() || stored.0 == shown.inode();
            let Some((inode, born)) = self.stored(name, &shown).filter(is_it) else {
                continue;
            };
            let note = Note {
                inode,
                born,
                uid,
                gid,
                device,
            };
            let written = (&self.notes).write_all(&note.encode());
            return written.map_err(|_| Errno::NOSPC).and(done);
        }
        Err(Errno::INVAL)
    }

    /// The inode that a file of the root file system has in the folder of the step's changes: the one
    /// that was made at the same time.
    fn stored(&self, name: &CStr, shown: &Shown) -> Option<(u64, (i64, u32))> {
        let root = self.root.as_ref()?.device();
        let file = changes::stored_file(&self.changes, root, name, shown)?;
        let stored = look(&descriptor_name(&file).ok()?).ok()?;
        let born = stored.born()?;
        (shown.born() == Some(born) && shown.mode() == stored.mode())
            .then(|| (stored.inode(), born))
    }
}

/// The id that a file which has `own` really gets where it is given to `id`, and the one that is noted.
fn given(id: Option<u32>, is_mapped: bool, own: u32, stand_in: u32) -> (Option<u32>, Option<u32>) {
    match id {
        Some(id) if !is_mapped => (Some(stand_in), Some(id)),
        // In place of what was noted when it last belonged to that one.
        Some(id) if id == stand_in && own != stand_in => (Some(id), Some(id)),
        other => (other, None),
    }
}

fn look(name: &CStr) -> Result<Shown, Errno> {
    let flags = AtFlags::NO_AUTOMOUNT.bits();
    notification::statx(name, flags, WANTED).map(Shown::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_is_noted_and_what_is_real_is_not() {
        for (id, is_mapped, own, expected) in [
            (None, false, 0, (None, None)),
            (Some(70_000), false, 0, (Some(9), Some(70_000))),
            (Some(70_000), false, 9, (Some(9), Some(70_000))),
            // A range of its own behind a gap.
            (Some(70_000), true, 9, (Some(70_000), None)),
            (Some(9), true, 0, (Some(9), Some(9))),
            (Some(9), true, 9, (Some(9), None)),
        ] {
            assert_eq!(given(id, is_mapped, own, 9), expected, "{id:?} {own}");
        }
    }
}
