//! What a file is, as statx(2), stat(2) and 32-bit x86's stat64 write it.
//!
//! Made from one answer of statx, whose fields the kernel's own code gives the other two.

use crate::fs::override_stat::{Kind, OverrideStat};
use crate::sandbox::syscall::notification::STATX_LENGTH;

/// An answer of statx.
#[derive(Clone)]
pub(super) struct Shown([u8; STATX_LENGTH]);

// Offsets in `struct statx`.
const MASK: usize = 0;
const BLOCK_SIZE: usize = 4;
const LINKS: usize = 16;
const UID: usize = 20;
const GID: usize = 24;
const MODE: usize = 28;
const INODE: usize = 32;
const SIZE: usize = 40;
const BLOCKS: usize = 48;
const ACCESSED: usize = 64;
const BORN: usize = 80;
const CHANGED: usize = 96;
const MODIFIED: usize = 112;
const OWN_DEVICE: usize = 128;
const DEVICE: usize = 136;
const MOUNT: usize = 144;

/// `STATX_BTIME`.
const HAS_BIRTH: u32 = 0x800;
/// `STATX_MNT_ID`: Linux 5.8.
pub(super) const HAS_MOUNT: u32 = 0x1000;

impl Shown {
    pub(super) fn new(statx: [u8; STATX_LENGTH]) -> Self {
        Self(statx)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Its kind and permissions.
    pub(super) fn mode(&self) -> u32 {
        u32::from(u16::from_ne_bytes([self.0[MODE], self.0[MODE + 1]]))
    }

    /// How many names it has.
    pub(super) fn links(&self) -> u32 {
        self.u32(LINKS)
    }

    /// The device that it lies on.
    pub(super) fn device(&self) -> (u32, u32) {
        (self.u32(DEVICE), self.u32(DEVICE + 4))
    }

    /// Its number there.
    pub(super) fn inode(&self) -> u64 {
        self.u64(INODE)
    }

    /// When it was made, in seconds and nanoseconds, where the file system knows.
    pub(super) fn born(&self) -> Option<(i64, u32)> {
        (self.u32(MASK) & HAS_BIRTH != 0)
            .then(|| (self.u64(BORN).cast_signed(), self.u32(BORN + 8)))
    }

    /// Its user and group.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.u32(UID), self.u32(GID))
    }

    /// The mount that it was reached by, where that was asked for and the kernel says it.
    pub(super) fn mount(&self) -> Option<u64> {
        (self.u32(MASK) & HAS_MOUNT != 0).then(|| self.u64(MOUNT))
    }

    /// Shows the owner that was noted, and what the file stands for.
    pub(super) fn overridden(mut self, over: &OverrideStat) -> Self {
        self.put(UID, &over.uid.to_ne_bytes());
        self.put(GID, &over.gid.to_ne_bytes());
        let (kind, (major, minor)) = match over.kind {
            Kind::CharDevice(major, minor) => (libc::S_IFCHR, (major, minor)),
            Kind::BlockDevice(major, minor) => (libc::S_IFBLK, (major, minor)),
            _ => return self,
        };
        let mode = (kind | self.mode() & 0o7777) as u16;
        self.put(MODE, &mode.to_ne_bytes());
        self.put(OWN_DEVICE, &major.to_ne_bytes());
        self.put(OWN_DEVICE + 4, &minor.to_ne_bytes());
        self.put(SIZE, &0_u64.to_ne_bytes());
        self.put(BLOCKS, &0_u64.to_ne_bytes());
        self
    }

    /// Shows what lies nowhere as a file with one name.
    pub(super) fn with_one_name(mut self) -> Self {
        self.put(LINKS, &1_u32.to_ne_bytes());
        self
    }

    /// `struct statx`.
    pub(super) fn statx(&self) -> &[u8] {
        &self.0
    }

