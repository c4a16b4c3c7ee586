//! What a build brings from elsewhere: telling a URL from a path, and how the file that comes is
//! called.
//!
//! Nothing is fetched here, and nothing of a URL is shown that may be a password.

use std::str::FromStr;

use crate::digest::BlobDigest;
use crate::remote::git::{GitReference, GitReferenceError, GitSource};

/// What ADD or a context names by a URL. It is fetched when it is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoteSource {
    /// A file, over HTTP or HTTPS.
    Http(HttpSource),
    /// A commit of a git repository, or a folder of it.
    Git(GitSource),
}

/// A file that is fetched over HTTP or HTTPS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSource {
    /// Where it is, as written.
    pub url: String,
    /// Its name: the last part of the URL's path. As in BuildKit, what the server calls it
    /// doesn't count.
    pub name: String,
    /// `--checksum`.
    pub checksum: Option<BlobDigest>,
    /// `--unpack`: it is unpacked where it is an archive.
    pub unpack: bool,
}

/// The name of the one file in a context that is fetched over HTTP, as in BuildKit.
const CONTEXT_FILE: &str = "context";

impl RemoteSource {
    /// What the address of a context names; `None` where it is none.
    ///
    /// # Errors
    /// When it names a git repository, and says something of it that can't be meant.
    pub fn of_context(text: &str) -> Result<Option<Self>, GitReferenceError> {
        if let Some(found) = GitReference::parse(text)? {
            return Ok(Some(Self::Git(GitSource::new(&found))));
        }
        Ok(is_http(text).then(|| Self::file(text, CONTEXT_FILE)))
    }

    /// The file at an HTTP URL, to be called `name`.
    pub fn file(url: &str, name: &str) -> Self {
        Self::Http(HttpSource {
            url: url.to_owned(),
            name: name.to_owned(),
            checksum: None,
            unpack: false,
        })
    }

    /// The path of what is copied in the tree that fetching gives; the root (`""`) stands for
    /// everything in it.
    pub fn path(&self) -> &str {
        match self {
            Self::Http(source) => &source.name,
            Self::Git(_) => "",
        }
    }

    /// Whether it is unpacked where it is an archive.
    pub fn is_unpacked(&self) -> bool {
        match self {
            Self::Http(source) => source.unpack,
            Self::Git(_) => false,
        }
    }
}

/// Whether ADD fetches a source over HTTP. A repository's URL begins alike; see [`is_git`].
pub(super) fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && !is_git(source)
}

/// Whether ADD takes a source for a git repository.
pub(super) fn is_git(source: &str) -> bool {
    !matches!(git(source), Ok(None))
}

/// The git repository that ADD names. `github.com/…` is a path of the context here.
pub(super) fn git(source: &str) -> Result<Option<GitReference>, GitReferenceError> {
    Ok(GitReference::parse(source)?.filter(|found| !found.looks_local))
}

/// Whether a source is no path of the build context.
pub(super) fn is_remote(source: &str) -> bool {
    is_http(source) || is_git(source)
}

