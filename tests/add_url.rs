//! ADD of URLs: what is fetched, how it is called, when it is asked for again.

mod servers;

use std::time::Duration;

use crate::support::{Answer, HttpServer, Project, Rbuild, User, assert_lines, each_user};

/// A time that is not today's: Wed, 21 Oct 2015 07:28:00 GMT.
const THEN: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const THEN_SECONDS: i64 = 1_445_412_480;
const NOTHING: [&str; 0] = [];

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A gzipped tar archive with one file of another owner.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1);
    tar.append_data(&mut header, "sub/inner", &b"packed"[..])
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_file_is_roots_alone_and_as_old_as_the_server_says() {
    let server = HttpServer::start();
    server
        .serve("/dir/foo.txt", Answer::ok("foo").modified(THEN))
        .serve("/undated", Answer::ok("undated"))
        .serve("/misdated", Answer::ok("misdated").modified("lately"))
        .serve(
            "/old",
            Answer::ok("old").modified("Sunday, 06-Nov-94 08:49:37 GMT"),
        );
    let project = Project::with(&format!(
        "
        FROM scratch
        ARG SERVER=nowhere
        ADD http://$SERVER/dir/foo.txt /
        ADD http://${{SERVER}}/dir/foo.txt /as/bar
        ADD --chown=3:4 --chmod=u=rw,go=r {} {} /owned/
        ADD --keep-git-dir=true {} /
        ",
        server.url("/undated"),
        server.url("/misdated"),
        server.url("/old"),
    ));
    each_user(|user| {
        let image = Rbuild::new(user)
            .build(&project)
            .build_arg(&format!("SERVER={}", server.host()))
            .image();
        let tree = image.tree();
        assert_lines(
            &tree.all(),
            r#"
            d 0755 0:0 as
            f 0600 0:0 as/bar "foo"
            f 0600 0:0 foo.txt "foo"
            f 0600 0:0 old "old"
            d 0755 3:4 owned
            f 0644 3:4 owned/misdated "misdated"
            f 0644 3:4 owned/undated "undated"
            "#,
        );
        assert_eq!(tree.get("foo.txt").mtime, THEN_SECONDS);
        assert_eq!(tree.get("as/bar").mtime, THEN_SECONDS);
        assert_eq!(tree.get("owned/undated").mtime, 0);
        assert_eq!(tree.get("owned/misdated").mtime, 0);
        assert_eq!(tree.get("old").mtime, 784_111_777);
        let history = image.history();
        let line = format!("ADD {} / # buildkit", server.url("/dir/foo.txt"));
        assert!(history.contains(&line), "{history}");
    });
}

#[test]
fn the_end_of_the_urls_path_is_the_name() {
    let server = HttpServer::start();
    let answer = || Answer::ok("x").header("Content-Disposition", "attachment; filename=\"other\"");
    for (path, name) in [
        ("/a/plain", "plain"),
        ("/a/folder/", "folder"),
        ("/a/with%20blank", "with blank"),
        ("/a/slash%2Fed", "ed"),
        ("/q?file=/other#frag/ment", "q"),
        ("/", "__unnamed__"),
        ("", "__unnamed__"),
        ("/?q=1", "__unnamed__"),
    ] {
        let target = path.split('#').next().unwrap();
        let target = if target.is_empty() { "/" } else { target };
        server.serve(target, answer());
        let project = Project::with(&format!("FROM scratch\nADD {} /d/", server.url(path)));
        let image = Rbuild::new(&User::Caller).build(&project).image();
        let expected = format!("d 0755 0:0 d\nf 0600 0:0 d/{name} \"x\"\n");
        assert_eq!(image.tree().all(), expected, "{path}");
    }
}

#[test]
fn triggers_fetch_in_the_build_that_they_fire_in() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f"));
    let url = server.url("/f");
    let project = Project::with(&format!(
        "
        FROM scratch AS base
        ARG NAME=one
        ONBUILD ARG NAME=two
        ONBUILD ADD {url} /$NAME
        FROM base
        "
    ));
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    assert_eq!(tree.text("two"), "f");
}

#[test]
fn an_interrupt_ends_a_download() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f").pause(Duration::from_secs(60)));
    let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        for context in [project.path().to_str().unwrap(), &server.url("/f")] {
            let began = std::time::Instant::now();
            let mut command = rbuild.build_at(context).command();
            let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
            while server.asked().is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            }
            let id = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(143), "{context}");
            assert!(began.elapsed() < Duration::from_secs(30));
        }
        let blobs = rbuild.store().join("blobs/sha256");
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    });
}

