//! Keeping credentials as Docker does: in its `config.json`, or with the credential helper that
//! this file names.
//!
//! Everything else in the file stays as it is, in its order. It is written beside its place with
//! mode 0600 and renamed; where it is a link, what the link leads to is replaced. A password goes
//! to a helper by its standard input and nowhere else.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{
    Credential, Credentials, CredentialsError, Helper, RunHelper, TOKEN_USER, helper_of, is_key_of,
    key_of, read_file, read_json,
};

/// How many links may lead from one to the next.
const MAX_LINKS: usize = 40;

/// Where a credential is kept now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// In this file, for everyone to read who may read it.
    File(PathBuf),
    /// With the credential helper of this name.
    Helper(String),
}

/// Docker's configuration file of one user.
pub struct CredentialFile {
    path: PathBuf,
    run_helper: RunHelper,
}

impl CredentialFile {
    /// The file at `path`, which need not exist.
    pub fn new(path: PathBuf, run_helper: RunHelper) -> Self {
        Self { path, run_helper }
    }

    /// What is kept for `host` (`docker.io`, `host:5000`), here and nowhere else. It blocks.
    ///
    /// # Errors
    /// The file can't be read or the helper fails.
    pub fn find(&self, host: &str) -> Result<Option<Credential>, CredentialsError> {
        Credentials::from_files(vec![self.path.clone()])
            .with_helper_runner(self.run_helper.clone())
            .lookup(host, "")
    }

    /// Keeps a credential of the user `username` for `host`. It blocks.
    ///
    /// # Errors
    /// The file can't be read or written, or the helper fails.
    pub fn store(
        &self,
        host: &str,
        username: &str,
        credential: &Credential,
    ) -> Result<Kept, CredentialsError> {
        let _lock = self.lock()?;
        let mut document = self.read()?;
        let key = key_of(host);
        let entry = match helper_of(&document, host) {
            None => entry_of(username, credential),
            Some(name) => {
                let (user, secret) = match credential {
                    Credential::Basic { username, password } => (username.as_str(), password),
                    Credential::IdentityToken(token) | Credential::RegistryToken(token) => {
                        (TOKEN_USER, token)
                    }
                };
                let input = json!({"ServerURL": key, "Username": user, "Secret": secret.expose()});
                self.helper(&name)?.run("store", &input.to_string())?;
                self.put(&mut document, key, json!({}))?;
                return Ok(Kept::Helper(name));
            }
        };
        self.put(&mut document, key, entry)?;
        Ok(Kept::File(self.path.clone()))
    }

    /// Forgets what is kept for `host`. It blocks.
    ///
    /// # Errors
    /// The file can't be read or written, or the helper fails.
    pub fn erase(&self, host: &str) -> Result<(), CredentialsError> {
        let _lock = self.lock()?;
        let mut document = self.read()?;
        if let Some(name) = helper_of(&document, host) {
            self.helper(&name)?.run("erase", key_of(host))?;
        }
        let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        let keys: Vec<String> = auths
            .keys()
            .filter(|key| is_key_of(key, host))
            .cloned()
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        for key in keys {
            auths.shift_remove(&key);
        }
        self.write(&document)
    }

    fn helper(&self, name: &str) -> Result<Helper<'_>, CredentialsError> {
        Helper::new(name, &self.run_helper)
    }

    /// The file's members; none where it doesn't exist.
    fn read(&self) -> Result<Map<String, Value>, CredentialsError> {
        let Some(text) = read_file(&self.path)? else {
            return Ok(Map::new());
        };
        let name = self.path.display().to_string();
        match read_json(&name, &text)? {
            Value::Object(members) => Ok(members),
            _ => Err(CredentialsError::Malformed {
                path: name,
                reason: "it is no JSON object".to_owned(),
            }),
        }
    }

    fn put(
        &self,
        document: &mut Map<String, Value>,
        key: &str,
        entry: Value,
    ) -> Result<(), CredentialsError> {
        let auths = document.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        let Some(auths) = auths.as_object_mut() else {
            return Err(CredentialsError::Malformed {
                path: self.path.display().to_string(),
                reason: "its `auths` is no JSON object".to_owned(),
            });
        };
        if auths.get(key) == Some(&entry) {
            return Ok(());
        }
        auths.insert(key.to_owned(), entry);
        self.write(document)
    }

    fn write(&self, document: &Map<String, Value>) -> Result<(), CredentialsError> {
        self.try_write(document)
            .map_err(|error| self.unwritable(&error))
    }

    fn try_write(&self, document: &Map<String, Value>) -> io::Result<()> {
        let target = behind_links(&self.path)?;
        let folder = folder_of(&target);
        let mut bytes = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
        serde::Serialize::serialize(document, &mut serializer)?;
        // Made with mode 0600.
        let mut beside = tempfile::Builder::new()
            .prefix(".config.json-")
            .tempfile_in(folder)?;
        if let Ok(old) = fs::metadata(&target) {
            // Root may keep a credential for another user; nobody else can.
            let _ = std::os::unix::fs::fchown(beside.as_file(), Some(old.uid()), Some(old.gid()));
        }
        beside.write_all(&bytes)?;
        beside.as_file().sync_all()?;
        beside
            .persist(&target)
            .map(drop)
            .map_err(|error| error.error)
    }

    /// Keeps other rbuilds from writing at the same time, where the file system has locks.
    fn lock(&self) -> Result<Option<File>, CredentialsError> {
        let target = behind_links(&self.path).map_err(|error| self.unwritable(&error))?;
        let folder = folder_of(&target);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| File::open(folder))
            .map(|folder| folder.lock().is_ok().then_some(folder))
            .map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> CredentialsError {
        CredentialsError::Unwritable {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        }
    }
}

fn entry_of(username: &str, credential: &Credential) -> Value {
    match credential {
        Credential::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose());
            json!({"auth": STANDARD.encode(pair)})
        }
        Credential::IdentityToken(token) => {
            json!({"auth": STANDARD.encode(format!("{username}:")), "identitytoken": token.expose()})
        }
        Credential::RegistryToken(token) => json!({"registrytoken": token.expose()}),
    }
}

/// What a path leads to in the end, whether that exists or not.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            // Not a link, or nothing there yet.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[path = "credential_file_tests.rs"]
mod tests;
