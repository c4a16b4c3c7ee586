//! Removing a folder with all its content, by descriptor: no link is followed, and nothing outside
//! is touched whatever changes meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::descent::Descent;
use super::walk::list;

/// Removes `name`, one component, from an open directory, with all its content if it is a
/// directory itself. It is no error when nothing is there.
///
/// # Errors
/// When something can't be removed; a directory that its mode protects is opened up first.
pub fn remove_all(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    if unlink(directory, name)? {
        return Ok(());
    }
    let mut descent = Descent::new(directory);
    enter(&mut descent, name)?;
    let mut pending = vec![names(&mut descent)?];
    while let Some(names_here) = pending.last_mut() {
        let Some(name) = names_here.pop() else {
            pending.pop();
            let path = descent.path().to_vec();
            let name_start = path
                .iter()
                .rposition(|&b| b == b'/')
                .map_or(0, |slash| slash + 1);
            descent.leave();
            match rustix::fs::unlinkat(descent.fd()?, &path[name_start..], AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if !unlink(descent.fd()?, &name)? {
            enter(&mut descent, &name)?;
            pending.push(names(&mut descent)?);
        }
    }
    Ok(())
}

/// Removes what is no directory; gives false for a directory.
fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Goes into a directory and makes sure that its content can be removed.
fn enter(descent: &mut Descent<'_>, name: &[u8]) -> io::Result<()> {
    descent.enter(name)?;
    let readable = descent.reopen();
    let accessible = rustix::fs::accessat(
        descent.fd()?,
        ".",
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        AtFlags::empty(),
    );
    if readable.is_ok() && accessible.is_ok() {
        return Ok(());
    }
    descent.leave();
    // A directory of our own without permissions can't be opened for fchmod; the name isn't a
    // link, or entering it would have failed, and fchmodat never leads further than this.
    rustix::fs::chmodat(descent.fd()?, name, Mode::RWXU, AtFlags::empty())?;
    descent.enter(name)
}

fn names(descent: &mut Descent<'_>) -> io::Result<Vec<Vec<u8>>> {
    let fd = descent.reopen()?;
    Ok(list(fd.as_fd())?
        .into_iter()
        .map(|entry| entry.name)
        .collect())
}

/// Removes everything in the directory at `path`, a path of the machine, and the directory itself.
/// It is no error when nothing is there.
///
/// # Errors
/// When something can't be removed.
pub fn remove_folder(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        std::path::Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(rustix::fs::CWD, parent, flags, Mode::empty()) {
        Ok(fd) => remove_all(fd.as_fd(), name.as_bytes()),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn everything_goes_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("victim/closed/deep")).unwrap();
        std::fs::create_dir_all(at("kept")).unwrap();
        std::fs::write(at("kept/file"), "").unwrap();
        symlink("../kept", at("victim/link")).unwrap();
        std::fs::write(at("victim/closed/deep/file"), "").unwrap();
        std::fs::set_permissions(at("victim/closed"), std::fs::Permissions::from_mode(0o0))
            .unwrap();
        remove_folder(&at("victim")).unwrap();
        assert!(!at("victim").exists() && at("kept/file").exists());
        remove_folder(&at("victim")).unwrap();
        symlink("kept", at("link")).unwrap();
        remove_folder(&at("link")).unwrap();
        assert!(!at("link").exists() && at("kept/file").exists());
    }
}
