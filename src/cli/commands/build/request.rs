//! Options and environment, made into a request.
//!
//! Nothing is read but what the file system says about the context's path.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use super::annotation::Annotations;
use super::arguments::{self, BuildArguments};
use super::call::Call;
use super::outputs::{self, Around, Kind, OutputValue};
use super::{buildkit, on_error, values};
use crate::build::{
    BuildRequest, ContextSource, DockerfileSource, NamedContext, NetworkMode, Output, RemoteSource,
    SecretFrom, SecretSource,
};
use crate::cli::commands::parse_reference;
use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;
use crate::cli::ui::ProgressMode;
use crate::export::Packaging;
use crate::export::engine::Engine;
use crate::platform::Platform;
use crate::remote::git::masked;
use crate::time::Timestamp;

const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// A request, and what the command itself has to do.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// The request. Where the context is [`ContextSource::Stdin`], standard input has still to be
    /// looked at: it may be a Dockerfile.
    pub(super) request: BuildRequest,
    /// `--progress`, `-q`.
    pub(super) progress: ProgressMode,
    /// Whether the image's id is the command's result on standard output.
    pub(super) print_id: bool,
    /// `--iidfile`.
    pub(super) iidfile: Option<PathBuf>,
    /// `--metadata-file`.
    pub(super) metadata_file: Option<PathBuf>,
    /// `--check`, `--call`: what is asked instead of building.
    pub(super) call: Option<Call>,
    /// `--load`: the image goes to a container engine, too.
    pub(super) engine: Option<EngineWish>,
}

/// An output to a container engine, which has still to be looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct EngineWish {
    /// Which one; whichever is there where `None`.
    pub(super) engine: Option<Engine>,
    /// Whether the build is of no use without it.
    pub(super) is_required: bool,
    /// The output, but for the engine.
    pub(super) output: OutputValue,
}

/// Makes a request of options and environment.
pub(super) fn prepare(
    arguments: BuildArguments,
    environment: &Environment,
) -> Result<Prepared, Failure> {
    let call = Call::read(
        arguments.call.as_deref(),
        arguments.check,
        arguments.format.as_deref(),
    )?;
    let (context, dockerfile) = sources(&arguments)?;
    let platforms = platforms(&arguments.platform, environment)?;
    let Outputs {
        outputs,
        engine,
        rewrite_timestamp,
    } = outputs(&arguments, &platforms, environment)?;
    let progress = progress(&arguments, environment)?;
    let writes_to_stdout = outputs.iter().any(|output| output.target.is_stdout());
    let print_id = progress == ProgressMode::Quiet;
    if writes_to_stdout && print_id {
        let said = match &arguments.progress {
            _ if arguments.quiet => "--quiet",
            Some(_) => "--progress=quiet",
            None => "BUILDKIT_PROGRESS=quiet",
        };
        return Err(Failure::user(format!(
            "`{said}` prints the image's id where `--output` writes the image"
        ))
        .hint(format!(
            "add `dest=FILE`, or use `--iidfile FILE` instead of `{said}`"
        )));
    }
    let (build_args, source_date_epoch) = build_args(&arguments, environment)?;
    buildkit::check_arguments(&build_args)?;
    if rewrite_timestamp && source_date_epoch.is_none() {
        return Err(Failure::user("`rewrite-timestamp=true` needs SOURCE_DATE_EPOCH")
            .hint("set it in the environment, for example `SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct)`"));
    }
    let on_error = arguments.on_error.unwrap_or_default().into();
    if call.is_none() {
        on_error::check(on_error, &context, &dockerfile)?;
    }
    let network = arguments.network.unwrap_or_default().into();
    if network == NetworkMode::Private {
        arguments.run.refuse_host_gateway()?;
    }
    let request = BuildRequest {
        context,
        dockerfile,
        tags: arguments
            .tags
            .iter()
            .map(|tag| image_name(tag))
            .collect::<Result<_, _>>()?,
        target: arguments.target.clone().filter(|target| !target.is_empty()),
        build_args,
        labels: values::labels(&arguments.labels)?,
        contexts: contexts(&arguments.contexts)?,
        secrets: secrets(&arguments.secrets, environment)?,
        ssh: values::ssh(&arguments.ssh),
        no_cache: arguments.no_cache,
        fresh_stages: stages(&arguments.no_cache_filter),
        pull: arguments.pull,
        allowed: values::allowance(&arguments.allow)?,
        network,
        run: arguments.run.read_with(&arguments.resources)?,
        // Several images have no id in common but that of their index.
        describe: arguments.metadata_file.is_some()
            || (platforms.len() > 1 && (arguments.iidfile.is_some() || print_id)),
        platforms,
        outputs,
        source_date_epoch,
        rewrite_timestamp,
        on_error,
    };
    Ok(Prepared {
        request,
        progress,
        print_id,
        iidfile: arguments.iidfile,
        metadata_file: arguments.metadata_file,
        call,
        engine,
    })
}