#[test]
fn urls_paths_and_heredocs_go_into_one_folder() {
    let server = HttpServer::start();
    server
        .serve("/one", Answer::ok("one"))
        .serve("/a.tgz", Answer::ok(archive()));
    let project = Project::with(&format!(
        "
        FROM scratch
        ADD {} local {} <<EOF /d/
        inline
        EOF
        ",
        server.url("/one"),
        server.url("/a.tgz"),
    ))
    .file("local", "local");
    let image = Rbuild::new(&User::Caller).build(&project).image();
    let tree = image.tree();
    assert_eq!(tree.text("d/one"), "one");
    assert_eq!(tree.text("d/local"), "local");
    assert_eq!(tree.text("d/EOF"), "inline\n");
    assert!(!tree.has("d/sub"));
    // Several sources need a folder.
    let project = Project::with(&format!(
        "FROM scratch\nADD {} {} /d",
        server.url("/one"),
        server.url("/a.tgz")
    ));
    let build = Rbuild::new(&User::Caller).build(&project).fails();
    build.says(&["When using ADD with more than one source file, the destination must be a directory and end with a /"]);
}

#[test]
fn an_archive_is_unpacked_only_where_that_is_asked_for() {
    let server = HttpServer::start();
    server
        .serve("/a.tgz", Answer::ok(archive()))
        .serve("/text", Answer::ok("text"));
    let (tgz, text) = (server.url("/a.tgz"), server.url("/text"));
    let project = Project::with(&format!(
        "
        FROM scratch
        ADD {tgz} /kept/
        ADD --unpack=false {tgz} /kept2/
        ADD --unpack {tgz} /open/
        ADD --unpack=true --chown=1:2 {tgz} /owned/
        ADD --unpack=true {text} /other/
        ",
    ));
    each_user(|user| {
        let tree = Rbuild::new(user).build(&project).image().tree();
        assert!(tree.get("kept/a.tgz").shown().contains("bytes"));
        assert!(tree.has("kept2/a.tgz"));
        assert_lines(
            &tree.lines(&["open/**", "owned/**", "other/**"]),
            r#"
            d 0755 0:0 open
            d 0755 0:0 open/sub
            f 0640 7:8 open/sub/inner "packed"
            d 0755 1:2 owned
            d 0755 0:0 owned/sub
            f 0640 1:2 owned/sub/inner "packed"
            d 0755 0:0 other
            f 0600 0:0 other/text "text"
            "#,
        );
    });
}

#[test]
fn a_file_goes_into_a_folder_that_is_there_and_through_links() {
    let server = HttpServer::start();
    server.serve("/tool", Answer::ok("tool"));
    let url = server.url("/tool");
    let project = Project::with(&format!(
        "
        FROM scratch
        COPY tree/ /
        ADD {url} /dir
        ADD {url} /link/
        WORKDIR /work
        ADD {url} .
        ADD {url} sub/renamed
        ",
    ))
    .file("tree/dir/old", "old")
    .folder("tree/real")
    .symlink("tree/link", "real");
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    for path in ["dir/tool", "real/tool", "work/tool", "work/sub/renamed"] {
        assert_eq!(tree.text(path), "tool", "{path}");
    }
}

#[test]
fn linked_layers_hang_on_nothing() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f").etag("\"1\""));
    let dockerfile = |first: &str| {
        let url = server.url("/f");
        format!("FROM scratch\nCOPY <<EOF /x\n{first}\nEOF\nADD --link {url} /d/\n")
    };
    let rbuild = Rbuild::new(&User::Caller);
    let (_, log) = rbuild
        .build(&Project::with(&dockerfile("1")))
        .image_and_log();
    assert_eq!(log.ran().len(), 2);
    let (image, log) = rbuild
        .build(&Project::with(&dockerfile("2")))
        .image_and_log();
    assert_eq!(log.ran().len(), 1, "{:?}", log.ran());
    assert_eq!(image.tree().text("d/f"), "f");
}

#[test]
fn a_checksum_says_what_it_must_be() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("right"));
    let url = server.url("/f");
    let (right, wrong) = (sha256(b"right"), sha256(b"wrong"));
    let project = Project::with(&format!(
        "FROM scratch\nARG SUM={right}\nADD --checksum=$SUM {url} /"
    ));
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        assert_eq!(rbuild.build(&project).image().tree().text("f"), "right");
        let build = rbuild.build(&project).build_arg(&format!("SUM={wrong}"));
        let finished = build.fails().says(&[
            &format!("digest mismatch for {url}: {right} (expected: {wrong})"),
            "Dockerfile:3",
            "ADD --checksum=$SUM",
        ]);
        assert_eq!(finished.status.code(), Some(1));
        // Nor is what was never here before.
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project).build_arg(&format!("SUM={wrong}"));
        build.fails().says(&["digest mismatch for"]);
    });
}

