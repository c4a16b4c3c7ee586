//! The root file system of a sandbox: overlay over the layers, the spec's mounts, and the change
//! into it.
//!
//! Everything happens in the sandbox's own mount namespace, so nothing has to be undone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::fs::Root;
use crate::fs::override_stat::{self, OverrideStat};

use super::in_root;
use super::mount::{self, Overlay, OverlayError};
use super::spec::{
    HostPath, MAX_LOWER_DIRECTORIES, MountSource, SandboxMount, SandboxSpec, Security,
    SetupFailure, Stage, Writable, XattrNamespace,
};

impl Security {
    /// What every mount that a step can write to gets. A step may make device nodes, as in Docker,
    /// and an image may hold some: none of them leads to the machine's devices.
    pub(super) fn attributes(self) -> MountAttrFlags {
        match self {
            Self::Sandbox => MountAttrFlags::MOUNT_ATTR_NODEV,
            Self::Insecure => MountAttrFlags::empty(),
        }
    }
}

/// A sandbox's root file system in the making.
pub(super) struct RootFilesystem {
    /// Its root directory.
    pub(super) root: Root,
    /// A file system in memory that goes with the old root: work space, and the content of
    /// `File` mounts.
    stage: OwnedFd,
    /// Names given on the stage so far.
    names: usize,
}

impl RootFilesystem {
    /// Mounts the layers.
    pub(super) fn mount(spec: &SandboxSpec) -> Result<Self, SetupFailure> {
        let failed = |message: &str, errno| SetupFailure::new(Stage::Root, message, errno);
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .map_err(|errno| failed("can't make mounts private", errno))?;

        let upper = open_directory(spec.folder.as_ref().unwrap_or(&spec.writable.upper))?;
        // The stage lies over the upper directory, where it hides nothing that anyone else in
        // this namespace looks at; overlay gets the directory beneath.
        let stage =
            mount::private_tmpfs().map_err(|error| failed("can't mount a tmpfs", error.errno))?;
        mount::attach(stage.as_fd(), upper.as_fd())
            .map_err(|errno| failed("can't attach a tmpfs", errno))?;

        let mut this = Self {
            root: mount::make_directory(stage.as_fd(), "root")
                .map(Root::new)
                .map_err(|errno| failed("can't make a directory on a tmpfs", errno))?,
            stage,
            names: 0,
        };
        let mount = match spec.folder {
            Some(_) => mount::clone_tree(upper.as_fd(), false)
                .map_err(|errno| failed("can't mount the step's folder", errno))?,
            None => {
                let work = open_directory(&spec.writable.work)?;
                this.overlay(
                    &spec.lower,
                    Some((upper.as_fd(), work.as_fd())),
                    spec.xattr_namespace,
                    Stage::Root,
                )?
            }
        };
        mount::attach_with(
            mount.as_fd(),
            this.root.as_fd(),
            spec.security.attributes(),
            false,
        )
        .map_err(|errno| failed("can't attach the root file system", errno))?;
        this.root = Root::new(mount);
        Ok(this)
    }

    fn overlay(
        &mut self,
        lower: &[HostPath],
        writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
        xattr_namespace: XattrNamespace,
        stage: Stage,
    ) -> Result<OwnedFd, SetupFailure> {
        if lower.len() > MAX_LOWER_DIRECTORIES {
            return Err(SetupFailure::request(format!(
                "{} layers are more than the {MAX_LOWER_DIRECTORIES} that overlay can stack: flatten the image",
                lower.len()
            )));
        }
        let workshop = self.next_directory().map_err(|errno| {
            SetupFailure::new(stage, "can't make a directory on a tmpfs", errno)
        })?;
        let empty = mount::descriptor_path(workshop.as_fd());
        let layers = if lower.is_empty() {
            vec![Path::new(&empty)]
        } else {
            lower.iter().map(HostPath::as_path).collect()
        };
        let overlay = Overlay {
            lower: layers,
            writable,
            xattr_namespace,
        };
        let scratch = self.next_directory().map_err(|errno| {
            SetupFailure::new(stage, "can't make a directory on a tmpfs", errno)
        })?;
        overlay
            .mount(scratch.as_fd())
            .map_err(|OverlayError { path, error }| SetupFailure {
                stage,
                path: path.map(|path| path.to_string_lossy().into_owned()),
                errno: error.errno.raw_os_error(),
                message: match error.explanation {
                    Some(explanation) => format!("can't mount an overlay ({explanation})"),
                    None => "can't mount an overlay".to_owned(),
                },
            })
    }