fn sources(arguments: &BuildArguments) -> Result<(ContextSource, DockerfileSource), Failure> {
    let Some(context) = &arguments.context else {
        return Err(Failure::user(
            "the context is missing: the folder that COPY and ADD read from",
        )
        .hint("for this folder write `rbuild -t NAME .`"));
    };
    let dockerfile = match &arguments.file {
        None => DockerfileSource::Default,
        Some(file) if file.as_os_str().is_empty() => DockerfileSource::Default,
        Some(file) if file.as_os_str() == "-" => DockerfileSource::Stdin,
        Some(file) if is_http_url(&file.to_string_lossy()) => {
            DockerfileSource::Url(file.to_string_lossy().into_owned())
        }
        Some(file) => DockerfileSource::File(file.clone()),
    };
    if context.as_os_str() == "-" {
        if dockerfile == DockerfileSource::Stdin {
            return Err(Failure::user(
                "standard input can't be both the context and the Dockerfile",
            )
            .hint("put the Dockerfile into the archive, or give a folder as context"));
        }
        return Ok((ContextSource::Stdin, dockerfile));
    }
    if !context.is_dir()
        && let Some(source) = context.to_str().map(remote).transpose()?.flatten()
    {
        return Ok((ContextSource::Remote(source), dockerfile));
    }
    let folder = folder(context)?;
    Ok((ContextSource::Directory(folder), dockerfile))
}

/// What is elsewhere, if that is what the text of a context names.
pub(super) fn remote(text: &str) -> Result<Option<RemoteSource>, Failure> {
    RemoteSource::of_context(text).map_err(|error| {
        let shown = masked(text);
        Failure::user(format!("can't read the git repository `{shown}`: {error}"))
            .hint("write https://HOST/REPOSITORY.git#REF:FOLDER")
    })
}

fn is_http_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn folder(context: &Path) -> Result<PathBuf, Failure> {
    let shown = context.display();
    match std::fs::metadata(context) {
        Ok(metadata) if metadata.is_dir() => Ok(context.to_owned()),
        Ok(_) => Err(Failure::user(format!("the context `{shown}` is not a folder")).hint(format!(
            "for a Dockerfile write `rbuild -f {shown} FOLDER`, for an archive `rbuild - < {shown}`"
        ))),
        Err(error) => Err(Failure::user(format!("can't read the context `{shown}`"))
            .caused_by(&error)
            .hint("the context is the folder that COPY and ADD read from")),
    }
}

fn image_name(text: &str) -> Result<crate::reference::Reference, Failure> {
    let reference = parse_reference(text)?;
    if reference.digest().is_some() {
        return Err(Failure::user(format!(
            "can't name an image `{text}`: its digest isn't known yet"
        ))
        .hint("leave `@sha256:…` out"));
    }
    Ok(reference)
}

/// What `-o`, `--push`, `--load` and `--annotation` amount to.
struct Outputs {
    outputs: Vec<Output>,
    engine: Option<EngineWish>,
    rewrite_timestamp: bool,
}