#[test]
fn with_a_checksum_nobody_is_asked_twice() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("content").modified(THEN));
    let checksum = sha256(b"content");
    let add = format!("ADD --checksum={checksum} {} /", server.url("/f"));
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(&format!("FROM scratch\n{add}"));
    let first = rbuild.build(&project).image();
    assert_eq!(server.asked_lines(), ["GET /f"]);
    server.serve("/f", Answer::status(500));
    let (second, log) = rbuild.build(&project).image_and_log();
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(first.digest, second.digest);
    // Neither for another step.
    let other = Project::with(&format!("FROM scratch\nCOPY Dockerfile /\n{add}"));
    let tree = rbuild.build(&other).image().tree();
    assert_eq!(
        (tree.text("f").as_str(), tree.get("f").mtime),
        ("content", THEN_SECONDS)
    );
    assert_eq!(server.asked_lines(), NOTHING);
    // Nor where only the step's result is left.
    let blob = checksum.split_once(':').unwrap().1;
    std::fs::remove_file(rbuild.store().join("blobs/sha256").join(blob)).unwrap();
    let (third, log) = rbuild.build(&project).image_and_log();
    assert_eq!(log.ran(), NOTHING);
    assert_eq!(first.digest, third.digest);
    assert_eq!(server.asked_lines(), NOTHING);
    // Without the cache, it is fetched again.
    server.serve("/f", Answer::ok("content").modified(THEN));
    rbuild.build(&project).args(["--no-cache"]).ok();
    assert_eq!(server.asked_lines(), ["GET /f"]);
}

#[test]
fn checksums_that_mean_nothing_are_refused() {
    let sum = sha256(b"x");
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    for (line, message) in [
        (
            format!("ADD --checksum={sum} file /"),
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            format!("ADD --checksum={sum} http://a.invalid/x http://a.invalid/y /"),
            "checksum can't be specified for multiple sources",
        ),
        (
            format!("ADD --checksum={sum} <<EOF /\nEOF"),
            "checksum can't be specified for multiple sources",
        ),
        (
            format!("COPY --checksum={sum} file /"),
            "unknown flag: --checksum",
        ),
        (
            "ADD --checksum=sha256:12 http://a.invalid/x /".to_owned(),
            "invalid checksum digest length",
        ),
        (
            "ADD --checksum=0123 http://a.invalid/x /".to_owned(),
            "invalid checksum digest format",
        ),
        (
            format!("ADD --checksum={} http://a.invalid/x /", sum.to_uppercase()),
            "unsupported digest algorithm",
        ),
        (
            "ADD --checksum=md5:d41d8cd98f00b204e9800998ecf8427e http://a.invalid/x /".to_owned(),
            "unsupported digest algorithm",
        ),
        (
            format!("ADD --checksum={sha512} http://a.invalid/x /"),
            "unsupported digest algorithm: `sha512` can't be compared, only sha256",
        ),
        (
            "COPY http://a.invalid/x /".to_owned(),
            "source can't be a URL for COPY",
        ),
        (
            "COPY --from=0 https://a.invalid/x /".to_owned(),
            "source can't be a URL for COPY",
        ),
    ] {
        let project = Project::with(&format!("FROM scratch AS a\nFROM scratch\n{line}\n"))
            .file("file", "file");
        let finished = Rbuild::new(&User::Caller).build(&project).fails();
        let finished = finished.says(&[message, "Dockerfile:3"]);
        assert_eq!(finished.status.code(), Some(2), "{line}");
    }
}

#[test]
fn unchanged_content_is_not_fetched_again() {
    let server = HttpServer::start();
    let url = server.url("/f");
    let project = Project::with(&format!("FROM scratch\nADD {url} /"));
    each_user(|user| {
        // By its tag: a HEAD is enough.
        let rbuild = Rbuild::new(user);
        server.serve("/f", Answer::ok("1").etag("\"one\"").modified(THEN));
        let first = rbuild.build(&project).image();
        assert_eq!(server.asked_lines(), ["GET /f"]);
        let (second, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.ran(), NOTHING);
        assert_eq!(first.digest, second.digest);
        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].method, "HEAD");
        assert_eq!(asked[0].header("if-none-match"), Some("\"one\""));
        assert!(
            asked[0]
                .header("user-agent")
                .unwrap()
                .starts_with("rbuild/")
        );
        // Changed.
        server.serve("/f", Answer::ok("2").etag("\"two\"").modified(THEN));
        let (image, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.ran().len(), 1);
        assert_eq!(image.tree().text("f"), "2");
        assert_eq!(server.asked_lines(), ["HEAD /f", "GET /f"]);
        // And back: the store still has the step.
        server.serve("/f", Answer::ok("1").etag("\"one\"").modified(THEN));
        let (_, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.ran(), NOTHING);
        server.asked();
    });
}

