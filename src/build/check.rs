//! A Dockerfile looked at before it is built, or instead: its stages planned, its base images
//! found out about, and the build checks along the way.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, PoisonError};

use super::error::{BuildError, Located};
use super::remote::Remotes;
use super::run::{BuildEnvironment, dockerfile_name, options, resolve_all};
use super::{BuildRequest, ContextSource, DockerfileSource, dockerfile, inputs};
use crate::dockerfile as language;
use crate::dockerfile::lint::{self, Checks, Warning};
use crate::graph::lint as graph_lint;
use crate::graph::lowering::lower;
use crate::graph::plan::{ImageKey, Plan};
use crate::graph::{BaseImage, masked_in_place};
use crate::ignore::Matcher;
use crate::solver::events::{EventSink, NoEvents, Reporter};

/// The build argument that says what `# check=` says, and is heard in its stead.
const CHECK: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What a check has found.
#[derive(Debug)]
pub struct Checked {
    /// For people and programs.
    pub report: lint::Report,
    /// What keeps the Dockerfile from being built.
    pub error: Option<BuildError>,
}

/// Checks a Dockerfile and builds nothing: all of its stages, or those that `target` needs. Must
/// be called on a tokio runtime.
///
/// # Errors
/// When there is no Dockerfile to look at. What is wrong with one is no failure of the check.
pub async fn check(
    request: BuildRequest,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<Checked, BuildError> {
    let reporter = Arc::new(Reporter::new(events));
    let remotes = remotes(&request, environment, &reporter)?;
    let opened = open(&request, environment, &remotes).await?;
    let examination = Examination {
        source: &opened.dockerfile,
        ignore: opened.ignore.as_ref(),
        request: &request,
        environment,
        reporter: &reporter,
        covers_all: request.target.is_none(),
    };
    let mut warnings = Vec::new();
    let error = match examination.run(&mut warnings).await {
        Err(BuildError::Canceled) => return Err(BuildError::Canceled),
        Err(error) => Some(error),
        Ok((plan, images)) => {
            let lowered = lower(&plan, &images);
            lowered.err().map(|one| opened.dockerfile.saying(vec![one]))
        }
    };
    Ok(Checked {
        report: lint::Report {
            file: dockerfile_name(&request),
            text: masked_in_place(&opened.dockerfile.text),
            warnings,
            error: error.as_ref().map(place),
        },
        error,
    })
}

/// The stages of a Dockerfile, for people and for programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    /// A table.
    pub text: String,
    /// One object.
    pub json: String,
}

/// Lists the stages that can be built. Must be called on a tokio runtime.
///
/// # Errors
/// When there is no Dockerfile, or it can't be read as one.
pub async fn targets(
    request: &BuildRequest,
    environment: &BuildEnvironment,
) -> Result<Targets, BuildError> {
    let stdin = stdin(environment);
    let reporter = Arc::new(Reporter::new(Arc::new(NoEvents)));
    let remotes = remotes(request, environment, &reporter)?;
    let fetched = dockerfile::fetch(request, &remotes).await?;
    let opened = dockerfile::open(request, fetched, &environment.store, stdin)?;
    let source = opened.dockerfile;
    let parsed = language::parse(&source.text).map_err(|diagnostics| source.saying(diagnostics))?;
    Ok(Targets {
        text: language::targets::to_text(&parsed),
        json: language::targets::to_json(&parsed, &source.text),
    })
}

/// What fetches a context from elsewhere, with the credentials for it.
fn remotes(
    request: &BuildRequest,
    environment: &BuildEnvironment,
    reporter: &Arc<Reporter>,
) -> Result<Remotes, BuildError> {
    let is_remote = matches!(request.context, ContextSource::Remote(_))
        || matches!(request.dockerfile, DockerfileSource::Url(_));
    let sources = match is_remote {
        true => request.secrets.as_slice(),
        false => &[],
    };
    let secrets = inputs::secrets(sources, &*environment.variables)?;
    Ok(Remotes::new(environment, reporter, &Arc::new(secrets)))
}

/// Standard input, for whoever asks first.
fn stdin(environment: &BuildEnvironment) -> Option<Box<dyn Read + Send>> {
    environment
        .stdin
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// What an error says, and on which lines.
fn place(error: &BuildError) -> (String, usize, usize) {
    let first = match error {
        BuildError::Dockerfile(located) | BuildError::Resolve { located, .. } => {
            located.diagnostics.first()
        }
        _ => None,
    };
    match first {
        Some(one) => (one.to_string(), one.span.first_line, one.span.last_line),
        None => (error.to_string(), 0, 0),
    }
}

/// Opens the context and reads the Dockerfile.
pub(super) async fn open(
    request: &BuildRequest,
    environment: &BuildEnvironment,
    remotes: &Remotes,
) -> Result<dockerfile::Opened, BuildError> {
    let stdin = stdin(environment);
    let fetched = dockerfile::fetch(request, remotes).await?;
    let activity = remotes.reporter().begin(&format!(
        "[internal] load build definition from {}",
        dockerfile_name(request)
    ));
    activity.end(dockerfile::open(
        request,
        fetched,
        &environment.store,
        stdin,
    ))
}

/// What a Dockerfile is examined with.
pub(super) struct Examination<'a> {
    pub(super) source: &'a Located,
    /// The context's `.dockerignore`.
    pub(super) ignore: Option<&'a Matcher>,
    pub(super) request: &'a BuildRequest,
    pub(super) environment: &'a BuildEnvironment,
    pub(super) reporter: &'a Arc<Reporter>,
    /// Whether stages that the target doesn't need are looked at, too.
    pub(super) covers_all: bool,
}

impl Examination<'_> {
    /// Everything that a build has to know before its graph. What the checks find is in `warnings`
    /// however it ends.
    pub(super) async fn run(
        &self,
        warnings: &mut Vec<Warning>,
    ) -> Result<(Plan, BTreeMap<ImageKey, BaseImage>), BuildError> {
        let source = self.source;
        let checks = self.checks()?;
        warnings.extend(lint::text(&source.text, &checks));
        let parsed =
            language::parse(&source.text).map_err(|diagnostics| source.saying(diagnostics))?;
        let options = options(self.request);
        warnings.extend(graph_lint::from_lines(&parsed, &options, &checks));
        let mut plan = Plan::new(parsed, options).map_err(|one| source.saying(vec![one]))?;
        if self.covers_all {
            plan = plan.covering_all_stages();
        }
        let images =
            resolve_all(&plan, source, self.request, self.environment, self.reporter).await?;
        warnings.extend(graph_lint::stages(&plan, &images, self.ignore, &checks));
        match lint::violation(&checks, warnings) {
            Some(violation) => Err(BuildError::Checks(violation)),
            None => Ok((plan, images)),
        }
    }

    fn checks(&self) -> Result<Checks, BuildError> {
        let (checks, origin) = match self.request.build_args.get(CHECK) {
            Some(written) => (Checks::parse(written), CHECK),
            None => (Checks::of_dockerfile(&self.source.text), "check options"),
        };
        checks.map_err(|error| BuildError::Request(format!("failed to parse {origin}: {error}")))
    }
}