fn outputs(
    arguments: &BuildArguments,
    platforms: &[Platform],
    environment: &Environment,
) -> Result<Outputs, Failure> {
    let host = [Platform::host()];
    let platforms = match platforms {
        [] => &host,
        several => several,
    };
    let annotations = Annotations::of_flags(&arguments.annotations, platforms)?;
    let around = Around {
        stdout_is_terminal: io::stdout().is_terminal(),
        platforms,
        annotations: &annotations,
    };
    let texts = arguments.outputs.iter().filter(|text| !text.is_empty());
    let mut values: Vec<OutputValue> = texts
        .map(|text| outputs::output(text, &around))
        .collect::<Result<_, _>>()?;
    let load = load(arguments, environment)?;
    if platforms.len() > 1 && matches!(load, Some(Load::Any | Load::Only(_))) {
        return Err(outputs::several_for_docker());
    }
    let mut packaging = Packaging::default();
    annotations.add_to(&mut packaging);
    let images = values.iter_mut().filter_map(|value| match &mut value.kind {
        Kind::Image { push, .. } => Some(push),
        _ => None,
    });
    let images: Vec<&mut bool> = images.collect();
    let keeps = !images.is_empty();
    // As in buildx, `--push` pushes the image that an output makes; without one it makes one.
    if arguments.push {
        images.into_iter().for_each(|push| *push = true);
    }
    if !keeps && (arguments.push || load.is_some() || values.is_empty()) {
        values.push(OutputValue::image(packaging, arguments.push));
    }
    check_names(&values, &arguments.tags)?;
    let outputs: Vec<Output> = values.iter().flat_map(OutputValue::outputs).collect();
    if outputs.iter().filter(|one| one.target.is_stdout()).count() > 1 {
        return Err(
            Failure::user("two `--output` write to standard output").hint("add `dest=FILE` to one")
        );
    }
    Ok(Outputs {
        outputs,
        engine: engine_wish(&values, load),
        rewrite_timestamp: rewrite_timestamp(&values)?,
    })
}

/// A push needs names, and by digest alone none with a tag.
fn check_names(values: &[OutputValue], tags: &[String]) -> Result<(), Failure> {
    for value in values {
        let Kind::Image {
            push: true,
            by_digest,
        } = value.kind
        else {
            continue;
        };
        if tags.is_empty() && value.names.is_empty() {
            return Err(Failure::user("a push needs a name that says where to")
                .hint("add `-t REGISTRY/NAME[:TAG]`"));
        }
        let has_tag = |name: &&String| name.rsplit('/').next().is_some_and(|n| n.contains(':'));
        if by_digest && let Some(name) = tags.iter().find(has_tag) {
            return Err(Failure::user(format!(
                "`push-by-digest=true` pushes without a tag, but `{name}` has one"
            )));
        }
    }
    Ok(())
}

/// Which engine `--load` means, if it was given.
enum Load {
    /// Whichever is there.
    Any,
    /// This one.
    Only(Engine),
    /// None: the image stays in the store.
    StoreOnly,
}

fn load(arguments: &BuildArguments, environment: &Environment) -> Result<Option<Load>, Failure> {
    let Some(value) = &arguments.load else {
        return Ok(None);
    };
    if parse_bool(value) == Some(false) {
        return Ok(None);
    }
    let from_environment = environment.get("RBUILD_LOAD");
    let (value, origin) = match (parse_bool(value), &from_environment) {
        (Some(_), Some(value)) => (value.as_str(), "RBUILD_LOAD"),
        (Some(_), None) => ("auto", "--load"),
        (None, _) => (value.as_str(), "--load"),
    };
    match value {
        "auto" => Ok(Some(Load::Any)),
        "docker" => Ok(Some(Load::Only(Engine::Docker))),
        "podman" => Ok(Some(Load::Only(Engine::Podman))),
        "containerd" => Ok(Some(Load::Only(Engine::Containerd))),
        "store" => Ok(Some(Load::StoreOnly)),
        _ => Err(
            Failure::user(format!("invalid value `{value}` for `{origin}`"))
                .hint("it is one of auto, docker, podman, containerd, store"),
        ),
    }
}

/// One output to an engine, however often it is asked for.
fn engine_wish(values: &[OutputValue], load: Option<Load>) -> Option<EngineWish> {
    let written = values.iter().find(|value| value.kind == Kind::Engine);
    let engine = match load {
        Some(Load::Only(engine)) => Some(engine),
        _ => None,
    };
    let is_asked_for = matches!(load, Some(Load::Any | Load::Only(_)));
    let image = |value: &&OutputValue| matches!(value.kind, Kind::Image { .. });
    let output = match written {
        Some(written) => written.clone(),
        None if is_asked_for => values.iter().find(image)?.clone(),
        None => return None,
    };
    Some(EngineWish {
        engine,
        is_required: written.is_some() || engine.is_some(),
        output,
    })
}

