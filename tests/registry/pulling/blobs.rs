//! Layers, whose streams break, stall, lie, or lie elsewhere.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild::image::manifest::Descriptor;
use rbuild::registry::{ErrorKind, Progress, WriteSink};

use super::pull;
use crate::registry::fake::{Fake, Reply, client};
use crate::registry::images::noise;

#[tokio::test]
async fn a_blob_arrives_whole_with_its_progress() {
    let content = noise(300_000);
    let descriptor = Descriptor::of("x", &content);
    let served = content.clone();
    let fake = Fake::start(move |_, _| Reply::new(200).body(served.clone())).await;
    let marks: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = marks.clone();
    let progress: Progress = Arc::new(move |bytes| kept.lock().unwrap().push(bytes));
    let mut sink = Vec::new();
    let reference = fake.reference("app");
    client()
        .blob(&reference, &descriptor, &mut sink, Some(&progress))
        .await
        .unwrap();
    assert_eq!(sink, content);
    let marks = marks.lock().unwrap();
    assert!(marks.is_sorted());
    assert_eq!(marks.last(), Some(&300_000));
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let content = noise(100_000);
    let descriptor = Descriptor::of("x", &content);
    let served = content.clone();
    let fake = Fake::start(move |seen, _| match seen.header("range") {
        None => Reply::new(200).body(&served[..40_000]).cut(),
        Some("bytes=40000-") => Reply::new(206)
            .header("content-range", "bytes 40000-99999/100000")
            .body(&served[40_000..70_000])
            .cut(),
        Some("bytes=70000-") => Reply::new(206)
            .header("content-range", "bytes 70000-99999/100000")
            .body(&served[70_000..]),
        Some(other) => panic!("{other}"),
    })
    .await;
    assert_eq!(pull(&client(), &fake, &descriptor).await.unwrap(), content);
    assert_eq!(fake.lines().len(), 3);
}

#[tokio::test]
async fn a_server_without_ranges_sends_it_all_again() {
    let content = noise(100_000);
    let descriptor = Descriptor::of("x", &content);
    let served = content.clone();
    let fake = Fake::start(move |_, before| match before {
        0 => Reply::new(200).body(&served[..40_000]).cut(),
        _ => Reply::new(200).body(served.clone()),
    })
    .await;
    assert_eq!(pull(&client(), &fake, &descriptor).await.unwrap(), content);
}

#[tokio::test]
async fn a_stalled_stream_is_given_up_and_taken_up_again() {
    let content = noise(1000);
    let descriptor = Descriptor::of("x", &content);
    let served = content.clone();
    let fake = Fake::start(move |_, before| match before {
        0 => Reply::new(200).body(&served[..400]).stall(),
        _ => Reply::new(206)
            .header("content-range", "bytes 400-999/1000")
            .body(&served[400..]),
    })
    .await;
    let start = Instant::now();
    assert_eq!(pull(&client(), &fake, &descriptor).await.unwrap(), content);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn blobs_that_are_not_what_was_asked_for_never_succeed() {
    let content = noise(1000);
    let descriptor = Descriptor::of("x", &content);
    let mut changed = content.clone();
    changed[500] ^= 1;
    let longer = [content.clone(), vec![0]].concat();
    for (name, reply) in [
        ("changed", Reply::new(200).body(changed)),
        ("longer", Reply::new(200).body(longer)),
        ("endless", Reply::new(200).body(vec![0; 512]).endless()),
        ("always short", Reply::new(200).body(&content[..999])),
        ("always cut", Reply::new(200).body(&content[..10]).cut()),
        ("empty", Reply::new(200)),
        (
            "wrong range",
            Reply::new(206)
                .header("content-range", "bytes 5-999/1000")
                .body(&content[5..]),
        ),
        ("no content", Reply::new(204)),
    ] {
        let fake = Fake::start(move |_, _| reply.clone()).await;
        let outcome = pull(&client(), &fake, &descriptor).await;
        assert!(outcome.is_err(), "{name}");
        assert!(fake.lines().len() <= 4, "{name}: {:?}", fake.lines());
    }
}

#[tokio::test]
async fn a_resumed_blob_is_verified_as_a_whole() {
    let content = noise(1000);
    let descriptor = Descriptor::of("x", &content);
    let served = content.clone();
    let fake = Fake::start(move |_, before| match before {
        0 => Reply::new(200).body(&served[..400]).cut(),
        _ => Reply::new(206)
            .header("content-range", "bytes 400-999/1000")
            .body(vec![0; 600]),
    })
    .await;
    let error = pull(&client(), &fake, &descriptor).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::DigestMismatch { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_failing_sink_ends_the_pull_at_once() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let descriptor = Descriptor::of("x", b"content");
    let fake = Fake::start(|_, _| Reply::new(200).body("content")).await;
    let reference = fake.reference("app");
    let outcome = client()
        .blob(&reference, &descriptor, &mut WriteSink(Full), None)
        .await;
    assert!(matches!(outcome.unwrap_err().kind(), ErrorKind::Sink(_)));
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn a_layer_kept_elsewhere_is_explained() {
    let name = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let mut descriptor = Descriptor::of(name, b"content");
    descriptor.urls = vec!["https://elsewhere.example/layer".to_owned()];
    let fake = Fake::start(|_, _| Reply::new(404)).await;
    let error = pull(&client(), &fake, &descriptor).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::ForeignLayer(_)),
        "{error}"
    );
}
