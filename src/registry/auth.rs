//! Proving to a registry who asks: from its challenge to an `Authorization` header.
//!
//! A challenge is learnt once per registry; afterwards each request brings its token along.
//! Tokens are kept per set of scopes and fetched with exactly the scopes an act needs. A
//! registry's credentials go to that registry and to the token server that it names, over
//! HTTPS, and nowhere else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use url::{Url, form_urlencoded};

use super::challenge::{self, Challenge};
use super::credentials::{Credential, Credentials, Secret};
use super::endpoint::{Endpoint, is_loopback};
use super::error::{ErrorKind, shown};
use super::transport::{Body, Request, Response, Transport};

const CLIENT_ID: &str = "rbuild";
const MAX_TOKEN_RESPONSE: u64 = 1 << 20;
/// The lifetime of a token that names none (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last moments: the request still has to get there.
const MARGIN: Duration = Duration::from_secs(10);

/// What a token must allow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Scope {
    pub(super) repository: String,
    pub(super) push: bool,
}

impl Scope {
    fn text(&self) -> String {
        let actions = if self.push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.repository)
    }
}

/// What is known of the credentials for a registry, to explain a refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CredentialState {
    /// Nothing asked for any yet.
    NotAsked,
    /// There are none.
    Missing,
    /// They were used.
    Used,
    /// They could not be read.
    Unreadable(String),
}

/// The tokens of all registries.
pub(super) struct Authenticator {
    credentials: Arc<Credentials>,
    hosts: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<HostState>>>>,
}

#[derive(Default)]
struct HostState {
    challenge: Option<Challenge>,
    tokens: BTreeMap<Vec<String>, Token>,
    credentials: BTreeMap<String, Found>,
}

#[derive(Clone)]
struct Found {
    credential: Option<Credential>,
    state: CredentialState,
}

pub(super) struct Token {
    pub(super) header: HeaderValue,
    expires: Instant,
    /// An identity token, where one was asked for and the server hands them out.
    pub(super) refresh: Option<Secret>,
}

/// Who is asked, for what.
pub(super) struct Audience<'a> {
    pub(super) transport: &'a Transport,
    pub(super) endpoint: &'a Endpoint,
    pub(super) origin: &'a Url,
    /// The first one names the repository whose credentials are used.
    pub(super) scopes: &'a [Scope],
}

