//! RUN: a program in a sandbox on top of the parent's trees; its changes become a layer.
//!
//! The step's upper directory is a tree of the store from the start, so nothing is copied when it
//! ends. The environment, the working directory and the user are the image's; the machine gives
//! only its network, its name servers and its kernel. Secrets are memory that one step sees.

mod error;
mod failed;
pub(super) mod mounts;
mod output;
mod redact;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub(super) use self::error::failed;
pub use self::error::{RunError, signal_name};
pub use self::failed::{About, FailedStep, FailedSteps};
pub(super) use self::mounts::Assembly;
use self::mounts::Prepared;
use self::output::{Log, Output};
use self::redact::Values;
use super::mount_points::{Kind, MountPoints, root_entry};
use super::noted_owners::OwnerNotes;
use super::owner::{Accounts, ExecUser};
use super::{Inputs, StepContext, StepError, StepResult};
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::graph::{MountKind, NetworkMode, Run, RunSettings};
use crate::layer::form::Form;
use crate::layer::view::{Found, View};
use crate::layer::{apply, diff};
use crate::sandbox::{
    HostPath, Launcher, Network, Outcome, Resources, SandboxFiles, SandboxSpec, Security, Writable,
    XattrNamespace,
};
use crate::snapshot::{Materializer, Snapshot};
use crate::solver::events::{LogStream, Working};
use crate::store::{LayerId, NewLayer, PendingTree};

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
        self.materializer.trees(parent)?;
        working.begin();
        let mut assembly = self.assemble(run, &view, &user, &prepared)?;
        let cgroup = assembly.enter_cgroup(&run.settings)?;
        let upper = self.store().new_tree(self.materializer.form())?;
        prepare_upper(upper.path(), self.materializer.form(), &view)?;
        let form = self.materializer.form();
        let (notes, owners) = OwnerNotes::prepare(form, &view, &user, &mut assembly.passed)?;
        let mut spec = self.spec(run, parent, &view, &user, &upper, &mut assembly)?;
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
                    upper,
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
        let points = &assembly.points;
        let layer = changes(&self.materializer, parent, &view, upper, &notes, points)?;
        self.finished(key, parent, layer).map(of_one_run)
    }

    fn spec(
        &self,
        run: &Run,
        parent: &Snapshot,
        view: &View,
        user: &ExecUser,
        upper: &PendingTree,
        assembly: &mut Assembly,
    ) -> Result<SandboxSpec, StepError> {
        let lower = lower_trees(&self.materializer, parent, view, assembly)?;
        let work = self.store().scratch()?;
        let spec = SandboxSpec {
            platform: run.platform.to_string(),
            lower,
            writable: Writable {
                upper: HostPath::from(upper.path().to_owned()),
                work: HostPath::from(work.path().to_owned()),
            },
            xattr_namespace: xattr_namespace(&self.materializer),
            mounts: std::mem::take(&mut assembly.mounts),
            args: run.args.clone(),
            env: std::mem::take(&mut assembly.env),
            cwd: run.cwd.clone().into_bytes(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            hostname: hostname(run).to_owned(),
            network: network(run.network),
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
        };
        assembly.scratch.push(work);
        Ok(spec)
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
        for reader in readers {
            // A reader can't fail: it ends with its pipe.
            let _ = reader.join();
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

/// What a step has changed, as a layer of the store.
fn changes(
    materializer: &Materializer,
    parent: &Snapshot,
    view: &View,
    upper: PendingTree,
    notes: &OwnerNotes,
    points: &MountPoints,
) -> Result<LayerId, StepError> {
    let directory = File::open(upper.path()).map_err(failed("opening the step's changes"))?;
    let layers = &parent.layers;
    let lower = |found: &Found<'_>| -> io::Result<Box<dyn Read>> {
        let layer = layers.get(found.layer).ok_or(io::ErrorKind::NotFound)?;
        let content = materializer.content(*layer).map_err(io::Error::other)?;
        let reader: Box<dyn Read> = content.open(found.entry)?;
        Ok(reader)
    };
    let index = diff::index_tree(
        directory.as_fd(),
        materializer.form(),
        view,
        &notes.read()?,
        &|_, found| lower(found),
    )
    .map_err(RunError::Changes)?;
    let index = points.prune(index);
    let layer = materializer.store().create_layer(&NewLayer::default())?;
    materializer.store().put_index(layer, &index)?;
    upper.commit(layer)?;
    Ok(layer)
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

/// The trees that a sandbox on top of a snapshot stacks, topmost first: that of the mount points,
/// then those of the layers.
pub(super) fn lower_trees(
    materializer: &Materializer,
    snapshot: &Snapshot,
    view: &View,
    assembly: &mut Assembly,
) -> Result<Vec<HostPath>, StepError> {
    let mut lower: Vec<HostPath> = Vec::new();
    if !assembly.points.is_empty() {
        let tree = materializer.store().scratch()?;
        let tar = assembly
            .points
            .tar(root_entry(view))
            .map_err(RunError::Changes)?;
        let directory = File::open(tree.path()).map_err(failed("opening mount points"))?;
        apply::extract(tar.as_slice(), directory.as_fd(), materializer.form(), view)
            .map_err(RunError::Changes)?;
        lower.push(HostPath::from(tree.path().to_owned()));
        assembly.scratch.push(tree);
    }
    let trees = materializer.trees(snapshot)?;
    lower.extend(trees.into_iter().rev().map(HostPath::from));
    Ok(lower)
}

/// What overlay can use on the trees made here.
pub(super) fn xattr_namespace(materializer: &Materializer) -> XattrNamespace {
    match materializer.form().xattr_namespace {
        crate::layer::form::XattrNamespace::Trusted => XattrNamespace::Trusted,
        crate::layer::form::XattrNamespace::User => XattrNamespace::User,
    }
}

pub(super) fn network(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::Host => Network::Host,
        NetworkMode::None => Network::None,
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

/// The root directory of an overlay mount has the attributes of its upper directory.
pub(super) fn prepare_upper(upper: &Path, form: &Form, view: &View) -> Result<(), RunError> {
    let root = root_entry(view);
    let what = "preparing the step's root directory";
    apply::set_folder_owner(upper, form, (root.uid, root.gid)).map_err(RunError::Changes)?;
    std::fs::set_permissions(upper, std::fs::Permissions::from_mode(root.mode))
        .map_err(failed(what))?;
    let time = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(root.mtime).unwrap_or(0));
    let directory = File::open(upper).map_err(failed(what))?;
    directory.set_modified(time).map_err(failed(what))
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
