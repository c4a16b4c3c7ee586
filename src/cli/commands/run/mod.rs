//! `rbuild run`: an image, tried in the foreground.
//!
//! This file turns options into a request and finds the image; `session` lives with the program
//! until it ends. Docker's exit codes: the program's own, 125 where it never came to run.

mod arguments;
pub(super) mod progress;
pub(super) mod session;
mod streams;
mod values;
mod window;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use self::arguments::PullChoice;
pub use self::arguments::RunArguments;
use super::{Context, find_image_for, parse_reference};
use crate::build::publish::{self, Publish, Published};
use crate::build::run_image::{self, PreparedRun, RunImageError, RunRequest};
use crate::build::{self, BuildEnvironment, NetworkMode};
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::limits;
use crate::cli::ui::ProgressMode;
use crate::digest::ImageId;
use crate::platform::Platform;
use crate::sandbox::Rung;
use crate::snapshot::SnapshotError;
use crate::solver::events::EventSink;
use crate::step::StepError;

/// Docker's exit code for a run that failed before the program came to run.
pub const NOT_RUN: u8 = 125;

/// Runs an image and ends as its program does.
///
/// # Errors
/// With the program's exit code, or with [`NOT_RUN`].
pub async fn run(arguments: RunArguments, context: &Context) -> Result<(), Failure> {
    let wish = Wish::new(arguments, context).map_err(not_run)?;
    let (prepared, _published) = tokio::select! {
        prepared = prepare(&wish, context) => prepared.map_err(not_run)?,
        interrupted = context.interrupt.wait() => interrupted.map(|never| match never {})?,
    };
    session::run(&wish.session, prepared, context).await
}

pub(super) fn not_run(failure: Failure) -> Failure {
    match failure.kind() {
        ErrorKind::Signal(_) => failure,
        _ => failure.exit_with(NOT_RUN),
    }
}

/// What the user wants, checked as far as that goes without the image.
struct Wish {
    image: String,
    request: RunRequest,
    ports: Vec<Publish>,
    publish_all: bool,
    pull: PullChoice,
    platform: Option<Platform>,
    progress: ProgressMode,
    session: session::Options,
}

impl Wish {
    fn new(arguments: RunArguments, context: &Context) -> Result<Self, Failure> {
        let environment = &context.environment;
        if arguments.tty && arguments.interactive && !io::stdin().is_terminal() {
            return Err(Failure::user("the input device is not a TTY")
                .hint("standard input is no terminal here: drop `-t`"));
        }
        let mut words = arguments.words.into_iter();
        let image = words.next().unwrap_or_default();
        let mut env = Vec::new();
        for file in &arguments.env_file {
            env.extend(values::env_file(file, environment)?);
        }
        for text in &arguments.env {
            env.push(values::variable(text, environment)?);
        }
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::user("can't tell the working directory").caused_by(&error))?;
        let volumes = arguments
            .volume
            .iter()
            .map(|text| values::volume(text, &cwd));
        let mounts = arguments.mount.iter().map(|text| values::mount(text, &cwd));
        let tmpfs = arguments.tmpfs.iter().map(|text| values::tmpfs(text));
        let mounts = volumes
            .chain(mounts)
            .chain(tmpfs)
            .collect::<Result<_, _>>()?;
        let network = arguments
            .network
            .as_deref()
            .map_or(Ok(NetworkMode::Host), values::network)?;
        let ports: Vec<Vec<Publish>> = arguments
            .publish
            .iter()
            .map(|text| values::publish(text))
            .collect::<Result<_, _>>()?;
        let ports = ports.concat();
        if network != NetworkMode::Host && (!ports.is_empty() || arguments.publish_all) {
            let shown = arguments.network.as_deref().unwrap_or_default();
            return Err(Failure::user(format!(
                "`--publish` leads nowhere with `--network={shown}`"
            )));
        }
        if network == NetworkMode::Private {
            arguments.settings.refuse_host_gateway()?;
        }
        let mut settings = arguments.settings.read()?;
        settings.limits.memory_reservation = limits::bytes(
            "memory-reservation",
            arguments.memory_reservation.as_deref(),
        )?;
        settings.limits.pids = limits::number("pids-limit", arguments.pids_limit.as_deref())?;
        let cwd = arguments.workdir.as_deref();
        Ok(Self {
            image,
            request: RunRequest {
                entrypoint: arguments.entrypoint,
                command: words.collect(),
                env,
                user: arguments.user,
                cwd: cwd
                    .map(|path| values::absolute(path, "--workdir"))
                    .transpose()?,
                hostname: arguments.hostname,
                network,
                settings,
                read_only: arguments.read_only,
                mounts,
                terminal: arguments.tty,
            },
            ports,
            publish_all: arguments.publish_all,
            pull: arguments.pull,
            platform: arguments.platform,
            progress: match arguments.quiet {
                true => ProgressMode::Quiet,
                false => ProgressMode::Auto,
            },
            session: session::Options {
                interactive: arguments.interactive,
                terminal: arguments.tty,
                patience: std::time::Duration::from_secs(arguments.stop_timeout),
            },
        })
    }
}

