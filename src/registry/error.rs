//! What can go wrong between here and a registry.
//!
//! An error names the act, the registry's host and what it was about, repeats the registry's
//! own code and message, and says what to do. It must never hold a credential or a token:
//! URLs appear without their query and user information, since a pre-signed URL is a key.

use std::fmt;
use std::io;
use std::time::Duration;

use url::Url;

use crate::digest::BlobDigest;
use crate::image::ImageError;
use crate::platform::Platform;

/// A failed act at a registry.
#[derive(Debug)]
pub struct RegistryError {
    action: String,
    host: String,
    kind: Box<ErrorKind>,
    /// What mirrors had answered that were asked before.
    mirrors: Vec<String>,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The registry answered with an error.
    #[error("{0}")]
    Status(StatusError),
    /// The host name does not resolve.
    #[error("the host name does not resolve; check the name and the network")]
    Dns(#[source] io::Error),
    /// Nothing listens there.
    #[error("connection refused; check that the registry runs, the port, and any proxy settings")]
    Refused,
    /// The TLS handshake failed.
    #[error("TLS failed: {reason}; {hint}")]
    Tls {
        /// What the handshake said.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// No connection came about.
    #[error("cannot connect: {0}; check the network and any proxy settings")]
    Connect(String),
    /// Nothing moved for too long.
    #[error("timed out after {} s while {doing}", .after.as_secs())]
    Timeout {
        /// What was being waited for.
        doing: &'static str,
        /// How long.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The HTTP client could not be set up.
    #[error("cannot set up the connection: {0}")]
    Setup(String),
    /// The registry sent other bytes than the digest names.
    #[error("the content has digest `{actual}`, expected `{expected}`")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: BlobDigest,
        /// The digest of what came.
        actual: BlobDigest,
    },
    /// The registry sent another number of bytes than the descriptor names.
    #[error("the content has {actual} bytes or more, expected {expected}")]
    SizeMismatch {
        /// The size in the descriptor.
        expected: u64,
        /// The bytes seen when it was noticed.
        actual: u64,
    },
    /// A document is larger than any honest one.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// The cap in bytes.
        limit: u64,
    },
    /// The obsolete manifest format of Docker 1.9 and before.
    #[error(
        "the image has a schema 1 manifest, which is obsolete; push it again with a current tool"
    )]
    Schema1,
    /// The manifest, index or config is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Not an image that can be built upon.
    #[error("media type `{0}` is not a container image")]
    NotAnImage(String),
    /// The index has no image for the platform.
    #[error("no image for platform `{wanted}`; it has {}", list(.available))]
    NoPlatform {
        /// The platform that was asked for.
        wanted: Platform,
        /// The platforms that are there.
        available: Vec<Platform>,
    },
    /// A layer that its publisher keeps elsewhere.
    #[error(
        "layer `{0}` is non-distributable: its publisher keeps it outside the registry, and rbuild does not fetch layers from foreign URLs"
    )]
    ForeignLayer(BlobDigest),
    /// An answer that breaks the protocol.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which part of the answer.
        what: &'static str,
        /// How.
        reason: String,
    },
    /// The registry wants tokens fetched over plain HTTP from elsewhere.
    #[error("its token server `{0}` does not use HTTPS, and credentials are not sent in the clear")]
    InsecureRealm(String),
    /// A redirect from HTTPS to plain HTTP.
    #[error(
        "it redirects to `{0}`, which does not use HTTPS; list that host as insecure to allow it"
    )]
    InsecureRedirect(String),
    /// Redirects without end.
    #[error("it redirects more than {0} times")]
    TooManyRedirects(usize),
    /// Writing what was pulled failed.
    #[error("cannot write what was received: {0}")]
    Sink(#[source] io::Error),
    /// Reading what is pushed failed.
    #[error("cannot read what is to be pushed: {0}")]
    Source(#[source] io::Error),
}

/// An HTTP status that is an error, with the registry's explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusError {
    /// The HTTP status.
    pub status: u16,
    /// The registry's code, such as `MANIFEST_UNKNOWN` (distribution spec 1.1, "Error Codes").
    pub code: Option<String>,
    /// The registry's message.
    pub message: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = http_reason(self.status);
        write!(f, "{} {reason}", self.status)?;
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, " ({code}: {message})")?,
            (Some(text), None) | (None, Some(text)) => write!(f, " ({text})")?,
            (None, None) => {}
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

fn http_reason(status: u16) -> &'static str {
    reqwest::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("unknown status")
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = platforms.iter().map(|p| format!("`{p}`")).collect();
    names.join(", ")
}

impl RegistryError {
    pub(super) fn new(action: impl Into<String>, host: impl Into<String>, kind: ErrorKind) -> Self {
        Self {
            action: action.into(),
            host: host.into(),
            kind: Box::new(kind),
            mirrors: Vec::new(),
        }
    }

    /// The same failure, of whom was asked after a mirror had failed.
    pub(super) fn after(mut self, mirror: RegistryError) -> Self {
        let answer = format!("the mirror `{}`: {}", mirror.host, mirror.kind);
        self.mirrors = mirror.mirrors;
        self.mirrors.push(answer);
        self
    }

    /// Why it failed.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The registry that was asked, as in the image's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The HTTP status, where the registry answered with one.
    pub fn status(&self) -> Option<u16> {
        match self.kind() {
            ErrorKind::Status(error) => Some(error.status),
            _ => None,
        }
    }

