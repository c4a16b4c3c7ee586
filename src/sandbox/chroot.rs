//! Sandboxes where nothing can be unshared and nothing mounted, as in a stock container: the step's
//! root directory is its folder, and that is all that keeps it apart.
//!
//! A step shares processes, network and users with the container; whoever is user 0 in it can do
//! there what the container allows. Init stays outside of the folder and becomes the parent of every
//! process that a step leaves behind, so that it finds and ends all of them. It is never killed while
//! it has any: closing the line for signals ends it.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::CapabilitySet;

use super::channel::retry;
use super::init::{self, Init};
use super::launcher::StepFiles;
use super::spec::{Network, Outcome, SandboxSpec, Security, SetupFailure, Stage};
use super::standard_mounts::{DEVICES, LINKS};
use super::syscall::{self, Fork};
use super::{mount, root_filesystem, seccomp};

/// What a sandbox of this kind takes.
pub(super) const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
    (CapabilitySet::CHOWN, "CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "FOWNER"),
    (CapabilitySet::SETUID, "SETUID"),
    (CapabilitySet::SETGID, "SETGID"),
];

/// Tries it in a process of its own. Gives what was tried and refused.
pub(super) fn probe() -> Result<(), (&'static str, Errno)> {
    const TRIALS: [&str; 3] = [
        "start a process to try it in",
        "change the root directory with `chroot`",
        "install a system call filter with `seccomp`",
    ];
    let failed = |trial: usize| move |errno| (TRIALS[trial], errno);
    match syscall::fork().map_err(failed(0))? {
        Fork::Child => {
            let code = match rustix::process::chroot("/") {
                Err(errno) => errno.raw_os_error(),
                Ok(()) => match syscall::install_confining_filter(&seccomp::confined_filter()) {
                    // No error number is that large.
                    Err(errno) => 128 | errno.raw_os_error(),
                    Ok(()) => 0,
                },
            };
            syscall::exit(code)
        }
        Fork::Parent(pid) => {
            let status = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))
                .map_err(failed(0))?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(code) => {
                    let trial = if code & 128 == 0 { 1 } else { 2 };
                    Err(failed(trial)(Errno::from_raw_os_error(code & 127)))
                }
                None => Err(failed(0)(Errno::CHILD)),
            }
        }
    }
}

/// Lives the life of init.
pub(super) fn run(init: Init<'_>) -> ! {
    let Init {
        spec,
        mut files,
        report,
        signals,
        lifeline,
        ..
    } = init;
    let mut kept: Vec<RawFd> = vec![
        report.as_raw_fd(),
        signals.as_raw_fd(),
        lifeline.as_raw_fd(),
    ];
    kept.extend(files.descriptors().map(AsRawFd::as_raw_fd));
    let outcome = init::keep_only(&mut kept)
        .map_err(|errno| SetupFailure::new(Stage::Process, "can't close descriptors", errno))
        .and_then(|()| prepare(spec, &mut files))
        .and_then(|root| {
            let step = init::start_confined_step(spec, &files, &report, &root)?;
            drop(files);
            init::watch(step, &signals, lifeline)
        });
    end_descendants();
    init::report(&report, &outcome.unwrap_or_else(Outcome::SetupFailed));
    syscall::exit(0)
}

