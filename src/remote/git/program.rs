//! Running the program `git`: in an environment of our own, with the credentials of one host, and
//! nothing of either in what is shown.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::reference::{masked, split_user};
use super::{GitError, GitFetcher};
use crate::sandbox::{OutsideError, OutsideOutput, OutsideProgram};

/// What git sees of the caller's environment: where programs are, how to reach the network, and
/// what ssh needs.
const INHERITED: [&str; 19] = [
    "PATH",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "USER",
    "LOGNAME",
];

/// The whole of git's configuration.
const CONFIGURATION: [(&str, &str); 11] = [
    // A repository must not name folders of this machine as its submodules.
    ("protocol.file.allow", "user"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    // Overridden by the user's GIT_SSH_COMMAND. Nobody is there to answer a question.
    (
        "core.sshCommand",
        "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30",
    ),
    // A server that is busy says so every few seconds.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "120"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
];

/// Secrets with which BuildKit logs in: a header, or a token.
const HEADER: &str = "GIT_AUTH_HEADER";
const TOKEN: &str = "GIT_AUTH_TOKEN";

/// Git, to be run for one remote repository.
pub(super) struct Git<'a> {
    fetcher: &'a GitFetcher,
    /// As it was written.
    remote: &'a str,
    /// The same without a user and password that are sent in a header: what git is told, and may
    /// write down.
    address: String,
    credentials: Option<Credentials>,
}

/// What only the remote is to know.
struct Credentials {
    /// The `Authorization` header.
    header: String,
    /// The addresses that it is sent to.
    scope: String,
    /// Words that are shown nowhere.
    words: Vec<String>,
}

impl<'a> Git<'a> {
    pub(super) fn new(fetcher: &'a GitFetcher, remote: &'a str) -> Self {
        let (address, user) = without_user(remote);
        let secret = authorization(&address, &|name| fetcher.secrets.get(name));
        let credentials = match secret {
            Some(header) => Some(Credentials {
                scope: scope(&address).to_owned(),
                words: Vec::new(),
                header,
            }),
            None => user.map(|user| Credentials::of_user(user, &address)),
        };
        Self {
            fetcher,
            remote,
            address,
            credentials,
        }
    }