    /// Whether the registry says that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the registry refused for want of permission.
    pub fn is_denied(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Whether no answer came at all: the machine may be offline.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Dns(_)
                | ErrorKind::Refused
                | ErrorKind::Connect(_)
                | ErrorKind::Timeout { .. }
                | ErrorKind::Broken(_)
        )
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} at registry `{}`: {}",
            self.action, self.host, self.kind
        )?;
        for mirror in &self.mirrors {
            write!(f, "; before that, {mirror}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

impl ErrorKind {
    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            reason: reason.into(),
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status(error) => is_transient_status(error.status),
            Self::Connect(_) | Self::Timeout { .. } | Self::Broken(_) => true,
            // EAI_AGAIN: the resolver itself could not be reached.
            Self::Dns(error) => error.to_string().contains("emporary failure"),
            _ => false,
        }
    }

    /// The kind behind an error of the HTTP client.
    pub(super) fn from_http(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut deepest = String::new();
        while let Some(cause) = next {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::tls(tls);
            }
            deepest = cause.to_string();
            next = match cause.downcast_ref::<io::Error>() {
                Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Self::Refused;
                }
                // What an I/O error holds is not its source: that is the source of what it holds.
                Some(error) => match error.get_ref() {
                    Some(held) => Some(held),
                    None => cause.source(),
                },
                None => cause.source(),
            };
        }
        if error.is_dns() {
            return Self::Dns(io::Error::other(deepest));
        }
        if error.is_builder() {
            return Self::Setup(deepest);
        }
        if error.is_connect() {
            return Self::Connect(match error.is_timeout() {
                true => "timed out".to_owned(),
                false => deepest,
            });
        }
        Self::Broken(deepest)
    }

    fn tls(error: &rustls::Error) -> Self {
        use rustls::CertificateError;
        let hint = match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "the certificate's issuer is not trusted here: add its CA to the system's store, or name a file of CA certificates in SSL_CERT_FILE"
            }
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => "the certificate has expired, or the clock of this machine is wrong",
            rustls::Error::InvalidCertificate(_) => {
                "check the registry's certificate and the name it is reached by"
            }
            rustls::Error::InvalidMessage(_) => {
                "the registry does not speak TLS there: list the host as insecure if plain HTTP is meant"
            }
            _ => "check the registry's TLS settings",
        };
        Self::Tls {
            reason: error.to_string(),
            hint: hint.to_owned(),
        }
    }
}

pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// A URL fit to be shown: scheme, host, port and path only.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// Text of a registry fit to be shown: one line, no control characters, capped.
pub(super) fn one_line(text: &str) -> Option<String> {
    const LIMIT: usize = 300;
    let cleaned: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<&str> = cleaned.split_whitespace().collect();
    let line = words.join(" ");
    let short: String = line.chars().take(LIMIT).collect();
    (!short.is_empty()).then(|| {
        if short.len() < line.len() {
            format!("{short}…")
        } else {
            short
        }
    })
}

/// Reads code and message out of an error's body: the distribution spec's `errors` list, the
/// flat objects that token servers and proxies send, or a short plain text.
pub(super) fn explanation(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let is_page = text.trim_start().starts_with('<');
        return (None, if is_page { None } else { one_line(&text) });
    };
    let object = json
        .get("errors")
        .and_then(|errors| errors.get(0))
        .unwrap_or(&json);
    let text = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| object.get(key)?.as_str())
            .and_then(one_line)
    };
    let code = text(&["code", "error"]);
    let message = text(&["message", "error_description", "details", "detail"]);
    (code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_are_read_from_every_common_form() {
        let pair = |body: &str| {
            let (code, message) = explanation(body.as_bytes());
            (code.unwrap_or_default(), message.unwrap_or_default())
        };
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                "MANIFEST_UNKNOWN",
                "manifest unknown",
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                "",
                "incorrect username or password",
            ),
            (
                r#"{"error":"invalid_grant","error_description":"bad\ntoken"}"#,
                "invalid_grant",
                "bad token",
            ),
            (r#"{"errors":[]}"#, "", ""),
            ("<html>nginx</html>", "", ""),
            ("slow down\r\n", "", "slow down"),
            ("", "", ""),
        ] {
            assert_eq!(pair(body), (code.to_owned(), message.to_owned()), "{body}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let line = one_line(&"é".repeat(1000)).unwrap();
        assert_eq!(line.chars().count(), 301);
        assert_eq!(one_line("\u{1b}[31m x").as_deref(), Some("[31m x"));
    }

    #[test]
    fn urls_are_shown_without_their_keys() {
        let url = Url::parse("https://user:pw@s3.example:8443/a/b?X-Amz-Signature=1#f").unwrap();
        assert_eq!(shown(&url), "https://s3.example:8443/a/b");
    }

    #[test]
    fn an_error_names_act_host_code_and_remedy() {
        let error = RegistryError::new(
            "resolve `alpine:9`",
            "docker.io",
            ErrorKind::Status(StatusError {
                status: 404,
                code: Some("MANIFEST_UNKNOWN".to_owned()),
                message: Some("manifest unknown".to_owned()),
                hint: Some("check the name and the tag".to_owned()),
            }),
        );
        assert_eq!(
            error.to_string(),
            "cannot resolve `alpine:9` at registry `docker.io`: 404 Not Found (MANIFEST_UNKNOWN: manifest unknown); check the name and the tag"
        );
        assert!(error.is_not_found());
    }

    #[test]
    fn a_missing_platform_lists_those_that_are_there() {
        let platforms = ["linux/amd64", "linux/arm/v7"];
        let kind = ErrorKind::NoPlatform {
            wanted: "linux/s390x".parse().unwrap(),
            available: platforms.iter().map(|p| p.parse().unwrap()).collect(),
        };
        assert_eq!(
            kind.to_string(),
            "no image for platform `linux/s390x`; it has `linux/amd64`, `linux/arm/v7`"
        );
    }
}
