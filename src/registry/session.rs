//! One act at one registry: its URLs, its authentication, and errors that say what to do.

use reqwest::Method;
use url::Url;

use super::auth::{Audience, CredentialState, Scope};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::transport::{Request, Response};
use super::{Client, Inner};
use crate::reference::Reference;

/// One act, such as "pull blob `sha256:…` of `alpine`", at one host.
pub(super) struct Session<'c> {
    client: &'c Inner,
    endpoint: Endpoint,
    origin: Url,
    action: String,
    repository: String,
    scopes: Vec<Scope>,
}

/// How often a request is made before its failure counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tries {
    /// As often as the client's policy says.
    Policy,
    /// Once: the caller decides where to begin anew.
    One,
}

impl<'c> Session<'c> {
    /// Begins an act. `push` says whether its tokens must allow writing.
    pub(super) async fn open(
        client: &'c Client,
        endpoint: Endpoint,
        reference: &Reference,
        push: bool,
        action: impl Into<String>,
    ) -> Result<Self, RegistryError> {
        let action = action.into();
        let client = &*client.inner;
        let origin = match client.transport.origin(&endpoint).await {
            Ok(origin) => origin,
            Err(kind) => return Err(RegistryError::new(action, endpoint.name, kind)),
        };
        let repository = reference.repository().to_owned();
        let scope = Scope {
            repository: repository.clone(),
            push,
        };
        Ok(Self {
            client,
            endpoint,
            origin,
            action,
            repository,
            scopes: vec![scope],
        })
    }

    /// The same with the right to read from a further repository.
    pub(super) fn reading_from(mut self, repository: &str) -> Self {
        self.scopes.push(Scope {
            repository: repository.to_owned(),
            push: false,
        });
        self
    }

    pub(super) fn client(&self) -> &'c Inner {
        self.client
    }

    /// `<origin>/v2/<repository>/<rest>`.
    pub(super) fn url(&self, rest: &str) -> Result<Url, ErrorKind> {
        let base = self.origin.as_str().trim_end_matches('/');
        let text = format!("{base}/v2/{}/{rest}", self.repository);
        Url::parse(&text).map_err(|error| ErrorKind::malformed("the URL", error.to_string()))
    }

    /// A request to `<origin>/v2/<repository>/<rest>`.
    pub(super) fn request(
        &self,
        method: Method,
        rest: &str,
    ) -> Result<Request<'static>, ErrorKind> {
        Ok(Request::new(method, self.url(rest)?))
    }

    /// Makes a request with the credentials it needs. Statuses other than a passing failure
    /// and a first 401 are the caller's to judge.
    pub(super) async fn exchange(
        &self,
        request: &mut Request<'_>,
        tries: Tries,
    ) -> Result<Response, ErrorKind> {
        // An upload's location may be another host, which has its own means of trust.
        let is_home = request.url.origin() == self.origin.origin();
        let authenticator = &self.client.authenticator;
        let audience = self.audience();
        if is_home {
            request.authorization = authenticator.authorization(&audience).await?;
        }
        let response = self.send(request, tries).await?;
        if response.status() != 401 || response.foreign || !is_home {
            return Ok(response);
        }
        let used = request.authorization.take();
        match authenticator
            .challenged(&audience, used.as_ref(), &response)
            .await?
        {
            Some(authorization) => {
                request.authorization = Some(authorization);
                self.send(request, tries).await
            }
            None => Ok(response),
        }
    }

    async fn send(&self, request: &Request<'_>, tries: Tries) -> Result<Response, ErrorKind> {
        match tries {
            Tries::Policy => self.client.transport.exchange(request).await,
            Tries::One => self.client.transport.exchange_once(request).await,
        }
    }

    fn audience(&self) -> Audience<'_> {
        Audience {
            transport: &self.client.transport,
            endpoint: &self.endpoint,
            origin: &self.origin,
            scopes: &self.scopes,
        }
    }

    /// `Location` as a place that may be written to: where the registry forgets that it is
    /// reached through TLS, its own scheme is put back.
    pub(super) fn upload_location(&self, response: &Response) -> Result<Url, ErrorKind> {
        let mut url = response.location()?;
        if url.scheme() == "http" && self.origin.scheme() == "https" {
            let is_home = url.host_str() == self.origin.host_str()
                && matches!(url.port(), None | Some(443))
                || (url.host_str(), url.port()) == (self.origin.host_str(), self.origin.port());
            if !is_home {
                return Err(ErrorKind::InsecureRedirect(super::error::shown(&url)));
            }
            let port = self.origin.port();
            let changed = url.set_scheme("https").and_then(|()| url.set_port(port));
            changed.map_err(|()| ErrorKind::malformed("the `Location` header", "no HTTP URL"))?;
        }
        Ok(url)
    }

    /// The act's error, with what to do about it. `if_missing` is the advice for a 404.
    pub(super) async fn error(&self, mut kind: ErrorKind, if_missing: &str) -> RegistryError {
        if let ErrorKind::Status(error) = &mut kind
            && error.hint.is_none()
        {
            error.hint = match error.status {
                401 | 403 => Some(self.credentials_hint().await),
                404 if !if_missing.is_empty() => Some(if_missing.to_owned()),
                429 => Some(
                    "the registry limits how often it may be asked: wait, or use credentials with a higher limit"
                        .to_owned(),
                ),
                500..=599 => Some("the registry has a problem of its own: try again later".to_owned()),
                _ => None,
            };
        }
        RegistryError::new(self.action.clone(), self.endpoint.name.clone(), kind)
    }

    async fn credentials_hint(&self) -> String {
        let host = &self.endpoint.name;
        let advice = format!("check the credentials for `{host}` in ~/.docker/config.json");
        let authenticator = &self.client.authenticator;
        match authenticator.state(&self.endpoint, &self.repository).await {
            CredentialState::NotAsked => advice,
            CredentialState::Used => format!("{advice} (those found there were refused)"),
            CredentialState::Missing => {
                format!("the repository does not exist or is private: {advice} (none were found)")
            }
            CredentialState::Unreadable(reason) => format!("{advice} ({reason})"),
        }
    }
}
