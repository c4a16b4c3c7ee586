//! The first process of a sandbox, process 1 of its process id namespace: makes the root file
//! system, starts the step, reaps orphans, and reports how the step ended.
//!
//! When it ends, for whatever reason, the kernel kills every process of the sandbox and drops
//! its mounts. It ends with the step's process, at the end of file of the lifeline (held by
//! rbuild's main process), or with the launcher. Signals from inside can't reach it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::channel::{Channel, retry};
use super::launcher::StepFiles;
use super::root_filesystem::{self, RootFilesystem};
use super::seccomp::Instruction;
use super::spec::{Network, Outcome, SandboxSpec, Security, SetupFailure, Stage};
use super::step::Guard;
use super::supervisor::{self, Plan, StandIns, beyond, kernel_files};
use super::{cgroup, chroot, standard_mounts, step, syscall, terminal};

/// What init gets from the launcher.
pub(super) struct Init<'a> {
    /// What is wanted.
    pub(super) spec: &'a SandboxSpec,
    /// Standard streams and passed descriptors.
    pub(super) files: StepFiles,
    /// The user namespace that the step's process needs, where it is another one.
    pub(super) user_namespace: Option<BorrowedFd<'a>>,
    /// Where the outcome goes.
    pub(super) report: OwnedFd,
    /// Signals for the step's process, a byte each.
    pub(super) signals: OwnedFd,
    /// Readable when rbuild is gone.
    pub(super) lifeline: &'a OwnedFd,
    /// The step's system call filter.
    pub(super) filter: &'a [Instruction],
    /// The same with calls left to a supervisor, for a step that is asked little.
    pub(super) asking_filter: &'a [Instruction],
}

/// Sends an outcome to the launcher. Short enough to be written at once.
pub(super) fn report(to: &OwnedFd, outcome: &Outcome) {
    if let Ok(bytes) = postcard::to_stdvec(outcome) {
        // Nobody is left to be told if this fails.
        let _ = retry(|| rustix::io::write(to, &bytes));
    }
}

/// Lives the life of init.
pub(super) fn run(init: Init<'_>) -> ! {
    // The launcher's death is noticed here or, if it came before, by the lifeline.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let Init {
        spec,
        mut files,
        user_namespace,
        report: to,
        signals,
        lifeline,
        filter,
        asking_filter,
    } = init;
    let mut kept: Vec<RawFd> = vec![to.as_raw_fd(), signals.as_raw_fd(), lifeline.as_raw_fd()];
    kept.extend(user_namespace.map(|namespace| namespace.as_raw_fd()));
    kept.extend(files.descriptors().map(AsRawFd::as_raw_fd));
    let outcome = keep_only(&mut kept)
        .map_err(|errno| SetupFailure::new(Stage::Process, "can't close descriptors", errno))
        .and_then(|()| {
            // While the host's paths lead somewhere.
            let changes = supervisor::changes::open(spec)?;
            prepare(spec, &mut files)?;
            let plan = Plan::of(spec, &files.passed, changes)?;
            let filters = (filter, asking_filter);
            let step = start_step(spec, &files, user_namespace, &to, filters, plan)?;
            // The readers of the step's output see its end when the step's processes are gone.
            drop(files);
            watch(step, &signals, lifeline)
        });
    report(&to, &outcome.unwrap_or_else(Outcome::SetupFailed));
    syscall::exit(0)
}

/// Closes every descriptor but the standard ones (the launcher's `/dev/null`) and `kept`.
pub(super) fn keep_only(kept: &mut [RawFd]) -> Result<(), Errno> {
    kept.sort_unstable();
    let mut first = 3;
    for &descriptor in kept.iter() {
        let Ok(descriptor) = u32::try_from(descriptor) else {
            continue;
        };
        if descriptor < first {
            continue;
        }
        if descriptor > first {
            close_between(first, descriptor - 1, kept)?;
        }
        first = descriptor + 1;
    }
    close_between(first, u32::MAX, kept)
}

fn close_between(first: u32, last: u32, kept: &[RawFd]) -> Result<(), Errno> {
    match syscall::close_range(first, last) {
        // Before Linux 5.9, or hidden by a filter.
        Err(Errno::NOSYS | Errno::PERM) => {
            for descriptor in open_descriptors()? {
                let inside = u32::try_from(descriptor)
                    .is_ok_and(|descriptor| (first..=last).contains(&descriptor));
                if inside && !kept.contains(&descriptor) {
                    syscall::close(descriptor);
                }
            }
            Ok(())
        }
        other => other,
    }
}

