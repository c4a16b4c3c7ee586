//! Running programs that are not part of rbuild, as the user who called it.
//!
//! Inside a user namespace, D-Bus authentication, ssh's ownership checks and git's safe.directory
//! fail, because the user is 0 there. So where one is entered, a small process stays outside, in
//! the caller's own namespaces, and runs credential helpers, git and the like on request. Where
//! none is entered, programs are started directly.
//!
//! Never an argument, environment variable or output in an error: they may hold secrets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Received, retry};
use super::syscall::{self, Fork};

/// A program to run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideProgram {
    /// Its path, or its name to be found in the caller's `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the caller's environment.
    pub env: BTreeMap<OsString, OsString>,
    /// The only variables of the caller's that it sees; all of them where `None`.
    pub inherited: Option<Vec<OsString>>,
    /// Its working directory, if not the caller's.
    pub cwd: Option<OsString>,
    /// What it reads from standard input.
    pub stdin: Vec<u8>,
    /// Whether it and all that it starts are a process group, which is ended as a whole.
    pub is_group: bool,
    /// Arguments in front of the others that end with the path of an open file: what stands before
    /// it, and which file it is.
    pub passed: Vec<(OsString, usize)>,
    /// How many open files it gets.
    files: usize,
}

impl std::fmt::Debug for OutsideProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutsideProgram")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl OutsideProgram {
    /// A program without arguments and input.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            inherited: None,
            cwd: None,
            stdin: Vec::new(),
            is_group: false,
            passed: Vec::new(),
            files: 0,
        }
    }

    /// Adds an argument, in front of those of [`arg`](Self::arg), by which it finds an open file.
    #[must_use]
    pub fn passing(mut self, prefix: &str, file: usize) -> Self {
        self.passed.push((prefix.into(), file));
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Shows it none of the caller's environment variables but these.
    #[must_use]
    pub fn inherits_only(mut self, names: &[&str]) -> Self {
        self.inherited = Some(names.iter().map(OsString::from).collect());
        self
    }

    /// Makes it a process group with all that it starts: none of them outlives it when it is
    /// stopped, and none can ask on the terminal.
    #[must_use]
    pub fn group(mut self) -> Self {
        self.is_group = true;
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into().into_os_string());
        self
    }

    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }
}

/// What came of a program.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideOutput {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl std::fmt::Debug for OutsideOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutsideOutput")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// It is not installed, or not for us to execute.
    #[error("can't run the program `{}`", program.display())]
    NotStarted {
        /// The program.
        program: OsString,
        /// Why.
        source: std::io::Error,
    },
    /// It was ended before its own end, as the caller wished.
    #[error("the program `{}` was stopped", program.display())]
    Stopped {
        /// The program.
        program: OsString,
    },
    /// The process that runs programs ended, or can't be reached.
    #[error("can't have the program `{}` run in the caller's namespaces", program.display())]
    Helper {
        /// The program.
        program: OsString,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs programs as the user who called rbuild. Blocking; any number of threads at once.
#[derive(Clone, Debug, Default)]
pub struct OutsideHelper(Option<Arc<Remote>>);

#[derive(Debug)]
struct Remote {
    pid: Pid,
    channel: Mutex<Channel>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.channel
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .shutdown();
        let _ = retry(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()));
    }
}

/// Says whether a program that runs is to be ended.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// A program that prints more than this, in bytes, is out of its mind.
const MAX_OUTPUT: u64 = 32 << 20;

/// How long it takes at most until somebody who wants to stop is heard.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether something happens on a connection before `wait` is over.
fn is_ready(channel: &Channel, flags: PollFlags, wait: Duration) -> bool {
    let wait = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: wait.subsec_nanos().into(),
    };
    let mut watched = [PollFd::new(channel, flags)];
    // Whatever else goes wrong shows when the connection is used.
    !matches!(
        rustix::event::poll(&mut watched, Some(&wait)),
        Ok(0) | Err(rustix::io::Errno::INTR)
    )
}

/// An answer as it travels: the error number if the program could not be started.
type Answer = Result<OutsideOutput, i32>;

