//! Servers that refuse, fail, lead elsewhere, want to know who asks, or are slow.

use std::time::Duration;

use super::{NOTHING, sha256};
use crate::support::{Answer, HttpServer, Project, Rbuild, User, each_user, repository};

#[test]
fn what_a_server_refuses_is_told() {
    let server = HttpServer::start();
    server
        .serve("/gone", Answer::status(410))
        .serve("/lost", Answer::status(404))
        .serve("/part", Answer::status(206))
        .serve("/unasked", Answer::status(304))
        .serve("/nowhere", Answer::status(302))
        .serve("/mail", Answer::redirect("mailto:a@b"))
        .serve("/circle", Answer::redirect("/circle"))
        .serve(
            "/zip",
            Answer::ok("no gzip").header("Content-Encoding", "gzip"),
        );
    for (path, message) in [
        ("/gone", "410 Gone"),
        ("/lost", "404 Not Found"),
        ("/part", "it is a part, and the whole was asked for"),
        ("/unasked", "304 Not Modified"),
        (
            "/nowhere",
            "the `Location` header is malformed: it is missing",
        ),
        (
            "/mail",
            "the `Location` header is malformed: it is not an HTTP URL",
        ),
        ("/circle", "it redirects more than 10 times"),
        ("/zip", "the gzip encoding of the answer is malformed"),
    ] {
        let url = server.url(path);
        let project = Project::with(&format!("FROM scratch\nADD {url} /x"));
        let finished = Rbuild::new(&User::Caller).build(&project).fails();
        let finished = finished.says(&[&format!("failed to fetch `{url}`: "), message]);
        assert_eq!(finished.status.code(), Some(3), "{path}");
    }
    let project = Project::with("FROM scratch\nADD http://[::1/x /y");
    let finished = Rbuild::new(&User::Caller).build(&project).fails();
    finished.says(&["is no URL that can be fetched: invalid IPv6 address"]);
}

#[test]
fn passing_failures_are_tried_again() {
    let server = HttpServer::start();
    let body = "0123456789".repeat(1000);
    server
        .put(
            "/busy",
            [
                Answer::status(503).header("Retry-After", "0"),
                Answer::status(500).header("Retry-After", "0"),
                Answer::ok("done"),
            ],
        )
        .put(
            "/broken",
            [
                Answer::ok(body.clone()).etag("\"1\"").cut(4000).ranges(),
                Answer::ok(body.clone()).etag("\"1\"").ranges(),
            ],
        )
        .put(
            "/changed",
            [
                Answer::ok(body.replace('0', "x"))
                    .etag("\"1\"")
                    .cut(4000)
                    .ranges(),
                Answer::ok(body.clone()).etag("\"2\"").ranges(),
            ],
        )
        .put(
            "/untagged",
            [
                Answer::ok(body.replace('0', "x")).cut(4000),
                Answer::ok(body.clone()),
            ],
        );
    let urls: Vec<String> = ["/busy", "/broken", "/changed", "/untagged"]
        .map(|path| server.url(path))
        .to_vec();
    let project = Project::with(&format!("FROM scratch\nADD {} /", urls.join(" ")));
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    assert_eq!(tree.text("busy"), "done");
    let whole = sha256(body.as_bytes());
    for name in ["broken", "changed", "untagged"] {
        let shown = tree.get(name).shown();
        assert!(shown.contains(&whole[..19]), "{name}: {shown}");
    }
    let asked = server.asked();
    let of = |path: &str| {
        let asked = asked.iter().filter(move |asked| asked.target == path);
        asked.map(|asked| asked.header("range")).collect::<Vec<_>>()
    };
    assert_eq!(of("/busy").len(), 3);
    assert_eq!(of("/broken"), [None, Some("bytes=4000-")]);
    assert_eq!(of("/changed"), [None, Some("bytes=4000-")]);
    assert_eq!(of("/untagged"), [None, None]);
}

#[test]
fn redirects_take_no_credentials_along() {
    let (server, other) = (HttpServer::start(), HttpServer::start());
    other.serve("/f", Answer::ok("f"));
    server.serve("/f", Answer::redirect(&other.url("/f")));
    server.serve("/own", Answer::redirect("/there"));
    server.serve("/there", Answer::ok("own"));
    let host = server.host();
    let project = Project::with(&format!(
        "
        FROM scratch
        ADD http://user:secret@{host}/f http://user:secret@{host}/own /
        "
    ));
    let (image, log) = Rbuild::new(&User::Caller).build(&project).image_and_log();
    let basic = Some("Basic dXNlcjpzZWNyZXQ=");
    for asked in server.asked() {
        assert_eq!(asked.header("authorization"), basic, "{}", asked.target);
    }
    for asked in other.asked() {
        assert_eq!(asked.header("authorization"), None);
    }
    assert_eq!(image.tree().text("own"), "own");
    // Nobody is told, neither here nor by the image.
    assert!(!log.stderr.contains("secret"), "{}", log.stderr);
    assert!(!image.history().contains("secret"), "{}", image.history());
    server.serve("/f", Answer::status(401));
    let finished = Rbuild::new(&User::Caller).build(&project).fails();
    let finished = finished.says(&["401 Unauthorized", "http://xxxxx"]);
    assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
}

