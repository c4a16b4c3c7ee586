//! Docker's flags that rbuild has no option for, command by command.
//!
//! One whose effect already holds is accepted; one that asks for something absent is refused by
//! name, with the reason. None is ever ignored. They are hidden from help and completion, and
//! `docs/compatibility.md` lists them all.

mod build;
mod images;
mod run;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::environment::Environment;
use super::error::Failure;
use super::spelling::parse_bool;

/// One flag of Docker's.
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    short: Option<char>,
    /// Whether it is `--flag` and `--flag=true`, not `--flag VALUE`.
    is_switch: bool,
    /// Whether what a value asks for is so already.
    holds: fn(&str) -> bool,
    /// Why not, and what to do instead.
    why: &'static str,
}

impl Flag {
    /// `--name VALUE`, whatever the value.
    const fn refused(name: &'static str, why: &'static str) -> Self {
        Self {
            name,
            short: None,
            is_switch: false,
            holds: never,
            why,
        }
    }

    /// `--name`, whatever is said.
    const fn refused_switch(name: &'static str, why: &'static str) -> Self {
        Self {
            is_switch: true,
            ..Self::refused(name, why)
        }
    }

    /// `--name VALUE`, refused unless `holds` says that what the value asks for is so.
    const fn value(name: &'static str, holds: fn(&str) -> bool, why: &'static str) -> Self {
        Self {
            holds,
            ..Self::refused(name, why)
        }
    }

    /// `--name` and `--name=true`, refused unless `holds` says that what it asks for is so.
    const fn switch(name: &'static str, holds: fn(&str) -> bool, why: &'static str) -> Self {
        Self {
            is_switch: true,
            ..Self::value(name, holds, why)
        }
    }

    const fn short(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }

    /// Whether some value of it is accepted.
    pub fn may_hold(&self) -> bool {
        !std::ptr::fn_addr_eq(self.holds, never as fn(&str) -> bool)
    }

    fn argument(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .hide(true)
            .action(ArgAction::Append);
        let arg = match self.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        if self.is_switch {
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            // `--oom-score-adj -1`
            arg.num_args(1).allow_hyphen_values(true)
        }
    }

    fn refusal(&self, command: &str, value: &str) -> Failure {
        // A value that no other one could replace says nothing, and may be private.
        let is_plain = !self.may_hold() || self.is_switch && value == "true";
        let shown = match is_plain {
            true => format!("--{}", self.name),
            false => format!("--{}={value}", self.name),
        };
        let message = match command {
            "build" => format!("rbuild does not support {shown} yet"),
            command => format!("`rbuild {command}` does not support {shown}"),
        };
        Failure::user(message).hint(self.why)
    }
}

fn never(_: &str) -> bool {
    false
}

fn always(_: &str) -> bool {
    true
}

fn is_true(value: &str) -> bool {
    parse_bool(value) == Some(true)
}

fn is_false(value: &str) -> bool {
    parse_bool(value) == Some(false)
}

fn any_bool(value: &str) -> bool {
    parse_bool(value).is_some()
}

/// What Docker takes for no limit.
fn no_limit(value: &str) -> bool {
    matches!(value, "" | "0")
}

fn default_builder(value: &str) -> bool {
    matches!(value, "" | "default")
}

/// Docker's variable that wants signatures.
const CONTENT_TRUST: &str = "DOCKER_CONTENT_TRUST";
/// The commands that it is about.
const ASK_REGISTRIES: [&str; 4] = ["build", "pull", "push", "run"];

const TRUE_OR_FALSE: &str = "it is true or false";
const NO_CONTENT_TRUST: &str = "rbuild doesn't verify Notary signatures";
const NO_BUILDERS: &str =
    "rbuild builds by itself, there are no builders to choose from: drop the flag";

/// The flags of each command.
pub fn tables() -> impl Iterator<Item = (&'static str, &'static [Flag])> {
    [("build", build::FLAGS), ("run", run::FLAGS)]
        .into_iter()
        .chain(images::TABLES.iter().copied())
}

/// Lets clap know the flags.
pub(super) fn add_to(line: Command) -> Command {
    tables().fold(line, |line, (command, flags)| {
        line.mut_subcommand(command, |command| {
            command.args(flags.iter().map(Flag::argument))
        })
    })
}

