//! An HTTP server for tests, with or without TLS: it answers what it was told to, and remembers
//! what it was asked. The CA of its certificate, in `testdata/tls`, was made for this alone, and its
//! key thrown away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::repository;

/// What a server says of one path.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    cut: Option<usize>,
    /// Says nothing for so long before the body.
    pause: Duration,
    /// Conditions of requests mean nothing to it.
    unconditional: bool,
    /// HEAD is refused.
    no_head: bool,
    /// Parts can be asked for.
    ranges: bool,
}

impl Answer {
    /// 200 with a body.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status: 200,
            body: body.into(),
            ..Answer::default()
        }
    }

    /// Another status.
    pub(crate) fn status(status: u16) -> Answer {
        Answer {
            status,
            ..Answer::default()
        }
    }

    /// 302 to elsewhere.
    pub(crate) fn redirect(to: &str) -> Answer {
        Answer::status(302).header("Location", to)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn etag(self, tag: &str) -> Answer {
        self.header("ETag", tag)
    }

    pub(crate) fn modified(self, time: &str) -> Answer {
        self.header("Last-Modified", time)
    }

    pub(crate) fn cut(mut self, after: usize) -> Answer {
        self.cut = Some(after);
        self
    }

    pub(crate) fn pause(mut self, pause: Duration) -> Answer {
        self.pause = pause;
        self
    }

    pub(crate) fn unconditional(mut self) -> Answer {
        self.unconditional = true;
        self
    }

    pub(crate) fn without_head(mut self) -> Answer {
        self.no_head = true;
        self
    }

    pub(crate) fn ranges(mut self) -> Answer {
        self.ranges = true;
        self
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: BTreeMap<String, String>,
}

impl Asked {
    /// A header's value; names are lower-case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
struct State {
    /// By path: what is answered in turn; the last answer stays.
    answers: BTreeMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
}

/// A server on a free port of the loopback interface.
pub(crate) struct HttpServer {
    origin: String,
    state: Arc<Mutex<State>>,
}

impl HttpServer {
    /// One without TLS.
    pub(crate) fn start() -> HttpServer {
        Self::listen("http", None)
    }

    /// One with a certificate of the CA in `testdata/tls/ca.crt`.
    pub(crate) fn start_tls() -> HttpServer {
        let pem = |name: &str| std::fs::read(repository().join("testdata/tls").join(name)).unwrap();
        let chain = CertificateDer::pem_slice_iter(&pem("server.crt"))
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::listen("https", Some(Arc::new(config)))
    }

    fn listen(scheme: &str, tls: Option<Arc<rustls::ServerConfig>>) -> HttpServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("{scheme}://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // It ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &state),
                    Some(config) => {
                        let Ok(connection) = rustls::ServerConnection::new(config) else {
                            return;
                        };
                        serve(rustls::StreamOwned::new(connection, stream), &state);
                    }
                });
            }
        });
        HttpServer { origin, state }
    }

    /// Sets what a path (with its query) gives from now on: one answer after the other.
    pub(crate) fn put(&self, path: &str, answers: impl IntoIterator<Item = Answer>) -> &HttpServer {
        let mut answers: Vec<Answer> = answers.into_iter().collect();
        answers.reverse();
        let mut state = self.state.lock().unwrap();
        state.answers.insert(path.to_owned(), answers);
        self
    }

    /// Sets what a path gives from now on.
    pub(crate) fn serve(&self, path: &str, answer: Answer) -> &HttpServer {
        self.put(path, [answer])
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> &str {
        self.origin.split_once("://").unwrap().1
    }

    /// What it was asked since this was called last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// The same as `GET /path` each.
    pub(crate) fn asked_lines(&self) -> Vec<String> {
        let asked = self.asked().into_iter();
        asked
            .map(|asked| format!("{} {}", asked.method, asked.target))
            .collect()
    }
}

fn serve(stream: impl Read + Write, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let Some(asked) = read_request(&mut stream) else {
        return;
    };
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        match state.answers.get_mut(&asked.target) {
            Some(answers) if answers.len() > 1 => answers.pop(),
            Some(answers) => answers.last().cloned(),
            None => None,
        }
    };
    let answer = answer.unwrap_or_else(|| Answer::status(404));
    let _ = write_answer(stream.get_mut(), &asked, &answer);
}

fn read_request(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Asked {
        method,
        target,
        headers,
    })
}

fn write_answer(out: &mut impl Write, asked: &Asked, answer: &Answer) -> std::io::Result<()> {
    let is_head = asked.method == "HEAD";
    let (mut status, mut body) = (answer.status, answer.body.as_slice());
    let mut headers = answer.headers.clone();
    let same = |condition: &str, own: &str| {
        asked.header(condition).is_some() && asked.header(condition) == answer.get(own)
    };
    let is_unchanged = same("if-none-match", "etag") || same("if-modified-since", "last-modified");
    if is_head && answer.no_head {
        (status, body, headers) = (405, b"", Vec::new());
    } else if status == 200 && is_unchanged && !answer.unconditional {
        (status, body) = (304, b"");
    } else if status == 200 && answer.ranges {
        let range = asked.header("range").and_then(|range| {
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            start.parse::<usize>().ok()
        });
        if let Some(start) = range.filter(|_| same("if-range", "etag")) {
            let (last, total) = (body.len() - 1, body.len());
            let range = format!("bytes {start}-{last}/{total}");
            headers.push(("Content-Range".to_owned(), range));
            (status, body) = (206, &body[start..]);
        }
    }
    write!(out, "HTTP/1.1 {status} x\r\nConnection: close\r\n")?;
    for (name, value) in &headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    if status != 304 && answer.get("Content-Length").is_none() {
        write!(out, "Content-Length: {}\r\n", body.len())?;
    }
    write!(out, "\r\n")?;
    out.flush()?;
    if !is_head {
        std::thread::sleep(answer.pause);
        out.write_all(&body[..answer.cut.unwrap_or(body.len()).min(body.len())])?;
    }
    out.flush()
}
