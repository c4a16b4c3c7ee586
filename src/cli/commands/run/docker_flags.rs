//! Flags of `docker run` that rbuild has no option for.
//!
//! One whose effect already holds is accepted; one that asks for something absent is refused by
//! name. None is ever ignored.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;

struct Flag {
    name: &'static str,
    short: Option<char>,
    /// Whether it is `--flag`, not `--flag VALUE`.
    is_switch: bool,
    /// Whether what a value asks for is so already.
    holds: fn(&str) -> bool,
    hint: Option<&'static str>,
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

fn no_restart(value: &str) -> bool {
    matches!(value, "" | "no")
}

fn is_private(value: &str) -> bool {
    matches!(value, "" | "private")
}

const fn value(name: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        is_switch: false,
        holds: never,
        hint: None,
    }
}

const fn short(name: &'static str, short: char) -> Flag {
    Flag {
        short: Some(short),
        ..value(name)
    }
}

const fn held(name: &'static str, holds: fn(&str) -> bool) -> Flag {
    Flag {
        holds,
        ..value(name)
    }
}

const fn switch(name: &'static str, holds: fn(&str) -> bool, hint: &'static str) -> Flag {
    Flag {
        is_switch: true,
        hint: Some(hint),
        ..held(name, holds)
    }
}

const fn because(flag: Flag, hint: &'static str) -> Flag {
    Flag {
        hint: Some(hint),
        ..flag
    }
}

const NO_LIMITS: &str = "rbuild limits no resources; a tool like `systemd-run --scope` can";
const HOST_NETWORK: &str = "programs use the machine's own network";
const FOREGROUND: &str = "rbuild has no daemon: a program runs as long as `rbuild run` does";
const CAPABILITIES: &str = "programs run with Docker's default privileges";

static FLAGS: &[Flag] = &[
    // What they ask for is so.
    switch("rm", is_true, "nothing of a run is ever kept"),
    switch(
        "init",
        any_bool,
        "a process that takes leave of orphans is always there",
    ),
    switch(
        "no-healthcheck",
        any_bool,
        "health checks are never carried out",
    ),
    switch("sig-proxy", is_true, "signals always reach the program"),
    switch("disable-content-trust", any_bool, ""),
    switch(
        "oom-kill-disable",
        is_false,
        "the kernel decides what to do when memory runs out",
    ),
    held("expose", always),
    held("restart", no_restart),
    held("ipc", is_private),
    held("cgroupns", is_private),
    // Without a daemon there is nobody to do it.
    Flag {
        short: Some('d'),
        ..switch("detach", is_false, FOREGROUND)
    },
    because(
        value("name"),
        "nothing outlives the run that could be called by a name",
    ),
    because(
        value("cidfile"),
        "nothing outlives the run that could have an id",
    ),
    value("detach-keys"),
    short("attach", 'a'),
    because(
        short("label", 'l'),
        "nothing outlives the run that could carry a label",
    ),
    value("label-file"),
    value("annotation"),
    value("log-driver"),
    value("log-opt"),
    value("health-cmd"),
    value("health-interval"),
    value("health-retries"),
    value("health-start-interval"),
    value("health-start-period"),
    value("health-timeout"),
    because(
        value("stop-signal"),
        "the program gets the very signal that rbuild gets",
    ),
    // Privileges.
    switch("privileged", is_false, CAPABILITIES),
    because(value("cap-add"), CAPABILITIES),
    because(value("cap-drop"), CAPABILITIES),
    because(value("security-opt"), CAPABILITIES),
    value("device"),
    value("device-cgroup-rule"),
    value("gpus"),
    value("group-add"),
    value("runtime"),
    value("sysctl"),
    value("pid"),
    value("userns"),
    value("uts"),
    value("storage-opt"),
    value("volume-driver"),
    value("volumes-from"),
    // Network.
    because(value("dns"), "the machine's name servers are used"),
    because(value("dns-option"), "the machine's name servers are used"),
    because(value("dns-search"), "the machine's name servers are used"),
    value("domainname"),
    because(value("ip"), HOST_NETWORK),
    because(value("ip6"), HOST_NETWORK),
    because(value("link"), HOST_NETWORK),
    because(value("link-local-ip"), HOST_NETWORK),
    because(value("mac-address"), HOST_NETWORK),
    because(value("network-alias"), HOST_NETWORK),
    // Limits.
    because(short("memory", 'm'), NO_LIMITS),
    because(value("memory-reservation"), NO_LIMITS),
    because(value("memory-swap"), NO_LIMITS),
    because(value("memory-swappiness"), NO_LIMITS),
    because(value("kernel-memory"), NO_LIMITS),
    because(value("blkio-weight"), NO_LIMITS),
    because(value("blkio-weight-device"), NO_LIMITS),
    because(value("cpu-period"), NO_LIMITS),
    because(value("cpu-quota"), NO_LIMITS),
    because(value("cpu-rt-period"), NO_LIMITS),
    because(value("cpu-rt-runtime"), NO_LIMITS),
    because(short("cpu-shares", 'c'), NO_LIMITS),
    because(value("cpus"), NO_LIMITS),
    because(value("cpuset-cpus"), NO_LIMITS),
    because(value("cpuset-mems"), NO_LIMITS),
    because(value("device-read-bps"), NO_LIMITS),
    because(value("device-read-iops"), NO_LIMITS),
    because(value("device-write-bps"), NO_LIMITS),
    because(value("device-write-iops"), NO_LIMITS),
    because(value("pids-limit"), NO_LIMITS),
    because(value("oom-score-adj"), NO_LIMITS),
];