impl OutsideHelper {
    /// One that starts programs from this very process.
    pub(super) fn direct() -> Self {
        Self(None)
    }

    /// One whose process is `pid`.
    pub(super) fn remote(pid: Pid, channel: Channel) -> Self {
        Self(Some(Arc::new(Remote {
            pid,
            channel: Mutex::new(channel),
        })))
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it can't be started; an exit code other than 0 is none.
    pub fn run(&self, program: &OutsideProgram) -> Result<OutsideOutput, OutsideError> {
        self.run_reading(program, &[], None, None)
    }

    /// Whether programs run in another user namespace than this process.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.0.is_some()
    }

    /// Runs a program that has some of this process's open files, to its end, or until `stop`.
    ///
    /// # Errors
    /// When it can't be started or is stopped; an exit code other than 0 is none.
    pub(super) fn run_with(
        &self,
        program: &OutsideProgram,
        files: &[BorrowedFd<'_>],
        stop: Stop<'_>,
    ) -> Result<OutsideOutput, OutsideError> {
        self.run_reading(program, files, None, Some(stop))
    }

    /// Runs a program to its end, or until `stop` says so, which is asked every now and then.
    ///
    /// # Errors
    /// When it can't be started or is stopped; an exit code other than 0 is none.
    pub fn run_until(
        &self,
        program: &OutsideProgram,
        stop: Stop<'_>,
    ) -> Result<OutsideOutput, OutsideError> {
        self.run_reading(program, &[], None, Some(stop))
    }

    /// Runs a program to its end that reads what `write` writes, as fast as it takes it. What
    /// came of the program, and of writing: a program that ends early breaks the pipe.
    ///
    /// # Errors
    /// When it can't be started; an exit code other than 0 is none.
    pub fn run_writing<T>(
        &self,
        program: &OutsideProgram,
        write: impl FnOnce(std::io::PipeWriter) -> T,
    ) -> Result<(OutsideOutput, T), OutsideError> {
        let failed = |source| OutsideError::Helper {
            program: program.program.clone(),
            source,
        };
        let (input, pipe) = std::io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let running = scope.spawn(|| self.run_reading(program, &[], Some(input.into()), None));
            let written = write(pipe);
            let output = running
                .join()
                .unwrap_or_else(|_| Err(failed(std::io::Error::other("its thread panicked"))))?;
            Ok((output, written))
        })
    }

    /// Runs a program; `input`, if any, is its standard input in place of the bytes in `program`.
    fn run_reading(
        &self,
        program: &OutsideProgram,
        files: &[BorrowedFd<'_>],
        input: Option<OwnedFd>,
        stop: Option<Stop<'_>>,
    ) -> Result<OutsideOutput, OutsideError> {
        let stopped = || OutsideError::Stopped {
            program: program.program.clone(),
        };
        let Some(remote) = &self.0 else {
            let output = run_program(program, files, input, stop);
            if stop.is_some_and(|stop| stop()) {
                return Err(stopped());
            }
            return output.map_err(|source| OutsideError::NotStarted {
                program: program.program.clone(),
                source,
            });
        };
        let failed = |errno: rustix::io::Errno| OutsideError::Helper {
            program: program.program.clone(),
            source: errno.into(),
        };
        // Each request brings the connection that its answer takes.
        let (near, far) = Channel::pair().map_err(failed)?;
        let mut request = program.clone();
        request.files = files.len();
        let mut descriptors = vec![far.as_fd()];
        descriptors.extend(files);
        descriptors.extend(input.as_ref().map(AsFd::as_fd));
        remote
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(&request, &descriptors)
            .map_err(failed)?;
        // Only the program's copy of its input is left: it ends with the program.
        drop((far, input));
        if let Some(stop) = stop {
            while !is_ready(&near, PollFlags::IN, PAUSE) {
                if stop() {
                    // Whoever runs the program sees that nobody waits for it, and ends it. Only
                    // then may this process end, and the others with it.
                    let _ = rustix::net::shutdown(&near, rustix::net::Shutdown::Write);
                    let _ = near.receive::<Answer>();
                    return Err(stopped());
                }
            }
        }
        match near.receive::<Answer>().map_err(failed)? {
            Some(Received { message, .. }) => message.map_err(|errno| OutsideError::NotStarted {
                program: program.program.clone(),
                source: std::io::Error::from_raw_os_error(errno),
            }),
            None => Err(failed(rustix::io::Errno::PIPE)),
        }
    }
}