/// `text` with who logs in at URLs in it replaced by what `mask` makes of that.
fn masked_by(text: &str, mask: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let is_end = |c: char| c.is_whitespace() || "/?#\"'`<>".contains(c);
        let authority = &after[..after.find(is_end).unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                out.push_str(&mask(&authority[..at]));
                &after[at..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

/// Text of a Dockerfile as it may be shown: without the names and passwords of its URLs.
pub(super) fn without_passwords(text: &str) -> String {
    masked_by(text, |user| match user.contains(':') {
        true => "xxxxx:xxxxx".to_owned(),
        false => "xxxxx".to_owned(),
    })
}

/// The same with every byte that stays where it is.
pub fn masked_in_place(text: &str) -> String {
    masked_by(text, |user| "x".repeat(user.len()))
}

/// The name of the file that a URL gives, as BuildKit has it: the last part of its path,
/// percent-encoding undone.
pub(super) fn file_name(url: &str) -> String {
    const UNNAMED: &str = "__unnamed__";
    const UNSAFE: &str = "download";
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let after_scheme = url[..end].split_once("://").map_or("", |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
    let Some(path) = percent_decoded(path) else {
        return UNNAMED.to_owned();
    };
    let name = path.trim_end_matches('/').rsplit('/').next();
    match name.map(str::trim) {
        None | Some("" | ".") => UNNAMED.to_owned(),
        Some("..") => UNSAFE.to_owned(),
        Some(name) if name.chars().any(char::is_control) => UNSAFE.to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// Undoes percent-encoding; `None` where it is malformed or doesn't give text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// Reads the `--checksum` of a file.
pub(super) fn checksum(text: &str) -> Result<BlobDigest, String> {
    let (algorithm, hex) = match text.split_once(':') {
        Some((algorithm, hex)) if !algorithm.is_empty() && !hex.is_empty() => (algorithm, hex),
        _ => return Err("invalid checksum digest format".to_owned()),
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if hex.len() != length {
        return Err("invalid checksum digest length".to_owned());
    }
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !hex.bytes().all(is_hex) {
        return Err("invalid checksum digest format".to_owned());
    }
    if algorithm != "sha256" {
        return Err(format!(
            "unsupported digest algorithm: `{algorithm}` can't be compared, only sha256"
        ));
    }
    BlobDigest::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_the_end_of_its_url() {
        for (url, name) in [
            ("https://example.com/a/b.tar.gz", "b.tar.gz"),
            ("http://example.com/a/b?c=/d#e/f", "b"),
            ("https://example.com/a/b/", "b"),
            ("https://example.com/a%20b", "a b"),
            ("https://example.com/a%2Fb", "b"),
            ("https://example.com/%C3%A9", "é"),
            ("https://example.com", "__unnamed__"),
            ("https://example.com/", "__unnamed__"),
            ("https://example.com?a=/b", "__unnamed__"),
            ("https://example.com/.", "__unnamed__"),
            ("https://example.com/%zz", "__unnamed__"),
            ("https://example.com/%ff", "__unnamed__"),
            ("https://example.com/a/..", "download"),
            ("https://example.com/a%0Ab", "download"),
            ("https://user:pw@example.com/x", "x"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn nobody_sees_who_logs_in() {
        for (text, shown) in [
            ("ADD https://u:p@h/x /", "ADD https://xxxxx:xxxxx@h/x /"),
            (
                "https://token@h http://a@b",
                "https://xxxxx@h http://xxxxx@b",
            ),
            ("https://u:p@q@h/a@b", "https://xxxxx:xxxxx@h/a@b"),
            ("https://h/a@b", "https://h/a@b"),
            ("ssh://git@h/a", "ssh://xxxxx@h/a"),
            ("a@b ://", "a@b ://"),
        ] {
            assert_eq!(without_passwords(text), shown);
            assert_eq!(masked_in_place(text).len(), text.len());
            assert_eq!(masked_in_place(text) == text, shown == text);
        }
    }

    #[test]
    fn repositories_are_told_from_files() {
        for (source, http, git) in [
            ("https://example.com/a", true, false),
            ("http://example.com/a.git/b", true, false),
            ("https://example.com/a.git", false, true),
            ("https://example.com/a.git#main:sub", false, true),
            ("https://example.com/a.git?ref=main", false, true),
            ("https://example.com/a#b.git", true, false),
            ("git@example.com:a/b", false, true),
            ("git://example.com/a", false, true),
            ("ssh://example.com/a", false, true),
            ("HTTPS://example.com/a", false, false),
            ("ftp://example.com/a", false, false),
            ("github.com/a/b", false, false),
            ("http:/a", false, false),
        ] {
            assert_eq!((is_http(source), is_git(source)), (http, git), "{source}");
        }
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        for (text, shown) in [
            (
                "ADD https://u:p@h/a.git  /a",
                "ADD https://xxxxx:xxxxx@h/a.git  /a",
            ),
            (
                r#"ADD ["http://t@h/a","/"]"#,
                r#"ADD ["http://xxxxx@h/a","/"]"#,
            ),
            ("ADD git@h:a /", "ADD git@h:a /"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn checksums_are_read_as_digests() {
        let hex = "ab".repeat(32);
        assert!(checksum(&format!("sha256:{hex}")).is_ok());
        for (text, message) in [
            (hex.clone(), "invalid checksum digest format"),
            (":x".to_owned(), "invalid checksum digest format"),
            ("sha256:".to_owned(), "invalid checksum digest format"),
            ("md5:ab".to_owned(), "unsupported digest algorithm"),
            ("sha256:ab".to_owned(), "invalid checksum digest length"),
            (
                format!("sha256:{}", "AB".repeat(32)),
                "invalid checksum digest format",
            ),
            (
                format!("sha512:{}", "ab".repeat(64)),
                "unsupported digest algorithm: `sha512` can't be compared, only sha256",
            ),
        ] {
            assert_eq!(checksum(&text), Err(message.to_owned()), "{text}");
        }
    }
}
