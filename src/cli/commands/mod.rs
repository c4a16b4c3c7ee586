//! One file per command: its options, and what it asks of the rooms below.

pub mod build;
pub mod completion;
pub mod debug;
pub mod df;
pub mod diff;
pub mod doctor;
pub mod history;
pub mod images;
pub mod inspect;
pub mod load;
pub mod login;
pub mod logout;
pub mod man;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rmi;
pub mod run;
pub mod save;
pub mod tag;
pub mod unshare;
pub mod version;

mod layers;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::arguments::Command;
use super::environment::Environment;
use super::error::Failure;
use super::settings::Settings;
use super::signals::Interrupt;
use super::ui::style::Style;
use super::ui::terminal::neutralise_text;
use super::ui::{Phase, Progress, ProgressMode, SharedStderr};
use crate::build::BuildEnvironment;
use crate::digest::ImageId;
use crate::layer::form::{Form, Ownership, XattrNamespace};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Client, ClientOptions, Credentials, HelperOutput, RunHelper};
use crate::sandbox::{self, OutsideHelper, OutsideProgram, Processes, Rung};
use crate::snapshot::StorageDriver;
use crate::store::{RootChoice, RootEnvironment, Store, StoreError, default_root};

/// What every command is given.
pub struct Context {
    /// Global options.
    pub settings: Settings,
    /// Environment variables.
    pub environment: Environment,
    /// The processes beside this one, and the isolation in force.
    pub processes: Processes,
    /// Standard error, shared with the progress display.
    pub stderr: SharedStderr,
    /// How messages look on standard error.
    pub style: Style,
    /// Tells when to end.
    pub interrupt: Interrupt,
}

impl Context {
    /// Opens the store where the user wants it. A place that nobody would expect is told.
    ///
    /// # Errors
    /// When there's no place for a store, or it can't be used.
    pub fn open_store(&self) -> Result<Store, Failure> {
        let choice = store_root(&self.settings, &self.environment)?;
        if let Some(note) = choice.note {
            self.note(&note);
        }
        Ok(Store::open(&choice.path)?)
    }

    /// A client for registries, with the user's credentials.
    pub fn registry_client(&self) -> Client {
        let variable = |name: &str| self.environment.get_os(name).map(ToOwned::to_owned);
        Client::new(ClientOptions {
            mirrors: self.settings.mirrors.clone(),
            credentials: Credentials::from_environment(&variable)
                .with_helper_runner(run_helper(self.processes.outside.clone())),
            ..self.client_options()
        })
    }

    /// A client that has no credentials and asks no mirror.
    fn anonymous_client(&self) -> Client {
        Client::new(self.client_options())
    }

    fn client_options(&self) -> ClientOptions {
        let certificate_folders = [
            self.environment
                .get_os("HOME")
                .map(|home| PathBuf::from(home).join(".config/containers/certs.d")),
            Some(PathBuf::from("/etc/containers/certs.d")),
            Some(PathBuf::from("/etc/docker/certs.d")),
        ];
        ClientOptions {
            insecure: self.settings.insecure_registries.clone(),
            certificate_folders: certificate_folders.into_iter().flatten().collect(),
            ..ClientOptions::default()
        }
    }

    /// What a build, a push or a pull works with. `stdin` is standard input, from its first byte.
    ///
    /// # Errors
    /// When the store can't be used.
    pub fn build_environment(
        &self,
        stdin: Option<Box<dyn io::Read + Send>>,
    ) -> Result<BuildEnvironment, Failure> {
        let launcher = self.processes.launcher.clone().ok_or_else(|| {
            let refusals: Vec<String> = self
                .processes
                .refusals
                .iter()
                .map(ToString::to_string)
                .collect();
            if refusals.is_empty() {
                "--isolation=none was asked for".to_owned()
            } else {
                refusals.join("; ")
            }
        });
        let environment = self.environment.clone();
        let driver = self.storage_driver()?;
        Ok(BuildEnvironment {
            driver,
            store: self.open_store()?,
            client: self.registry_client(),
            form: Form {
                xattr_namespace: match self.processes.xattr_namespace {
                    sandbox::XattrNamespace::Trusted => XattrNamespace::Trusted,
                    sandbox::XattrNamespace::User => XattrNamespace::User,
                },
                uid_map: self.processes.uid_map.clone(),
                gid_map: self.processes.gid_map.clone(),
                ownership: match self.processes.isolation.rung() {
                    // Every id of an image has one here, and is told apart by the kernel.
                    Rung::Root | Rung::Chroot => Ownership::Real,
                    _ => Ownership::OverrideStat,
                },
            },
            outside: self.processes.outside.clone(),
            launcher,
            cancel: self.interrupt.cancel().clone(),
            stdin: Mutex::new(stdin),
            variables: Arc::new(move |name| environment.get_os(name).map(ToOwned::to_owned)),
        })
    }

