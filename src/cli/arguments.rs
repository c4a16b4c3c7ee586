//! The words of the command line as an [`Invocation`].
//!
//! Parsing starts no thread and writes nothing; the one thing that it asks of the machine is
//! whether a first word that is no command is a folder. What can't be parsed is a [`Stop`].

use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::commands::build::BuildArguments;
use super::commands::completion::CompletionArguments;
use super::commands::debug::DebugArguments;
use super::commands::df::DfArguments;
use super::commands::diff::DiffArguments;
use super::commands::doctor::DoctorArguments;
use super::commands::history::HistoryArguments;
use super::commands::images::ImagesArguments;
use super::commands::inspect::InspectArguments;
use super::commands::load::LoadArguments;
use super::commands::login::LoginArguments;
use super::commands::logout::LogoutArguments;
use super::commands::man::ManArguments;
use super::commands::prune::PruneArguments;
use super::commands::pull::PullArguments;
use super::commands::push::PushArguments;
use super::commands::rmi::RmiArguments;
use super::commands::run::{NOT_RUN, RunArguments};
use super::commands::save::SaveArguments;
use super::commands::tag::TagArguments;
use super::commands::unshare::UnshareArguments;
use super::commands::version::VersionArguments;
use super::docker_flags;
use super::environment::Environment;
use super::error::Failure;
use super::settings::{GlobalArguments, Settings};
use super::spelling;
use super::ui::style::Style;
use crate::dockerfile::nearest::nearest;
use crate::sandbox::Needs;

#[derive(Parser, Debug)]
#[command(
    name = "rbuild",
    version,
    about = "Build container images from Dockerfiles, without a daemon and without root",
    override_usage = "rbuild [OPTIONS] CONTEXT\n       rbuild COMMAND [OPTIONS] …",
    after_help = "`rbuild -t myapp .` is short for `rbuild build -t myapp .`.\n\
                  `rbuild COMMAND --help` tells more about a command.",
    args_override_self = true,
    max_term_width = 100
)]
struct Line {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

/// A command with its options.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Upload an image to its registry
    Push(PushArguments),
    /// Download an image from a registry
    Pull(PullArguments),
    /// Write images to an archive
    Save(SaveArguments),
    /// Take images from an archive
    Load(LoadArguments),
    /// Give an image another name
    Tag(TagArguments),
    /// List images
    Images(ImagesArguments),
    /// Show everything that is known of an image
    Inspect(InspectArguments),
    /// Show how an image came to be
    History(HistoryArguments),
    /// Show what two images differ in
    Diff(DiffArguments),
    /// Take names from images, and remove those that have none left
    Rmi(RmiArguments),
    /// Show what images and the build cache take on the disk
    Df(DfArguments),
    /// Remove images and build cache that nobody needs
    Prune(PruneArguments),
    /// Run an image in the foreground, to try it
    Run(Box<RunArguments>),
    /// List, enter and remove failed steps that were kept
    Debug(DebugArguments),
    /// Say what rbuild can do on this machine, and what keeps it from more
    Doctor(DoctorArguments),
    /// Run a program in rbuild's user namespace, to look at its files
    Unshare(UnshareArguments),
    /// Keep credentials for a registry
    Login(LoginArguments),
    /// Forget the credentials for a registry
    Logout(LogoutArguments),
    /// Write a script by which a shell completes commands and options
    Completion(CompletionArguments),
    /// Write manual pages
    #[command(hide = true)]
    Man(ManArguments),
    /// Show rbuild's version
    Version(VersionArguments),
}

/// A command line, understood.
#[derive(Debug)]
pub struct Invocation {
    /// Settings that every command shares.
    pub settings: Settings,
    /// The command.
    pub command: Command,
}

impl Invocation {
    /// What is to exist before any thread.
    pub fn needs(&self, environment: &Environment) -> Needs {
        let trees = match &self.command {
            // A layer that was never compressed is pushed from its tree.
            Command::Build(arguments) => !arguments.is_question(),
            Command::Push(_) | Command::Save(_) | Command::Run(_) => true,
            // So is one whose files are looked at, and files of subordinate ids can be measured
            // and removed by their owner only.
            Command::Diff(_) | Command::Rmi(_) | Command::Df(_) | Command::Prune(_) => true,
            Command::Debug(arguments) => arguments.needs_trees(),
            Command::Inspect(arguments) => arguments.layers,
            // Names, configs and blobs are anybody's; `doctor` and `unshare` see to themselves.
            _ => false,
        };
        Needs {
            trees,
            isolation: self.settings.isolation,
            emulators: self.settings.programs.clone(),
            resumes_launcher: true,
            folder: super::commands::nearest_folder(&self.settings, environment),
        }
    }

