//! The solver: decides which steps run, in which order, and which the cache answers.
//!
//! Every vertex that the target needs becomes a task that waits for its inputs and then works on
//! a thread of its own; vertices that don't hang on each other, and so whole stages, run at once.
//! The first failure stops all others. The solver knows no terminal: whoever watches a build
//! gives it an [`events::EventSink`].

pub mod cancel;
pub mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

use crate::graph::{Graph, Operation, VertexIndex};
use crate::solver::events::{Outcome, Reporter, VertexId, Working};
use crate::step::{Inputs, StepContext, StepError, StepResult};

/// A step that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {error}")]
pub struct SolveError {
    /// The vertex.
    pub vertex: VertexIndex,
    /// The same, as events name it.
    pub id: VertexId,
    /// Its name as shown.
    pub name: String,
    /// Why.
    #[source]
    pub error: StepError,
}

/// Results of all vertices that the target needs.
pub type Solved = BTreeMap<VertexIndex, StepResult>;

type Task = Shared<BoxFuture<'static, Result<StepResult, Arc<SolveError>>>>;

/// The vertices that the targets need, themselves among them.
pub fn needed(
    graph: &Graph,
    targets: impl IntoIterator<Item = VertexIndex>,
) -> BTreeSet<VertexIndex> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<VertexIndex> = targets.into_iter().collect();
    while let Some(index) = open.pop() {
        if needed.insert(index) {
            open.extend(graph.inputs(index));
        }
    }
    needed
}

/// Solves the targets and everything they need.
///
/// # Errors
/// The first step that failed. All others have ended when this returns.
pub async fn solve(
    graph: Arc<Graph>,
    targets: &[VertexIndex],
    context: Arc<StepContext>,
    reporter: Arc<Reporter>,
) -> Result<Solved, Arc<SolveError>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = Arc::new(Semaphore::new(threads.max(2) * 2));
    let mut tasks: BTreeMap<VertexIndex, Task> = BTreeMap::new();
    let mut ids: BTreeMap<VertexIndex, VertexId> = BTreeMap::new();
    // Inputs have lower numbers than what reads them, so they are there already.
    for index in needed(&graph, targets.iter().copied()) {
        let inputs: Vec<(VertexIndex, Task)> = graph
            .inputs(index)
            .into_iter()
            .filter_map(|input| Some((input, tasks.get(&input)?.clone())))
            .collect();
        let waits_for = inputs.iter().filter_map(|(input, _)| ids.get(input));
        let waits_for = waits_for.copied().collect();
        let id = reporter.announce(&graph.vertex(index).meta.name, waits_for);
        ids.insert(index, id);
        let work = Work {
            graph: Arc::clone(&graph),
            context: Arc::clone(&context),
            reporter: Arc::clone(&reporter),
            slots: Arc::clone(&slots),
            index,
            id,
        };
        let task = work.run(inputs).boxed().shared();
        tokio::spawn(task.clone());
        tasks.insert(index, task);
    }
    let mut solved = Solved::new();
    let mut failure: Option<Arc<SolveError>> = None;
    for (index, task) in tasks {
        match task.await {
            Ok(result) => {
                solved.insert(index, result);
            }
            Err(error) => {
                // Canceled steps ended because of the one that failed, which may come later.
                let better = failure
                    .as_ref()
                    .is_none_or(|first| first.error.is_canceled());
                if better {
                    failure = Some(error);
                }
            }
        }
    }
    failure.map_or(Ok(solved), Err)
}

struct Work {
    graph: Arc<Graph>,
    context: Arc<StepContext>,
    reporter: Arc<Reporter>,
    slots: Arc<Semaphore>,
    index: VertexIndex,
    id: VertexId,
}

impl Work {
    async fn run(self, inputs: Vec<(VertexIndex, Task)>) -> Result<StepResult, Arc<SolveError>> {
        let mut results = BTreeMap::new();
        for (input, task) in inputs {
            match task.await {
                Ok(result) => {
                    results.insert(input, result.snapshot);
                }
                Err(_) => {
                    self.reporter
                        .end(self.id, Outcome::Canceled, Duration::ZERO);
                    return Err(self.error(StepError::Canceled));
                }
            }
        }
        let Ok(_slot) = Arc::clone(&self.slots).acquire_owned().await else {
            return Err(self.error(StepError::Canceled));
        };
        let (graph, context) = (Arc::clone(&self.graph), Arc::clone(&self.context));
        let index = self.index;
        let working = Arc::new(Working::new(Arc::clone(&self.reporter), self.id));
        let shared = Arc::clone(&working);
        let work = move || context.execute(&graph, index, &Inputs { results: &results }, &shared);
        let result = match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            // The runtime is shutting down, or the step panicked and has said so already.
            Err(_) => Err(StepError::Canceled),
        };
        let is_image = matches!(self.graph.vertex(index).operation, Operation::Image(_));
        let outcome = match &result {
            Ok(result) if result.cached && !is_image => Outcome::Cached,
            Ok(_) => Outcome::Done,
            Err(error) if error.is_canceled() => Outcome::Canceled,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        working.end(outcome);
        result.map_err(|error| {
            self.context.cancel.cancel();
            self.error(error)
        })
    }

    fn error(&self, error: StepError) -> Arc<SolveError> {
        Arc::new(SolveError {
            vertex: self.index,
            id: self.id,
            name: self.graph.vertex(self.index).meta.name.clone(),
            error,
        })
    }
}
