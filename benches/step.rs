//! What it costs to start and to end a RUN step that does nothing: rbuild's sandbox, next to the
//! least that the kernel asks for (a process in new namespaces, an overlay, a /proc, an exec) and to
//! the programs that others use: runc, crun and bubblewrap.
//!
//! `cargo bench --bench step [ROUNDS]`, as root or as an ordinary user, on tmpfs (`/dev/shm`), with a
//! static busybox. The tools take turns; medians are printed, in milliseconds, and how many times
//! the least they are. Programs that aren't installed are left out. Where ids are lent, rbuild's steps
//! are asked about ids beyond those, as in a build, and measured without that, too.

#![allow(unsafe_code, clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rbuild::platform::Platform;
use rbuild::sandbox::{
    self, HighestIds, HostPath, Isolation, Launcher, Needs, Network, NotedOwners, Outcome,
    Processes, Resources, SandboxFiles, SandboxSpec, Security, Writable,
};
use rustix::fs::{MemfdFlags, memfd_create};

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    let rounds: usize = arguments.next().map_or(200, |word| word.parse().unwrap());
    // Before any thread, like the program.
    let processes = sandbox::enter(&Needs {
        trees: true,
        isolation: None,
        emulators: Vec::new(),
        resumes_launcher: false,
        folder: None,
    })
    .unwrap();
    let folder = tempfile::Builder::new()
        .prefix("rbuild-bench")
        .tempdir_in("/dev/shm")
        .unwrap();
    let place = Place::new(folder.path());
    let launcher = processes.launcher.clone().unwrap();
    let stand_in = match &processes.isolation {
        // As a build does it.
        Isolation::UserNamespace { range } => {
            let highest = range.iter().map(|(inside, _, count)| inside + count - 1);
            let id = highest.max().unwrap();
            Some(HighestIds { uid: id, gid: id })
        }
        _ => None,
    };
    let mut tools: Vec<Tool<'_>> = vec![
        Tool::new("clone, mount, exec", floor),
        Tool::new("rbuild", |place| {
            step(place, &launcher, &processes, stand_in)
        }),
    ];
    if stand_in.is_some() {
        tools.push(Tool::new("rbuild, asking nothing", |place| {
            step(place, &launcher, &processes, None)
        }));
    }
    if works("bwrap") {
        tools.push(Tool::new("bwrap", bubblewrap));
    }
    if works("crun") {
        let namespace = one_version_of_cgroups();
        let run = move |place: &Place| crun(place, namespace.as_ref());
        tools.push(Tool::new("crun", run));
    }
    if works("runc") {
        let run = |place: &Place| oci_runtime("runc", Command::new("runc"), place);
        tools.push(Tool::new("runc", run));
    }
    place.write_bundle();
    tools.retain(|tool| {
        let runs = (tool.run)(&place);
        if !runs {
            println!("{}: doesn't run here", tool.name);
        }
        runs
    });
    for round in 0..rounds + 5 {
        for tool in &mut tools {
            let begun = Instant::now();
            assert!((tool.run)(&place), "{}", tool.name);
            // The first rounds warm the caches.
            if round >= 5 {
                tool.times.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    println!("isolation {}, {rounds} rounds", processes.isolation.rung());
    let least = tools[0].median();
    for tool in &mut tools {
        let median = tool.median();
        println!(
            "{:22} {median:8.3} ms {:6.2} times",
            tool.name,
            median / least
        );
    }
}

struct Tool<'a> {
    name: &'static str,
    run: Box<dyn Fn(&Place) -> bool + 'a>,
    times: Vec<f64>,
}

impl<'a> Tool<'a> {
    fn new(name: &'static str, run: impl Fn(&Place) -> bool + 'a) -> Self {
        Self {
            name,
            run: Box::new(run),
            times: Vec::new(),
        }
    }

    fn median(&mut self) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[self.times.len() / 2]
    }
}

/// Where everything lies.
struct Place {
    base: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    root: PathBuf,
    bundle: PathBuf,
}

impl Place {
    fn new(folder: &Path) -> Self {
        let place = Self {
            base: folder.join("base"),
            upper: folder.join("upper"),
            work: folder.join("work"),
            root: folder.join("root"),
            bundle: folder.join("bundle"),
        };
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(place.base.join(name)).unwrap();
        }
        for path in [&place.upper, &place.work, &place.root, &place.bundle] {
            fs::create_dir(path).unwrap();
        }
        let busybox = BUSYBOX.iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.unwrap(), place.base.join("bin/busybox")).unwrap();
        symlink("busybox", place.base.join("bin/true")).unwrap();
        place
    }

    /// Overlay wants an empty one each time.
    fn fresh_work(&self) {
        fs::remove_dir_all(&self.work).unwrap();
        fs::create_dir(&self.work).unwrap();
    }

    /// An OCI bundle with what the runtime itself takes as default, and no terminal.
    fn write_bundle(&self) {
        let runtime = ["runc", "crun"].into_iter().find(|name| works(name));
        let Some(runtime) = runtime else { return };
        let mut spec = Command::new(runtime);
        spec.arg("spec").current_dir(&self.bundle);
        if !rustix::process::geteuid().is_root() {
            spec.arg("--rootless");
        }
        assert!(spec.status().unwrap().success());
        let path = self.bundle.join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/true"]);
        config["root"]["path"] = self.base.to_str().unwrap().into();
        config["process"]["rlimits"] = serde_json::json!([]);
        fs::write(&path, config.to_string()).unwrap();
    }
}

