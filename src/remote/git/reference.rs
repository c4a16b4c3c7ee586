//! What a git repository is called in a Dockerfile and on the command line: which texts name one,
//! and what they say beside its address.
//!
//! Pure. The rules are those of BuildKit's `dfgitutil`:
//!
//! - `https://HOST/PATH.git`, `http://…`; without the `.git` it is a file;
//! - `git://HOST/PATH`, `ssh://HOST/PATH`, `USER@HOST:PATH`;
//! - `github.com/PATH`, for contexts only, because it could be a path of the machine;
//! - behind any of them `?ref=…&subdir=…` and the like, and `#REF:SUBDIR`.

use std::fmt;

use crate::dockerfile::values::boolean;

/// Why a text that names a git repository can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitReferenceError {
    /// Two words about one thing that don't agree.
    #[error("{name} conflicts: \"{one}\" vs \"{other}\"")]
    Conflict {
        /// `ref` or `subdir`.
        name: &'static str,
        /// What is said first.
        one: String,
        /// What is said then.
        other: String,
    },
    /// `?tag=` and `?branch=` at once.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A query field that nobody knows.
    #[error("unexpected query \"{0}\"")]
    Unexpected(String),
    /// A query field that says nothing.
    #[error("query \"{0}\" has no value")]
    NoValue(String),
    /// A query field that is there twice.
    #[error("query \"{0}\" has multiple values")]
    SeveralValues(String),
    /// A query field with a value that means nothing.
    #[error("invalid {name} value: \"{value}\"{help}")]
    Invalid {
        /// The field.
        name: String,
        /// Its value.
        value: String,
        /// What it can be.
        help: &'static str,
    },
    /// A ref that git would take for an option, or that holds control characters.
    #[error("invalid git ref \"{0}\"")]
    Ref(String),
}

/// Which time the files of a checkout have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FileTimes {
    /// When they were checked out.
    #[default]
    Checkout,
    /// When the commit was made.
    Commit,
}

/// A git repository, and what of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GitReference {
    /// The address, without what is said behind it. May hold a password.
    pub remote: String,
    /// The repository's own name: `bar` of `https://example.com/foo/bar.git`.
    pub short_name: String,
    /// A branch, a tag, a full ref or a commit; the default branch where `None`.
    pub reference: Option<String>,
    /// A folder in the repository, as written.
    pub subdir: Option<String>,
    /// What the commit's hash has to begin with.
    pub checksum: Option<String>,
    /// It could be a path of this machine: `github.com/…`.
    pub looks_local: bool,
    /// Its address names a transport without encryption.
    pub is_unencrypted: bool,
    /// Whether `.git` comes along.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules come along.
    pub submodules: Option<bool>,
    /// Which time the files have.
    pub times: Option<FileTimes>,
    /// Fetch the commit that `checksum` says, whatever the ref is by now.
    pub fetch_by_commit: bool,
}

impl fmt::Debug for GitReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitReference")
            .field("remote", &masked(&self.remote))
            .field("reference", &self.reference)
            .field("subdir", &self.subdir)
            .field("checksum", &self.checksum)
            .finish_non_exhaustive()
    }
}

/// An address taken apart.
struct Address {
    remote: String,
    query: Vec<(String, String)>,
    reference: String,
    subdir: String,
}

impl GitReference {
    /// Reads a text; `None` where it names no git repository.
    ///
    /// # Errors
    /// When it names one, and says something of it that can't be meant.
    pub fn parse(text: &str) -> Result<Option<Self>, GitReferenceError> {
        let mut found = Self::default();
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let address = if text.starts_with("github.com/") {
            found.looks_local = true;
            url("", text).map(|(_, address)| address)
        } else if let Some((scheme, rest)) = scheme(text) {
            found.is_unencrypted = matches!(scheme.as_str(), "http" | "git");
            let is_web = matches!(scheme.as_str(), "http" | "https");
            match scheme.as_str() {
                "http" | "https" | "git" | "ssh" => url(&scheme, rest)
                    .filter(|(path, _)| !is_web || path.ends_with(".git"))
                    .map(|(_, address)| address),
                _ => None,
            }
        } else {
            scp(text)
        };
        let Some(address) = address else {
            return Ok(None);
        };
        let last = address.remote.rsplit('/').next().unwrap_or_default();
        found.short_name = last.strip_suffix(".git").unwrap_or(last).to_owned();
        found.remote = address.remote;
        found.reference = Some(address.reference).filter(|text| !text.is_empty());
        found.subdir = Some(address.subdir).filter(|text| !text.is_empty());
        found.read_query(address.query)?;
        if let Some(reference) = &found.reference
            && (reference.starts_with('-') || reference.chars().any(char::is_control))
        {
            return Err(GitReferenceError::Ref(
                reference.escape_default().to_string(),
            ));
        }
        Ok(Some(found))
    }

