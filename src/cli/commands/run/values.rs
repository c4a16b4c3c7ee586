//! The values of `rbuild run`'s options: variables, volumes, ports, the network.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::build::NetworkMode;
use crate::build::publish::Publish;
use crate::cli::csv;
use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;
use crate::dockerfile::values::size;
use crate::step::container::{ContainerMount, ContainerSource};

/// A variable, and its value where it gets one.
type Variable = (String, Option<String>);

/// `--env`: a name without a value has the one of the environment, or is taken away.
pub(super) fn variable(text: &str, environment: &Environment) -> Result<Variable, Failure> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, environment.get_even_empty(text)),
    };
    if name.is_empty() {
        return Err(Failure::user(format!(
            "invalid value `{text}` for `--env`: the name is missing"
        )));
    }
    Ok((name.to_owned(), value))
}

/// `--env-file`: a variable in each line, as with `--env`; blank lines and those that begin with
/// `#` say nothing, and there are no quotes.
pub(super) fn env_file(path: &Path, environment: &Environment) -> Result<Vec<Variable>, Failure> {
    let content = fs::read(path).map_err(|error| {
        Failure::user(format!("can't read the env file `{}`", path.display())).caused_by(&error)
    })?;
    let content = String::from_utf8(content)
        .map_err(|_| Failure::user(format!("the env file `{}` is not text", path.display())))?;
    let text = content.strip_prefix('\u{feff}').unwrap_or(&content);
    variables_of(text, environment).map_err(|(line, reason)| {
        Failure::user(format!(
            "the env file `{}`, line {line}: {reason}",
            path.display()
        ))
    })
}

fn variables_of(
    text: &str,
    environment: &Environment,
) -> Result<Vec<Variable>, (usize, &'static str)> {
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err((number + 1, "the name is missing"));
        }
        if name.contains(char::is_whitespace) {
            return Err((number + 1, "the name holds a space"));
        }
        match value {
            Some(value) => variables.push((name.to_owned(), Some(value.to_owned()))),
            // Unlike `--env`, a file takes nothing away.
            None => variables.extend(
                environment
                    .get_even_empty(name)
                    .map(|value| (name.to_owned(), Some(value))),
            ),
        }
    }
    Ok(variables)
}

/// `--workdir`.
pub(super) fn absolute(text: &str, option: &str) -> Result<String, Failure> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(Failure::user(format!(
        "invalid value `{text}` for `{option}`: the path must be absolute"
    )))
}

/// `--network`.
pub(super) fn network(text: &str) -> Result<NetworkMode, Failure> {
    match text {
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        "private" => Ok(NetworkMode::Private),
        _ => Err(
            Failure::user(format!("`rbuild run` does not support --network={text}"))
                .hint("it is `host`, the default, `none` or `private`: rbuild makes no networks for several"),
        ),
    }
}

/// `--volume`; relative paths begin at `cwd`.
pub(super) fn volume(text: &str, cwd: &Path) -> Result<ContainerMount, Failure> {
    let invalid =
        |reason: &str| Failure::user(format!("invalid value `{text}` for `--volume`: {reason}"));
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match fields.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(invalid("it is SOURCE:TARGET[:ro]")),
    };
    let target = mount_target(target).map_err(|reason| invalid(&reason))?;
    let Some(source) = source else {
        return Ok(ContainerMount {
            target,
            source: ContainerSource::Volume,
            read_only: false,
        });
    };
    if source.is_empty() {
        return Err(invalid("the source is missing"));
    }
    if !source.contains('/') && !source.starts_with('.') {
        return Err(invalid("rbuild keeps no named volumes")
            .hint(format!("for a folder, write `./{source}`")));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Docker's default, and words for machines that are not this one.
            "rw" | "rprivate" | "consistent" | "cached" | "delegated" => {}
            "z" | "Z" if !has_selinux() => {}
            "z" | "Z" => return Err(invalid("rbuild changes no SELinux labels")),
            _ => {
                return Err(invalid(&format!(
                    "unknown option `{option}`: it is ro or rw"
                )));
            }
        }
    }
    Ok(ContainerMount {
        target,
        source: host(source, cwd),
        read_only,
    })
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn host(source: &str, cwd: &Path) -> ContainerSource {
    let path: PathBuf = cwd.join(source).components().collect();
    ContainerSource::Host(path)
}

fn mount_target(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("the target `{text}` must be absolute"));
    }
    if text.split('/').any(|name| name == "..") {
        return Err(format!("the target `{text}` must not hold `..`"));
    }
    if text.split('/').all(|name| matches!(name, "" | ".")) {
        return Err("the target can't be `/`".to_owned());
    }
    Ok(text.to_owned())
}

