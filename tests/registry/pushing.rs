//! Pushing: what is sent, in which requests, and what happens when one of them fails.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rbuild::image::manifest::{Descriptor, media_type};
use rbuild::registry::{BlobSource, ErrorKind, Progress, Pushed, RegistryError};

use super::fake::{Fake, Reply, client};
use super::images::digest;

const CONTENT: &[u8] = b"content of a blob";

fn descriptor() -> Descriptor {
    Descriptor::of(media_type::OCI_LAYER_GZIP, CONTENT)
}

fn source() -> BlobSource {
    BlobSource::bytes(CONTENT)
}

/// `digest=sha256%3A…` of the content.
fn digest_query() -> String {
    format!("digest=sha256%3A{}", digest(CONTENT).hex())
}

#[tokio::test]
async fn a_small_blob_goes_in_one_put() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", "/upload/1?_state=a%3D"),
        _ => Reply::new(201),
    })
    .await;
    let marks: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = marks.clone();
    let progress: Progress = Arc::new(move |bytes| kept.lock().unwrap().push(bytes));
    let pushed = client()
        .push_blob(
            &fake.reference("app"),
            &descriptor(),
            &source(),
            None,
            Some(&progress),
        )
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let blob = digest(CONTENT);
    assert_eq!(
        fake.lines(),
        [
            format!("HEAD /v2/app/blobs/{blob}"),
            "POST /v2/app/blobs/uploads/".to_owned(),
            format!("PUT /upload/1?_state=a%3D&{}", digest_query()),
        ]
    );
    let put = fake.seen().pop().unwrap();
    assert_eq!(put.body, CONTENT);
    assert_eq!(put.header("content-length"), Some("17"));
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert_eq!(marks.lock().unwrap().last(), Some(&17));
}

#[tokio::test]
async fn nothing_is_sent_that_is_there_already() {
    let fake = Fake::start(|_, _| Reply::new(200)).await;
    let pushed = client()
        .push_blob(&fake.reference("app"), &descriptor(), &source(), None, None)
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Existing);
    assert_eq!(fake.lines().len(), 1);
}

/// Pushes what another repository of the registry may have.
async fn push_from(fake: &Fake, base: &str) -> Result<Pushed, RegistryError> {
    let (app, base) = (fake.reference("app"), fake.reference(base));
    let (client, descriptor, source) = (client(), descriptor(), source());
    let pushed = client.push_blob(&app, &descriptor, &source, Some(&base), None);
    pushed.await
}

#[tokio::test]
async fn a_blob_is_mounted_where_the_registry_can() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(201),
    })
    .await;
    let pushed = push_from(&fake, "team/base").await;
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    let mount = format!(
        "POST /v2/app/blobs/uploads/?mount=sha256%3A{}&from=team%2Fbase",
        digest(CONTENT).hex()
    );
    assert_eq!(fake.lines().last(), Some(&mount));
}

#[tokio::test]
async fn a_mount_that_becomes_an_upload_is_used_as_one() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", "/begun"),
        _ => Reply::new(201),
    })
    .await;
    let pushed = push_from(&fake, "base").await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let lines = fake.lines();
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("POST")).count(),
        1,
        "{lines:?}"
    );
    assert_eq!(
        lines.last(),
        Some(&format!("PUT /begun?{}", digest_query()))
    );
}

#[tokio::test]
async fn a_refused_mount_is_no_failure() {
    for status in [400, 403, 404, 405] {
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" if seen.target.contains("mount=") => Reply::new(status),
            "POST" => Reply::new(202).header("location", "/upload"),
            _ => Reply::new(201),
        })
        .await;
        let pushed = push_from(&fake, "base").await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded, "{status}");
    }
}

