//! Docker's `config.json` of the user: where it is, and the proxies that it names for builds.
//!
//! Credentials in it are read by [`crate::registry::Credentials`]. No content is ever repeated in
//! an error: it holds secrets, and a proxy's address may hold one too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::environment::Environment;
use crate::fs::text::read_if_there;

const MAX_FILE: u64 = 4 << 20;

/// Docker's names of proxies in the file, and the build arguments they stand for.
const PROXIES: [(&str, &str); 5] = [
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// Why the file can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DockerConfigError {
    /// The system refuses.
    #[error("can't read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't what Docker writes.
    #[error("`{}` is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        reason: String,
    },
}

/// Where the user's file is, or would be: `$DOCKER_CONFIG/config.json`, else
/// `~/.docker/config.json`.
pub(super) fn path(environment: &Environment) -> Option<PathBuf> {
    let folder = match environment.get_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(environment.get_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

/// The proxies that the file names for every builder, as build arguments.
pub(super) fn proxies(
    environment: &Environment,
) -> Result<BTreeMap<String, String>, DockerConfigError> {
    let Some(path) = path(environment) else {
        return Ok(BTreeMap::new());
    };
    let read = read_if_there(&path, MAX_FILE).map_err(|source| DockerConfigError::Unreadable {
        path: path.clone(),
        source,
    });
    let Some(text) = read? else {
        return Ok(BTreeMap::new());
    };
    // Read as a free value first: the messages of typed parsing repeat what they found.
    let json: Value = serde_json::from_str(&text).map_err(|error| malformed(&path, &error))?;
    Ok(proxies_of(&json))
}

fn malformed(path: &Path, error: &serde_json::Error) -> DockerConfigError {
    DockerConfigError::Malformed {
        path: path.to_owned(),
        reason: format!("no JSON at line {} column {}", error.line(), error.column()),
    }
}

fn proxies_of(json: &Value) -> BTreeMap<String, String> {
    let default = json.get("proxies").and_then(|all| all.get("default"));
    let text = |key: &str| {
        let value = default?.get(key)?.as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    PROXIES
        .iter()
        .filter_map(|(key, name)| Some(((*name).to_owned(), text(key)?)))
        .collect()
}

/// Adds proxies to build arguments. One that the user gave in either letter case stays.
pub(super) fn add_proxies(
    build_args: &mut BTreeMap<String, String>,
    proxies: BTreeMap<String, String>,
) {
    for (name, value) in proxies {
        if !build_args
            .keys()
            .any(|given| given.eq_ignore_ascii_case(&name))
        {
            build_args.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> BTreeMap<String, String> {
        proxies_of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn the_default_proxies_become_build_arguments() {
        let found = of(r#"{"proxies": {
            "default": {"httpProxy": "http://p:1", "httpsProxy": "http://p:2", "ftpProxy": "http://p:3",
                        "noProxy": "localhost", "allProxy": "socks5://p:4", "other": "x"},
            "tcp://elsewhere": {"httpProxy": "http://q"}}}"#);
        let found: Vec<String> = found
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            found,
            [
                "ALL_PROXY=socks5://p:4",
                "FTP_PROXY=http://p:3",
                "HTTPS_PROXY=http://p:2",
                "HTTP_PROXY=http://p:1",
                "NO_PROXY=localhost",
            ]
        );
        for none in [
            "{}",
            r#"{"proxies": {}}"#,
            r#"{"proxies": {"default": {"httpProxy": ""}}}"#,
            r#"{"proxies": {"default": {"httpProxy": 1}}}"#,
            "[]",
        ] {
            assert_eq!(of(none), BTreeMap::new(), "{none}");
        }
    }

    #[test]
    fn what_the_user_gives_goes_before() {
        let given = |name: &str| BTreeMap::from([(name.to_owned(), "mine".to_owned())]);
        let config = of(r#"{"proxies": {"default": {"httpProxy": "theirs"}}}"#);
        for name in ["HTTP_PROXY", "http_proxy"] {
            let mut arguments = given(name);
            add_proxies(&mut arguments, config.clone());
            assert_eq!(arguments, given(name));
        }
        let mut arguments = given("NO_PROXY");
        add_proxies(&mut arguments, config);
        assert_eq!(
            arguments.get("HTTP_PROXY").map(String::as_str),
            Some("theirs")
        );
    }

    #[test]
    fn a_broken_file_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{ s3cr3t").unwrap();
        let environment = Environment::from_iter([("DOCKER_CONFIG", folder.path())]);
        let error = proxies(&environment).unwrap_err().to_string();
        assert!(
            error.ends_with("is malformed: no JSON at line 1 column 3"),
            "{error}"
        );
        let nothing = Environment::from_iter([("DOCKER_CONFIG", "/nonexistent")]);
        assert!(proxies(&nothing).unwrap().is_empty());
    }
}
