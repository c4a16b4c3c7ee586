//! Flags of `docker build` and `docker buildx build` that rbuild has no option for.
//!
//! One whose effect already holds is accepted; one that asks for something absent is refused by
//! name. None is ever ignored.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;

/// Whether a flag takes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `--flag` and `--flag=true`.
    Switch,
    /// `--flag VALUE`.
    Value,
}

struct Flag {
    name: &'static str,
    short: Option<char>,
    form: Form,
    /// Whether what a value asks for is so already.
    holds: fn(&str) -> bool,
    /// Why not, and what to do instead.
    hint: &'static str,
}

const fn accepted(
    name: &'static str,
    form: Form,
    holds: fn(&str) -> bool,
    hint: &'static str,
) -> Flag {
    Flag {
        name,
        short: None,
        form,
        holds,
        hint,
    }
}

const fn refused(name: &'static str, hint: &'static str) -> Flag {
    accepted(name, Form::Value, never, hint)
}

const fn limit(name: &'static str, short: Option<char>) -> Flag {
    Flag {
        short,
        ..accepted(name, Form::Value, no_limit, NO_LIMITS)
    }
}

fn never(_: &str) -> bool {
    false
}

/// What Docker takes for no limit.
fn no_limit(value: &str) -> bool {
    matches!(value, "" | "0")
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

fn no_attestation(value: &str) -> bool {
    is_false(value) || disabled_attestation(value)
}

fn disabled_attestation(value: &str) -> bool {
    value.split(',').any(|field| {
        let value = field.trim().strip_prefix("disabled=");
        value.is_some_and(is_true)
    })
}

fn default_builder(value: &str) -> bool {
    matches!(value, "" | "default")
}

fn host_network(value: &str) -> bool {
    value == "network.host"
}

fn plain_build(value: &str) -> bool {
    value == "build"
}

const NO_ATTESTATIONS: &str = "rbuild writes no attestations yet; drop the flag, or say `=false`";

const NO_LIMITS: &str = "RUN steps have the limits that rbuild itself has; `--cgroup-parent` puts them into a cgroup with others";

static FLAGS: [Flag; 30] = [
    // What they ask for is so.
    accepted(
        "rm",
        Form::Switch,
        is_true,
        "there are no intermediate containers that could be kept",
    ),
    // There is nothing to remove, by force or otherwise.
    accepted("force-rm", Form::Switch, any_bool, "it is true or false"),
    // The context isn't sent anywhere.
    accepted("compress", Form::Switch, any_bool, "it is true or false"),
    accepted(
        "disable-content-trust",
        Form::Switch,
        is_true,
        "rbuild doesn't verify Notary signatures",
    ),
    accepted("provenance", Form::Switch, no_attestation, NO_ATTESTATIONS),
    accepted("sbom", Form::Switch, no_attestation, NO_ATTESTATIONS),
    accepted("attest", Form::Value, disabled_attestation, NO_ATTESTATIONS),
    accepted(
        "builder",
        Form::Value,
        default_builder,
        "rbuild builds by itself, there are no builders to choose from: drop the flag",
    ),
    accepted(
        "allow",
        Form::Value,
        host_network,
        "only `network.host`, which RUN steps have anyway",
    ),
    accepted("call", Form::Value, plain_build, "only `--call build`"),
    accepted(
        "squash",
        Form::Switch,
        is_false,
        "a multi-stage build keeps layers small, too",
    ),
    accepted(
        "check",
        Form::Switch,
        is_false,
        "only building checks a Dockerfile so far",
    ),
    // What they ask for is absent.
    refused(
        "cache-from",
        "the cache of rbuild's own store is always used: drop the flag",
    ),
    refused(
        "cache-to",
        "the cache of rbuild's own store is always written: drop the flag",
    ),
    limit("cpu-period", None),
    limit("cpu-quota", None),
    limit("cpu-shares", Some('c')),
    limit("cpuset-cpus", None),
    limit("cpuset-mems", None),
    refused(
        "device",
        "RUN steps see Docker's default devices and no others",
    ),
    refused("format", "images are written as OCI images: drop the flag"),
    limit("memory", Some('m')),
    limit("memory-swap", None),
    refused("policy", "rbuild evaluates no policies"),
    refused("resource", NO_LIMITS),
    refused(
        "security-opt",
        "RUN steps have Docker's default seccomp profile and capabilities",
    ),
    refused("ssh", "RUN steps reach no agent; a key can be a `--secret`"),
    refused("stream", "the context is read in place: drop the flag"),
    refused(
        "volume",
        "`RUN --mount=type=bind` and `type=cache` bring folders into a step",
    ),
    refused("source-policy-file", "rbuild evaluates no policies"),
];

/// The flags of this kind that were given, with their values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct DockerFlags {
    given: Vec<(&'static str, String)>,
}

impl DockerFlags {
    /// Refuses what asks for something absent.
    ///
    /// # Errors
    /// Names the first flag whose effect rbuild does not have.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for flag in &FLAGS {
            for (_, value) in self.given.iter().filter(|(name, _)| *name == flag.name) {
                if (flag.holds)(value) {
                    continue;
                }
                let plain = flag.form == Form::Switch && value == "true" || is_never(flag);
                let shown = if plain {
                    format!("--{}", flag.name)
                } else {
                    format!("--{}={value}", flag.name)
                };
                return Err(
                    Failure::user(format!("rbuild does not support {shown} yet")).hint(flag.hint),
                );
            }
        }
        Ok(())
    }
}

