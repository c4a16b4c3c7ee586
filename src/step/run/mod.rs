//! RUN: a program in a sandbox on top of the parent's trees; its changes become a layer.
//!
//! The step's upper directory is a tree of the store from the start, so nothing is copied when it
//! ends. The environment, the working directory and the user are the image's; the machine gives
//! only its network, its name servers and its kernel. Secrets are memory that one step sees.

pub(super) mod assembly;
mod error;
mod failed;
mod fixtures;
pub(super) mod mounts;
mod output;
mod redact;
pub(super) mod root;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) use self::assembly::Assembly;
pub(super) use self::error::failed;
pub use self::error::{RunError, signal_name};
pub use self::failed::{About, FailedStep, FailedSteps};
use self::mounts::Prepared;
use self::output::{Log, Output};
use self::redact::Values;
use self::root::Changed;
pub(super) use self::root::{StepBase, StepRoot};
use super::mount_points::Kind;
use super::noted_owners::OwnerNotes;
use super::owner::{Accounts, ExecUser};
use super::{Inputs, StepContext, StepError, StepResult};
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::graph::{MountKind, NetworkMode, Run, RunSettings};
use crate::sandbox::{
    Launcher, Outcome, Resources, SandboxFiles, SandboxSpec, Security, XattrNamespace,
};
use crate::snapshot::{Materializer, Snapshot};
use crate::solver::events::{LogStream, Working};

/// The name that steps see as theirs.
pub const HOSTNAME: &str = "rbuild";
/// Mount points that every step has.
pub(super) const STANDARD: [(&[u8], Kind); 5] = [
    (b"dev", Kind::Directory),
    (b"proc", Kind::Directory),
    (b"sys", Kind::Directory),
    (b"etc/resolv.conf", Kind::File),
    (b"etc/hosts", Kind::File),
];
/// Where a heredoc that starts with `#!` is shown to its step.
const SCRIPTS: &str = "/dev/pipes";

impl StepContext {
    pub(super) fn run(
        &self,
        run: &Run,
        parent: &Snapshot,
        inputs: &Inputs<'_>,
        name: &str,
        fresh: bool,
        working: &Working,
    ) -> Result<StepResult, StepError> {
        let prepared = self.prepare_mounts(run, inputs, fresh)?;
        let key = run_key(run, parent, &prepared);
        // With --no-cache a step is nobody else's: it neither waits for the same one nor takes it.
        if !fresh && let Some(result) = self.cached(&key, parent)? {
            return Ok(of_one_run(result));
        }
        let _lock = match fresh {
            true => None,
            false => Some(match self.store().try_lock(&key)? {
                Some(lock) => lock,
                None => {
                    // Another build runs the same step: that may take as long as the step does.
                    working.begin();
                    self.lock(&key)?
                }
            }),
        };
        // Somebody else may have run it while this one waited.
        if !fresh && let Some(result) = self.cached(&key, parent)? {
            return Ok(of_one_run(result));
        }
        self.cancel.check()?;
        let launcher = self
            .launcher
            .as_ref()
            .map_err(|reason| RunError::NoSandbox(reason.clone()))?;
        let view = self.view(parent)?;
        let user = Accounts::new(view.passwd(), view.group()).exec_user(&run.user)?;
        let base = StepBase::prepare(&self.materializer, parent, &view)?;
        working.begin();
        let mut assembly = self.assemble(run, &view, &user, &prepared)?;
        let cgroup = assembly.enter_cgroup(&run.settings)?;
        let mut root = base.begin(&self.materializer, parent, &view, &mut assembly)?;
        if !launcher.can_mount() {
            root.place_mounts(&self.materializer, &view, &mut assembly)?;
        }
        let form = self.materializer.form();
        let security = match run.insecure {
            true => Security::Insecure,
            false => Security::Sandbox,
        };
        let (notes, owners) = OwnerNotes::prepare(form, &view, &user, security, &mut assembly)?;
        let mut spec = self.spec(run, &user, &root, &mut assembly);
        spec.owners = owners;
        let output = Arc::new(Output {
            id: working.id(),
            events: Arc::clone(&self.events),
            logs: Arc::clone(&self.logs),
            file_name: output::file_name(working.id(), name),
            secrets: Values::new(self.seen_secrets(run)),
            log: Mutex::new(Log::Empty),
        });
        let passed = std::mem::take(&mut assembly.passed);
        let again = match self.failed {
            Some(_) => Some(failed::Again::new(&spec, &passed)?),
            None => None,
        };
        let outcome = self.start(launcher, spec, passed, &output)?;
        if let Err(error) = succeed(run, outcome) {
            if let (Some(failed), Some(again)) = (&self.failed, again)
                && error.is_of_the_program()
            {
                let about = About::new(run, name, error.ending());
                let left = failed::Left {
                    parent: parent.clone(),
                    view,
                    root,
                    assembly,
                    cgroup,
                    notes,
                };
                let materializer = Arc::clone(&self.materializer);
                let step = FailedStep::new(about, left, again, materializer, launcher.clone());
                failed.leave(working.id(), step);
            }
            return Err(error.into());
        }
        let changed = Changed {
            parent,
            view: &view,
            owners: &notes.read()?,
            points: &assembly.points,
        };
        let layer = root.commit(&self.materializer, &changed)?;
        self.finished(key, parent, layer).map(of_one_run)
    }