/// The numbers of this process's open descriptors.
pub(super) fn open_descriptors() -> Result<Vec<RawFd>, Errno> {
    let entries = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// Makes everything around the step.
fn prepare(spec: &SandboxSpec, files: &mut StepFiles) -> Result<(), SetupFailure> {
    rustix::process::umask(rustix::fs::Mode::empty());
    if let Some(index) = spec.resources.cgroup {
        enter_cgroup(index, files)?;
    }
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        // Podman's filter forbids it where it allows the namespace: the container's name shows.
        Ok(()) | Err(Errno::PERM | Errno::NOSYS) => {}
        Err(errno) => {
            let what = "can't set the host name";
            return Err(SetupFailure::new(Stage::Hostname, what, errno));
        }
    }
    enter_network(spec.network, files)?;
    let mut filesystem = RootFilesystem::mount(spec)?;
    standard_mounts::add(&filesystem, spec.security, spec.resources.shm_size)?;
    if let Some(wanted) = &spec.terminal {
        terminal::open(&filesystem.root, wanted, spec.uid, files)?;
    }
    if files.stdin.is_none() {
        // Now, for a mount of the step's may put anything in its place.
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        let null = filesystem.root.open_at(b"dev/null", flags);
        files.stdin = Some(null.map_err(|error| {
            let errno = Errno::from_io_error(&error.source).unwrap_or(Errno::IO);
            SetupFailure::new(Stage::Process, "can't open /dev/null", errno)
        })?);
    }
    for mount in &spec.mounts {
        filesystem.add(mount, spec, &files.passed)?;
    }
    if spec.security == Security::Sandbox {
        standard_mounts::mask(&mut filesystem)?;
    }
    if spec.read_only {
        filesystem.make_read_only()?;
    }
    filesystem.enter()?;
    // Nothing outside of this process may look into it: it can do more than the step.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    root_filesystem::change_directory(&spec.cwd)
}

/// Makes the network ready, or enters the one that is.
fn enter_network(network: Network, files: &StepFiles) -> Result<(), SetupFailure> {
    let failed = |message: &str, errno| SetupFailure::new(Stage::Network, message, errno);
    match network {
        Network::Host => Ok(()),
        Network::None => syscall::bring_loopback_up()
            .map_err(|errno| failed("can't bring up the loopback device", errno)),
        Network::Private(index) => {
            let namespace = files
                .passed
                .get(index)
                .ok_or_else(|| SetupFailure::request("the network was not passed"))?;
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
                .map_err(|errno| failed("can't enter the private network", errno))
        }
    }
}

/// Enters the step's cgroup, and only then a cgroup namespace, whose root it thereby is.
fn enter_cgroup(index: usize, files: &StepFiles) -> Result<(), SetupFailure> {
    join_cgroup(index, files)?;
    syscall::unshare(UnshareFlags::NEWCGROUP)
        .map_err(|errno| SetupFailure::new(Stage::Cgroup, "can't make a cgroup namespace", errno))
}

/// Enters the step's cgroup.
pub(super) fn join_cgroup(index: usize, files: &StepFiles) -> Result<(), SetupFailure> {
    let processes = files
        .passed
        .get(index)
        .ok_or_else(|| SetupFailure::request("the file to enter the cgroup by was not passed"))?;
    cgroup::enter(processes).map_err(|errno| {
        SetupFailure::new(
            Stage::Cgroup,
            "can't move the step into its cgroup (the user needs the right to write to the group \
             that rbuild's own and this one have in common)",
            errno,
        )
    })
}

/// The step's process, and what tells of children that end.
pub(super) struct Started {
    pid: Pid,
    events: OwnedFd,
    /// A supervisor that begins with the first question: hardly any step has one.
    waiting: Option<(OwnedFd, beyond::Plan)>,
}

impl Started {
    /// Starts the supervisor when the first question is there.
    fn wake_supervisor(&mut self, happened: PollFlags) -> Result<(), SetupFailure> {
        if happened.is_empty() {
            return Ok(());
        }
        // Else nobody is left who could ask.
        if let Some((listener, plan)) = self.waiting.take()
            && happened.contains(PollFlags::IN)
        {
            let failed =
                |errno| SetupFailure::new(Stage::Seccomp, "can't supervise the step", errno);
            plan.start(listener).map_err(failed)?;
        }
        Ok(())
    }
}

/// Forks the step's process, and starts its supervisor where it needs one. Of the filters, the second
/// is for a step that is asked little.
fn start_step(
    spec: &SandboxSpec,
    files: &StepFiles,
    user_namespace: Option<BorrowedFd<'_>>,
    report: &OwnedFd,
    (filter, asking): (&[Instruction], &[Instruction]),
    plan: Option<Plan>,
) -> Result<Started, SetupFailure> {
    let failed = |message: &str, errno| SetupFailure::new(Stage::Process, message, errno);
    let events =
        syscall::child_events().map_err(|errno| failed("can't watch child processes", errno))?;
    let start = |guard: Guard<'_>| match syscall::fork() {
        Ok(syscall::Fork::Child) => step::run(spec, files, user_namespace, report, &guard),
        Ok(syscall::Fork::Parent(pid)) => Ok(pid),
        Err(errno) => Err(failed("can't start a process", errno)),
    };
    let started = |guard: Guard<'_>| {
        Ok(Started {
            pid: start(guard)?,
            events,
            waiting: None,
        })
    };
    let Some(plan) = plan else {
        return started(Guard::Filter(filter));
    };
    let failed = |errno| SetupFailure::new(Stage::Seccomp, "can't supervise the step", errno);
    let (near, far) = Channel::pair().map_err(failed)?;
    match plan {
        Plan::Owners(plan) => {
            let step = started(Guard::Supervised(&plan, &far))?;
            drop(far);
            if let Some(listener) = listener(&near) {
                supervisor::start(listener, plan)?;
            }
            Ok(step)
        }
        Plan::Beyond(plan) => {
            let step = started(Guard::Watched {
                asking,
                alone: filter,
                line: &far,
            })?;
            drop(far);
            Ok(Started {
                waiting: listener(&near).map(|listener| (listener, plan)),
                ..step
            })
        }
    }
}

