//! Values of build options that have a syntax of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::request::remote;
use crate::build::{Allowance, NamedContext, SecretFrom, SecretSource, SshSource};
use crate::cli::csv;
use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;
use crate::reference::Reference;

/// Reads one `--build-context`.
pub(super) fn named_context(text: &str) -> Result<(String, NamedContext), Failure> {
    let usage = "write NAME=FOLDER, NAME=URL, NAME=docker-image://IMAGE, NAME=oci-layout://PATH \
                 or NAME=docker-archive://PATH";
    let (name, source) = text
        .split_once('=')
        .filter(|(name, source)| !name.is_empty() && !source.is_empty())
        .ok_or_else(|| {
            Failure::user(format!("invalid value `{text}` for `--build-context`")).hint(usage)
        })?;
    // As in Docker, the name is an image's, and `:latest` goes without saying.
    let meant = name.parse::<Reference>().map_err(|error| {
        Failure::user(format!("invalid context name {name}"))
            .caused_by(&error)
            .hint("it is lower-case, as the names of stages and images are")
    })?;
    let meant = meant.familiar();
    let name = meant.strip_suffix(":latest").unwrap_or(&meant);
    if !Path::new(source).is_dir()
        && let Some(source) = remote(source)?
    {
        return Ok((name.to_owned(), NamedContext::Remote(source)));
    }
    let context = match source.split_once("://") {
        Some(("docker-image", "scratch")) => NamedContext::Scratch,
        Some(("docker-image", image)) => {
            let reference = image
                .parse()
                .map_err(|error| Failure::user(format!("`--build-context {name}`: {error}")))?;
            NamedContext::Image(reference)
        }
        Some(("oci-layout" | "oci-archive" | "docker-archive", path)) => layout(path),
        _ => NamedContext::Folder(folder(name, source, usage)?),
    };
    Ok((name.to_owned(), context))
}

/// What is written without a scheme that rbuild knows: a folder that is there.
fn folder(name: &str, source: &str, usage: &str) -> Result<PathBuf, Failure> {
    let flag = format!("`--build-context {name}`");
    match std::fs::metadata(source) {
        Ok(metadata) if metadata.is_dir() => Ok(source.into()),
        Ok(_) => Err(
            Failure::user(format!("{flag}: `{source}` is not a folder")).hint(format!(
                "unpack an archive of files first; for an image write \
             {name}=docker-archive://{source} or {name}=oci-layout://{source}"
            )),
        ),
        Err(_) if source == "-" => Err(Failure::user(format!(
            "{flag}: standard input can't be a named context"
        ))
        .hint("unpack the archive first, then name its folder")),
        Err(_) if source.contains("://") || source.starts_with("target:") => {
            Err(Failure::user(format!("{flag}: rbuild does not support `{source}`")).hint(usage))
        }
        Err(error) => Err(
            Failure::user(format!("{flag}: can't read the folder `{source}`"))
                .caused_by(&error)
                .hint(usage),
        ),
    }
}

/// `PATH[:TAG][@DIGEST]`. A path that exists as written is taken so.
fn layout(text: &str) -> NamedContext {
    let file = |path: &str, name: Option<&str>| NamedContext::File {
        path: path.into(),
        name: name.map(str::to_owned),
    };
    if std::path::Path::new(text).exists() {
        return file(text, None);
    }
    if let Some((path, digest)) = text.split_once('@') {
        return file(path, Some(digest));
    }
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => file(path, Some(tag)),
        _ => file(text, None),
    }
}

const SECRET_USAGE: &str = "use `id=ID,src=FILE` or `id=ID,env=NAME`";