    fn spec(
        &self,
        run: &Run,
        user: &ExecUser,
        root: &StepRoot,
        assembly: &mut Assembly,
    ) -> SandboxSpec {
        SandboxSpec {
            platform: run.platform.to_string(),
            lower: root.lower(),
            writable: root.writable(),
            folder: root.folder(),
            xattr_namespace: xattr_namespace(&self.materializer),
            mounts: std::mem::take(&mut assembly.mounts),
            stand_ins: std::mem::take(&mut assembly.stand_ins),
            args: run.args.clone(),
            env: std::mem::take(&mut assembly.env),
            cwd: run.cwd.clone().into_bytes(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            hostname: hostname(run).to_owned(),
            network: assembly.network,
            security: match run.insecure {
                true => Security::Insecure,
                false => Security::Sandbox,
            },
            read_only: false,
            terminal: None,
            resources: Resources {
                ulimits: run.settings.ulimits.clone(),
                shm_size: run.settings.shm_size,
                cgroup: assembly.cgroup,
            },
            owners: None,
        }
    }

    fn start(
        &self,
        launcher: &Launcher,
        spec: SandboxSpec,
        passed: Vec<OwnedFd>,
        output: &Arc<Output>,
    ) -> Result<Outcome, StepError> {
        let (stdout, out_end) = pipe()?;
        let (stderr, err_end) = pipe()?;
        let running = Arc::new(
            launcher
                .run(
                    spec,
                    SandboxFiles {
                        stdin: None,
                        stdout: out_end,
                        stderr: err_end,
                        passed,
                    },
                )
                .map_err(RunError::Launcher)?,
        );
        let killer = Arc::clone(&running);
        let _on_cancel = self.cancel.on_cancel(move || killer.kill());
        let readers = [
            output.forward(stdout, LogStream::Stdout),
            output.forward(stderr, LogStream::Stderr),
        ];
        let outcome = running.wait().map_err(RunError::Launcher)?;
        // A step whose init was killed, which root of a stock container can, may have left somebody
        // behind who holds the pipes.
        let patience = match outcome {
            Outcome::Signaled { .. } => Duration::from_secs(2),
            _ => Duration::MAX,
        };
        for reader in readers {
            wait_for(reader, patience);
        }
        if self.cancel.is_canceled() {
            return Err(StepError::Canceled);
        }
        Ok(outcome)
    }

    /// The values of the secrets that a step sees.
    fn seen_secrets<'a>(&'a self, run: &'a Run) -> impl Iterator<Item = &'a [u8]> {
        run.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => self.secrets.get(id).map(Vec::as_slice),
            _ => None,
        })
    }
}

