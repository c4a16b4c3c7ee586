//! Options about what programs get of the machine, in RUN steps as in `rbuild run`: `--add-host`,
//! `--ulimit`, `--shm-size`, `--cgroup-parent`, and the limits of `limits`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use clap::Args;

use super::error::Failure;
use super::limits::LimitArguments;
use crate::build::RunSettings;
use crate::dockerfile;
use crate::sandbox::{LimitKind, Ulimit};

/// Docker's word for the address at which containers reach the host. A program that has a network
/// has the host's, so that is the loopback address.
const HOST_GATEWAY: &str = "host-gateway";

/// The options.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct RunSettingsArguments {
    /// Let programs find a host: NAME:IP or NAME=IP; the IP `host-gateway` is this machine; may be repeated
    #[arg(long = "add-host", value_name = "NAME:IP")]
    add_hosts: Vec<String>,

    /// Limit processes: KIND=SOFT[:HARD], for example nofile=1024:2048; may be repeated
    #[arg(long = "ulimit", value_name = "KIND=SOFT[:HARD]")]
    ulimits: Vec<String>,

    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,

    /// Run programs in cgroups of their own below this one (cgroup version 2)
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,

    #[command(flatten)]
    pub(super) limits: LimitArguments,
}

impl RunSettingsArguments {
    /// Refuses `host-gateway`, where nothing leads to this machine's loopback.
    pub(super) fn refuse_host_gateway(&self) -> Result<(), Failure> {
        let leads_here = |text: &&String| text.ends_with(HOST_GATEWAY);
        match self.add_hosts.iter().find(leads_here) {
            Some(text) => Err(Failure::user(format!(
                "`--add-host {text}` leads nowhere with `--network=private`"
            ))
            .hint("name an address of this machine that others can reach, too")),
            None => Ok(()),
        }
    }

    /// What they say, with those of `--resource`.
    pub(super) fn read_with(&self, resources: &[String]) -> Result<RunSettings, Failure> {
        let mut all = self.clone();
        for text in resources {
            all.limits.set(text)?;
        }
        all.read()
    }

    /// What they say.
    pub(super) fn read(&self) -> Result<RunSettings, Failure> {
        let mut hosts = Vec::new();
        for text in &self.add_hosts {
            hosts.extend(host(text)?);
        }
        let mut ulimits = BTreeMap::new();
        for text in &self.ulimits {
            let limit = ulimit(text)?;
            // As in Docker, the last word about a limit counts.
            ulimits.insert(limit.kind, limit);
        }
        let cgroup_parent = self.cgroup_parent.as_ref();
        Ok(RunSettings {
            hosts,
            ulimits: ulimits.into_values().collect(),
            shm_size: shm_size(self.shm_size.as_deref())?,
            limits: self.limits.read()?,
            cgroup_parent: cgroup_parent.filter(|parent| !parent.is_empty()).cloned(),
        })
    }
}

/// `NAME:IP`, `NAME=IP`, several addresses with commas between, IPv6 in brackets or not.
fn host(text: &str) -> Result<Vec<(String, IpAddr)>, Failure> {
    let invalid = |reason: &str| {
        Failure::user(format!("invalid value `{text}` for `--add-host`: {reason}"))
            .hint("write NAME:IP, NAME=IP or NAME:host-gateway")
    };
    let (name, addresses) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| invalid("it has no address"))?;
    let is_name = |c: char| !c.is_whitespace() && !c.is_control() && c != '#';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(invalid("it has no host name"));
    }
    let address = |text: &str| -> Result<IpAddr, Failure> {
        if text == HOST_GATEWAY {
            return Ok(Ipv4Addr::LOCALHOST.into());
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        bare.unwrap_or(text)
            .parse()
            .map_err(|_| invalid(&format!("`{text}` is no IP address")))
    };
    addresses
        .split(',')
        .map(|text| Ok((name.to_owned(), address(text)?)))
        .collect()
}