/// `--tmpfs`.
pub(super) fn tmpfs(text: &str) -> Result<ContainerMount, Failure> {
    let invalid =
        |reason: &str| Failure::user(format!("invalid value `{text}` for `--tmpfs`: {reason}"));
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut memory = Memory::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        memory.option(option).map_err(|reason| invalid(&reason))?;
    }
    Ok(memory.at(mount_target(target).map_err(|reason| invalid(&reason))?))
}

/// A file system in memory, with Docker's defaults.
struct Memory {
    size: Option<u64>,
    mode: u32,
    executable: bool,
    read_only: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            size: None,
            mode: 0o1777,
            executable: false,
            read_only: false,
        }
    }
}

impl Memory {
    fn option(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("size", value)) => self.set_size(value),
            Some(("mode", value)) => self.set_mode(value),
            None => match option {
                "exec" => {
                    self.executable = true;
                    Ok(())
                }
                "noexec" => {
                    self.executable = false;
                    Ok(())
                }
                "ro" => {
                    self.read_only = true;
                    Ok(())
                }
                // So they are.
                "rw" | "nosuid" | "nodev" => Ok(()),
                _ => Err(format!("unknown option `{option}`")),
            },
            _ => Err(format!("unknown option `{option}`")),
        }
    }

    fn set_size(&mut self, value: &str) -> Result<(), String> {
        let bytes = size(value).ok_or_else(|| format!("`{value}` is no size, such as 64m"))?;
        self.size = Some(bytes);
        Ok(())
    }

    fn set_mode(&mut self, value: &str) -> Result<(), String> {
        self.mode = u32::from_str_radix(value, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| format!("`{value}` is no mode, such as 1777"))?;
        Ok(())
    }

    fn at(self, target: String) -> ContainerMount {
        ContainerMount {
            target,
            source: ContainerSource::Tmpfs {
                size: self.size,
                mode: self.mode,
                executable: self.executable,
            },
            read_only: self.read_only,
        }
    }
}

/// `--mount`.
pub(super) fn mount(text: &str, cwd: &Path) -> Result<ContainerMount, Failure> {
    let invalid =
        |reason: &str| Failure::user(format!("invalid value `{text}` for `--mount`: {reason}"));
    let fields = csv::fields(text).map_err(|error| invalid(&error.to_string()))?;
    let (mut kind, mut source, mut target, mut read_only) = ("volume", None, None, false);
    let mut memory = Memory::default();
    for field in &fields {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (field.as_str(), None),
        };
        match (name, value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "destination" | "dst", Some(value)) => target = Some(value),
            ("readonly" | "ro", None) => read_only = true,
            ("readonly" | "ro", Some(value)) => {
                read_only =
                    parse_bool(value).ok_or_else(|| invalid("`readonly` is true or false"))?;
            }
            // What holds already.
            ("bind-propagation", Some("rprivate")) | ("consistency", Some(_)) => {}
            ("tmpfs-size", Some(value)) => {
                memory.set_size(value).map_err(|reason| invalid(&reason))?
            }
            ("tmpfs-mode", Some(value)) => {
                memory.set_mode(value).map_err(|reason| invalid(&reason))?
            }
            _ => return Err(invalid(&format!("unknown field `{field}`"))),
        }
    }
    let target = target.ok_or_else(|| invalid("`target` is missing"))?;
    let target = mount_target(target).map_err(|reason| invalid(&reason))?;
    match (kind, source) {
        ("bind", Some(source)) => Ok(ContainerMount {
            target,
            source: host(source, cwd),
            read_only,
        }),
        ("bind", None) => Err(invalid("`source` is missing")),
        ("tmpfs", None) => {
            memory.read_only = read_only;
            // Docker's `--mount type=tmpfs` is executable no more than `--tmpfs` is.
            Ok(memory.at(target))
        }
        ("tmpfs", Some(_)) => Err(invalid("a tmpfs has no `source`")),
        ("volume", None) => Ok(ContainerMount {
            target,
            source: ContainerSource::Volume,
            read_only,
        }),
        ("volume", Some(_)) => Err(invalid("rbuild keeps no named volumes")
            .hint("`type=bind,source=PATH,…` shows a folder of the machine")),
        _ => Err(invalid(&format!(
            "the type `{kind}` is none of bind and tmpfs"
        ))),
    }
}

