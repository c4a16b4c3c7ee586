//! Owners of files, noted instead of real.
//!
//! A file or folder carries its owner in an attribute. What can carry none (links, pipes, files of
//! some file systems) is remembered by inode number and birth, and written down for whoever makes
//! the layer. A file without a note belongs to root, or to the step's own user where that isn't
//! root and the file is new.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::changes;
use super::names::Names;
use super::stat::Shown;
use super::target::{Target, descriptor_name};
use crate::fs::override_stat::{Kind, MAX_LENGTH, NAME, OverrideStat};
use crate::sandbox::id_map::IdMaps;
use crate::sandbox::note::Note;
use crate::sandbox::spec::NotedPath;
use crate::sandbox::syscall::notification::{self, Answer};

/// Overlay's mark on what it has copied from below, where it keeps marks in a user namespace.
const ORIGIN: &str = "user.overlay.origin";

/// statx: everything that stat tells, and the birth.
pub(super) const WANTED: u32 = 0xfff;
const NO_AUTOMOUNT: u32 = AtFlags::NO_AUTOMOUNT.bits();

/// Which inode: device, number, birth.
type Inode = ((u32, u32), u64, Option<(i64, u32)>);

pub(super) struct Owners {
    /// The step's user and group, where the one id that there is stands for them.
    user: Option<(u32, u32)>,
    /// The device of the root file system, and the time before which all of its files are the
    /// image's.
    root: Option<((u32, u32), (i64, u32))>,
    noted: HashMap<Inode, OverrideStat>,
    /// Among those are files that would carry their note on other file systems.
    file_systems_differ: bool,
    names: Names,
    notes: File,
    /// Where the step's changes go: what is there has another number than the step sees, if it was
    /// copied up.
    changes: OwnedFd,
    /// The step's supplementary groups.
    groups: Vec<u32>,
    roots_differ: bool,
    /// The ids that the kernel knows.
    maps: IdMaps,
}

fn inode(shown: &Shown) -> Inode {
    (shown.device(), shown.inode(), shown.born())
}

fn kind(shown: &Shown) -> Kind {
    match shown.mode() & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        _ => Kind::File,
    }
}

