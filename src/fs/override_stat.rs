//! The `user.containers.override_stat` attribute: owner, mode and kind of a file that the machine
//! can't give it. `uid:gid:mode[:type]`, ids decimal, mode octal, as containers/storage and
//! fuse-overlayfs write and read it.
//!
//! The permission bits of a file that carries it are its own: the mode is written for other readers,
//! and grows old with every chmod.

/// The attribute's name.
pub const NAME: &str = "user.containers.override_stat";

/// What to say where a file system can't hold it.
pub const NO_ATTRIBUTES: &str = "the store's file system has no user attributes (tmpfs has none \
    before Linux 6.6): use a folder elsewhere (`--root`), or give the user a range of ids in \
    `/etc/subuid` and `/etc/subgid`";

/// The longest value that is read: two ids, a mode and a device.
pub const MAX_LENGTH: usize = 128;

/// What the attribute says instead of the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverrideStat {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission bits when it was written.
    pub mode: u32,
    /// The kind.
    pub kind: Kind,
}

/// What a file is, or stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe.
    Fifo,
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device, likewise.
    BlockDevice(u32, u32),
}

impl OverrideStat {
    /// The attribute's value.
    pub fn format(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Directory => "dir".to_owned(),
            Kind::Symlink => "symlink".to_owned(),
            Kind::CharDevice(major, minor) => format!("char-{major}-{minor}"),
            Kind::BlockDevice(major, minor) => format!("block-{major}-{minor}"),
            Kind::Fifo => "pipe".to_owned(),
            Kind::File => "file".to_owned(),
        };
        format!("{}:{}:0{:o}:{kind}", self.uid, self.gid, self.mode).into_bytes()
    }

    /// Reads a value; `None` when it is malformed.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
        let mut fields = text.splitn(4, ':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let kind = match fields.next() {
            None | Some("file") => Kind::File,
            Some("dir") => Kind::Directory,
            Some("symlink") => Kind::Symlink,
            Some("pipe") => Kind::Fifo,
            Some(kind) => parse_device(kind)?,
        };
        Some(Self {
            uid,
            gid,
            mode,
            kind,
        })
    }
}

fn parse_device(kind: &str) -> Option<Kind> {
    let mut parts = kind.splitn(3, '-');
    let name = parts.next()?;
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    match name {
        "char" => Some(Kind::CharDevice(major, minor)),
        "block" => Some(Kind::BlockDevice(major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        for (kind, text) in [
            (Kind::File, "7:8:04755:file"),
            (Kind::Directory, "7:8:04755:dir"),
            (Kind::Symlink, "7:8:04755:symlink"),
            (Kind::Fifo, "7:8:04755:pipe"),
            (Kind::CharDevice(1, 3), "7:8:04755:char-1-3"),
            (Kind::BlockDevice(8, 0), "7:8:04755:block-8-0"),
        ] {
            let written = OverrideStat {
                uid: 7,
                gid: 8,
                mode: 0o4755,
                kind,
            };
            let value = written.format();
            assert_eq!(String::from_utf8_lossy(&value), text);
            assert_eq!(OverrideStat::parse(&value), Some(written), "{text}");
        }
    }

    #[test]
    fn the_short_form_is_read_and_nonsense_refused() {
        let read = OverrideStat::parse(b"0:5:0644").unwrap();
        assert_eq!(
            (read.uid, read.gid, read.mode, read.kind),
            (0, 5, 0o644, Kind::File)
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