    /// What the file systems of steps are made of.
    fn storage_driver(&self) -> Result<StorageDriver, Failure> {
        let is_chroot = self.processes.isolation.rung() == Rung::Chroot;
        match (
            self.settings.storage_driver,
            &self.processes.overlay_refusal,
        ) {
            (Some(StorageDriver::Overlay), _) if is_chroot => Err(Failure::user(
                "the isolation `chroot` can mount nothing: there is no `--storage-driver overlay`",
            )),
            (Some(driver), _) => Ok(driver),
            (None, Some(reason)) => {
                tracing::info!("storage: copies, for overlay can't write to the store: {reason}");
                Ok(StorageDriver::Copy)
            }
            (None, None) => Ok(StorageDriver::Overlay),
        }
    }

    /// Starts a progress display. When nobody reads it any more, the command ends.
    ///
    /// # Errors
    /// When `--progress tty` was asked for without a terminal.
    pub fn progress(&self, mode: ProgressMode, phase: Phase) -> Result<Progress, Failure> {
        let interrupt = self.interrupt.clone();
        Progress::start(mode, phase, &self.environment, &self.stderr, move |gone| {
            interrupt.output_gone(gone);
        })
    }

    /// Tells the user one line.
    pub fn note(&self, text: &str) {
        self.stderr.write_lines(&format!(
            "{} {}\n",
            self.style.hint("note:"),
            neutralise_text(text)
        ));
    }
}

/// Where the user wants the store.
///
/// # Errors
/// When there's no place for one.
fn store_root(settings: &Settings, environment: &Environment) -> Result<RootChoice, StoreError> {
    let path = |name| environment.get_os(name).map(PathBuf::from);
    default_root(&RootEnvironment {
        rbuild_root: settings.root.clone(),
        xdg_data_home: path("XDG_DATA_HOME"),
        home: path("HOME"),
        uid: settings.uid,
    })
}

/// The folder of the store, or the nearest one above it that is there.
pub fn nearest_folder(settings: &Settings, environment: &Environment) -> Option<PathBuf> {
    let choice = store_root(settings, environment).ok()?;
    let path = std::path::absolute(choice.path).ok()?;
    let there = path.ancestors().find(|path| path.is_dir());
    there.map(ToOwned::to_owned)
}

/// Runs credential helpers as the user who called rbuild: inside a user namespace, key rings
/// refuse to answer.
fn run_helper(outside: OutsideHelper) -> RunHelper {
    Arc::new(move |program, verb, input| {
        let program = OutsideProgram::new(program).arg(verb).stdin(input);
        let output = outside.run(&program).map_err(io::Error::other)?;
        Ok(HelperOutput {
            success: output.code == 0,
            stdout: output.stdout,
        })
    })
}

/// Runs a command that has to be a process with one thread, if it is one of those.
///
/// # Errors
/// Whatever it failed with, ready to be shown.
pub fn run_alone(
    command: &Command,
    settings: &Settings,
    environment: &Environment,
) -> Option<Result<(), Failure>> {
    match command {
        Command::Doctor(arguments) => Some(doctor::run(arguments, settings, environment)),
        Command::Unshare(arguments) => Some(unshare::run(arguments, settings, environment)),
        _ => None,
    }
}

/// Runs a command.
///
/// # Errors
/// Whatever the command failed with, ready to be shown.
pub async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        // A build stops its own steps in order.
        Command::Build(arguments) => build::run(*arguments, context).await,
        Command::Push(arguments) => until_interrupted(push::run(arguments, context), context).await,
        Command::Pull(arguments) => until_interrupted(pull::run(arguments, context), context).await,
        // They have run before any thread existed: see [`run_alone`].
        Command::Doctor(_) | Command::Unshare(_) => Ok(()),
        // Signals are the program's.
        Command::Run(arguments) => run::run(*arguments, context).await,
        Command::Debug(arguments) => debug::run(arguments, context).await,
        Command::Login(arguments) => {
            until_interrupted(login::run(arguments, context), context).await
        }
        Command::Logout(arguments) => logout::run(arguments, context),
        Command::Save(arguments) => until_interrupted(save::run(arguments, context), context).await,
        Command::Load(arguments) => until_interrupted(load::run(arguments, context), context).await,
        Command::Tag(arguments) => tag::run(arguments, context),
        Command::Images(arguments) => images::run(arguments, context),
        Command::Inspect(arguments) => inspect::run(arguments, context),
        Command::History(arguments) => history::run(arguments, context),
        Command::Diff(arguments) => diff::run(arguments, context),
        Command::Rmi(arguments) => rmi::run(arguments, context),
        Command::Df(arguments) => df::run(arguments, context),
        Command::Prune(arguments) => prune::run(arguments, context),
        Command::Completion(arguments) => completion::run(arguments),
        Command::Man(arguments) => man::run(arguments),
        Command::Version(arguments) => version::run(arguments),
    }
}

/// Drops the work when the command is to end: what is half done in the store or a registry is
/// garbage that nobody reads.
async fn until_interrupted(
    work: impl Future<Output = Result<(), Failure>>,
    context: &Context,
) -> Result<(), Failure> {
    tokio::select! {
        result = work => result,
        interrupted = context.interrupt.wait() => interrupted.map(|never| match never {}),
    }
}

