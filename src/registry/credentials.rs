//! Where credentials for registries come from: Docker's and Podman's files, their credential
//! helpers, and the variables of CI systems.
//!
//! Nothing here reads the process's environment or runs a program by itself: the caller hands
//! in both, since foreign programs run elsewhere. A secret is never shown, not even by `Debug`,
//! and an error never repeats a file's content.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use crate::fs::text::read_if_there;

/// The key of Docker Hub in credential files and helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// What helpers give as user name when the secret is an identity token.
pub(super) const TOKEN_USER: &str = "<token>";
const MAX_FILE: u64 = 4 << 20;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, to be sent and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves to one registry who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A user name and a password.
    Basic {
        /// The user name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// An OAuth2 refresh token, exchanged for bearer tokens.
    IdentityToken(Secret),
    /// A bearer token, sent as it is.
    RegistryToken(Secret),
}

/// What a credential helper answered.
#[derive(Clone, PartialEq, Eq)]
pub struct HelperOutput {
    /// Whether it exited with status 0.
    pub success: bool,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
}

impl fmt::Debug for HelperOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelperOutput")
            .field("success", &self.success)
            .finish_non_exhaustive()
    }
}

/// Runs a credential helper: the program's name (`docker-credential-…`, found on PATH), its one
/// argument (`get`, `store`, `erase`), and its standard input. It may block.
pub type RunHelper = Arc<dyn Fn(&str, &str, &[u8]) -> io::Result<HelperOutput> + Send + Sync>;

/// Why credentials that should be there could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// A file can't be read.
    #[error("cannot read credentials file `{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// A file can't be written.
    #[error("cannot write credentials file `{path}`: {reason}")]
    Unwritable {
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// A file or variable is not what it should be.
    #[error("credentials in `{path}` are malformed: {reason}")]
    Malformed {
        /// The file or variable.
        path: String,
        /// What is wrong, without the content.
        reason: String,
    },
    /// A helper failed.
    #[error("credential helper `{program}` failed: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
}

/// All places that credentials are looked for in, in order.
#[derive(Clone, Default)]
pub struct Credentials {
    fixed: BTreeMap<String, Credential>,
    documents: Vec<Document>,
    files: Vec<PathBuf>,
    last: BTreeMap<String, Credential>,
    run_helper: Option<RunHelper>,
}

#[derive(Clone)]
struct Document {
    name: String,
    text: Secret,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("fixed", &self.fixed)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// No credentials: every registry is asked anonymously.
    pub fn none() -> Self {
        Self::default()
    }