/// The helper's own side: one process per request, so that slow programs don't hold up others.
pub(super) fn serve(channel: Channel) -> ! {
    while let Ok(Some(received)) = channel.receive::<OutsideProgram>() {
        let mut descriptors = received.descriptors.into_iter();
        if let Some(answer) = descriptors.next() {
            let files: Vec<OwnedFd> = (&mut descriptors).take(received.message.files).collect();
            let input = descriptors.next();
            match syscall::fork() {
                Ok(Fork::Child) => {
                    // So that the main process sees the end of the connection if this one ends.
                    drop(channel);
                    work(&received.message, &files, input, &Channel::from(answer));
                    syscall::exit(0)
                }
                Ok(Fork::Parent(_)) | Err(_) => {}
            }
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
    // Those that still run see that the asker is gone, too.
    syscall::exit(0)
}

/// One request's process.
fn work(program: &OutsideProgram, files: &[OwnedFd], input: Option<OwnedFd>, answer: &Channel) {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    // It hears of the asker's end by itself and not by a signal when the helper ends: that would
    // leave behind what the program has started.
    let is_gone = || is_ready(answer, PollFlags::RDHUP, Duration::ZERO);
    if is_gone() {
        return;
    }
    let output: Answer = run_program(program, &files, input, Some(&is_gone))
        .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
    // If it can't be told, the asker sees the end of the connection.
    let _ = answer.send(&output, &[]);
}

fn run_program(
    program: &OutsideProgram,
    files: &[BorrowedFd<'_>],
    input: Option<OwnedFd>,
    stop: Option<Stop<'_>>,
) -> std::io::Result<OutsideOutput> {
    let mut command = Command::new(&program.program);
    if let Some(names) = &program.inherited {
        command.env_clear();
        let inherited = std::env::vars_os().filter(|(name, _)| names.contains(name));
        command.envs(inherited);
    }
    for (prefix, index) in &program.passed {
        let file = files.get(*index).ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut argument = prefix.clone();
        argument.push(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.arg(argument);
    }
    syscall::pass_on(&mut command, files);
    command
        .args(&program.args)
        .envs(&program.env)
        .stdin(input.map_or_else(Stdio::piped, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &program.cwd {
        command.current_dir(OsStr::new(cwd));
    }
    if program.is_group {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    // This thread waits for it, so only the end of the whole process is the end of the parent.
    syscall::end_with_parent(&mut command);
    let mut child = command.spawn()?;
    // It holds a copy of the program's input, which is to end with the program.
    drop(command);
    let stdin = child.stdin.take();
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let output = std::thread::scope(|scope| {
        let (running, ended) = mpsc::channel::<()>();
        if let (Some(stop), Some(process)) = (stop, process) {
            let is_group = program.is_group;
            scope.spawn(move || end_when_told(process, is_group, stop, &ended));
        }
        // A program may write before it has read everything.
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program need not read its input.
                let _ = stdin.write_all(&program.stdin);
            }
        });
        let output = read_output(&mut child);
        if let Some(process) = process {
            // It is waited for only once nobody may kill it: then its id may become another's.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = retry(|| rustix::process::waitid(WaitId::Pid(process), ended));
        }
        drop(running);
        let status = child.wait();
        let (stdout, stderr) = output?;
        Ok::<_, std::io::Error>(std::process::Output {
            status: status?,
            stdout,
            stderr,
        })
    })?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    Ok(OutsideOutput {
        code: output
            .status
            .code()
            .unwrap_or_else(|| 128 + signal.unwrap_or(0)),
        stdout: output.stdout,
        stderr: output.stderr,
    })
}

/// What a program prints, until it has closed both of its outputs.
fn read_output(child: &mut Child) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let errors = scope.spawn(|| err.map_or(Ok(0), |err| read_some(err, &mut stderr)));
        out.map_or(Ok(0), |out| read_some(out, &mut stdout))?;
        errors
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("its thread panicked")))
    })?;
    Ok((stdout, stderr))
}

