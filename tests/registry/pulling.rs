//! Pulling from registries that do as they should, and from those that do not.

mod blobs;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild::image::manifest::{Descriptor, ImageIndex, media_type};
use rbuild::platform::Platform;
use rbuild::registry::{Client, ClientOptions, ErrorKind, RegistryError, WriteSink};

use super::fake::{Fake, Reply, Seen, client, quick};
use super::images::{Image, digest, image, index, noise};

fn manifest(media_type: &str, bytes: &[u8]) -> Reply {
    Reply::new(200)
        .header("content-type", media_type)
        .header("docker-content-digest", digest(bytes))
        .body(bytes)
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// Serves `images` by digest, and `tags`.
fn serving(
    images: Vec<Image>,
    tags: Vec<(&'static str, &'static str, Vec<u8>)>,
) -> impl Fn(&Seen, usize) -> Reply {
    move |seen, _| {
        for (tag, media_type, bytes) in &tags {
            let named = format!("/v2/app/manifests/{tag}");
            let pinned = format!("/v2/app/manifests/{}", digest(bytes));
            if seen.target == named || seen.target == pinned {
                return manifest(media_type, bytes);
            }
        }
        for image in &images {
            let by = |kind: &str, bytes: &[u8]| {
                seen.target == format!("/v2/app/{kind}/{}", digest(bytes))
            };
            if by("manifests", &image.manifest) {
                return manifest(media_type::OCI_MANIFEST, &image.manifest);
            }
            for blob in [&image.layer, &image.config] {
                if by("blobs", blob) {
                    return Reply::new(200).body(blob.clone());
                }
            }
        }
        Reply::new(404)
            .body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
    }
}

async fn pull(
    client: &Client,
    fake: &Fake,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, RegistryError> {
    let mut sink = WriteSink(Vec::new());
    let reference = fake.reference("app");
    client.blob(&reference, descriptor, &mut sink, None).await?;
    Ok(sink.0)
}

#[tokio::test]
async fn one_head_resolves_a_name() {
    let image = image("linux/amd64", b"layer");
    let expected = Descriptor::of(media_type::OCI_MANIFEST, &image.manifest);
    let bytes = image.manifest.clone();
    let fake = Fake::start(move |_, _| manifest(media_type::OCI_MANIFEST, &bytes)).await;
    let resolved = client().resolve(&fake.reference("app")).await.unwrap();
    assert_eq!(resolved, expected);
    assert_eq!(fake.lines(), ["HEAD /v2/app/manifests/latest"]);
    let accept = fake.seen()[0].header("accept").unwrap().to_owned();
    for name in [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_INDEX,
        media_type::DOCKER_MANIFEST,
    ] {
        assert!(accept.contains(name), "{accept}");
    }
    let agent = fake.seen()[0].header("user-agent").unwrap().to_owned();
    assert_eq!(agent, format!("rbuild/{}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_head_that_tells_too_little_is_followed_by_a_get() {
    let image = image("linux/amd64", b"layer");
    let expected = Descriptor::of(media_type::OCI_MANIFEST, &image.manifest);
    let bytes = Arc::new(image.manifest);
    let plain = |bytes: &[u8]| {
        Reply::new(200)
            .header("content-type", media_type::OCI_MANIFEST)
            .body(bytes)
    };
    let replies: Vec<Reply> = vec![
        plain(&bytes),
        plain(&bytes).header("docker-content-digest", "sha512:00"),
        Reply::new(200)
            .header("docker-content-digest", digest(&bytes))
            .body(bytes.to_vec()),
        Reply::new(405),
        Reply::new(400),
    ];
    for head in replies {
        let bytes = bytes.clone();
        let shown = format!("{head:?}");
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => head.clone(),
            _ => Reply::new(200)
                .header("content-type", "application/json; charset=utf-8")
                .body(bytes.to_vec()),
        })
        .await;
        let resolved = client().resolve(&fake.reference("app:1")).await.unwrap();
        assert_eq!(resolved, expected, "{shown}");
        assert_eq!(fake.lines().len(), 2, "{shown}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_a_remedy() {
    let fake = Fake::start(serving(vec![], vec![])).await;
    let reference = fake.reference("app:nope");
    let error = client().manifest(&reference, None).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        format!(
            "cannot pull the manifest of `{reference}` at registry `{}`: 404 Not Found (MANIFEST_UNKNOWN: manifest unknown); check the name and the tag",
            fake.address
        )
    );
}

#[tokio::test]
async fn a_host_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reference = format!("{address}/app").parse().unwrap();
    let error = client().resolve(&reference).await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("connection refused"), "{error}");
}

#[tokio::test]
async fn manifests_that_lie_are_refused() {
    let image = image("linux/amd64", b"layer");
    let honest = image.manifest.clone();
    let other = digest(b"other");
    let too_large = vec![b' '; (4 << 20) + 1];
    let kind_of = |reply: Reply| async move {
        let fake = Fake::start(move |_, _| reply.clone()).await;
        let error = client()
            .manifest(&fake.reference("app:1"), None)
            .await
            .unwrap_err();
        assert!(!error.is_unreachable());
        error
    };
    let oci = |bytes: &[u8]| {
        Reply::new(200)
            .header("content-type", media_type::OCI_MANIFEST)
            .body(bytes)
    };
    let error = kind_of(oci(&honest).header("docker-content-digest", other)).await;
    assert!(
        matches!(error.kind(), ErrorKind::DigestMismatch { .. }),
        "{error}"
    );
    let error = kind_of(oci(&too_large)).await;
    assert!(
        matches!(error.kind(), ErrorKind::TooLarge { .. }),
        "{error}"
    );
    let error = kind_of(oci(&[b' '; 4096]).endless()).await;
    assert!(
        matches!(error.kind(), ErrorKind::TooLarge { .. }),
        "{error}"
    );
    let error = kind_of(oci(b"not json")).await;
    assert!(matches!(error.kind(), ErrorKind::Image(_)), "{error}");
    let schema_1 = Reply::new(200)
        .header("content-type", media_type::DOCKER_SCHEMA_1_SIGNED)
        .body("{}");
    let error = kind_of(schema_1).await;
    assert!(matches!(error.kind(), ErrorKind::Schema1), "{error}");
    let by_shape = Reply::new(200)
        .header("content-type", "application/json")
        .body(r#"{"schemaVersion":1,"fsLayers":[]}"#);
    let error = kind_of(by_shape).await;
    assert!(error.to_string().contains("schema 1"), "{error}");
}

#[tokio::test]
async fn a_pinned_manifest_must_be_the_one_that_is_pinned() {
    let image = image("linux/amd64", b"layer");
    let fake = Fake::start(move |_, _| manifest(media_type::OCI_MANIFEST, &image.manifest)).await;
    let wanted = digest(b"other");
    let reference = fake.reference("app").with_digest(wanted);
    for error in [
        client().resolve(&reference).await.unwrap_err(),
        client()
            .manifest(&fake.reference("app"), Some(&wanted))
            .await
            .unwrap_err(),
    ] {
        let ErrorKind::DigestMismatch { expected, .. } = error.kind() else {
            panic!("{error}");
        };
        assert_eq!(*expected, wanted);
    }
}

#[tokio::test]
async fn the_image_for_the_platform_is_chosen_from_an_index() {
    let (amd, arm) = (image("linux/amd64", b"amd"), image("linux/arm/v6", b"arm"));
    let list = index(&[&amd, &arm]);
    let expected = arm.layer_descriptor.clone();
    for (name, media_type) in [
        ("oci", media_type::OCI_INDEX),
        ("docker", media_type::DOCKER_INDEX),
    ] {
        let list = String::from_utf8(list.clone())
            .unwrap()
            .replace(media_type::OCI_INDEX, media_type);
        let list = list.into_bytes();
        let images = vec![image("linux/amd64", b"amd"), image("linux/arm/v6", b"arm")];
        let fake = Fake::start(serving(images, vec![(name, media_type, list.clone())])).await;
        let reference = fake.reference(&format!("app:{name}"));
        let found = client()
            .image(&reference, &platform("linux/arm/v7"))
            .await
            .unwrap();
        assert_eq!(found.top.digest, digest(&list));
        assert!(found.index.is_some());
        assert_eq!(found.layers, std::slice::from_ref(&expected));
        assert_eq!(found.platform(), platform("linux/arm/v6"));

        let error = client()
            .image(&reference, &platform("linux/s390x"))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(
                "no image for platform `linux/s390x`; it has `linux/amd64`, `linux/arm/v6`"
            ),
            "{text}"
        );
    }
}

#[tokio::test]
async fn manifests_without_a_platform_are_asked_for_it_last() {
    let (amd, arm) = (image("linux/amd64", b"amd"), image("linux/arm64", b"arm"));
    let strip = |image: &Image| {
        let mut descriptor = image.manifest_descriptor.clone();
        descriptor.platform = None;
        descriptor
    };
    let list = ImageIndex::new(vec![strip(&amd), strip(&arm)]).to_bytes();
    let nested = ImageIndex::new(vec![Descriptor::of(media_type::OCI_INDEX, &list)]).to_bytes();
    let expected = arm.manifest_descriptor.digest;
    let tags = vec![
        ("flat", media_type::OCI_INDEX, list),
        ("nested", media_type::OCI_INDEX, nested),
    ];
    let fake = Fake::start(serving(vec![amd, arm], tags)).await;
    for name in ["app:flat", "app:nested"] {
        let reference = fake.reference(name);
        let found = client()
            .image(&reference, &platform("linux/arm64"))
            .await
            .unwrap();
        assert_eq!(found.manifest.digest(), expected);
        let error = client()
            .image(&reference, &platform("linux/386"))
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("it has `linux/amd64`, `linux/arm64`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_index_that_names_itself_deeper_and_deeper_ends() {
    let mut tags = Vec::new();
    let mut inner = ImageIndex::new(vec![]).to_bytes();
    for _ in 0..10 {
        tags.push(("unused", media_type::OCI_INDEX, inner.clone()));
        inner = ImageIndex::new(vec![Descriptor::of(media_type::OCI_INDEX, &inner)]).to_bytes();
    }
    tags.push(("deep", media_type::OCI_INDEX, inner));
    let fake = Fake::start(serving(vec![], tags)).await;
    let error = client()
        .image(&fake.reference("app:deep"), &platform("linux/amd64"))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::NoPlatform { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn things_that_are_no_images_are_refused() {
    let mut image = image("linux/amd64", b"layer");
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let chart = "application/vnd.cncf.helm.config.v1+json";
    image.manifest = text.replace(media_type::OCI_CONFIG, chart).into_bytes();
    let tag = ("chart", media_type::OCI_MANIFEST, image.manifest.clone());
    let fake = Fake::start(serving(vec![image], vec![tag])).await;
    let error = client()
        .image(&fake.reference("app:chart"), &platform("linux/amd64"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("`{chart}` is not a container image")),
        "{error}"
    );
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    for status in [429, 500, 502, 503, 504] {
        let fake = Fake::start(move |_, before| match before {
            0 | 1 => Reply::new(status),
            _ => Reply::new(200).body("content"),
        })
        .await;
        let descriptor = Descriptor::of("x", b"content");
        assert_eq!(
            pull(&client(), &fake, &descriptor).await.unwrap(),
            b"content"
        );
        assert_eq!(fake.lines().len(), 3, "{status}");
    }
    let fake = Fake::start(|_, _| Reply::new(503)).await;
    let error = client()
        .resolve(&fake.reference("app:1"))
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(503));
    assert!(error.to_string().contains("try again later"), "{error}");
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let fake = Fake::start(|_, before| match before {
        0 => Reply::new(429).header("retry-after", 1),
        _ => Reply::new(200).body("content"),
    })
    .await;
    let descriptor = Descriptor::of("x", b"content");
    let start = Instant::now();
    pull(&client(), &fake, &descriptor).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_retry_after_beyond_all_patience_fails_at_once() {
    let fake = Fake::start(|_, _| {
        Reply::new(429)
            .header("retry-after", 3600)
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#)
    })
    .await;
    let error = client()
        .manifest(&fake.reference("app:1"), None)
        .await
        .unwrap_err();
    assert_eq!(fake.lines().len(), 1);
    assert!(error.to_string().contains("TOOMANYREQUESTS"), "{error}");
    assert!(
        error.to_string().contains("wait, or use credentials"),
        "{error}"
    );
}

#[tokio::test]
async fn redirects_end() {
    let fake = Fake::start(|_, _| Reply::new(307).header("location", "/again")).await;
    let error = client()
        .resolve(&fake.reference("app:1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::TooManyRedirects(_)),
        "{error}"
    );
    for location in ["file:///etc/passwd", "//", "http://"] {
        let fake = Fake::start(move |_, _| Reply::new(307).header("location", location)).await;
        let error = client()
            .resolve(&fake.reference("app:1"))
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Malformed { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_mirror_that_is_not_there_is_asked_once() {
    let image = image("linux/amd64", b"layer");
    let bytes = image.manifest.clone();
    let fake = Fake::start(move |_, _| manifest(media_type::OCI_MANIFEST, &bytes)).await;
    // Accepts connections and breaks them.
    let broken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = broken.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while broken.accept().await.is_ok() {
            *counted.lock().unwrap() += 1;
        }
    });
    let client = Client::new(ClientOptions {
        mirrors: vec![
            format!("http://{address}").parse().unwrap(),
            format!("http://{}", fake.address).parse().unwrap(),
        ],
        ..quick()
    });
    let reference = "alpine".parse().unwrap();
    client.resolve(&reference).await.unwrap();
    let first = *connections.lock().unwrap();
    assert!(first > 0);
    client.resolve(&reference).await.unwrap();
    assert_eq!(*connections.lock().unwrap(), first);
}

#[tokio::test]
async fn mirrors_of_docker_hub_are_asked_in_order() {
    let content = noise(1000);
    let descriptor = Descriptor::of("x", &content);
    let first_part = content.clone();
    let failing = Fake::start(move |_, before| match before {
        0 => Reply::new(200).body(&first_part[..400]).cut(),
        _ => Reply::new(404),
    })
    .await;
    let served = content.clone();
    let whole = Fake::start(move |seen, _| {
        assert_eq!(seen.header("range"), Some("bytes=400-"));
        Reply::new(206)
            .header("content-range", "bytes 400-999/1000")
            .body(&served[400..])
    })
    .await;
    let client = Client::new(ClientOptions {
        mirrors: vec![
            format!("http://{}", failing.address).parse().unwrap(),
            format!("http://{}/cache/", whole.address).parse().unwrap(),
        ],
        ..quick()
    });
    let mut sink = Vec::new();
    let reference = "alpine".parse().unwrap();
    client
        .blob(&reference, &descriptor, &mut sink, None)
        .await
        .unwrap();
    assert_eq!(sink, content, "what the first mirror sent was kept");
    let digest = digest(&content);
    assert_eq!(
        whole.lines(),
        [format!("GET /cache/v2/library/alpine/blobs/{digest}")]
    );
}