#[test]
fn queries_are_part_of_the_address_and_not_of_messages() {
    let server = HttpServer::start();
    server.serve("/f?v=1", Answer::ok("1").etag("\"t\""));
    server.serve("/f?v=2", Answer::ok("2").etag("\"t\""));
    let (one, two) = (server.url("/f?v=1"), server.url("/f?v=2"));
    let project = Project::with(&format!("FROM scratch\nADD {one} /1\nADD {two} /2"));
    let (image, log) = Rbuild::new(&User::Caller).build(&project).image_and_log();
    let tree = image.tree();
    assert_eq!((tree.text("1"), tree.text("2")), ("1".into(), "2".into()));
    let fetched = format!("[internal] fetch {}\n", server.url("/f"));
    assert!(log.stderr.contains(&fetched), "{}", log.stderr);
}

#[test]
fn secrets_authorise_at_their_host() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f"));
    let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
    for (id, value, expected) in [
        ("HTTP_AUTH_TOKEN_127.0.0.1", "xyz", Some("Bearer xyz")),
        ("HTTP_AUTH_HEADER_127.0.0.1", "Token xyz", Some("Token xyz")),
        ("HTTP_AUTH_TOKEN_localhost", "xyz", None),
    ] {
        let rbuild = Rbuild::new(&User::Caller);
        let build = rbuild.build(&project).env("CREDENTIAL", value);
        let build = build.args(["--secret", &format!("id={id},env=CREDENTIAL")]);
        let log = build.ok();
        assert!(!log.stderr.contains("xyz"));
        let asked = server.asked();
        assert_eq!(asked[0].header("authorization"), expected, "{id}");
    }
    let build = Rbuild::new(&User::Caller);
    let build = build.build(&project).env("CREDENTIAL", "a\nb");
    let build = build.args(["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=CREDENTIAL"]);
    build
        .fails()
        .says(&["the secret `HTTP_AUTH_TOKEN_127.0.0.1` can't be sent in a header"]);
}

#[test]
fn https_wants_a_certificate_that_is_trusted() {
    let (server, plain) = (HttpServer::start_tls(), HttpServer::start());
    plain.serve("/f", Answer::ok("f"));
    server
        .serve("/f", Answer::ok("f"))
        .serve("/down", Answer::redirect(&plain.url("/f")));
    let project = |path: &str| Project::with(&format!("FROM scratch\nADD {} /", server.url(path)));
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let finished = rbuild.build(&project("/f")).fails();
        let finished = finished.says(&["TLS failed", "UnknownIssuer", "SSL_CERT_FILE"]);
        assert_eq!(finished.status.code(), Some(3));
        let ca = std::fs::read(repository().join("testdata/tls/ca.crt")).unwrap();
        let file = rbuild.out().join("ca.crt");
        std::fs::write(&file, ca).unwrap();
        let rbuild = rbuild.env("SSL_CERT_FILE", &file);
        assert_eq!(rbuild.build(&project("/f")).image().tree().text("f"), "f");
        // What began with TLS doesn't go on without.
        let finished = rbuild.build(&project("/down")).fails();
        finished.says(&[&format!(
            "it redirects to `{}`, which does not use HTTPS",
            plain.url("/f")
        )]);
    });
    assert_eq!(plain.asked_lines(), NOTHING);
}

#[test]
fn what_the_server_has_compressed_by_itself_is_what_it_was() {
    let server = HttpServer::start();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"plain").unwrap();
    let body = gzip.finish().unwrap();
    server.serve("/f", Answer::ok(body).header("Content-Encoding", "gzip"));
    let checksum = sha256(b"plain");
    let url = server.url("/f");
    let project = Project::with(&format!("FROM scratch\nADD --checksum={checksum} {url} /"));
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    assert_eq!(tree.text("f"), "plain");
}

#[test]
fn a_slow_server_is_waited_for_while_others_work() {
    let server = HttpServer::start();
    let slow = || Answer::ok("slow").pause(Duration::from_millis(1500));
    for path in ["/1", "/2", "/3", "/4"] {
        server.serve(path, slow());
    }
    let adds: String = (1..=4)
        .map(|number| format!("ADD {} /\n", server.url(&format!("/{number}"))))
        .collect();
    let project = Project::with(&format!("FROM scratch\n{adds}"));
    let began = std::time::Instant::now();
    Rbuild::new(&User::Caller).build(&project).ok();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
