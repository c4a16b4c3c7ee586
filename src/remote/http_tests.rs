//! What takes patience, with little of it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::registry::{ClientOptions, RetryPolicy, Timeouts};

/// A server that writes `text` to whoever asks, and then holds the connection.
fn server(text: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let text = text.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                {}
                let _ = stream.write_all(&text);
                std::thread::sleep(Duration::from_secs(20));
            });
        }
    });
    url
}

fn fetch(text: impl Into<Vec<u8>>) -> Result<Download, HttpError> {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(ClientOptions {
        timeouts: Timeouts {
            idle: Duration::from_millis(200),
            response: Duration::from_millis(200),
            ..Timeouts::default()
        },
        retry: RetryPolicy {
            attempts: 2,
            first_delay: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..ClientOptions::default()
    });
    let store = Store::open(folder.path()).unwrap();
    let http = HttpClient::new(client, store);
    let request = HttpRequest {
        url: server(text.into()),
        authorization: None,
        checksum: None,
    };
    let progress: HttpProgress = Arc::new(|_, _| {});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(http.fetch(&request, &progress))
}

#[track_caller]
fn fails(text: impl Into<Vec<u8>>, expected: &str) {
    let began = Instant::now();
    let error = fetch(text).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    fails("", "timed out after 0 s while waiting for the answer");
    fails(
        "HTTP/1.1 200 OK\r\n",
        "timed out after 0 s while waiting for the answer",
    );
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    fails(half, "timed out after 0 s while receiving");
}

#[test]
fn headers_have_an_end() {
    let line = format!("X-Long: {}\r\n", "x".repeat(1000));
    let endless = format!("HTTP/1.1 200 OK\r\n{}\r\n", line.repeat(10_000));
    fails(endless, "failed to fetch");
    let many = "X: y\r\n".repeat(1000);
    fails(format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "failed to fetch");
    fails("SSH-2.0-OpenSSH\r\n\r\n", "failed to fetch");
}

#[test]
fn bodies_come_in_every_framing() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(fetch(chunked).unwrap().size, 5);
    let empty = "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(fetch(empty).unwrap().size, 0);
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\nde";
    fails(cut, "failed to fetch");
}

#[test]
fn urls_are_shown_without_their_keys() {
    for (url, expected) in [
        ("https://u:p@h/a?sig=1#f", "https://h/a"),
        ("http://u@h:8/a", "http://h:8/a"),
        ("http://u:p@[::1/a@b?c", "http://[::1/a@b"),
    ] {
        assert_eq!(shown_url(url), expected);
    }
}

#[test]
fn conditions_are_by_tag_else_by_a_settled_time() {
    let then = "Wed, 21 Oct 2015 07:28:00 GMT";
    let record = |etag: Option<&str>, time: Option<&str>, later: i64| DownloadRecord {
        digest: BlobDigest(crate::digest::Digest::of(b"")),
        etag: etag.map(str::to_owned),
        last_modified: time.map(str::to_owned),
        fetched: 1_445_412_480 + later,
    };
    let names = |record: &DownloadRecord| {
        let conditions = conditions(Some(record)).into_iter();
        conditions.map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&record(Some("\"a\""), Some(then), 1000)),
        [IF_NONE_MATCH]
    );
    assert_eq!(names(&record(None, Some(then), 1000)), [IF_MODIFIED_SINCE]);
    // Another change within the same minute would not show.
    assert!(names(&record(None, Some(then), 10)).is_empty());
    assert!(names(&record(None, Some("lately"), 1000)).is_empty());
    assert!(names(&record(None, None, 1000)).is_empty());
    assert!(conditions(None).is_empty());
}