    /// Major and minor number as programs take them apart.
    fn device_number(&self, at: usize) -> u32 {
        let (major, minor) = (self.u32(at), self.u32(at + 4));
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    fn times(&self) -> [(u64, u32); 3] {
        [ACCESSED, MODIFIED, CHANGED].map(|at| (self.u64(at), self.u32(at + 8)))
    }

    /// `struct stat` of 64-bit programs.
    pub(super) fn native(&self) -> Vec<u8> {
        let is_x86 = cfg!(target_arch = "x86_64");
        let length = if is_x86 { 144 } else { 128 };
        let own_device = u64::from(self.device_number(OWN_DEVICE));
        let mut out = Vec::with_capacity(length);
        out.extend(u64::from(self.device_number(DEVICE)).to_ne_bytes());
        out.extend(self.inode().to_ne_bytes());
        if is_x86 {
            out.extend(u64::from(self.links()).to_ne_bytes());
            for field in [self.mode(), self.u32(UID), self.u32(GID), 0] {
                out.extend(field.to_ne_bytes());
            }
            out.extend(own_device.to_ne_bytes());
        } else {
            for field in [self.mode(), self.links(), self.u32(UID), self.u32(GID)] {
                out.extend(field.to_ne_bytes());
            }
            out.extend(own_device.to_ne_bytes());
            out.extend([0; 8]);
        }
        out.extend(self.u64(SIZE).to_ne_bytes());
        out.extend(u64::from(self.u32(BLOCK_SIZE)).to_ne_bytes());
        out.extend(self.u64(BLOCKS).to_ne_bytes());
        for (seconds, nanoseconds) in self.times() {
            out.extend(seconds.to_ne_bytes());
            out.extend(u64::from(nanoseconds).to_ne_bytes());
        }
        out.resize(length, 0);
        out
    }

    /// `struct stat64` of 32-bit x86 programs.
    pub(super) fn x86(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend(u64::from(self.device_number(DEVICE)).to_ne_bytes());
        out.extend([0; 4]);
        out.extend((self.inode() as u32).to_ne_bytes());
        for field in [self.mode(), self.links(), self.u32(UID), self.u32(GID)] {
            out.extend(field.to_ne_bytes());
        }
        out.extend(u64::from(self.device_number(OWN_DEVICE)).to_ne_bytes());
        out.extend([0; 4]);
        out.extend(self.u64(SIZE).to_ne_bytes());
        out.extend(self.u32(BLOCK_SIZE).to_ne_bytes());
        out.extend(self.u64(BLOCKS).to_ne_bytes());
        for (seconds, nanoseconds) in self.times() {
            out.extend((seconds as u32).to_ne_bytes());
            out.extend(nanoseconds.to_ne_bytes());
        }
        out.extend(self.inode().to_ne_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::syscall::notification;

    /// What the kernel itself writes for the same file.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn the_three_structures_say_the_same() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "content").unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        let shown = Shown::new(notification::statx(&path, 0, 0xfff).unwrap());
        let found = std::fs::metadata(file.path()).unwrap();
        let native = shown.native();
        let word = |at: usize| u64::from_ne_bytes(native[at..at + 8].try_into().unwrap());
        assert_eq!(native.len(), size_of::<libc::stat>());
        assert_eq!(
            [word(0), word(8), word(16), word(48), word(56), word(64)],
            [
                found.dev(),
                found.ino(),
                found.nlink(),
                found.size(),
                found.blksize(),
                found.blocks()
            ]
        );
        assert_eq!(word(24) as u32, found.mode());
        assert_eq!((word(24) >> 32) as u32, found.uid());
        assert_eq!(word(88), found.mtime() as u64);
        assert_eq!(word(96), found.mtime_nsec() as u64);
        assert_eq!(shown.x86().len(), 96);
        assert_eq!(shown.device().1, rustix::fs::minor(found.dev()));
    }

    #[test]
    fn a_stand_in_is_the_device_that_it_stands_for() {
        let mut statx = [0; STATX_LENGTH];
        statx[MODE..MODE + 2].copy_from_slice(&0o100_660_u16.to_ne_bytes());
        statx[SIZE] = 9;
        let over = OverrideStat::parse(b"0:6:0660:block-8-1").unwrap();
        let shown = Shown::new(statx).overridden(&over);
        assert_eq!(shown.mode(), libc::S_IFBLK | 0o660);
        assert_eq!((shown.u32(UID), shown.u32(GID), shown.u64(SIZE)), (0, 6, 0));
        assert_eq!(shown.device_number(OWN_DEVICE), 0x801);
    }
}