/// Everything that comes before the program: the image with its files, and the ports.
async fn prepare(wish: &Wish, context: &Context) -> Result<(PreparedRun, Published), Failure> {
    let environment = context.build_environment(None)?;
    if let Err(reason) = &environment.launcher {
        let reason = RunImageError::NoSandbox(reason.clone());
        return Err(failure(reason));
    }
    let progress = Arc::new(progress::OnDemand::new(wish.progress, context));
    let prepared = prepare_image(wish, &environment, progress.clone(), context).await;
    progress.finish();
    let prepared = prepared?;
    let published = publish::publish(&wish.ports)
        .await
        .map_err(|error| Failure::from_error(ErrorKind::User, &error))?;
    tell_ports(wish, &prepared, &published, context);
    Ok((prepared, published))
}

async fn prepare_image(
    wish: &Wish,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
    context: &Context,
) -> Result<PreparedRun, Failure> {
    let image = image(wish, environment, &events, context).await?;
    let prepared = run_image::prepare(image, wish.request.clone(), environment, events).await;
    prepared.map_err(failure)
}

/// The image of the store, pulled where it isn't there or the user wants a newer one.
async fn image(
    wish: &Wish,
    environment: &BuildEnvironment,
    events: &Arc<dyn EventSink>,
    context: &Context,
) -> Result<ImageId, Failure> {
    let here = find_image_for(&environment.store, &wish.image, wish.platform.as_ref());
    match (here, wish.pull) {
        (Ok(id), PullChoice::Missing | PullChoice::Never) => Ok(id),
        (Err(failure), PullChoice::Never) => Err(failure),
        _ => {
            let reference = parse_reference(&wish.image)?;
            let platform = wish.platform.clone().unwrap_or_else(Platform::host);
            let pulled = build::pull(&reference, &platform, environment, Arc::clone(events)).await;
            pulled.map_err(|error| Failure::of_build(error, context.style))
        }
    }
}

/// Says which ports lead where, as far as the user can't know that already.
fn tell_ports(wish: &Wish, prepared: &PreparedRun, published: &Published, context: &Context) {
    let picked = published.listening.iter();
    for (address, port) in picked.filter(|(_, port)| port.host.is_none()) {
        context.note(&format!(
            "port {} of the program is port {} of this machine",
            port.container,
            address.port()
        ));
    }
    for port in wish.ports.iter().filter(|port| port.holds()) {
        if let Some(address) = port.address {
            context.note(&format!(
                "port {} is on this machine's network as the program opens it: rbuild doesn't keep it to {address}",
                port.container
            ));
        }
    }
    let exposed = &prepared.config().exposed_ports;
    if wish.publish_all {
        for port in exposed {
            context.note(&format!("port {port} of the program is the machine's own"));
        }
    }
    let lowest = lowest_port();
    let refused = wish.ports.iter().filter(|port| port.container < lowest);
    if context.processes.isolation.rung() != Rung::Root {
        for port in refused {
            context.note(&format!(
                "ordinary users may not open port {} on this machine, so the program may not either; \
                 `sysctl net.ipv4.ip_unprivileged_port_start={}` changes that",
                port.container, port.container
            ));
        }
    }
}

/// The lowest port that an ordinary user may listen on.
fn lowest_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// What running an image failed with, its side decided.
pub(super) fn failure(error: RunImageError) -> Failure {
    match error {
        RunImageError::Step(StepError::Snapshot(SnapshotError::Registry(error))) => error.into(),
        RunImageError::Store(error) => error.into(),
        RunImageError::NoSandbox(_) => Failure::from_error(ErrorKind::User, &error)
            .hint("`rbuild doctor` says what to do about it"),
        RunImageError::NoKeptStep(_) => Failure::from_error(ErrorKind::User, &error)
            .hint("`rbuild debug` lists all; `rbuild build --on-error=keep` keeps one"),
        RunImageError::NoImage(_)
        | RunImageError::Config { .. }
        | RunImageError::KeptStep { .. } => Failure::from_error(ErrorKind::Internal, &error),
        error => Failure::from_error(ErrorKind::User, &error),
    }
}
