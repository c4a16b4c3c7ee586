//! The build itself, from request to result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::assemble::{Assembled, assemble, compressed_size};
use super::check;
use super::error::{BuildError, LeftStep, Located};
use super::explain;
use super::fetch::{Fetcher, Pulls};
use super::planned::Planned;
use super::remote::Remotes;
use super::resolve::{ResolveError, Resolver};
use super::{
    BuildRequest, BuildResult, BuiltImage, DockerfileSource, NamedContext, OnError, debug,
    dockerfile, inputs, outputs,
};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::lint::{self, Warning};
use crate::graph::lowering::Lowered;
use crate::graph::plan::{ContextKind, ImageKey, Options, Plan};
use crate::graph::{BaseImage, Graph, Operation, masked_in_place};
use crate::layer::form::Form;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Client;
use crate::sandbox::{Launcher, OutsideHelper};
use crate::snapshot::{Materializer, StorageDriver};
use crate::solver::cancel::Cancel;
use crate::solver::events::{Event, EventSink, Reporter};
use crate::solver::{self, Solved};
use crate::step::{ContextFolder, FailedSteps, StepContext};
use crate::store::Store;

/// Looks an environment variable up.
pub type Variables = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// What a build works with, made by whoever knows the machine.
pub struct BuildEnvironment {
    /// The store.
    pub store: Store,
    /// Speaks to registries.
    pub client: Client,
    /// The form of trees that this process can make.
    pub form: Form,
    /// What the file systems of steps are made of.
    pub driver: StorageDriver,
    /// Runs programs that are no part of rbuild.
    pub outside: OutsideHelper,
    /// Starts sandboxes; else why none can be had.
    pub launcher: Result<Launcher, String>,
    /// Stops the build.
    pub cancel: Cancel,
    /// Standard input, from its first byte, where the request reads it.
    pub stdin: Mutex<Option<Box<dyn Read + Send>>>,
    /// Environment variables, for secrets that are in one.
    pub variables: Variables,
}

/// What makes the layers' shapes in `environment`. Must be called on a tokio runtime.
pub(super) fn materializer(
    environment: &BuildEnvironment,
    reporter: &Arc<Reporter>,
) -> Arc<Materializer> {
    let fetcher = Fetcher {
        client: environment.client.clone(),
        store: environment.store.clone(),
        reporter: Arc::clone(reporter),
        runtime: Handle::current(),
        cancel: environment.cancel.clone(),
        pulls: Pulls::default(),
    };
    let materializer = Materializer::new(
        environment.store.clone(),
        environment.form.clone(),
        Box::new(fetcher),
    );
    Arc::new(materializer.with_driver(environment.driver))
}

