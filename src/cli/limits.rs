//! Options about what a program's cgroup may use of the machine: `--memory`, `--cpus` and their
//! kin. Docker's way of saying nothing, 0, says nothing here.

use clap::Args;

use super::error::Failure;
use crate::dockerfile;
use crate::sandbox::{CgroupLimits, Swap};

/// The least that Docker takes for a limit of memory, in bytes.
const LEAST_MEMORY: u64 = 6 << 20;
/// The period that a number of processors stands for, in microseconds.
const PERIOD: u64 = 100_000;

/// The options.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LimitArguments {
    /// Limit the memory of programs (cgroup version 2, as the three below and --cpuset-…)
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,

    /// Limit memory and swap together, -1 for all the swap there is [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,

    /// Limit the time of processors to that of so many of them
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpus: Option<String>,

    /// The share of busy processors, where 1024 is usual
    #[arg(short, long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_shares: Option<String>,

    /// Microseconds of processors' time in each --cpu-period
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_quota: Option<String>,

    /// Microseconds [default: 100000]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_period: Option<String>,

    /// Run on these processors only, for example 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Use these nodes of memory only
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
}

impl LimitArguments {
    /// Takes one `--resource KEY=VALUE`, as buildx has it, as the option of that name.
    pub(super) fn set(&mut self, text: &str) -> Result<(), Failure> {
        let usage = "write KEY=VALUE; the keys are memory, memory-swap, cpu-shares, cpu-period, \
                     cpu-quota, cpuset-cpus and cpuset-mems";
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Failure::user(format!("invalid value `{text}` for `--resource`")).hint(usage)
        })?;
        let field = match key {
            "memory" => &mut self.memory,
            "memory-swap" => &mut self.memory_swap,
            "cpu-shares" => &mut self.cpu_shares,
            "cpu-period" => &mut self.cpu_period,
            "cpu-quota" => &mut self.cpu_quota,
            "cpuset-cpus" => &mut self.cpuset_cpus,
            "cpuset-mems" => &mut self.cpuset_mems,
            _ => {
                let message = format!("`--resource`: there is no key `{key}`");
                return Err(Failure::user(message).hint(usage));
            }
        };
        *field = Some(value.to_owned());
        Ok(())
    }

    /// What they say.
    pub(super) fn read(&self) -> Result<CgroupLimits, Failure> {
        let memory = bytes("memory", self.memory.as_deref())?;
        if let Some(bytes) = memory
            && bytes < LEAST_MEMORY
        {
            return Err(invalid("memory", &bytes.to_string(), "it is less than 6m"));
        }
        let cpu_quota = number("cpu-quota", self.cpu_quota.as_deref())?;
        let cpu_period = number("cpu-period", self.cpu_period.as_deref())?;
        let cpus = cpus(self.cpus.as_deref())?;
        if cpus.is_some() && (cpu_quota.is_some() || cpu_period.is_some()) {
            return Err(Failure::user(
                "`--cpus` says with one number what `--cpu-quota` and `--cpu-period` say with two: use either",
            ));
        }
        Ok(CgroupLimits {
            memory,
            memory_reservation: None,
            swap: swap(memory, self.memory_swap.as_deref())?,
            cpu_quota: cpus.or(cpu_quota),
            cpu_period,
            cpu_shares: number("cpu-shares", self.cpu_shares.as_deref())?,
            cpuset_cpus: list("cpuset-cpus", self.cpuset_cpus.as_deref())?,
            cpuset_mems: list("cpuset-mems", self.cpuset_mems.as_deref())?,
            pids: None,
        })
    }
}

fn invalid(flag: &str, value: &str, reason: &str) -> Failure {
    Failure::user(format!("invalid value `{value}` for `--{flag}`: {reason}"))
}

/// A size; 0 is none.
pub(super) fn bytes(flag: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match dockerfile::values::size(text) {
        Some(size) => Ok(Some(size).filter(|size| *size > 0)),
        None => Err(invalid(flag, text, "it is no size").hint("write a size such as 512m or 2g")),
    }
}

/// A whole number; 0 and -1 are no limit.
pub(super) fn number(flag: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    match text {
        None | Some("" | "0" | "-1") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(flag, text, "it is no whole number")),
        },
    }
}

/// A number of processors, as time in each period.
fn cpus(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text.parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=8192.0).contains(number));
    let number = number.ok_or_else(|| {
        invalid("cpus", text, "it is no number of processors").hint("write, for example, 1.5")
    })?;
    let quota = number * PERIOD as f64;
    if number > 0.0 && quota < 1000.0 {
        return Err(invalid("cpus", text, "it is less than 0.01"));
    }
    // Bounded above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((number > 0.0).then_some(quota.round() as u64))
}

