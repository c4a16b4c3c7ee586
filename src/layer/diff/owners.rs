//! Whose a file of a step's tree is, and which device it stands for, where the machine can't keep
//! that: what was noted, by whom, and whether it is believed.
//!
//! A file gets the attribute that says it from here on: a later step must find it, and none that the
//! step wrote itself.

use std::collections::BTreeMap;

use rustix::fs::{AtFlags, Gid, Mode, StatxFlags, Uid};

use super::DiffError;
use crate::fs::FsError;
use crate::fs::override_stat::{Kind, OverrideStat};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::form::Form;
use crate::layer::override_stat;
use crate::layer::view::Found;
use crate::layer::xattr::{OVERRIDE_STAT, Target};

/// Whose the files of a tree are that don't say so themselves, where the machine can't keep owners.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Whether nobody but a supervisor could write notes: what others wrote is not believed.
    pub supervised: bool,
    /// The user and group that files really have while they belong to ones that the machine lacks,
    /// where only those were noted: what belongs to another was given away since.
    pub stand_in: Option<(u32, u32)>,
    /// The user and group that made what is new in the tree, if the machine knows them by another
    /// id.
    pub maker: Option<(u32, u32)>,
    /// What was noted of files that carry no attribute for it, by inode number.
    pub noted: BTreeMap<u64, NotedOwner>,
}

impl Owners {
    /// Those of a step that noted nothing but by attributes.
    #[cfg(test)]
    pub(in crate::layer) fn supervised() -> Self {
        Self {
            supervised: true,
            ..Self::default()
        }
    }

    /// The attribute of a file, if a supervisor has written it, or if it says what is below and the
    /// machine can't.
    fn believed(&self, teller: &Teller<'_>, form: &Form) -> Option<OverrideStat> {
        let over = OverrideStat::parse(teller.attribute.as_deref()?)?;
        let is_from_below = || {
            teller.found.is_some_and(|found| {
                let mut noted = Entry::new(Vec::new(), EntryKind::File);
                override_stat::apply(&over, &mut noted);
                let lower = found.entry;
                let is_device =
                    matches!(lower.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
                if form.is_mapped(lower.uid, lower.gid) && !is_device {
                    return false;
                }
                let is_kind = noted.is_file() || noted.kind == lower.kind;
                is_kind
                    && (noted.uid, noted.gid, noted.device) == (lower.uid, lower.gid, lower.device)
            })
        };
        (self.supervised || is_from_below()).then_some(over)
    }
}

/// What a file is that can't tell by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedOwner {
    /// When the inode was made (seconds, nanoseconds): its number may have been another's before.
    pub born: (i64, u32),
    /// The owner, if that was noted.
    pub uid: Option<u32>,
    /// The group, likewise.
    pub gid: Option<u32>,
    /// The device that it stands for, if it does.
    pub device: Option<Kind>,
}

impl NotedOwner {
    /// Adds what was noted later. Of another inode, nothing stays.
    pub fn add(&mut self, later: Self) {
        let earlier = match self.born == later.born {
            true => *self,
            false => later,
        };
        *self = Self {
            born: later.born,
            uid: later.uid.or(earlier.uid),
            gid: later.gid.or(earlier.gid),
            device: later.device.or(earlier.device),
        };
    }

    /// Puts what was noted in place of what the file says, as far as it still holds.
    fn apply(&self, entry: &mut Entry, stand_in: Option<(u32, u32)>) {
        let owner = |real: u32, stand_in: Option<u32>, noted: Option<u32>| {
            let holds = stand_in.is_none_or(|stand_in| stand_in == real);
            noted.filter(|_| holds).unwrap_or(real)
        };
        let over = OverrideStat {
            uid: owner(entry.uid, stand_in.map(|ids| ids.0), self.uid),
            gid: owner(entry.gid, stand_in.map(|ids| ids.1), self.gid),
            mode: entry.mode,
            kind: self.device.unwrap_or(Kind::File),
        };
        override_stat::apply(&over, entry);
    }
}

/// A file of the tree, and all that tells of its owner.
pub(super) struct Teller<'a> {
    pub(super) file: Target<'a>,
    pub(super) path: &'a [u8],
    pub(super) inode: u64,
    /// Its attribute.
    pub(super) attribute: Option<Vec<u8>>,
    /// What the view below has in its place.
    pub(super) found: Option<Found<'a>>,
    pub(super) origin: Origin,
}

/// How a file came into the tree.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// It is the tree.
    Root,
    /// The step made it, or changed it.
    Walk {
        /// Whether it was copied from below.
        copied_up: bool,
        /// The group of its folder, where that hands it on and the machine doesn't know.
        group: Option<HandedOn>,
    },
}

/// Holds a file's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// The bit of a directory's mode that hands its group on.
const SET_GROUP: u32 = 0o2000;

