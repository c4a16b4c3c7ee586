//! `rbuild run -it`: the user's terminal, the program's, and what becomes of both.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::termios::Winsize;

use super::{Started, left_behind, with_image};
use crate::support::{Need, Rbuild, each_user, needs};

/// A terminal with rbuild in it.
struct Terminal {
    window: File,
    inside: OwnedFd,
    program: Started,
    shown: String,
}

impl Terminal {
    /// Starts `rbuild run WORDS`, whose standard streams and controlling terminal it is.
    fn run(rbuild: &Rbuild, words: &[&str]) -> Terminal {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let window = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&window).unwrap();
        rustix::pty::unlockpt(&window).unwrap();
        let inside = rustix::pty::ioctl_tiocgptpeer(&window, flags).unwrap();
        set_size(&inside, 33, 101);
        let inner = rbuild.command();
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(inner.get_program())
            .args(inner.get_args());
        command.arg("run").args(words).env_clear();
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.current_dir(inner.get_current_dir().unwrap_or(Path::new("/")));
        let stream = || Stdio::from(inside.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let program = Started(command.spawn().unwrap());
        Terminal {
            window: window.into(),
            inside,
            program,
            shown: String::new(),
        }
    }

    fn types(&mut self, text: &str) {
        self.window.write_all(text.as_bytes()).unwrap();
    }

    /// Reads what is shown up to this text, and no further.
    fn wait_for(&mut self, text: &str) {
        assert!(
            self.comes_within(text, Duration::from_secs(60)),
            "{text:?} never came: {:?}",
            self.shown
        );
    }

    /// Types a key until this text is shown: a shell that is just starting a program may not have
    /// handed the terminal to it yet.
    fn types_until(&mut self, key: &str, text: &str) {
        for _ in 0..60 {
            self.types(key);
            if self.comes_within(text, Duration::from_secs(1)) {
                return;
            }
        }
        panic!("{text:?} never came: {:?}", self.shown);
    }

    fn comes_within(&mut self, text: &str, limit: Duration) -> bool {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return true;
            }
            let mut ready = [rustix::event::PollFd::new(
                &self.window,
                rustix::event::PollFlags::IN,
            )];
            let wait = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut ready, Some(&wait)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let count = self.window.read(&mut buffer).unwrap();
                self.shown += &String::from_utf8_lossy(&buffer[..count]);
            }
            if begun.elapsed() >= limit {
                return false;
            }
        }
    }

    fn is_raw(&self) -> bool {
        let settings = rustix::termios::tcgetattr(&self.inside).unwrap();
        !settings
            .local_modes
            .contains(rustix::termios::LocalModes::ICANON)
    }
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_terminal_is_the_program_s_and_comes_back() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\nENV PS1=prompt>\n");
        let mut terminal = Terminal::run(&rbuild, &["-it", "-u", "app", "app", "sh"]);
        terminal.wait_for("prompt>");
        assert!(terminal.is_raw());
        terminal.types("tty; stty size; echo $TERM; test -w /dev/console && echo console\r");
        terminal.wait_for("/dev/pts/0\r\n33 101\r\nxterm\r\nconsole\r\n");
        set_size(&terminal.inside, 40, 90);
        // The program hears of it when rbuild has; its next question may be quicker.
        terminal.types("until stty size | grep '40 90'; do sleep 0.05; done\r");
        terminal.wait_for("\r\n40 90\r\n");
        // Ctrl-C is a key like any other, and the program's.
        terminal.types("echo begun; sleep 1000\r");
        terminal.wait_for("\r\nbegun\r\n");
        terminal.types_until("\x03", "prompt>");
        terminal.types("exit 5\r");
        assert_eq!(terminal.program.code(), Some(5));
        assert!(!terminal.is_raw());
        assert_eq!(left_behind(&rbuild).len(), 0);
    });
}

#[test]
fn a_terminal_comes_back_when_the_program_is_ended() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let deaf = "trap '' TERM HUP; echo ready; while :; do sleep 0.1; done";
        let mut terminal = Terminal::run(&rbuild, &["-it", "app", "sh", "-c", deaf]);
        terminal.wait_for("ready");
        assert!(terminal.is_raw());
        terminal.program.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        terminal.program.signal(Signal::TERM);
        assert_eq!(terminal.program.code(), Some(137));
        assert!(!terminal.is_raw());
        // One that nobody types into stays as it is, and Ctrl-C ends the program.
        let mut terminal =
            Terminal::run(&rbuild, &["-t", "app", "sh", "-c", "tty; exec sleep 1000"]);
        terminal.wait_for("/dev/pts/0");
        assert!(!terminal.is_raw());
        terminal.types("\x03");
        assert_eq!(terminal.program.code(), Some(130));
    });
}

#[test]
fn the_user_s_own_terminal_is_out_of_reach() {
    if !needs(&[Need::BaseImages, Need::Program("setsid")]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        // Neither what is typed into it nor how it behaves is the program's.
        let script = "for n in 0 1 2; do test -t $n && echo $n is a terminal; done; \
                      stty -F /proc/self/fd/1 -echo -isig; echo; read -t 2 typed <&1; \
                      echo got $typed.";
        let mut terminal = Terminal::run(&rbuild, &["app", "sh", "-c", script]);
        terminal.types("hunter2\r");
        assert_eq!(terminal.program.code(), Some(0));
        let settings = rustix::termios::tcgetattr(&terminal.inside).unwrap();
        let modes = rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ISIG;
        assert!(settings.local_modes.contains(modes));
        terminal.wait_for("got .\r\n");
        assert!(!terminal.shown.contains("is a terminal"));
    });
}
