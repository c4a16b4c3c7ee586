//! However a build is ended, nothing of it goes on, the terminal is as before, and the next build
//! is right.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Need, Project, Rbuild, Terminal, each_user, eventually, is_running, needs};

/// Two stages of steps that ignore what they can, with a process that has left its group.
fn stubborn(mark: &str) -> Project {
    Project::with(&format!(
        "
        FROM busybox AS one
        RUN trap '' INT TERM HUP; (setsid sleep {mark} &) ; sleep {mark}
        FROM busybox AS two
        RUN trap '' INT TERM HUP; sleep {mark}; echo 2 > /x
        FROM scratch
        COPY --from=one / /
        COPY --from=two / /
        "
    ))
}

/// A number of seconds that no other test sleeps.
fn mark(number: usize) -> String {
    format!("5{:06}{number:02}", std::process::id())
}

/// Whether this process ignores a signal, as a shell's background job does an interrupt; what it
/// starts then ignores it too.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & (1 << (signal - 1)) != 0
}

/// A child that doesn't outlive a test that fails.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn steps_run(mark: &str) {
    eventually("the steps run", || is_running(mark));
    std::thread::sleep(Duration::from_millis(300));
}

/// Nothing of the build is left within a few seconds, and the store is as good as before.
fn all_is_well(rbuild: &Rbuild, mark: &str, begun: Instant) {
    eventually("its steps end", || !is_running(mark));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let next = Project::with("FROM busybox\nRUN echo fine\n");
    assert_eq!(rbuild.build(&next).ok().output(), ["fine"]);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let store = rbuild.store().display().to_string();
    assert!(!mounts.contains(&store), "mounts are left");
}

fn end(child: &mut Ending) -> ExitStatus {
    eventually("rbuild ends", || child.0.try_wait().unwrap().is_some());
    child.0.wait().unwrap()
}

#[test]
fn signals_end_every_process() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL];
    for (number, signal) in signals.into_iter().enumerate() {
        if is_ignored(signal) {
            continue;
        }
        let mark = mark(number);
        let project = stubborn(&mark);
        each_user(|user| {
            let rbuild = Rbuild::new(user);
            let mut command = rbuild.build(&project).command();
            let child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut child = Ending(child);
            steps_run(&mark);
            let begun = Instant::now();
            let named = Signal::from_named_raw(signal).unwrap();
            kill_process(Pid::from_child(&child.0), named).unwrap();
            let status = end(&mut child);
            if signal == libc::SIGKILL {
                assert_eq!(status.signal(), Some(signal));
            } else {
                assert_eq!(status.code(), Some(128 + signal), "{status}");
            }
            all_is_well(&rbuild, &mark, begun);
        });
    }
}

/// A step may be silent for long: its build ends all the same when nobody reads any more.
#[test]
fn a_closed_pipe_ends_every_process() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let mark = mark(10);
    let project = stubborn(&mark);
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let mut command = rbuild.build(&project).command();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Ending(child);
        steps_run(&mark);
        let begun = Instant::now();
        drop(child.0.stderr.take());
        let status = end(&mut child);
        assert_eq!(status.code(), Some(128 + libc::SIGPIPE), "{status}");
        all_is_well(&rbuild, &mark, begun);
    });
}

#[test]
fn a_closed_standard_output_ends_as_sigpipe_does() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    // More than a pipe holds.
    let project = Project::with("FROM busybox\nCOPY large /\n").file("large", vec![b'x'; 1 << 20]);
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let mut command = rbuild
            .build(&project)
            .args(["-o", "type=oci,dest=-"])
            .command();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Ending(child);
        drop(child.0.stdout.take());
        let mut said = String::new();
        child
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = end(&mut child);
        assert_eq!(
            status.code(),
            Some(128 + libc::SIGPIPE),
            "{status}:\n{said}"
        );
        assert!(!said.contains("error:"), "{said}");
    });
}

#[test]
fn ctrl_c_on_a_terminal_ends_every_process() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) || is_ignored(libc::SIGINT) {
        return;
    }
    let mark = mark(20);
    let project = stubborn(&mark);
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project).own_progress().env("TERM", "xterm");
        let mut terminal = Terminal::start(&build.command(), 80, 24);
        steps_run(&mark);
        let begun = Instant::now();
        terminal.type_in("\x03");
        assert_eq!(terminal.wait().code(), Some(130));
        let screen = terminal.screen();
        assert_eq!(
            screen.last().map(String::as_str),
            Some("error: interrupted"),
            "{screen:#?}"
        );
        assert!(
            screen
                .iter()
                .any(|line| line.contains("=> CANCELED [one 2/2] RUN")),
            "{screen:#?}"
        );
        assert!(terminal.shows_cursor());
        // Lines wrap again, and what is typed is shown: nothing of the terminal is changed.
        let bytes = terminal.bytes();
        assert!(bytes.rfind("\x1b[?7h") > bytes.rfind("\x1b[?7l"));
        all_is_well(&rbuild, &mark, begun);
    });
}

#[test]
fn a_terminal_that_goes_away_ends_every_process() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) || is_ignored(libc::SIGHUP) {
        return;
    }
    for (number, progress) in ["tty", "plain"].into_iter().enumerate() {
        let mark = mark(30 + number);
        let project = stubborn(&mark);
        each_user(|user| {
            let rbuild = Rbuild::new(user);
            let build = rbuild
                .build(&project)
                .own_progress()
                .args(["--progress", progress])
                .env("TERM", "xterm");
            let mut terminal = Terminal::start(&build.command(), 80, 24);
            steps_run(&mark);
            let begun = Instant::now();
            terminal.hang_up();
            assert_eq!(terminal.wait().code(), Some(129));
            all_is_well(&rbuild, &mark, begun);
        });
    }
}
