//! The launcher's own side: it waits for requests and for the ends of sandboxes, and does
//! nothing else.
//!
//! It has one thread and little memory, which makes cloning it cheap and lets a clone run
//! ordinary code. It leads a session of its own, so that signals from a terminal reach the main
//! process only, which decides.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::platform::Platform;
use crate::sandbox::channel::{Channel, Received, retry};
use crate::sandbox::emulation::Emulation;
use crate::sandbox::init::{self, Init};
use crate::sandbox::seccomp::supervised::Supervision;
use crate::sandbox::seccomp::{self, Instruction};
use crate::sandbox::spec::{
    HighestIds, MountSource, Network, Outcome, SandboxSpec, SetupFailure, Stage,
};
use crate::sandbox::{chroot, mount, own_program, syscall};

use super::{Confinement, Report, Request, StepFiles};

/// A sandbox that runs.
struct Sandbox {
    id: u64,
    init: Pid,
    /// Readable when init has ended.
    pidfd: OwnedFd,
    /// Where init writes the outcome.
    report: OwnedFd,
    /// Where init reads the signals for the step, a byte each.
    signals: Option<OwnedFd>,
}

struct Server {
    emulation: Emulation,
    confinement: Confinement,
    channel: Channel,
    lifeline: OwnedFd,
    filter: Vec<Instruction>,
    /// For steps that ask little, and what for: the same in all of a build.
    asking_filter: Option<(HighestIds, Vec<Instruction>)>,
    sandboxes: Vec<Sandbox>,
}

/// Waits for the first request and becomes a copy of this program in memory to serve it. Returns
/// where that can't be, and when the main process is gone.
pub(in crate::sandbox) fn serve_as_copy(
    channel: &Channel,
    lifeline: &OwnedFd,
    emulators: &[PathBuf],
    confinement: Confinement,
) {
    let mut watched = [PollFd::new(channel, PollFlags::IN)];
    let gone = PollFlags::HUP | PollFlags::ERR;
    if retry(|| rustix::event::poll(&mut watched, None)).is_err()
        || watched[0].revents().intersects(gone)
    {
        return;
    }
    let error = own_program::become_copy(channel.as_fd(), lifeline.as_fd(), confinement, emulators);
    tracing::debug!(%error, "rbuild's program can't be copied to memory: steps can name its file");
}

/// Serves until the main process is gone. Then the launcher ends, and the kernel kills every
/// sandbox's init, and with it the sandbox.
pub(in crate::sandbox) fn serve(
    channel: Channel,
    lifeline: OwnedFd,
    emulators: Vec<PathBuf>,
    confinement: Confinement,
) -> ! {
    let mut server = Server {
        emulation: Emulation::new(emulators, confinement != Confinement::Chroot),
        confinement,
        channel,
        lifeline,
        filter: seccomp::default_filter(),
        asking_filter: None,
        sandboxes: Vec::new(),
    };
    while server.serve_one().is_ok_and(|go_on| go_on) {}
    for sandbox in &mut server.sandboxes {
        sandbox.kill(confinement);
    }
    for sandbox in &server.sandboxes {
        let _ = retry(|| rustix::process::waitpid(Some(sandbox.init), WaitOptions::empty()));
    }
    syscall::exit(0)
}

impl Sandbox {
    /// Ends it, with every process in it.
    fn kill(&mut self, confinement: Confinement) {
        match confinement {
            // The kernel kills the rest of the sandbox with its init.
            Confinement::Namespaces => {
                let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
            // Init does that when nobody can send signals any more.
            Confinement::Chroot => self.signals = None,
        }
    }
}

impl Server {
    /// Waits for something to happen and deals with it; `false` when the main process is gone.
    fn serve_one(&mut self) -> Result<bool, Errno> {
        let mut watched = vec![PollFd::new(&self.channel, PollFlags::IN)];
        watched.extend(
            self.sandboxes
                .iter()
                .map(|sandbox| PollFd::new(&sandbox.pidfd, PollFlags::IN)),
        );
        retry(|| rustix::event::poll(&mut watched, None))?;
        let happened: Vec<bool> = watched
            .iter()
            .map(|descriptor| !descriptor.revents().is_empty())
            .collect();
        for index in (0..self.sandboxes.len()).rev() {
            if happened[index + 1] {
                let sandbox = self.sandboxes.swap_remove(index);
                self.end(sandbox)?;
            }
        }
        if !happened[0] {
            return Ok(true);
        }
        let Some(Received {
            message,
            descriptors,
        }) = self.channel.receive::<Request>()?
        else {
            return Ok(false);
        };
        match message {
            Request::Start {
                id,
                spec,
                has_stdin,
            } => {
                let started = StepFiles::from_descriptors(descriptors, has_stdin)
                    .ok_or_else(|| SetupFailure::request("standard output or error is missing"))
                    .and_then(|files| self.start(id, &spec, files));
                match started {
                    Ok(sandbox) => self.sandboxes.push(sandbox),
                    Err(failure) => self.report(id, Outcome::SetupFailed(failure))?,
                }
            }
            Request::Kill { id } => {
                let mut sandboxes = self.sandboxes.iter_mut();
                if let Some(sandbox) = sandboxes.find(|sandbox| sandbox.id == id) {
                    sandbox.kill(self.confinement);
                }
            }
            Request::Signal { id, signal } => {
                let sandbox = self.sandboxes.iter().find(|sandbox| sandbox.id == id);
                if let Some(signals) = sandbox.and_then(|sandbox| sandbox.signals.as_ref()) {
                    // Through init: the step has no name out here. Never blocks; a step that
                    // leaves thousands unread has had enough of them.
                    let _ = rustix::io::write(signals, &[signal]);
                }
            }
        }
        Ok(true)
    }