    /// A failure before the command has begun, with the exit code that the command gives it.
    pub fn failure(&self, failure: impl Into<Failure>) -> Failure {
        match self.command {
            Command::Run(_) | Command::Unshare(_) => failure.into().exit_with(NOT_RUN),
            Command::Debug(ref arguments) if arguments.runs() => failure.into().exit_with(NOT_RUN),
            _ => failure.into(),
        }
    }
}

/// Why there's nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// Help or the version was asked for.
    Show(clap::Error),
    /// The command line can't be understood.
    Fail(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure)
    }
}

impl Stop {
    /// Shows it and gives the exit code.
    pub fn report(&self, style: Style) -> ExitCode {
        match self {
            Self::Show(text) => {
                // A reader that has gone has seen enough.
                let _ = text.print();
                ExitCode::SUCCESS
            }
            Self::Fail(failure) => failure.report(style),
        }
    }
}

/// What clap knows: every command with its options, hidden ones too.
pub fn definition() -> clap::Command {
    docker_flags::add_to(Line::command())
}

/// What clap knows, without what is hidden: for shells, which would offer that too.
pub(super) fn visible() -> clap::Command {
    fn visible(command: &clap::Command) -> clap::Command {
        let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let commands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        clap::Command::new(command.get_name().to_owned())
            .about(command.get_about().cloned().unwrap_or_default())
            .version(command.get_version().unwrap_or_default().to_owned())
            .disable_version_flag(command.get_version().is_none())
            .disable_help_flag(command.is_disable_help_flag_set())
            .args(options.cloned())
            .subcommands(commands.map(visible))
    }
    visible(&definition())
}

/// Understands a command line, the program's name first.
///
/// # Errors
/// When it can't be understood, or asks for help only.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Invocation, Stop> {
    let words: Vec<OsString> = words.into_iter().skip(1).collect();
    let known = definition();
    let is_command = |word: &str| word == "help" || known.find_subcommand(word).is_some();
    let words = spelling::normalise(words, &is_command, &|word| Path::new(word).is_dir())?;
    let first = words.first().and_then(|word| word.to_str());
    let runs = matches!(first, Some("run" | "unshare"));
    let is_login = first == Some("login");
    let line = std::iter::once(OsString::from("rbuild")).chain(words);
    let understood = known
        .try_get_matches_from(line)
        .and_then(|matches| Ok((Line::from_arg_matches(&matches)?, matches)))
        .map_err(|error| stop(error, is_login))
        .and_then(|(line, matches)| {
            docker_flags::check(&matches, environment)?;
            Ok(line)
        });
    let line = understood.map_err(|stop| match stop {
        Stop::Fail(failure) if runs => Stop::Fail(failure.exit_with(NOT_RUN)),
        stop => stop,
    })?;
    let Some(command) = line.command else {
        // Nothing was asked for: what there is to ask for.
        let help = Line::try_parse_from(["rbuild", "--help"]).err();
        return Err(help.map_or_else(
            || Stop::Fail(Failure::user("a command is missing")),
            Stop::Show,
        ));
    };
    let mut settings = Settings::new(line.global, environment)?;
    let mut command = command;
    if let Command::Df(arguments) = &mut command
        && settings.verbosity > 0
    {
        // Docker's `-v` is about what is listed, not about what is logged.
        settings.verbosity -= 1;
        arguments.details = true;
    }
    Ok(Invocation { settings, command })
}

/// What clap has to say, in our words. Any word of `login` may be a password in the wrong place.
fn stop(error: clap::Error, is_login: bool) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Show(error),
        ErrorKind::UnknownArgument if is_login => Stop::Fail(
            Failure::user("there is an argument that `login` doesn't take")
                .hint("write `rbuild login [-u USER] [--password-stdin] [SERVER]`"),
        ),
        _ => Stop::Fail(usage_failure(&error)),
    }
}

