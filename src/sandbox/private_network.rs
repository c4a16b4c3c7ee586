//! A network of a step's own that reaches the outside through a program of another project: `pasta`
//! or `slirp4netns`, run by the outside helper as the user who called rbuild.
//!
//! Nothing of the machine can be reached by it but what everybody can reach: not what listens on
//! loopback, and no abstract socket. Name servers are asked by the program, from the machine's own
//! network, so that one that listens on the machine's loopback answers, too. It ends with the step.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::outside::{OutsideError, OutsideHelper, OutsideOutput, OutsideProgram};
use super::syscall;

/// How long a program may take until there is a way out.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(2);

/// Where a program answers for the machine's name servers.
const PASTA_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const SLIRP_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
pub enum PrivateNetworkError {
    /// No program for it.
    #[error(
        "a private network needs the program `pasta` or `slirp4netns`: install the package `passt` or `slirp4netns`"
    )]
    Missing,
    /// The programs that are there fail.
    #[error("`{program}` makes no private network: {reason}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it says.
        reason: String,
    },
    /// The kernel refuses.
    #[error("can't make a network namespace")]
    Namespace {
        /// Why.
        source: std::io::Error,
    },
}

/// A network namespace with a way out, for as long as this lives.
#[derive(Debug)]
pub struct PrivateNetwork {
    namespace: OwnedFd,
    name_server: Ipv4Addr,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl PrivateNetwork {
    /// Makes one, by the first program that can.
    ///
    /// # Errors
    /// When none is installed, or none works here.
    pub fn start(outside: &OutsideHelper) -> Result<Self, PrivateNetworkError> {
        let mut error = PrivateNetworkError::Missing;
        for (program, name_server) in [
            (pasta(outside), PASTA_NAME_SERVER),
            (slirp4netns(outside), SLIRP_NAME_SERVER),
        ] {
            match Self::by(outside, program, name_server) {
                Ok(network) => return Ok(network),
                Err(PrivateNetworkError::Missing) => {}
                // What the better program says counts.
                Err(other) if matches!(error, PrivateNetworkError::Missing) => error = other,
                Err(_) => {}
            }
        }
        Err(error)
    }

    fn by(
        outside: &OutsideHelper,
        (name, program): (&'static str, OutsideProgram),
        name_server: Ipv4Addr,
    ) -> Result<Self, PrivateNetworkError> {
        let failed = |source: std::io::Error| PrivateNetworkError::Namespace { source };
        let namespace = make_namespace().map_err(|errno| failed(errno.into()))?;
        let user = std::fs::File::open("/proc/self/ns/user").map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, ended) = mpsc::channel();
        let running = std::thread::Builder::new()
            .name("private-network".to_owned())
            .spawn({
                let (outside, stop) = (outside.clone(), Arc::clone(&stop));
                let namespace = namespace.try_clone().map_err(failed)?;
                move || {
                    let files = [namespace.as_fd(), user.as_fd()];
                    let is_over = || stop.load(Ordering::Relaxed);
                    // Nobody listens any more once the network has been there.
                    let _ = tell.send(outside.run_with(&program, &files, &is_over));
                }
            })
            .map_err(failed)?;
        let network = Self {
            namespace,
            name_server,
            stop,
            running: Some(running),
        };
        // A thread in a namespace stays in it: this one ends.
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for_way_out(name, &network.namespace, ended));
            waiting.join()
        });
        match waiting {
            Ok(waited) => waited.map(|()| network),
            Err(_) => Err(failed(std::io::ErrorKind::Other.into())),
        }
    }

    /// The namespace, to be entered.
    ///
    /// # Errors
    /// When this process has too many open files.
    pub fn namespace(&self) -> std::io::Result<OwnedFd> {
        self.namespace.try_clone()
    }

    /// Who answers for the machine's name servers.
    pub fn name_server(&self) -> Ipv4Addr {
        self.name_server
    }
}

