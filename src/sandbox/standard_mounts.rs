//! What Docker puts into every container: `/proc`, a private `/dev`, a read-only `/sys`, and the
//! paths of the kernel that it hides or makes read-only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::fs::Root;

use super::cgroup::CGROUP2_MAGIC;
use super::in_root;
use super::mount::{self, MountError};
use super::root_filesystem::RootFilesystem;
use super::spec::{Security, SetupFailure, Stage};

/// Paths that show or change too much of the machine, hidden.
const MASKED: [&[u8]; 12] = [
    b"proc/acpi",
    b"proc/asound",
    b"proc/interrupts",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/sched_debug",
    b"proc/scsi",
    b"proc/timer_list",
    b"proc/timer_stats",
    b"sys/devices/virtual/powercap",
    b"sys/firmware",
];

/// Paths through which the kernel is configured, made read-only.
const READ_ONLY: [&[u8]; 5] = [
    b"proc/bus",
    b"proc/fs",
    b"proc/irq",
    b"proc/sys",
    b"proc/sysrq-trigger",
];

/// Character devices in `/dev`: name, major and minor number.
pub(super) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What steps with all privileges have beyond that, as far as the machine has it.
const MORE_DEVICES: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("loop-control", 10, 237),
    ("net/tun", 10, 200),
];

/// Loop devices beyond those that there are: the kernel makes new ones on demand, a step's `/dev`
/// doesn't.
const SPARE_LOOP_DEVICES: u32 = 8;
const LOOP: u32 = 7;

/// Links in `/dev`.
pub(super) const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// Size of `/dev/shm` where none is said, in bytes.
const SHM_SIZE: u64 = 64 << 20;

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Mounts `/proc`, `/dev` and `/sys`. Must run in the sandbox's process id namespace.
pub(super) fn add(
    filesystem: &RootFilesystem,
    security: Security,
    shm_size: Option<u64>,
) -> Result<(), SetupFailure> {
    let root = &filesystem.root;
    add_proc(root)?;
    add_dev(root, security, shm_size.unwrap_or(SHM_SIZE))?;
    add_sys(root, security)
}

/// Hides and protects what Docker does. Comes after every other mount, so that none of them
/// uncovers anything.
pub(super) fn mask(filesystem: &mut RootFilesystem) -> Result<(), SetupFailure> {
    let empty = filesystem
        .empty_directory()
        .map_err(|errno| SetupFailure::new(Stage::Mask, "can't make an empty directory", errno))?;
    // Not `/dev/null`: a mount of the step's may have put a link there by now.
    let empty_file = filesystem
        .empty_file()
        .map_err(|errno| SetupFailure::new(Stage::Mask, "can't make an empty file", errno))?;
    let root = &filesystem.root;
    for path in READ_ONLY {
        let failed = |errno| SetupFailure::at(Stage::Mask, "can't make read-only", path, errno);
        if let Some(target) = open_if_there(root, path).map_err(failed)? {
            mount::clone_tree(target.as_fd(), true)
                .and_then(|copy| mount::attach_with(copy.as_fd(), target.as_fd(), RDONLY, true))
                .map_err(failed)?;
        }
    }
    for path in MASKED {
        let failed = |errno| SetupFailure::at(Stage::Mask, "can't hide", path, errno);
        if let Some(target) = open_if_there(root, path).map_err(failed)? {
            let directory = in_root::is_directory(&target).map_err(failed)?;
            let cover = if directory { &empty } else { &empty_file };
            mount::clone_tree(cover.as_fd(), false)
                .and_then(|cover| mount::attach_with(cover.as_fd(), target.as_fd(), RDONLY, false))
                .map_err(failed)?;
        }
    }
    Ok(())
}

fn open_if_there(root: &Root, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    match in_root::open(root, path) {
        // A directory of the host's that this user may not enter hides itself.
        Err(Errno::NOENT | Errno::ACCESS) => Ok(None),
        other => other.map(Some),
    }
}

/// One of the directories that must be there, and must not be links.
fn mount_point(root: &Root, stage: Stage, name: &str) -> Result<OwnedFd, SetupFailure> {
    in_root::open_real_directory(root, name)
        .map_err(|errno| SetupFailure::at(stage, "there is no directory to mount on:", name, errno))
}

