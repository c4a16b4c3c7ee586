//! Failed steps after the build: kept in the store, listed, entered, removed.
//!
//! A kept step is a stack of layers and what [`About`] says of the step. It is entered like an
//! image that is run: what is written in it goes, what was kept stays as the step left it. Mounts,
//! secrets and limits are the build's, and go with it.

use std::sync::Arc;

use super::run::BuildEnvironment;
use super::run_image::{PreparedRun, RunImageError, prepare_container};
use super::{LeftStep, OnError};
use crate::graph::{NetworkMode, RunSettings};
use crate::image::config::ExecutionConfig;
use crate::platform::Platform;
use crate::solver::events::{Event, EventSink, Reporter};
use crate::step::container::Container;
use crate::step::{About, FailedStep};
use crate::store::{KeptRecord, Store, StoreError};
use crate::time::Timestamp;

/// A failed step that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStep {
    /// Its number.
    pub id: i64,
    /// When it failed.
    pub created: Timestamp,
    /// What it was; `None` where that was written by another version of rbuild.
    pub about: Option<About>,
}

/// The failed steps that are kept, oldest first.
///
/// # Errors
/// When the store fails.
pub fn kept(store: &Store) -> Result<Vec<KeptStep>, StoreError> {
    let records = store.kept()?.into_iter();
    let steps = records.map(|record| KeptStep {
        id: record.id,
        created: record.created,
        about: serde_json::from_str(&record.about).ok(),
    });
    Ok(steps.collect())
}

/// Makes a kept step ready to be entered: `command` in place of the step's, its shell where there
/// is none. Must be called on a tokio runtime.
///
/// # Errors
/// When there is no such step, no sandbox, or its files can't be had.
pub async fn prepare(
    id: i64,
    command: Vec<String>,
    terminal: bool,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<PreparedRun, RunImageError> {
    let store = environment.store.clone();
    let read = move |_: &_| {
        let record = store.kept_record(id)?;
        let record = record.ok_or(RunImageError::NoKeptStep(id))?;
        let container = container(record, command, terminal)?;
        Ok((container, ExecutionConfig::default()))
    };
    prepare_container(read, environment, events).await
}

fn container(
    record: KeptRecord,
    command: Vec<String>,
    terminal: bool,
) -> Result<Container, RunImageError> {
    let about: About =
        serde_json::from_str(&record.about).map_err(|source| RunImageError::KeptStep {
            id: record.id,
            source,
        })?;
    let mut env = about.env;
    if terminal && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    Ok(Container {
        platform: about.platform.parse().unwrap_or_else(|_| Platform::host()),
        layers: record.layers,
        args: match command.is_empty() {
            true => vec![about.shell],
            false => command,
        },
        env,
        cwd: about.cwd,
        user: about.user,
        hostname: about.hostname,
        network: match about.has_network {
            true => NetworkMode::Host,
            false => NetworkMode::None,
        },
        settings: RunSettings::default(),
        read_only: false,
        mounts: Vec::new(),
    })
}

/// Does with a failed step what the user wants. That it can't be kept is told, and is not why the
/// build fails.
pub(super) async fn leave(
    step: Option<FailedStep>,
    on_error: OnError,
    reporter: &Arc<Reporter>,
) -> LeftStep {
    let Some(step) = step else {
        if on_error != OnError::Remove {
            let text = "nothing is left of the step that failed: only a RUN whose program fails leaves something to enter";
            reporter.sink().emit(Event::Warning(text.to_owned()));
        }
        return LeftStep::Nothing;
    };
    match on_error {
        OnError::Remove => LeftStep::Nothing,
        OnError::HandOver => LeftStep::Open(Box::new(step)),
        OnError::Keep => match tokio::task::spawn_blocking(move || step.keep()).await {
            Ok(Ok(id)) => LeftStep::Kept(id),
            Ok(Err(error)) => {
                let text = format!("the failed step can't be kept: {error}");
                reporter.sink().emit(Event::Warning(text));
                LeftStep::Nothing
            }
            Err(_) => LeftStep::Nothing,
        },
    }
}
