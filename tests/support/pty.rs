//! A program on a terminal: a pseudo-terminal with somebody at its other end who reads, types,
//! changes its size and hangs up.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A test that waits longer than this fails.
const LIMIT: Duration = Duration::from_secs(120);

/// A program on a terminal of its own, which is its controlling terminal.
pub(crate) struct Terminal {
    child: Child,
    master: Arc<OwnedFd>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a command whose environment was cleared, as [`Rbuild`](super::Rbuild) makes them;
    /// `setsid` gives it the terminal.
    pub(crate) fn start(command: &Command, width: u16, height: u16) -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: OwnedFd = rustix::fs::open(&*name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&master, size(width, height)).unwrap();
        let mut on_terminal = Command::new("setsid");
        on_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        if let Some(folder) = command.get_current_dir() {
            on_terminal.current_dir(folder);
        }
        let child = on_terminal
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .spawn()
            .unwrap();
        // The command holds the other end's descriptors until it is dropped.
        drop(on_terminal);
        let master = Arc::new(master);
        let seen = Arc::new(Mutex::new(Seen {
            parser: vt100::Parser::new(height, width, 0),
            bytes: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (master, seen, stop) = (Arc::clone(&master), Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || read(&master, &seen, &stop))
        };
        Terminal {
            child,
            master,
            seen,
            stop,
            reader: Some(reader),
        }
    }

    /// What the screen shows, line by line, without blanks at the ends.
    pub(crate) fn screen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let width = seen.parser.screen().size().1;
        let rows = seen.parser.screen().rows(0, width);
        let mut lines: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Everything that was written to the terminal.
    pub(crate) fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().bytes).into_owned()
    }

    /// Whether the cursor can be seen.
    pub(crate) fn shows_cursor(&self) -> bool {
        !self.seen.lock().unwrap().parser.screen().hide_cursor()
    }

    /// Waits until the screen shows this.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.screen().iter().any(|line| line.contains(text)) {
            assert!(
                begun.elapsed() < LIMIT && self.child.try_wait().unwrap().is_none(),
                "`{text}` never came:\n{}",
                self.screen().join("\n")
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types something; `\x03` is Ctrl-C.
    pub(crate) fn type_in(&self, text: &str) {
        let mut master = File::from(self.master.try_clone().unwrap());
        master.write_all(text.as_bytes()).unwrap();
    }

    /// Changes the size, as a window manager does: the program gets SIGWINCH.
    pub(crate) fn resize(&self, width: u16, height: u16) {
        let mut seen = self.seen.lock().unwrap();
        seen.parser.screen_mut().set_size(height, width);
        tcsetwinsize(&*self.master, size(width, height)).unwrap();
    }

    /// Closes the terminal under the program.
    pub(crate) fn hang_up(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        // The last descriptor of this end.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        self.master = Arc::new(null.unwrap());
    }

    /// Waits for the program's end and for all that it has written.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "it does not end:\n{}",
                self.screen().join("\n")
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn size(width: u16, height: u16) -> Winsize {
    Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Reads until nobody has the other end open.
fn read(master: &OwnedFd, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while !stop.load(Ordering::SeqCst) {
        let mut ready = [PollFd::new(master, PollFlags::IN)];
        if poll(&mut ready, Some(&pause)).unwrap_or(0) == 0 {
            continue;
        }
        match rustix::io::read(master, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => return,
            Ok(count) => {
                let mut seen = seen.lock().unwrap();
                seen.parser.process(&buffer[..count]);
                seen.bytes.extend_from_slice(&buffer[..count]);
            }
            Err(_) => {}
        }
    }
}
