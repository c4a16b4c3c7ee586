//! Files inside a root that may be hostile: opened, read, walked and removed by descriptor only.
//!
//! - [`root`]: opens a path as a process with that root would, whatever links stand in the way
//! - [`descent`]: goes down folders one component at a time, following nothing
//! - [`walk`]: every path of a folder, sorted; [`remove`]: a folder with all its content
//! - [`lock`]: locks that end with the process; [`times`], [`umask`]: what making files changes
//!
//! No path inside a root is ever joined to a path of the machine and opened. Nothing here knows
//! what the files mean.

pub mod descent;
pub mod lock;
pub mod override_stat;
pub mod remove;
pub mod root;
pub mod text;
pub mod times;
pub mod umask;
pub mod usage;
pub mod walk;

pub use lock::Lock;
pub use root::Root;

use std::io;

/// What failed on which path inside a root.
#[derive(Debug, thiserror::Error)]
#[error("can't {operation} `{path}`")]
pub struct FsError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The path, inside its root.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl From<FsError> for io::Error {
    /// The same kind of error, with the path in its message.
    fn from(error: FsError) -> Self {
        Self::new(error.source.kind(), format!("{error}: {}", error.source))
    }
}

impl FsError {
    /// An error of `operation` on the path `path` inside a root.
    pub fn new(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
        let mut shown = String::from("/");
        for c in String::from_utf8_lossy(&path[start..]).chars() {
            if c.is_control() {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        Self {
            operation,
            path: shown,
            source: source.into(),
        }
    }
}
