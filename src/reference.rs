//! Image references: `[domain/]repository[:tag][@digest]`, normalised as Docker does.
//!
//! The grammar is that of `distribution/reference`: a name without a domain means Docker Hub
//! (`docker.io`), a Docker Hub name of one component means `library/…`. A [`Reference`] is
//! always in its full form, so that two spellings of one image compare equal. Pure values:
//! nothing here asks a registry or knows which tag exists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::BlobDigest;

/// The domain that a name without one means.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that a name without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image reference.
///
/// `Display` and serde give the full form (`docker.io/library/alpine:3.20`);
/// [`familiar`](Self::familiar) the short one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    domain: String,
    repository: String,
    tag: Option<String>,
    digest: Option<BlobDigest>,
}

/// Why a string is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference `{text}`: {reason}")]
pub struct InvalidReference {
    /// The text as given; `…` where it may have held a password.
    pub text: String,
    /// What is wrong with it.
    pub reason: InvalidReferenceReason,
}

/// The part of a reference that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReferenceReason {
    /// There is no text at all, or no repository.
    #[error("the repository name is missing")]
    Empty,
    /// A URL was given.
    #[error("an image name has no scheme, remove everything up to `://`")]
    Scheme,
    /// The repository holds upper-case letters.
    #[error("the repository name must be lower-case")]
    UpperCase,
    /// 64 hex digits, which Docker takes for an image ID.
    #[error("64 hex digits are an image ID, not a name")]
    ImageId,
    /// The domain breaks the grammar.
    #[error("the registry's host name is malformed")]
    Domain,
    /// The repository breaks the grammar.
    #[error(
        "a repository name is made of lower-case letters and digits, with `.`, `_`, `__` or `-` between them, and `/` between components"
    )]
    Repository,
    /// The repository is too long.
    #[error("the repository name is longer than 255 characters")]
    RepositoryTooLong,
    /// The tag breaks the grammar.
    #[error(
        "a tag is at most 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`"
    )]
    Tag,
    /// The digest is not a SHA-256 digest.
    #[error("a digest is `sha256:` and 64 lower-case hex digits")]
    Digest,
}

impl Reference {
    /// The registry's host with its port, if any: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given.
    pub fn digest(&self) -> Option<&BlobDigest> {
        self.digest.as_ref()
    }

    /// Domain and repository without tag and digest: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.repository)
    }

    /// The same reference with the tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same name and digest with another tag.
    ///
    /// # Errors
    /// `tag` breaks the grammar.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference {
                text: format!("{}:{tag}", self.familiar_name()),
                reason: InvalidReferenceReason::Tag,
            });
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// The same name and tag, pinned to `digest`.
    #[must_use]
    pub fn with_digest(mut self, digest: BlobDigest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same name and digest without a tag.
    #[must_use]
    pub fn without_tag(mut self) -> Self {
        self.tag = None;
        self
    }

    /// The same name and tag without a digest.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }

    /// The short form that Docker shows: `alpine:3.20` for `docker.io/library/alpine:3.20`.
    /// Parsing it gives the same reference.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.append_suffix(&mut text);
        text
    }

    /// The name's short form without tag and digest: `alpine`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = match self.repository.strip_prefix(OFFICIAL_PREFIX) {
            Some(official) if !official.contains('/') => official,
            _ => &self.repository,
        };
        // `docker.io/localhost/x` and `docker.io/a.b/x` would be read as another registry.
        match split_domain(short) {
            (DEFAULT_DOMAIN, _) if !is_image_id(short) => short.to_owned(),
            _ => self.name(),
        }
    }

    fn append_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// Whether two names mean the same image, as `alpine` and `docker.io/library/alpine:latest` do.