fn failure(stage: Stage, message: &str) -> impl Fn(MountError) -> SetupFailure {
    move |error| SetupFailure::new(stage, message, error.errno)
}

/// A copy of what the host has at a path, with everything below.
fn host_tree(path: &str) -> Result<OwnedFd, Errno> {
    mount::clone_tree(mount::open_host(Path::new(path))?.as_fd(), true)
}

fn add_proc(root: &Root) -> Result<(), SetupFailure> {
    let failed = |errno| SetupFailure::new(Stage::Proc, "can't mount `/proc`", errno);
    let target = mount_point(root, Stage::Proc, "proc")?;
    let attributes = NOSUID | NODEV | NOEXEC;
    match mount::new_filesystem("proc", &[], attributes) {
        Ok(mount) => mount::attach(mount.as_fd(), target.as_fd()),
        // In a container whose engine masks parts of /proc, a user namespace gets no new one.
        Err(MountError {
            errno: Errno::PERM, ..
        }) => host_tree("/proc")
            .and_then(|mount| mount::attach_with(mount.as_fd(), target.as_fd(), attributes, true)),
        Err(error) => Err(error.errno),
    }
    .map_err(failed)
}

fn add_dev(root: &Root, security: Security, shm_size: u64) -> Result<(), SetupFailure> {
    let failed = |message: &'static str| failure(Stage::Dev, message);
    let target = mount_point(root, Stage::Dev, "dev")?;
    let dev = mount::new_filesystem(
        "tmpfs",
        &[("mode", Some("755")), ("size", Some("65536k"))],
        NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    )
    .map_err(failed("can't make a tmpfs for `/dev`"))?;
    mount::attach(dev.as_fd(), target.as_fd())
        .map_err(|errno| failed("can't attach `/dev`")(errno.into()))?;
    let dev = dev.as_fd();
    for (name, major, minor) in DEVICES {
        add_device(dev, name, FileType::CharacterDevice, (major, minor))
            .map_err(|errno| SetupFailure::at(Stage::Dev, "can't make the device", name, errno))?;
    }
    if security == Security::Insecure {
        add_more_devices(dev)?;
    }
    // Those made so far are mounts of their own, and go on working.
    mount::restrict(dev, security.attributes())
        .map_err(|errno| failed("can't restrict `/dev`")(errno.into()))?;
    for (name, to) in LINKS {
        rustix::fs::symlinkat(to, dev, name)
            .map_err(|errno| SetupFailure::at(Stage::Dev, "can't make the link", name, errno))?;
    }

    let pts = [("ptmxmode", Some("0666")), ("mode", Some("0620"))];
    let with_group = [pts[0], pts[1], ("gid", Some("5"))];
    let pts = mount::new_filesystem("devpts", &with_group, NOSUID | NOEXEC)
        // Group 5 (tty) may not be mapped.
        .or_else(|_| mount::new_filesystem("devpts", &pts, NOSUID | NOEXEC))
        .map_err(failed("can't mount `/dev/pts`"))?;
    let size = shm_size.to_string();
    let shm = [("mode", Some("1777")), ("size", Some(size.as_str()))];
    let shm = mount::new_filesystem("tmpfs", &shm, NOSUID | NODEV | NOEXEC)
        .map_err(failed("can't mount `/dev/shm`"))?;
    let mqueue = match mount::new_filesystem("mqueue", &[], NOSUID | NODEV | NOEXEC) {
        // Kernels can be built without message queues.
        Err(MountError {
            errno: Errno::NODEV,
            ..
        }) => None,
        other => Some(other.map_err(failed("can't mount `/dev/mqueue`"))?),
    };
    for (name, mount) in [("pts", Some(pts)), ("shm", Some(shm)), ("mqueue", mqueue)] {
        let Some(mount) = mount else { continue };
        mount::make_directory(dev, name)
            .and_then(|target| mount::attach(mount.as_fd(), target.as_fd()))
            .map_err(|errno| SetupFailure::at(Stage::Dev, "can't mount in `/dev`:", name, errno))?;
    }
    Ok(())
}

