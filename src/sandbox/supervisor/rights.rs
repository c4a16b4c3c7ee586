//! Who asks: what the kernel itself would look at of a process before it did what it asks for.

use rustix::fs::{CWD, Gid, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::asker;

/// What the kernel would look at of who asks.
pub(super) struct Rights {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
    capabilities: CapabilitySet,
    /// Whether its paths begin elsewhere than this process's.
    pub(super) has_own_root: bool,
}

impl Rights {
    /// Looks at a thread. The working directory is `/proc`.
    pub(super) fn of(thread: u32) -> Result<Self, Errno> {
        let status = asker::status(thread)?;
        let root = rustix::fs::readlinkat(CWD, format!("{thread}/root"), Vec::new())?;
        Self::read(&status, root.as_bytes() != b"/").ok_or(Errno::SRCH)
    }

    fn read(status: &str, has_own_root: bool) -> Option<Self> {
        let word = |name, index| asker::line(status, name).nth(index);
        // The last of four is the one for files.
        let id = |name| word(name, 3)?.parse().ok();
        Some(Self {
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            umask: u32::from_str_radix(word("Umask:", 0)?, 8).ok()?,
            capabilities: CapabilitySet::from_bits_retain(
                u64::from_str_radix(word("CapEff:", 0)?, 16).ok()?,
            ),
            has_own_root,
        })
    }

    /// A file is found here with rights that who asks must have, too.
    pub(super) fn needs(&self, capability: CapabilitySet) -> Result<(), Errno> {
        match self
            .capabilities
            .contains(capability | CapabilitySet::DAC_OVERRIDE)
        {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// Does something with the rights of who asks, as far as those hang on user and group.
    pub(super) fn act<T>(&self, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // With the way back to user 0, whose capabilities come back with it.
        rustix::thread::set_thread_res_gid(group, group, Gid::ROOT)?;
        let done = rustix::thread::set_thread_res_uid(user, user, Uid::ROOT).and_then(|()| {
            let done = act();
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).and(done)
        });
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_in_force() {
        let status = "Name:\tsh\nUmask:\t0027\nUid:\t0\t0\t0\t7\nGid:\t0\t5\t0\t5\n\
                      CapPrm:\t00000000a80425fb\nCapEff:\t0000000000000003\n";
        let asker = Rights::read(status, false).unwrap();
        assert_eq!((asker.uid, asker.gid, asker.umask), (7, 5, 0o027));
        assert_eq!(asker.needs(CapabilitySet::CHOWN), Ok(()));
        assert_eq!(asker.needs(CapabilitySet::MKNOD), Err(Errno::PERM));
        assert!(Rights::read("Name:\tsh\n", false).is_none());
    }
}