/// `--publish`: `[[IP:][PORT]:]PORT[/tcp]`, each PORT one or a range.
pub(super) fn publish(text: &str) -> Result<Vec<Publish>, Failure> {
    let invalid =
        |reason: &str| Failure::user(format!("invalid value `{text}` for `--publish`: {reason}"));
    let ports = match text.split_once('/') {
        None | Some((_, "tcp")) => text.split_once('/').map_or(text, |(ports, _)| ports),
        Some((_, protocol)) => {
            return Err(
                invalid(&format!("rbuild passes on TCP only, not {protocol}"))
                    .hint("the program is on the machine's network: its own port is open there"),
            );
        }
    };
    let (outside, container) = match ports.rsplit_once(':') {
        Some((outside, container)) => (outside, container),
        None => ("", ports),
    };
    let (address, host) = match outside.rsplit_once(':') {
        // `[::1]:80`, but not the colon inside of `[::1]`.
        Some((address, host)) if !outside.ends_with(']') => (address, host),
        _ if outside.contains(['.', ']']) => (outside, ""),
        _ => ("", outside),
    };
    let address = match address.trim_start_matches('[').trim_end_matches(']') {
        "" => None,
        address => Some(
            address
                .parse::<IpAddr>()
                .map_err(|_| invalid(&format!("`{address}` is no IP address")))?,
        ),
    };
    let range =
        |text: &str| port_range(text).ok_or_else(|| invalid(&format!("`{text}` is no port")));
    let container: Vec<u16> = range(container)?;
    if container.contains(&0) {
        return Err(invalid("a program's port is not 0"));
    }
    let host: Vec<Option<u16>> = match host {
        "" | "0" => vec![None; container.len()],
        host => range(host)?.into_iter().map(Some).collect(),
    };
    if host.len() != container.len() {
        return Err(invalid("the two ranges differ in length"));
    }
    let pairs = host.into_iter().zip(container);
    Ok(pairs
        .map(|(host, container)| Publish {
            address,
            host,
            container,
        })
        .collect())
}