/// The devices of a step with all privileges. In a user namespace they serve as far as the machine
/// lets this user open them.
fn add_more_devices(dev: BorrowedFd<'_>) -> Result<(), SetupFailure> {
    let is_there = |name: &str| Path::new("/dev").join(name).exists();
    let add = |name: &str, kind, number| {
        add_device(dev, name, kind, number)
            .map_err(|errno| SetupFailure::at(Stage::Dev, "can't make the device", name, errno))
    };
    mount::make_directory(dev, "net")
        .map_err(|errno| SetupFailure::at(Stage::Dev, "can't make the directory", "net", errno))?;
    for (name, major, minor) in MORE_DEVICES {
        if is_there(name) {
            add(name, FileType::CharacterDevice, (major, minor))?;
        }
    }
    let is_bare = |minor: &u32| !is_there(&format!("loop{minor}"));
    let there = (0..).find(is_bare).unwrap_or(0);
    for minor in 0..there + SPARE_LOOP_DEVICES {
        let name = format!("loop{minor}");
        match add_device(dev, &name, FileType::BlockDevice, (LOOP, minor)) {
            // In a user namespace, and the machine hasn't this one.
            Err(Errno::NOENT) => break,
            made => made.map_err(|errno| {
                SetupFailure::at(Stage::Dev, "can't make the device", &name, errno)
            })?,
        }
    }
    Ok(())
}

/// Makes a device, as a mount of its own on the node or file of that name.
fn add_device(
    dev: BorrowedFd<'_>,
    name: &str,
    kind: FileType,
    (major, minor): (u32, u32),
) -> Result<(), Errno> {
    let mode = Mode::from(0o666);
    let number = makedev(major, minor);
    let (device, target) = match rustix::fs::mknodat(dev, name, kind, mode, number) {
        // User namespaces may not make devices: use the host's.
        Err(Errno::PERM) => {
            let host = mount::open_host(&Path::new("/dev").join(name))?;
            (host, mount::make_file(dev, name)?)
        }
        made => {
            made?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(dev, name, flags, Mode::empty());
            (open()?, open()?)
        }
    };
    let mount = mount::clone_tree(device.as_fd(), false)?;
    mount::attach(mount.as_fd(), target.as_fd())
}

fn add_sys(root: &Root, security: Security) -> Result<(), SetupFailure> {
    let failed = |errno| SetupFailure::new(Stage::Sys, "can't mount `/sys`", errno);
    let target = mount_point(root, Stage::Sys, "sys")?;
    let mut attributes = NOSUID | NODEV | NOEXEC;
    if security == Security::Sandbox {
        attributes |= RDONLY;
    }
    match mount::new_filesystem("sysfs", &[], attributes) {
        Ok(sys) => {
            mount::attach(sys.as_fd(), target.as_fd()).map_err(failed)?;
            add_cgroup(&Root::new(sys), attributes)
        }
        // sysfs shows a network namespace; one that another user namespace owns can't be mounted.
        Err(MountError {
            errno: Errno::PERM, ..
        }) => host_tree("/sys").and_then(|sys| {
            mount::attach_with(sys.as_fd(), target.as_fd(), attributes, true)?;
            let sys = Root::new(sys);
            match open_if_there(&sys, b"fs/cgroup")? {
                Some(target) => own_cgroup(&target, attributes).map(drop),
                None => Ok(()),
            }
        }),
        Err(error) => Err(error.errno),
    }
    .map_err(failed)
}

fn add_cgroup(sys: &Root, attributes: MountAttrFlags) -> Result<(), Errno> {
    if matches!(mount::filesystem_type(CGROUP), Err(Errno::NOENT)) {
        return Ok(());
    }
    let Some(target) = open_if_there(sys, b"fs/cgroup")? else {
        return Ok(());
    };
    match own_cgroup(&target, attributes)? {
        true => Ok(()),
        false => mount::attach_with(host_tree(CGROUP)?.as_fd(), target.as_fd(), attributes, true),
    }
}

const CGROUP: &str = "/sys/fs/cgroup";

/// Mounts the tree of control groups as the sandbox's cgroup namespace shows it, with its own group
/// as the root: where programs look for their limits. Whether that could be done.
fn own_cgroup(target: &OwnedFd, attributes: MountAttrFlags) -> Result<bool, Errno> {
    match mount::filesystem_type(CGROUP) {
        Ok(CGROUP2_MAGIC) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    match mount::new_filesystem("cgroup2", &[], attributes) {
        Ok(mount) => mount::attach(mount.as_fd(), target.as_fd()).map(|()| true),
        Err(_) => Ok(false),
    }
}
