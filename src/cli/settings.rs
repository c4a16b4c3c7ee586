//! Settings that every command shares: global options, then the environment.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::environment::Environment;
use super::error::Failure;
use crate::registry::{InvalidMirror, Mirror};
use crate::sandbox::Rung;
use crate::snapshot::StorageDriver;

/// `--isolation`: how RUN steps are kept apart from the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum IsolationChoice {
    /// The strongest that works here
    #[value(alias = "default")]
    Auto,
    /// Namespaces, made with root's privileges
    Root,
    /// A user namespace and a range of subordinate ids
    Userns,
    /// A user namespace with one id
    UsernsSingle,
    /// A root directory of its own and no more, for user 0 in a container
    Chroot,
    /// No RUN steps; everything else works anywhere
    None,
}

impl IsolationChoice {
    fn rung(self) -> Option<Rung> {
        match self {
            Self::Auto => None,
            Self::Root => Some(Rung::Root),
            Self::Userns => Some(Rung::UserNamespace),
            Self::UsernsSingle => Some(Rung::UserNamespaceSingle),
            Self::Chroot => Some(Rung::Chroot),
            Self::None => Some(Rung::None),
        }
    }
}

/// `--storage-driver`: what a step's file system is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum StorageChoice {
    /// Overlay where it can write to the store's folder, else copies
    Auto,
    /// An overlay mount of the image's layers
    Overlay,
    /// One folder with a copy of the image's files
    #[value(alias = "vfs")]
    Copy,
}

impl StorageChoice {
    fn driver(self) -> Option<StorageDriver> {
        match self {
            Self::Auto => None,
            Self::Overlay => Some(StorageDriver::Overlay),
            Self::Copy => Some(StorageDriver::Copy),
        }
    }
}

/// Options that every command takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArguments {
    /// Where images, layers and the build cache are kept [env: RBUILD_ROOT]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Say more: -v decisions, -vv details, -vvv everything [env: RBUILD_LOG takes a filter]
    #[arg(short, long, alias = "debug", short_alias = 'D', global = true, action = ArgAction::Count)]
    verbose: u8,

    /// How RUN steps are isolated: auto, root, userns, userns-single, chroot, none [env: RBUILD_ISOLATION]
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_enum,
        hide_possible_values = true
    )]
    isolation: Option<IsolationChoice>,

    /// What the file system of a RUN step is made of: auto, overlay, copy [env: RBUILD_STORAGE_DRIVER]
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_enum,
        hide_possible_values = true
    )]
    storage_driver: Option<StorageChoice>,

    /// Ask this registry for docker.io's images first; may be repeated [env: RBUILD_REGISTRY_MIRROR]
    #[arg(long, global = true, value_name = "URL")]
    registry_mirror: Vec<String>,

    /// Speak plain HTTP with this registry where it has no HTTPS, and don't check its certificate; may be repeated
    #[arg(long, global = true, value_name = "HOST")]
    insecure_registry: Vec<String>,
}

/// Settings that every command shares.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The store's folder, where it was said.
    pub root: Option<PathBuf>,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// `--isolation`: the strongest that works where `None`.
    pub isolation: Option<Rung>,
    /// `--storage-driver`: what works where `None`.
    pub storage_driver: Option<StorageDriver>,
    /// Mirrors of `docker.io`, to be asked in this order.
    pub mirrors: Vec<Mirror>,
    /// Registries that may be spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// The user who runs rbuild, seen from outside of any user namespace that it enters.
    pub uid: u32,
    /// The folders of PATH.
    pub programs: Vec<PathBuf>,
}

impl Settings {
    /// What the options say, else what the environment says.
    ///
    /// # Errors
    /// When a variable holds something that its option would not take.
    pub(super) fn new(
        arguments: GlobalArguments,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let isolation = choice(arguments.isolation, "RBUILD_ISOLATION", environment)?;
        let storage_driver = choice(
            arguments.storage_driver,
            "RBUILD_STORAGE_DRIVER",
            environment,
        )?;
        let mirrors: Vec<String> = if arguments.registry_mirror.is_empty() {
            environment
                .get("RBUILD_REGISTRY_MIRROR")
                .unwrap_or_default()
                .split([',', ' '])
                .filter(|mirror| !mirror.is_empty())
                .map(str::to_owned)
                .collect()
        } else {
            arguments.registry_mirror
        };
        Ok(Self {
            root: arguments
                .root
                .or_else(|| environment.get_os("RBUILD_ROOT").map(PathBuf::from)),
            verbosity: arguments.verbose,
            isolation: isolation.and_then(IsolationChoice::rung),
            storage_driver: storage_driver.and_then(StorageChoice::driver),
            mirrors: mirrors
                .iter()
                .map(|mirror| mirror.parse())
                .collect::<Result<_, _>>()
                .map_err(|error: InvalidMirror| Failure::user(error.to_string()))?,
            insecure_registries: arguments.insecure_registry,
            uid: rustix::process::getuid().as_raw(),
            programs: environment
                .get_os("PATH")
                .map(|path| std::env::split_paths(path).collect())
                .unwrap_or_default(),
        })
    }
}

/// What an option says, else what a variable says.
fn choice<T: ValueEnum>(
    option: Option<T>,
    variable: &str,
    environment: &Environment,
) -> Result<Option<T>, Failure> {
    let (None, Some(value)) = (&option, environment.get(variable)) else {
        return Ok(option);
    };
    T::from_str(&value, true).map(Some).map_err(|_| {
        let known = T::value_variants().iter();
        let known = known.filter_map(ValueEnum::to_possible_value);
        let known: Vec<String> = known.map(|one| one.get_name().to_owned()).collect();
        Failure::user(format!("invalid value `{value}` in {variable}"))
            .hint(format!("it is one of {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_environment() {
        let environment = Environment::from_iter([
            ("PATH", "/a:/b"),
            ("RBUILD_ROOT", "/env"),
            ("RBUILD_ISOLATION", "userns"),
            ("RBUILD_REGISTRY_MIRROR", "http://a:5000,https://b"),
        ]);
        let from_environment = Settings::new(GlobalArguments::default(), &environment).unwrap();
        assert_eq!(
            from_environment,
            Settings {
                storage_driver: None,
                root: Some("/env".into()),
                verbosity: 0,
                isolation: Some(Rung::UserNamespace),
                mirrors: vec![
                    "http://a:5000".parse().unwrap(),
                    "https://b".parse().unwrap()
                ],
                insecure_registries: vec![],
                uid: rustix::process::getuid().as_raw(),
                programs: vec!["/a".into(), "/b".into()],
            }
        );
        let arguments = GlobalArguments {
            root: Some("/flag".into()),
            isolation: Some(IsolationChoice::Root),
            registry_mirror: vec!["http://c".into()],
            ..GlobalArguments::default()
        };
        let from_options = Settings::new(arguments, &environment).unwrap();
        assert_eq!(from_options.root, Some("/flag".into()));
        assert_eq!(from_options.isolation, Some(Rung::Root));
        assert_eq!(from_options.mirrors, ["http://c".parse().unwrap()]);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let environment = Environment::from_iter([("RBUILD_ISOLATION", "vm")]);
        let failure = Settings::new(GlobalArguments::default(), &environment).unwrap_err();
        assert_eq!(failure.message(), "invalid value `vm` in RBUILD_ISOLATION");
        let known = "it is one of auto, root, userns, userns-single, chroot, none";
        assert_eq!(failure.hints(), [known]);
    }
}
