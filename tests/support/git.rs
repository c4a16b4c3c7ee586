//! Git repositories that tests make, and a server that hands them out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::Project;

/// Every commit of the tests is of this time, in seconds.
pub(crate) const COMMIT_TIME: i64 = 1_600_000_000;

/// Git as tests run it: with no configuration of the machine's.
fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder)
        .env("HOME", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "Test")
            .env(format!("GIT_{who}_EMAIL"), "test@example.com")
            .env(format!("GIT_{who}_DATE"), format!("{COMMIT_TIME} +0000"));
    }
    git
}

/// A server of git repositories on a free port of the loopback interface. What is below
/// `/dumb/` it hands out as plain files, and what is below `/private/` to those only who know the
/// token `letmein`.
pub(crate) struct GitServer {
    port: u16,
    folder: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl GitServer {
    /// An empty one. It ends with the tests.
    pub(crate) fn start() -> GitServer {
        let folder = Project::new();
        let folder_path = folder.path().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, log) = (folder_path.clone(), Arc::clone(&log));
                std::thread::spawn(move || answer(stream, &folder, &log));
            }
        });
        GitServer {
            port,
            folder: folder.into_folder(),
            requests,
        }
    }

    /// A new repository, with an empty branch `main`.
    pub(crate) fn repository(&self, name: &str) -> Repository<'_> {
        self.repository_with(name, &[])
    }

    /// The same, with options for `git init`.
    pub(crate) fn repository_with(&self, name: &str, options: &[&str]) -> Repository<'_> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let repository = Repository {
            server: self,
            name: name.to_owned(),
            folder,
        };
        let init = ["init", "-q", "-b", "main"];
        repository.git(&[&init, options].concat());
        repository
    }

    /// What was asked for so far, and forgets it: methods and paths.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// How many times the refs of a repository were asked for, and objects, since the last time.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let requests = self.requests();
        let refs = requests.iter().filter(|line| line.contains("/info/refs"));
        let posts = requests.iter().filter(|line| line.starts_with("POST"));
        (refs.count(), posts.count())
    }
}

/// A repository with its working tree.
pub(crate) struct Repository<'a> {
    server: &'a GitServer,
    name: String,
    folder: PathBuf,
}

impl Repository<'_> {
    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/{}/.git", self.server.port, self.name)
    }

    /// Its address below another folder of the server, or with a user.
    pub(crate) fn url_as(&self, user: &str, below: &str) -> String {
        format!(
            "http://{user}127.0.0.1:{}/{below}{}/.git",
            self.server.port, self.name
        )
    }

    /// Its address with something behind it.
    pub(crate) fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.url())
    }

    /// Its working tree.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Runs git in it; what that printed.
    #[track_caller]
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = git(&self.folder).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Writes a file.
    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        let file = self.folder.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self
    }

    /// Commits everything; the commit's hash.
    pub(crate) fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
        // For those who read it as plain files.
        self.git(&["update-server-info"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Adds another repository as a submodule, by an address as it is to be written.
    pub(crate) fn submodule(&self, url: &str, at: &str, commit: &str) -> &Self {
        let section = format!("[submodule \"{at}\"]\n\tpath = {at}\n\turl = {url}\n");
        let file = self.folder.join(".gitmodules");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(file, before + &section).unwrap();
        std::fs::create_dir_all(self.folder.join(at)).unwrap();
        let entry = format!("160000,{commit},{at}");
        self.git(&["update-index", "--add", "--cacheinfo", &entry]);
        self.git(&["add", ".gitmodules"]);
        self
    }

    /// Commits what was added only; the commit's hash.
    pub(crate) fn commit_added(&self) -> String {
        self.git(&["commit", "-q", "-m", "change"]);
        self.git(&["update-server-info"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// One request, answered by `git http-backend` or from the disk.
fn answer(mut stream: TcpStream, folder: &Path, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let Some(mut first) = lines.first().map(|line| line.split(' ')) else {
        return;
    };
    let (Some(method), Some(target)) = (first.next(), first.next()) else {
        return;
    };
    log.lock().unwrap().push(format!("{method} {target}"));
    let headers: BTreeMap<String, &str> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let token = "eC1hY2Nlc3MtdG9rZW46bGV0bWVpbg==";
    let given = headers.get("authorization").copied().unwrap_or_default();
    let response = match path.strip_prefix("/private/") {
        Some(_) if !given.ends_with(token) => {
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\r\n".to_vec()
        }
        Some(rest) => backend(folder, method, &format!("/{rest}"), query, &headers, &body),
        None => match path.strip_prefix("/dumb/") {
            Some(rest) => plain(&folder.join(rest)),
            None => backend(folder, method, path, query, &headers, &body),
        },
    };
    // A client that has gone away needs no answer.
    let _ = stream.write_all(&response);
}

fn plain(file: &Path) -> Vec<u8> {
    match std::fs::read(file) {
        Ok(content) => [
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..],
            &content,
        ]
        .concat(),
        Err(_) => b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n".to_vec(),
    }
}

fn backend(
    folder: &Path,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, &str>,
    body: &[u8],
) -> Vec<u8> {
    let header = |name: &str| headers.get(name).copied().unwrap_or_default();
    let mut child = git(folder)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let body = body.to_owned();
    let writer = std::thread::spawn(move || input.write_all(&body));
    let output = child.wait_with_output().unwrap().stdout;
    let _ = writer.join();
    let text = String::from_utf8_lossy(&output[..output.len().min(1 << 10)]).into_owned();
    let status = text
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix("Status: "));
    let first = format!(
        "HTTP/1.1 {}\r\nConnection: close\r\n",
        status.unwrap_or("200 OK")
    );
    [first.into_bytes(), output].concat()
}