    fn read_query(&mut self, query: Vec<(String, String)>) -> Result<(), GitReferenceError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in query {
            if seen.contains(&name) {
                return Err(GitReferenceError::SeveralValues(name));
            }
            seen.push(name.clone());
            let truth = || match value.as_str() {
                "" => Ok(true),
                text => boolean(text).ok_or_else(|| GitReferenceError::Invalid {
                    name: name.clone(),
                    value: value.clone(),
                    help: "",
                }),
            };
            match name.as_str() {
                "keep-git-dir" => self.keep_git_dir = Some(truth()?),
                "submodules" => self.submodules = Some(truth()?),
                "fetch-by-commit" => self.fetch_by_commit = truth()?,
                _ if value.is_empty() => return Err(GitReferenceError::NoValue(name)),
                "ref" => agree("ref", &mut self.reference, value)?,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => self.checksum = Some(value),
                "mtime" => self.times = Some(times(&value)?),
                _ => return Err(GitReferenceError::Unexpected(name)),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err(GitReferenceError::BranchAndTag);
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            let Some(name) = name else { continue };
            let full = match name.starts_with(prefix) {
                true => name,
                false => format!("{prefix}{name}"),
            };
            agree("ref", &mut self.reference, full)?;
        }
        Ok(())
    }
}

fn agree(
    name: &'static str,
    said: &mut Option<String>,
    other: String,
) -> Result<(), GitReferenceError> {
    match said.take() {
        Some(one) if one != other => Err(GitReferenceError::Conflict { name, one, other }),
        _ => {
            *said = Some(other);
            Ok(())
        }
    }
}

fn times(value: &str) -> Result<FileTimes, GitReferenceError> {
    match value {
        "checkout" => Ok(FileTimes::Checkout),
        "commit" => Ok(FileTimes::Commit),
        _ => Err(GitReferenceError::Invalid {
            name: "mtime".to_owned(),
            value: value.to_owned(),
            help: " (must be \"checkout\" or \"commit\")",
        }),
    }
}

/// A scheme in lower case, and what stands behind its `://`.
fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// Takes an URL apart. Gives its path, decoded, beside the address.
fn url(scheme: &str, rest: &str) -> Option<(String, Address)> {
    if rest.chars().any(|c| c.is_ascii_control()) {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match (scheme.is_empty(), address.find('/')) {
        // `github.com/…` is all path.
        (true, _) => ("", address),
        (false, Some(slash)) => address.split_at(slash),
        (false, None) => (address, ""),
    };
    if !scheme.is_empty() && !is_authority(authority) {
        return None;
    }
    let path = decode(path, false)?;
    let fragment = decode(fragment, false)?;
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    let remote = match scheme {
        "" => address.to_owned(),
        _ => format!("{scheme}://{address}"),
    };
    let address = Address {
        remote,
        query: fields(query).flatten().collect(),
        reference: reference.to_owned(),
        subdir: clean(subdir),
    };
    Some((path, address))
}

/// Whether `[USER[:PASSWORD]@]HOST[:PORT]` can be one. A host that looks like an option of ssh
/// never is.
fn is_authority(text: &str) -> bool {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let (name, port) = match host.rfind(']') {
        Some(end) => (&host[..=end], host[end + 1..].strip_prefix(':')),
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_port = port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let is_name = !name.starts_with('-') && !name.contains([' ', '"', '<', '>', '\\', '^', '`']);
    is_port && is_name
}

/// `USER@HOST:PATH[?QUERY][#FRAGMENT]`.
fn scp(text: &str) -> Option<Address> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let is_word = |text: &str, also: &[char]| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(&c);
        !text.is_empty() && !text.starts_with('-') && text.chars().all(allowed)
    };
    if !is_word(user, &['-', '_']) || !is_word(host, &['-', '.']) || rest.contains(['\n', '\0']) {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    Some(Address {
        remote: format!("{user}@{host}:{path}"),
        query: fields(query).collect::<Option<_>>()?,
        reference: reference.to_owned(),
        subdir: clean(subdir),
    })
}

/// The fields of a query, decoded; `None` for one that can't be.
fn fields(query: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let fields = query.split('&').filter(|field| !field.is_empty());
    fields.map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (!field.contains(';')).then_some(())?;
        Some((decode(name, true)?, decode(value, true)?))
    })
}

