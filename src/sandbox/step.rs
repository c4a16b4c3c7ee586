//! The last moments before a step's program runs: its process takes on user, groups,
//! capabilities and the system call filter, and finds the program.
//!
//! It begins with everything that init may do and keeps nothing that Docker's default doesn't
//! give.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::channel::Channel;
use super::id_map::IdMaps;
use super::launcher::StepFiles;
use super::seccomp::Instruction;
use super::spec::{Outcome, SandboxSpec, Security, SetupFailure, Stage};
use super::supervisor::OwnersPlan;
use super::syscall::notification;
use super::{emulation, init, limits, seccomp, syscall};

/// What Docker leaves to a container.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What stands between a step and the kernel.
pub(super) enum Guard<'a> {
    /// A system call filter.
    Filter(&'a [Instruction]),
    /// A system call filter for a step that shares its processes with others, installed without a
    /// capability for it; it leaves calls to who waits at the other end.
    Confined {
        /// Leads there.
        line: &'a Channel,
        /// Whether files of the step's stand in for others.
        stand_ins: bool,
    },
    /// A filter that leaves calls to a supervisor, which waits for them at the other end.
    Supervised(&'a OwnersPlan, &'a Channel),
    /// The same, and the filter for a step without a supervisor, where there can't be one.
    Watched {
        asking: &'a [Instruction],
        alone: &'a [Instruction],
        line: &'a Channel,
    },
}

impl Guard<'_> {
    fn install(&self) -> Result<(), Errno> {
        match self {
            Self::Filter(filter) => syscall::install_filter(filter),
            Self::Confined { line, stand_ins } => {
                let filter = seccomp::showing_filter(*stand_ins);
                let install = || notification::install_listening_filter(&filter);
                let listener = match install() {
                    Err(Errno::ACCESS) => {
                        rustix::thread::set_no_new_privs(true)?;
                        install()
                    }
                    other => other,
                };
                match listener {
                    Ok(listener) => line.send(&(), &[OwnedFd::from(listener).as_fd()]),
                    // The container has a supervisor already, or the kernel none.
                    Err(Errno::BUSY | Errno::INVAL) if !stand_ins => {
                        syscall::install_confining_filter(&seccomp::confined_filter())
                    }
                    Err(errno) => Err(errno),
                }
            }
            Self::Watched {
                asking,
                alone,
                line,
            } => match notification::install_listening_filter(asking) {
                Ok(listener) => line.send(&(), &[OwnedFd::from(listener).as_fd()]),
                // What is around this sandbox has a supervisor already, or the kernel none.
                Err(Errno::BUSY | Errno::INVAL | Errno::NOSYS) => syscall::install_filter(alone),
                Err(errno) => Err(errno),
            },
            Self::Supervised(plan, line) => {
                if plan.forbids_rights() {
                    rustix::thread::set_no_new_privs(true)?;
                }
                let listener = notification::install_listening_filter(&plan.filter())?;
                line.send(&(), &[OwnedFd::from(listener).as_fd()])
            }
        }
    }

    /// The user and group that the step is to be where this user namespace doesn't know them.
    fn foreign_user(&self) -> Option<(u32, u32)> {
        match self {
            Self::Filter(_) | Self::Confined { .. } | Self::Watched { .. } => None,
            Self::Supervised(plan, _) => plan.foreign_user(),
        }
    }

    /// What couldn't be done where it can't be installed.
    fn failure(&self) -> &'static str {
        match self {
            Self::Confined {
                stand_ins: true, ..
            } => {
                "can't show the step its secrets: that takes a system call filter which another process \
                 answers"
            }
            _ => "can't install the system call filter",
        }
    }
}

/// Becomes the step's program, or reports why that can't be.
pub(super) fn run(
    spec: &SandboxSpec,
    files: &StepFiles,
    user_namespace: Option<BorrowedFd<'_>>,
    report: &OwnedFd,
    guard: &Guard<'_>,
) -> ! {
    let Err(outcome) = become_step(spec, files, user_namespace, guard);
    init::report(report, &outcome);
    syscall::exit(127)
}

fn become_step(
    spec: &SandboxSpec,
    files: &StepFiles,
    user_namespace: Option<BorrowedFd<'_>>,
    guard: &Guard<'_>,
) -> Result<Infallible, Outcome> {
    set_up(spec, files, user_namespace, guard).map_err(Outcome::SetupFailed)?;
    Err(start(spec))
}