/// Waits until the output's end. A reader can't fail: it ends with its pipe.
fn wait_for(reader: JoinHandle<()>, patience: Duration) {
    let begun = Instant::now();
    while patience != Duration::MAX && !reader.is_finished() {
        if begun.elapsed() > patience {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = reader.join();
}

/// A command that runs again may give something else. What follows must not be mixed with what
/// followed the earlier run, so the key of the result is that of this one run of it.
fn of_one_run(mut result: StepResult) -> StepResult {
    if let Some(layer) = result.snapshot.layers.last() {
        result.snapshot.key = CacheKeyBuilder::new("result of a run")
            .key(&result.snapshot.key)
            .number(layer.number())
            .finish();
    }
    result
}

/// The key of everything that a step's result hangs on.
fn run_key(run: &Run, parent: &Snapshot, prepared: &[Prepared]) -> CacheKey {
    let mut key = CacheKeyBuilder::new("run");
    key.key(&parent.key).number(run.args.len() as u64);
    for arg in &run.args {
        key.field(arg.as_bytes());
    }
    key.number(run.env.len() as u64);
    for (name, value) in &run.env {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    key.field(run.user.as_bytes()).field(run.cwd.as_bytes());
    key.number(match run.network {
        NetworkMode::Host => 0,
        NetworkMode::None => 1,
        NetworkMode::Private => 2,
    });
    if let Some(script) = &run.script {
        key.field(script.name.as_bytes())
            .field(script.content.as_bytes());
    }
    key.number(run.mounts.len() as u64);
    for (mount, prepared) in run.mounts.iter().zip(prepared) {
        key.field(mount.target.as_bytes());
        match (&mount.kind, prepared) {
            (MountKind::Bind { read_write, .. }, Prepared::Files(snapshot, path)) => {
                key.number(0)
                    .key(&snapshot.key)
                    .field(path)
                    .number(u64::from(*read_write));
            }
            (MountKind::Bind { .. }, Prepared::None) => {
                key.number(1);
            }
            (MountKind::Cache { id, .. }, Prepared::Files(snapshot, path)) => {
                key.number(5)
                    .field(id.as_bytes())
                    .key(&snapshot.key)
                    .field(path);
            }
            (MountKind::Cache { id, .. }, Prepared::None) => {
                key.number(2).field(id.as_bytes());
            }
            (MountKind::Tmpfs { size }, _) => {
                key.number(3).number(size.unwrap_or(0));
            }
            (MountKind::Secret { id, .. }, _) => {
                key.number(4).field(id.as_bytes());
            }
            (
                MountKind::Ssh {
                    id,
                    required,
                    mode,
                    uid,
                    gid,
                },
                _,
            ) => {
                key.number(6).field(id.as_bytes());
                for number in [u32::from(*required), *mode, *uid, *gid] {
                    key.number(u64::from(number));
                }
            }
        }
    }
    key.field(run.platform.to_string().as_bytes());
    if let Some(name) = &run.hostname {
        key.field(b"host name").field(name.as_bytes());
    }
    if run.insecure {
        key.field(b"insecure");
    }
    settings_key(&mut key, &run.settings);
    key.finish()
}

/// What overlay can use on the trees made here.
pub(super) fn xattr_namespace(materializer: &Materializer) -> XattrNamespace {
    match materializer.form().xattr_namespace {
        crate::layer::form::XattrNamespace::Trusted => XattrNamespace::Trusted,
        crate::layer::form::XattrNamespace::User => XattrNamespace::User,
    }
}

/// The name that a step sees as its machine's.
fn hostname(run: &Run) -> &str {
    run.hostname.as_deref().unwrap_or(HOSTNAME)
}

/// Of hosts only the names count, as in BuildKit. The cgroup's place and limits are the machine's affair.
fn settings_key(key: &mut CacheKeyBuilder, settings: &RunSettings) {
    if !settings.hosts.is_empty() {
        key.field(b"hosts").number(settings.hosts.len() as u64);
        for (name, _) in &settings.hosts {
            key.field(name.as_bytes());
        }
    }
    if !settings.ulimits.is_empty() {
        key.field(b"ulimits").number(settings.ulimits.len() as u64);
        for limit in &settings.ulimits {
            key.field(limit.kind.to_string().as_bytes())
                .number(limit.soft.unwrap_or(u64::MAX))
                .number(limit.hard.unwrap_or(u64::MAX));
        }
    }
    if let Some(size) = settings.shm_size {
        key.field(b"shm size").number(size);
    }
}

/// The environment of a process: `env`, what of `proxy` it doesn't name, and where it has none, the
/// user's `HOME`.
pub(super) fn environment(
    env: &[(String, String)],
    proxy: &[(String, String)],
    home: &str,
) -> Vec<String> {
    let has = |name: &str| env.iter().any(|(n, _)| n == name);
    let proxy = proxy.iter().filter(|(name, _)| !has(name));
    let variables = env.iter().chain(proxy);
    let mut all: Vec<String> = variables
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !has("HOME") {
        all.push(format!("HOME={home}"));
    }
    all
}

fn pipe() -> Result<(OwnedFd, OwnedFd), RunError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| failed("making a pipe")(error.into()))
}

fn succeed(run: &Run, outcome: Outcome) -> Result<(), RunError> {
    let command = || run.args.join(" ");
    match outcome {
        Outcome::Exited { code: 0 } => Ok(()),
        Outcome::Exited { code } => Err(RunError::Exit {
            command: command(),
            code,
        }),
        Outcome::Signaled { signal } => Err(RunError::Signal {
            command: command(),
            signal,
        }),
        Outcome::NotExecutable { code, message } => Err(RunError::NotStarted {
            command: command(),
            code,
            message,
        }),
        Outcome::SetupFailed(failure) => Err(failure.into()),
    }
}
