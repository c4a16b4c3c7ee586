//! Mounts by descriptor: making, restricting and attaching them, without ever naming a path
//! twice.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
};

use super::spec::XattrNamespace;
use super::syscall;

/// A refused mount: the kernel's error number and, where it gave one, its explanation.
#[derive(Debug)]
pub(super) struct MountError {
    pub(super) errno: Errno,
    pub(super) explanation: Option<String>,
}

impl From<Errno> for MountError {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            explanation: None,
        }
    }
}

/// A file system that is being configured.
struct Filesystem(OwnedFd);

impl Filesystem {
    fn open(kind: &str) -> Result<Self, MountError> {
        Ok(Self(rustix::mount::fsopen(
            kind,
            FsOpenFlags::FSOPEN_CLOEXEC,
        )?))
    }

    fn set(&self, key: &str, value: &str) -> Result<(), MountError> {
        rustix::mount::fsconfig_set_string(&self.0, key, value).map_err(|errno| self.explain(errno))
    }

    fn flag(&self, key: &str) -> Result<(), MountError> {
        rustix::mount::fsconfig_set_flag(&self.0, key).map_err(|errno| self.explain(errno))
    }

    /// Makes the mount, attached nowhere yet.
    fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd, MountError> {
        rustix::mount::fsconfig_create(&self.0).map_err(|errno| self.explain(errno))?;
        rustix::mount::fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.explain(errno))
    }

    /// The kernel leaves its explanations to be read from the context.
    fn explain(&self, errno: Errno) -> MountError {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while let Ok(read) = rustix::io::read(&self.0, &mut buffer) {
            if read == 0 || text.len() > 4096 {
                break;
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            let line = String::from_utf8_lossy(&buffer[..read]);
            text.push_str(line.trim_start_matches("e ").trim_end());
        }
        MountError {
            errno,
            explanation: Some(text).filter(|text| !text.is_empty()),
        }
    }
}