fn set_up(
    spec: &SandboxSpec,
    files: &StepFiles,
    user_namespace: Option<BorrowedFd<'_>>,
    guard: &Guard<'_>,
) -> Result<(), SetupFailure> {
    let failed =
        |stage: Stage, message: &'static str| move |errno| SetupFailure::new(stage, message, errno);
    if let Some(namespace) = user_namespace {
        // First: it gives every capability inside, and takes those outside.
        emulation::join(namespace).map_err(failed(
            Stage::Platform,
            "can't enter the user namespace in which its processor is emulated",
        ))?;
    }
    // A session of its own, without a controlling terminal.
    rustix::process::setsid().map_err(failed(Stage::Process, "can't start a session"))?;
    syscall::reset_signals();
    set_streams(files).map_err(failed(Stage::Process, "can't set the standard streams"))?;
    if spec.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(failed(
            Stage::Terminal,
            "can't take the terminal as controlling one",
        ))?;
    }
    close_others_on_exec().map_err(failed(Stage::Process, "can't close descriptors"))?;
    give_pipes(spec.uid);
    rustix::process::umask(Mode::from(0o022));

    if spec.security == Security::Sandbox {
        limit_bounding_set().map_err(failed(
            Stage::Capabilities,
            "can't limit the capability bounding set",
        ))?;
    }
    if let Some((uid, gid)) = guard.foreign_user() {
        become_foreign(uid, gid).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let message = format!("can't become user {uid} in a user namespace of its own");
            SetupFailure::new(Stage::User, message, errno)
        })?;
    } else {
        set_groups(spec)?;
    }
    if spec.security == Security::Sandbox {
        // Before the user changes: without `no_new_privs` it takes CAP_SYS_ADMIN.
        guard
            .install()
            .map_err(failed(Stage::Seccomp, guard.failure()))?;
    }
    limits::apply(&spec.resources.ulimits)?;
    if guard.foreign_user().is_some() {
        return drop_capabilities().map_err(failed(Stage::Capabilities, "can't set capabilities"));
    }
    let insecure = failed(Stage::Capabilities, "can't keep capabilities");
    if spec.security == Security::Insecure {
        rustix::thread::set_keep_capabilities(true).map_err(insecure)?;
    }
    let uid = Uid::from_raw(spec.uid);
    // Capabilities go with user 0; the kernel clears them for any other.
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|errno| {
        let hint = if errno == Errno::INVAL {
            ": it is not mapped in this user namespace"
        } else {
            ""
        };
        let message = format!("can't become user {}{hint}", spec.uid);
        SetupFailure::new(Stage::User, message, errno)
    })?;
    limit_capabilities(spec).map_err(failed(Stage::Capabilities, "can't set capabilities"))?;
    if spec.security == Security::Insecure && spec.uid != 0 {
        pass_capabilities_on().map_err(insecure)?;
    }
    Ok(())
}

/// Has a program of a user other than root begin with every capability there is, as in BuildKit.
fn pass_capabilities_on() -> Result<(), Errno> {
    let present = rustix::thread::capabilities(None)?.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: present,
            permitted: present,
            inheritable: present,
        },
    )?;
    for capability in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << capability);
        if present.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

fn set_streams(files: &StepFiles) -> Result<(), Errno> {
    if let Some(stdin) = &files.stdin {
        rustix::stdio::dup2_stdin(stdin)?;
    }
    rustix::stdio::dup2_stdout(&files.stdout)?;
    rustix::stdio::dup2_stderr(&files.stderr)
}

/// Pipes of this sandbox belong to its user, who may open `/dev/stdout` by that name.
fn give_pipes(uid: u32) {
    let uid = Some(Uid::from_raw(uid));
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let is_pipe = rustix::fs::fstat(stream)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if is_pipe {
            // An id that is not mapped is refused later, with a reason.
            let _ = rustix::fs::fchown(stream, uid, None);
        }
    }
}

fn close_others_on_exec() -> Result<(), Errno> {
    match syscall::close_on_exec_from(3) {
        // Before Linux 5.11, or hidden by a filter.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            for descriptor in init::open_descriptors()? {
                if descriptor > 2 {
                    syscall::set_close_on_exec(descriptor);
                }
            }
            Ok(())
        }
        other => other,
    }
}

fn limit_bounding_set() -> Result<(), Errno> {
    for capability in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << capability);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(capability) {
            // Gone already, which whoever has no right to remove any can be glad of.
            Ok(false) => continue,
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            _ => {}
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// Becomes a user whom this user namespace doesn't know: the one id that there is has the user's
/// number in another user namespace. Files of the image are all the user's own there.
fn become_foreign(uid: u32, gid: u32) -> std::io::Result<()> {
    syscall::unshare(UnshareFlags::NEWUSER)?;
    // What init hides from others it hides from its copy, too: the maps are written by name.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    IdMaps {
        users: vec![(uid, 0, 1)],
        groups: vec![(gid, 0, 1)],
    }
    .write_own()
}