/// The names of Docker's flags that rbuild has no option for, and whether there's a value that it
/// accepts because what it asks for is so already.
pub fn docker_flags() -> impl Iterator<Item = (&'static str, bool)> {
    FLAGS.iter().map(|flag| (flag.name, !is_never(flag)))
}

/// Whether no value of the flag is accepted. Its value isn't worth repeating then, and may be
/// private (`--ssh`).
fn is_never(flag: &Flag) -> bool {
    std::ptr::fn_addr_eq(flag.holds, never as fn(&str) -> bool)
}

impl clap::Args for DockerFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let mut arg = Arg::new(flag.name)
                .long(flag.name)
                .hide(true)
                .action(ArgAction::Append);
            arg = match flag.form {
                Form::Switch => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
                Form::Value => arg.num_args(1).allow_hyphen_values(true),
            };
            if let Some(short) = flag.short {
                arg = arg.short(short);
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for DockerFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        for flag in &FLAGS {
            if matches.value_source(flag.name) == Some(ValueSource::CommandLine) {
                let values = matches.get_many::<String>(flag.name).unwrap_or_default();
                flags
                    .given
                    .extend(values.map(|value| (flag.name, value.clone())));
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn check(line: &str) -> Result<(), Failure> {
        let command = DockerFlags::augment_args(Command::new("build"));
        let words = std::iter::once("build").chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).unwrap();
        DockerFlags::from_arg_matches(&matches).unwrap().check()
    }

    #[test]
    fn what_holds_already_is_accepted() {
        for line in [
            "",
            "--rm --force-rm --compress",
            "--rm=true --force-rm=false",
            "--provenance=false --sbom=false",
            "--provenance=disabled=true",
            "--attest type=provenance,disabled=true",
            "--builder default",
            "--allow network.host",
            "--call build",
            "--squash=false",
            "--memory 0 -c 0",
            "--attest type=sbom,disabled=1",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_is_absent_is_refused_by_name() {
        for (line, message) in [
            ("--ssh default", "rbuild does not support --ssh yet"),
            ("--rm=false", "rbuild does not support --rm=false yet"),
            ("--provenance", "rbuild does not support --provenance yet"),
            (
                "--provenance=mode=max",
                "rbuild does not support --provenance=mode=max yet",
            ),
            ("--sbom=true", "rbuild does not support --sbom yet"),
            (
                "--builder mine",
                "rbuild does not support --builder=mine yet",
            ),
            (
                "--cache-from type=registry,ref=a/b",
                "rbuild does not support --cache-from yet",
            ),
            (
                "--memory-swap -1",
                "rbuild does not support --memory-swap=-1 yet",
            ),
            ("-m 1g", "rbuild does not support --memory=1g yet"),
            ("--squash", "rbuild does not support --squash yet"),
            (
                "--security-opt seccomp=unconfined",
                "rbuild does not support --security-opt yet",
            ),
            (
                "--allow network.host --allow security.insecure",
                "rbuild does not support --allow=security.insecure yet",
            ),
        ] {
            assert_eq!(check(line).unwrap_err().message(), message, "{line}");
        }
    }
}