/// The image that the user means: an id, a name, or the beginning of an id.
pub(super) fn find_image(store: &Store, text: &str) -> Result<ImageId, Failure> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = !hex.is_empty()
        && hex.len() <= 64
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let Ok(id) = format!("sha256:{hex}").parse::<ImageId>()
        && store.image(&id)?.is_some()
    {
        return Ok(id);
    }
    let named = text.parse::<Reference>().map(Reference::with_default_tag);
    if let Ok(reference) = &named
        && let Some(id) = store.resolve(reference)?
    {
        return Ok(id);
    }
    let mut found = Vec::new();
    if is_hex {
        let all = store.images()?.into_iter().map(|(_, image)| image.id);
        found.extend(all.filter(|id| id.hex().starts_with(hex)));
    }
    match (found.as_slice(), named) {
        ([one], _) => Ok(*one),
        ([], Err(error)) if !is_hex => Err(Failure::user(error.to_string())),
        ([], _) => {
            Err(Failure::user(format!("No such image: {text}")).hint("`rbuild images` lists all"))
        }
        (several, _) => Err(Failure::user(format!(
            "`{text}` is the beginning of {} image ids",
            several.len()
        ))
        .hint("write more of it")),
    }
}

/// The image that the user means, for a platform where one was asked for.
pub(super) fn find_image_for(
    store: &Store,
    text: &str,
    platform: Option<&Platform>,
) -> Result<ImageId, Failure> {
    let usual = find_image(store, text)?;
    let Some(platform) = platform else {
        return Ok(usual);
    };
    let mut best = None;
    let mut others = Vec::new();
    for id in find_images(store, text)? {
        let Some(image) = store.image(&id)? else {
            continue;
        };
        match platform.rank(&image.platform) {
            Some(rank) if best.is_none_or(|(known, _)| rank < known) => best = Some((rank, id)),
            _ => others.push(image.platform.to_string()),
        }
    }
    best.map(|(_, id)| id).ok_or_else(|| {
        let others = others.join(", ");
        Failure::user(format!(
            "the image `{text}` is for {others}, not for {platform}"
        ))
    })
}

/// The images that the user means: one, or with the name of an image for several platforms all its
/// variants.
pub(super) fn find_images(store: &Store, text: &str) -> Result<Vec<ImageId>, Failure> {
    let found = find_image(store, text)?;
    if let Ok(reference) = text.parse::<Reference>().map(Reference::with_default_tag)
        && store.resolve(&reference)? == Some(found)
    {
        let variants = store.variants(&reference)?;
        if !variants.is_empty() {
            return Ok(variants);
        }
    }
    Ok(vec![found])
}

/// A name that the user wrote, `:latest` added where it has neither tag nor digest.
pub(super) fn parse_reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::user(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::BlobDigest;
    use crate::store::ImageRecord;

    /// A store with images of these configs, and their ids.
    fn store(configs: &[&str]) -> (tempfile::TempDir, Store, Vec<ImageId>) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let ids = configs.iter().map(|config| {
            let BlobDigest(digest) = store.put_blob(config.as_bytes()).unwrap();
            let image = ImageRecord {
                id: ImageId(digest),
                layers: Vec::new(),
                platform: Platform::host(),
                created: None,
                size: 0,
            };
            store.put_image(&image).unwrap();
            image.id
        });
        let ids = ids.collect();
        (root, store, ids)
    }

    #[test]
    fn an_image_is_found_by_name_id_and_beginning_of_its_id() {
        let (_root, store, ids) = store(&["{}", "{ }"]);
        let reference: Reference = "docker.io/library/app:latest".parse().unwrap();
        store.tag(&reference, &ids[0]).unwrap();
        let hex = ids[1].hex();
        for (text, id) in [
            ("app", ids[0]),
            ("app:latest", ids[0]),
            ("docker.io/library/app", ids[0]),
            (&hex, ids[1]),
            (&format!("sha256:{hex}"), ids[1]),
            (&hex[..12], ids[1]),
            (&format!("sha256:{}", &hex[..12]), ids[1]),
        ] {
            assert_eq!(find_image(&store, text), Ok(id), "{text}");
        }
        for (text, message) in [
            ("nothing", "No such image: nothing".to_owned()),
            ("app:v2", "No such image: app:v2".to_owned()),
            (
                "",
                "invalid image reference ``: the repository name is missing".to_owned(),
            ),
        ] {
            assert_eq!(find_image(&store, text).unwrap_err().message(), message);
        }
    }

    #[test]
    fn a_beginning_of_several_ids_is_none() {
        // Seventeen ids share at least one first digit.
        let configs: Vec<String> = (0..17).map(|n| format!("{{\"n\":{n}}}")).collect();
        let configs: Vec<&str> = configs.iter().map(String::as_str).collect();
        let (_root, store, ids) = store(&configs);
        let shared = (0..16)
            .map(|digit| format!("{digit:x}"))
            .find(|digit| ids.iter().filter(|id| id.hex().starts_with(digit)).count() > 1)
            .unwrap();
        let failure = find_image(&store, &shared).unwrap_err();
        assert!(
            failure.message().ends_with(" image ids"),
            "{}",
            failure.message()
        );
    }
}
