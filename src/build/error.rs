//! Why a build failed, with the place in the Dockerfile where there is one.

use std::sync::Arc;

use super::resolve::ResolveError;
use crate::context::ContextError;
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::slips;
use crate::export::ExportError;
use crate::export::engine::EngineError;
use crate::export::registry::PushError;
use crate::graph::masked_in_place;
use crate::remote::RemoteError;
use crate::snapshot::SnapshotError;
use crate::solver::SolveError;
use crate::step::{AgentError, FailedStep};
use crate::store::{ImportError, StoreError};

/// Something in a Dockerfile, with what is needed to show it.
#[derive(Clone, Debug)]
pub struct Located {
    /// The Dockerfile's name as the user knows it.
    pub name: String,
    /// Its text.
    pub text: Arc<str>,
    /// What is to be said of it.
    pub diagnostics: Vec<Diagnostic>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile can't be read as one, or asks for something that can't be had.
    #[error("failed to read the Dockerfile `{}`", .0.name)]
    Dockerfile(Located),
    /// A base image can't be used.
    #[error("failed to resolve the base image: {source}")]
    Resolve {
        /// The line that names it.
        located: Located,
        /// Why.
        #[source]
        source: Box<ResolveError>,
    },
    /// A step failed.
    #[error("failed to build: {source}")]
    Step {
        /// The instruction.
        located: Located,
        /// Why.
        #[source]
        source: Arc<SolveError>,
        /// What is left of the step.
        left: LeftStep,
    },
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: `{0}`: no such file or directory")]
    NoDockerfile(String),
    /// The Dockerfile is not text.
    #[error("failed to read dockerfile: `{0}` is not valid UTF-8")]
    NotText(String),
    /// The build context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A build context or a Dockerfile from elsewhere.
    #[error("failed to load the build context: {0}")]
    Remote(#[source] RemoteError),
    /// A secret of `--secret` that isn't there.
    #[error("failed to read secret `{id}` from {from}: {reason}")]
    Secret {
        /// Its id.
        id: String,
        /// Where it should be.
        from: String,
        /// Why it can't be had.
        reason: String,
    },
    /// An agent or key of `--ssh` that can't be had.
    #[error("can't forward SSH keys to steps as `{id}`: {source}")]
    Ssh {
        /// Its id.
        id: String,
        /// Why.
        source: AgentError,
    },
    /// `--ssh` means the agent of the environment, which names none.
    #[error(
        "can't forward an SSH agent to steps as `{id}`: make sure SSH_AUTH_SOCK is set, or name a socket or keys: `--ssh {id}=PATH`"
    )]
    NoSshAgent {
        /// The id.
        id: String,
    },
    /// Layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing the image.
    #[error("failed to export the image: {0}")]
    Export(#[from] ExportError),
    /// Handing the image to a container engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image archive or folder that can't be loaded.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Pushing the image.
    #[error("failed to push `{reference}`: {source}")]
    Push {
        /// Under which name.
        reference: String,
        /// Why.
        #[source]
        source: PushError,
    },
    /// A name that no image of the store has.
    #[error("no image `{0}` in the store")]
    NoImage(String),
    /// An image that can't be pulled.
    #[error("failed to pull `{reference}`: {source}")]
    Pull {
        /// Its name.
        reference: String,
        /// Why.
        #[source]
        source: Box<ResolveError>,
    },
    /// Build checks have warned, and the user wants that to end the build.
    #[error("{0}")]
    Checks(String),
    /// The request itself can't be met.
    #[error("{0}")]
    Request(String),
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

/// What is left of a step that failed.
#[derive(Debug, Default)]
pub enum LeftStep {
    /// Nothing: nobody has asked for it, or it was no RUN that failed in its sandbox.
    #[default]
    Nothing,
    /// Its sandbox.
    Open(Box<FailedStep>),
    /// Its file system, in the store under this number.
    Kept(i64),
}

impl From<RemoteError> for BuildError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Canceled => Self::Canceled,
            error => Self::Remote(error),
        }
    }
}

impl Located {
    /// Says what `diagnostics` say.
    pub(super) fn saying(&self, diagnostics: Vec<Diagnostic>) -> BuildError {
        BuildError::Dockerfile(self.with(diagnostics))
    }

    /// The same, with these diagnostics, and no credential in what is shown of the text.
    pub(super) fn with(&self, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            name: self.name.clone(),
            text: masked_in_place(&self.text).into(),
            diagnostics: diagnostics
                .into_iter()
                .map(|one| slips::explain(one, &self.text))
                .collect(),
        }
    }
}
