//! Container engines with state of their own: a Docker daemon, and Podman with its own storage.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::needs::{Need, needs, program};
use super::process::{Finished, run_with_timeout};
use super::skip;

/// A Docker daemon on a socket of its own; it ends when dropped.
pub(crate) struct Docker {
    child: Child,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts one; where that can't be, says why and gives none.
    pub(crate) fn start() -> Option<Docker> {
        if !needs(&[
            Need::Root,
            Need::Program("dockerd"),
            Need::Program("docker"),
        ]) {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("rbuild-docker-")
            .tempdir()
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(program("setpriv").expect("no `setpriv`"))
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program("dockerd").unwrap())
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args([
                "--host",
                &format!("unix://{}", path("sock")),
                "--pidfile",
                &path("pid"),
            ])
            .args(["--bridge", "none", "--iptables=false"])
            // Works on every file system; the images are small.
            .args(["--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut docker = Docker { child, folder };
        let begun = Instant::now();
        while !docker.run(&["version"]).status.success() {
            let ended = docker.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(docker.folder.path().join("log"));
                let log = log.unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                skip(&format!("`dockerd` doesn't start here: {last}"));
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(docker)
    }

    /// The value of `DOCKER_HOST` that leads to it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("sock").display())
    }

    /// Runs `docker ARGS`.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(program("docker").unwrap());
        command.env("DOCKER_HOST", self.host()).args(args);
        run_with_timeout(command, None)
    }

    /// The id of an image.
    #[track_caller]
    pub(crate) fn id(&self, name: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Id}}", name])
            .ok()
            .text()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(2000);
            let _ = writeln!(
                std::io::stderr(),
                "dockerd said:\n{}",
                log.get(from..).unwrap_or_default()
            );
        }
    }
}

/// Podman with a storage of its own, for the user who runs the tests.
pub(crate) struct Podman {
    folder: tempfile::TempDir,
}

impl Podman {
    /// A `podman` with nothing in it; says why where there can be none.
    pub(crate) fn new() -> Option<Podman> {
        if !needs(&[Need::Root, Need::Program("podman")]) {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("rbuild-podman-")
            .tempdir()
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let script = format!(
            "#!/bin/sh\nexec {} --root {} --runroot {} --tmpdir {} --storage-driver vfs \
             --cgroup-manager cgroupfs \"$@\"\n",
            program("podman").unwrap().display(),
            path("root"),
            path("run"),
            path("tmp"),
        );
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        write_program(&folder.path().join("bin/podman"), &script);
        Some(Podman { folder })
    }

    /// The folder that holds a program `podman` for a search path.
    pub(crate) fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// Runs `podman ARGS`.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(self.bin().join("podman"));
        command.args(args);
        run_with_timeout(command, None)
    }

    /// The id of an image, as Docker writes it.
    #[track_caller]
    pub(crate) fn id(&self, name: &str) -> String {
        let id = self.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        format!("sha256:{}", id.ok().text())
    }
}

/// Writes a program that everyone may run.
pub(crate) fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