/// Where the calls arrive that a step's filter leaves to a supervisor: what its process sends before
/// its program runs. After a supervisor was started, this process has threads: it forks no more.
/// `None` if nothing was sent: the step's process has ended, and said why, or goes without.
fn listener(near: &Channel) -> Option<OwnedFd> {
    let received = near.receive::<()>().ok()??;
    received.descriptors.into_iter().next()
}

/// Forks a step's process whose root directory is to be `root`.
pub(super) fn start_confined_step(
    spec: &SandboxSpec,
    files: &StepFiles,
    to: &OwnedFd,
    root: &OwnedFd,
) -> Result<Started, SetupFailure> {
    let failed = |message: &str, errno| SetupFailure::new(Stage::Process, message, errno);
    let events =
        syscall::child_events().map_err(|errno| failed("can't watch child processes", errno))?;
    let (near, far) = Channel::pair().map_err(|errno| failed("can't make a channel", errno))?;
    let stand_ins = StandIns::of(spec, &files.passed)?;
    let guard = Guard::Confined {
        line: &far,
        stand_ins: !stand_ins.is_empty(),
    };
    match syscall::fork().map_err(|errno| failed("can't start a process", errno))? {
        syscall::Fork::Child => match chroot::enter(root, spec) {
            Ok(()) => step::run(spec, files, None, to, &guard),
            Err(failure) => {
                report(to, &Outcome::SetupFailed(failure));
                syscall::exit(127)
            }
        },
        syscall::Fork::Parent(pid) => {
            drop(far);
            if let Some(listener) = listener(&near) {
                kernel_files::start(listener, kernel_files::missing_devices(root), stand_ins)
                    .map_err(|errno| failed("can't supervise the step", errno))?;
            }
            Ok(Started {
                pid,
                events,
                waiting: None,
            })
        }
    }
}

/// Waits until the step's process, or rbuild, ends; passes signals on meanwhile.
pub(super) fn watch(
    mut step: Started,
    signals: &OwnedFd,
    lifeline: &OwnedFd,
) -> Result<Outcome, SetupFailure> {
    loop {
        let mut watched = [
            PollFd::new(&step.events, PollFlags::IN),
            PollFd::new(lifeline, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
            // In place of one that there isn't, one that is watched anyway.
            match &step.waiting {
                Some((listener, _)) => PollFd::new(listener, PollFlags::IN),
                None => PollFd::new(lifeline, PollFlags::IN),
            },
        ];
        retry(|| rustix::event::poll(&mut watched, None))
            .map_err(|errno| SetupFailure::new(Stage::Process, "can't wait for the step", errno))?;
        if !watched[1].revents().is_empty() {
            return Ok(Outcome::Signaled { signal: 9 });
        }
        // How many children an event stands for is not said: its content doesn't matter.
        let mut content = [0; 128];
        while matches!(rustix::io::read(&step.events, &mut content), Ok(1..)) {}
        // Before signals are passed on: the number of a process that was reaped may be another's.
        if let Some(outcome) = reap(step.pid) {
            return Ok(outcome);
        }
        let ends = watched[2].revents();
        let questions = watched[3].revents();
        if ends.contains(PollFlags::HUP) && !ends.contains(PollFlags::IN) {
            // Whoever could send signals wants it to end, or is gone.
            return Ok(Outcome::Signaled { signal: 9 });
        }
        pass_on(signals, step.pid);
        step.wake_supervisor(questions)?;
    }
}

/// Sends the step what has come for it.
fn pass_on(signals: &OwnedFd, step: Pid) {
    let mut numbers = [0; 64];
    while let Ok(count @ 1..) = rustix::io::read(signals, &mut numbers) {
        for number in &numbers[..count] {
            if let Some(signal) = Signal::from_named_raw(i32::from(*number)) {
                // Ended, and not yet taken leave of: nobody to tell.
                let _ = rustix::process::kill_process(step, signal);
            }
        }
    }
}

/// Takes leave of every child that has ended; the outcome if the step is among them.
fn reap(step: Pid) -> Option<Outcome> {
    loop {
        match retry(|| rustix::process::wait(WaitOptions::NOHANG)) {
            Ok(Some((pid, status))) if pid == step => return Some(outcome(status)),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn outcome(status: WaitStatus) -> Outcome {
    match status.terminating_signal() {
        Some(signal) => Outcome::Signaled { signal },
        None => Outcome::Exited {
            code: status.exit_status().unwrap_or(255),
        },
    }
}