impl Drop for PrivateNetwork {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// Passes on what belongs to the namespaces: the network's, and where rbuild has one of its own the
/// user's, without which nobody outside may change anything in the network's.
fn pasta(outside: &OutsideHelper) -> (&'static str, OutsideProgram) {
    let mut program = OutsideProgram::new("pasta").passing("--netns=", 0);
    program = match outside.is_elsewhere() {
        true => program.passing("--userns=", 1),
        // It would become `nobody`, who may not enter.
        false => program.arg("--netns-only").arg("--runas").arg("0"),
    };
    for option in [
        "--foreground",
        "--quiet",
        "--stderr",
        "--config-net",
        "--no-map-gw",
    ] {
        program = program.arg(option);
    }
    // No port of either side on the other.
    for option in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        program = program.arg(option).arg("none");
    }
    let program = program
        .arg("--dns-forward")
        .arg(PASTA_NAME_SERVER.to_string());
    ("pasta", program.inherits_only(&["PATH"]).group())
}

fn slirp4netns(outside: &OutsideHelper) -> (&'static str, OutsideProgram) {
    let mut program = OutsideProgram::new("slirp4netns");
    program = match outside.is_elsewhere() {
        true => program.passing("--userns-path=", 1),
        // Root gives up what it may; an ordinary user has nothing to give up.
        false => program.arg("--enable-sandbox"),
    };
    for option in [
        "--configure",
        "--disable-host-loopback",
        "--netns-type=path",
    ] {
        program = program.arg(option);
    }
    let program = program.passing("", 0).arg("tap0");
    ("slirp4netns", program.inherits_only(&["PATH"]).group())
}

/// A new network namespace of this process's user namespace, its loopback device up.
fn make_namespace() -> Result<OwnedFd, Errno> {
    let making = std::thread::spawn(|| {
        syscall::unshare(UnshareFlags::NEWNET)?;
        syscall::bring_loopback_up()?;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net");
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        namespace.map(OwnedFd::from).map_err(failed)
    });
    making.join().unwrap_or(Err(Errno::IO))
}

/// Enters a namespace with this thread and waits until a route leads out of it, or the program has
/// ended.
fn wait_for_way_out(
    program: &'static str,
    namespace: &OwnedFd,
    ended: mpsc::Receiver<Result<OutsideOutput, OutsideError>>,
) -> Result<(), PrivateNetworkError> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| PrivateNetworkError::Namespace {
            source: errno.into(),
        })?;
    let failed = |reason: String| PrivateNetworkError::Failed { program, reason };
    let begun = Instant::now();
    loop {
        let routes = std::fs::read_to_string("/proc/thread-self/net/route");
        if routes.is_ok_and(|routes| leads_out(&routes)) {
            return Ok(());
        }
        match ended.recv_timeout(PAUSE) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(failed("its thread ended".to_owned()));
            }
            Ok(Ok(output)) => return Err(failed(last_line(&output))),
            Ok(Err(OutsideError::NotStarted { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Err(PrivateNetworkError::Missing);
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
        }
        if begun.elapsed() > PATIENCE {
            let patience = PATIENCE.as_secs();
            return Err(failed(format!("no route after {patience} seconds")));
        }
    }
}

/// Whether a table of routes, as the kernel prints it, has a default one.
fn leads_out(routes: &str) -> bool {
    let mut rows = routes.lines().skip(1);
    rows.any(|row| row.split_whitespace().nth(1) == Some("00000000"))
}

/// The last of what a program says that has to do with its end.
fn last_line(output: &OutsideOutput) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
    let lines: Vec<&str> = lines.collect();
    match lines.as_slice() {
        [] => format!("it ended with code {}", output.code),
        lines => lines[lines.len().saturating_sub(2)..].join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_leads_out() {
        let heading = "Iface\tDestination\tGateway \tFlags\n";
        for (rows, expected) in [
            ("", false),
            ("tap0\t0002000A\t00000000\t0001\n", false),
            (
                "tap0\t0002000A\t00000000\t0001\ntap0\t00000000\t0202000A\t0003\n",
                true,
            ),
        ] {
            assert_eq!(leads_out(&format!("{heading}{rows}")), expected, "{rows}");
        }
        assert!(!leads_out(""));
    }

    #[test]
    fn a_program_that_fails_has_its_last_words() {
        let output = |stderr: &str| OutsideOutput {
            code: 1,
            stdout: Vec::new(),
            stderr: stderr.into(),
        };
        for (stderr, expected) in [
            ("", "it ended with code 1"),
            ("a\nb\n\nc\n", "b; c"),
            ("Failed to send 45 bytes to syslog\nno tun\n", "no tun"),
        ] {
            assert_eq!(last_line(&output(stderr)), expected);
        }
    }
}
