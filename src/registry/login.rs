//! Asking a registry whether it takes a credential, before that is kept.
//!
//! `GET /v2/` (OCI distribution spec 1.1, "Determining Support") is answered by every registry,
//! and with 401 and a challenge by those that want to know who asks. Nothing of what is learnt
//! here is kept by the client.

use reqwest::Method;
use reqwest::header::WWW_AUTHENTICATE;
use url::Url;

use super::Client;
use super::auth::{self, TokenRequest};
use super::challenge::{self, Challenge};
use super::credentials::Credential;
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::transport::{Request, Response};
use crate::reference::DEFAULT_DOMAIN;

/// Why a text is not a registry's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid registry address: {reason}")]
pub struct InvalidServer {
    reason: &'static str,
}

/// The host (`docker.io`, `host:5000`) that a user means by a server: a host, or a URL as Docker
/// takes it too, of which only the host counts.
///
/// # Errors
/// When no host is named. The text isn't repeated: it may hold a password.
pub fn host_of_server(text: &str) -> Result<String, InvalidServer> {
    let invalid = |reason| InvalidServer { reason };
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return Err(invalid("its scheme is not http or https")),
        None => text,
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(invalid("user and password don't belong in it"));
    }
    let url = Url::parse(&format!("https://{host}/"))
        .map_err(|_| invalid("expected a host such as registry.example.org or localhost:5000"))?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("expected a host and nothing behind it"));
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        host => host.to_ascii_lowercase(),
    })
}

impl Client {
    /// Proves a credential to the registry at `host` (`docker.io`, `host:5000`). Gives the one to
    /// keep: an identity token where the registry hands one out, else the same.
    ///
    /// # Errors
    /// The registry can't be reached or refuses the credential.
    pub async fn log_in(
        &self,
        host: &str,
        credential: &Credential,
    ) -> Result<Credential, RegistryError> {
        let endpoint = Endpoint::of_domain(host);
        self.try_log_in(&endpoint, credential)
            .await
            .map_err(|kind| RegistryError::new("log in", endpoint.name.clone(), explained(kind)))
    }

    async fn try_log_in(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
    ) -> Result<Credential, ErrorKind> {
        let transport = &self.inner.transport;
        let origin = transport.origin(endpoint).await?;
        let url = origin
            .join("v2/")
            .map_err(|error| ErrorKind::malformed("the URL", error.to_string()))?;
        let mut request = Request::new(Method::GET, url);
        let first = transport.exchange(&request).await?;
        if first.status() == 200 {
            // It lets everyone in: nothing can be proved.
            return Ok(credential.clone());
        }
        let Some(challenge) = challenge_of(&first) else {
            return Err(first.into_error().await);
        };
        let mut kept = credential.clone();
        request.authorization = match (credential, challenge) {
            (Credential::RegistryToken(_), _) | (_, Challenge::Basic) => {
                auth::basic_header(credential)?
            }
            (
                _,
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
            ) => {
                let scopes = scope.iter().flat_map(|scope| scope.split(' '));
                let scopes: Vec<String> = scopes.map(str::to_owned).collect();
                let wanted = TokenRequest {
                    realm: auth::checked_realm(&realm, &origin)?,
                    service: service.as_deref(),
                    scopes: &scopes,
                    offline: true,
                };
                let token = wanted.fetch(transport, Some(credential)).await?;
                if let Some(refresh) = token.refresh {
                    kept = Credential::IdentityToken(refresh);
                }
                Some(token.header)
            }
        };
        let answer = transport.exchange(&request).await?;
        match answer.status() {
            200 => Ok(kept),
            _ => Err(answer.into_error().await),
        }
    }
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    if response.status() != 401 || response.foreign {
        return None;
    }
    let values = response.headers().get_all(WWW_AUTHENTICATE);
    challenge::best(values.iter().filter_map(|value| value.to_str().ok()))
}

/// Says what a refusal means here, where the credentials were just given.
fn explained(mut kind: ErrorKind) -> ErrorKind {
    if let ErrorKind::Status(error) = &mut kind {
        let hint = match error.status {
            401 | 403 => "the user name or the password is wrong",
            404 => "there is no registry at this address",
            _ => return kind,
        };
        error.hint = Some(hint.to_owned());
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_however_it_is_written() {
        for (text, host) in [
            ("registry.example.org", "registry.example.org"),
            ("Registry.Example.org", "registry.example.org"),
            ("localhost:5000", "localhost:5000"),
            ("https://registry.example.org", "registry.example.org"),
            (
                "https://registry.example.org:5000/v2/",
                "registry.example.org:5000",
            ),
            ("http://10.0.0.1:5000/", "10.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
        ] {
            assert_eq!(host_of_server(text).as_deref(), Ok(host), "{text}");
        }
        for text in [
            "",
            "https://",
            "ftp://host",
            "https://me:hunter2@host",
            "me:hunter2@host",
            "host?x=hunter2",
            "a b",
        ] {
            let error = host_of_server(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
