//! The throw-away process in which a rung is tried.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::Namespaces;
use super::failure::{Failure, Trial};
use crate::sandbox::channel::{Channel, retry};
use crate::sandbox::id_map::IdMaps;
use crate::sandbox::mount::{self, MountError, Overlay};
use crate::sandbox::seccomp;
use crate::sandbox::spec::{HostPath, XattrNamespace};
use crate::sandbox::syscall::{self, Fork, notification};

/// What a probe that succeeded learnt beside.
#[derive(Serialize, Deserialize)]
pub(super) struct Capable {
    pub(super) trusted_xattrs: bool,
    /// See [`Found`](super::Found).
    pub(super) upper: Option<i32>,
}

/// A process that has entered new namespaces and waits to be told to try mounts in them.
pub(super) struct Probe {
    pub(super) pid: Pid,
    channel: Channel,
}

impl Probe {
    /// Starts it; it writes `own_maps` itself, if given.
    pub(super) fn start(flags: UnshareFlags, own_maps: Option<IdMaps>) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(Trial::Fork, errno);
        let (near, far) = Channel::pair().map_err(failed)?;
        match syscall::fork().map_err(failed)? {
            Fork::Child => {
                drop(near);
                try_namespaces(&far, flags, own_maps);
                syscall::exit(0)
            }
            Fork::Parent(pid) => {
                drop(far);
                let probe = Self { pid, channel: near };
                probe.answer::<()>()??;
                Ok(probe)
            }
        }
    }

    fn answer<T: serde::de::DeserializeOwned>(&self) -> Result<Result<T, Failure>, Failure> {
        match self.channel.receive() {
            Ok(Some(received)) => Ok(received.message),
            Ok(None) => Err(Failure::new(Trial::Fork, Errno::CHILD)),
            Err(errno) => Err(Failure::new(Trial::Fork, errno)),
        }
    }

    /// Handles on its namespaces, which keep them alive.
    pub(super) fn namespaces(&self) -> Result<Namespaces, Failure> {
        let open = |kind: &str| {
            rustix::fs::open(
                format!("/proc/{}/ns/{kind}", self.pid.as_raw_nonzero()),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| Failure::new(Trial::OpenNamespaces, errno))
        };
        Ok(Namespaces {
            user: open("user")?,
            mount: open("mnt")?,
        })
    }

    /// Has it try the rest, and to write to `folder`.
    pub(super) fn finish(self, folder: Option<&Path>) -> Result<Capable, Failure> {
        self.channel
            .send(&folder.map(HostPath::from), &[])
            .map_err(|errno| Failure::new(Trial::Fork, errno))?;
        self.answer::<Capable>()?
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Without a word from us it ends.
        self.channel.shutdown();
        let _ = retry(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()));
    }
}

/// The probe's process.
fn try_namespaces(channel: &Channel, flags: UnshareFlags, own_maps: Option<IdMaps>) {
    let has_one_id = own_maps.is_some();
    let entered = syscall::unshare(flags)
        .map_err(|errno| Failure::new(Trial::Unshare, errno))
        .and_then(|()| match own_maps {
            Some(maps) => maps.write_own().map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Failure::new(Trial::MapIds, errno)
            }),
            None => Ok(()),
        });
    if channel.send(&entered, &[]).is_err() || entered.is_err() {
        return;
    }
    if let Ok(Some(received)) = channel.receive::<Option<HostPath>>() {
        let folder = received.message;
        // The answer's reader may be gone; so are we, then.
        let tried = try_mounts(folder.as_ref()).and_then(|capable| {
            if has_one_id {
                try_supervision()?;
            }
            Ok(capable)
        });
        let _ = channel.send(&tried, &[]);
    }
}

/// Whether system calls can be left to another process. Comes last: the filter, which allows
/// everything, stays.
fn try_supervision() -> Result<(), Failure> {
    notification::install_listening_filter(&seccomp::open_filter())
        .map(drop)
        .map_err(|errno| Failure::new(Trial::Supervision, errno))
}

