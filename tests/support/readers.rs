//! How other tools read an image: umoci, podman and containerd each unpack it into a folder,
//! which becomes a [`Tree`] to compare.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::needs::{Need, program};
use super::process::{Finished, run_with_timeout};
use super::{Registry, Tree};

/// What it takes to ask all of them.
pub(crate) const READERS: [Need; 6] = [
    Need::Root,
    Need::BaseImages,
    Need::Program("umoci"),
    Need::Program("skopeo"),
    Need::Program("podman"),
    Need::Program("containerd"),
];

fn run(name: &str, args: &[&str]) -> Finished {
    let mut command = Command::new(program(name).unwrap_or_else(|| panic!("no `{name}`")));
    command.args(args);
    run_with_timeout(command, None)
}

/// What `umoci unpack` makes of an image in a registry, by way of `skopeo copy`.
pub(crate) fn umoci_tree(registry: &Registry, name: &str) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let layout = layout.to_str().unwrap();
    let bundle = folder.path().join("bundle");
    run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &format!("docker://{}", registry.name(name)),
            &format!("oci:{layout}:image"),
        ],
    )
    .ok();
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{layout}:image"),
            bundle.to_str().unwrap(),
        ],
    )
    .ok();
    Tree::of_folder(&bundle.join("rootfs"))
}

/// What podman makes of an image in a registry, mounted from its own storage.
pub(crate) fn podman_tree(registry: &Registry, name: &str) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let runroot = folder.path().join("runroot");
    let tmpdir = folder.path().join("tmp");
    let podman = |args: &[&str]| {
        let mut command = Command::new(program("podman").expect("no `podman`"));
        command
            .arg("--root")
            .arg(&root)
            .arg("--runroot")
            .arg(&runroot)
            // Its own: a reset takes the machine's away from whoever else runs podman.
            .arg("--tmpdir")
            .arg(&tmpdir)
            .args([
                "--storage-driver",
                "overlay",
                "--cgroup-manager",
                "cgroupfs",
            ])
            .args(args);
        run_with_timeout(command, None)
    };
    let image = registry.name(name);
    podman(&["pull", "--quiet", "--tls-verify=false", &image]).ok();
    let mounted = podman(&["image", "mount", &image]).ok().text();
    let tree = Tree::of_folder(Path::new(&mounted));
    podman(&["image", "unmount", "--force", &image]).ok();
    let _ = podman(&["system", "reset", "--force"]);
    unmount_below(folder.path());
    tree
}

/// Takes off the mounts that a tool has left in its folder, so that the folder can be removed.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let left = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| Path::new(place).starts_with(folder));
    for place in left {
        let _ = run("umount", &["--lazy", place]);
    }
}

/// A containerd of its own, with runc; it ends when dropped. One at a time: its shims and
/// mounts are the machine's.
pub(crate) struct Containerd {
    child: Child,
    folder: Option<tempfile::TempDir>,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Containerd {
    /// Starts one.
    pub(crate) fn start() -> Containerd {
        let alone = ALONE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = tempfile::Builder::new()
            .prefix("rbuild-containerd-")
            .tempdir()
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = format!(
            "version = 2\n\
             root = {:?}\n\
             state = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\n\
             address = {:?}\n\
             [ttrpc]\n\
             address = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("ttrpc"),
        );
        std::fs::write(path("config.toml"), settings).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(program("setpriv").expect("no `setpriv`"))
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program("containerd").expect("no `containerd`"))
            .args(["-c", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Containerd {
            child,
            folder: Some(folder),
            _alone: alone,
        };
        let begun = Instant::now();
        while !containerd.ctr(&["version"]).status.success() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "containerd did not start:\n{}",
                std::fs::read_to_string(containerd.path("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        containerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().unwrap().path().join(name)
    }

    /// The value of `CONTAINERD_ADDRESS` that leads to it.
    pub(crate) fn address(&self) -> PathBuf {
        self.path("sock")
    }

    /// Runs `ctr ARGS`.
    pub(crate) fn ctr(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(program("ctr").expect("no `ctr`"));
        command.arg("--address").arg(self.path("sock")).args(args);
        run_with_timeout(command, None)
    }

    /// Pulls an image.
    pub(crate) fn pull(&self, registry: &Registry, name: &str) -> String {
        let image = registry.name(name);
        self.ctr(&["images", "pull", "--plain-http", &image]).ok();
        image
    }

    /// What containerd makes of an image in a registry, mounted from its snapshotter.
    pub(crate) fn tree(&self, registry: &Registry, name: &str) -> Tree {
        let image = self.pull(registry, name);
        let place = self.path("mounted");
        std::fs::create_dir_all(&place).unwrap();
        let place = place.to_str().unwrap();
        self.ctr(&["images", "mount", &image, place]).ok();
        let tree = Tree::of_folder(Path::new(place));
        self.ctr(&["images", "unmount", "--rm", place]).ok();
        tree
    }

    /// Starts a server image in a network of its own, where just loopback is, asks it for a page
    /// and gives the answer.
    pub(crate) fn answer(&self, registry: &Registry, name: &str, url: &str) -> String {
        let image = self.pull(registry, name);
        let network = Network::new();
        let joined = format!("network:/run/netns/{}", network.0);
        // The runtime's own state is the machine's, so the name must be nobody else's.
        let server = network.0.as_str();
        self.ctr(&["run", "--detach", "--with-ns", &joined, &image, server])
            .ok();
        let begun = Instant::now();
        let answer = loop {
            let asked = network.run(&["busybox", "wget", "-q", "-O", "-", url]);
            if asked.status.success() || begun.elapsed() > Duration::from_secs(30) {
                break asked;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let _ = self.ctr(&["task", "kill", "--signal", "9", server]);
        let gone = Instant::now();
        while !self.ctr(&["task", "delete", server]).status.success()
            && gone.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.ctr(&["container", "delete", server]);
        answer.ok().text()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(folder) = &self.folder {
            unmount_below(folder.path());
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            let from = log.len().saturating_sub(3000);
            let _ = writeln!(
                std::io::stderr(),
                "containerd said:\n{}",
                log.get(from..).unwrap_or_default()
            );
        }
    }
}

/// A network namespace with nothing but a loopback interface that is up.
struct Network(String);

impl Network {
    fn new() -> Network {
        let name = format!("rbuild-test-{}", std::process::id());
        let _ = run("ip", &["netns", "delete", &name]);
        run("ip", &["netns", "add", &name]).ok();
        run("ip", &["-n", &name, "link", "set", "lo", "up"]).ok();
        Network(name)
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut whole = vec!["netns", "exec", &self.0];
        whole.extend_from_slice(args);
        run("ip", &whole)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "delete", &self.0]);
    }
}