/// Reads one `--secret`. A bare `id=ID` is the environment variable of that name where there is
/// one, else the file.
pub(super) fn secret(text: &str, environment: &Environment) -> Result<SecretSource, Failure> {
    let usage = || SECRET_USAGE;
    let mut kind = None;
    let (mut id, mut source, mut variable) = (None, None, None);
    for (key, value) in pairs("--secret", text)? {
        match key.as_str() {
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => {
                return Err(
                    Failure::user(format!("`--secret`: there is no type `{value}`"))
                        .hint("it is file or env"),
                );
            }
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            _ => {
                return Err(
                    Failure::user(format!("`--secret`: there is no key `{key}`")).hint(usage()),
                );
            }
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::user("`--secret` has no id").hint(usage()))?;
    let from = match (source, variable) {
        (Some(_), Some(_)) => {
            return Err(Failure::user(format!(
                "`--secret id={id}` has both a file and a variable"
            ))
            .hint(usage()));
        }
        (None, Some(name)) if kind.as_deref() == Some("file") => {
            return Err(Failure::user(format!(
                "`--secret id={id}` has type=file and the variable `{name}`"
            ))
            .hint(usage()));
        }
        (None, Some(name)) => SecretFrom::Environment(name),
        (Some(name), None) if kind.as_deref() == Some("env") => SecretFrom::Environment(name),
        (Some(path), None) => SecretFrom::File(path.into()),
        (None, None) => match kind.as_deref() {
            Some("env") => SecretFrom::Environment(id.clone()),
            Some(_) => SecretFrom::File(id.clone().into()),
            None if environment.contains(&id) => SecretFrom::Environment(id.clone()),
            None => SecretFrom::File(id.clone().into()),
        },
    };
    Ok(SecretSource { id, from })
}

/// `--ssh`: the last word about an id counts.
pub(super) fn ssh(texts: &[String]) -> Vec<SshSource> {
    let mut sources: Vec<SshSource> = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let paths = paths.split(',').filter(|path| !path.is_empty());
        let source = SshSource {
            id: if id.is_empty() { "default" } else { id }.to_owned(),
            paths: paths.map(PathBuf::from).collect(),
        };
        sources.retain(|other| other.id != source.id);
        sources.push(source);
    }
    sources
}

/// `--allow`.
pub(super) fn allowance(texts: &[String]) -> Result<Allowance, Failure> {
    let mut allowed = Allowance::default();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        match text.as_str() {
            "network.host" => allowed.host_network = true,
            "security.insecure" => allowed.insecure = true,
            device if device.split('=').next() == Some("device") => {
                let message = format!("rbuild does not support --allow={device} yet");
                return Err(Failure::user(message)
                    .hint("RUN steps see Docker's default devices and no others"));
            }
            _ => {
                return Err(Failure::user(format!("unknown entitlement {text}"))
                    .hint("`--allow` takes security.insecure and network.host"));
            }
        }
    }
    Ok(allowed)
}

/// `--build-arg`: a name without a value has that of the environment, or isn't set.
pub(super) fn build_args(
    texts: &[String],
    environment: &Environment,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut arguments = BTreeMap::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment.get_even_empty(text)),
        };
        if name.trim().is_empty() {
            // What stands behind the `=` may be private.
            return Err(
                Failure::user("`--build-arg` has no name").hint("use `--build-arg NAME=VALUE`")
            );
        }
        match value {
            Some(value) => arguments.insert(name.to_owned(), value),
            // As in Docker, the last word about a name counts.
            None => arguments.remove(name),
        };
    }
    Ok(arguments)
}

/// `--label`: a name without a value is a label with an empty one.
pub(super) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.trim().is_empty() {
                return Err(Failure::user(format!("`--label {text}` has no name"))
                    .hint("use `--label NAME=VALUE`"));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `key=value` fields; keys in lower case. Secrets' values are never repeated in errors.
fn pairs(flag: &str, text: &str) -> Result<Vec<(String, String)>, Failure> {
    fields(flag, text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
            // A secret itself, perhaps.
            None if flag == "--secret" => {
                Err(Failure::user("`--secret` is no list of key=value").hint(SECRET_USAGE))
            }
            None => Err(Failure::user(format!(
                "`{flag}`: `{field}` is not key=value"
            ))),
        })
        .collect()
}

/// The fields of a list.
pub(super) fn fields(flag: &str, text: &str) -> Result<Vec<String>, Failure> {
    csv::fields(text)
        .map_err(|error| Failure::user(format!("`{flag}` is no list of key=value: {error}")))
}