pub fn is_same_image(one: &str, other: &str) -> bool {
    let meant = |name: &str| {
        let reference = name.parse::<Reference>().ok();
        reference.map(Reference::with_default_tag)
    };
    meant(one).is_some_and(|one| Some(one) == meant(other))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.append_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference {
            text: match text.split_once("://") {
                Some((scheme, _)) => format!("{scheme}://…"),
                None => text.to_owned(),
            },
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, InvalidReferenceReason> {
    use InvalidReferenceReason as Reason;
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.contains("://") {
        return Err(Reason::Scheme);
    }
    if is_image_id(text) {
        return Err(Reason::ImageId);
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest.parse().map_err(|_| Reason::Digest)?)),
        None => (text, None),
    };
    let (domain, path) = split_domain(named);
    let (repository, tag) = match path.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    if repository.is_empty() {
        return Err(Reason::Empty);
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Reason::UpperCase);
    }
    if !is_domain(domain) {
        return Err(Reason::Domain);
    }
    if !repository.split('/').all(is_path_component) {
        return Err(Reason::Repository);
    }
    if !tag.is_none_or(is_tag) {
        return Err(Reason::Tag);
    }
    let domain = match domain {
        LEGACY_DEFAULT_DOMAIN => DEFAULT_DOMAIN,
        other => other,
    };
    let repository = if domain == DEFAULT_DOMAIN && !repository.contains('/') {
        format!("{OFFICIAL_PREFIX}{repository}")
    } else {
        repository.to_owned()
    };
    if repository.len() > MAX_REPOSITORY {
        return Err(Reason::RepositoryTooLong);
    }
    Ok(Reference {
        domain: domain.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Docker's rule for what the first component is: a domain if it holds a `.`, a `:` or an
/// upper-case letter, or is `localhost`; else a part of a Docker Hub name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let valid = !address.is_empty()
                    && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                if !valid {
                    return false;
                }
                (None, port)
            }
            None => return false,
        },
        None => match domain.find(':') {
            Some(colon) => (Some(&domain[..colon]), &domain[colon..]),
            None => (Some(domain), ""),
        },
    };
    let valid_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    let valid_host = host.is_none_or(|host| host.split('.').all(is_domain_component));
    valid_port && valid_host
}

fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && !component.starts_with('-')
        && !component.ends_with('-')
        && component
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Runs of `[a-z0-9]+` with exactly one separator between them: `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    if !component.starts_with(is_alphanumeric) || !component.ends_with(is_alphanumeric) {
        return false;
    }
    component
        .split(is_alphanumeric)
        .all(|separator| match separator {
            "" | "." | "_" | "__" => true,
            other => other.bytes().all(|b| b == b'-'),
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let long_tag = "t".repeat(128);
        for (text, full, familiar) in [
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "ubuntu:22.04",
                "docker.io/library/ubuntu:22.04",
                "ubuntu:22.04",
            ),
            ("library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "index.docker.io/ubuntu:x",
                "docker.io/library/ubuntu:x",
                "ubuntu:x",
            ),
            ("index.docker.io/a/b", "docker.io/a/b", "a/b"),
            ("moby/buildkit", "docker.io/moby/buildkit", "moby/buildkit"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost", "docker.io/library/localhost", "localhost"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
            ("host:5000", "docker.io/library/host:5000", "host:5000"),
            ("host:5000/x", "host:5000/x", "host:5000/x"),
            ("host:5000/x:tag", "host:5000/x:tag", "host:5000/x:tag"),
            (
                "127.0.0.1:5000/a/b",
                "127.0.0.1:5000/a/b",
                "127.0.0.1:5000/a/b",
            ),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            ("[fd00:1:2::3]/x", "[fd00:1:2::3]/x", "[fd00:1:2::3]/x"),
            ("ghcr.io/a/b/c/d", "ghcr.io/a/b/c/d", "ghcr.io/a/b/c/d"),
            ("Foo/bar", "Foo/bar", "Foo/bar"),
            (
                "xn--7o8h.com/myimage",
                "xn--7o8h.com/myimage",
                "xn--7o8h.com/myimage",
            ),
            (
                "a__b/c.d_e---f",
                "docker.io/a__b/c.d_e---f",
                "a__b/c.d_e---f",
            ),
            ("a:_T.-x", "docker.io/library/a:_T.-x", "a:_T.-x"),
            (
                "docker.io/localhost/x",
                "docker.io/localhost/x",
                "docker.io/localhost/x",
            ),
            ("docker.io/a.b/x", "docker.io/a.b/x", "docker.io/a.b/x"),
            (
                &format!("library/{HEX}"),
                &format!("docker.io/library/{HEX}"),
                &format!("docker.io/library/{HEX}"),
            ),
            (
                &format!("a:{long_tag}"),
                &format!("docker.io/library/a:{long_tag}"),
                &format!("a:{long_tag}"),
            ),
            (
                &format!("a@sha256:{HEX}"),
                &format!("docker.io/library/a@sha256:{HEX}"),
                &format!("a@sha256:{HEX}"),
            ),
            (
                &format!("h.io/a:1@sha256:{HEX}"),
                &format!("h.io/a:1@sha256:{HEX}"),
                &format!("h.io/a:1@sha256:{HEX}"),
            ),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(full.parse().as_ref(), Ok(&reference));
            assert_eq!(familiar.parse().as_ref(), Ok(&reference));
        }
    }

    #[test]
    fn malformed_references_are_refused_with_the_part_that_is_wrong() {
        use InvalidReferenceReason as Reason;
        for (text, reason) in [
            ("", Reason::Empty),
            (":tag", Reason::Empty),
            ("localhost:5000/", Reason::Empty),
            (&format!("@sha256:{HEX}"), Reason::Empty),
            ("https://docker.io/x", Reason::Scheme),
            (HEX, Reason::ImageId),
            ("Ubuntu", Reason::UpperCase),
            ("docker.io/Foo/bar", Reason::UpperCase),
            ("a/B", Reason::UpperCase),
            ("Foo/Bar:x", Reason::UpperCase),
            ("-a.com/x", Reason::Domain),
            ("a..b/x", Reason::Domain),
            ("[::1/x", Reason::Domain),
            ("[]:1/x", Reason::Domain),
            ("host:/x", Reason::Domain),
            ("host:80a/x", Reason::Domain),
            ("host:1:2/x", Reason::Domain),
            ("a//b", Reason::Repository),
            ("/a", Reason::Repository),
            ("a/", Reason::Repository),
            ("-a", Reason::Repository),
            ("a-", Reason::Repository),
            ("a..b", Reason::Repository),
            ("a___b", Reason::Repository),
            ("a._b", Reason::Repository),
            ("a b", Reason::Repository),
            ("aé", Reason::Repository),
            ("../x", Reason::Domain),
            ("x/../y", Reason::Repository),
            (&"a".repeat(256), Reason::RepositoryTooLong),
            ("a:", Reason::Tag),
            ("a:.x", Reason::Tag),
            ("a:-x", Reason::Tag),
            ("a:b:c", Reason::Tag),
            ("a:b/c", Reason::Domain),
            (&format!("a:{}", "t".repeat(129)), Reason::Tag),
            ("a@", Reason::Digest),
            ("a@sha256:12", Reason::Digest),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", Reason::Digest),
            (&format!("a@sha256:{}", HEX.to_uppercase()), Reason::Digest),
        ] {
            assert_eq!(
                text.parse::<Reference>().map_err(|e| e.reason),
                Err(reason),
                "{text}"
            );
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let error = "https://user:secret@host/x"
            .parse::<Reference>()
            .unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn the_default_tag_is_added_only_where_nothing_selects_an_image() {
        let with_default = |text: &str| {
            let reference: Reference = text.parse().unwrap();
            reference.with_default_tag().familiar()
        };
        let pinned = format!("a@sha256:{HEX}");
        assert_eq!(with_default("a"), "a:latest");
        assert_eq!(with_default("a:b"), "a:b");
        assert_eq!(with_default(&pinned), pinned);
    }

    #[test]
    fn tag_and_digest_can_be_replaced() {
        let digest: BlobDigest = format!("sha256:{HEX}").parse().unwrap();
        let reference: Reference = "h.io/a:1".parse().unwrap();
        let pinned = reference.clone().with_digest(digest);
        assert_eq!(pinned.to_string(), format!("h.io/a:1@sha256:{HEX}"));
        assert_eq!(pinned.without_digest(), reference);
        assert_eq!(reference.clone().with_tag("2").unwrap().tag(), Some("2"));
        assert!(reference.with_tag("not a tag").is_err());
    }

    #[test]
    fn serde_uses_the_full_form() {
        let reference: Reference = "alpine:3".parse().unwrap();
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(json, "\"docker.io/library/alpine:3\"");
        assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), reference);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_and_what_parses_round_trips(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn familiar_names_round_trip(domain in "(docker\\.io|localhost|a\\.b:1)", path in "[a-z.]{1,9}(/[a-z]{1,5}){0,2}") {
            if let Ok(reference) = format!("{domain}/{path}").parse::<Reference>() {
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
