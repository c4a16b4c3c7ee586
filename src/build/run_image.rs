//! `rbuild run`: an image of the store, tried in a sandbox.
//!
//! What the image's config says and what the user wants instead become one
//! [`Container`], as `docker run` joins the two. Nothing of a
//! run reaches the store.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::run::{BuildEnvironment, materializer};
use crate::digest::ImageId;
use crate::graph::{NetworkMode, RunSettings};
use crate::image::ImageError;
use crate::image::config::{DEFAULT_PATH, ExecutionConfig, ImageConfig};
use crate::platform::Platform;
use crate::sandbox::{Launcher, OutsideHelper};
use crate::snapshot::{Materializer, Snapshot, SnapshotError, StorageDriver};
use crate::solver::events::{EventSink, Reporter};
use crate::step::container::{
    self, Container, ContainerMount, ContainerSource, RunningContainer, Streams, WantedTerminal,
};
use crate::step::{StepError, register_origins};
use crate::store::{LayerId, StoreError};

/// What is to be run, and how it differs from what the image's config says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// `--entrypoint`: in place of the image's; an empty one takes that away.
    pub entrypoint: Option<String>,
    /// The words behind the image's name, in place of its Cmd.
    pub command: Vec<String>,
    /// Variables, the later of two counts; without a value the image's is taken away.
    pub env: Vec<(String, Option<String>)>,
    /// `--user`.
    pub user: Option<String>,
    /// `--workdir`, absolute.
    pub cwd: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`, `--ulimit`, `--shm-size`, `--cgroup-parent`.
    pub settings: RunSettings,
    /// `--read-only`.
    pub read_only: bool,
    /// `--volume`, `--mount`, `--tmpfs`.
    pub mounts: Vec<ContainerMount>,
    /// `--tty`.
    pub terminal: bool,
}

/// Why an image can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RunImageError {
    /// The store doesn't have it, or not all of it.
    #[error("the store has no image `{0}`")]
    NoImage(ImageId),
    /// Its config is bad.
    #[error("image `{id}`: {source}")]
    Config {
        /// The image.
        id: ImageId,
        /// What is wrong.
        #[source]
        source: ImageError,
    },
    /// Neither the image nor the user names a program.
    #[error("no command to run: the image names none, and none follows its name")]
    NoCommand,
    /// The store has kept no failed step under this number.
    #[error("no failed step is kept as `{0}`")]
    NoKeptStep(i64),
    /// What is kept of a failed step is not what this rbuild writes.
    #[error("the failed step `{id}` can't be read: {source}")]
    KeptStep {
        /// Its number.
        id: i64,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Two mounts in one place.
    #[error("duplicate mount point: `{0}`")]
    DuplicateMount(String),
    /// There is no sandbox on this machine.
    #[error("running an image needs a sandbox, and this machine gives none: {0}")]
    NoSandbox(String),
    /// The image's files can't be had, or the sandbox can't be asked for.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run was stopped before it began.
    #[error("canceled")]
    Canceled,
}

impl From<SnapshotError> for RunImageError {
    fn from(error: SnapshotError) -> Self {
        Self::Step(error.into())
    }
}

/// An image whose files are all in place, ready to be started.
pub struct PreparedRun {
    container: Container,
    config: ExecutionConfig,
    materializer: Arc<Materializer>,
    launcher: Launcher,
    outside: OutsideHelper,
}

impl PreparedRun {
    /// The image's config: what it exposes.
    pub fn config(&self) -> &ExecutionConfig {
        &self.config
    }

    /// Starts it, with a terminal in place of `streams` where one is wanted.
    ///
    /// # Errors
    /// When a user isn't known to the image, something that is to be mounted isn't there, or the
    /// sandbox can't be asked for.
    pub fn start(
        &self,
        streams: Streams,
        terminal: Option<WantedTerminal>,
    ) -> Result<RunningContainer, RunImageError> {
        Ok(container::start(
            &self.container,
            &self.materializer,
            &self.launcher,
            &self.outside,
            streams,
            terminal,
        )?)
    }
}

/// Makes an image ready to run: reads its config, and brings and unpacks what is missing of it.
/// Must be called on a tokio runtime.
///
/// # Errors
/// When there is no sandbox, no command, or the image's files can't be had.
pub async fn prepare(
    image: ImageId,
    request: RunRequest,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<PreparedRun, RunImageError> {
    let read = move |materializer: &Materializer| {
        let (layers, config) = read_image(materializer, &image)?;
        let container = container(&config, layers, request)?;
        Ok((container, config.config))
    };
    prepare_container(read, environment, events).await
}

/// Makes ready what `read` finds in the store.
pub(super) async fn prepare_container(
    read: impl FnOnce(&Materializer) -> Result<(Container, ExecutionConfig), RunImageError>
    + Send
    + 'static,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<PreparedRun, RunImageError> {
    let launcher = environment.launcher.clone();
    let launcher = launcher.map_err(RunImageError::NoSandbox)?;
    let outside = environment.outside.clone();
    let reporter = Arc::new(Reporter::new(events));
    let materializer = materializer(environment, &reporter);
    let preparing = tokio::task::spawn_blocking(move || {
        let (container, config) = read(&materializer)?;
        unpack(&materializer, &container.layers, &reporter)?;
        Ok(PreparedRun {
            container,
            config,
            materializer,
            launcher,
            outside,
        })
    });
    preparing.await.map_err(|_| RunImageError::Canceled)?
}

fn read_image(
    materializer: &Materializer,
    id: &ImageId,
) -> Result<(Vec<LayerId>, ImageConfig), RunImageError> {
    let store = materializer.store();
    let missing = || RunImageError::NoImage(*id);
    let record = store.image(id)?.ok_or_else(missing)?;
    let config = store.image_config(id)?.ok_or_else(missing)?;
    let config = ImageConfig::from_bytes(&config)
        .map_err(|source| RunImageError::Config { id: *id, source })?;
    Ok((record.layers, config))
}

/// Makes the trees that are missing.
fn unpack(
    materializer: &Materializer,
    layers: &[LayerId],
    reporter: &Arc<Reporter>,
) -> Result<(), RunImageError> {
    let snapshot = Snapshot::unrecorded(layers.to_vec());
    materializer.store().hold(layers)?;
    if materializer.driver() == StorageDriver::Copy {
        return Ok(register_origins(materializer, layers)?);
    }
    let mut missing = false;
    for layer in layers {
        let tree = materializer.store().tree(*layer, materializer.form())?;
        missing |= tree.is_none();
    }
    if !missing {
        return Ok(());
    }
    register_origins(materializer, layers)?;
    let activity = reporter.begin("[internal] unpack the image");
    activity.end(materializer.trees(&snapshot))?;
    Ok(())
}

/// Joins the image's config and the user's wishes.
fn container(
    image: &ImageConfig,
    layers: Vec<LayerId>,
    request: RunRequest,
) -> Result<Container, RunImageError> {
    let config = &image.config;
    let args = arguments(config, &request)?;
    let mut targets = BTreeSet::new();
    for mount in &request.mounts {
        if !targets.insert(normal(&mount.target)) {
            return Err(RunImageError::DuplicateMount(mount.target.clone()));
        }
    }
    let volumes = config.volumes.iter();
    let volumes = volumes.filter(|path| !targets.contains(&normal(path)));
    let volumes: Vec<ContainerMount> = volumes
        .map(|path| ContainerMount {
            target: normal(path),
            source: ContainerSource::Volume,
            read_only: false,
        })
        .collect();
    let cwd = request.cwd.as_ref().unwrap_or(&config.working_dir);
    Ok(Container {
        layers,
        platform: match image.architecture.is_empty() {
            true => Platform::host(),
            false => image.platform(),
        },
        args,
        env: environment(config, &request),
        cwd: normal(cwd),
        user: request.user.unwrap_or_else(|| config.user.clone()),
        hostname: request.hostname,
        network: request.network,
        settings: request.settings,
        read_only: request.read_only,
        mounts: request.mounts.into_iter().chain(volumes).collect(),
    })
}

/// An entrypoint of the user's comes without the image's Cmd, and words of the user's replace it.
fn arguments(config: &ExecutionConfig, request: &RunRequest) -> Result<Vec<String>, RunImageError> {
    let command = match (&request.entrypoint, request.command.as_slice()) {
        (None, []) => &config.cmd,
        _ => &request.command,
    };
    let mut args = match &request.entrypoint {
        None => config.entrypoint.clone(),
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
    };
    args.extend_from_slice(command);
    match args.is_empty() {
        true => Err(RunImageError::NoCommand),
        false => Ok(args),
    }
}

/// Docker's own variables, then the image's, then the user's; each name once.
fn environment(config: &ExecutionConfig, request: &RunRequest) -> Vec<(String, String)> {
    let mut env: Vec<Option<(String, String)>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut set = |name: &str, value: Option<&str>| {
        let variable = value.map(|value| (name.to_owned(), value.to_owned()));
        match places.get(name) {
            // One that was taken away and comes again comes last.
            Some(place) if env[*place].is_some() => env[*place] = variable,
            _ => {
                places.insert(name.to_owned(), env.len());
                env.push(variable);
            }
        }
    };
    set("PATH", Some(DEFAULT_PATH));
    set(
        "HOSTNAME",
        Some(request.hostname.as_deref().unwrap_or(container::HOSTNAME)),
    );
    if request.terminal {
        set("TERM", Some("xterm"));
    }
    for (name, value) in config.env_pairs() {
        set(name, Some(value));
    }
    for (name, value) in &request.env {
        set(name, value.as_deref());
    }
    env.into_iter().flatten().collect()
}

/// An absolute path without empty and `.` components; `..` goes no further than `/`.
fn normal(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_join_as_docker_joins_them() {
        for (image, wanted, expected) in [
            (("", "sh -c ls"), (None, ""), "sh -c ls"),
            (("app --flag", "serve"), (None, ""), "app --flag serve"),
            (("app --flag", "serve"), (None, "stop"), "app --flag stop"),
            (("app", "serve"), (Some("sh"), ""), "sh"),
            (("app", "serve"), (Some("sh"), "-c ls"), "sh -c ls"),
            (("app", "serve"), (Some(""), "ls"), "ls"),
        ] {
            let config = ExecutionConfig {
                entrypoint: words(image.0),
                cmd: words(image.1),
                ..ExecutionConfig::default()
            };
            let request = RunRequest {
                entrypoint: wanted.0.map(str::to_owned),
                command: words(wanted.1),
                ..RunRequest::default()
            };
            let args = arguments(&config, &request).unwrap();
            assert_eq!(args, words(expected), "{image:?} {wanted:?}");
        }
        let nothing = arguments(&ExecutionConfig::default(), &RunRequest::default());
        assert!(matches!(nothing, Err(RunImageError::NoCommand)));
        let reset = RunRequest {
            entrypoint: Some(String::new()),
            ..RunRequest::default()
        };
        let config = ExecutionConfig {
            cmd: words("sh"),
            ..ExecutionConfig::default()
        };
        assert!(matches!(
            arguments(&config, &reset),
            Err(RunImageError::NoCommand)
        ));
    }

    #[test]
    fn later_variables_win_and_one_without_value_goes() {
        let config = ExecutionConfig {
            env: words("PATH=/bin A=image B=image C=image"),
            ..ExecutionConfig::default()
        };
        let request = RunRequest {
            env: vec![
                ("A".into(), Some("first".into())),
                ("A".into(), Some("second".into())),
                ("B".into(), None),
                ("D".into(), Some(String::new())),
            ],
            hostname: Some("box".into()),
            terminal: true,
            ..RunRequest::default()
        };
        let shown: Vec<String> = environment(&config, &request)
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            shown,
            words("PATH=/bin HOSTNAME=box TERM=xterm A=second C=image D=")
        );
        assert_eq!(
            environment(&ExecutionConfig::default(), &RunRequest::default())[0].1,
            DEFAULT_PATH
        );
    }

    #[test]
    fn an_image_may_have_any_number_of_variables() {
        let config = ExecutionConfig {
            env: (0..200_000).map(|n| format!("N{n}=")).collect(),
            ..ExecutionConfig::default()
        };
        let begun = std::time::Instant::now();
        let made = environment(&config, &RunRequest::default());
        assert_eq!(made.len(), 200_002);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn mounts_take_the_place_of_volumes_and_never_each_other_s() {
        let mount = |target: &str| ContainerMount {
            target: target.to_owned(),
            source: ContainerSource::Host("/srv".into()),
            read_only: true,
        };
        let mut config = ImageConfig::empty(&Platform::host());
        config.config = ExecutionConfig {
            volumes: ["/data/".to_owned(), "/log".to_owned()].into(),
            working_dir: "/srv/./app/".into(),
            ..ExecutionConfig::default()
        };
        let mut request = RunRequest {
            command: words("ls"),
            mounts: vec![mount("/data")],
            ..RunRequest::default()
        };
        let made = container(&config, Vec::new(), request.clone()).unwrap();
        let targets: Vec<&str> = made.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/data", "/log"]);
        assert_eq!(made.mounts[1].source, ContainerSource::Volume);
        assert_eq!(made.cwd, "/srv/app");
        request.mounts.push(mount("/x/../data"));
        let twice = container(&config, Vec::new(), request);
        assert!(matches!(twice, Err(RunImageError::DuplicateMount(path)) if path == "/x/../data"));
    }
}
