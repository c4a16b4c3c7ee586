//! `rbuild build`: options to a request, the request to the build, its result to the user.

pub mod stdin;

mod annotation;
mod arguments;
mod buildkit;
mod call;
mod on_error;
mod outputs;
mod request;
mod summary;
mod values;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

pub use self::arguments::{BuildArguments, NetworkChoice};
use self::request::Prepared;
use self::stdin::StdinContent;
use super::Context;
use crate::build::{
    self, BuildRequest, BuildResult, ContextSource, DockerfileSource, OutputTarget,
};
use crate::cli::docker_config;
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::output;
use crate::cli::ui::{Phase, ProgressMode};
use crate::export::engine::Engine;
use crate::export::{Destination, ExportError};
use crate::solver::events::EventSink;
use crate::step::FailedStep;

/// Builds an image.
///
/// # Errors
/// Whatever the build failed with, ready to be shown.
pub async fn run(arguments: BuildArguments, context: &Context) -> Result<(), Failure> {
    let mut prepared = request::prepare(arguments, &context.environment)?;
    if prepared.progress.is_for_people()
        && let Some(note) = buildkit::builder_note(&context.environment)
    {
        context.note(&note);
    }
    match docker_config::proxies(&context.environment) {
        Ok(proxies) => docker_config::add_proxies(&mut prepared.request.build_args, proxies),
        // As in Docker, which goes on without.
        Err(error) => context.note(&format!("proxies are not looked up: {error}")),
    }
    if prepared.call.is_none()
        && let Some(file) = &prepared.iidfile
    {
        // An id of an earlier build must not be taken for this one's.
        remove(file)?;
    }
    check_destinations(&prepared)?;
    let input;
    (prepared.request, input) = open_input(prepared.request, context).await?;
    if let Some(call) = prepared.call {
        return call::answer(call, prepared, input, context).await;
    }
    let stays = choose_engine(&mut prepared, context).await?;
    let progress = context.progress(prepared.progress, Phase::Building)?;
    let result = execute(&prepared.request, input, context, progress.sink()).await;
    let report = progress.finish();
    if prepared.progress.is_for_people() {
        let expand = context.settings.verbosity > 0;
        let findings = report.findings(context.style, expand);
        context.stderr.write_lines(&findings);
    }
    let result = match result {
        Ok(result) => result,
        Err(Unfinished { failure, step }) => {
            if context.interrupt.signal().is_none() {
                // Programs have got the output already.
                let output = match prepared.progress {
                    ProgressMode::RawJson => report.failed_logs(),
                    _ => report.failed_output(context.style),
                };
                context.stderr.write_lines(&output);
            }
            return Err(match step {
                Some(step) => on_error::enter(*step, failure, context).await,
                None => failure,
            });
        }
    };
    if prepared.progress.is_for_people() {
        let outputs = &prepared.request.outputs;
        let text = summary::summary(&result, outputs, report.elapsed(), context.style);
        context.stderr.write_lines(&text);
        if stays {
            context.note(
                "no Docker, Podman or containerd takes images here: the image is in rbuild's own store only",
            );
        }
    }
    deliver(&prepared, &result)
}

/// Whether what the build is to write could be written, asked before it begins.
fn check_destinations(prepared: &Prepared) -> Result<(), Failure> {
    let refused = |path: &Path, error: ExportError| {
        Failure::internal(format!("can't write `{}`", path.display())).caused_by(&error)
    };
    for file in prepared.iidfile.iter().chain(&prepared.metadata_file) {
        Destination::check(&Path::new(".").join(file)).map_err(|error| refused(file, error))?;
    }
    for output in &prepared.request.outputs {
        let (dest, checked) = match &output.target {
            OutputTarget::Archive { dest, .. } | OutputTarget::Tar { dest } => {
                (dest, Destination::check(dest))
            }
            OutputTarget::Layout { dest } | OutputTarget::Folder { dest } => {
                (dest, Destination::check_folder(dest))
            }
            OutputTarget::Store | OutputTarget::Registry { .. } | OutputTarget::Engine(_) => {
                continue;
            }
        };
        checked.map_err(|error| refused(dest, error))?;
    }
    Ok(())
}

/// Looks for the container engine that is to have the image, before anything is built for it.
/// Gives whether the image stays in the store because there is none.
async fn choose_engine(prepared: &mut Prepared, context: &Context) -> Result<bool, Failure> {
    let Some(wish) = prepared.engine.take() else {
        return Ok(false);
    };
    let outside = context.processes.outside.clone();
    let looking = tokio::task::spawn_blocking(move || match wish.engine {
        Some(engine) => engine.check(&outside).map(|()| Some(engine)),
        None => Engine::find(&outside),
    });
    let found = tokio::select! {
        found = looking => found
            .map_err(|error| Failure::internal("can't look for a container engine").caused_by(&error))?,
        interrupted = context.interrupt.wait() => return interrupted.map(|never| match never {}),
    };
    let found = found.map_err(|error| Failure::from_error(ErrorKind::User, &error))?;
    match found {
        Some(engine) => {
            let output = wish.output.to(OutputTarget::Engine(engine));
            prepared.request.outputs.push(output);
            Ok(false)
        }
        None if wish.is_required => Err(Failure::user(
            "no Docker, Podman or containerd takes images here",
        )
        .hint("write the image to a file: `--output type=docker,dest=FILE`")),
        None => Ok(true),
    }
}

