//! Options and environment, made into a request.
//!
//! Nothing is read but what the file system says about the context's path.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use super::arguments::BuildArguments;
use super::values;
use crate::build::{
    BuildRequest, ContextSource, DockerfileSource, NamedContext, Output, SecretFrom, SecretSource,
};
use crate::cli::commands::parse_reference;
use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::ui::ProgressMode;
use crate::platform::Platform;
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
    /// `--load` was given: rbuild's store is not what Docker's users may expect.
    pub(super) load: bool,
}

/// Makes a request of options and environment.
pub(super) fn prepare(
    arguments: BuildArguments,
    environment: &Environment,
) -> Result<Prepared, Failure> {
    arguments.docker.check()?;
    let (context, dockerfile) = sources(&arguments)?;
    let (outputs, rewrite_timestamp) = outputs(&arguments)?;
    let progress = progress(&arguments, environment)?;
    let writes_to_stdout = outputs
        .iter()
        .any(|output| matches!(output, Output::Oci { dest, .. } if dest.as_os_str() == "-"));
    let print_id = progress == ProgressMode::Quiet;
    if writes_to_stdout && print_id {
        return Err(Failure::user(
            "`--quiet` prints the image's id where `--output` writes the image",
        )
        .hint("add `dest=FILE`, or use `--iidfile FILE` instead of `--quiet`"));
    }
    let (build_args, source_date_epoch) = build_args(&arguments, environment)?;
    if rewrite_timestamp && source_date_epoch.is_none() {
        return Err(Failure::user("`rewrite-timestamp=true` needs SOURCE_DATE_EPOCH")
            .hint("set it in the environment, for example `SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct)`"));
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
        no_cache: arguments.no_cache,
        pull: arguments.pull,
        network: arguments.network.unwrap_or_default().into(),
        platform: platform(&arguments.platform, environment)?,
        outputs,
        source_date_epoch,
        rewrite_timestamp,
    };
    Ok(Prepared {
        request,
        progress,
        print_id,
        iidfile: arguments.iidfile,
        metadata_file: arguments.metadata_file,
        load: arguments.load,
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
        Some(file) if is_url(&file.to_string_lossy()) => {
            return Err(
                Failure::user("a Dockerfile from a URL is not supported yet").hint(format!(
                    "fetch it first: `curl -fsSL {} | rbuild -f - …`",
                    file.display()
                )),
            );
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
    let folder = folder(context)?;
    Ok((ContextSource::Directory(folder), dockerfile))
}

fn folder(context: &Path) -> Result<PathBuf, Failure> {
    let shown = context.display();
    match std::fs::metadata(context) {
        Ok(metadata) if metadata.is_dir() => Ok(context.to_owned()),
        Ok(_) => Err(Failure::user(format!("the context `{shown}` is not a folder")).hint(format!(
            "for a Dockerfile write `rbuild -f {shown} FOLDER`, for an archive `rbuild - < {shown}`"
        ))),
        Err(_) if is_url(&context.to_string_lossy()) => {
            Err(Failure::user("a context from a URL is not supported yet")
                .hint("clone or download it first, then build the folder"))
        }
        Err(error) => Err(Failure::user(format!("can't read the context `{shown}`"))
            .caused_by(&error)
            .hint("the context is the folder that COPY and ADD read from")),
    }
}

/// What Docker takes for the address of something remote.
fn is_url(text: &str) -> bool {
    [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ]
    .iter()
    .any(|prefix| text.starts_with(prefix))
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

fn outputs(arguments: &BuildArguments) -> Result<(Vec<Output>, bool), Failure> {
    let stdout_is_terminal = io::stdout().is_terminal();
    let mut outputs = Vec::new();
    let mut rewrites = Vec::new();
    for text in &arguments.outputs {
        let value = values::output(text, stdout_is_terminal)?;
        outputs.push(value.output);
        rewrites.push(value.rewrite_timestamp);
    }
    if outputs
        .iter()
        .filter(|output| matches!(output, Output::Oci { dest, .. } if dest.as_os_str() == "-"))
        .count()
        > 1
    {
        return Err(
            Failure::user("two `--output` write to standard output").hint("add `dest=FILE` to one")
        );
    }
    if arguments.push && arguments.tags.is_empty() {
        return Err(Failure::user("`--push` needs a name that says where to")
            .hint("add `-t REGISTRY/NAME[:TAG]`"));
    }
    if outputs.is_empty() || arguments.load || arguments.push {
        outputs.push(Output::Store);
        rewrites.extend(rewrites.first().copied());
    }
    if arguments.push {
        outputs.push(Output::Registry);
    }
    let rewrite = rewrites.first().copied().unwrap_or(false);
    if rewrites.iter().any(|other| *other != rewrite) {
        return Err(
            Failure::user("`rewrite-timestamp` differs between outputs of one build")
                .hint("say it with every `--output`, or build twice"),
        );
    }
    Ok((outputs, rewrite))
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

fn platform(given: &[Platform], environment: &Environment) -> Result<Option<Platform>, Failure> {
    match given {
        [] => environment
            .get("DOCKER_DEFAULT_PLATFORM")
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: crate::platform::InvalidPlatform| {
                Failure::user(format!("DOCKER_DEFAULT_PLATFORM: {error}"))
            }),
        [one] => Ok(Some(one.clone())),
        _ => Err(
            Failure::user("rbuild does not support several platforms in one build yet")
                .hint("build each with a `--platform` and a tag of its own"),
        ),
    }
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
