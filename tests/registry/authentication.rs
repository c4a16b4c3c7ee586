//! Who is told which secret, and how often.

use std::sync::{Arc, OnceLock};

use rbuild::registry::{Client, ClientOptions, Credential, Credentials, Secret};

use super::fake::{Fake, Reply, Seen, client, quick};
use super::images::digest;

const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

fn manifest() -> Reply {
    Reply::new(200)
        .header("content-type", INDEX_TYPE)
        .header("docker-content-digest", digest(MANIFEST))
        .body(MANIFEST)
}

fn password() -> Credential {
    Credential::Basic {
        username: "me".to_owned(),
        password: Secret::new("s3cr3t"),
    }
}

fn client_with(host: &str, credential: Credential) -> Client {
    Client::new(ClientOptions {
        credentials: Credentials::none().with(host, credential),
        ..quick()
    })
}

/// A registry that wants the bearer tokens it gives out at `/token`, numbered per request for one.
async fn token_registry(lifetime: u64) -> Arc<Fake> {
    let address: Arc<OnceLock<String>> = Arc::default();
    let own = address.clone();
    let fake = Fake::start(move |seen: &Seen, before| {
        if seen.target.starts_with("/token") {
            let scope = seen.target.split("scope=").nth(1).unwrap_or("none");
            let scope = scope.split('&').next().unwrap();
            return Reply::new(200).body(format!(
                r#"{{"token":"{scope}-{before}","expires_in":{lifetime}}}"#
            ));
        }
        if seen.authorization().starts_with("Bearer ") {
            return manifest();
        }
        let realm = format!("http://{}/token", own.get().unwrap());
        Reply::new(401).header(
            "www-authenticate",
            format!(r#"Bearer realm="{realm}",service="fake",scope="repository:app:pull""#),
        )
    })
    .await;
    address.set(fake.address.clone()).unwrap();
    Arc::new(fake)
}

#[tokio::test]
async fn a_token_is_fetched_once_and_sent_along_from_then_on() {
    let fake = token_registry(300).await;
    let client = client_with(&fake.address, password());
    let reference = fake.reference("app:1");
    for _ in 0..3 {
        client.resolve(&reference).await.unwrap();
    }
    let token = "/token?service=fake&scope=repository%3Aapp%3Apull&client_id=rbuild&account=me";
    assert_eq!(
        fake.lines(),
        [
            "HEAD /v2/app/manifests/1",
            &format!("GET {token}"),
            "HEAD /v2/app/manifests/1",
            "HEAD /v2/app/manifests/1",
            "HEAD /v2/app/manifests/1",
        ]
    );
    let authorizations: Vec<String> = fake
        .seen()
        .iter()
        .map(|s| s.authorization().to_owned())
        .collect();
    let bearer = "Bearer repository%3Aapp%3Apull-0";
    assert_eq!(
        authorizations,
        ["none", "Basic bWU6czNjcjN0", bearer, bearer, bearer]
    );
}

#[tokio::test]
async fn acts_at_the_same_time_share_one_token_request() {
    let fake = token_registry(300).await;
    let client = client();
    let reference = fake.reference("app:1");
    let acts = (0..8).map(|_| client.resolve(&reference));
    for outcome in futures_util::future::join_all(acts).await {
        outcome.unwrap();
    }
    let tokens = fake.lines().iter().filter(|l| l.contains("/token")).count();
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    // Shorter than the margin that is kept: every token is stale at once.
    let fake = token_registry(1).await;
    let client = client();
    let reference = fake.reference("app:1");
    client.resolve(&reference).await.unwrap();
    client.resolve(&reference).await.unwrap();
    let tokens = fake.lines().iter().filter(|l| l.contains("/token")).count();
    assert_eq!(tokens, 2);
}

#[tokio::test]
async fn pushing_asks_for_the_scope_it_needs_and_a_mount_for_the_other_repository_too() {
    let fake = token_registry(300).await;
    let client = client();
    let blob = digest(b"x");
    client
        .has_blob(&fake.reference("app"), &blob)
        .await
        .unwrap();
    // The scripted answer is no upload; only the question matters here.
    let _ = client
        .mount_blob(&fake.reference("app"), &fake.reference("base"), &blob)
        .await;
    let tokens: Vec<String> = fake
        .lines()
        .into_iter()
        .filter(|line| line.contains("/token"))
        .collect();
    assert_eq!(
        tokens,
        [
            "GET /token?service=fake&scope=repository%3Aapp%3Apull%2Cpush&client_id=rbuild",
            "GET /token?service=fake&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull&client_id=rbuild",
        ]
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let address: Arc<OnceLock<String>> = Arc::default();
    let own = address.clone();
    let fake = Fake::start(move |seen, _| match seen.line().as_str() {
        "POST /token" => Reply::new(200).body(r#"{"access_token":"fresh"}"#),
        _ if seen.authorization() == "Bearer fresh" => manifest(),
        _ => Reply::new(401).header(
            "www-authenticate",
            format!(
                r#"Bearer realm="http://{}/token",service="s""#,
                own.get().unwrap()
            ),
        ),
    })
    .await;
    address.set(fake.address.clone()).unwrap();
    let client = client_with(
        &fake.address,
        Credential::IdentityToken(Secret::new("long lived")),
    );
    client.resolve(&fake.reference("app:1")).await.unwrap();
    let seen = fake.seen();
    let post = seen.iter().find(|s| s.method == "POST").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&post.body),
        "grant_type=refresh_token&refresh_token=long+lived&client_id=rbuild&scope=repository%3Aapp%3Apull&service=s"
    );
}

#[tokio::test]
async fn basic_credentials_are_sent_only_after_they_are_asked_for() {
    let fake = Fake::start(|seen, _| match seen.authorization() {
        "Basic bWU6czNjcjN0" => manifest(),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let client = client_with(&fake.address, password());
    client.resolve(&fake.reference("app:1")).await.unwrap();
    assert_eq!(fake.seen()[0].authorization(), "none");
}

#[tokio::test]
async fn a_refusal_names_host_code_and_remedy_but_no_secret() {
    let fake = Fake::start(|_, _| {
        Reply::new(401)
            .header("www-authenticate", "Basic realm=\"x\"")
            .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
    })
    .await;
    let refused = client_with(&fake.address, password());
    let reference = fake.reference("app:1");
    let error = refused.manifest(&reference, None).await.unwrap_err();
    assert!(error.is_denied());
    assert_eq!(
        error.to_string(),
        format!(
            "cannot pull the manifest of `{reference}` at registry `{0}`: 401 Unauthorized (UNAUTHORIZED: authentication required); check the credentials for `{0}` in ~/.docker/config.json (those found there were refused)",
            fake.address
        )
    );
    assert!(!format!("{error:?}").contains("s3cr3t"));

    let error = client()
        .manifest(&reference, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("(none were found)"), "{error}");
}

#[tokio::test]
async fn unreadable_credentials_are_named_only_when_they_were_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, "{ s3cr3t").unwrap();
    let client = Client::new(ClientOptions {
        credentials: Credentials::from_files(vec![path]),
        ..quick()
    });
    let public = Fake::start(|_, _| manifest()).await;
    client.resolve(&public.reference("app:1")).await.unwrap();

    let private = Fake::start(|_, _| Reply::new(401).header("www-authenticate", "Basic")).await;
    let error = client
        .resolve(&private.reference("app:1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("config.json` are malformed"), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_token_server_in_the_clear_elsewhere_gets_nothing() {
    let fake = Fake::start(|_, _| {
        Reply::new(401).header(
            "www-authenticate",
            r#"Bearer realm="http://auth.example.invalid/token?key=s3cr3t",service="s""#,
        )
    })
    .await;
    let client = client_with(&fake.address, password());
    let error = client
        .resolve(&fake.reference("app:1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`http://auth.example.invalid/token` does not use HTTPS"),
        "{error}"
    );
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_credentials() {
    let storage = Fake::start(|_, _| Reply::new(200).body("content")).await;
    let target = format!("http://{}/bucket?signature=1", storage.address);
    let fake = Fake::start(move |seen, _| match seen.authorization() {
        "none" => Reply::new(401).header("www-authenticate", "Basic"),
        _ if seen.target.ends_with("/same") => Reply::new(307).header("location", &target),
        _ => Reply::new(302).header("location", "/same"),
    })
    .await;
    let client = client_with(&fake.address, password());
    let descriptor = rbuild::image::manifest::Descriptor::of("x", b"content");
    let mut sink = Vec::new();
    client
        .blob(&fake.reference("app"), &descriptor, &mut sink, None)
        .await
        .unwrap();
    assert_eq!(sink, b"content");
    let within = fake.seen();
    assert_eq!(within.last().unwrap().line(), "GET /same");
    assert_eq!(within.last().unwrap().authorization(), "Basic bWU6czNjcjN0");
    let beyond = storage.seen();
    assert_eq!(beyond.len(), 1);
    assert_eq!(beyond[0].line(), "GET /bucket?signature=1");
    assert_eq!(beyond[0].authorization(), "none");
}

#[tokio::test]
async fn a_challenge_of_a_foreign_host_is_not_answered() {
    let storage =
        Fake::start(|_, _| Reply::new(401).header("www-authenticate", "Basic realm=\"x\"")).await;
    let target = format!("http://{}/bucket?signature=s3cr3t", storage.address);
    let fake = Fake::start(move |_, _| Reply::new(307).header("location", &target)).await;
    let client = client_with(&fake.address, password());
    let error = client
        .resolve(&fake.reference("app:1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(storage.seen().iter().all(|s| s.authorization() == "none"));
    assert!(
        error.contains(&format!("the answer came from `{}`", storage.address)),
        "{error}"
    );
    assert!(!error.contains("signature"), "{error}");
}

#[tokio::test]
async fn a_login_asks_the_token_server_and_proves_the_token() {
    let address: Arc<OnceLock<String>> = Arc::default();
    let own = address.clone();
    let fake = Fake::start_guarded(move |seen, _| match seen.authorization() {
        "Basic bWU6czNjcjN0" => {
            Reply::new(200).body(r#"{"token":"t","refresh_token":"long lived"}"#)
        }
        "Bearer t" => Reply::new(200),
        _ if seen.target.starts_with("/token") => Reply::new(401)
            .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect password"}]}"#),
        _ => {
            let realm = format!("http://{}/token", own.get().unwrap());
            Reply::new(401).header(
                "www-authenticate",
                format!(r#"Bearer realm="{realm}",service="s""#),
            )
        }
    })
    .await;
    address.set(fake.address.clone()).unwrap();
    let kept = client().log_in(&fake.address, &password()).await.unwrap();
    assert_eq!(kept, Credential::IdentityToken(Secret::new("long lived")));
    assert_eq!(
        fake.lines(),
        [
            "GET /v2/", // does it speak TLS?
            "GET /v2/",
            "GET /token?service=s&client_id=rbuild&offline_token=true&account=me",
            "GET /v2/",
        ]
    );
    let wrong = Credential::Basic {
        username: "me".to_owned(),
        password: Secret::new("hunter2"),
    };
    let error = client().log_in(&fake.address, &wrong).await.unwrap_err();
    assert!(error.is_denied());
    assert_eq!(
        error.to_string(),
        format!(
            "cannot log in at registry `{}`: 401 Unauthorized (UNAUTHORIZED: incorrect password); the user name or the password is wrong",
            fake.address
        )
    );
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_login_takes_an_open_registry_and_nothing_that_is_none() {
    let open = Fake::start_guarded(|_, _| Reply::new(200)).await;
    let kept = client().log_in(&open.address, &password()).await.unwrap();
    assert_eq!(kept, password());
    assert_eq!(open.seen()[0].authorization(), "none");
    let none = Fake::start_guarded(|_, _| Reply::new(404)).await;
    let error = client()
        .log_in(&none.address, &password())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no registry at this address"),
        "{error}"
    );
}