    /// The places that Docker and Podman look in, in this order: `$DOCKER_AUTH_CONFIG` (the
    /// content of a config file), `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or else
    /// `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`,
    /// `$XDG_CONFIG_HOME/containers/auth.json` or else `~/.config/containers/auth.json`, and
    /// GitLab's `$CI_REGISTRY` with `$CI_REGISTRY_USER` and `$CI_REGISTRY_PASSWORD`.
    ///
    /// `variable` gives the value of an environment variable. Files are read when a registry
    /// first asks for credentials, not here.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let home = folder("HOME");
        let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let docker = folder("DOCKER_CONFIG").or_else(|| in_home(".docker"));
        let configuration = folder("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let files = [
            folder("REGISTRY_AUTH_FILE"),
            docker.map(|folder| folder.join("config.json")),
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            configuration.map(|folder| folder.join("containers/auth.json")),
        ];
        let mut credentials = Self {
            files: files.into_iter().flatten().collect(),
            ..Self::default()
        };
        if let Some(content) = text("DOCKER_AUTH_CONFIG") {
            credentials.documents.push(Document {
                name: "$DOCKER_AUTH_CONFIG".to_owned(),
                text: Secret(content),
            });
        }
        if let (Some(host), Some(username), Some(password)) = (
            text("CI_REGISTRY"),
            text("CI_REGISTRY_USER"),
            text("CI_REGISTRY_PASSWORD"),
        ) {
            let password = Secret(password);
            let credential = Credential::Basic { username, password };
            credentials
                .last
                .insert(host_of_key(&host).to_owned(), credential);
        }
        credentials
    }

    /// The files given and no others.
    pub fn from_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// The same with a credential for one host (`docker.io`, `host:5000`), before all others.
    #[must_use]
    pub fn with(mut self, host: &str, credential: Credential) -> Self {
        self.fixed.insert(host.to_owned(), credential);
        self
    }

    /// The same with a way to run credential helpers. Without one they are not asked.
    #[must_use]
    pub fn with_helper_runner(mut self, run: RunHelper) -> Self {
        self.run_helper = Some(run);
        self
    }

    /// The credential for `repository` at `host` (`docker.io`, `host:5000`); `None` if there is
    /// none anywhere. Reads files and runs helpers: it blocks.
    ///
    /// # Errors
    /// A place that comes before any hit can't be read.
    pub fn lookup(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        if let Some(credential) = self.fixed.get(host) {
            return Ok(Some(credential.clone()));
        }
        for document in &self.documents {
            let found =
                self.in_document(&document.name, document.text.expose(), host, repository)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for path in &self.files {
            let Some(content) = read_file(path)? else {
                continue;
            };
            let name = path.display().to_string();
            let found = self.in_document(&name, &content, host, repository)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(self.last.get(host).cloned())
    }

    fn in_document(
        &self,
        name: &str,
        content: &str,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        let json = read_json(name, content)?;
        let for_host = json.get("credHelpers").and_then(|all| for_host(all, host));
        let store = json.get("credsStore").and_then(Value::as_str);
        for helper in [for_host, store]
            .into_iter()
            .flatten()
            .filter(|h| !h.is_empty())
        {
            if let Some(credential) = self.ask_helper(helper, host)? {
                return Ok(Some(credential));
            }
        }
        let Some(auths) = json.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let entry = exact_entry(auths, host, repository)
            .or_else(|| auths.iter().find(|(key, _)| is_key_of(key, host)));
        match entry {
            Some((key, entry)) => {
                credential_of(entry).map_err(|reason| CredentialsError::Malformed {
                    path: name.to_owned(),
                    reason: format!("entry `{}` {reason}", host_of_key(key)),
                })
            }
            None => Ok(None),
        }
    }

    fn ask_helper(&self, name: &str, host: &str) -> Result<Option<Credential>, CredentialsError> {
        let Some(run) = &self.run_helper else {
            return Ok(None);
        };
        let helper = Helper::new(name, run)?;
        let Some(answer) = helper.run("get", key_of(host))? else {
            return Ok(None);
        };
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| helper.failed("its answer is not JSON"))?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let (username, secret) = (text("Username"), text("Secret"));
        if secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(match username {
            TOKEN_USER => Credential::IdentityToken(Secret::new(secret)),
            username => Credential::Basic {
                username: username.to_owned(),
                password: Secret::new(secret),
            },
        }))
    }
}

/// A credential helper.
pub(super) struct Helper<'a> {
    program: String,
    run: &'a RunHelper,
}

impl<'a> Helper<'a> {
    /// The helper of this name, as configuration files write it.
    pub(super) fn new(name: &str, run: &'a RunHelper) -> Result<Self, CredentialsError> {
        let helper = Self {
            program: format!("docker-credential-{name}"),
            run,
        };
        if name.contains(['/', '\\', '\0']) {
            return Err(helper.failed("its name is not that of a program"));
        }
        Ok(helper)
    }

    /// What it answers; `None` when it has nothing for this host.
    pub(super) fn run(&self, verb: &str, input: &str) -> Result<Option<Vec<u8>>, CredentialsError> {
        let output = (self.run)(&self.program, verb, input.as_bytes())
            .map_err(|error| self.failed(error.to_string()))?;
        if output.success {
            return Ok(Some(output.stdout));
        }
        // The protocol has no exit status of its own for "nothing stored for this host".
        let said = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
        if verb != "store" && (said.contains("not found") || said.contains("no credentials")) {
            return Ok(None);
        }
        Err(self.failed("it exited with an error"))
    }