/// Refuses what asks for something absent: a variable, or the first such flag.
///
/// # Errors
/// Names the flag and the reason.
pub(super) fn check(line: &ArgMatches, environment: &Environment) -> Result<(), Failure> {
    let Some((command, matches)) = line.subcommand() else {
        return Ok(());
    };
    let trusts = environment
        .get(CONTENT_TRUST)
        .is_some_and(|value| !is_false(&value));
    if trusts && ASK_REGISTRIES.contains(&command) {
        let message =
            format!("rbuild does not support {CONTENT_TRUST}: it verifies no Notary signatures");
        return Err(Failure::user(message).hint("unset the variable, or name images by digest"));
    }
    let flags = tables().find(|(name, _)| *name == command);
    for flag in flags.map_or(&[][..], |(_, flags)| flags) {
        if matches.value_source(flag.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = matches.get_many::<String>(flag.name).unwrap_or_default();
        for value in values {
            if !(flag.holds)(value) {
                return Err(flag.refusal(command, value));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> Result<(), Failure> {
        checked_in(line, &Environment::default())
    }

    fn checked_in(line: &str, environment: &Environment) -> Result<(), Failure> {
        let commands = tables().map(|(name, _)| Command::new(name));
        let command = add_to(Command::new("rbuild").subcommands(commands));
        let words = std::iter::once("rbuild").chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).unwrap();
        check(&matches, environment)
    }

    #[test]
    fn what_holds_already_is_accepted() {
        for line in [
            "build",
            "build --rm --force-rm --compress",
            "build --rm=true --force-rm=false",
            "build --provenance=false --sbom=false",
            "build --provenance=disabled=true",
            "build --attest type=provenance,disabled=true",
            "build --attest type=sbom,disabled=1",
            "build --builder default",
            "build --squash=false",
            "run --rm --init --no-healthcheck",
            "run --rm=true --init=false --detach=false --privileged=false",
            "run --restart no --expose 80",
            "run --sig-proxy=true",
            "inspect -s --size=false",
            "df --builder default --timeout 20s",
        ] {
            assert_eq!(checked(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_is_absent_is_refused_by_name() {
        for (line, message) in [
            ("build --rm=false", "rbuild does not support --rm=false yet"),
            (
                "build --provenance",
                "rbuild does not support --provenance yet",
            ),
            (
                "build --provenance=mode=max",
                "rbuild does not support --provenance=mode=max yet",
            ),
            ("build --sbom=true", "rbuild does not support --sbom yet"),
            (
                "build --builder mine",
                "rbuild does not support --builder=mine yet",
            ),
            (
                "build --cache-from type=registry,ref=a/b",
                "rbuild does not support --cache-from yet",
            ),
            ("build --squash", "rbuild does not support --squash yet"),
            (
                "build --security-opt seccomp=unconfined",
                "rbuild does not support --security-opt yet",
            ),
            ("run -d", "`rbuild run` does not support --detach"),
            ("run --name web", "`rbuild run` does not support --name"),
            ("run --rm=false", "`rbuild run` does not support --rm=false"),
            (
                "run --privileged",
                "`rbuild run` does not support --privileged",
            ),
            (
                "run --restart always",
                "`rbuild run` does not support --restart=always",
            ),
            (
                "push --all-tags",
                "`rbuild push` does not support --all-tags",
            ),
        ] {
            assert_eq!(checked(line).unwrap_err().message(), message, "{line}");
        }
    }

    #[test]
    fn signatures_that_are_not_verified_are_not_promised() {
        for (value, command, accepted) in [
            ("1", "pull", false),
            ("true", "build", false),
            ("0", "pull", true),
            ("", "pull", true),
            ("1", "images", true),
        ] {
            let environment = Environment::from_iter([(CONTENT_TRUST, value)]);
            let is_accepted = checked_in(command, &environment).is_ok();
            assert_eq!(is_accepted, accepted, "{value} {command}");
        }
    }

    #[test]
    fn every_refusal_has_its_reason() {
        for (command, flags) in tables() {
            for flag in flags {
                // One that takes every value is never refused.
                let always_holds = std::ptr::fn_addr_eq(flag.holds, always as fn(&str) -> bool);
                assert!(
                    always_holds || !flag.why.is_empty(),
                    "{command} --{}",
                    flag.name
                );
            }
        }
    }
}