fn prepare(spec: &SandboxSpec, files: &mut StepFiles) -> Result<OwnedFd, SetupFailure> {
    let failed =
        |stage: Stage, message: &'static str| move |errno| SetupFailure::new(stage, message, errno);
    rustix::process::umask(Mode::empty());
    rustix::process::set_child_subreaper(Pid::from_raw(1))
        .map_err(failed(Stage::Process, "can't become the parent of orphans"))?;
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    for (is_wanted, what) in [
        (
            spec.network != Network::Host,
            "a network of its own (`none`)",
        ),
        (spec.read_only, "a read-only root file system"),
        (!spec.mounts.is_empty(), "mounts"),
        (spec.terminal.is_some(), "a terminal"),
        (
            !spec.stand_ins.is_empty() && spec.security == Security::Insecure,
            "secrets together with every privilege (`--security=insecure`)",
        ),
    ] {
        if is_wanted {
            return Err(SetupFailure::request(format!(
                "with the isolation `chroot` a step can't have {what}"
            )));
        }
    }
    if let Some(index) = spec.resources.cgroup {
        init::join_cgroup(index, files)?;
    }
    if files.stdin.is_none() {
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())
            .map_err(failed(Stage::Process, "can't open /dev/null"))?;
        files.stdin = Some(null);
    }
    let folder = spec
        .folder
        .as_ref()
        .ok_or_else(|| SetupFailure::request("with the isolation `chroot` there is no overlay"))?;
    mount::open_host(folder.as_path()).map_err(failed(Stage::Root, "can't open the step's folder"))
}

/// Makes a folder this process's root directory, and goes to the step's working directory in it.
pub(super) fn enter(root: &OwnedFd, spec: &SandboxSpec) -> Result<(), SetupFailure> {
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::chroot("."))
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|errno| {
            SetupFailure::new(Stage::Pivot, "can't change the root directory", errno)
        })?;
    root_filesystem::change_directory(&spec.cwd)
}

/// Ends every process that descends from this one, and takes leave of all.
fn end_descendants() {
    loop {
        match retry(|| rustix::process::wait(WaitOptions::NOHANG)) {
            // No child is left, and so nothing below one: orphans become children of this process.
            Err(_) => return,
            Ok(Some(_)) => continue,
            Ok(None) => {}
        }
        let mut stopped: HashSet<Pid> = HashSet::new();
        // Stopped ones start no others. What starts faster than it is found is found next time.
        for _ in 0..16 {
            let new: Vec<Pid> = descendants()
                .into_iter()
                .filter(|pid| !stopped.contains(pid))
                .collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                let _ = rustix::process::kill_process(pid, Signal::STOP);
                stopped.insert(pid);
            }
        }
        for pid in &stopped {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processes that descend from this one, as `/proc` has them.
fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Some(parent) = parent(pid) else { continue };
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut pending = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = pending.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(below.iter().filter_map(|pid| Pid::from_raw(*pid)));
        pending.extend(below);
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = String::from_utf8_lossy(stat.get(end + 1..)?).into_owned();
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Fills an empty folder with what a step has in `/dev`. Devices that this process may not make, or
/// that can't be opened there, are left out.
///
/// # Errors
/// When a folder or link can't be made.
pub fn fill_dev(folder: &Path) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dev = rustix::fs::open(folder, flags, Mode::empty())?;
    for (name, major, minor) in DEVICES {
        add_device(dev.as_fd(), name, major, minor)?;
    }
    for (name, to) in LINKS {
        // Nothing is mounted behind these two.
        if !["ptmx", "core"].contains(&name) {
            rustix::fs::symlinkat(to, &dev, name)?;
        }
    }
    for (name, mode) in [("shm", 0o1777), ("pts", 0o755)] {
        rustix::fs::mkdirat(&dev, name, Mode::RWXU)?;
        rustix::fs::chmodat(
            &dev,
            name,
            Mode::from_raw_mode(mode),
            rustix::fs::AtFlags::empty(),
        )?;
    }
    Ok(())
}

fn add_device(dev: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> std::io::Result<()> {
    let flags = rustix::fs::AtFlags::empty();
    let mode = Mode::from_raw_mode(0o666);
    let number = makedev(major, minor);
    match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, number) {
        Err(Errno::PERM) => return Ok(()),
        other => other?,
    }
    rustix::fs::chmodat(dev, name, mode, flags)?;
    let open = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dev, name, open, Mode::empty()) {
        // The container or the mount lets nobody use it.
        Err(Errno::ACCESS | Errno::PERM) => Ok(rustix::fs::unlinkat(dev, name, flags)?),
        // There may be no terminal.
        _ => Ok(()),
    }
}
