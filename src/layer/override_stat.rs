//! What [`OverrideStat`] says of an entry, and what an entry says instead of its file.

use super::entry::{Entry, EntryKind};
use crate::fs::override_stat::{Kind, OverrideStat};

/// The attribute's value for an entry.
pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        EntryKind::Directory { .. } => Kind::Directory,
        EntryKind::Symlink => Kind::Symlink,
        EntryKind::CharDevice => Kind::CharDevice(major, minor),
        EntryKind::BlockDevice => Kind::BlockDevice(major, minor),
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::File | EntryKind::HardLink | EntryKind::Whiteout => Kind::File,
    };
    OverrideStat {
        uid: entry.uid,
        gid: entry.gid,
        mode: entry.mode,
        kind,
    }
    .format()
}

/// Puts what the attribute says in place of what the file says.
pub(super) fn apply(over: &OverrideStat, entry: &mut Entry) {
    entry.uid = over.uid;
    entry.gid = over.gid;
    if !entry.is_file() {
        return;
    }
    (entry.kind, entry.device) = match over.kind {
        Kind::CharDevice(major, minor) => (EntryKind::CharDevice, (major, minor)),
        Kind::BlockDevice(major, minor) => (EntryKind::BlockDevice, (major, minor)),
        Kind::Fifo => (EntryKind::Fifo, (0, 0)),
        Kind::File | Kind::Directory | Kind::Symlink => return,
    };
    // What was written to the stand-in went to no device.
    entry.size = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_from_its_stand_in() {
        for (kind, device) in [
            (EntryKind::File, (0, 0)),
            (EntryKind::Fifo, (0, 0)),
            (EntryKind::CharDevice, (1, 3)),
            (EntryKind::BlockDevice, (8, 0)),
        ] {
            let mut entry = Entry::new("x", kind);
            (entry.uid, entry.gid, entry.mode, entry.device) = (7, 8, 0o4755, device);
            let mut read = Entry::new("x", EntryKind::File);
            read.mode = 0o4755;
            apply(&OverrideStat::parse(&encode(&entry)).unwrap(), &mut read);
            assert_eq!(read, entry);
        }
    }
}