impl Audience<'_> {
    fn repository(&self) -> &str {
        self.scopes.first().map_or("", |scope| &scope.repository)
    }

    fn scope_texts(&self) -> Vec<String> {
        self.scopes.iter().map(Scope::text).collect()
    }
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials: Arc::new(credentials),
            hosts: Mutex::default(),
        }
    }

    fn host(&self, name: &str) -> Arc<tokio::sync::Mutex<HostState>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(name.to_owned()).or_default().clone()
    }

    /// What is known of the credentials for `repository`.
    pub(super) async fn state(&self, endpoint: &Endpoint, repository: &str) -> CredentialState {
        let host = self.host(&endpoint.name);
        let state = host.lock().await;
        let found = state.credentials.get(repository);
        found.map_or(CredentialState::NotAsked, |found| found.state.clone())
    }

    /// The header to send along, as far as the registry has said what it wants.
    pub(super) async fn authorization(
        &self,
        audience: &Audience<'_>,
    ) -> Result<Option<HeaderValue>, ErrorKind> {
        let host = self.host(&audience.endpoint.name);
        let mut state = host.lock().await;
        match state.challenge.clone() {
            Some(challenge) => self.answer(&mut state, audience, &challenge).await,
            None => Ok(None),
        }
    }

    /// The header to try next after `refused`, a 401 to a request that carried `used`; `None`
    /// if there is nothing else to try.
    pub(super) async fn challenged(
        &self,
        audience: &Audience<'_>,
        used: Option<&HeaderValue>,
        refused: &Response,
    ) -> Result<Option<HeaderValue>, ErrorKind> {
        let values = refused.headers().get_all(WWW_AUTHENTICATE);
        let texts = values.iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::best(texts) else {
            return Ok(None);
        };
        let host = self.host(&audience.endpoint.name);
        let mut state = host.lock().await;
        state.challenge = Some(lasting(&challenge));
        let key = audience.scope_texts();
        match state.tokens.get(&key) {
            // Another request has renewed it in the meantime.
            Some(token) if Some(&token.header) != used => return Ok(Some(token.header.clone())),
            _ => state.tokens.remove(&key),
        };
        let header = self.answer(&mut state, audience, &challenge).await?;
        Ok(header.filter(|header| Some(header) != used))
    }

    async fn answer(
        &self,
        state: &mut HostState,
        audience: &Audience<'_>,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, ErrorKind> {
        let credential = self.credential(state, audience).await;
        if let Some(Credential::RegistryToken(token)) = &credential {
            return secret_header(format!("Bearer {}", token.expose())).map(Some);
        }
        match challenge {
            Challenge::Basic => match &credential {
                Some(credential) => basic_header(credential),
                None => Ok(None),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let key = audience.scope_texts();
                if let Some(token) = state.tokens.get(&key)
                    && token.expires > Instant::now()
                {
                    return Ok(Some(token.header.clone()));
                }
                let mut scopes = key.clone();
                for asked in scope.iter().flat_map(|scope| scope.split(' ')) {
                    if !asked.is_empty() && !covers(audience.scopes, asked) {
                        scopes.push(asked.to_owned());
                    }
                }
                let wanted = TokenRequest {
                    realm: checked_realm(realm, audience.origin)?,
                    service: service.as_deref(),
                    scopes: &scopes,
                    offline: false,
                };
                let token = wanted
                    .fetch(audience.transport, credential.as_ref())
                    .await?;
                let header = token.header.clone();
                state.tokens.insert(key, token);
                Ok(Some(header))
            }
        }
    }

    async fn credential(
        &self,
        state: &mut HostState,
        audience: &Audience<'_>,
    ) -> Option<Credential> {
        let repository = audience.repository();
        if let Some(found) = state.credentials.get(repository) {
            return found.credential.clone();
        }
        let credentials = self.credentials.clone();
        let host = audience.endpoint.name.clone();
        let name = repository.to_owned();
        // Reading files and running helpers blocks.
        let looked_up = tokio::task::spawn_blocking(move || credentials.lookup(&host, &name)).await;
        let found = match looked_up {
            Ok(Ok(Some(credential))) => Found {
                credential: Some(credential),
                state: CredentialState::Used,
            },
            Ok(Ok(None)) => Found {
                credential: None,
                state: CredentialState::Missing,
            },
            // What is public can be had without; a refusal will name the reason.
            Ok(Err(error)) => {
                tracing::debug!("{error}");
                Found {
                    credential: None,
                    state: CredentialState::Unreadable(error.to_string()),
                }
            }
            Err(_) => Found {
                credential: None,
                state: CredentialState::Unreadable("the look-up was interrupted".to_owned()),
            },
        };
        state
            .credentials
            .insert(repository.to_owned(), found.clone());
        found.credential
    }
}

/// What a challenge says of the registry as a whole: all but the scopes of one repository.
fn lasting(challenge: &Challenge) -> Challenge {
    match challenge {
        Challenge::Basic => Challenge::Basic,
        Challenge::Bearer {
            realm,
            service,
            scope,
        } => {
            let scopes = scope.iter().flat_map(|scope| scope.split(' '));
            let general: Vec<&str> = scopes.filter(|s| !s.starts_with("repository:")).collect();
            Challenge::Bearer {
                realm: realm.clone(),
                service: service.clone(),
                scope: (!general.is_empty()).then(|| general.join(" ")),
            }
        }
    }
}

/// Whether the scopes that are asked for anyway allow all that `asked` does.
fn covers(scopes: &[Scope], asked: &str) -> bool {
    scopes.iter().any(|scope| {
        asked
            .strip_prefix("repository:")
            .and_then(|rest| rest.strip_prefix(scope.repository.as_str()))
            .and_then(|rest| rest.strip_prefix(':'))
            .is_some_and(|actions| {
                actions
                    .split(',')
                    .all(|action| action == "pull" || (scope.push && action == "push"))
            })
    })
}