/// `KIND=SOFT[:HARD]`; -1 is no limit.
fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    let invalid = |reason: &str| {
        Failure::user(format!("invalid value `{text}` for `--ulimit`: {reason}"))
            .hint("write KIND=SOFT[:HARD], for example nofile=1024:2048; -1 is no limit")
    };
    let (kind, values) = text
        .split_once('=')
        .ok_or_else(|| invalid("it has no value"))?;
    let kind: LimitKind = kind
        .parse()
        .map_err(|error: crate::sandbox::UnknownLimit| invalid(&error.to_string()))?;
    let number = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(number) => u64::try_from(number)
            .map(Some)
            .map_err(|_| invalid("a limit is not negative")),
        Err(_) => Err(invalid(&format!("`{text}` is no whole number"))),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    let is_above = match (soft, hard) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(soft), Some(hard)) => soft > hard,
    };
    if is_above {
        return Err(invalid("the soft limit is above the hard limit"));
    }
    Ok(Ulimit { kind, soft, hard })
}

/// A size; 0 is Docker's way of saying nothing.
fn shm_size(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match dockerfile::values::size(text) {
        Some(size) => Ok(Some(size).filter(|size| *size > 0)),
        None => Err(
            Failure::user(format!("invalid value `{text}` for `--shm-size`"))
                .hint("it is a size such as 64m, 1g or 134217728"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("db:10.0.0.1", "db 10.0.0.1"),
            ("db=10.0.0.1", "db 10.0.0.1"),
            ("db:fd00::1", "db fd00::1"),
            ("db=fd00::1", "db fd00::1"),
            ("db:[fd00::1]", "db fd00::1"),
            ("db:[10.0.0.1]", "db 10.0.0.1"),
            ("db=10.0.0.1,fd00::1", "db 10.0.0.1 db fd00::1"),
            (
                "host.docker.internal:host-gateway",
                "host.docker.internal 127.0.0.1",
            ),
        ] {
            let found = host(text).unwrap();
            let found = found
                .iter()
                .map(|(name, address)| format!("{name} {address}"));
            assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{text}");
        }
        for (text, reason) in [
            ("db", "it has no address"),
            (":10.0.0.1", "it has no host name"),
            ("a b:10.0.0.1", "it has no host name"),
            ("a\nb:10.0.0.1", "it has no host name"),
            ("#a:10.0.0.1", "it has no host name"),
            ("db:", "`` is no IP address"),
            ("db:10.0.0", "`10.0.0` is no IP address"),
            ("db:gateway", "`gateway` is no IP address"),
        ] {
            assert_eq!(
                host(text).unwrap_err().message(),
                format!("invalid value `{text}` for `--add-host`: {reason}")
            );
        }
    }

    #[test]
    fn ulimits() {
        for (text, soft, hard) in [
            ("nofile=1024:2048", Some(1024), Some(2048)),
            ("nofile=1024", Some(1024), Some(1024)),
            ("core=0", Some(0), Some(0)),
            ("memlock=-1:-1", None, None),
            ("memlock=-1", None, None),
            ("memlock=64:-1", Some(64), None),
        ] {
            let limit = ulimit(text).unwrap();
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
        }
        for (text, reason) in [
            ("nofile", "it has no value"),
            ("nofile=", "`` is no whole number"),
            ("nofile=1k", "`1k` is no whole number"),
            ("nofile=1:2:3", "`2:3` is no whole number"),
            ("nofile=-2", "a limit is not negative"),
            ("nofile=2:1", "the soft limit is above the hard limit"),
            ("nofile=-1:1", "the soft limit is above the hard limit"),
        ] {
            assert_eq!(
                ulimit(text).unwrap_err().message(),
                format!("invalid value `{text}` for `--ulimit`: {reason}")
            );
        }
        let unknown = ulimit("files=1").unwrap_err();
        assert!(
            unknown.message().contains("there is no limit `files`"),
            "{unknown:?}"
        );
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            (None, None),
            (Some("0"), None),
            (Some("128m"), Some(128 << 20)),
            (Some("1.5g"), Some(3 << 29)),
            (Some("4096"), Some(4096)),
        ] {
            assert_eq!(shm_size(text), Ok(expected));
        }
        assert!(shm_size(Some("much")).is_err());
        assert!(shm_size(Some("-1")).is_err());
    }
}