/// The truth value of a field.
pub(super) fn truth(flag: &str, key: &str, value: &str) -> Result<bool, Failure> {
    parse_bool(value)
        .ok_or_else(|| Failure::user(format!("`{flag}`: `{key}` is true or false, not `{value}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let environment = Environment::from_iter([("TOKEN", "x")]);
        let file = |path: &str| SecretFrom::File(path.into());
        let variable = |name: &str| SecretFrom::Environment(name.to_owned());
        for (text, id, from) in [
            ("id=a,src=f", "a", file("f")),
            ("id=a,source=f", "a", file("f")),
            ("type=file,id=a,src=f", "a", file("f")),
            ("id=a,env=V", "a", variable("V")),
            ("type=env,id=a", "a", variable("a")),
            ("type=env,id=a,src=V", "a", variable("V")),
            ("id=TOKEN", "TOKEN", variable("TOKEN")),
            ("id=token.txt", "token.txt", file("token.txt")),
            ("type=file,id=TOKEN", "TOKEN", file("TOKEN")),
            ("ID=a,SRC=f", "a", file("f")),
            ("id=a,\"src=a,b\"", "a", file("a,b")),
        ] {
            let expected = SecretSource {
                id: id.to_owned(),
                from,
            };
            assert_eq!(secret(text, &environment), Ok(expected), "{text}");
        }
        for (text, message) in [
            ("src=f", "`--secret` has no id"),
            ("id=,src=f", "`--secret` has no id"),
            ("id=a,type=vault", "`--secret`: there is no type `vault`"),
            ("id=a,value=x", "`--secret`: there is no key `value`"),
            ("hunter2", "`--secret` is no list of key=value"),
            (
                "id=a,src=f,env=V",
                "`--secret id=a` has both a file and a variable",
            ),
        ] {
            assert_eq!(
                secret(text, &environment).unwrap_err().message(),
                message,
                "{text}"
            );
        }
    }

    #[test]
    fn allowances() {
        let read =
            |texts: &[&str]| allowance(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let expected = |host_network, insecure| {
            Ok(Allowance {
                host_network,
                insecure,
            })
        };
        assert_eq!(read(&[]), expected(false, false));
        assert_eq!(read(&["network.host", ""]), expected(true, false));
        assert_eq!(
            read(&["security.insecure", "network.host"]),
            expected(true, true)
        );
        for (text, message) in [
            ("device", "rbuild does not support --allow=device yet"),
            (
                "device=a/b=c",
                "rbuild does not support --allow=device=a/b=c yet",
            ),
            ("security.sandbox", "unknown entitlement security.sandbox"),
            ("network.host=1", "unknown entitlement network.host=1"),
        ] {
            assert_eq!(read(&[text]).unwrap_err().message(), message);
        }
    }

    #[test]
    fn agents() {
        let texts = ["default", "=x", "", "a=k1,k2,", "a=k3", "b="].map(str::to_owned);
        let found = ssh(&texts);
        let found: Vec<_> = found
            .iter()
            .map(|source| (source.id.as_str(), source.paths.clone()))
            .collect();
        let expected = [
            ("default", vec!["x".into()]),
            ("a", vec!["k3".into()]),
            ("b", vec![]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn contexts_without_a_scheme_are_folders() {
        for (text, name) in [
            ("src=./src", "src"),
            ("docker.io/library/alpine:latest=./src", "alpine"),
            ("golang:1.20=./src", "golang:1.20"),
            ("ghcr.io/a/b=./src", "ghcr.io/a/b"),
        ] {
            let expected = (name.to_owned(), NamedContext::Folder("./src".into()));
            assert_eq!(named_context(text), Ok(expected), "{text}");
        }
        for (text, message) in [
            ("src", "invalid value `src` for `--build-context`"),
            ("src=", "invalid value `src=` for `--build-context`"),
            ("=./src", "invalid value `=./src` for `--build-context`"),
            ("Src=./src", "invalid context name Src"),
            (
                "src=-",
                "`--build-context src`: standard input can't be a named context",
            ),
            (
                "src=Cargo.toml",
                "`--build-context src`: `Cargo.toml` is not a folder",
            ),
            (
                "src=no/such",
                "`--build-context src`: can't read the folder `no/such`",
            ),
            (
                "src=git@github.com:a/b.git?depth=1",
                "can't read the git repository `git@github.com:a/b.git?depth=1`: \
                 unexpected query \"depth\"",
            ),
            (
                "src=target:base",
                "`--build-context src`: rbuild does not support `target:base`",
            ),
            (
                "src=s3://bucket",
                "`--build-context src`: rbuild does not support `s3://bucket`",
            ),
        ] {
            assert_eq!(
                named_context(text).unwrap_err().message(),
                message,
                "{text}"
            );
        }
    }

    #[test]
    fn arguments_and_labels() {
        let environment = Environment::from_iter([("FROM_ENV", "e"), ("EMPTY", "")]);
        let texts = ["A=1", "B=x=y", "FROM_ENV", "EMPTY", "NOT_SET", "A=2"].map(str::to_owned);
        let expected = [("A", "2"), ("B", "x=y"), ("EMPTY", ""), ("FROM_ENV", "e")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            build_args(&texts, &environment),
            Ok(BTreeMap::from(expected))
        );
        assert!(build_args(&["=x".to_owned()], &environment).is_err());

        let texts = ["a=1", "b", "c="].map(str::to_owned);
        let expected = [("a", "1"), ("b", ""), ("c", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(labels(&texts), Ok(BTreeMap::from(expected)));
        assert!(labels(&["=x".to_owned()]).is_err());
    }
}