/// Text with its `%XX` decoded; `None` where one is broken or the result is no text.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                bytes.push(u8::try_from(value).ok()?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A path without `.` and `..`, and without slashes at its ends. It never leads above its root.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// An address without its password and user name.
pub fn masked(remote: &str) -> String {
    match split_user(remote) {
        None => remote.to_owned(),
        Some((scheme, user, rest)) if user.contains(':') => {
            format!("{scheme}://xxxxx:xxxxx@{rest}")
        }
        Some((scheme, _, rest)) => format!("{scheme}://xxxxx@{rest}"),
    }
}

/// The scheme, the user with its password, and what stands behind them, of an address that has a
/// user.
pub(super) fn split_user(remote: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = remote.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = rest[..end].rfind('@')?;
    Some((scheme, &rest[..at], &rest[at + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dockerfile::corpus::corpus;

    fn parse(text: &str) -> GitReference {
        GitReference::parse(text).unwrap().unwrap()
    }

    #[test]
    fn every_row_of_the_corpus() {
        let Some(file) = corpus("gitref/cases.json") else {
            return;
        };
        let table: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let rows = table["cases"].as_array().unwrap();
        assert!(rows.len() > 30);
        for row in rows {
            let found = GitReference::parse(row["ref"].as_str().unwrap());
            if let Some(message) = row["error"].as_str() {
                assert!(found.unwrap_err().to_string().contains(message), "{row}");
                continue;
            }
            let found = found.unwrap_or_else(|error| panic!("{row}: {error}"));
            let text = |name: &str| row["expect"][name].as_str().map(str::to_owned);
            let truth = |name: &str| row["expect"][name].as_bool();
            let expected = text("Remote").map(|remote| GitReference {
                remote,
                short_name: text("ShortName").unwrap(),
                reference: text("Ref"),
                subdir: text("SubDir"),
                checksum: text("Checksum"),
                looks_local: truth("IndistinguishableFromLocal").unwrap_or_default(),
                is_unencrypted: truth("UnencryptedTCP").unwrap_or_default(),
                keep_git_dir: truth("KeepGitDir"),
                submodules: truth("Submodules"),
                times: text("MTime").map(|value| times(&value).unwrap()),
                fetch_by_commit: truth("FetchByCommit").unwrap_or_default(),
            });
            assert_eq!(found, expected, "{row}");
        }
    }

    #[test]
    fn addresses() {
        for (text, remote, name) in [
            ("git://example.com/a/b", "git://example.com/a/b", "b"),
            ("ssh://git@h:22/b.git", "ssh://git@h:22/b.git", "b"),
            ("HTTPS://h/B.git", "https://h/B.git", "B"),
            ("https://h/.git", "https://h/.git", ""),
            ("http://h:8080/a.git#x", "http://h:8080/a.git", "a"),
            ("http://[::1]:80/a.git", "http://[::1]:80/a.git", "a"),
            ("https://h/a%2Egit", "https://h/a%2Egit", "a%2Egit"),
            ("git@h:b", "git@h:b", "git@h:b"),
            ("me@h:a/b.git#main", "me@h:a/b.git", "b"),
            ("github.com/a/b", "github.com/a/b", "b"),
        ] {
            let found = parse(text);
            assert_eq!((&*found.remote, &*found.short_name), (remote, name));
        }
        for text in [
            "",
            ".",
            "a",
            "./git@h:b",
            "file:///a/b.git",
            "docker-image://a",
            "https://h/a.git?x#y/../b.git\n",
            "https://h:x/a.git",
            "ssh://-oProxyCommand=x/a",
            "-oProxyCommand=x@h:a",
            "git@-oProxyCommand=x:a",
            "me@h h:a",
            "a/b@h:c",
            "https://h/%zz.git",
            "http://h/a\u{1}.git",
            "git@h:a?x=%zz",
        ] {
            assert_eq!(GitReference::parse(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn refs_and_folders() {
        for (text, reference, subdir) in [
            ("https://h/a.git#", None, None),
            ("https://h/a.git#:", None, None),
            ("https://h/a.git#v1", Some("v1"), None),
            ("https://h/a.git#v1:", Some("v1"), None),
            ("https://h/a.git#v1:/", Some("v1"), None),
            ("https://h/a.git#v1:a/../b/", Some("v1"), Some("b")),
            ("https://h/a.git#v1:../../b", Some("v1"), Some("b")),
            ("https://h/a.git#:a:b", None, Some("a:b")),
            ("https://h/a.git#a%20b", Some("a b"), None),
            ("git@h:a#a%20b:c", Some("a%20b"), Some("c")),
            ("git@h:a#b?c", Some("b?c"), None),
            ("https://h/a.git?ref=a+b", Some("a b"), None),
            ("https://h/a.git?ref=v1#v1", Some("v1"), None),
            (
                "https://h/a.git?tag=refs/tags/v1",
                Some("refs/tags/v1"),
                None,
            ),
            (
                "https://h/a.git?branch=b#:c",
                Some("refs/heads/b"),
                Some("c"),
            ),
        ] {
            let found = parse(text);
            assert_eq!(found.reference.as_deref(), reference, "{text}");
            assert_eq!(found.subdir.as_deref(), subdir, "{text}");
        }
    }

    #[test]
    fn what_is_said_in_the_query() {
        let found = parse("https://h/a.git?keep-git-dir&submodules=false&commit=abc&mtime=commit");
        assert_eq!(found.keep_git_dir, Some(true));
        assert_eq!(found.submodules, Some(false));
        assert_eq!(found.checksum.as_deref(), Some("abc"));
        assert_eq!(found.times, Some(FileTimes::Commit));
        for (query, message) in [
            ("ref=", "query \"ref\" has no value"),
            ("subdir", "query \"subdir\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("keep-git-dir=x", "invalid keep-git-dir value: \"x\""),
            ("submodules=no", "invalid submodules value: \"no\""),
            ("subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
            ("ref=--upload-pack=x", "invalid git ref \"--upload-pack=x\""),
            ("ref=a%0Ab", "invalid git ref \"a\\nb\""),
            ("=x", "unexpected query \"\""),
        ] {
            let error = GitReference::parse(&format!("https://h/a.git?{query}")).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn passwords_are_masked() {
        for (remote, shown) in [
            ("https://h/a.git", "https://h/a.git"),
            ("https://u:p@h/a.git", "https://xxxxx:xxxxx@h/a.git"),
            ("https://token@h/a@b", "https://xxxxx@h/a@b"),
            ("https://u:p@x@h:1", "https://xxxxx:xxxxx@h:1"),
            ("git@h:a", "git@h:a"),
            ("https://u:p@h/a.git#b", "https://xxxxx:xxxxx@h/a.git#b"),
        ] {
            assert_eq!(masked(remote), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(text in "(https://|git@|git://|ssh://|)?[a-z%:/@?#=&.+-]{0,24}") {
            if let Ok(Some(found)) = GitReference::parse(&text) {
                prop_assert!(!found.reference.unwrap_or_default().starts_with('-'));
                prop_assert!(!clean(&found.subdir.unwrap_or_default()).split('/').any(|part| part == ".."));
            }
        }
    }
}