fn works(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn succeeds(mut command: Command) -> bool {
    let status = command.stdin(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn step(
    place: &Place,
    launcher: &Launcher,
    processes: &Processes,
    stand_in: Option<HighestIds>,
) -> bool {
    place.fresh_work();
    let null = || fs::File::create("/dev/null").unwrap().into();
    let notes = || memfd_create("owners", MemfdFlags::CLOEXEC).unwrap();
    let spec = SandboxSpec {
        folder: None,
        owners: stand_in.map(|_| NotedOwners {
            noted: Vec::new(),
            names: None,
            notes: 0,
            stand_in,
        }),
        platform: Platform::host().to_string(),
        lower: vec![HostPath::from(&place.base)],
        writable: Writable {
            upper: HostPath::from(&place.upper),
            work: HostPath::from(&place.work),
        },
        xattr_namespace: processes.xattr_namespace,
        mounts: Vec::new(),
        stand_ins: Vec::new(),
        args: vec!["/bin/true".to_owned()],
        env: Vec::new(),
        cwd: b"/".to_vec(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        hostname: "rbuild".to_owned(),
        network: Network::Host,
        security: Security::Sandbox,
        read_only: false,
        terminal: None,
        resources: Resources::default(),
    };
    let files = SandboxFiles {
        stdin: None,
        stdout: null(),
        stderr: null(),
        passed: stand_in.iter().map(|_| notes()).collect(),
    };
    let outcome = launcher.run(spec, files).unwrap().wait().unwrap();
    outcome == Outcome::Exited { code: 0 }
}

/// Which works without an overlay of its own: over the plain folder.
fn bubblewrap(place: &Place) -> bool {
    let mut command = Command::new("bwrap");
    command
        .args([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup",
        ])
        .args(["--die-with-parent", "--bind"])
        .arg(&place.base)
        .args(["/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]);
    succeeds(command)
}

/// crun takes no mixture of both versions of control groups, whatever it is told of them: it runs
/// where it finds version 2 alone.
fn crun(place: &Place, namespace: Option<&fs::File>) -> bool {
    let mut command = Command::new("crun");
    // The step gets no cgroup either.
    command.arg("--cgroup-manager=disabled");
    if let Some(namespace) = namespace {
        let descriptor = namespace.as_raw_fd();
        let folder = place.bundle.clone();
        // SAFETY: one system call between fork and exec, with a descriptor that stays open.
        unsafe {
            command.pre_exec(move || match libc::setns(descriptor, libc::CLONE_NEWNS) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command.current_dir(folder);
    }
    oci_runtime("crun", command, place)
}

/// A mount namespace with version 2 of control groups alone, where this machine has both.
fn one_version_of_cgroups() -> Option<fs::File> {
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return None;
    }
    let mut holder = Command::new("unshare")
        .args(["--mount", "--cgroup", "--", "sh", "-c"])
        .arg("mount -t cgroup2 none /sys/fs/cgroup && echo && exec cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let ready = holder
        .stdout
        .as_mut()?
        .read(&mut [0])
        .is_ok_and(|read| read == 1);
    let namespace = fs::File::open(format!("/proc/{}/ns/mnt", holder.id())).ok();
    // It ends with its input.
    drop(holder.stdin.take());
    holder.wait().ok()?;
    namespace.filter(|_| ready)
}

fn oci_runtime(name: &str, mut command: Command, place: &Place) -> bool {
    command
        .arg("--root")
        .arg(place.bundle.join("state"))
        .arg("run")
        .arg("--bundle")
        .arg(&place.bundle)
        .arg(format!("bench-{name}"));
    succeeds(command)
}

/// A process in new namespaces, an overlay, a /proc, another root, another program: nothing that
/// could be left out.
fn floor(place: &Place) -> bool {
    place.fresh_work();
    let path = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    let root = path(&place.root);
    let options = CString::new(format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        place.base.display(),
        place.upper.display(),
        place.work.display()
    ))
    .unwrap();
    let flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork; the child makes system calls with arguments made
    // before, and ends.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        )
    };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: all pointers are C strings or null, and outlive the calls.
        unsafe { become_true(&root, &options) }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child as i32, &raw mut status, 0) };
    status == 0
}

/// # Safety
/// Only in a process that shares its memory with no other.
unsafe fn become_true(root: &CString, options: &CString) -> ! {
    let null = std::ptr::null();
    let check = |result: i32, code: i32| {
        if result != 0 {
            // SAFETY: ends this process, nothing else.
            unsafe { libc::_exit(code) }
        }
    };
    // SAFETY: see the caller.
    unsafe {
        let private = libc::MS_PRIVATE | libc::MS_REC;
        check(
            libc::mount(null, c"/".as_ptr(), null, private, null.cast()),
            2,
        );
        let overlay = c"overlay".as_ptr();
        check(
            libc::mount(overlay, root.as_ptr(), overlay, 0, options.as_ptr().cast()),
            3,
        );
        check(libc::chdir(root.as_ptr()), 4);
        let proc = c"proc".as_ptr();
        check(libc::mount(proc, proc, proc, 0, null.cast()), 5);
        let here = c".".as_ptr();
        check(libc::syscall(libc::SYS_pivot_root, here, here) as i32, 6);
        check(libc::umount2(here, libc::MNT_DETACH), 7);
        let args = [c"/bin/true".as_ptr(), null];
        libc::execve(args[0], args.as_ptr(), [null].as_ptr());
        libc::_exit(8)
    }
}