fn port_range(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first <= last).then(|| (first..=last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().message().to_owned()
    }

    #[test]
    fn variables_come_with_a_value_or_from_the_environment() {
        let environment = Environment::from_iter([("KNOWN", "value"), ("EMPTY", "")]);
        for (text, name, value) in [
            ("A=b", "A", Some("b")),
            ("A=b=c", "A", Some("b=c")),
            ("A=", "A", Some("")),
            ("KNOWN", "KNOWN", Some("value")),
            ("EMPTY", "EMPTY", Some("")),
            ("UNKNOWN", "UNKNOWN", None),
        ] {
            let expected = (name.to_owned(), value.map(str::to_owned));
            assert_eq!(variable(text, &environment), Ok(expected), "{text}");
        }
        assert_eq!(
            message(variable("=x", &environment)),
            "invalid value `=x` for `--env`: the name is missing"
        );
    }

    #[test]
    fn files_of_variables_have_no_quotes() {
        let environment = Environment::from_iter([("KNOWN", "value")]);
        let text = "# a comment\n\n  A=b # no comment\nB=\"quoted\"\nKNOWN\nUNKNOWN\nC=\n";
        let found = variables_of(text, &environment).unwrap();
        let shown: Vec<String> = found
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap()))
            .collect();
        assert_eq!(
            shown,
            ["A=b # no comment", "B=\"quoted\"", "KNOWN=value", "C="]
        );
        assert_eq!(
            variables_of("A=b\nC D=e", &environment),
            Err((2, "the name holds a space"))
        );
        assert_eq!(
            variables_of("=b", &environment),
            Err((1, "the name is missing"))
        );
    }

    #[test]
    fn volumes() {
        let cwd = Path::new("/home/me");
        for (text, source, target, read_only) in [
            ("/srv:/data", "/srv", "/data", false),
            ("/srv:/data:ro", "/srv", "/data", true),
            (".:/src:rw", "/home/me", "/src", false),
            ("./a/b:/src", "/home/me/a/b", "/src", false),
            ("a/b:/src:cached,ro", "/home/me/a/b", "/src", true),
        ] {
            let expected = ContainerMount {
                target: target.to_owned(),
                source: ContainerSource::Host(source.into()),
                read_only,
            };
            assert_eq!(volume(text, cwd), Ok(expected), "{text}");
        }
        assert_eq!(
            volume("/data", cwd).unwrap().source,
            ContainerSource::Volume
        );
        for (text, reason) in [
            ("data:/data", "rbuild keeps no named volumes"),
            ("/srv:data", "the target `data` must be absolute"),
            ("/srv:/", "the target can't be `/`"),
            ("/srv:/a/../..", "the target `/a/../..` must not hold `..`"),
            (
                "/srv:/data:shared",
                "unknown option `shared`: it is ro or rw",
            ),
            (":/data", "the source is missing"),
            ("/a:/b:ro:x", "it is SOURCE:TARGET[:ro]"),
        ] {
            assert_eq!(
                message(volume(text, cwd)),
                format!("invalid value `{text}` for `--volume`: {reason}")
            );
        }
    }

    #[test]
    fn file_systems_in_memory() {
        let made = |size, mode, executable, read_only| ContainerMount {
            target: "/run".to_owned(),
            source: ContainerSource::Tmpfs {
                size,
                mode,
                executable,
            },
            read_only,
        };
        for (text, expected) in [
            ("/run", made(None, 0o1777, false, false)),
            (
                "/run:rw,noexec,nosuid,size=65536k",
                made(Some(64 << 20), 0o1777, false, false),
            ),
            ("/run:exec,mode=755,ro", made(None, 0o755, true, true)),
        ] {
            assert_eq!(tmpfs(text), Ok(expected), "{text}");
        }
        for text in ["run", "/run:uid=3", "/run:size=all", "/run:mode=9", "/"] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
        assert_eq!(
            mount(
                "type=tmpfs,dst=/run,tmpfs-size=1m,tmpfs-mode=700",
                Path::new("/")
            ),
            Ok(made(Some(1 << 20), 0o700, false, false))
        );
    }

    #[test]
    fn mounts_in_words() {
        let cwd = Path::new("/home/me");
        assert_eq!(
            mount("type=bind,source=a,target=/a,readonly", cwd),
            volume("./a:/a:ro", cwd)
        );
        assert_eq!(
            mount("type=bind,src=/a,dst=/a,readonly=false", cwd),
            volume("/a:/a", cwd)
        );
        for (text, reason) in [
            ("type=bind,target=/a", "`source` is missing"),
            ("type=bind,source=/a", "`target` is missing"),
            ("source=a,target=/a", "rbuild keeps no named volumes"),
            (
                "type=npipe,target=/a",
                "the type `npipe` is none of bind and tmpfs",
            ),
            ("type=tmpfs,target=/a,uid=1", "unknown field `uid=1`"),
        ] {
            assert_eq!(
                message(mount(text, cwd)),
                format!("invalid value `{text}` for `--mount`: {reason}")
            );
        }
    }

    #[test]
    fn ports() {
        let shown = |text: &str| -> Vec<String> {
            publish(text)
                .unwrap()
                .iter()
                .map(|port| {
                    let address = port.address.map_or("*".to_owned(), |a| a.to_string());
                    let host = port.host.map_or("?".to_owned(), |port| port.to_string());
                    format!("{address} {host} {}", port.container)
                })
                .collect()
        };
        for (text, expected) in [
            ("80", &["* ? 80"][..]),
            ("8080:80", &["* 8080 80"]),
            ("0:80", &["* ? 80"]),
            ("8080:80/tcp", &["* 8080 80"]),
            ("127.0.0.1:8080:80", &["127.0.0.1 8080 80"]),
            ("127.0.0.1::80", &["127.0.0.1 ? 80"]),
            ("[::1]:8080:80", &["::1 8080 80"]),
            ("[::1]::80", &["::1 ? 80"]),
            ("8000-8001:80-81", &["* 8000 80", "* 8001 81"]),
            ("80-81", &["* ? 80", "* ? 81"]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for (text, reason) in [
            ("53:53/udp", "rbuild passes on TCP only, not udp"),
            ("http", "`http` is no port"),
            ("70000:80", "`70000` is no port"),
            ("80:0", "a program's port is not 0"),
            ("localhost:80:80", "`localhost` is no IP address"),
            ("8000-8005:80", "the two ranges differ in length"),
            ("81-80", "`81-80` is no port"),
        ] {
            assert_eq!(
                message(publish(text)),
                format!("invalid value `{text}` for `--publish`: {reason}")
            );
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("host"), Ok(NetworkMode::Host));
        assert_eq!(network("none"), Ok(NetworkMode::None));
        assert_eq!(network("private"), Ok(NetworkMode::Private));
        for mode in ["bridge", "default", "container:web", "mine"] {
            assert_eq!(
                message(network(mode)),
                format!("`rbuild run` does not support --network={mode}")
            );
        }
    }
}