#[tokio::test]
async fn a_broken_upload_begins_anew() {
    let fake = Fake::start(|seen, before| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", format!("/upload/{before}")),
        _ if seen.target.starts_with("/upload/0") => Reply::new(503),
        _ if seen.target.starts_with("/upload/1") => {
            Reply::new(404).body(r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)
        }
        _ => Reply::new(201),
    })
    .await;
    let pushed = client()
        .push_blob(&fake.reference("app"), &descriptor(), &source(), None, None)
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let put = fake.seen().pop().unwrap();
    assert!(put.target.starts_with("/upload/2?"), "{}", put.target);
    assert_eq!(put.body, CONTENT);
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found_again() {
    let fake = Fake::start(|seen, before| match (seen.method.as_str(), before) {
        ("HEAD", 0) => Reply::new(404),
        ("HEAD", _) => Reply::new(200),
        ("POST", _) => Reply::new(202).header("location", "/upload"),
        _ => Reply::new(502),
    })
    .await;
    let pushed = client()
        .push_blob(&fake.reference("app"), &descriptor(), &source(), None, None)
        .await;
    pushed.unwrap();
    assert_eq!(
        fake.lines()
            .iter()
            .filter(|line| line.starts_with("PUT"))
            .count(),
        1
    );
}

/// A registry that begins an upload and then reads none of it.
async fn deaf_registry() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 4];
                stream.read_exact(&mut first).await.unwrap();
                let status = match &first {
                    b"GET " => "200 OK",
                    b"HEAD" => "404 Not Found",
                    b"POST" => "202 Accepted\r\nlocation: /upload",
                    b"PUT " => return tokio::time::sleep(Duration::from_secs(60)).await,
                    _ => return,
                };
                let reply =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // Read what is there first: closing with unread bytes resets the connection.
                let mut rest = [0; 4096];
                let _ = stream.read(&mut rest).await;
                let _ = stream.write_all(reply.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upload_that_does_not_move_times_out() {
    let address = deaf_registry().await;
    // More than the buffers between the two sides hold.
    let content = vec![0; 32 << 20];
    let descriptor = Descriptor::of("x", &content);
    let mut options = super::fake::quick();
    options.retry.attempts = 1;
    let client = rbuild::registry::Client::new(options);
    let reference = format!("{address}/app").parse().unwrap();
    let source = BlobSource::bytes(content);
    let outcome = client
        .push_blob(&reference, &descriptor, &source, None, None)
        .await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Timeout {
                doing: "sending",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_upload_says_why() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(403).body(r#"{"errors":[{"code":"DENIED","message":"no push for you"}]}"#),
    })
    .await;
    let outcome = client()
        .push_blob(&fake.reference("app"), &descriptor(), &source(), None, None)
        .await;
    let error = outcome.unwrap_err();
    assert!(error.is_denied());
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot push blob `{}` to", digest(CONTENT))),
        "{text}"
    );
    assert!(text.contains("DENIED: no push for you"), "{text}");
    assert!(text.contains("check the credentials"), "{text}");
}

#[tokio::test]
async fn a_stream_of_unknown_digest_is_patched_and_closed() {
    for (patch_status, put_status) in [(202, 201), (201, 202), (204, 204)] {
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "POST" => Reply::new(202).header("location", "/upload/1?a=b"),
            "PATCH" => Reply::new(patch_status).header("location", "/upload/2?c=d"),
            _ => Reply::new(put_status),
        })
        .await;
        let source = BlobSource::reader(|| Ok(io::Cursor::new(CONTENT)));
        let pushed = client()
            .push_stream(&fake.reference("app"), &source, None)
            .await
            .unwrap();
        assert_eq!(pushed, (digest(CONTENT), CONTENT.len() as u64));
        assert_eq!(
            fake.lines(),
            [
                "POST /v2/app/blobs/uploads/".to_owned(),
                "PATCH /upload/1?a=b".to_owned(),
                format!("PUT /upload/2?c=d&{}", digest_query()),
            ]
        );
        let seen = fake.seen();
        assert_eq!(seen[1].body, CONTENT);
        assert_eq!(seen[2].header("content-length"), Some("0"));
    }
}

