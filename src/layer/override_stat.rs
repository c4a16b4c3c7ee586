//! The `user.containers.override_stat` attribute: owner, mode and kind of a file that the machine
//! can't give it. `uid:gid:mode[:type]`, ids decimal, mode octal, as containers/storage and
//! fuse-overlayfs write and read it.

use super::entry::{Entry, EntryKind};

/// What the attribute says instead of the file itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OverrideStat {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// The kind, where the file is a placeholder for something else.
    pub(super) special: Option<Special>,
}

/// What a regular file can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

impl OverrideStat {
    /// The attribute's value for an entry.
    pub(super) fn encode(entry: &Entry) -> Vec<u8> {
        let (major, minor) = entry.device;
        let kind = match entry.kind {
            EntryKind::Directory { .. } => "dir".to_owned(),
            EntryKind::Symlink => "symlink".to_owned(),
            EntryKind::CharDevice => format!("char-{major}-{minor}"),
            EntryKind::BlockDevice => format!("block-{major}-{minor}"),
            EntryKind::Fifo => "pipe".to_owned(),
            EntryKind::File | EntryKind::HardLink | EntryKind::Whiteout => "file".to_owned(),
        };
        format!("{}:{}:0{:o}:{kind}", entry.uid, entry.gid, entry.mode).into_bytes()
    }

    /// Reads a value; `None` when it is malformed.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
        let mut fields = text.splitn(4, ':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let special = match fields.next() {
            None | Some("file" | "dir" | "symlink") => None,
            Some("pipe") => Some(Special::Fifo),
            Some(kind) => Some(parse_device(kind)?),
        };
        Some(Self {
            uid,
            gid,
            mode,
            special,
        })
    }

    /// Puts what the attribute says in place of what the file says.
    pub(super) fn apply(&self, entry: &mut Entry) {
        entry.uid = self.uid;
        entry.gid = self.gid;
        entry.mode = self.mode;
        if let Some(special) = self.special.filter(|_| entry.is_file()) {
            entry.size = 0;
            (entry.kind, entry.device) = match special {
                Special::CharDevice(major, minor) => (EntryKind::CharDevice, (major, minor)),
                Special::BlockDevice(major, minor) => (EntryKind::BlockDevice, (major, minor)),
                Special::Fifo => (EntryKind::Fifo, (0, 0)),
            };
        }
    }
}

fn parse_device(kind: &str) -> Option<Special> {
    let mut parts = kind.splitn(3, '-');
    let name = parts.next()?;
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    match name {
        "char" => Some(Special::CharDevice(major, minor)),
        "block" => Some(Special::BlockDevice(major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        for (kind, device, text) in [
            (EntryKind::File, (0, 0), "7:8:04755:file"),
            (EntryKind::Fifo, (0, 0), "7:8:04755:pipe"),
            (EntryKind::CharDevice, (1, 3), "7:8:04755:char-1-3"),
            (EntryKind::BlockDevice, (8, 0), "7:8:04755:block-8-0"),
        ] {
            let mut entry = Entry::new("x", kind);
            (entry.uid, entry.gid, entry.mode, entry.device) = (7, 8, 0o4755, device);
            let value = OverrideStat::encode(&entry);
            assert_eq!(String::from_utf8_lossy(&value), text);
            let mut read = Entry::new("x", EntryKind::File);
            OverrideStat::parse(&value).unwrap().apply(&mut read);
            assert_eq!(read, entry, "{text}");
        }
    }

    #[test]
    fn the_short_form_is_read_and_nonsense_refused() {
        let read = OverrideStat::parse(b"0:5:0644").unwrap();
        assert_eq!(
            (read.uid, read.gid, read.mode, read.special),
            (0, 5, 0o644, None)
        );
        for text in [
            "",
            "0:0",
            "a:0:0",
            "0:0:9",
            "0:0:0:char-1",
            "0:0:0:teapot-1-2",
            "-1:0:0",
        ] {
            assert_eq!(OverrideStat::parse(text.as_bytes()), None, "{text}");
        }
    }
}
