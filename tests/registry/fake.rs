//! A scripted HTTP/1.1 server: each request is answered by a function, and remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbuild::reference::Reference;
use rbuild::registry::{Client, ClientOptions, RetryPolicy, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// `GET /v2/app/manifests/1`, for matching.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn authorization(&self) -> &str {
        self.header("authorization").unwrap_or("none")
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: bool,
    stall: bool,
    endless: bool,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Announces more than the body and breaks the connection after it.
    pub(crate) fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// Announces more than the body and sends nothing after it.
    pub(crate) fn stall(mut self) -> Self {
        self.stall = true;
        self
    }

    /// Repeats the body, chunked, until the other side has enough.
    pub(crate) fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

/// A server on a loopback port of its own; it ends with the test's runtime.
pub(crate) struct Fake {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// Answers every request by `handle`, which is told how many requests with the same method
    /// and target came before. `GET /v2/` is answered 200 without being asked about.
    pub(crate) async fn start(
        handle: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(false, handle).await
    }

    /// The same, with `GET /v2/` answered by `handle` too: where that is what matters.
    pub(crate) async fn start_guarded(
        handle: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(true, handle).await
    }

    async fn start_with(
        is_guarded: bool,
        handle: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, handle) = (seen.clone(), Arc::new(handle));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, handle) = (log.clone(), handle.clone());
                tokio::spawn(async move {
                    // A client that went away is part of many tests.
                    let _ = serve(stream, &log, is_guarded, &*handle).await;
                });
            }
        });
        Self { address, seen }
    }

    /// All requests but the first look at `/v2/`.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Their method and target.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// A reference to `name` at this server.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    is_guarded: bool,
    handle: &(impl Fn(&Seen, usize) -> Reply + ?Sized),
) -> std::io::Result<()> {
    let Some(seen) = read_request(&mut stream).await? else {
        return Ok(());
    };
    let reply = if seen.line() == "GET /v2/" && !is_guarded {
        Reply::new(200)
    } else {
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|s| s.line() == seen.line()).count();
            log.push(seen.clone());
            before
        };
        handle(&seen, before)
    };
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nconnection: close\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.endless {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let chunk = [
            format!("{:x}\r\n", reply.body.len()).into_bytes(),
            reply.body,
            b"\r\n".to_vec(),
        ]
        .concat();
        loop {
            stream.write_all(&chunk).await?;
        }
    }
    let more = if reply.cut || reply.stall { 1000 } else { 0 };
    let length = reply.body.len() as u64 + more;
    head.push_str(&format!("content-length: {length}\r\n\r\n"));
    stream.write_all(head.as_bytes()).await?;
    if seen.method != "HEAD" {
        stream.write_all(&reply.body).await?;
    }
    if reply.stall {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    stream.shutdown().await
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<Seen>> {
    let mut buffer = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&buffer, b"\r\n\r\n") {
            break at;
        }
        // A TLS handshake begins with 0x16: this server speaks plain HTTP only.
        if stream.read_buf(&mut buffer).await? == 0 || buffer[0] == 0x16 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut body = buffer.split_off(head_end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    if let Some(length) = headers.get("content-length") {
        let length: usize = length.parse().unwrap();
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
    } else if headers.contains_key("transfer-encoding") {
        while find(&body, b"0\r\n\r\n").is_none() {
            if stream.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
        body = dechunk(&body);
    }
    Ok(Some(Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body,
    }))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = find(body, b"\r\n") {
        let size = std::str::from_utf8(&body[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[at + 2 + size + 2..];
    }
    out
}

/// Options with waits short enough for tests.
pub(crate) fn quick() -> ClientOptions {
    ClientOptions {
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            idle: Duration::from_millis(400),
            response: Duration::from_secs(5),
            upload_response: Duration::from_secs(5),
        },
        retry: RetryPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(5),
            longest_delay: Duration::from_millis(20),
            longest_retry_after: Duration::from_secs(5),
        },
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(quick())
}
