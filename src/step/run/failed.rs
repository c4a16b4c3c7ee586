//! What a RUN step that failed leaves: its sandbox, to be entered once more, and its file system, to
//! be kept.
//!
//! Entered, the sandbox is the step's own in all but its processes: the same upper directory,
//! mounts, secrets, user, limits and network. What is kept is the file system and what [`About`]
//! says; no secret, no socket, and nothing that the cache would ever find.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::assembly::Assembly;
use super::error::{RunError, failed};
use super::root::{Changed, StepRoot};
use crate::graph::{NetworkMode, Run};
use crate::layer::view::View;
use crate::sandbox::{
    HostPath, Launcher, MountSource, SandboxFiles, SandboxSpec, StepCgroup, TerminalSpec, Writable,
    terminal,
};
use crate::snapshot::{Materializer, Snapshot};
use crate::solver::events::VertexId;
use crate::step::StepError;
use crate::step::container::{RunningContainer, Streams, WantedTerminal};
use crate::step::noted_owners::OwnerNotes;
use crate::store::Store;

/// The variable by which programs learn what their terminal can do, and what it says in a container.
const TERM: (&str, &str) = ("TERM", "xterm");

/// Where failed steps are left until somebody takes one.
#[derive(Debug, Default)]
pub struct FailedSteps(Mutex<Vec<(VertexId, FailedStep)>>);

impl FailedSteps {
    pub(super) fn leave(&self, id: VertexId, step: FailedStep) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((id, step));
    }

    /// The step of this vertex, if it has failed in its sandbox. All others are removed.
    pub fn take(&self, id: VertexId) -> Option<FailedStep> {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = std::mem::take(&mut *steps);
        let mut steps = steps.into_iter();
        steps.find(|(of, _)| *of == id).map(|(_, step)| step)
    }
}

/// What is to be known of a failed step, without any secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its name as progress shows it: `[build 2/5] RUN make`.
    pub name: String,
    /// How its program ended.
    pub reason: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The program of its SHELL.
    pub shell: String,
    /// The platform that it ran for.
    pub platform: String,
    /// Its environment, secrets and proxies left out.
    pub env: Vec<(String, String)>,
    /// Its user as the image's config has it.
    pub user: String,
    /// Its working directory.
    pub cwd: String,
    /// The name that it saw as its machine's, where that isn't rbuild's own.
    pub hostname: Option<String>,
    /// Whether it had the machine's network.
    pub has_network: bool,
}

impl About {
    pub(super) fn new(run: &Run, name: &str, reason: String) -> Self {
        Self {
            name: name.to_owned(),
            reason,
            args: run.args.clone(),
            shell: run.shell.clone(),
            platform: run.platform.to_string(),
            env: run.env.clone(),
            user: run.user.clone(),
            cwd: run.cwd.clone(),
            hostname: run.hostname.clone(),
            has_network: run.network == NetworkMode::Host,
        }
    }
}

/// What is needed to make a step's sandbox again.
pub(super) struct Again {
    spec: SandboxSpec,
    passed: Vec<OwnedFd>,
}

impl Again {
    pub(super) fn new(spec: &SandboxSpec, passed: &[OwnedFd]) -> Result<Self, RunError> {
        let passed = passed.iter().map(OwnedFd::try_clone);
        let passed = passed.collect::<std::io::Result<_>>();
        Ok(Self {
            spec: spec.clone(),
            passed: passed.map_err(failed("keeping a step's files"))?,
        })
    }
}

/// What the step's sandbox stands on.
pub(super) struct Left {
    pub(super) parent: Snapshot,
    pub(super) view: View,
    /// Goes before what was lent to it.
    pub(super) root: StepRoot,
    pub(super) assembly: Assembly,
    pub(super) cgroup: Option<StepCgroup>,
    /// What is known of owners that the machine has no ids for.
    pub(super) notes: OwnerNotes,
}

/// A step that failed, with everything that its sandbox was made of. Dropped, it is removed.
pub struct FailedStep {
    about: About,
    left: Left,
    again: Again,
    materializer: Arc<Materializer>,
    launcher: Launcher,
}

impl fmt::Debug for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FailedStep").field(&self.about.name).finish()
    }
}

impl FailedStep {
    pub(super) fn new(
        about: About,
        left: Left,
        again: Again,
        materializer: Arc<Materializer>,
        launcher: Launcher,
    ) -> Self {
        Self {
            about,
            left,
            again,
            materializer,
            launcher,
        }
    }

    /// What is to be known of it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Starts the program of its SHELL in its sandbox, as the step left that, with a terminal.
    ///
    /// # Errors
    /// When the sandbox can't be asked for. A shell that isn't there is an outcome.
    pub fn enter(
        self,
        streams: Streams,
        WantedTerminal { size }: WantedTerminal,
    ) -> Result<RunningContainer, StepError> {
        let Again {
            mut spec,
            mut passed,
        } = self.again;
        let mut left = self.left;
        let store = self.materializer.store();
        renew_work(&mut spec, store, &mut left.assembly)?;
        let (near, far) = terminal::line().map_err(failed("making a terminal"))?;
        spec.terminal = Some(TerminalSpec {
            line: passed.len(),
            size,
        });
        passed.push(far);
        spec.args = vec![self.about.shell];
        let named = format!("{}=", TERM.0);
        if !spec.env.iter().any(|variable| variable.starts_with(&named)) {
            spec.env.push(named + TERM.1);
        }
        let files = SandboxFiles {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            passed,
        };
        let running = self.launcher.run(spec, files).map_err(RunError::Launcher)?;
        Ok(RunningContainer::new(
            running,
            near,
            left.cgroup,
            left.assembly,
            left.root,
        ))
    }

    /// Keeps its file system in the store, as the step left it. Gives the number to enter it by.
    ///
    /// # Errors
    /// When its changes can't be read, or the store fails.
    pub fn keep(self) -> Result<i64, StepError> {
        let Left {
            parent,
            view,
            root,
            assembly,
            notes,
            ..
        } = self.left;
        let changed = Changed {
            parent: &parent,
            view: &view,
            owners: &notes.read()?,
            points: &assembly.points,
        };
        let layer = root.commit(&self.materializer, &changed)?;
        let mut layers = parent.layers;
        layers.push(layer);
        let about = serde_json::to_string(&self.about)
            .map_err(|error| failed("writing down a failed step")(error.into()))?;
        let store = self.materializer.store();
        let id = store.keep(&layers, &about)?;
        store.sync()?;
        Ok(id)
    }
}

/// Overlay wants an empty work directory for each mount.
fn renew_work(
    spec: &mut SandboxSpec,
    store: &Store,
    assembly: &mut Assembly,
) -> Result<(), StepError> {
    let mounts = spec.mounts.iter_mut();
    let of_mounts = mounts.filter_map(|mount| match &mut mount.source {
        MountSource::Layers { writable, .. } => writable.as_mut(),
        _ => None,
    });
    for Writable { work, .. } in of_mounts.chain([&mut spec.writable]) {
        let folder = store.scratch()?;
        *work = HostPath::from(folder.path().to_owned());
        assembly.scratch.push(folder);
    }
    Ok(())
}