fn try_mounts(folder: Option<&HostPath>) -> Result<Capable, Failure> {
    let failed = |trial| move |error: MountError| Failure::new(trial, error.errno);
    // The namespace that may be kept stays clean.
    syscall::unshare(UnshareFlags::NEWNS)
        .and_then(|()| {
            rustix::mount::mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )
        })
        .map_err(|errno| Failure::new(Trial::Unshare, errno))?;
    let tmpfs = mount::private_tmpfs().map_err(failed(Trial::Tmpfs))?;
    let root = mount::open_host("/".as_ref()).map_err(|errno| Failure::new(Trial::Tmpfs, errno))?;
    // What lies over `/` hides nothing from a process whose root is beneath.
    mount::attach(tmpfs.as_fd(), root.as_fd())
        .map_err(|errno| Failure::new(Trial::Tmpfs, errno))?;
    // Everything that a sandbox shows of the machine is a copy of a mount.
    mount::clone_tree(tmpfs.as_fd(), false).map_err(|errno| Failure::new(Trial::Copy, errno))?;
    let trusted_xattrs = try_overlay(&tmpfs)?;
    let upper = folder.map(
        |folder| match try_upper(folder.as_path(), &tmpfs, trusted_xattrs) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        },
    );
    syscall::unshare(
        UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
    .map_err(|errno| Failure::new(Trial::Namespaces, errno))?;
    Ok(Capable {
        trusted_xattrs,
        upper,
    })
}

/// Whether an overlay can be mounted, and whether its marks can be `trusted` attributes.
fn try_overlay(tmpfs: &OwnedFd) -> Result<bool, Failure> {
    let failed = |errno| Failure::new(Trial::Overlay, errno);
    let mut layers = Vec::new();
    for name in ["a", "b"] {
        layers.push(mount::make_directory(tmpfs.as_fd(), name).map_err(failed)?);
    }
    let readable = rustix::fs::openat(
        tmpfs,
        "a",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    let trusted_xattrs = rustix::fs::fsetxattr(
        &readable,
        "trusted.overlay.opaque",
        b"n",
        rustix::fs::XattrFlags::empty(),
    )
    .is_ok();
    let lower: Vec<String> = layers
        .iter()
        .map(|layer| mount::descriptor_path(layer.as_fd()))
        .collect();
    let lower = lower.join(":");
    let mut options = vec![("lowerdir", Some(lower.as_str()))];
    if !trusted_xattrs {
        options.push(("userxattr", None));
    }
    mount::new_filesystem("overlay", &options, MountAttrFlags::empty())
        .map_err(|error| failed(error.errno))?;
    Ok(trusted_xattrs)
}

/// Whether overlay can write to a folder of this machine. What is made there for it goes again.
fn try_upper(folder: &Path, tmpfs: &OwnedFd, trusted_xattrs: bool) -> Result<(), Errno> {
    // Seen from the folder itself: what lies over `/` by now hides nothing below it.
    let name = format!(".rbuild-probe-{}", std::process::id());
    let place = folder.join(&name);
    let kernel = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    std::fs::create_dir(&place).map_err(kernel)?;
    let result = (|| {
        let here = mount::open_host(&place)?;
        let upper = mount::make_directory(here.as_fd(), "upper")?;
        let work = mount::make_directory(here.as_fd(), "work")?;
        let lower = mount::make_directory(tmpfs.as_fd(), "lower")?;
        mount::make_directory(lower.as_fd(), "folder")?;
        let lower = mount::descriptor_path(lower.as_fd());
        let overlay = Overlay {
            lower: vec![Path::new(&lower)],
            writable: Some((upper.as_fd(), work.as_fd())),
            xattr_namespace: match trusted_xattrs {
                true => XattrNamespace::Trusted,
                false => XattrNamespace::User,
            },
        };
        let workshop = mount::make_directory(tmpfs.as_fd(), "workshop")?;
        let mounted = overlay
            .mount(workshop.as_fd())
            .map_err(|error| error.error.errno)?;
        // A file system may take the mount and not the marks: of what is gone, and of a folder that
        // shows nothing from below (which tmpfs can't have in a user namespace before Linux 6.6).
        rustix::fs::unlinkat(&mounted, "folder", AtFlags::REMOVEDIR)?;
        rustix::fs::mkdirat(&mounted, "folder", Mode::from(0o755))
    })();
    // Best effort: what can't be removed is empty folders.
    let _ = crate::fs::remove::remove_folder(&place);
    result
}