#[tokio::test]
async fn a_broken_stream_is_made_again() {
    let fake = Fake::start(|seen, before| match seen.method.as_str() {
        "POST" => Reply::new(202).header("location", format!("/upload/{before}")),
        "PATCH" if seen.target == "/upload/0" => Reply::new(500),
        "PATCH" => Reply::new(202),
        _ => Reply::new(201),
    })
    .await;
    let openings = Arc::new(AtomicUsize::new(0));
    let counted = openings.clone();
    let source = BlobSource::stream(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(futures_util::stream::iter([
            Ok(Bytes::from_static(&CONTENT[..5])),
            Ok(Bytes::from_static(&CONTENT[5..])),
        ]))
    });
    let pushed = client()
        .push_stream(&fake.reference("app"), &source, None)
        .await
        .unwrap();
    assert_eq!(pushed.0, digest(CONTENT));
    assert_eq!(openings.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_failing_source_is_not_the_registrys_fault() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202).header("location", "/upload"),
        _ => Reply::new(201),
    })
    .await;
    let source = BlobSource::reader(|| Err::<io::Empty, _>(io::Error::other("disk on fire")));
    let error = client()
        .push_stream(&fake.reference("app"), &source, None)
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Source(_)), "{error}");
    assert!(error.to_string().contains("disk on fire"), "{error}");
    let posts = fake
        .lines()
        .iter()
        .filter(|line| line.starts_with("POST"))
        .count();
    assert_eq!(posts, 1, "reading again would not help");
}

#[tokio::test]
async fn a_source_of_another_size_is_refused() {
    for content in [&CONTENT[..5], b"content of a blob, and more"] {
        let fake = Fake::start(|seen, _| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => Reply::new(202).header("location", "/upload"),
            _ => Reply::new(201),
        })
        .await;
        let source = BlobSource::bytes(content);
        let outcome = client()
            .push_blob(&fake.reference("app"), &descriptor(), &source, None, None)
            .await;
        assert!(matches!(outcome.unwrap_err().kind(), ErrorKind::Source(_)));
    }
}

#[tokio::test]
async fn a_manifest_goes_under_its_tag_or_its_digest() {
    let bytes = br#"{"schemaVersion":2}"#;
    let fake =
        Fake::start(|_, _| Reply::new(201).header("docker-content-digest", digest(bytes))).await;
    let client = client();
    let name = media_type::OCI_MANIFEST;
    for reference in [
        fake.reference("app:1"),
        fake.reference("app"),
        fake.reference("app:2").with_digest(digest(bytes)),
    ] {
        let pushed = client
            .push_manifest(&reference, name, &bytes[..])
            .await
            .unwrap();
        assert_eq!(pushed, digest(bytes));
    }
    assert_eq!(
        fake.lines(),
        [
            "PUT /v2/app/manifests/1".to_owned(),
            format!("PUT /v2/app/manifests/{}", digest(bytes)),
            "PUT /v2/app/manifests/2".to_owned(),
        ]
    );
    let seen = fake.seen();
    assert_eq!(seen[0].header("content-type"), Some(name));
    assert_eq!(seen[0].body, bytes);

    let pinned = fake.reference("app:3").with_digest(digest(b"other"));
    let error = client
        .push_manifest(&pinned, name, &bytes[..])
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::DigestMismatch { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_stores_another_manifest_is_caught() {
    let fake =
        Fake::start(|_, _| Reply::new(201).header("docker-content-digest", digest(b"other"))).await;
    let outcome = client()
        .push_manifest(&fake.reference("app:1"), media_type::OCI_MANIFEST, "{}")
        .await;
    assert!(matches!(
        outcome.unwrap_err().kind(),
        ErrorKind::DigestMismatch { .. }
    ));
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    use rbuild::registry::{Client, ClientOptions, Credential, Credentials, Secret};
    let storage = Fake::start(|_, _| Reply::new(201)).await;
    let location = format!("http://{}/upload?signature=1", storage.address);
    let fake = Fake::start(
        move |seen, _| match (seen.method.as_str(), seen.authorization()) {
            (_, "none") => Reply::new(401).header("www-authenticate", "Basic"),
            ("HEAD", _) => Reply::new(404),
            _ => Reply::new(202).header("location", &location),
        },
    )
    .await;
    let credential = Credential::Basic {
        username: "me".to_owned(),
        password: Secret::new("s3cr3t"),
    };
    let client = Client::new(ClientOptions {
        credentials: Credentials::none().with(&fake.address, credential),
        ..super::fake::quick()
    });
    let pushed = client
        .push_blob(&fake.reference("app"), &descriptor(), &source(), None, None)
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let put = storage.seen().pop().unwrap();
    assert_eq!(put.authorization(), "none");
    assert_eq!(put.body, CONTENT);
}
