//! What a Dockerfile means for every platform that is built for: a plan and a lowered target each,
//! and one graph of them all, so that what they have in common is done once.

use std::sync::Arc;

use super::BuildRequest;
use super::check::Examination;
use super::dockerfile::Opened;
use super::error::{BuildError, LeftStep};
use super::explain::{self, Explanation};
use super::run::{BuildEnvironment, tell};
use crate::dockerfile::lint::Warning;
use crate::graph::lowering::{Lowered, lower};
use crate::graph::plan::Plan;
use crate::graph::{Graph, VertexIndex};
use crate::platform::Platform;
use crate::solver::events::{Event, Reporter};
use crate::solver::{self, SolveError};

/// Everything that is to be built.
pub(super) struct Planned {
    /// What has to happen for all platforms.
    pub(super) graph: Arc<Graph>,
    /// Each platform's own; their graphs are in the one of all.
    platforms: Vec<(Plan, Lowered)>,
}

impl Planned {
    /// Finds out what the Dockerfile means, and tells what is to be said of it.
    pub(super) async fn of(
        request: &BuildRequest,
        opened: &Opened,
        environment: &BuildEnvironment,
        reporter: &Arc<Reporter>,
    ) -> Result<Self, BuildError> {
        let (source, events) = (&opened.dockerfile, reporter.sink());
        let mut platforms = Vec::new();
        let mut graph = Graph::default();
        let mut told: Vec<Warning> = Vec::new();
        for platform in wanted(request) {
            let examination = Examination {
                source,
                ignore: opened.ignore.as_ref(),
                request,
                platform,
                environment,
                reporter,
                covers_all: false,
            };
            let mut warnings = Vec::new();
            let examined = examination.run(&mut warnings).await;
            // What is said of every platform is said once.
            warnings.retain(|warning| !told.contains(warning));
            told.extend(warnings.iter().cloned());
            tell(warnings, request, source, events.as_ref());
            let (plan, images) = examined?;
            if platforms.is_empty() {
                for warning in explain::unused(&plan, &images) {
                    events.emit(Event::Warning(warning));
                }
            }
            let mut lowered = lower(&plan, &images).map_err(|all| source.saying(all))?;
            let violations = request.allowed.violations(&lowered.graph, request.network);
            if !violations.is_empty() {
                return Err(source.saying(violations));
            }
            let moved = graph.absorb(std::mem::take(&mut lowered.graph));
            lowered.target = lowered.target.and_then(|target| target.within(&moved));
            platforms.push((plan, lowered));
        }
        Ok(Self {
            graph: Arc::new(graph),
            platforms,
        })
    }

    /// The vertices that the images are made of.
    pub(super) fn targets(&self) -> Vec<VertexIndex> {
        let platforms = self.platforms.iter();
        platforms
            .filter_map(|(_, lowered)| lowered.target)
            .collect()
    }

    /// The error of the build for that of a step.
    pub(super) fn step_error(
        &self,
        opened: &Opened,
        error: Arc<SolveError>,
        left: LeftStep,
    ) -> BuildError {
        let needs = |(_, lowered): &&(Plan, Lowered)| {
            solver::needed(&self.graph, lowered.target).contains(&error.vertex)
        };
        let Some((plan, _)) = self.platforms.iter().find(needs) else {
            return BuildError::Canceled;
        };
        let explained = Explanation {
            source: &opened.dockerfile,
            plan,
            graph: &self.graph,
            ignored: &opened.ignored,
        };
        explained.step_error(error, left)
    }

    /// Each platform's target, in the graph of all.
    pub(super) fn into_lowered(self) -> Vec<Lowered> {
        let graph = self.graph;
        let platforms = self.platforms.into_iter();
        platforms
            .map(|(_, lowered)| Lowered {
                graph: Graph::clone(&graph),
                ..lowered
            })
            .collect()
    }
}

/// The platforms to build for; `None` is this machine's, unasked for.
fn wanted(request: &BuildRequest) -> Vec<Option<&Platform>> {
    match request.platforms.as_slice() {
        [] => vec![None],
        several => several.iter().map(Some).collect(),
    }
}