/// The flags that were given, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DockerFlags {
    given: Vec<(&'static str, String)>,
}

impl DockerFlags {
    /// Refuses the first flag that asks for something absent.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for (name, value) in &self.given {
            let flag = FLAGS.iter().find(|flag| flag.name == *name);
            let Some(flag) = flag.filter(|flag| !(flag.holds)(value)) else {
                continue;
            };
            let shown = match flag.is_switch && !is_true(value) {
                true => format!("--{name}={value}"),
                false => format!("--{name}"),
            };
            let failure = Failure::user(format!("`rbuild run` does not support {shown}"));
            return Err(match flag.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            });
        }
        Ok(())
    }
}

impl clap::Args for DockerFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let mut arg = Arg::new(flag.name)
                .long(flag.name)
                .hide(true)
                .action(ArgAction::Append);
            if let Some(short) = flag.short {
                arg = arg.short(short);
            }
            if flag.is_switch {
                arg = arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true");
            } else {
                // `--memory-swap -1`
                arg = arg.allow_hyphen_values(true);
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
        for flag in FLAGS {
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
        let command = DockerFlags::augment_args(Command::new("run"));
        let words = std::iter::once("run").chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).unwrap();
        DockerFlags::from_arg_matches(&matches).unwrap().check()
    }

    #[test]
    fn what_holds_already_is_accepted() {
        for line in [
            "",
            "--rm --init --no-healthcheck",
            "--rm=true --init=false --detach=false --privileged=false",
            "--restart no --expose 80",
            "--sig-proxy=true",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_is_absent_is_refused_by_name() {
        for (line, message) in [
            ("-d", "`rbuild run` does not support --detach"),
            ("--name web", "`rbuild run` does not support --name"),
            ("--rm=false", "`rbuild run` does not support --rm=false"),
            ("--privileged", "`rbuild run` does not support --privileged"),
            ("-m 1g", "`rbuild run` does not support --memory"),
            (
                "--memory-swap -1",
                "`rbuild run` does not support --memory-swap",
            ),
            (
                "--restart always",
                "`rbuild run` does not support --restart",
            ),
        ] {
            assert_eq!(check(line).unwrap_err().message(), message, "{line}");
        }
    }
}
