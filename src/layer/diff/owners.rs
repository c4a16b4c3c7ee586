//! Whose a step's files are, where the machine can't keep owners: what a supervisor noted on a file
//! or of one that carries no notes, and for what nobody noted, whom it must be of.
//!
//! A step can write notes too where no supervisor keeps it from that, and those are never believed.

use std::collections::BTreeMap;
use std::io;

use rustix::fs::{AtFlags, StatxFlags};

use super::DiffError;
use crate::fs::FsError;
use crate::fs::override_stat::OverrideStat;
use crate::fs::walk::Visited;
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
    /// The user and group that made what is new in the tree, if the machine knows them by another
    /// id.
    pub maker: Option<(u32, u32)>,
    /// Owners of links and special files, which carry no attributes, by inode number.
    pub noted: BTreeMap<u64, NotedOwner>,
}

/// The owner of a file that can't carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedOwner {
    /// When the inode was made (seconds, nanoseconds): its number may have been another's before.
    pub born: (i64, u32),
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
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

    /// The note on a file, if a supervisor has written it, or if it says what is below.
    pub(super) fn believed(
        &self,
        value: Option<Vec<u8>>,
        found: Option<Found<'_>>,
    ) -> Option<OverrideStat> {
        let over = OverrideStat::parse(&value?)?;
        let is_from_below = || {
            found.is_some_and(|found| {
                let mut noted = Entry::new(Vec::new(), EntryKind::File);
                override_stat::apply(&over, &mut noted);
                let lower = found.entry;
                let is_kind = noted.is_file() || noted.kind == lower.kind;
                is_kind
                    && (noted.uid, noted.gid, noted.device) == (lower.uid, lower.gid, lower.device)
            })
        };
        (self.supervised || is_from_below()).then_some(over)
    }
}

/// What is known of a file without a note that is believed.
pub(super) struct Unnoted<'a> {
    /// What is below.
    pub found: Option<Found<'a>>,
    /// Whether it was copied from below, as opposed to made.
    pub copied_up: bool,
    /// The group that its directory hands on.
    pub group: Option<u32>,
    /// Whether it has a note all the same, which must not be found by a later step.
    pub is_forged: bool,
}

impl Unnoted<'_> {
    /// Gives the file's entry its owner, and where that isn't what the machine says, the file the
    /// attribute that says so from now on.
    pub(super) fn give_owner(
        &self,
        owners: &Owners,
        entry: &mut Entry,
        visited: &Visited<'_>,
    ) -> Result<(), DiffError> {
        let failed = |error| FsError::new("note the owner of", visited.path, error);
        let own = (entry.uid, entry.gid);
        if let Some(noted) = owners.noted.get(&visited.stat.st_ino)
            && born(visited).map_err(failed)? == Some(noted.born)
        {
            (entry.uid, entry.gid) = (noted.uid, noted.gid);
            return Ok(());
        }
        // Copies keep their attribute; one without was root's, who isn't the maker. A link can't tell
        // that it was copied: one that is still the same was.
        let untouched = self.found.filter(|found| {
            self.copied_up && owners.maker.is_some()
                || entry.kind == EntryKind::Symlink && found.entry.link == entry.link
        });
        if let Some(found) = untouched {
            (entry.uid, entry.gid) = (found.entry.uid, found.entry.gid);
        } else {
            if let Some(maker) = owners.maker {
                (entry.uid, entry.gid) = maker;
            }
            entry.gid = self.group.unwrap_or(entry.gid);
        }
        let can_carry = entry.is_file() || entry.is_directory();
        if can_carry && ((entry.uid, entry.gid) != own || self.is_forged) {
            Target::In(visited.directory, visited.name)
                .set(OVERRIDE_STAT, &override_stat::encode(entry))
                .map_err(failed)?;
        }
        Ok(())
    }
}

/// The bit of a directory's mode that hands its group on.
const SET_GROUP: u32 = 0o2000;

/// The group that a directory hands on to what is made in it, where only its attribute knows.
pub(super) fn handed_on(form: &Form, directory: &Entry) -> Option<u32> {
    (form.notes_owners() && directory.mode & SET_GROUP != 0 && !form.is_mapped(0, directory.gid))
        .then_some(directory.gid)
}

/// When a file was made, where the file system knows.
fn born(visited: &Visited<'_>) -> io::Result<Option<(i64, u32)>> {
    let found = rustix::fs::statx(
        visited.directory,
        visited.name,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BTIME,
    )?;
    let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    Ok(is_known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)))
}
