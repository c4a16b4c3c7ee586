//! Values of secrets and agents that sign for steps, read once, when the build begins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{BuildError, SecretFrom, SecretSource, SshSource};
use crate::step::{Agent, Agents, Secrets};

/// The largest secret, as in BuildKit.
const LIMIT: u64 = 500 << 10;

/// Reads the secrets' values. `variable` looks up environment variables.
pub(super) fn secrets(
    sources: &[SecretSource],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Secrets, BuildError> {
    let mut secrets = BTreeMap::new();
    for SecretSource { id, from } in sources {
        let failed = |from: String, reason: String| BuildError::Secret {
            id: id.clone(),
            from,
            reason,
        };
        let value = match from {
            SecretFrom::Environment(name) => {
                variable(name).map(OsString::into_vec).ok_or_else(|| {
                    failed(
                        format!("the environment variable `{name}`"),
                        "it is not set".to_owned(),
                    )
                })?
            }
            SecretFrom::File(path) => {
                let shown = || format!("`{}`", path.display());
                let file = std::fs::File::open(path)
                    .map_err(|error| failed(shown(), error.to_string()))?;
                let mut value = Vec::new();
                let read = file.take(LIMIT + 1).read_to_end(&mut value);
                read.map_err(|error| failed(shown(), error.to_string()))?;
                if value.len() as u64 > LIMIT {
                    return Err(failed(shown(), format!("it is larger than {LIMIT} bytes")));
                }
                value
            }
        };
        secrets.insert(id.clone(), value);
    }
    Ok(secrets)
}

/// Finds the agents and reads the keys. `variable` looks up environment variables.
pub(super) fn agents(
    sources: &[SshSource],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Agents, BuildError> {
    let mut agents = Agents::new();
    for SshSource { id, paths } in sources {
        let inherited;
        let paths = match paths.as_slice() {
            [] => {
                let socket = variable("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
                let socket = socket.ok_or_else(|| BuildError::NoSshAgent { id: id.clone() })?;
                inherited = [PathBuf::from(socket)];
                &inherited
            }
            paths => paths,
        };
        let agent = Agent::open(paths).map_err(|source| BuildError::Ssh {
            id: id.clone(),
            source,
        })?;
        agents.insert(id.clone(), agent);
    }
    Ok(agents)
}