/// Gives up every capability, as the kernel does for who stops being user 0.
fn drop_capabilities() -> Result<(), Errno> {
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn set_groups(spec: &SandboxSpec) -> Result<(), SetupFailure> {
    let maps = IdMaps::current().ok();
    let is_known = |gid: u32| {
        !spec.notes_every_owner() || maps.as_ref().is_none_or(|maps| maps.has_group(gid))
    };
    // A group that no id stands for is noted on what the step makes.
    let groups: Vec<Gid> = spec
        .groups
        .iter()
        .filter(|gid| is_known(**gid))
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    match rustix::thread::set_thread_groups(&groups) {
        // Where one id only is mapped, the kernel lets nobody change groups.
        Err(Errno::PERM) if groups_are_fixed() => {}
        other => other.map_err(|errno| {
            let message = format!("can't take on the groups {:?}", spec.groups);
            SetupFailure::new(Stage::User, message, errno)
        })?,
    }
    let gid = match is_known(spec.gid) {
        true => Gid::from_raw(spec.gid),
        // Never root's, where the kernel tells groups apart.
        false => Gid::from_raw(maps.as_ref().map_or(0, IdMaps::highest_group)),
    };
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|errno| {
        let hint = if errno == Errno::INVAL {
            ": it is not mapped in this user namespace"
        } else {
            ""
        };
        let message = format!("can't take on group {}{hint}", spec.gid);
        SetupFailure::new(Stage::User, message, errno)
    })
}

fn groups_are_fixed() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|content| content.starts_with(b"deny"))
}

fn limit_capabilities(spec: &SandboxSpec) -> Result<(), Errno> {
    let present = rustix::thread::capabilities(None)?;
    let limit = match spec.security {
        Security::Sandbox => CAPABILITIES,
        Security::Insecure => present.permitted,
    };
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: present.effective & limit,
            permitted: present.permitted & limit,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Finds the program and becomes it. Returns the reason if that fails.
fn start(spec: &SandboxSpec) -> Outcome {
    let Some(name) = spec.args.first() else {
        return Outcome::SetupFailed(SetupFailure::request("no program to run"));
    };
    let strings = |strings: &[String]| -> Result<Vec<CString>, Outcome> {
        strings
            .iter()
            .map(|string| CString::new(string.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| {
                Outcome::SetupFailed(SetupFailure::request(
                    "an argument or environment variable holds a NUL byte",
                ))
            })
    };
    let (args, env) = match (strings(&spec.args), strings(&spec.env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(outcome), _) | (_, Err(outcome)) => return outcome,
    };
    let path = match find(name, &spec.env) {
        Ok(path) => path,
        Err(outcome) => return outcome,
    };
    let Err(errno) = syscall::exec(&path, &args, &env);
    let code = if errno == Errno::NOENT { 127 } else { 126 };
    Outcome::NotExecutable {
        code,
        message: format!("exec {}: {}", path.to_string_lossy(), describe(errno)),
    }
}

/// The program's path: as written if it has a slash, else the first executable in `PATH`.
fn find(name: &str, env: &[String]) -> Result<CString, Outcome> {
    let not_executable = |code, reason: &str| Outcome::NotExecutable {
        code,
        message: format!("exec: \"{name}\": {reason}"),
    };
    if name.contains('/') {
        return match executable(name) {
            Ok(path) => Ok(path),
            Err(Errno::NOENT) => Err(not_executable(
                127,
                &format!("stat {name}: no such file or directory"),
            )),
            Err(errno) => Err(not_executable(126, &describe(errno))),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or("");
    let mut refused = None;
    for directory in path.split(':') {
        // An empty entry is the working directory.
        let directory = if directory.is_empty() { "." } else { directory };
        match executable(&format!("{directory}/{name}")) {
            Ok(path) if !name.is_empty() => return Ok(path),
            Err(Errno::ACCESS) => refused = Some(Errno::ACCESS),
            _ => {}
        }
    }
    Err(match refused {
        Some(errno) => not_executable(126, &describe(errno)),
        None => not_executable(127, "executable file not found in $PATH"),
    })
}

/// Whether a path is a file that this process may execute.
fn executable(path: &str) -> Result<CString, Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let metadata = rustix::fs::stat(&*path)?;
    if FileType::from_raw_mode(metadata.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    // It asks for the real user, who is the effective one too by now.
    rustix::fs::access(&*path, Access::EXEC_OK)?;
    Ok(path)
}

fn describe(errno: Errno) -> String {
    match errno {
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        Errno::TOOBIG => "argument list too long".to_owned(),
        other => other.to_string(),
    }
}
