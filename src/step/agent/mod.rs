//! `RUN --mount=type=ssh`: an agent that signs for a step without giving a key away.
//!
//! The step gets a socket of rbuild's, which asks the user's agent, or signs with keys from files.
//! It never gets the user's own socket: it can list keys and have something signed, and can't add,
//! remove, lock or ask for anything else, as in BuildKit. No key, signature or path is logged.

mod identity;
mod protocol;
mod socket;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::identity::Identity;
pub use self::identity::InvalidKey;
pub(super) use self::socket::AgentSocket;

/// What the builds' ids of `--ssh` stand for.
pub type Agents = BTreeMap<String, Agent>;

/// The largest file of a key.
const MAX_KEY_FILE: u64 = 100 << 10;

/// Somebody who signs.
#[derive(Clone)]
pub struct Agent(Signer);

#[derive(Clone)]
enum Signer {
    /// The agent that listens there.
    Socket(PathBuf),
    /// These keys.
    Keys(Arc<[Identity]>),
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agent")
    }
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing is there, or nothing that the user may read.
    #[error("can't read `{}`: {source}", path.display())]
    Read {
        /// The socket or key.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that is no key that can be used.
    #[error("can't use `{}` as a key: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidKey,
    },
    /// Sockets, or a socket and keys.
    #[error("`{}` is the socket of an agent, and an id stands for one agent or for keys", path.display())]
    Mixed {
        /// The socket.
        path: PathBuf,
    },
}

impl Agent {
    /// The agent behind a socket, or one that has the keys of these files.
    ///
    /// # Errors
    /// When a file is neither a socket nor a key without a passphrase.
    pub fn open(paths: &[PathBuf]) -> Result<Self, AgentError> {
        let mut keys = Vec::new();
        for path in paths {
            let failed = |source| AgentError::Read {
                path: path.clone(),
                source,
            };
            let metadata = std::fs::metadata(path).map_err(failed)?;
            if metadata.file_type().is_socket() {
                return match paths {
                    [only] => Ok(Self(Signer::Socket(absolute(only).map_err(failed)?))),
                    _ => Err(AgentError::Mixed { path: path.clone() }),
                };
            }
            let mut text = Vec::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(MAX_KEY_FILE).read_to_end(&mut text))
                .map_err(failed)?;
            let identity = Identity::parse(&text).map_err(|source| AgentError::Key {
                path: path.clone(),
                source,
            })?;
            keys.push(identity);
        }
        Ok(Self(Signer::Keys(keys.into())))
    }
}

/// Steps run while the working directory may be another's.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}