/// Reads to the end, unless that is too far away. A program that goes on finds its pipe broken.
fn read_some(pipe: impl Read, into: &mut Vec<u8>) -> std::io::Result<usize> {
    let count = pipe.take(MAX_OUTPUT).read_to_end(into)?;
    match count as u64 == MAX_OUTPUT {
        true => Err(std::io::ErrorKind::FileTooLarge.into()),
        false => Ok(count),
    }
}

/// Kills a program once `stop` says so; ends when the other side of `ended` is dropped, before
/// which the program's id is nobody else's: it hasn't been waited for.
fn end_when_told(process: Pid, is_group: bool, stop: Stop<'_>, ended: &mpsc::Receiver<()>) {
    while ended.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
        if stop() {
            let _ = match is_group {
                true => rustix::process::kill_process_group(process, Signal::KILL),
                false => rustix::process::kill_process(process, Signal::KILL),
            };
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_shown_no_more_of_the_environment_than_it_is_to_see() {
        let program = OutsideProgram::new("sh")
            .arg("-c")
            .arg("echo ${PATH:+path} ${HOME:-none} $OWN")
            .env("OWN", "own")
            .inherits_only(&["PATH", "NOT_SET"]);
        let output = OutsideHelper::direct().run(&program).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "path none own\n");
    }

    #[test]
    fn what_a_program_prints_is_bounded() {
        let program = OutsideProgram::new("yes");
        let error = OutsideHelper::direct().run(&program);
        assert!(matches!(error, Err(OutsideError::NotStarted { .. })));
    }

    #[test]
    fn a_program_that_is_not_wanted_any_more_is_ended() {
        let begin = std::time::Instant::now();
        let program = OutsideProgram::new("sleep").arg("60");
        let error = OutsideHelper::direct().run_until(&program, &|| true);
        assert!(matches!(error, Err(OutsideError::Stopped { .. })));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_gets_its_input_arguments_and_environment() {
        let program = OutsideProgram::new("sh")
            .arg("-c")
            .arg("cat; echo $1$NAME; echo oops >&2; exit 3")
            .arg("sh")
            .arg("one")
            .env("NAME", "two")
            .stdin(b"input\n".to_vec());
        let output = OutsideHelper::direct().run(&program).unwrap();
        assert_eq!(
            (output.code, &*output.stdout, &*output.stderr),
            (3, &b"input\nonetwo\n"[..], &b"oops\n"[..])
        );
    }

    #[test]
    fn a_program_reads_what_is_written_to_it() {
        let helper = OutsideHelper::direct();
        let written = vec![b'x'; 3 << 20];
        let count = OutsideProgram::new("wc").arg("-c");
        let (output, ()) = helper
            .run_writing(&count, |mut pipe| pipe.write_all(&written).unwrap())
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "3145728",
            "{output:?}"
        );
        // One that reads nothing breaks the pipe instead of holding up the writer.
        let early = OutsideProgram::new("sh").arg("-c").arg("exit 3");
        let (output, result) = helper
            .run_writing(&early, |mut pipe| pipe.write_all(&written))
            .unwrap();
        assert_eq!(output.code, 3);
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        let absent = OutsideProgram::new("/nonexistent/program");
        let error = helper.run_writing(&absent, |mut pipe| pipe.write_all(&written));
        assert!(matches!(error, Err(OutsideError::NotStarted { .. })));
    }

    #[test]
    fn neither_errors_nor_debug_output_show_arguments_or_input() {
        let program = OutsideProgram::new("/nonexistent/helper")
            .arg("secret")
            .stdin(b"secret".to_vec());
        let error = OutsideHelper::direct().run(&program).unwrap_err();
        assert_eq!(
            error.to_string(),
            "can't run the program `/nonexistent/helper`"
        );
        assert!(!format!("{program:?}").contains("secret"));
    }
}
