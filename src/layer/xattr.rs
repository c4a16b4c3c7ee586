//! Which extended attributes layers carry, and reading and writing them on disk.
//!
//! What an overlay mount or a builder keeps in attributes describes one tree on one machine. It
//! never goes into a layer, and is never taken from one: a planted `redirect` would show other
//! directories, a planted `override_stat` other owners.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Holds owner, mode and kind where the file itself can't.
pub(super) const OVERRIDE_STAT: &[u8] = crate::fs::override_stat::NAME.as_bytes();

/// The kernel's own limits for the names of one file and for one value.
const LIST_LIMIT: usize = 64 * 1024;
const VALUE_LIMIT: usize = 64 * 1024;

/// Attributes by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether an attribute of a tar stream is believed.
pub(super) fn is_allowed_from_outside(name: &[u8]) -> bool {
    !is_overlay(name) && name != OVERRIDE_STAT
}

/// Whether an attribute of a tree goes into its layer: what every kind of build can see and set
/// alike. `trusted.*` is invisible in a user namespace, and `security.selinux` and its kin belong
/// to the machine.
pub(super) fn is_carried(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && is_allowed_from_outside(name)
}

/// Whether an attribute belongs to an overlay mount.
pub(super) fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// A file whose attributes are read or set: open, or by name in an open directory where it can't
/// be opened.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// The file itself, opened for more than its path.
    Open(BorrowedFd<'a>),
    /// `name`, one component, in a directory; links are not followed.
    In(BorrowedFd<'a>, &'a [u8]),
}

impl Target<'_> {
    /// There is no `*at` call for attributes before Linux 6.13; a directory's descriptor in
    /// /proc leads to the same place, whatever happens to its path.
    fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    /// The attributes whose names are `wanted`.
    pub(super) fn list(self, wanted: fn(&[u8]) -> bool) -> io::Result<Xattrs> {
        let mut names = Vec::new();
        let mut buffer = [0_u8; 1024];
        match self.list_names(&mut buffer) {
            Ok(n) => names.extend_from_slice(&buffer[..n]),
            Err(Errno::RANGE) => {
                names.resize(LIST_LIMIT, 0);
                let n = self.list_names(&mut names)?;
                names.truncate(n);
            }
            Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
        let mut all = Xattrs::new();
        for name in names
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty() && wanted(name))
        {
            if let Some(value) = self.get(name)? {
                all.insert(name.to_vec(), value);
            }
        }
        Ok(all)
    }

    fn list_names(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::In(directory, name) => {
                rustix::fs::llistxattr(Self::proc_path(directory, name), buffer)
            }
        }
    }

    /// One attribute; `None` when it isn't there or may not be seen.
    pub(super) fn get(self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0_u8; 256];
        match self.get_into(name, &mut buffer) {
            Ok(n) => Ok(Some(buffer[..n].to_vec())),
            Err(Errno::RANGE) => {
                let mut large = vec![0; VALUE_LIMIT];
                let n = self.get_into(name, &mut large)?;
                large.truncate(n);
                Ok(Some(large))
            }
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn get_into(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::In(directory, file) => {
                rustix::fs::lgetxattr(Self::proc_path(directory, file), name, buffer)
            }
        }
    }

    /// Sets one attribute. Gives false where this file system, kind of file or process can't have
    /// it.
    pub(super) fn set(self, name: &[u8], value: &[u8]) -> io::Result<bool> {
        let result = match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::In(directory, file) => rustix::fs::lsetxattr(
                Self::proc_path(directory, file),
                name,
                value,
                XattrFlags::empty(),
            ),
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_and_builder_attributes_stay_out() {
        for (name, from_outside, carried) in [
            ("user.comment", true, true),
            ("security.capability", true, true),
            ("security.selinux", true, false),
            ("trusted.other", true, false),
            ("trusted.overlay.opaque", false, false),
            ("trusted.overlay.redirect", false, false),
            ("user.overlay.whiteout", false, false),
            ("user.containers.override_stat", false, false),
            ("user.overlayed", true, true),
        ] {
            assert_eq!(
                is_allowed_from_outside(name.as_bytes()),
                from_outside,
                "{name}"
            );
            assert_eq!(is_carried(name.as_bytes()), carried, "{name}");
        }
    }
}
