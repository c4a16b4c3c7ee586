//! Opening a path inside a root file system, never outside of it, whatever links it holds and
//! whoever changes them meanwhile.
//!
//! Results are `O_PATH` descriptors: to be mounted on, copied from, or changed into.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many links as the kernel itself follows in one path.
const MAX_LINKS: usize = 40;

/// Opens `path` inside `root`, following links as if `root` were `/`.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_with(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens `path` inside `root`; a link anywhere in it is an error (`ELOOP`).
pub(super) fn open_without_links(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_with(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

fn open_with(root: BorrowedFd<'_>, path: &[u8], resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // A rename elsewhere makes the kernel give up with EAGAIN; it asks to try again.
    for _ in 0..128 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Older kernels, and container engines' filters.
            Err(Errno::NOSYS | Errno::PERM) => {
                return walk(root, path, resolve.contains(ResolveFlags::NO_SYMLINKS));
            }
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The same by hand: one component at a time, each opened without following it.
fn walk(root: BorrowedFd<'_>, path: &[u8], refuse_links: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = || rustix::fs::openat(root, c".", flags, Mode::empty());
    // The directories from the root down to here, so that `..` never asks the kernel, which
    // would climb out if a directory were moved meanwhile.
    let mut stack = vec![top()?];
    let mut rest: Vec<Vec<u8>> = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b"." {
            continue;
        }
        if name == b".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().ok_or(Errno::NOENT)?;
        let next = rustix::fs::openat(here, &name, flags, Mode::empty())?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
        if kind.is_symlink() {
            links += 1;
            if refuse_links || links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&next, c"", Vec::new())?.into_bytes();
            if is_magic(&next, &target)? {
                return Err(Errno::LOOP);
            }
            if target.starts_with(b"/") {
                stack = vec![top()?];
            }
            rest.extend(components(&target));
        } else {
            if !rest.is_empty() && !kind.is_dir() {
                return Err(Errno::NOTDIR);
            }
            stack.push(next);
        }
    }
    stack.pop().ok_or(Errno::NOENT)
}

/// Whether a link is one of the kernel's that lead to an object and not to a path: those in
/// `/proc` whose text is absolute or like `pipe:[1]`.
fn is_magic(link: &OwnedFd, target: &[u8]) -> Result<bool, Errno> {
    const PROC_MAGIC: u64 = 0x9fa0;
    Ok((target.starts_with(b"/") || target.contains(&b':'))
        && rustix::fs::fstatfs(link)?.f_type as u64 == PROC_MAGIC)
}

/// The components of a path, last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

/// Opens a mount point. What is missing of it is created if it lies on another file system than
/// `root` itself, that is below another mount: there it can't leak into a layer.
pub(super) fn open_mount_point(
    root: BorrowedFd<'_>,
    path: &[u8],
    directory: bool,
) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut names = components(path);
    names.reverse();
    if names.iter().any(|name| name == b"..") {
        return Err(Errno::NOENT);
    }
    // The longest part that exists.
    let mut existing = names.len();
    let mut here = loop {
        existing = existing.checked_sub(1).ok_or(Errno::NOENT)?;
        match open(root, &names[..existing].join(&b'/')) {
            Err(Errno::NOENT) => {}
            other => break other?,
        }
    };
    if rustix::fs::fstat(&here)?.st_dev == rustix::fs::fstat(root)?.st_dev {
        return Err(Errno::NOENT);
    }
    for (index, name) in names.iter().enumerate().skip(existing) {
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if index + 1 == names.len() && !directory {
            let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            rustix::fs::openat(&here, name, flags | create, Mode::from(0o644))?;
            here = rustix::fs::openat(&here, name, flags | OFlags::PATH, Mode::empty())?;
        } else {
            rustix::fs::mkdirat(&here, name, Mode::from(0o755))?;
            let open = OFlags::PATH | OFlags::DIRECTORY;
            here = rustix::fs::openat(&here, name, flags | open, Mode::empty())?;
        }
    }
    Ok(here)
}

/// Whether a descriptor is that of a directory.
pub(super) fn is_directory(descriptor: impl AsFd) -> Result<bool, Errno> {
    let metadata = rustix::fs::statat(descriptor, c"", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(metadata.st_mode).is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Where a descriptor leads, relative to the root of the test.
    fn place(root: &std::path::Path, descriptor: &OwnedFd) -> String {
        use std::os::fd::AsRawFd;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
        let root = root.canonicalize().unwrap();
        let inside = path
            .strip_prefix(root)
            .map(|path| path.as_os_str().to_owned());
        String::from_utf8(inside.unwrap_or(path.into_os_string()).into_vec()).unwrap()
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../../../../etc/passwd", root.join("etc/deep/climber")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = rustix::fs::open(root, OFlags::PATH, Mode::empty()).unwrap();
        let cases: [(&str, Result<&str, Errno>); 10] = [
            ("", Ok("")),
            ("/", Ok("")),
            ("etc//passwd", Ok("etc/passwd")),
            ("/absolute", Ok("etc/passwd")),
            ("etc/deep/climber", Ok("etc/passwd")),
            ("bin", Ok("usr/bin")),
            ("../../bin/../../etc", Ok("etc")),
            ("loop", Err(Errno::LOOP)),
            ("etc/passwd/x", Err(Errno::NOTDIR)),
            ("none", Err(Errno::NOENT)),
        ];
        for (path, expected) in cases {
            let expected = expected.map(str::to_owned);
            for (how, opened) in [
                ("openat2", open(fd.as_fd(), path.as_bytes())),
                ("walk", walk(fd.as_fd(), path.as_bytes(), false)),
            ] {
                assert_eq!(opened.map(|fd| place(root, &fd)), expected, "{how} {path}");
            }
        }
        for path in ["bin", "absolute", "etc/deep/climber"] {
            assert_eq!(
                open_without_links(fd.as_fd(), path.as_bytes()).map(drop),
                Err(Errno::LOOP)
            );
            assert_eq!(
                walk(fd.as_fd(), path.as_bytes(), true).map(drop),
                Err(Errno::LOOP)
            );
        }
    }

    #[test]
    fn links_of_the_kernel_lead_nowhere() {
        let fd = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        for path in ["self/root", "self/cwd/x", "self/exe", "self/ns/mnt"] {
            let path = path.as_bytes();
            assert_eq!(open(fd.as_fd(), path).map(drop), Err(Errno::LOOP));
            assert_eq!(walk(fd.as_fd(), path, false).map(drop), Err(Errno::LOOP));
        }
        for path in ["self/status", "mounts", "net/dev"] {
            walk(fd.as_fd(), path.as_bytes(), false).unwrap();
        }
    }

    #[test]
    fn a_missing_mount_point_is_never_created_on_the_root_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(
            open_mount_point(fd.as_fd(), b"a/b", true).map(drop),
            Err(Errno::NOENT)
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
