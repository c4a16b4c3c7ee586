//! Git repositories as sources of a build.
//!
//! The program `git` does what has to be done with one, in the caller's own namespaces, told to
//! read no configuration but what it is given here: a build must not depend on the machine's. The
//! only exception is ssh, which the user's own configuration and keys are needed for.
//!
//! - [`reference`](mod@reference): which texts name a repository. Pure.
//! - `program`: runs git; who it asks as; what of its output is shown.
//! - `repository`: from a name to a commit, and its objects into the store.
//! - `checkout`: from a commit to a layer.
//!
//! A checkout is a layer of the store, found by its commit: a commit that was checked out before
//! asks nothing of git, and one that the reference names in full nothing of the network. What git
//! has written is hostile like every tree: it is walked by descriptor, links are not followed, and
//! of owners and modes only what git itself knows is kept.

mod checkout;
mod program;
pub mod reference;
mod repository;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use checkout::Checkout;
pub use reference::{FileTimes, GitReference, GitReferenceError, masked};

use crate::sandbox::{OutsideError, OutsideHelper};
use crate::snapshot::{Materializer, SnapshotError, TreeError};

/// What is wanted of a repository, everything decided.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct GitSource {
    /// The address as git takes it. May hold a password.
    pub remote: String,
    /// A branch, a tag, a full ref or a commit; the default branch where `None`.
    pub reference: Option<String>,
    /// A folder in the repository, clean and without slashes at its ends; `""` for all of it.
    pub subdir: String,
    /// What the commit's hash has to begin with.
    pub checksum: Option<String>,
    /// Whether `.git` comes along. Never with a `subdir`.
    pub keep_git_dir: bool,
    /// Whether submodules come along.
    pub submodules: bool,
    /// Which time the files have, where that is said.
    pub times: Option<FileTimes>,
    /// Fetch the commit that `checksum` says, whatever the ref is by now.
    pub fetch_by_commit: bool,
}

impl std::fmt::Debug for GitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GitSource").field(&self.shown()).finish()
    }
}

impl GitSource {
    /// What a reference says by itself.
    pub fn new(reference: &GitReference) -> Self {
        let remote = match reference.looks_local {
            true => format!("https://{}", reference.remote),
            false => reference.remote.clone(),
        };
        Self {
            remote,
            reference: reference.reference.clone(),
            subdir: reference::clean(reference.subdir.as_deref().unwrap_or_default()),
            checksum: reference.checksum.clone(),
            keep_git_dir: reference.keep_git_dir.unwrap_or_default(),
            submodules: reference.submodules.unwrap_or(true),
            times: reference.times,
            fetch_by_commit: reference.fetch_by_commit,
        }
    }

    /// How it is shown: without a password.
    pub fn shown(&self) -> String {
        let mut shown = masked(&self.remote);
        if self.reference.is_some() || !self.subdir.is_empty() {
            shown.push('#');
            shown.push_str(self.reference.as_deref().unwrap_or_default());
        }
        if !self.subdir.is_empty() {
            shown.push(':');
            shown.push_str(&self.subdir);
        }
        shown
    }
}

/// Why a repository can't be used. Never shows a password, a token or a header.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error(
        "`git` is not installed, and `{0}` is a git repository: install git, or use a folder or an archive"
    )]
    NotInstalled(String),
    /// Git could not be run.
    #[error(transparent)]
    Run(OutsideError),
    /// Git says no.
    #[error("{what} `{remote}`: {said}{help}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// The repository.
        remote: String,
        /// The last thing that git said.
        said: String,
        /// What to do about it.
        help: &'static str,
    },
    /// The repository has no such branch, tag or ref.
    #[error("repository `{remote}` does not contain ref `{reference}`{help}")]
    NoRef {
        /// The repository.
        remote: String,
        /// The ref.
        reference: String,
        /// What to do about it.
        help: &'static str,
    },
    /// The repository says of a tag what isn't so.
    #[error(
        "repository `{remote}` says that a tag is of commit `{claimed}`, and it is of `{found}`: it is damaged or was tampered with"
    )]
    FalseTag {
        /// The repository.
        remote: String,
        /// What it says.
        claimed: String,
        /// What the tag says.
        found: String,
    },
    /// The repository names no default branch.
    #[error("could not find the default branch of `{0}`: add `#BRANCH`")]
    NoDefaultBranch(String),
    /// A ref that git would take for an option.
    #[error("invalid git ref `{0}`")]
    BadRef(String),
    /// A checksum that is no commit's.
    #[error("invalid checksum `{0}` for a git repository: expected a hex commit hash")]
    BadChecksum(String),
    /// The commit is another.
    #[error("expected checksum to match `{expected}`, got {found}")]
    WrongCommit {
        /// What it has to begin with.
        expected: String,
        /// What it is.
        found: String,
    },
    /// `fetch-by-commit` without a commit.
    #[error("fetch-by-commit requires a full commit as checksum or ref")]
    NoCommit,
    /// The ref became another commit while it was fetched.
    #[error("`{reference}` of `{remote}` changed while it was fetched: try again")]
    Moved {
        /// The repository.
        remote: String,
        /// The ref.
        reference: String,
    },
    /// The folder isn't in the repository, or is none.
    #[error("git subpath `{subdir}` of `{remote}`: `{at}` {problem}")]
    Subdir {
        /// The repository.
        remote: String,
        /// The folder.
        subdir: String,
        /// The component that is to blame.
        at: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A layer can't be read or made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// What git has written can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file that layers can't hold.
    #[error(transparent)]
    Layer(#[from] crate::layer::LayerError),
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

impl From<crate::store::StoreError> for GitError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Snapshot(error.into())
    }
}

/// Brings repositories into the store, for one build. Blocking; any number of threads at once.
pub struct GitFetcher {
    outside: OutsideHelper,
    materializer: Arc<Materializer>,
    secrets: Arc<BTreeMap<String, Vec<u8>>>,
    is_stopped: Box<dyn Fn() -> bool + Send + Sync>,
    /// What refs stand for in this build, by repository and ref.
    known: Mutex<BTreeMap<(String, Option<String>), Known>>,
}

/// What one ref stands for, once that was asked.
type Known = Arc<Mutex<Option<repository::Resolved>>>;

impl std::fmt::Debug for GitFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitFetcher").finish_non_exhaustive()
    }
}

impl GitFetcher {
    /// Runs git by `outside` and keeps what it brings by `materializer`. `secrets` are the values
    /// of `--secret`; those that BuildKit knows by name are sent to the repository's host.
    /// `is_stopped` says when nobody wants anything any more.
    pub fn new(
        outside: OutsideHelper,
        materializer: Arc<Materializer>,
        secrets: Arc<BTreeMap<String, Vec<u8>>>,
        is_stopped: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            outside,
            materializer,
            secrets,
            is_stopped: Box::new(is_stopped),
            known: Mutex::default(),
        }
    }

    /// Finds out what a source stands for, once in a build for each ref.
    fn resolve(
        &self,
        git: &program::Git<'_>,
        source: &GitSource,
    ) -> Result<repository::Resolved, GitError> {
        let key = (source.remote.clone(), source.reference.clone());
        let known = {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        repository::resolve(git, source, &mut known)
    }
}
