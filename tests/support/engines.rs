//! Container engines with state of their own: a Docker daemon, and Podman with its own storage.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::needs::{Need, needs, program};
use super::process::{Finished, run_with_timeout};
use super::{Image, base_image_mirror, saved_images, skip};

/// A Docker daemon on a socket of its own; it ends when dropped.
pub(crate) struct Docker {
    child: Child,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts one; where that can't be, says why and gives none.
    pub(crate) fn start() -> Option<Docker> {
        // Works on every file system; the images are small.
        Docker::start_with(&std::env::temp_dir(), &["--storage-driver", "vfs"])
    }

    /// Starts one that builds, which has to be quick: with the storage driver that suits the
    /// machine, and in memory where there is enough, since it syncs after every step.
    pub(crate) fn start_builder() -> Option<Docker> {
        if builder().is_none() {
            skip("no `docker` that has BuildKit in it: 18.09 to 20.10 have");
            return None;
        }
        let memory = Path::new("/dev/shm");
        let room = |path: &Path| {
            rustix::fs::statvfs(path)
                .is_ok_and(|found| found.f_bavail * found.f_frsize >= 512 << 20)
        };
        if room(memory) {
            return Docker::start_with(memory, &[]);
        }
        Docker::start_with(&std::env::temp_dir(), &[])
    }

    fn start_with(place: &Path, options: &[&str]) -> Option<Docker> {
        if !needs(&[
            Need::Root,
            Need::Program("dockerd"),
            Need::Program("docker"),
        ]) {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("rbuild-docker-")
            .tempdir_in(place)
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
            .args(options)
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

    /// Gives an image of the tests' base images its usual name.
    pub(crate) fn pull_base(&self, name: &str) {
        let mirror = base_image_mirror().unwrap();
        let registry = mirror.strip_prefix("http://").unwrap();
        let there = format!("{registry}/library/{name}");
        self.run(&["pull", "--quiet", &there]).ok();
        self.run(&["tag", &there, name]).ok();
    }

    /// Builds a folder with the daemon's BuildKit and names the image.
    pub(crate) fn build(
        &self,
        context: &Path,
        args: &[String],
        env: &[(String, String)],
        tag: &str,
    ) -> Finished {
        let mut command = Command::new(builder().expect("no `docker` with BuildKit"));
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_BUILDKIT", "1")
            .envs(env.iter().map(|(name, value)| (name, value)))
            // It has no bridge to put steps on.
            .args([
                "build",
                "--network",
                "none",
                "--progress",
                "plain",
                "-t",
                tag,
            ])
            .args(args)
            .arg(context);
        run_with_timeout(command, None)
    }

    /// The images of these names, all there is of them.
    pub(crate) fn images(&self, names: &[String]) -> BTreeMap<String, Image> {
        if names.is_empty() {
            return BTreeMap::new();
        }
        let inspect = ["image", "inspect", "--format", "{{.Id}}"];
        let inspect = inspect.into_iter().chain(names.iter().map(String::as_str));
        let ids = self.run(&inspect.collect::<Vec<_>>()).ok().text();
        let mut images = BTreeMap::new();
        let mut with_layers = Vec::new();
        for (name, id) in names.iter().zip(ids.lines()) {
            let config = self.config(id);
            if config["rootfs"]["diff_ids"].is_array() {
                with_layers.push(name.as_str());
            }
            images.insert(name.clone(), Image::of_config(config));
        }
        // It refuses to save images that have no layer.
        if !with_layers.is_empty() {
            let file = self.folder.path().join("saved.tar");
            let path = file.display().to_string();
            let save = ["save", "-o", &path].into_iter().chain(with_layers);
            self.run(&save.collect::<Vec<_>>()).ok();
            images.extend(saved_images(&file));
        }
        images
    }

    /// An image's config as the daemon keeps it.
    fn config(&self, id: &str) -> Value {
        let hex = id.strip_prefix("sha256:").unwrap();
        let drivers = std::fs::read_dir(self.folder.path().join("data/image")).unwrap();
        let text = drivers
            .map(|driver| driver.unwrap().path())
            .find_map(|driver| std::fs::read(driver.join("imagedb/content/sha256").join(hex)).ok());
        serde_json::from_slice(&text.unwrap_or_else(|| panic!("no config of {id}"))).unwrap()
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
        // Works on every file system; the images are small.
        Podman::with_storage("vfs")
    }

    /// The same, with a storage driver.
    pub(crate) fn with_storage(driver: &str) -> Option<Podman> {
        if !needs(&[Need::Root, Need::Program("podman")]) {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("rbuild-podman-")
            .tempdir()
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let script = format!(
            "#!/bin/sh\nexec {} --root {} --runroot {} --tmpdir {} --storage-driver {driver} \
             --cgroup-manager cgroupfs --runtime runc \"$@\"\n",
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

/// The client that builds with the daemon's BuildKit by itself: newer ones leave it to a plugin.
fn builder() -> Option<&'static Path> {
    static BUILDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let candidates = [program("docker"), Some("/usr/bin/docker".into())];
        candidates.into_iter().flatten().find(|path| {
            let shown = Command::new(path).arg("--version").output();
            shown.is_ok_and(|output| {
                let version = String::from_utf8_lossy(&output.stdout).into_owned();
                let version = version.trim_start_matches("Docker version ").to_owned();
                let major = version.split('.').next().and_then(|part| part.parse().ok());
                major.is_some_and(|major: u32| (18..=20).contains(&major))
            })
        })
    };
    BUILDER.get_or_init(find).as_deref()
}

/// Writes a program that everyone may run.
pub(crate) fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
