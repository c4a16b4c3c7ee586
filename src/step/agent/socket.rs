//! The socket that a step sees, and the threads behind it.
//!
//! It lies in a folder of the build's own until it is mounted into the step, and ends with the
//! step. A step that opens more connections than anybody needs is kept waiting no more than it
//! deserves: the connection is closed.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Agent, Signer, protocol};

/// The name of the socket in its folder.
const NAME: &str = "ssh_auth_sock";
/// How many connections may be open at once.
const MAX_CONNECTIONS: usize = 64;

/// A listener that answers for an agent. Nobody listens any more once this is dropped.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    path: PathBuf,
    listener: Arc<UnixListener>,
    accepting: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// Listens in `folder`, which is nobody else's.
    pub(crate) fn listen(
        folder: &Path,
        agent: &Agent,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> io::Result<Self> {
        // The name of a socket may not be long, and that of the folder may.
        let directory = std::fs::File::open(folder)?;
        let short = format!("/proc/self/fd/{}/{NAME}", directory.as_fd().as_raw_fd());
        let listener = Arc::new(UnixListener::bind(short)?);
        let path = folder.join(NAME);
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o777))?;
        let (accepts, agent) = (Arc::clone(&listener), agent.clone());
        let accepting = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || accept(&accepts, &agent))?;
        Ok(Self {
            path,
            listener,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // Whoever waits in `accept` is told so by an error.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &UnixListener, agent: &Agent) {
    let open = Arc::new(());
    loop {
        let step = match listener.accept() {
            Ok((step, _)) => step,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            // Of all the reasons there are, the one that is meant to come is the end.
            Err(_) => return,
        };
        if Arc::strong_count(&open) > MAX_CONNECTIONS {
            continue;
        }
        let (agent, open) = (agent.clone(), Arc::clone(&open));
        // Without a thread the step sees the end of its connection, as of an agent that is busy.
        let _ = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || {
                let _open = open;
                // Either side may end it at any time, and the step says how that went.
                let _ = connection(step, &agent);
            });
    }
}

fn connection(mut step: UnixStream, agent: &Agent) -> io::Result<()> {
    match &agent.0 {
        Signer::Keys(keys) => {
            protocol::serve(&mut step, |request| Ok(protocol::answer(keys, request)))
        }
        Signer::Socket(path) => {
            let mut agent = UnixStream::connect(path)?;
            protocol::serve(&mut step, |request| {
                protocol::write(&mut agent, request)?;
                protocol::read(&mut agent)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            })
        }
    }
}