/// Files and standard output, for scripts.
fn deliver(prepared: &Prepared, result: &BuildResult) -> Result<(), Failure> {
    let id = summary::id(result);
    if let Some(file) = &prepared.iidfile {
        write(file, &id)?;
    }
    if let Some(file) = &prepared.metadata_file {
        write(file, &summary::metadata(result))?;
    }
    if prepared.print_id {
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}

/// Writes a file that is whole when it has its name.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        // Here `-` is a file like any other.
        let mut out = Destination::open(&Path::new(".").join(file))?;
        out.write_all(text.as_bytes()).map_err(ExportError::Write)?;
        out.commit()
    };
    write().map_err(|error| {
        Failure::internal(format!("can't write `{}`", file.display())).caused_by(&error)
    })
}

fn remove(file: &Path) -> Result<(), Failure> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::user(format!("can't replace `{}`", file.display())).caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// Looks at standard input on a thread of its own: a terminal may say nothing for long, and an
/// interrupt is not to wait for it.
async fn open_input(
    mut request: BuildRequest,
    context: &Context,
) -> Result<(BuildRequest, Input), Failure> {
    let opening = tokio::task::spawn_blocking(move || {
        let input = Input::open(&mut request)?;
        Ok((request, input))
    });
    tokio::select! {
        opened = opening => opened
            .unwrap_or_else(|error| Err(Failure::internal("can't read standard input").caused_by(&error))),
        interrupted = context.interrupt.wait() => interrupted.map(|never| match never {}),
    }
}

/// What the build reads from standard input, if anything.
pub struct Input {
    /// Standard input, from its first byte: the archive of [`ContextSource::Stdin`], or the
    /// Dockerfile of [`DockerfileSource::Stdin`].
    pub stdin: Option<Box<dyn io::Read + Send>>,
    /// An empty folder that stands for the context where there's only a Dockerfile; removed with
    /// this value.
    _empty_context: Option<tempfile::TempDir>,
}

impl Input {
    /// Looks at standard input where it is the context, and corrects the request where it holds
    /// a Dockerfile.
    fn open(request: &mut BuildRequest) -> Result<Self, Failure> {
        let unreadable =
            |error: io::Error| Failure::user("can't read standard input").caused_by(&error);
        if request.dockerfile == DockerfileSource::Stdin {
            return Ok(Self {
                stdin: Some(Box::new(io::stdin())),
                _empty_context: None,
            });
        }
        if request.context != ContextSource::Stdin {
            return Ok(Self {
                stdin: None,
                _empty_context: None,
            });
        }
        match stdin::recognise(io::stdin()).map_err(unreadable)? {
            StdinContent::Archive(reader) => Ok(Self {
                stdin: Some(reader),
                _empty_context: None,
            }),
            StdinContent::Dockerfile(_) if request.dockerfile != DockerfileSource::Default => Err(
                Failure::user("standard input is no tar archive, but `-f` names a file in one")
                    .hint(
                        "drop `-f` to build the Dockerfile on standard input, or send an archive",
                    ),
            ),
            StdinContent::Dockerfile(reader) => {
                let empty = tempfile::tempdir().map_err(|error| {
                    Failure::internal("can't make an empty folder for the context")
                        .caused_by(&error)
                })?;
                request.context = ContextSource::Directory(empty.path().to_owned());
                request.dockerfile = DockerfileSource::Stdin;
                Ok(Self {
                    stdin: Some(reader),
                    _empty_context: Some(empty),
                })
            }
        }
    }
}

/// A build that failed.
struct Unfinished {
    failure: Failure,
    /// The step that did, where the user wants to enter it.
    step: Option<Box<FailedStep>>,
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            step: None,
        }
    }
}

/// Hands the request to the build.
async fn execute(
    request: &BuildRequest,
    input: Input,
    context: &Context,
    events: Arc<dyn EventSink>,
) -> Result<BuildResult, Unfinished> {
    let environment = context.build_environment(input.stdin)?;
    let result = build::build(request.clone(), &environment, events).await;
    result.map_err(|mut error| {
        let step = on_error::take(&mut error);
        let failure = Failure::of_build(error, context.style);
        Unfinished { failure, step }
    })
}