/// Docker counts memory and swap together; the kernel doesn't.
fn swap(memory: Option<u64>, text: Option<&str>) -> Result<Option<Swap>, Failure> {
    const FLAG: &str = "memory-swap";
    let together = match text {
        Some("-1") => return Ok(Some(Swap::Unlimited)),
        text => bytes(FLAG, text)?,
    };
    match (memory, together) {
        (None, None) => Ok(None),
        (Some(memory), None) => Ok(Some(Swap::Usual(memory))),
        (None, Some(_)) => Err(Failure::user(
            "`--memory-swap` counts memory and swap together, and needs `--memory`",
        )),
        (Some(memory), Some(together)) => match together.checked_sub(memory) {
            Some(swap) => Ok(Some(Swap::Bytes(swap))),
            None => Err(invalid(
                FLAG,
                text.unwrap_or_default(),
                "it is less than `--memory`",
            )),
        },
    }
}

/// Numbers and ranges of numbers, with commas between.
fn list(flag: &str, text: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let is_range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= last)
    };
    match text.split(',').all(is_range) {
        true => Ok(Some(text.to_owned())),
        false => {
            Err(invalid(flag, text, "it is no list of numbers").hint("write, for example, 0-2,4"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<CgroupLimits, Failure> {
        let mut arguments = LimitArguments::default();
        for text in texts {
            match text.strip_prefix("cpus=") {
                Some(cpus) => arguments.cpus = Some(cpus.to_owned()),
                None => arguments.set(text)?,
            }
        }
        arguments.read()
    }

    #[test]
    fn limits_are_read_as_docker_reads_them() {
        let limits = read(&[
            "memory=1g",
            "memory-swap=1.5g",
            "cpus=1.5",
            "cpu-shares=512",
        ])
        .unwrap();
        assert_eq!(limits.memory, Some(1 << 30));
        assert_eq!(limits.swap, Some(Swap::Bytes(1 << 29)));
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(150_000), None));
        assert_eq!(limits.cpu_shares, Some(512));
        let limits = read(&["cpu-quota=5000", "cpu-period=10000", "cpuset-cpus=0-2,4"]).unwrap();
        assert_eq!(
            (limits.cpu_quota, limits.cpu_period),
            (Some(5000), Some(10_000))
        );
        assert_eq!(limits.cpuset_cpus.as_deref(), Some("0-2,4"));
        assert_eq!(
            read(&["memory=8m"]).unwrap().swap,
            Some(Swap::Usual(8 << 20))
        );
        let unlimited = read(&["memory=8m", "memory-swap=-1"]).unwrap();
        assert_eq!(unlimited.swap, Some(Swap::Unlimited));
        let nothing = [
            "memory=0",
            "memory-swap=0",
            "cpus=0",
            "cpu-shares=0",
            "cpu-quota=-1",
            "cpu-period=0",
            "cpuset-cpus=",
            "cpuset-mems=",
        ];
        assert!(read(&nothing).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_limit_says_why() {
        for (texts, message) in [
            (
                &["memory=much"][..],
                "invalid value `much` for `--memory`: it is no size",
            ),
            (
                &["memory=5m"],
                "invalid value `5242880` for `--memory`: it is less than 6m",
            ),
            (
                &["memory=-1"],
                "invalid value `-1` for `--memory`: it is no size",
            ),
            (
                &["memory=1g", "memory-swap=512m"],
                "invalid value `512m` for `--memory-swap`: it is less than `--memory`",
            ),
            (
                &["memory-swap=512m"],
                "`--memory-swap` counts memory and swap together, and needs `--memory`",
            ),
            (
                &["cpus=x"],
                "invalid value `x` for `--cpus`: it is no number of processors",
            ),
            (
                &["cpus=-1"],
                "invalid value `-1` for `--cpus`: it is no number of processors",
            ),
            (
                &["cpus=0.001"],
                "invalid value `0.001` for `--cpus`: it is less than 0.01",
            ),
            (
                &["cpus=1", "cpu-quota=1000"],
                "`--cpus` says with one number what `--cpu-quota` and `--cpu-period` say with two: use either",
            ),
            (
                &["cpu-shares=a"],
                "invalid value `a` for `--cpu-shares`: it is no whole number",
            ),
            (
                &["cpuset-cpus=2-1"],
                "invalid value `2-1` for `--cpuset-cpus`: it is no list of numbers",
            ),
            (
                &["cpuset-mems=a"],
                "invalid value `a` for `--cpuset-mems`: it is no list of numbers",
            ),
            (&["disk=1g"], "`--resource`: there is no key `disk`"),
            (&["memory"], "invalid value `memory` for `--resource`"),
        ] {
            assert_eq!(read(texts).unwrap_err().message(), message, "{texts:?}");
        }
    }
}
