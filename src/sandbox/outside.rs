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
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions};
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
    /// Its working directory, if not the caller's.
    pub cwd: Option<OsString>,
    /// What it reads from standard input.
    pub stdin: Vec<u8>,
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
            cwd: None,
            stdin: Vec::new(),
        }
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
        self.run_reading(program, None)
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
            let running = scope.spawn(|| self.run_reading(program, Some(input.into())));
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
        input: Option<OwnedFd>,
    ) -> Result<OutsideOutput, OutsideError> {
        let Some(remote) = &self.0 else {
            return run_program(program, input).map_err(|source| OutsideError::NotStarted {
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
        let mut descriptors = vec![far.as_fd()];
        descriptors.extend(input.as_ref().map(AsFd::as_fd));
        remote
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(program, &descriptors)
            .map_err(failed)?;
        // Only the program's copy of its input is left: it ends with the program.
        drop((far, input));
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
            let input = descriptors.next();
            match syscall::fork() {
                Ok(Fork::Child) => {
                    // So that the main process sees the end of the connection if this one ends.
                    drop(channel);
                    work(&received.message, input, &Channel::from(answer));
                    syscall::exit(0)
                }
                Ok(Fork::Parent(_)) | Err(_) => {}
            }
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
    // Those that still run hear of our end by their parent-death signal.
    syscall::exit(0)
}

/// One request's process.
fn work(program: &OutsideProgram, input: Option<OwnedFd>, answer: &Channel) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The helper may have ended before that took effect; then the asker is gone too.
    let mut asker = [PollFd::new(answer, PollFlags::empty())];
    let at_once = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if matches!(rustix::event::poll(&mut asker, Some(&at_once)), Ok(1..)) {
        return;
    }
    let output: Answer =
        run_program(program, input).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
    // If it can't be told, the asker sees the end of the connection.
    let _ = answer.send(&output, &[]);
}

fn run_program(program: &OutsideProgram, input: Option<OwnedFd>) -> std::io::Result<OutsideOutput> {
    let mut command = Command::new(&program.program);
    command
        .args(&program.args)
        .envs(&program.env)
        .stdin(input.map_or_else(Stdio::piped, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &program.cwd {
        command.current_dir(OsStr::new(cwd));
    }
    // This thread waits for it, so only the end of the whole process is the end of the parent.
    syscall::end_with_parent(&mut command);
    let mut child = command.spawn()?;
    // It holds a copy of the program's input, which is to end with the program.
    drop(command);
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A program may write before it has read everything.
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program need not read its input.
                let _ = stdin.write_all(&program.stdin);
            }
        });
        child.wait_with_output()
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

#[cfg(test)]
mod tests {
    use super::*;

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
