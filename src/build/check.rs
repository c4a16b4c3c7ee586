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
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::lint::{self, Checks, Warning};
use crate::dockerfile::span::Span;
use crate::graph::lint as graph_lint;
use crate::graph::lowering::lower;
use crate::graph::outline as graph_outline;
use crate::graph::plan::{ImageKey, Plan};
use crate::graph::{BaseImage, masked_in_place};
use crate::ignore::Matcher;
use crate::platform::Platform;
use crate::solver::events::{Event, EventSink, NoEvents, Reporter};

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
        platform: request.platforms.first(),
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
            lowered.err().map(|all| opened.dockerfile.saying(all))
        }
    };
    Ok(Checked {
        report: lint::Report {
            file: dockerfile_name(&request),
            text: masked_in_place(&opened.dockerfile.text),
            warnings,
            errors: error.as_ref().map(diagnostics).unwrap_or_default(),
        },
        error,
    })
}

/// What there is to know of a Dockerfile, for people and for programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Tables.
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
) -> Result<Answer, BuildError> {
    let stdin = stdin(environment);
    let reporter = Arc::new(Reporter::new(Arc::new(NoEvents)));
    let remotes = remotes(request, environment, &reporter)?;
    let fetched = dockerfile::fetch(request, &remotes).await?;
    let opened = dockerfile::open(request, fetched, &environment.store, stdin)?;
    let source = opened.dockerfile;
    let parsed = language::parse(&source.text).map_err(|diagnostics| source.saying(diagnostics))?;
    Ok(Answer {
        text: language::targets::to_text(&parsed),
        json: language::targets::to_json(&parsed, &masked_in_place(&source.text)),
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

/// Tells what a target can be given. Must be called on a tokio runtime.
///
/// # Errors
/// When there is no Dockerfile, or it can't be built.
pub async fn outline(
    request: BuildRequest,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<Answer, BuildError> {
    let reporter = Arc::new(Reporter::new(events));
    let remotes = remotes(&request, environment, &reporter)?;
    let opened = open(&request, environment, &remotes).await?;
    let source = &opened.dockerfile;
    let examination = Examination {
        source,
        ignore: None,
        request: &request,
        platform: request.platforms.first(),
        environment,
        reporter: &reporter,
        covers_all: false,
    };
    let (plan, images) = examination.run(&mut Vec::new()).await?;
    let outline = graph_outline::outline(&plan, &images).map_err(|all| source.saying(all))?;
    Ok(Answer {
        text: outline.to_text(),
        json: outline.to_json(&masked_in_place(&source.text)),
    })
}

/// Standard input, for whoever asks first.
fn stdin(environment: &BuildEnvironment) -> Option<Box<dyn Read + Send>> {
    environment
        .stdin
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// What an error says, and where.
fn diagnostics(error: &BuildError) -> Vec<Diagnostic> {
    match error {
        BuildError::Dockerfile(located) | BuildError::Resolve { located, .. } => {
            located.diagnostics.clone()
        }
        _ => vec![Diagnostic::error(Span::default(), error.to_string())],
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
    /// Which of the request's platforms it is examined for.
    pub(super) platform: Option<&'a Platform>,
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
        let (parsed, mut errors) = language::read(&source.text);
        let checks = match self.checks() {
            Err(BuildError::Dockerfile(mut located)) => {
                located.diagnostics.extend(errors);
                located.diagnostics.sort_by_key(|one| one.span.start);
                return Err(BuildError::Dockerfile(located));
            }
            checks => checks?,
        };
        warnings.extend(lint::text(&source.text, &checks));
        let Some(parsed) = parsed else {
            return Err(source.saying(errors));
        };
        let options = options(self.request, self.platform);
        if errors.is_empty() {
            warnings.extend(graph_lint::from_lines(&parsed, &options, &checks));
        }
        // what can be said of stages is said along with what is wrong in the text
        let plan = Plan::new(parsed, options).map(|plan| match self.covers_all {
            true => plan.covering_all_stages(),
            false => plan,
        });
        let known = BTreeMap::new();
        let plan = plan.and_then(|plan| {
            let missing = plan.missing_images(&known)?;
            Ok((plan, missing.is_empty()))
        });
        let plan = match plan {
            Ok((plan, _)) if errors.is_empty() => plan,
            other => {
                errors.extend(match other {
                    Err(more) => more,
                    // variables that are unset because of a mistake make no second one
                    Ok((plan, true)) if language::unset_nothing(&source.text, &errors) => {
                        lower(&plan, &known).err().unwrap_or_default()
                    }
                    Ok(_) => Vec::new(),
                });
                errors.sort_by_key(|error| error.span.start);
                return Err(source.saying(errors));
            }
        };
        let images =
            resolve_all(&plan, source, self.request, self.environment, self.reporter).await?;
        warnings.extend(graph_lint::stages(&plan, &images, self.ignore, &checks));
        match lint::violation(&checks, warnings) {
            Some(violation) => Err(BuildError::Checks(violation)),
            None => Ok((plan, images)),
        }
    }

    fn checks(&self) -> Result<Checks, BuildError> {
        let Some(written) = self.request.build_args.get(CHECK) else {
            for warning in lint::unknown_names(&self.source.text) {
                self.reporter.sink().emit(Event::Warning(warning));
            }
            let checks = Checks::of_dockerfile(&self.source.text);
            return checks.map_err(|one| self.source.saying(vec![one]));
        };
        Checks::parse(written).map_err(|error| {
            let help = error.help();
            BuildError::Request(format!("failed to parse {CHECK}: {error}; {help}"))
        })
    }
}