fn usage_failure(error: &clap::Error) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) if !texts.is_empty() => Some(texts.join(", ")),
        _ => None,
    };
    // clap names an option together with its value: `--file <FILE>`.
    let name =
        |kind| text(kind).map(|text| text.split([' ', '=']).next().unwrap_or_default().to_owned());
    let argument = name(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let mut failure = Failure::user(match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("unknown flag `{argument}`")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument `{argument}`"),
        ErrorKind::InvalidSubcommand => {
            format!(
                "unknown command `{}`",
                text(ContextKind::InvalidSubcommand).unwrap_or_default()
            )
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("`{argument}` needs a value"),
        ErrorKind::InvalidValue => format!("invalid value `{value}` for `{argument}`"),
        ErrorKind::ValueValidation => {
            let reason = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            format!("invalid value `{value}` for `{argument}`{reason}")
        }
        ErrorKind::MissingRequiredArgument => {
            format!(
                "{} is missing",
                text(ContextKind::InvalidArg).unwrap_or_default()
            )
        }
        ErrorKind::NoEquals => format!("the value of `{argument}` is given as `{argument}=VALUE`"),
        ErrorKind::TooManyValues => format!("`{argument}` takes no value `{value}`"),
        _ => first_line(error),
    });
    let meant = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            meant_command(&word)
        }
        _ => None,
    };
    let suggestion = meant
        .or_else(|| name(ContextKind::SuggestedArg))
        .or_else(|| name(ContextKind::SuggestedSubcommand))
        .or_else(|| name(ContextKind::SuggestedValue));
    if let Some(suggestion) = suggestion {
        failure = failure.hint(format!(
            "did you mean `{}`?",
            suggestion.trim_end_matches(',')
        ));
    } else if let Some(values) = text(ContextKind::ValidValue) {
        failure = failure.hint(format!("it is one of {values}"));
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
        failure = failure.hint(format!(
            "to build a folder of this name, write `rbuild ./{word}`"
        ));
    }
    failure
}

/// The command that was probably meant: clap's own measure prefers a long name with the same
/// letters to a short one with two of them exchanged.
fn meant_command(word: &str) -> Option<String> {
    let line = definition();
    let commands = line
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let names = commands.map(clap::Command::get_name);
    nearest(word, names).map(str::to_owned)
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ")
        .unwrap_or(line)
        .replace('\'', "`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Rung;

    fn parsed(line: &str) -> Result<Invocation, Stop> {
        let words = std::iter::once("rbuild")
            .chain(line.split_whitespace())
            .map(OsString::from);
        parse(words, &Environment::default())
    }

    fn failure(line: &str) -> String {
        match parsed(line) {
            Err(Stop::Fail(failure)) => failure.render(Style::PLAIN),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
        visible().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_and_a_hint() {
        for (line, text) in [
            (
                "build --flie Dockerfile .",
                "error: unknown flag `--flie`\nhint: did you mean `--file`?\n",
            ),
            (
                "psuh myapp",
                "error: unknown command `psuh`\nhint: did you mean `push`?\n\
                 hint: to build a folder of this name, write `rbuild ./psuh`\n",
            ),
            (
                "buidl",
                "error: unknown command `buidl`\nhint: did you mean `build`?\n\
                 hint: to build a folder of this name, write `rbuild ./buidl`\n",
            ),
            (
                "build --isolation vm .",
                "error: invalid value `vm` for `--isolation`\nhint: it is one of auto, root, userns, userns-single, chroot, none\n",
            ),
            ("build . --target", "error: `--target` needs a value\n"),
            ("build a b", "error: unexpected argument `b`\n"),
            ("tag a", "error: <TARGET> is missing\n"),
            (
                "login -u me host hunter2",
                "error: there is an argument that `login` doesn't take\n\
                 hint: write `rbuild login [-u USER] [--password-stdin] [SERVER]`\n",
            ),
        ] {
            assert_eq!(failure(line), text);
        }
    }

    #[test]
    fn nothing_asks_for_help() {
        for line in [
            "",
            "--help",
            "build --help",
            "-V",
            "help push",
            "image --help",
        ] {
            assert!(matches!(parsed(line), Err(Stop::Show(_))), "{line}");
        }
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "--root /x -vv build .",
            "build --root /x -v -v .",
            "-v --root=/x -t a . -v",
            "-D --root=/x . --debug",
        ] {
            let settings = parsed(line).unwrap().settings;
            assert_eq!(settings.root.as_deref(), Some(Path::new("/x")), "{line}");
            assert_eq!(settings.verbosity, 2, "{line}");
        }
    }

    #[test]
    fn only_what_touches_trees_needs_processes() {
        for (line, trees) in [
            ("build .", true),
            ("push a", true),
            ("save a", true),
            ("load", false),
            ("pull a", false),
            ("tag a b", false),
            ("images", false),
            ("version", false),
        ] {
            assert_eq!(
                parsed(line).unwrap().needs(&Environment::default()).trees,
                trees,
                "{line}"
            );
        }
        for (line, isolation) in [
            ("build .", None),
            ("build --isolation auto .", None),
            ("build --isolation default .", None),
            (
                "--isolation userns-single .",
                Some(Rung::UserNamespaceSingle),
            ),
            ("--isolation=none .", Some(Rung::None)),
        ] {
            assert_eq!(
                parsed(line)
                    .unwrap()
                    .needs(&Environment::default())
                    .isolation,
                isolation,
                "{line}"
            );
        }
    }
}
