//! Running the real binary.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::process::{Finished, run_with_timeout};
use super::{Image, Project, User, base_image_mirror};

/// Variables of the machine that rbuild may see in tests: how to reach the network, no more.
const PASSED_ON: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// rbuild with a store, a home and an environment of its own.
pub(crate) struct Rbuild {
    user: User,
    folder: Option<tempfile::TempDir>,
    environment: Vec<(OsString, OsString)>,
    outputs: AtomicUsize,
}

impl Rbuild {
    /// An rbuild with an empty store.
    pub(crate) fn new(user: &User) -> Rbuild {
        let folder = tempfile::Builder::new()
            .prefix("rbuild-test-")
            .tempdir()
            .unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        for name in ["", "home", "store", "out"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, mode.clone()).unwrap();
            user.own(&path);
        }
        Rbuild {
            user: user.clone(),
            folder: Some(folder),
            environment: Vec::new(),
            outputs: AtomicUsize::new(0),
        }
    }

    /// Sets a variable for all commands.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Rbuild {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// A folder that its user owns, for what it writes.
    pub(crate) fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// Its home folder.
    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Its store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// The bare command, to be run by the caller.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.user.command(self.user.binary());
        command
            .env("HOME", self.home())
            .env("RBUILD_ROOT", self.store())
            .current_dir(self.out());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A script that runs rbuild, to be run by the caller.
    pub(crate) fn shell_command(&self, script: impl AsRef<OsStr>) -> Command {
        // A user who can't reach the repository is given the text.
        let text = std::fs::read_to_string(script.as_ref()).unwrap();
        let copy = self.out().join("script.sh");
        std::fs::write(&copy, text).unwrap();
        let mut command = self.user.command("sh");
        command
            .arg(copy)
            .env("HOME", self.home())
            .env("RBUILD_ROOT", self.store())
            .current_dir(self.out());
        command
    }

    /// Runs `rbuild ARGS`.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        let mut command = self.command();
        command.args(args);
        run_with_timeout(command, None)
    }

    /// `rbuild … CONTEXT`, to be completed.
    pub(crate) fn build(&self, project: &Project) -> Build<'_> {
        self.build_at(project.path())
    }

    /// The same for any context argument.
    pub(crate) fn build_at(&self, context: impl AsRef<OsStr>) -> Build<'_> {
        Build {
            rbuild: self,
            arguments: Vec::new(),
            context: context.as_ref().to_owned(),
            stdin: None,
            environment: Vec::new(),
            progress: true,
        }
    }
}

impl Drop for Rbuild {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else {
            return;
        };
        let path = folder.keep();
        if std::fs::remove_dir_all(&path).is_err() && path.exists() {
            // Files of subordinate ids can be removed from within a user namespace that maps them.
            let _ = Command::new("unshare")
                .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf", "--"])
                .arg(&path)
                .output();
        }
    }
}

/// One build that is being put together.
pub(crate) struct Build<'a> {
    rbuild: &'a Rbuild,
    arguments: Vec<OsString>,
    context: OsString,
    stdin: Option<Vec<u8>>,
    environment: Vec<(OsString, OsString)>,
    progress: bool,
}

impl Build<'_> {
    /// Adds arguments in front of the context.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.arguments
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// `-t NAME`.
    pub(crate) fn tag(self, name: impl AsRef<OsStr>) -> Self {
        self.args(["-t".as_ref(), name.as_ref()])
    }

    /// `--target STAGE`.
    pub(crate) fn target(self, stage: &str) -> Self {
        self.args(["--target", stage])
    }

    /// `--build-arg NAME=VALUE`.
    pub(crate) fn build_arg(self, text: &str) -> Self {
        self.args(["--build-arg", text])
    }

    /// What comes on standard input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// A variable of rbuild's environment for this build.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Leaves the progress flag to the test.
    pub(crate) fn own_progress(mut self) -> Self {
        self.progress = false;
        self
    }

    /// The command, to be run by the caller.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.rbuild.command();
        command.arg("build");
        if self.progress {
            command.args(["--progress", "plain"]);
        }
        if let Some(mirror) = base_image_mirror() {
            command.args(["--registry-mirror", mirror]);
        }
        command.args(&self.arguments).arg(&self.context);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, well or ill.
    pub(crate) fn run(self) -> Finished {
        run_with_timeout(self.command(), self.stdin)
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> Finished {
        self.run().ok()
    }

    /// Runs it; it must fail.
    #[track_caller]
    pub(crate) fn fails(self) -> Finished {
        self.run().fails()
    }

    /// Runs it and reads the image it made.
    #[track_caller]
    pub(crate) fn image(self) -> Image {
        self.image_and_log().0
    }

    /// The same, with what rbuild said.
    #[track_caller]
    pub(crate) fn image_and_log(self) -> (Image, Finished) {
        self.image_with_output("type=oci")
    }

    /// The same, with more options of the output: `type=oci,rewrite-timestamp=true`.
    #[track_caller]
    pub(crate) fn image_with_output(self, output: &str) -> (Image, Finished) {
        let rbuild = self.rbuild;
        let number = rbuild.outputs.fetch_add(1, Ordering::Relaxed) + 1;
        let file = rbuild.out().join(format!("image-{number}.tar"));
        let log = self
            .args(["-o", &format!("{output},dest={}", file.display())])
            .ok();
        let image = Image::read(&file);
        std::fs::remove_file(&file).unwrap();
        (image, log)
    }
}
