//! Where a registry is reached: the way from the domain in an image's name to a host.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

use super::error::shown;
use crate::reference::{DEFAULT_DOMAIN, Reference};

const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A mirror of Docker Hub: `https://mirror.example` or `http://10.0.0.1:5000/prefix`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror(Url);

/// Why a string is not a mirror's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid registry mirror `{shown}`: {reason}")]
pub struct InvalidMirror {
    shown: String,
    reason: &'static str,
}

impl FromStr for Mirror {
    type Err = InvalidMirror;

    fn from_str(text: &str) -> Result<Self, InvalidMirror> {
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|_| InvalidMirror {
            shown: "…".to_owned(),
            reason: "expected a URL such as https://mirror.example",
        })?;
        let invalid = |reason| InvalidMirror {
            shown: shown(&url),
            reason,
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid("expected an http or https URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "credentials belong in ~/.docker/config.json, not in a URL",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("a query or fragment has no meaning here"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// One host that serves a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    /// How the registry is named to people and in credential files: `docker.io`, `host:5000`.
    pub(super) name: String,
    pub(super) address: Address,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Address {
    /// The scheme is part of the configuration.
    Fixed(Url),
    /// `host[:port]`; HTTPS, unless the host may be spoken to in the clear.
    Authority(String),
}

impl Endpoint {
    /// The registry that a reference names.
    pub(super) fn of(reference: &Reference) -> Self {
        Self::of_domain(reference.domain())
    }

    /// The registry of a domain as references have it: `docker.io`, `host:5000`.
    pub(super) fn of_domain(domain: &str) -> Self {
        let authority = match domain {
            DEFAULT_DOMAIN => DOCKER_HUB_HOST,
            other => other,
        };
        Self {
            name: domain.to_owned(),
            address: Address::Authority(authority.to_owned()),
        }
    }

    /// Whether it stands in for the registry, which can be asked too.
    pub(super) fn is_mirror(&self) -> bool {
        matches!(self.address, Address::Fixed(_))
    }

    /// Every endpoint to pull from, in order: the mirrors of Docker Hub, then the registry.
    pub(super) fn for_pull(reference: &Reference, mirrors: &[Mirror]) -> Vec<Self> {
        let mirrors = if reference.domain() == DEFAULT_DOMAIN {
            mirrors
        } else {
            &[]
        };
        let mirrors = mirrors.iter().map(|Mirror(url)| Self {
            name: authority_of(url),
            address: Address::Fixed(url.clone()),
        });
        mirrors.chain([Self::of(reference)]).collect()
    }
}

/// `host[:port]` of a URL, the port only where it is not the scheme's own.
pub(super) fn authority_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether `url` names this machine, as Docker decides it: `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(domain)) => domain.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::is_loopback(&address),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_is_reached_by_its_api_host_after_its_mirrors() {
        let mirrors: Vec<Mirror> = vec!["mirror.example".parse().unwrap()];
        let names = |text: &str| {
            let reference: Reference = text.parse().unwrap();
            let endpoints = Endpoint::for_pull(&reference, &mirrors);
            endpoints.into_iter().map(|e| e.name).collect::<Vec<_>>()
        };
        assert_eq!(names("alpine"), ["mirror.example", "docker.io"]);
        assert_eq!(names("ghcr.io/a/b"), ["ghcr.io"]);
        assert_eq!(
            Endpoint::of(&"alpine".parse().unwrap()).address,
            Address::Authority("registry-1.docker.io".to_owned())
        );
    }

    #[test]
    fn loopback_hosts_are_known() {
        for (url, expected) in [
            ("http://localhost/", true),
            ("http://LOCALHOST:5000/", true),
            ("http://127.0.0.1/", true),
            ("http://127.8.9.1/", true),
            ("http://[::1]:5000/", true),
            ("http://localhost.example/", false),
            ("http://128.0.0.1/", false),
            ("http://[::2]/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn mirrors_are_urls_without_credentials() {
        for (text, expected) in [
            ("https://m.example", Ok("https://m.example/")),
            ("m.example:5000", Ok("https://m.example:5000/")),
            ("http://m.example/p", Ok("http://m.example/p")),
            ("https://u:secret@m.example", Err(())),
            ("ftp://m.example", Err(())),
            ("https://m.example/?a=b", Err(())),
            ("", Err(())),
        ] {
            let mirror = text.parse::<Mirror>();
            if let Err(error) = &mirror {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
            let shown = mirror.map(|m| m.to_string()).map_err(|_| ());
            assert_eq!(shown, expected.map(str::to_owned), "{text}");
        }
    }
}
