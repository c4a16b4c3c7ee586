//! `rbuild run --publish`: TCP ports of this machine that lead to a port of the container.
//!
//! The container is on this machine's network, so a port of the same number needs nothing. For
//! another number a listener of rbuild's passes the bytes on, as long as rbuild runs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One port to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to listen; everywhere where `None`.
    pub address: Option<IpAddr>,
    /// The port here; any free one where `None`.
    pub host: Option<u16>,
    /// The port that the container listens on.
    pub container: u16,
}

impl Publish {
    /// Whether nothing has to be done: what the container listens on is the port that is wanted.
    pub fn holds(&self) -> bool {
        self.host == Some(self.container)
    }
}

/// Why a port can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It can't be listened for.
    #[error("can't listen on `{address}` for port {container} of the container")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The port that the container listens on.
        container: u16,
        /// Why.
        source: io::Error,
    },
    /// Another program of this machine would be published.
    #[error(
        "can't publish port {0} of the container: another program of this machine listens on it, and they share a network"
    )]
    Taken(u16),
}

/// Ports that are being passed on. Dropping it ends that.
#[derive(Debug, Default)]
pub struct Published {
    tasks: JoinSet<()>,
    /// Where each is listened for.
    pub listening: Vec<(SocketAddr, Publish)>,
}

/// Listens for every port that doesn't hold already.
///
/// # Errors
/// When one can't be listened on; then none is.
pub async fn publish(ports: &[Publish]) -> Result<Published, PublishError> {
    let mut published = Published::default();
    let passed_on = || ports.iter().filter(|port| !port.holds());
    // Before any listener of our own is there.
    for port in passed_on() {
        if TcpStream::connect(&inside(port.container)[..])
            .await
            .is_ok()
        {
            return Err(PublishError::Taken(port.container));
        }
    }
    for port in passed_on() {
        let listener = listen(port).await?;
        let local = listener
            .local_addr()
            .map_err(|source| PublishError::Listen {
                address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
                container: port.container,
                source,
            })?;
        published.listening.push((local, *port));
        published.tasks.spawn(serve(listener, port.container));
    }
    Ok(published)
}

async fn listen(port: &Publish) -> Result<TcpListener, PublishError> {
    let number = port.host.unwrap_or(0);
    let failed = |address, source| PublishError::Listen {
        address,
        container: port.container,
        source,
    };
    if let Some(address) = port.address {
        let address = SocketAddr::new(address, number);
        return TcpListener::bind(address)
            .await
            .map_err(|source| failed(address, source));
    }
    // One listener serves both families where the kernel has the newer one.
    let newer = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), number);
    match TcpListener::bind(newer).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            let older = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), number);
            TcpListener::bind(older)
                .await
                .map_err(|source| failed(older, source))
        }
        other => other.map_err(|source| failed(newer, source)),
    }
}

async fn serve(listener: TcpListener, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(pass_on(stream, port));
                }
                // Out of descriptors, say: others may go away.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Where a port of the container is reached.
fn inside(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
    ]
}

/// Passes bytes on, both ways, until both sides have ended. A container that doesn't listen (yet)
/// closes the connection.
async fn pass_on(mut stream: TcpStream, port: u16) {
    if let Ok(mut container) = TcpStream::connect(&inside(port)[..]).await {
        let _ = stream.set_nodelay(true);
        let _ = container.set_nodelay(true);
        // Either side may go away at any time.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut container).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_and_so_do_ends() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = free.local_addr().unwrap();
        let port = Publish {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            host: None,
            container: inside.port(),
        };
        // What was there before the container is not the container's to publish.
        let taken = publish(&[port]).await.unwrap_err();
        assert!(matches!(taken, PublishError::Taken(port) if port == inside.port()));
        drop(free);
        let published = publish(&[port]).await.unwrap();
        let inside = TcpListener::bind(inside).await.unwrap();
        let (address, listened) = published.listening[0];
        assert_eq!(listened, port);
        let client = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"question").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let (mut server, _) = inside.accept().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(
            (question.as_str(), client.await.unwrap().as_str()),
            ("question", "answer")
        );
    }

    #[tokio::test]
    async fn a_port_of_the_same_number_needs_nobody() {
        let same = Publish {
            address: None,
            host: Some(80),
            container: 80,
        };
        assert!(publish(&[same]).await.unwrap().listening.is_empty());
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let wanted = Publish {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            host: Some(port),
            container: 1,
        };
        let error = publish(&[wanted]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("can't listen on `127.0.0.1:{port}` for port 1 of the container")
        );
    }
}