    fn failed(&self, reason: impl Into<String>) -> CredentialsError {
        CredentialsError::Helper {
            program: self.program.clone(),
            reason: reason.into(),
        }
    }
}

/// The value for `host` in an object whose keys are hosts as configuration files write them.
fn for_host<'a>(all: &'a Value, host: &str) -> Option<&'a str> {
    let mut all = all.as_object()?.iter();
    all.find(|(key, _)| is_key_of(key, host))?.1.as_str()
}

/// The name of the helper that keeps what is for `host`: its own, or the one for all.
pub(super) fn helper_of(document: &serde_json::Map<String, Value>, host: &str) -> Option<String> {
    let own = document
        .get("credHelpers")
        .and_then(|all| for_host(all, host));
    let name = own.or_else(|| document.get("credsStore")?.as_str())?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A document as a free value: the messages of typed parsing repeat what they found.
pub(super) fn read_json(name: &str, content: &str) -> Result<Value, CredentialsError> {
    serde_json::from_str(content).map_err(|error| CredentialsError::Malformed {
        path: name.to_owned(),
        reason: format!("no JSON at line {} column {}", error.line(), error.column()),
    })
}

/// How files and helpers name a registry.
pub(super) fn key_of(host: &str) -> &str {
    match host {
        "docker.io" => DOCKER_HUB_KEY,
        other => other,
    }
}

/// The entry of the longest namespace (`host/team/app`, `host/team`), as Podman writes them,
/// then of the host itself.
fn exact_entry<'a>(
    auths: &'a serde_json::Map<String, Value>,
    host: &str,
    repository: &str,
) -> Option<(&'a String, &'a Value)> {
    let mut namespace = format!("{host}/{repository}");
    loop {
        if let Some(found) = auths.get_key_value(&namespace) {
            return Some(found);
        }
        if namespace == host {
            return None;
        }
        namespace.truncate(namespace.rfind('/')?);
    }
}

/// Whether a key such as `https://host/v1/` is about `host`. A path other than an API version
/// counts only after a scheme: `host/team` is a namespace of Podman's, not the host.
pub(super) fn is_key_of(key: &str, host: &str) -> bool {
    if !key.contains("://") {
        let path = key.split_once('/').map_or("", |(_, path)| path);
        if !matches!(path.trim_end_matches('/'), "" | "v1" | "v2") {
            return false;
        }
    }
    let named = host_of_key(key);
    match host {
        "docker.io" => matches!(
            named,
            "index.docker.io" | "docker.io" | "registry-1.docker.io"
        ),
        host => named.eq_ignore_ascii_case(host),
    }
}

fn host_of_key(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

/// The credential in one entry of `auths`; `None` for an entry without any (Docker leaves
/// empty ones where a helper holds the secret).
fn credential_of(entry: &Value) -> Result<Option<Credential>, &'static str> {
    let text = |key: &str| {
        let text = entry.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::IdentityToken(Secret::new(token))));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credential::RegistryToken(Secret::new(token))));
    }
    let (username, password) = match text("auth") {
        Some(auth) => decode_auth(auth)?,
        None => match (text("username"), text("password")) {
            (Some(username), Some(password)) => (username.to_owned(), password.to_owned()),
            _ => return Ok(None),
        },
    };
    Ok(Some(match username.as_str() {
        TOKEN_USER => Credential::IdentityToken(Secret(password)),
        _ => Credential::Basic {
            username,
            password: Secret(password),
        },
    }))
}

fn decode_auth(auth: &str) -> Result<(String, String), &'static str> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&STANDARD, config)
        .decode(auth.trim())
        .map_err(|_| "has an `auth` that is not base64")?;
    let text = String::from_utf8(decoded).map_err(|_| "has an `auth` that is not text")?;
    let (username, password) = text
        .split_once(':')
        .ok_or("has an `auth` without a colon")?;
    // Old versions of Docker padded the password with NUL.
    Ok((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

pub(super) fn read_file(path: &Path) -> Result<Option<String>, CredentialsError> {
    read_if_there(path, MAX_FILE).map_err(|error| CredentialsError::Unreadable {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