/// Builds an image. Must be called on a tokio runtime of several threads.
///
/// # Errors
/// Whatever made it impossible; every step has ended by then.
pub async fn build(
    request: BuildRequest,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<BuildResult, BuildError> {
    let reporter = Arc::new(Reporter::new(Arc::clone(&events)));
    let secrets = Arc::new(inputs::secrets(&request.secrets, &*environment.variables)?);
    let agents = Arc::new(inputs::agents(&request.ssh, &*environment.variables)?);
    let remotes = Arc::new(Remotes::new(environment, &reporter, &secrets));
    let opened = check::open(&request, environment, &remotes).await?;
    let folders = dockerfile::open_folders(&request, &environment.store)?;
    let planned = Planned::of(&request, &opened, environment, &reporter).await?;
    let (graph, targets) = (Arc::clone(&planned.graph), planned.targets());
    let materializer = materializer(environment, &reporter);
    remotes.fetch_ahead(&graph, &targets);
    let failed = match request.on_error {
        OnError::Remove => None,
        OnError::HandOver | OnError::Keep => Some(Arc::new(FailedSteps::default())),
    };
    let context = Arc::new(StepContext {
        materializer: Arc::clone(&materializer),
        context: Some(Arc::clone(&opened.context)),
        folders: folders.clone(),
        remotes,
        launcher: environment.launcher.clone(),
        outside: environment.outside.clone(),
        secrets,
        agents,
        no_cache: request.no_cache,
        cancel: environment.cancel.clone(),
        logs: Arc::new(environment.store.build_logs()),
        failed: failed.clone(),
        events,
    });
    let solving = solver::solve(Arc::clone(&graph), &targets, context, Arc::clone(&reporter));
    let solved = solving.await;
    opened.context.save_digests();
    for folder in &folders {
        if let ContextFolder::Tree(tree) = folder {
            tree.save_digests();
        }
    }
    let solved = match solved {
        Ok(solved) => solved,
        Err(error) => {
            let step = failed.and_then(|failed| failed.take(error.id));
            let left = match error.error.is_canceled() {
                true => LeftStep::Nothing,
                false => debug::leave(step, request.on_error, &reporter).await,
            };
            return Err(planned.step_error(&opened, error, left));
        }
    };
    let (cached_steps, steps) = count(&graph, &solved);
    let activity = reporter.begin("exporting to image");
    let images = whole(&materializer, &request, planned.into_lowered(), solved).await;
    let images = activity.end(images)?;
    let delivered =
        outputs::deliver(&request, environment, &materializer, &images, &reporter).await?;
    environment.store.sync()?;
    Ok(BuildResult {
        manifest: delivered.manifest,
        loaded: delivered.loaded,
        tags: delivered.names,
        size: size(&images),
        compressed_size: compressed_size(&environment.store, &images)?,
        images: images
            .iter()
            .map(|image| BuiltImage {
                platform: image.config.platform(),
                id: image.id,
            })
            .collect(),
        cached_steps,
        steps,
    })
}

/// Bytes of the layers that the images have, each once.
fn size(images: &[Assembled]) -> u64 {
    if let [one] = images {
        return one.size();
    }
    let layers: BTreeMap<_, _> = images.iter().flat_map(Assembled::sizes).collect();
    layers.values().sum()
}

/// Tells what build checks have found.
pub(super) fn tell(
    warnings: Vec<Warning>,
    request: &BuildRequest,
    source: &Located,
    events: &dyn EventSink,
) {
    let text = masked_in_place(&source.text);
    let (file, lines) = (dockerfile_name(request), lint::lines(&text));
    for warning in warnings {
        let (first, last) = (warning.first_line, warning.last_line);
        let excerpt = lint::excerpt(&file, &lines, first, last);
        events.emit(Event::Finding { warning, excerpt });
    }
}

/// The Dockerfile's name as it is shown, without its folder.
pub(super) fn dockerfile_name(request: &BuildRequest) -> String {
    let path = match &request.dockerfile {
        DockerfileSource::File(path) => path.file_name(),
        DockerfileSource::Default | DockerfileSource::Stdin | DockerfileSource::Url(_) => None,
    };
    path.map_or_else(
        || "Dockerfile".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

async fn whole(
    materializer: &Arc<Materializer>,
    request: &BuildRequest,
    lowered: Vec<Lowered>,
    solved: Solved,
) -> Result<Vec<Assembled>, BuildError> {
    let (materializer, request) = (Arc::clone(materializer), request.clone());
    let assembled = tokio::task::spawn_blocking(move || {
        lowered
            .into_iter()
            .map(|lowered| assemble(&materializer, &request, lowered, &solved))
            .collect()
    });
    assembled.await.map_err(|_| BuildError::Canceled)?
}

pub(super) fn options(request: &BuildRequest, platform: Option<&Platform>) -> Options {
    let host = Platform::host();
    Options {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        platform: platform.cloned().unwrap_or_else(|| host.clone()),
        platform_is_explicit: platform.is_some(),
        platform_is_one_of_several: request.platforms.len() > 1,
        build_platform: host,
        network: request.network,
        run: Arc::new(request.run.clone()),
        fresh_stages: request.fresh_stages.clone(),
        contexts: context_kinds(request),
        source_date_epoch: request.source_date_epoch.map(|time| time.seconds()),
    }
}

/// What the names of `--build-context` stand for; folders have the numbers of
/// [`dockerfile::open_folders`].
fn context_kinds(request: &BuildRequest) -> BTreeMap<String, ContextKind> {
    let mut folders = 0;
    let contexts = request.contexts.iter();
    let kinds = contexts.map(|(name, context)| {
        let kind = match context {
            NamedContext::Folder(_) | NamedContext::Remote(_) => {
                folders += 1;
                ContextKind::Folder(folders - 1)
            }
            NamedContext::Image(_) | NamedContext::File { .. } => ContextKind::Image,
            NamedContext::Scratch => ContextKind::Scratch,
        };
        (name.clone(), kind)
    });
    kinds.collect()
}

/// Resolves every base image that the target needs, and those that their triggers need.
pub(super) async fn resolve_all(
    plan: &Plan,
    source: &Located,
    request: &BuildRequest,
    environment: &BuildEnvironment,
    reporter: &Arc<Reporter>,
) -> Result<BTreeMap<ImageKey, BaseImage>, BuildError> {
    let resolver = Resolver {
        store: &environment.store,
        client: &environment.client,
        events: reporter.sink().as_ref(),
        pull: request.pull,
        contexts: &request.contexts,
    };
    let mut known = BTreeMap::new();
    loop {
        let missing = plan.missing_images(&known);
        let missing = missing.map_err(|all| source.saying(all))?;
        if missing.is_empty() {
            return Ok(known);
        }
        let resolving = missing.into_iter().map(|(key, used)| {
            let (resolver, reporter) = (&resolver, Arc::clone(reporter));
            async move {
                let named: Result<Reference, _> = key.name.parse();
                let name = named.map_or_else(
                    |_| key.name.clone(),
                    |name| name.with_default_tag().to_string(),
                );
                let prefix = match request.platforms.len() {
                    0 | 1 => String::new(),
                    _ => format!("{} ", key.platform),
                };
                let activity =
                    reporter.begin(&format!("[{prefix}internal] load metadata for {name}"));
                match activity.end(resolver.resolve(&key).await) {
                    Ok(image) => Ok((key, image)),
                    Err(error) => Err((explain::image_error(plan, &key, &used, &error), error)),
                }
            }
        });
        let resolved = futures_util::future::join_all(resolving);
        let resolved = tokio::select! {
            resolved = resolved => resolved,
            () = environment.cancel.canceled() => return Err(BuildError::Canceled),
        };
        let mut failed: Vec<(Diagnostic, ResolveError)> = Vec::new();
        for result in resolved {
            match result {
                Ok((key, image)) => drop(known.insert(key, image)),
                Err(error) => failed.push(error),
            }
        }
        failed.sort_by_key(|(diagnostic, _)| diagnostic.span.start);
        let (diagnostics, errors): (Vec<_>, Vec<_>) = failed.into_iter().unzip();
        if let Some(first) = errors.into_iter().next() {
            let located = source.with(diagnostics);
            let source = Box::new(first);
            return Err(BuildError::Resolve { located, source });
        }
    }
}

/// How many steps the cache answered, and how many there were.
fn count(graph: &Graph, solved: &Solved) -> (usize, usize) {
    let mut counts = (0, 0);
    for (index, result) in solved {
        if matches!(graph.vertex(*index).operation, Operation::Image(_)) {
            continue;
        }
        counts.0 += usize::from(result.cached);
        counts.1 += 1;
    }
    counts
}