impl Owners {
    /// `user` is the step's where the machine has no id for it; `paths` are files that carry no
    /// note, `names` of those that may have one, and `notes` takes notes for which there is no attribute.
    pub(super) fn new(
        user: Option<(u32, u32)>,
        paths: &[NotedPath],
        names: Names,
        notes: OwnedFd,
        changes: OwnedFd,
        groups: Vec<u32>,
        maps: IdMaps,
    ) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let root = notification::statx(c"/", 0, WANTED)
            .ok()
            .map(|root| (Shown::new(root).device(), (now.tv_sec, now.tv_nsec as u32)));
        let mut owners = Self {
            user,
            root,
            noted: HashMap::new(),
            file_systems_differ: false,
            names,
            notes: File::from(notes),
            changes,
            groups,
            roots_differ: false,
            maps,
        };
        for path in paths {
            // One that can't be noted shows the step's own user, which keeps nobody from building.
            let _ = owners.begin_with(path);
        }
        owners
    }

    /// Notes the owner of a file of the image that can carry no attribute. It is copied up first: a
    /// step that moves it would do so, and leave it with another number.
    fn begin_with(&mut self, path: &NotedPath) -> Result<(), Errno> {
        let mut name = b"/".to_vec();
        name.extend_from_slice(&path.path);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(name, flags, Mode::empty())?;
        // Nothing is moved where nothing can be written.
        let _ = rustix::fs::chownat(
            &file,
            c"",
            Some(Uid::ROOT),
            Some(Gid::ROOT),
            AtFlags::EMPTY_PATH,
        );
        let name = descriptor_name(&file)?;
        let shown = Shown::new(notification::statx(&name, NO_AUTOMOUNT, WANTED)?);
        self.note(
            &name,
            OverrideStat {
                uid: path.uid,
                gid: path.gid,
                mode: shown.mode() & 0o7777,
                kind: kind(&shown),
            },
        )
    }

    /// rename and link: a file that may have a note has another name. `flags` are those of the call.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8], flags: u64) {
        let follows = AtFlags::from_bits_retain(flags as u32).contains(AtFlags::SYMLINK_FOLLOW);
        self.names.rename((!follows).then_some(from), to);
    }

    /// symlink: there is a link where none may have been.
    pub(super) fn link(&mut self, path: &[u8]) {
        self.names.add_link(path);
    }

    /// Paths of processes no longer begin where this one's do.
    pub(super) fn roots_differ(&mut self) {
        self.roots_differ = true;
    }

    /// The step's supplementary groups.
    pub(super) fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// What to show of a file; `None` where that is what the kernel says, errors included.
    pub(super) fn look(&self, target: &Target<'_>, mask: u32) -> Result<Option<Shown>, Errno> {
        if !self.names.may_be_noted(target.path(), target.follow) {
            return Ok(None);
        }
        // Most files of most images are root's, and root of the step asks: one call tells, or two.
        if !self.roots_differ
            && self.user.is_none()
            && let Ok(name) = target.name()
        {
            match self.read_note(&name, target.follow) {
                Some(note) if self.is_as_real(&note) => return Ok(None),
                None if self.noted.is_empty() || self.is_without_note(&name, target.follow) => {
                    return Ok(None);
                }
                _ => {}
            }
        }
        let Ok(file) = target.open(self.roots_differ) else {
            return Ok(None);
        };
        let name = descriptor_name(&file)?;
        let note = self.read_note(&name, true);
        let Ok(shown) = notification::statx(&name, NO_AUTOMOUNT, mask | WANTED) else {
            return Ok(None);
        };
        let shown = Shown::new(shown);
        let Some(over) = note.or_else(|| self.remembered(&name, &shown)) else {
            return Ok(None);
        };
        Ok((!self.is_as_real(&over)).then(|| shown.overridden(&over)))
    }

    /// Whether a file that carries no note has none: the kind that could carry it does.
    fn is_without_note(&self, name: &CStr, follow: bool) -> bool {
        !self.file_systems_differ && look(name, follow).is_ok_and(|shown| can_carry_a_note(&shown))
    }

    /// The note on a file. One that can't be read is none, and so is one that a step may have written
    /// which nobody watched: where the kernel tells users apart, steps write what they like to the
    /// folders of caches.
    fn read_note(&self, name: &CStr, follow: bool) -> Option<OverrideStat> {
        let mut value = [0_u8; MAX_LENGTH];
        let length = match follow {
            true => rustix::fs::getxattr(name, NAME, &mut value),
            false => rustix::fs::lgetxattr(name, NAME, &mut value),
        }
        .ok()?;
        let note = OverrideStat::parse(value.get(..length)?)?;
        (!self.maps.has_many() || self.is_on_root(name, follow)).then_some(note)
    }

    fn is_on_root(&self, name: &CStr, follow: bool) -> bool {
        let shown = look(name, follow).map(|shown| shown.device());
        self.root
            .is_some_and(|(device, _)| shown.is_ok_and(|shown| shown == device))
    }

    /// Whether the kernel says the same.
    fn is_as_real(&self, over: &OverrideStat) -> bool {
        let is_device = matches!(over.kind, Kind::CharDevice(..) | Kind::BlockDevice(..));
        !is_device && (over.uid, over.gid) == self.user.unwrap_or((0, 0))
    }

    /// The owner of a file without an attribute; `None` where the kernel knows it.
    fn remembered(&self, name: &CStr, shown: &Shown) -> Option<OverrideStat> {
        if let Some(over) = self.noted.get(&inode(shown)) {
            return Some(*over);
        }
        self.user?;
        let (device, start) = self.root?;
        // What was copied up is as young as what was made, and carries overlay's mark.
        let is_from_below = shown.device() == device
            && (shown.born().is_some_and(|born| born < start) || self.was_copied_up(name, shown));
        // What is below shows as it is where the kernel knows many users, and else as root's.
        let (uid, gid) = match self.maps.has_many() {
            true => shown.owner(),
            false => (0, 0),
        };
        is_from_below.then(|| OverrideStat {
            uid,
            gid,
            mode: shown.mode() & 0o7777,
            kind: kind(shown),
        })
    }

    fn was_copied_up(&self, name: &CStr, shown: &Shown) -> bool {
        self.stored_file(name, shown).is_some_and(|file| {
            let mut mark = [0; 256];
            descriptor_name(&file)
                .and_then(|name| rustix::fs::getxattr(name, ORIGIN, &mut mark))
                .is_ok()
        })
    }

    /// chown: notes the new owner.
    pub(super) fn change(
        &mut self,
        target: &Target<'_>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<Answer, Errno> {
        let file = match target.open(self.roots_differ) {
            // By a link of `/proc`, to what the kernel lets the asking process change or doesn't.
            Err(Errno::LOOP) => return Ok(Answer::Continue),
            other => other?,
        };
        if !target.is_wanted() {
            return Err(Errno::SRCH);
        }
        let name = descriptor_name(&file)?;
        let now = self.owner(&name)?;
        if self.user.is_some()
            && (uid.is_some_and(|uid| uid != now.uid) || !self.may_give(&now, gid))
        {
            return Err(Errno::PERM);
        }
        let (uid, gid) = (uid.unwrap_or(now.uid), gid.unwrap_or(now.gid));
        // The kernel does what else belongs to it: it copies the file up, takes set-id bits and
        // capabilities away, and refuses where nothing may be written. Whom it knows it gives the file.
        let real = |id: u32, is_known: bool| if is_known { id } else { 0 };
        let (is_user, is_group) = (self.maps.has_user(uid), self.maps.has_group(gid));
        let (real_uid, real_gid) = match self.user {
            Some(_) => (None, None),
            None => (
                Some(Uid::from_raw(real(uid, is_user))),
                Some(Gid::from_raw(real(gid, is_group))),
            ),
        };
        rustix::fs::chownat(&file, c"", real_uid, real_gid, AtFlags::EMPTY_PATH)?;
        let says_it = matches!(now.kind, Kind::File | Kind::Directory) && is_user && is_group;
        if self.maps.has_many()
            && says_it
            && matches!(
                rustix::fs::removexattr(&name, NAME),
                Ok(()) | Err(Errno::NODATA)
            )
        {
            return Ok(Answer::Value(0));
        }
        self.note(&name, OverrideStat { uid, gid, ..now })?;
        Ok(Answer::Value(0))
    }

    /// Whether a file has an owner, or is a device, that the kernel doesn't know of.
    pub(super) fn is_noted(&self, target: &Target<'_>) -> Result<bool, Errno> {
        let file = target.open(self.roots_differ)?;
        let name = descriptor_name(&file)?;
        let shown = Shown::new(notification::statx(&name, NO_AUTOMOUNT, WANTED)?);
        Ok(self.read_note(&name, true).is_some() || self.noted.contains_key(&inode(&shown)))
    }

    /// Whether the step's user, who isn't root, may give a file to a group.
    fn may_give(&self, now: &OverrideStat, gid: Option<u32>) -> bool {
        let Some((uid, own)) = self.user else {
            return true;
        };
        let is_own = |gid| gid == now.gid || gid == own || self.groups.contains(&gid);
        now.uid == uid && gid.is_none_or(is_own)
    }

    /// The owner that a file has by now, and its kind.
    fn owner(&self, name: &CStr) -> Result<OverrideStat, Errno> {
        let shown = Shown::new(notification::statx(name, NO_AUTOMOUNT, WANTED)?);
        let noted = self
            .read_note(name, true)
            .or_else(|| self.remembered(name, &shown));
        // The kernel's word where nothing is noted: it may know many users.
        let (uid, gid) = self.user.unwrap_or(shown.owner());
        Ok(noted.unwrap_or(OverrideStat {
            uid,
            gid,
            mode: shown.mode() & 0o7777,
            kind: kind(&shown),
        }))
    }

    /// Notes what a file is to be, in its attribute or, where it can't have any, here.
    fn note(&mut self, name: &CStr, over: OverrideStat) -> Result<(), Errno> {
        if !self.is_as_real(&over) {
            self.note_name(name);
        }
        match rustix::fs::setxattr(name, NAME, &over.format(), XattrFlags::empty()) {
            Err(Errno::PERM | Errno::NOTSUP) => {}
            other => return other,
        }
        let shown = Shown::new(notification::statx(name, NO_AUTOMOUNT, WANTED)?);
        self.file_systems_differ |= can_carry_a_note(&shown);
        self.noted.insert(inode(&shown), over);
        let stored = self.stored(name, &shown).unwrap_or_else(|| shown.clone());
        // The step sees this number, too, when the kernel has forgotten what it was copied from.
        self.noted
            .insert((shown.device(), stored.inode(), stored.born()), over);
        if let Some(born) = stored.born() {
            let note = Note {
                inode: stored.inode(),
                born,
                uid: Some(over.uid),
                gid: Some(over.gid),
                device: None,
            };
            let written = self.notes.write_all(&note.encode());
            written.map_err(|_| Errno::NOSPC)?;
        }
        Ok(())
    }

    /// Remembers that a file of this name may have a note.
    fn note_name(&mut self, name: &CStr) {
        let shown = notification::statx(name, NO_AUTOMOUNT, WANTED).map(Shown::new);
        let path = rustix::fs::readlinkat(CWD, name, Vec::new());
        match (shown, path) {
            (Ok(shown), Ok(path)) if shown.links() <= 1 || kind(&shown) == Kind::Directory => {
                self.names.add(path.as_bytes());
            }
            // It may have other names.
            _ => self.names.forget(),
        }
    }

    /// What a file of the root file system is in the folder of the step's changes.
    fn stored(&self, name: &CStr, shown: &Shown) -> Option<Shown> {
        let file = self.stored_file(name, shown)?;
        let name = descriptor_name(&file).ok()?;
        let stored = Shown::new(notification::statx(&name, NO_AUTOMOUNT, WANTED).ok()?);
        (stored.mode() == shown.mode()).then_some(stored)
    }

    fn stored_file(&self, name: &CStr, shown: &Shown) -> Option<OwnedFd> {
        let (root, _) = self.root?;
        changes::stored_file(&self.changes, root, name, shown)
    }

    /// mknod of a device: a file that says what it stands for. No user namespace has devices.
    pub(super) fn make_device(
        &mut self,
        target: &Target<'_>,
        mode: u32,
        device: u64,
    ) -> Result<Answer, Errno> {
        if self.user.is_some() {
            return Err(Errno::PERM);
        }
        let permissions = mode & 0o7777 & !umask(target.thread());
        if !target.is_wanted() {
            return Err(Errno::SRCH);
        }
        let file = target.create(self.roots_differ, permissions)?;
        let name = descriptor_name(&file)?;
        // The folder may have handed on its group.
        let (uid, gid) = Shown::new(notification::statx(&name, NO_AUTOMOUNT, WANTED)?).owner();
        self.note(
            &name,
            OverrideStat {
                uid,
                gid,
                mode: permissions,
                kind: device_kind(mode, device),
            },
        )?;
        Ok(Answer::Value(0))
    }

    /// setxattr, of any attribute but the one that holds owners.
    pub(super) fn set_xattr(
        &self,
        target: &Target<'_>,
        attribute: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<Answer, Errno> {
        let file = self.open_for_xattr(target, attribute)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(descriptor_name(&file)?, attribute, value, flags)?;
        Ok(Answer::Value(0))
    }

    /// removexattr, likewise.
    pub(super) fn remove_xattr(
        &self,
        target: &Target<'_>,
        attribute: &[u8],
    ) -> Result<Answer, Errno> {
        let file = self.open_for_xattr(target, attribute)?;
        rustix::fs::removexattr(descriptor_name(&file)?, attribute)?;
        Ok(Answer::Value(0))
    }

    fn open_for_xattr(&self, target: &Target<'_>, attribute: &[u8]) -> Result<OwnedFd, Errno> {
        if attribute == NAME.as_bytes() {
            return Err(Errno::PERM);
        }
        let file = target.open(self.roots_differ)?;
        if !target.is_wanted() {
            return Err(Errno::SRCH);
        }
        if let Some((user, _)) = self.user {
            // What the kernel would ask of somebody without capabilities, to whom every file is the
            // user's own.
            let name = descriptor_name(&file)?;
            if self.maps.has_many() && self.owner(&name)?.uid != user {
                return Err(Errno::PERM);
            }
            let shown = Shown::new(notification::statx(&name, NO_AUTOMOUNT, WANTED)?);
            if !attribute.starts_with(b"user.") && !attribute.starts_with(b"system.posix_acl") {
                return Err(Errno::PERM);
            }
            if attribute.starts_with(b"user.") && shown.mode() & 0o200 == 0 {
                return Err(Errno::ACCESS);
            }
        }
        Ok(file)
    }

    /// listxattr, without the attribute that holds owners.
    pub(super) fn list_xattrs(&self, target: &Target<'_>) -> Result<Vec<u8>, Errno> {
        let file = target.open(self.roots_differ)?;
        let mut names = vec![0; 64 * 1024];
        let count = rustix::fs::listxattr(descriptor_name(&file)?, &mut names)?;
        names.truncate(count);
        Ok(names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| name.strip_suffix(b"\0") != Some(NAME.as_bytes()))
            .flatten()
            .copied()
            .collect())
    }
}

/// What the kernel says of a file.
fn look(name: &CStr, follow: bool) -> Result<Shown, Errno> {
    let flags = match follow {
        true => NO_AUTOMOUNT,
        false => NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW.bits(),
    };
    notification::statx(name, flags, WANTED).map(Shown::new)
}

/// Whether a file is of a kind to which attributes like ours can be given.
fn can_carry_a_note(shown: &Shown) -> bool {
    matches!(shown.mode() & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

/// The device that mknod is asked for.
pub(super) fn device_kind(mode: u32, device: u64) -> Kind {
    // The kernel reads 32 bits of it.
    let device = device as u32;
    let numbers = (
        (device >> 8) & 0xfff,
        (device & 0xff) | (device >> 12) & 0xf_ff00,
    );
    match mode & libc::S_IFMT {
        libc::S_IFBLK => Kind::BlockDevice(numbers.0, numbers.1),
        _ => Kind::CharDevice(numbers.0, numbers.1),
    }
}

/// The mode bits that a process takes away from what it makes.
fn umask(thread: u32) -> u32 {
    crate::fs::umask::umask(&format!("{thread}/status")).unwrap_or(0o022)
}