    fn report(&self, id: u64, outcome: Outcome) -> Result<(), Errno> {
        self.channel.send(&Report { id, outcome }, &[])
    }

    /// Clones the sandbox's init.
    fn start(
        &mut self,
        id: u64,
        spec: &SandboxSpec,
        mut files: StepFiles,
    ) -> Result<Sandbox, SetupFailure> {
        let stand_in = spec.owners.as_ref().and_then(|owners| owners.stand_in);
        if let Some(stand_in) = stand_in
            && (self.asking_filter.as_ref()).is_none_or(|(whom, _)| *whom != stand_in)
        {
            let filter = seccomp::supervised_filter(Supervision::Beyond(stand_in));
            self.asking_filter = Some((stand_in, filter));
        }
        let user_namespace = emulated(&mut self.emulation, spec)?;
        take_mounts(spec, &mut files)?;
        let failed = |message: &str, errno| SetupFailure::new(Stage::Namespaces, message, errno);
        let (report, write_report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| failed("can't make a pipe", errno))?;
        let (read_signals, signals) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                .map_err(|errno| failed("can't make a pipe", errno))?;
        let mut namespaces =
            libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if spec.resources.cgroup.is_none() {
            // Else init makes one when it has entered its group.
            namespaces |= libc::CLONE_NEWCGROUP;
        }
        if spec.network == Network::None {
            namespaces |= libc::CLONE_NEWNET;
        }
        if self.confinement == Confinement::Chroot {
            namespaces = 0;
        }
        match syscall::clone_into(namespaces as u64)
            .map_err(|errno| failed("can't make namespaces for the step", errno))?
        {
            Some((init, pidfd)) => Ok(Sandbox {
                id,
                init,
                pidfd,
                report,
                signals: Some(signals),
            }),
            None => {
                let init = Init {
                    spec,
                    files,
                    user_namespace,
                    report: write_report,
                    signals: read_signals,
                    lifeline: &self.lifeline,
                    filter: &self.filter,
                    asking_filter: match &self.asking_filter {
                        Some((_, filter)) => filter,
                        None => &[],
                    },
                };
                match self.confinement {
                    Confinement::Namespaces => init::run(init),
                    Confinement::Chroot => chroot::run(init),
                }
            }
        }
    }

    /// Takes leave of a sandbox that ended and tells how.
    fn end(&self, sandbox: Sandbox) -> Result<(), Errno> {
        let status = retry(|| rustix::process::waitpid(Some(sandbox.init), WaitOptions::empty()))?;
        // Every process that could write has ended. Of several outcomes the first is the cause.
        let mut written = Vec::new();
        let _ = std::fs::File::from(sandbox.report).read_to_end(&mut written);
        let outcome = match postcard::take_from_bytes::<Outcome>(&written) {
            Ok((outcome, _)) => outcome,
            Err(_) => match status.and_then(|(_, status)| status.terminating_signal()) {
                Some(signal) => Outcome::Signaled { signal },
                None => Outcome::SetupFailed(SetupFailure::new(
                    Stage::Process,
                    "the sandbox's first process ended without a word",
                    Errno::CHILD,
                )),
            },
        };
        self.report(sandbox.id, outcome)
    }
}

/// Makes programs of the spec's platform run; the user namespace that they need for it.
fn emulated<'a>(
    emulation: &'a mut Emulation,
    spec: &SandboxSpec,
) -> Result<Option<BorrowedFd<'a>>, SetupFailure> {
    let failed = |message: String| SetupFailure {
        stage: Stage::Platform,
        path: None,
        errno: 0,
        message,
    };
    let platform = spec.platform.parse::<Platform>();
    let platform = platform.map_err(|error| failed(error.to_string()))?;
    let provided = emulation.provide(
        &platform,
        // Beside the step's folder.
        spec.folder
            .as_ref()
            .and_then(|folder| folder.as_path().parent()),
    );
    provided.map_err(|error| failed(error.to_string()))
}

/// Turns passed descriptors that are to be mounted into mounts. A mount can be copied only in
/// the namespace that it belongs to: the launcher shares that with the main process, the
/// sandbox doesn't.
fn take_mounts(spec: &SandboxSpec, files: &mut StepFiles) -> Result<(), SetupFailure> {
    let mut taken = BTreeSet::new();
    for wanted in &spec.mounts {
        if let MountSource::Descriptor { index, recursive } = wanted.source {
            if !taken.insert(index) {
                return Err(SetupFailure::request(format!(
                    "passed descriptor {index} is to be mounted twice"
                )));
            }
            let passed = files.passed.len();
            let descriptor = files.passed.get_mut(index).ok_or_else(|| {
                SetupFailure::request(format!(
                    "descriptor {index} of {passed} passed ones is asked for"
                ))
            })?;
            *descriptor = mount::clone_tree(descriptor.as_fd(), recursive).map_err(|errno| {
                SetupFailure::at(
                    Stage::Mount,
                    "can't mount what was passed for",
                    &wanted.target,
                    errno,
                )
            })?;
        }
    }
    Ok(())
}

/// Turns a process just forked into a helper: a session of its own, its standard streams on
/// `/dev/null`, no descriptors but `kept`, and an end when its parent ends.
pub(in crate::sandbox) fn become_helper(kept: &[&dyn AsRawFd]) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setsid()?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    // A root file system may have no devices at all. Nobody reads or writes this one.
    .or_else(|_| rustix::fs::memfd_create("null", rustix::fs::MemfdFlags::CLOEXEC))?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    let mut kept: Vec<_> = kept.iter().map(|kept| kept.as_raw_fd()).collect();
    init::keep_only(&mut kept)
}
