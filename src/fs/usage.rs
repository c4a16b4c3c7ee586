//! How much of the disk a folder or file takes.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::FsError;
use super::walk::{Descend, walk};

/// The bytes that the file system has set aside for what is at `path`, a path of the machine, and
/// for everything inside it. A file with several names counts once. What can't be looked into
/// counts as nothing.
///
/// # Errors
/// When `path` itself can't be looked at. Where nothing is, zero.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&opened)?;
    let mut bytes = allocated(&stat);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(bytes);
    }
    let mut linked = BTreeSet::new();
    // A folder that can't be read ends the walk; what was counted until then stands.
    let _ = walk::<FsError>(opened.as_fd(), &mut |visited| {
        let stat = visited.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        if is_directory || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
            bytes = bytes.saturating_add(allocated(stat));
        }
        Ok(Descend::Enter)
    });
    Ok(bytes)
}

/// `st_blocks` counts units of 512 bytes whatever the file system's own are.
fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_count_once_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir(at("tree")).unwrap();
        let empty = disk_usage(&at("tree")).unwrap();
        std::fs::write(at("tree/file"), vec![1; 1 << 20]).unwrap();
        let one = disk_usage(&at("tree")).unwrap();
        assert!(one >= empty + (1 << 20), "{one}");
        std::fs::hard_link(at("tree/file"), at("tree/other")).unwrap();
        std::os::unix::fs::symlink("/", at("tree/link")).unwrap();
        assert!(disk_usage(&at("tree")).unwrap() < one + (1 << 20));
        assert!(disk_usage(&at("tree/file")).unwrap() >= 1 << 20);
        assert_eq!(disk_usage(&at("nothing")).unwrap(), 0);
    }
}
