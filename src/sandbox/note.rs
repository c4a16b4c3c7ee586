//! What a step's supervisor writes down of a file that can't carry it itself: owner, and which device
//! it stands for.
//!
//! Records of one length after each other, in a file that the step has no way to. Of several on one
//! file the last word on each part counts.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::fs::override_stat::Kind;

/// Length of a note in bytes.
const LENGTH: usize = 40;

/// An id that no file has: nothing is said.
const NO_ID: u32 = u32::MAX;

/// What is noted of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its inode number in the folder that takes the step's changes.
    pub inode: u64,
    /// When that inode was made (seconds, nanoseconds): its number may have been another's before.
    pub born: (i64, u32),
    /// The owner, if the note is about that.
    pub uid: Option<u32>,
    /// The group, likewise.
    pub gid: Option<u32>,
    /// The device that it stands for, if it does.
    pub device: Option<Kind>,
}

impl Note {
    /// As it is written: little-endian.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let (kind, major, minor) = match self.device {
            Some(Kind::CharDevice(major, minor)) => (1, major, minor),
            Some(Kind::BlockDevice(major, minor)) => (2, major, minor),
            _ => (0, 0, 0),
        };
        let mut note = [0; LENGTH];
        note[..8].copy_from_slice(&self.inode.to_le_bytes());
        note[8..16].copy_from_slice(&self.born.0.to_le_bytes());
        let (uid, gid) = (self.uid.unwrap_or(NO_ID), self.gid.unwrap_or(NO_ID));
        let halves = [self.born.1, uid, gid, kind, major, minor];
        for (place, half) in note[16..].chunks_exact_mut(4).zip(halves) {
            place.copy_from_slice(&half.to_le_bytes());
        }
        note
    }

    fn decode(note: &[u8; LENGTH]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| note[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| note[at + i]));
        let id = |at: usize| Some(half(at)).filter(|id| *id != NO_ID);
        Self {
            inode: word(0),
            born: (word(8).cast_signed(), half(16)),
            uid: id(20),
            gid: id(24),
            device: match half(28) {
                1 => Some(Kind::CharDevice(half(32), half(36))),
                2 => Some(Kind::BlockDevice(half(32), half(36))),
                _ => None,
            },
        }
    }

    /// Gives every note in `file` to `take`, in the order in which they were written.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_all(file: &File, mut take: impl FnMut(Self)) -> std::io::Result<()> {
        let mut bytes = vec![0; 1024 * LENGTH];
        let (mut at, mut filled) = (0, 0);
        loop {
            let count = match file.read_at(&mut bytes[filled..], at) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                return Ok(());
            }
            at += count as u64;
            filled += count;
            let (notes, rest) = bytes[..filled].as_chunks();
            notes.iter().map(Self::decode).for_each(&mut take);
            let (whole, rest) = (filled - rest.len(), rest.len());
            bytes.copy_within(whole..filled, 0);
            filled = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let owner = Note {
            inode: 7 << 40,
            born: (-1, 999_999_999),
            uid: Some(1_000_660_000),
            gid: None,
            device: None,
        };
        let device = |kind| Note {
            uid: None,
            device: Some(kind),
            ..owner
        };
        let notes = [
            owner,
            device(Kind::CharDevice(1, 3)),
            device(Kind::BlockDevice(259, 1 << 19)),
        ];
        let mut file = tempfile::tempfile().unwrap();
        // More than are read at once.
        for note in notes.iter().cycle().take(3000) {
            file.write_all(&note.encode()).unwrap();
        }
        let mut read = Vec::new();
        Note::read_all(&file, |note| read.push(note)).unwrap();
        assert_eq!(read.len(), 3000);
        assert!(read.iter().eq(notes.iter().cycle().take(3000)));
    }
}