    fn next_directory(&mut self) -> Result<OwnedFd, Errno> {
        self.names += 1;
        mount::make_directory(self.stage.as_fd(), &self.names.to_string())
    }

    /// An empty, unwritable directory, to hide others.
    pub(super) fn empty_directory(&mut self) -> Result<OwnedFd, Errno> {
        self.next_directory()
    }

    /// An empty file, to hide others.
    pub(super) fn empty_file(&mut self) -> Result<OwnedFd, Errno> {
        self.names += 1;
        mount::make_file(self.stage.as_fd(), &self.names.to_string())
    }

    /// Makes one of the spec's mounts. `passed` are the descriptors that came with the spec; those
    /// of [`MountSource::Descriptor`] are mounts already.
    pub(super) fn add(
        &mut self,
        wanted: &SandboxMount,
        spec: &SandboxSpec,
        passed: &[OwnedFd],
    ) -> Result<(), SetupFailure> {
        let (mount, attributes, recursive) = self.source(wanted, spec, passed)?;
        let mut attributes = attributes | spec.security.attributes();
        if wanted.read_only {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        let failed =
            |message: &str, errno| SetupFailure::at(Stage::Mount, message, &wanted.target, errno);
        let directory = in_root::is_directory(&mount)
            .map_err(|errno| failed("can't look at the source of the mount on", errno))?;
        let target = in_root::open_mount_point(&self.root, &wanted.target, directory)
            .map_err(|errno| failed("there is no mount point", errno))?;
        mount::attach_with(mount.as_fd(), target.as_fd(), attributes, recursive)
            .map_err(|errno| failed("can't mount on", errno))
    }

    /// A mount for a source, attached nowhere yet, the attributes that it gets, and whether
    /// mounts below it get them too.
    fn source(
        &mut self,
        wanted: &SandboxMount,
        spec: &SandboxSpec,
        passed: &[OwnedFd],
    ) -> Result<(OwnedFd, MountAttrFlags, bool), SetupFailure> {
        let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
        let failed =
            |message: &str, errno| SetupFailure::at(Stage::Mount, message, &wanted.target, errno);
        match &wanted.source {
            MountSource::Path {
                root,
                path,
                recursive,
            } => {
                let outside = |errno| {
                    let mut full = root.as_path().as_os_str().as_encoded_bytes().to_vec();
                    if !path.is_empty() {
                        full.extend_from_slice(b"/");
                        full.extend_from_slice(path);
                    }
                    SetupFailure::at(Stage::Mount, "can't mount the host's", full, errno)
                };
                let mut source = mount::open_host(root.as_path()).map_err(outside)?;
                if !path.is_empty() {
                    source = in_root::open(&Root::new(source), path).map_err(outside)?;
                }
                let mount = mount::clone_tree(source.as_fd(), *recursive).map_err(outside)?;
                Ok((mount, MountAttrFlags::empty(), *recursive))
            }
            MountSource::Descriptor { index, recursive } => {
                let mount = descriptor(passed, *index)?
                    .try_clone()
                    .map_err(|_| failed("can't copy the descriptor for", Errno::MFILE))?;
                Ok((mount, MountAttrFlags::empty(), *recursive))
            }
            MountSource::Layers {
                lower,
                writable,
                path,
            } => {
                let mount = self.layers(lower, writable.as_ref(), path, spec, wanted)?;
                // A single layer is mounted as it is, and is not this step's to change.
                let attributes = match writable {
                    Some(_) => MountAttrFlags::empty(),
                    None => MountAttrFlags::MOUNT_ATTR_RDONLY,
                };
                Ok((mount, attributes, false))
            }
            MountSource::Tmpfs {
                size,
                mode,
                executable,
            } => {
                let mode = format!("{:o}", mode & 0o7777);
                let size = size.map(|size| size.to_string());
                let mut options = vec![("mode", Some(mode.as_str()))];
                if let Some(size) = &size {
                    options.push(("size", Some(size)));
                }
                let mount = mount::new_filesystem("tmpfs", &options, nosuid)
                    .map_err(|error| failed("can't make a tmpfs for", error.errno))?;
                let attributes = match executable {
                    true => MountAttrFlags::empty(),
                    false => MountAttrFlags::MOUNT_ATTR_NOEXEC,
                };
                Ok((mount, attributes, false))
            }
            MountSource::File {
                index,
                mode,
                uid,
                gid,
                ..
            } => {
                let content = descriptor(passed, *index)?;
                self.names += 1;
                let name = self.names.to_string();
                let noted = spec.notes_every_owner();
                let owner = (*uid, *gid);
                let mount = write_file(self.stage.as_fd(), &name, content, *mode, owner, noted)
                    .map_err(|(message, errno)| failed(message, errno))?;
                let attributes =
                    nosuid | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                Ok((mount, attributes, false))
            }
        }
    }

    /// A mount of a path inside a stack of layers.
    fn layers(
        &mut self,
        lower: &[HostPath],
        writable: Option<&Writable>,
        path: &[u8],
        spec: &SandboxSpec,
        wanted: &SandboxMount,
    ) -> Result<OwnedFd, SetupFailure> {
        let failed =
            |message: &str, errno| SetupFailure::at(Stage::Mount, message, &wanted.target, errno);
        let directories = match writable {
            Some(Writable { upper, work }) => Some((open_directory(upper)?, open_directory(work)?)),
            None => None,
        };
        let stack = match (lower, &directories) {
            // Overlay wants two layers or a writable one.
            ([single], None) => {
                let tree = open_directory(single)?;
                mount::clone_tree(tree.as_fd(), false)
                    .map_err(|errno| failed("can't mount a layer on", errno))?
            }
            ([], None) => {
                return Err(SetupFailure::request(format!(
                    "no layer to mount on `{}`",
                    String::from_utf8_lossy(&wanted.target)
                )));
            }
            _ => self.overlay(
                lower,
                directories
                    .as_ref()
                    .map(|(upper, work)| (upper.as_fd(), work.as_fd())),
                spec.xattr_namespace,
                Stage::Mount,
            )?,
        };
        if path.is_empty() {
            return Ok(stack);
        }
        // Paths can be looked up and copied in attached mounts only.
        let place = self
            .next_directory()
            .map_err(|errno| failed("can't make a directory for", errno))?;
        mount::attach(stack.as_fd(), place.as_fd())
            .map_err(|errno| failed("can't attach the layers for", errno))?;
        let source = in_root::open(&Root::new(stack), path)
            .map_err(|errno| SetupFailure::at(Stage::Mount, "the layers hold no", path, errno))?;
        mount::clone_tree(source.as_fd(), false).map_err(|errno| failed("can't mount on", errno))
    }

    /// Refuses writing to the root itself. Comes after every mount: mount points are made below it.
    pub(super) fn make_read_only(&self) -> Result<(), SetupFailure> {
        mount::restrict(self.root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(|errno| {
            SetupFailure::new(
                Stage::Root,
                "can't make the root file system read-only",
                errno,
            )
        })
    }

    /// Makes it the root of this process's mount namespace and lets go of the old one.
    pub(super) fn enter(self) -> Result<(), SetupFailure> {
        let failed = |message: &str, errno| SetupFailure::new(Stage::Pivot, message, errno);
        rustix::process::fchdir(&self.root)
            .map_err(|errno| failed("can't change into the root file system", errno))?;
        match rustix::process::pivot_root(".", ".") {
            Ok(()) => {
                // The old root now lies on the new one.
                rustix::mount::unmount(".", UnmountFlags::DETACH)
                    .map_err(|errno| failed("can't unmount the old root", errno))?;
            }
            // On an initial ramdisk there is nothing to pivot: move the mount over it.
            Err(Errno::INVAL) => {
                rustix::mount::move_mount(
                    &self.root,
                    c"",
                    rustix::fs::CWD,
                    "/",
                    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
                )
                .and_then(|()| rustix::process::chroot("."))
                .map_err(|errno| failed("can't move the root file system to `/`", errno))?;
            }
            Err(errno) => return Err(failed("can't pivot into the root file system", errno)),
        }
        rustix::process::chdir("/").map_err(|errno| failed("can't change to `/`", errno))
    }
}

/// Changes into the working directory, by descriptor, and makes sure that it is inside the root.
pub(super) fn change_directory(cwd: &[u8]) -> Result<(), SetupFailure> {
    let failed =
        |message: &str, errno| SetupFailure::at(Stage::WorkingDirectory, message, cwd, errno);
    let root = mount::open_host(Path::new("/"))
        .map_err(|errno| failed("can't open the root for", errno))?;
    let directory = in_root::open(&Root::new(root), cwd)
        .map_err(|errno| failed("can't open the working directory", errno))?;
    rustix::process::fchdir(&directory)
        .map_err(|errno| failed("can't change into the working directory", errno))?;
    // A directory outside of the root has no path that begins with a slash.
    let reached = rustix::process::getcwd(Vec::new())
        .map_err(|errno| failed("can't verify the working directory", errno))?;
    if reached.as_bytes().first() == Some(&b'/') {
        Ok(())
    } else {
        Err(failed(
            "the working directory is outside of the root:",
            Errno::XDEV,
        ))
    }
}

fn open_directory(path: &HostPath) -> Result<OwnedFd, SetupFailure> {
    rustix::fs::open(
        path.as_path(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| {
        let bytes = path.as_path().as_os_str().as_encoded_bytes();
        SetupFailure::at(Stage::Root, "can't open the host's directory", bytes, errno)
    })
}

fn descriptor(passed: &[OwnedFd], index: usize) -> Result<&OwnedFd, SetupFailure> {
    passed.get(index).ok_or_else(|| {
        SetupFailure::request(format!(
            "descriptor {index} of {} passed ones is asked for",
            passed.len()
        ))
    })
}

/// Copies content to a new file on the stage and returns a mount of it.
fn write_file(
    stage: BorrowedFd<'_>,
    name: &str,
    content: &OwnedFd,
    mode: u32,
    (uid, gid): (u32, u32),
    has_noted_owners: bool,
) -> Result<OwnedFd, (&'static str, Errno)> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(stage, name, create, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| ("can't make the file for", errno))?;
    let mut offset = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // The descriptor's own position is shared with the sender, and left alone.
        let read = rustix::io::pread(content, &mut buffer, offset)
            .map_err(|errno| ("can't read the content for", errno))?;
        if read == 0 {
            break;
        }
        offset += read as u64;
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)
                .map_err(|errno| ("can't write the content for", errno))?;
            rest = &rest[written..];
        }
    }
    let owned = rustix::fs::fchown(
        &file,
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
    );
    match owned {
        // The one id that there is stands for this one, too; the note is for who looks.
        Err(Errno::INVAL) if has_noted_owners => note_owner(&file, (uid, gid), mode),
        other => other,
    }
    .map_err(|errno| {
        (
            "the wanted owner is not mapped in this user namespace, for",
            errno,
        )
    })?;
    rustix::fs::fchmod(&file, Mode::from(mode & 0o7777))
        .map_err(|errno| ("can't set the permissions for", errno))?;
    mount::clone_tree(file.as_fd(), false).map_err(|errno| ("can't mount the file for", errno))
}

/// Notes the owner of a file in memory. Before Linux 6.6 there is no place for that: the file is
/// root's, then.
fn note_owner(file: &OwnedFd, (uid, gid): (u32, u32), mode: u32) -> Result<(), Errno> {
    let over = OverrideStat {
        uid,
        gid,
        mode,
        kind: override_stat::Kind::File,
    };
    match rustix::fs::fsetxattr(
        file,
        override_stat::NAME,
        &over.format(),
        rustix::fs::XattrFlags::empty(),
    ) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}