/// The group that a directory hands on to what is made in it, where only its attribute knows.
#[derive(Clone, Copy)]
pub(super) struct HandedOn {
    /// The group.
    group: u32,
    /// What the machine hands on in its place: what has another was given that.
    real: u32,
}

/// `real` is the group that the machine knows the directory to have.
pub(super) fn handed_on(form: &Form, directory: &Entry, real: u32) -> Option<HandedOn> {
    let group = directory.gid;
    (form.notes_owners() && directory.mode & SET_GROUP != 0 && !form.is_mapped(0, group))
        .then_some(HandedOn { group, real })
}

impl Teller<'_> {
    /// The owner of a file, and the device that it is, where the machine doesn't say it.
    pub(super) fn give_owner(
        &self,
        owners: &Owners,
        form: &Form,
        entry: &mut Entry,
    ) -> Result<(), DiffError> {
        // A note that isn't believed must not be found by a later step.
        let is_forged = self.attribute.is_some();
        if let Some(over) = owners.believed(self, form) {
            override_stat::apply(&over, entry);
            return Ok(());
        }
        let own = (entry.uid, entry.gid, entry.kind);
        let can_carry = entry.is_file() || entry.is_directory();
        match (self.noted(owners)?, self.origin) {
            (Some(noted), _) => {
                if let Some(stand_in) = owners.stand_in.filter(|_| can_carry) {
                    self.take_back(entry, &noted, stand_in)
                        .map_err(|error| self.failed(error))?;
                }
                noted.apply(entry, owners.stand_in);
            }
            (None, Origin::Root) => {}
            (None, Origin::Walk { copied_up, group }) => {
                // Copies keep their attribute; one without was root's, who isn't the maker. A link
                // can't tell that it was copied: one that is still the same was.
                let untouched = self.found.filter(|found| {
                    copied_up && owners.maker.is_some()
                        || entry.kind == EntryKind::Symlink && found.entry.link == entry.link
                });
                if let Some(found) = untouched {
                    (entry.uid, entry.gid) = (found.entry.uid, found.entry.gid);
                } else {
                    if let Some(maker) = owners.maker {
                        (entry.uid, entry.gid) = maker;
                    }
                    if let Some(handed_on) = group.filter(|handed_on| handed_on.real == own.1) {
                        entry.gid = handed_on.group;
                    }
                }
            }
        }
        if can_carry && ((entry.uid, entry.gid, entry.kind) != own || is_forged) {
            let noted = self.file.set(OVERRIDE_STAT, &override_stat::encode(entry));
            noted.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Gives root what stands in for somebody, as trees have it that are made from a layer: to the
    /// steps behind, which note every owner, such a file is to be as accessible as those.
    fn take_back(
        &self,
        entry: &Entry,
        noted: &NotedOwner,
        stand_in: (u32, u32),
    ) -> std::io::Result<()> {
        // What was given to the stand-in itself is its own.
        let stands_in = |real: u32, stand_in: u32, noted: Option<u32>| {
            real == stand_in && noted.is_some_and(|noted| noted != real)
        };
        let is_user = stands_in(entry.uid, stand_in.0, noted.uid);
        let is_group = stands_in(entry.gid, stand_in.1, noted.gid);
        if !is_user && !is_group {
            return Ok(());
        }
        let (uid, gid) = (is_user.then_some(Uid::ROOT), is_group.then_some(Gid::ROOT));
        let mode = Mode::from_raw_mode(entry.mode);
        // Changing an owner takes set-id bits and capabilities away.
        match self.file {
            Target::Open(file) => {
                rustix::fs::fchown(file, uid, gid)?;
                rustix::fs::fchmod(file, mode)?;
            }
            Target::In(directory, name) => {
                rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
            }
        }
        if let Some(capability) = entry.xattrs.get(CAPABILITY) {
            self.file.set(CAPABILITY, capability)?;
        }
        Ok(())
    }

    /// What was noted of a file elsewhere than in its attribute.
    fn noted(&self, owners: &Owners) -> Result<Option<NotedOwner>, DiffError> {
        let Some(noted) = owners.noted.get(&self.inode) else {
            return Ok(None);
        };
        let born = born(self.file).map_err(|error| self.failed(error.into()))?;
        Ok((born == Some(noted.born)).then_some(*noted))
    }

    fn failed(&self, error: std::io::Error) -> DiffError {
        FsError::new("note the owner of", self.path, error).into()
    }
}

/// When a file was made, where the file system knows.
fn born(file: Target<'_>) -> Result<Option<(i64, u32)>, rustix::io::Errno> {
    let found = match file {
        Target::Open(file) => rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?,
        Target::In(directory, name) => rustix::fs::statx(
            directory,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::BTIME,
        )?,
    };
    let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    Ok(is_known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)))
}