/// A new file system of a kind, with `key=value` options and flags (`None`).
pub(super) fn new_filesystem(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountError> {
    let filesystem = Filesystem::open(kind)?;
    for (key, value) in options {
        match value {
            Some(value) => filesystem.set(key, value)?,
            None => filesystem.flag(key)?,
        }
    }
    filesystem.mount(attributes)
}

/// A file system in memory for the sandbox's own use; never swapped out where the kernel can
/// promise that (6.4, outside of user namespaces).
pub(super) fn private_tmpfs() -> Result<OwnedFd, MountError> {
    let filesystem = Filesystem::open("tmpfs")?;
    filesystem.set("mode", "0700")?;
    // A refused option leaves the context as it was.
    let _ = filesystem.flag("noswap");
    filesystem.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// A copy of the mount that `source` lies on, with `source` as its root, attached nowhere yet.
pub(super) fn clone_tree(source: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(source, c"", flags)
}

/// Moves `mount` onto the very file or directory that `target` is.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount,
        c"",
        target,
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Like [`attach`], with attributes added to the mount, and with `recursive` to those below it.
pub(super) fn attach_with(
    mount: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> Result<(), Errno> {
    if attributes.is_empty() {
        return attach(mount, target);
    }
    match syscall::set_mount_attributes(mount, recursive, u64::from(attributes.bits())) {
        Ok(()) => attach(mount, target),
        // Before Linux 5.12, and under container engines' filters of that time: remounts, for
        // which the mount must be attached.
        Err(Errno::NOSYS | Errno::PERM) => {
            attach(mount, target)?;
            remount(descriptor_path(mount).as_str(), attributes)?;
            if recursive {
                for path in mounts_below(mount)? {
                    remount(path.as_slice(), attributes)?;
                }
            }
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// Adds attributes to one attached mount, and not to those below it.
pub(super) fn restrict(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), Errno> {
    if attributes.is_empty() {
        return Ok(());
    }
    match syscall::set_mount_attributes(mount, false, u64::from(attributes.bits())) {
        Err(Errno::NOSYS | Errno::PERM) => remount(descriptor_path(mount).as_str(), attributes),
        other => other,
    }
}

/// Adds attributes to one attached mount.
fn remount(path: impl rustix::path::Arg + Copy, attributes: MountAttrFlags) -> Result<(), Errno> {
    const FLAGS: [(MountAttrFlags, StatVfsMountFlags, MountFlags); 4] = [
        (
            MountAttrFlags::MOUNT_ATTR_RDONLY,
            StatVfsMountFlags::RDONLY,
            MountFlags::RDONLY,
        ),
        (
            MountAttrFlags::MOUNT_ATTR_NOSUID,
            StatVfsMountFlags::NOSUID,
            MountFlags::NOSUID,
        ),
        (
            MountAttrFlags::MOUNT_ATTR_NODEV,
            StatVfsMountFlags::NODEV,
            MountFlags::NODEV,
        ),
        (
            MountAttrFlags::MOUNT_ATTR_NOEXEC,
            StatVfsMountFlags::NOEXEC,
            MountFlags::NOEXEC,
        ),
    ];
    // A remount replaces all flags, and may not drop those inherited from another user namespace.
    let present = rustix::fs::statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND;
    for (attribute, state, flag) in FLAGS {
        if attributes.contains(attribute) || present.contains(state) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(path, flags, c"")
}

/// The mount points below an attached mount, from the kernel's list.
fn mounts_below(mount: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut prefix = rustix::fs::readlink(descriptor_path(mount), Vec::new())?.into_bytes();
    prefix.push(b'/');
    let list = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(list
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with(&prefix))
        .collect())
}

/// The kernel writes blanks and backslashes in its list as `\040` and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match after {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] if first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// A path that leads to exactly what the descriptor is.
pub(super) fn descriptor_path(descriptor: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Opens something of the host's, to be mounted.
pub(super) fn open_host(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// What an overlay mount is made of.
pub(super) struct Overlay<'a> {
    /// Topmost first; at least one.
    pub(super) lower: Vec<&'a Path>,
    /// Upper and work directories; without them the mount is read-only.
    pub(super) writable: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Which extended attributes carry overlay's marks.
    pub(super) xattr_namespace: XattrNamespace,
}

impl Overlay<'_> {
    /// Options beside the layers. What a layer's attributes could use to point elsewhere
    /// (redirects, metadata-only copies) is off; `userxattr` implies that.
    fn options(&self) -> Vec<(&'static str, Option<&'static str>)> {
        let mut options = match self.xattr_namespace {
            XattrNamespace::User => vec![("userxattr", None)],
            XattrNamespace::Trusted => {
                vec![
                    ("metacopy", Some("off")),
                    ("redirect_dir", Some("nofollow")),
                ]
            }
        };
        options.push(("index", Some("off")));
        if self.writable.is_some() {
            options.push(("volatile", None));
        }
        options
    }

    /// Makes the mount, with an empty directory of the sandbox's own to work in for kernels that
    /// need one.
    pub(super) fn mount(&self, workshop: BorrowedFd<'_>) -> Result<OwnedFd, OverlayError> {
        match self.mount_by_context() {
            // An option may be unknown: `lowerdir+` is before Linux 6.7, and before 6.5 that shows
            // only when all options are there.
            Err(refused) if refused.error.errno == Errno::INVAL => self
                .mount_by_names(workshop)
                .map_err(|error| match error.error.errno {
                    Errno::INVAL => refused,
                    _ => error,
                }),
            other => other,
        }
    }

    /// One option per layer, so that there is no limit on their length together.
    fn mount_by_context(&self) -> Result<OwnedFd, OverlayError> {
        let context = Filesystem::open("overlay").map_err(OverlayError::whole)?;
        for lower in &self.lower {
            let directory = open_host(lower).map_err(|errno| OverlayError::layer(lower, errno))?;
            context
                .set("lowerdir+", &descriptor_path(directory.as_fd()))
                .map_err(|error| OverlayError {
                    path: Some(lower.to_path_buf()),
                    error,
                })?;
        }
        if let Some((upper, work)) = self.writable {
            context
                .set("upperdir", &descriptor_path(upper))
                .map_err(OverlayError::whole)?;
            context
                .set("workdir", &descriptor_path(work))
                .map_err(OverlayError::whole)?;
        }
        for (key, value) in self.options() {
            match value {
                Some(value) => context.set(key, value),
                None => context.flag(key),
            }
            .map_err(OverlayError::whole)?;
        }
        context
            .mount(MountAttrFlags::empty())
            .map_err(OverlayError::whole)
    }

    /// All options in one page: short names in the workshop that lead to the layers.
    fn mount_by_names(&self, workshop: BorrowedFd<'_>) -> Result<OwnedFd, OverlayError> {
        let whole = |errno: Errno| OverlayError::whole(errno.into());
        let mut layers = Vec::new();
        for (index, lower) in self.lower.iter().enumerate() {
            let absolute =
                std::path::absolute(lower).map_err(|_| OverlayError::layer(lower, Errno::INVAL))?;
            let name = index.to_string();
            rustix::fs::symlinkat(absolute, workshop, &name).map_err(whole)?;
            layers.push(name);
        }
        let mut data = format!("lowerdir={}", layers.join(":"));
        if let Some((upper, work)) = self.writable {
            for (name, directory) in [("u", upper), ("w", work)] {
                rustix::fs::symlinkat(descriptor_path(directory), workshop, name).map_err(whole)?;
            }
            data.push_str(",upperdir=u,workdir=w");
        }
        for (key, value) in self.options() {
            data.push(',');
            data.push_str(key);
            if let Some(value) = value {
                data.push('=');
                data.push_str(value);
            }
        }
        rustix::fs::mkdirat(workshop, "m", Mode::RWXU).map_err(whole)?;
        rustix::process::fchdir(workshop).map_err(whole)?;
        let try_with = |data: &str| {
            let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
            rustix::mount::mount("overlay", "m", "overlay", MountFlags::empty(), &*data)
        };
        match try_with(&data) {
            // Before Linux 5.10.
            Err(Errno::INVAL) => try_with(&data.replace(",volatile", "")),
            other => other,
        }
        .map_err(whole)?;
        let mount = rustix::fs::openat(
            workshop,
            "m",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        rustix::process::chdir("/").map_err(whole)?;
        mount.map_err(whole)
    }
}

/// Why an overlay could not be mounted, with the layer if it is one's fault.
#[derive(Debug)]
pub(super) struct OverlayError {
    pub(super) path: Option<std::path::PathBuf>,
    pub(super) error: MountError,
}

impl OverlayError {
    fn whole(error: MountError) -> Self {
        Self { path: None, error }
    }

    fn layer(path: &Path, errno: Errno) -> Self {
        Self {
            path: Some(path.to_path_buf()),
            error: errno.into(),
        }
    }
}

/// Makes a directory in a directory of the sandbox's own and opens it.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from(0o755))?;
    rustix::fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Makes an empty file in a directory of the sandbox's own and opens it for mounting on it.
pub(super) fn make_file(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, create, Mode::from(0o644))?;
    rustix::fs::openat(parent, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a path of the host's exists and what file system it is on, by its magic number.
pub(super) fn filesystem_type(path: &str) -> Result<u64, Errno> {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::empty())?;
    Ok(rustix::fs::statfs(path)?.f_type as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_kernels_list_of_mounts_are_unescaped() {
        for (written, path) in [
            ("/plain", "/plain"),
            ("/a\\040b\\134c\\011", "/a b\\c\t"),
            ("/\\9\\04", "/\\9\\04"),
        ] {
            assert_eq!(unescape(written.as_bytes()), path.as_bytes());
        }
    }

    /// Both ways of mounting, in a mount namespace of the test's own thread.
    #[test]
    fn kernels_without_one_option_per_layer_get_short_names() {
        if !rustix::process::geteuid().is_root()
            || syscall::unshare(rustix::thread::UnshareFlags::NEWNS).is_err()
        {
            eprintln!("skipped: mounting needs CAP_SYS_ADMIN");
            return;
        }
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        // Names that mount(2) could not take as they are, and too long for one page together.
        let lower: Vec<std::path::PathBuf> = (0..150)
            .map(|n| {
                let layer = directory
                    .path()
                    .join(format!("{}:,\\{n}", "long".repeat(20)));
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("file{n}")), "").unwrap();
                layer
            })
            .collect();
        for way in ["context", "names"] {
            let workshop = directory.path().join(format!("{way}-workshop"));
            let (upper, work) = (
                directory.path().join(format!("{way}-upper")),
                directory.path().join(format!("{way}-work")),
            );
            for path in [&workshop, &upper, &work] {
                std::fs::create_dir(path).unwrap();
            }
            let tmpfs = private_tmpfs().unwrap();
            attach(tmpfs.as_fd(), open_host(&workshop).unwrap().as_fd()).unwrap();
            let (upper_fd, work_fd) = (open_host(&upper).unwrap(), open_host(&work).unwrap());
            let overlay = Overlay {
                lower: lower.iter().map(std::path::PathBuf::as_path).collect(),
                writable: Some((upper_fd.as_fd(), work_fd.as_fd())),
                xattr_namespace: XattrNamespace::Trusted,
            };
            let mount = match way {
                "context" => match overlay.mount_by_context() {
                    Err(refused) if refused.error.errno == Errno::INVAL => continue,
                    other => other.unwrap(),
                },
                _ => overlay.mount_by_names(tmpfs.as_fd()).unwrap(),
            };
            let root = make_directory(tmpfs.as_fd(), "root").unwrap();
            attach(mount.as_fd(), root.as_fd()).unwrap();
            let names = rustix::fs::Dir::read_from(
                rustix::fs::openat(&mount, c".", OFlags::RDONLY, Mode::empty()).unwrap(),
            )
            .unwrap()
            .count();
            assert_eq!(names, 152, "{way}");
        }
    }
}