fn rewrite_timestamp(values: &[OutputValue]) -> Result<bool, Failure> {
    // An output that the user didn't write follows the others.
    let mut said = values.iter().filter_map(|value| value.rewrite_timestamp);
    let first = said.next().unwrap_or(false);
    if said.any(|other| other != first) {
        return Err(
            Failure::user("`rewrite-timestamp` differs between outputs of one build")
                .hint("say it with every `--output`, or build twice"),
        );
    }
    Ok(first)
}

/// Build arguments with `SOURCE_DATE_EPOCH` among them: the option's, else the environment's.
fn build_args(
    arguments: &BuildArguments,
    environment: &Environment,
) -> Result<
    (
        std::collections::BTreeMap<String, String>,
        Option<Timestamp>,
    ),
    Failure,
> {
    let mut build_args = values::build_args(&arguments.build_args, environment)?;
    if !build_args.contains_key(SOURCE_DATE_EPOCH)
        && let Some(value) = environment.get(SOURCE_DATE_EPOCH)
    {
        build_args.insert(SOURCE_DATE_EPOCH.to_owned(), value);
    }
    let epoch = build_args
        .get(SOURCE_DATE_EPOCH)
        .filter(|value| !value.is_empty())
        .map(|value| Timestamp::from_source_date_epoch(value))
        .transpose()
        .map_err(|error| Failure::user(error.to_string()))?;
    Ok((build_args, epoch))
}

fn stages(names: &[String]) -> Vec<String> {
    let names = names.iter().filter(|name| !name.is_empty());
    names.cloned().collect()
}

fn contexts(texts: &[String]) -> Result<BTreeMap<String, NamedContext>, Failure> {
    texts
        .iter()
        .map(|text| values::named_context(text))
        .collect()
}

fn secrets(texts: &[String], environment: &Environment) -> Result<Vec<SecretSource>, Failure> {
    let mut secrets: Vec<SecretSource> = Vec::with_capacity(texts.len());
    for text in texts {
        let secret = values::secret(text, environment)?;
        if let SecretFrom::File(path) = &secret.from
            && let Err(error) = std::fs::metadata(path)
        {
            let message = format!(
                "can't read the secret `{}` from `{}`",
                secret.id,
                path.display()
            );
            return Err(Failure::user(message).caused_by(&error));
        }
        secrets.retain(|other| other.id != secret.id);
        secrets.push(secret);
    }
    Ok(secrets)
}

/// The platforms that were asked for, each once.
fn platforms(given: &[Platform], environment: &Environment) -> Result<Vec<Platform>, Failure> {
    const VARIABLE: &str = "DOCKER_DEFAULT_PLATFORM";
    let given = match (given, environment.get(VARIABLE)) {
        ([], Some(text)) => text
            .split(',')
            .map(arguments::platform)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::user(format!("{VARIABLE}: {error}")))?,
        (given, _) => given.to_vec(),
    };
    let mut once: Vec<Platform> = Vec::with_capacity(given.len());
    for platform in given {
        if !once.contains(&platform) {
            once.push(platform);
        }
    }
    Ok(once)
}

fn progress(
    arguments: &BuildArguments,
    environment: &Environment,
) -> Result<ProgressMode, Failure> {
    let mode = match &arguments.progress {
        None => ProgressMode::of_environment(environment)?,
        Some(text) => ProgressMode::named(text).ok_or_else(|| {
            Failure::user(format!("invalid value `{text}` for `--progress`"))
                .hint(format!("it is one of {}", ProgressMode::NAMES))
        })?,
    };
    if !arguments.quiet {
        return Ok(mode);
    }
    match &arguments.progress {
        Some(text) if !matches!(text.as_str(), "auto" | "quiet" | "none" | "") => {
            Err(Failure::user(format!(
                "`--quiet` and `--progress={text}` contradict each other"
            )))
        }
        _ => Ok(ProgressMode::Quiet),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
