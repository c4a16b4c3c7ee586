//! Starting steps and looking at what came of them.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild::sandbox::{
    HostPath, Launcher, MountSource, Network, Outcome, Processes, Resources, Running, SandboxFiles,
    SandboxMount, SandboxSpec, Security, Writable,
};

/// What all cases share.
pub(crate) struct Fixture {
    pub(crate) processes: Processes,
    /// A directory of this run's own, on a disk.
    pub(crate) scratch: PathBuf,
    /// A root file system with busybox in it.
    pub(crate) base: PathBuf,
    /// Whether `attacks.c` is in it, too, as `/bin/attacks`.
    pub(crate) has_attacks: bool,
    next: AtomicUsize,
}

/// How a step ended, and what it left.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Its changes.
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
}

impl Ran {
    /// The output of a step that must have succeeded.
    #[track_caller]
    pub(crate) fn output(&self) -> &str {
        assert_eq!(
            self.outcome,
            Outcome::Exited { code: 0 },
            "stdout {:?}, stderr {:?}",
            self.stdout,
            self.stderr
        );
        self.stdout.trim_end()
    }

    /// The message of a sandbox that could not be made.
    #[track_caller]
    pub(crate) fn setup_failure(&self) -> String {
        match &self.outcome {
            Outcome::SetupFailed(failure) => failure.to_string(),
            other => panic!("{other:?} {:?} {:?}", self.stdout, self.stderr),
        }
    }
}

impl Fixture {
    pub(crate) fn new(processes: Processes, scratch: &Path) -> Self {
        let base = scratch.join("base");
        for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "run"] {
            std::fs::create_dir_all(base.join(directory)).unwrap();
        }
        let busybox = PathBuf::from(std::env::var_os("RBUILD_SANDBOX_TEST_BUSYBOX").unwrap());
        std::fs::copy(&busybox, base.join("bin/busybox")).unwrap();
        let applets = Command::new(&busybox).arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines() {
            if applet != "busybox" {
                symlink("busybox", base.join("bin").join(applet)).unwrap();
            }
        }
        let attacks = std::env::var_os("RBUILD_SANDBOX_TEST_ATTACKS");
        if let Some(attacks) = &attacks {
            std::fs::copy(attacks, base.join("bin/attacks")).unwrap();
        }
        Self {
            processes,
            scratch: scratch.to_path_buf(),
            base,
            has_attacks: attacks.is_some(),
            next: AtomicUsize::new(0),
        }
    }

    pub(crate) fn launcher(&self) -> &Launcher {
        self.processes.launcher.as_ref().unwrap()
    }

    /// A new, empty directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.join(format!("{name}{number}"));
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn writable(&self) -> Writable {
        Writable {
            upper: self.directory("upper").into(),
            work: self.directory("work").into(),
        }
    }

    /// A step that runs a program as user 0.
    pub(crate) fn program(&self, args: &[&str]) -> SandboxSpec {
        SandboxSpec {
            folder: None,
            owners: None,
            platform: rbuild::platform::Platform::host().to_string(),
            lower: vec![HostPath::from(&self.base)],
            writable: self.writable(),
            xattr_namespace: self.processes.xattr_namespace,
            mounts: Vec::new(),
            stand_ins: Vec::new(),
            args: args.iter().map(|&argument| argument.to_owned()).collect(),
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            cwd: b"/".to_vec(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: "sandbox".to_owned(),
            network: Network::Host,
            security: Security::Sandbox,
            read_only: false,
            terminal: None,
            resources: Resources::default(),
        }
    }

    /// A step that runs a shell script as user 0.
    pub(crate) fn script(&self, script: &str) -> SandboxSpec {
        self.program(&["/bin/sh", "-c", script])
    }

    /// Starts a step; the ends of its output are returned.
    pub(crate) fn start(
        &self,
        spec: SandboxSpec,
        stdin: Option<OwnedFd>,
        passed: Vec<OwnedFd>,
    ) -> (Running, File, File) {
        let (stdout, stdout_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (stderr, stderr_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let files = SandboxFiles {
            stdin,
            stdout: stdout_end,
            stderr: stderr_end,
            passed,
        };
        let running = self.launcher().run(spec, files).unwrap();
        (running, stdout.into(), stderr.into())
    }

    /// Runs a step to its end.
    pub(crate) fn run(&self, spec: SandboxSpec) -> Ran {
        self.run_with(spec, None, Vec::new())
    }

    pub(crate) fn run_with(
        &self,
        spec: SandboxSpec,
        stdin: Option<OwnedFd>,
        passed: Vec<OwnedFd>,
    ) -> Ran {
        let upper = spec.writable.upper.as_path().to_path_buf();
        let work = spec.writable.work.as_path().to_path_buf();
        let (running, mut stdout, mut stderr) = self.start(spec, stdin, passed);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stdout.read_to_end(&mut out).unwrap();
        stderr.read_to_end(&mut err).unwrap();
        Ran {
            outcome: running.wait().unwrap(),
            stdout: String::from_utf8_lossy(&out).into_owned(),
            stderr: String::from_utf8_lossy(&err).into_owned(),
            upper,
            work,
        }
    }

    /// Whether `/proc` shows the sandbox's processes only. Where the host's is partly hidden, as
    /// in a container, the kernel gives a user namespace no new one.
    pub(crate) fn has_own_proc(&self) -> bool {
        self.sh("read pid rest < /proc/self/stat; [ $pid = $$ ] && echo own || echo host") == "own"
    }

    /// The output of a script that must succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.run(self.script(script)).output().to_owned()
    }
}

/// A mount of something of the host's.
pub(crate) fn bind(source: impl Into<PathBuf>, target: &str, read_only: bool) -> SandboxMount {
    SandboxMount {
        target: target.as_bytes().to_vec(),
        source: MountSource::Path {
            root: HostPath::from(source),
            path: Vec::new(),
            recursive: true,
        },
        read_only,
    }
}

/// Any mount.
pub(crate) fn mount(source: MountSource, target: &str) -> SandboxMount {
    SandboxMount {
        target: target.as_bytes().to_vec(),
        source,
        read_only: false,
    }
}

/// Processes of the host whose command line holds a word, or whose variable TOKEN is it.
pub(crate) fn processes_with(word: &str) -> usize {
    let variable = format!("TOKEN={word}");
    let has = |folder: &std::path::Path, file: &str, word: &str| {
        let content = std::fs::read(folder.join(file)).unwrap_or_default();
        let mut words = content.split(|byte| *byte == 0);
        words.any(|found| found == word.as_bytes())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|process| has(process, "cmdline", word) || has(process, "environ", &variable))
        .count()
}

/// Waits, not for ever, until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within five seconds: {what}");
}