/// The token server's URL, if credentials may go there: over HTTPS, to this machine, or to the
/// very host that is spoken to in the clear anyway.
pub(super) fn checked_realm(realm: &str, origin: &Url) -> Result<Url, ErrorKind> {
    let url = Url::parse(realm)
        .map_err(|error| ErrorKind::malformed("the token server's URL", error.to_string()))?;
    let same_plain_host = origin.scheme() == "http" && url.host_str() == origin.host_str();
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) || same_plain_host => Ok(url),
        "http" => Err(ErrorKind::InsecureRealm(shown(&url))),
        _ => Err(ErrorKind::malformed(
            "the token server's URL",
            "it is not an HTTP URL",
        )),
    }
}

fn secret_header(text: String) -> Result<HeaderValue, ErrorKind> {
    let mut header = HeaderValue::from_str(&text).map_err(|_| {
        ErrorKind::malformed("the credential or token", "it holds control characters")
    })?;
    header.set_sensitive(true);
    Ok(header)
}

pub(super) fn basic_header(credential: &Credential) -> Result<Option<HeaderValue>, ErrorKind> {
    match credential {
        Credential::Basic { username, password } => {
            let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
            secret_header(format!("Basic {pair}")).map(Some)
        }
        Credential::RegistryToken(token) => {
            secret_header(format!("Bearer {}", token.expose())).map(Some)
        }
        Credential::IdentityToken(_) => Ok(None),
    }
}

pub(super) struct TokenRequest<'a> {
    pub(super) realm: Url,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a [String],
    /// Whether a token for later is asked for, too.
    pub(super) offline: bool,
}

impl TokenRequest<'_> {
    pub(super) async fn fetch(
        &self,
        transport: &Transport,
        credential: Option<&Credential>,
    ) -> Result<Token, ErrorKind> {
        let request = match credential {
            Some(Credential::IdentityToken(token)) => self.exchange_identity(token.expose()),
            other => self.get(other)?,
        };
        let response = transport.exchange(&request).await?;
        if response.status() != 200 {
            return Err(response.into_error().await);
        }
        let body = response
            .bytes("the token server's answer", MAX_TOKEN_RESPONSE)
            .await?;
        parse_token(&body)
    }

    /// Distribution's token specification: a GET, with the password as basic authentication.
    fn get(&self, credential: Option<&Credential>) -> Result<Request<'static>, ErrorKind> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = self.service {
                query.append_pair("service", service);
            }
            for scope in self.scopes {
                query.append_pair("scope", scope);
            }
            query.append_pair("client_id", CLIENT_ID);
            if self.offline {
                query.append_pair("offline_token", "true");
            }
            if let Some(Credential::Basic { username, .. }) = credential {
                query.append_pair("account", username);
            }
        }
        let mut request = Request::new(Method::GET, url);
        if let Some(credential) = credential {
            request.authorization = basic_header(credential)?;
        }
        Ok(request)
    }

    /// Distribution's OAuth2 specification: a POST that changes a refresh token for a bearer token.
    fn exchange_identity(&self, token: &str) -> Request<'static> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", token)
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", &self.scopes.join(" "));
        if let Some(service) = self.service {
            form.append_pair("service", service);
        }
        Request::new(Method::POST, self.realm.clone())
            .header(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            )
            .body(Body::Bytes(Bytes::from(form.finish())))
    }
}