#[test]
fn servers_differ_in_how_they_say_that_nothing_changed() {
    let tagged = || Answer::ok("f").etag("\"t\"");
    for (answer, then, asked) in [
        // It tells the tag, whatever the condition.
        (tagged(), tagged().unconditional(), vec!["HEAD /f"]),
        // A weak tag is the same as a strong one for this.
        (
            tagged(),
            Answer::ok("f").etag("W/\"t\"").unconditional(),
            vec!["HEAD /f"],
        ),
        // It knows no HEAD, but conditions.
        (tagged(), tagged().without_head(), vec!["HEAD /f", "GET /f"]),
        // 304 without a tag.
        (tagged(), Answer::status(304), vec!["HEAD /f"]),
        // It knows times only.
        (
            Answer::ok("f").modified(THEN),
            Answer::ok("f").modified(THEN),
            vec!["GET /f"],
        ),
        // It knows nothing: the content is the same, so is the step.
        (Answer::ok("f"), Answer::ok("f"), vec!["GET /f"]),
        // The time alone has changed.
        (
            Answer::ok("f").modified(THEN),
            Answer::ok("f").modified("Thu, 22 Oct 2015 07:28:00 GMT"),
            vec!["GET /f"],
        ),
    ] {
        let server = HttpServer::start();
        let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
        let rbuild = Rbuild::new(&User::Caller);
        server.serve("/f", answer);
        let first = rbuild.build(&project).image();
        server.asked();
        server.serve("/f", then);
        let (second, log) = rbuild.build(&project).image_and_log();
        assert_eq!(log.ran(), NOTHING, "{asked:?}");
        assert_eq!(first.digest, second.digest);
        assert_eq!(server.asked_lines(), asked);
    }
}

#[test]
fn a_url_is_fetched_once_in_a_build() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f"));
    let url = server.url("/f");
    let project = Project::with(&format!(
        "
        FROM scratch AS a
        ADD {url} /a
        FROM scratch AS unused
        ADD {} /
        FROM scratch
        ADD {url} /b
        COPY --from=a / /
        ",
        server.url("/unused")
    ));
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    assert_eq!((tree.text("a"), tree.text("b")), ("f".into(), "f".into()));
    assert_eq!(server.asked_lines(), ["GET /f"]);
}

#[test]
fn offline_nothing_is_believed_without_a_checksum() {
    let server = HttpServer::start();
    server.serve("/f", Answer::ok("f").etag("\"t\""));
    // Nobody listens there afterwards.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let project = Project::with(&format!("FROM scratch\nADD http://127.0.0.1:{port}/f /"));
    each_user(|user| {
        let finished = Rbuild::new(user).build(&project).fails().says(&[
            &format!("failed to fetch `http://127.0.0.1:{port}/f`: connection refused"),
            "Dockerfile:2",
        ]);
        assert_eq!(finished.status.code(), Some(3));
    });
    let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    server.serve("/f", Answer::status(403));
    rbuild.build(&project).fails().says(&["403 Forbidden"]);
}

#[test]
fn what_is_fetched_counts_as_cache_and_is_pruned() {
    let server = HttpServer::start();
    let body = "x".repeat(1 << 20);
    server.serve("/f", Answer::ok(body.clone()).etag("\"t\""));
    let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).ok();
    let hex = sha256(body.as_bytes());
    let blob = rbuild.store().join("blobs/sha256").join(&hex[7..]);
    assert!(blob.exists());
    rbuild.run(["prune", "--all", "--force"]).ok();
    assert!(!blob.exists());
    server.asked();
    rbuild.build(&project).ok();
    assert_eq!(server.asked_lines(), ["GET /f"]);
}

#[test]
fn a_dry_look_fetches_nothing() {
    let server = HttpServer::start();
    let project = Project::with(&format!("FROM scratch\nADD {} /", server.url("/f")));
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).own_progress().args(["--check"]).ok();
    assert_eq!(server.asked_lines(), NOTHING);
}