    pub(super) fn fetcher(&self) -> &'a GitFetcher {
        self.fetcher
    }

    /// The address that git is given.
    pub(super) fn remote(&self) -> &str {
        &self.address
    }

    /// The repository as it is shown.
    pub(super) fn shown(&self) -> String {
        masked(self.remote)
    }

    /// Runs git; its standard output.
    pub(super) fn run(
        &self,
        what: &'static str,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitError> {
        let output = self.output(folder, arguments)?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        Err(self.failed(what, &output))
    }

    /// Runs git; whatever came of it. `folder` is the repository's git folder.
    pub(super) fn output(
        &self,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<OutsideOutput, GitError> {
        let mut program = OutsideProgram::new("git")
            .inherits_only(&INHERITED)
            .group()
            .env("LC_ALL", "C")
            .env("HOME", "/dev/null")
            .env("GIT_DIR", folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1");
        for (key, value) in CONFIGURATION {
            program = program.arg("-c").arg(format!("{key}={value}"));
        }
        if let Some(credentials) = &self.credentials {
            // Not as an argument, which everybody on the machine can see. Git would send the header
            // on to wherever it is redirected.
            let key = format!("http.{}.extraheader", credentials.scope);
            program = program
                .env("GIT_CONFIG_COUNT", "2")
                .env("GIT_CONFIG_KEY_0", key)
                .env("GIT_CONFIG_VALUE_0", &credentials.header)
                .env("GIT_CONFIG_KEY_1", "http.followRedirects")
                .env("GIT_CONFIG_VALUE_1", "false");
        }
        // A working tree is beside its git folder.
        if folder.file_name().is_some_and(|name| name == ".git")
            && let Some(tree) = folder.parent()
        {
            program = program.env("GIT_WORK_TREE", tree).cwd(tree);
        }
        for argument in arguments {
            program = program.arg(argument);
        }
        let stop = || (self.fetcher.is_stopped)();
        match self.fetcher.outside.run_until(&program, &stop) {
            Ok(output) => Ok(output),
            Err(OutsideError::Stopped { .. }) => Err(GitError::Canceled),
            Err(OutsideError::NotStarted { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Err(GitError::NotInstalled(self.shown()))
            }
            Err(error) => Err(GitError::Run(error)),
        }
    }

    /// What git's failure means.
    pub(super) fn failed(&self, what: &'static str, output: &OutsideOutput) -> GitError {
        if (self.fetcher.is_stopped)() {
            return GitError::Canceled;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        GitError::Failed {
            what,
            remote: self.shown(),
            help: help(&text),
            said: match said(&text) {
                Some(said) => self.without_secrets(said),
                None => format!("it ended with code {}", output.code),
            },
        }
    }

    /// Text of git's without what only the remote is to know.
    fn without_secrets(&self, text: String) -> String {
        let mut text = text.replace(self.remote, &self.shown());
        let words = self.credentials.iter().flat_map(|known| {
            let sent = known.header.rsplit(' ').next();
            known.words.iter().map(String::as_str).chain(sent)
        });
        let values = self.fetcher.secrets.values();
        let values = values.filter_map(|value| std::str::from_utf8(value).ok());
        let hidden = words.chain(values.map(str::trim));
        for word in hidden.filter(|word| !word.is_empty()) {
            text = text.replace(word, "xxxxx");
        }
        text
    }
}

impl Credentials {
    /// Those in an address, which are for its origin.
    fn of_user(user: &str, address: &str) -> Self {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let (name, password) = (decoded(name), decoded(password));
        let pair = STANDARD.encode(format!("{name}:{password}"));
        // A name by itself is a token.
        let hidden = match password.is_empty() {
            true => vec![user.to_owned(), name],
            false => {
                let written = user.split_once(':').map_or("", |(_, password)| password);
                vec![user.to_owned(), written.to_owned(), password]
            }
        };
        let after_scheme = address.find("://").map_or(0, |at| at + 3);
        let host = address[after_scheme..].find('/');
        let end = host.map_or(address.len(), |at| after_scheme + at);
        Self {
            header: format!("Authorization: basic {pair}"),
            scope: format!("{}/", &address[..end]),
            words: hidden,
        }
    }
}

/// An HTTP address without its user and password, and these.
fn without_user(remote: &str) -> (String, Option<&str>) {
    match split_user(remote) {
        Some((scheme @ ("http" | "https"), user, rest)) => {
            (format!("{scheme}://{rest}"), Some(user))
        }
        _ => (remote.to_owned(), None),
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The lines in which git says why, in one.
fn said(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_reason = |line: &&str| {
        ["fatal:", "error:", "ERROR:", "remote:"]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let mut reasons: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in lines.clone() {
        if is_reason(&line) {
            reasons.push(line.strip_prefix("fatal: ").unwrap_or(line).to_owned());
        } else if goes_on && let Some(last) = reasons.last_mut() {
            last.push(' ');
            last.push_str(line);
        }
        goes_on = line.ends_with(':') && is_reason(&line);
    }
    match reasons.is_empty() {
        true => lines.clone().next_back().map(str::to_owned),
        // What ssh says stands before git's own word that the other side hung up.
        false => {
            let first = lines.clone().next().filter(|line| !is_reason(line));
            let ssh = first.filter(|_| text.contains("Could not read from remote repository"));
            let mut said: Vec<String> = ssh.into_iter().map(str::to_owned).collect();
            said.extend(reasons.into_iter().take(3));
            Some(said.join("; "))
        }
    }
}

fn help(text: &str) -> &'static str {
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if any(&["Host key verification failed"]) {
        "; add the host to your known_hosts: `ssh-keyscan HOST >> ~/.ssh/known_hosts`"
    } else if any(&["Permission denied (publickey", "no mutual signature"]) {
        "; add a key of yours to your ssh agent, or set GIT_SSH_COMMAND"
    } else if any(&[
        "could not read Username",
        "could not read Password",
        "Authentication failed",
    ]) {
        "; a private repository needs `--secret id=GIT_AUTH_TOKEN,env=…`"
    } else if any(&["returned error: 30"]) {
        "; it has moved, and credentials are sent to the address given and no other: give the new one"
    } else if any(&["transport 'file' not allowed"]) {
        "; submodules can't be folders of this machine"
    } else {
        ""
    }
}

/// The header of a request to `remote`, from the secret that is for it: first those that name its
/// host, a header before a token.
fn authorization<'s>(remote: &str, secret: &dyn Fn(&str) -> Option<&'s Vec<u8>>) -> Option<String> {
    let (scheme, rest) = remote.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let candidates = [
        (format!("{HEADER}.{host}"), false),
        (format!("{TOKEN}.{host}"), true),
        (HEADER.to_owned(), false),
        (TOKEN.to_owned(), true),
    ];
    candidates.iter().find_map(|(name, is_token)| {
        let value = std::str::from_utf8(secret(name)?).ok()?;
        // A line break would begin another header.
        let value = value.trim_end_matches(['\r', '\n']);
        if value.contains(['\r', '\n', '\0']) {
            return None;
        }
        Some(match is_token {
            true => {
                let pair = STANDARD.encode(format!("x-access-token:{value}"));
                format!("Authorization: basic {pair}")
            }
            false => format!("Authorization: {value}"),
        })
    })
}

/// The addresses that credentials for `remote` are sent to: its own. All of GitHub is one, so that
/// submodules are had too.
fn scope(remote: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"]
        .into_iter()
        .find(|prefix| remote.starts_with(prefix))
        .unwrap_or(remote)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn secrets_are_for_their_host() {
        let secrets = |list: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            let pairs = list.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect()
        };
        let token = "Authorization: basic eC1hY2Nlc3MtdG9rZW46dA==";
        for (remote, given, expected) in [
            ("https://h/a.git", &[][..], None),
            ("https://h/a.git", &[("GIT_AUTH_TOKEN", "t\n")], Some(token)),
            (
                "https://h/a.git",
                &[("GIT_AUTH_HEADER", "Bearer x")],
                Some("Authorization: Bearer x"),
            ),
            (
                "https://h/a.git",
                &[("GIT_AUTH_TOKEN.h", "t"), ("GIT_AUTH_HEADER", "x")],
                Some(token),
            ),
            (
                "https://u@h:8/a.git",
                &[("GIT_AUTH_TOKEN.h:8", "t")],
                Some(token),
            ),
            ("https://h/a.git", &[("GIT_AUTH_TOKEN.other", "t")], None),
            (
                "https://h/a.git",
                &[("GIT_AUTH_HEADER", "x\nHost: y")],
                None,
            ),
            ("ssh://h/a.git", &[("GIT_AUTH_TOKEN", "t")], None),
            ("git@h:a.git", &[("GIT_AUTH_TOKEN", "t")], None),
        ] {
            let secrets = secrets(given);
            let found = authorization(remote, &|name| secrets.get(name));
            assert_eq!(found.as_deref(), expected, "{remote} {given:?}");
        }
        assert_eq!(scope("https://h/a.git"), "https://h/a.git");
        assert_eq!(scope("https://github.com/a/b.git"), "https://github.com/");
    }

    #[test]
    fn users_of_an_address_go_by_a_header_to_its_origin() {
        for (remote, address, user) in [
            ("https://h/a.git", "https://h/a.git", None),
            (
                "https://u:p@h:8/a@b.git",
                "https://h:8/a@b.git",
                Some("u:p"),
            ),
            ("http://token@h", "http://h", Some("token")),
            ("ssh://git@h/a.git", "ssh://git@h/a.git", None),
            ("git@h:a.git", "git@h:a.git", None),
        ] {
            assert_eq!(without_user(remote), (address.to_owned(), user));
        }
        let known = Credentials::of_user("u:p%40%2B+&=", "https://h:8/a.git");
        assert_eq!(known.scope, "https://h:8/");
        let pair = STANDARD.encode("u:p@++&=");
        assert_eq!(known.header, format!("Authorization: basic {pair}"));
        let token = Credentials::of_user("t%2Fx", "http://h");
        assert_eq!(token.scope, "http://h/");
        assert_eq!(token.words, ["t%2Fx", "t/x"]);
    }

    #[test]
    fn of_what_git_says_the_reason_is_shown() {
        for (text, expected) in [
            ("", None),
            ("Cloning into 'x'...\nfatal: not found\n", Some("not found")),
            ("hint: a\nsomething\n", Some("something")),
            (
                "Host key verification failed.\nfatal: Could not read from remote repository.\n\nPlease make sure",
                Some("Host key verification failed.; Could not read from remote repository."),
            ),
            ("remote: no\nfatal: unable\n", Some("remote: no; unable")),
            (
                "fatal: can't connect to h:\nh: refused\n",
                Some("can't connect to h: h: refused"),
            ),
        ] {
            assert_eq!(said(text).as_deref(), expected, "{text}");
        }
    }
}