fn parse_token(body: &[u8]) -> Result<Token, ErrorKind> {
    // Typed parsing would repeat the token in its error.
    let malformed = |reason: &str| ErrorKind::malformed("the token server's answer", reason);
    let json: serde_json::Value =
        serde_json::from_slice(body).map_err(|_| malformed("it is not JSON"))?;
    let text = |key: &str| {
        let text = json.get(key).and_then(serde_json::Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    let token = text("token")
        .or_else(|| text("access_token"))
        .ok_or_else(|| malformed("it holds no token"))?;
    let lifetime = json
        .get("expires_in")
        .and_then(serde_json::Value::as_u64)
        .filter(|seconds| *seconds > 0)
        .map_or(DEFAULT_LIFETIME, |seconds| {
            Duration::from_secs(seconds.min(86_400))
        });
    Ok(Token {
        header: secret_header(format!("Bearer {token}"))?,
        expires: Instant::now() + lifetime.saturating_sub(MARGIN),
        refresh: text("refresh_token").map(Secret::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_only_to_token_servers_that_are_safe() {
        for (realm, origin, safe) in [
            (
                "https://auth.docker.io/token",
                "https://registry-1.docker.io/",
                true,
            ),
            (
                "https://elsewhere.io/token",
                "http://registry.lan:5000/",
                true,
            ),
            ("http://auth.io/token", "https://registry.io/", false),
            ("http://registry.io/token", "https://registry.io/", false),
            (
                "http://registry.lan:5001/token",
                "http://registry.lan:5000/",
                true,
            ),
            ("http://other.lan/token", "http://registry.lan:5000/", false),
            ("http://127.0.0.1:9/token", "http://localhost:5000/", true),
            ("file:///etc/passwd", "https://registry.io/", false),
            ("/token", "https://registry.io/", false),
        ] {
            let origin = Url::parse(origin).unwrap();
            assert_eq!(
                checked_realm(realm, &origin).is_ok(),
                safe,
                "{realm} for {origin}"
            );
        }
    }

    #[test]
    fn scopes_that_are_asked_for_anyway_are_not_doubled() {
        let scopes = [Scope {
            repository: "a/b".to_owned(),
            push: true,
        }];
        for (asked, covered) in [
            ("repository:a/b:pull", true),
            ("repository:a/b:pull,push", true),
            ("repository:a/b:delete", false),
            ("repository:a:pull", false),
            ("repository:prefix/a/b:pull", false),
            ("registry:catalog:*", false),
        ] {
            assert_eq!(covers(&scopes, asked), covered, "{asked}");
        }
    }

    #[test]
    fn what_a_challenge_says_of_one_repository_is_forgotten() {
        let bearer = |scope: Option<&str>| Challenge::Bearer {
            realm: "https://t".to_owned(),
            service: None,
            scope: scope.map(str::to_owned),
        };
        for (scope, kept) in [
            (None, None),
            (Some("repository:a:pull"), None),
            (Some("aws"), Some("aws")),
            (
                Some("repository:a:pull aws registry:x:*"),
                Some("aws registry:x:*"),
            ),
        ] {
            assert_eq!(lasting(&bearer(scope)), bearer(kept));
        }
    }

    #[test]
    fn a_token_request_holds_service_scopes_and_account() {
        let scopes = [
            "repository:a:pull,push".to_owned(),
            "repository:b:pull".to_owned(),
        ];
        let wanted = TokenRequest {
            realm: Url::parse("https://t.io/token?x=1").unwrap(),
            service: Some("s.io"),
            scopes: &scopes,
            offline: false,
        };
        let credential = Credential::Basic {
            username: "me".to_owned(),
            password: Secret::new("s3cr3t"),
        };
        let request = wanted.get(Some(&credential)).unwrap();
        assert_eq!(
            request.url.as_str(),
            "https://t.io/token?x=1&service=s.io&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull&client_id=rbuild&account=me"
        );
        let header = request.authorization.unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic bWU6czNjcjN0");
        assert!(header.is_sensitive());
    }

    #[test]
    fn tokens_are_read_from_either_member() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some("Bearer a")),
            (r#"{"access_token":"b","expires_in":300}"#, Some("Bearer b")),
            (r#"{"token":"","access_token":"c"}"#, Some("Bearer c")),
            (r#"{"token":"a\nb"}"#, None),
            ("{}", None),
            ("no", None),
        ] {
            let token = parse_token(body.as_bytes());
            let header = token.as_ref().ok().map(|t| t.header.to_str().unwrap());
            assert_eq!(header, expected, "{body}");
        }
    }
}
