//! Contexts and Dockerfiles from URLs: archives, single files, named contexts.

use std::io::Write;

use crate::support::{
    Answer, Docker, HttpServer, Need, Project, Rbuild, User, assert_lines, each_user, needs,
    run_with_timeout,
};

/// A context of which everything but the owner of one file is root's.
fn context() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, text: &str, owner: u64, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    };
    add("Dockerfile", "FROM scratch\nCOPY sub /sub/\n", 0, 0o644);
    add(
        "other/my.Dockerfile",
        "FROM scratch\nCOPY sub/a /other\n",
        0,
        0o644,
    );
    add(
        "low/dockerfile",
        "FROM scratch\nCOPY sub/a /low\n",
        0,
        0o644,
    );
    add("sub/a", "a", 1234, 0o640);
    add("sub/ignored", "i", 0, 0o600);
    add(".dockerignore", "sub/ignored\n", 0, 0o644);
    tar.into_inner().unwrap()
}

fn compressed(tar: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tar).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(tar).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(tar).unwrap();
    vec![
        ("plain", tar.to_vec()),
        ("gzip", gzip.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(tar, 1).unwrap()),
    ]
}

#[test]
fn an_archive_is_the_context_whatever_it_is_compressed_with() {
    let server = HttpServer::start();
    for (name, bytes) in compressed(&context()) {
        // What it is shows in the bytes alone.
        server.serve("/download?id=1", Answer::ok(bytes));
        let check = |user: &User| {
            let url = server.url("/download?id=1");
            let image = Rbuild::new(user).build_at(&url).image();
            // As in BuildKit, owners are the archive's and ignore files are for folders.
            assert_lines(
                &image.tree().all(),
                r#"
                d 0755 0:0 sub
                f 0640 1234:1234 sub/a "a"
                f 0600 0:0 sub/ignored "i"
                "#,
            );
        };
        match name {
            "gzip" => each_user(check),
            _ => check(&User::Caller),
        }
    }
}

#[test]
fn the_dockerfile_is_in_the_archive_beside_it_or_elsewhere() {
    let server = HttpServer::start();
    server.serve("/context.tar", Answer::ok(context())).serve(
        "/Dockerfile",
        Answer::ok("FROM scratch\nCOPY sub/a /from-url\n"),
    );
    let url = server.url("/context.tar");
    let local = Project::with("FROM scratch\nCOPY sub/a /local\n");
    let file = local.path().join("Dockerfile");
    let dockerfile = server.url("/Dockerfile");
    for (argument, made) in [
        ("other/my.Dockerfile", "other"),
        ("low/Dockerfile", "low"),
        (file.to_str().unwrap(), "local"),
        (&dockerfile, "from-url"),
        ("-", "piped"),
    ] {
        let rbuild = Rbuild::new(&User::Caller);
        let build = rbuild.build_at(&url).args(["-f", argument]);
        let build = build.stdin("FROM scratch\nCOPY sub/a /piped\n");
        assert_eq!(build.image().tree().text(made), "a", "-f {argument}");
    }
    let build = Rbuild::new(&User::Caller);
    let finished = build.build_at(&url).args(["-f", "missing"]).fails();
    let finished = finished.says(&["failed to read dockerfile: `missing`: no such file"]);
    assert_eq!(finished.status.code(), Some(2));
}

#[test]
fn a_dockerfile_from_elsewhere_builds_a_folder() {
    let server = HttpServer::start();
    let (dockerfile, url) = ("FROM scratch\nCOPY x /y\n", server.url("/d?k=secret"));
    server.serve("/d?k=secret", Answer::ok(dockerfile));
    let project = Project::new()
        .file("x", "x")
        .file("Dockerfile", "FROM nowhere");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let (image, log) = rbuild.build(&project).args(["-f", &url]).image_and_log();
        assert_lines(&image.tree().all(), r#"f 0644 0:0 y "x""#);
        assert!(!log.stderr.contains("secret"));
    });
    server.serve("/d?k=secret", Answer::ok("FROM scratch\nCOPPY x /y\n"));
    let rbuild = Rbuild::new(&User::Caller);
    let finished = rbuild.build(&project).args(["-f", &url]).fails();
    finished.says(&[
        "unknown instruction: COPPY",
        &format!("--> {}:2:1", server.url("/d")),
    ]);
    server.serve("/d?k=secret", Answer::ok(b"FROM \xff\n".to_vec()));
    let finished = rbuild.build(&project).args(["-f", &url]).fails();
    finished.says(&["is not valid UTF-8"]);
}

#[test]
fn a_file_that_is_no_archive_is_the_dockerfile() {
    let server = HttpServer::start();
    let text = "FROM scratch\nCOPY . /all/\n";
    server.serve("/app/Dockerfile.prod", Answer::ok(text));
    let url = server.url("/app/Dockerfile.prod");
    each_user(|user| {
        let image = Rbuild::new(user).build_at(&url).image();
        assert_lines(
            &image.tree().all(),
            r#"
            d 0755 0:0 all
            f 0600 0:0 all/context "FROM scratch\nCOPY . /all/\n"
            "#,
        );
        // Which file it is can't be chosen then.
        let rbuild = Rbuild::new(user);
        rbuild.build_at(&url).args(["-f", "other"]).ok();
    });
}

#[test]
fn what_can_not_be_a_context_is_told() {
    let server = HttpServer::start();
    let tar = context();
    server
        .serve("/gone", Answer::status(404))
        .serve("/page", Answer::ok("<html>no</html>"))
        .serve(
            "/cut.gz",
            Answer::ok(compressed(&tar).swap_remove(1).1[..100].to_vec()),
        )
        .serve("/empty", Answer::ok(""));
    for (path, code, message) in [
        (
            "/gone",
            3,
            "failed to load the build context: failed to fetch `http",
        ),
        ("/page", 2, "unknown instruction: <html>no</html>"),
        ("/cut.gz", 2, "/cut.gz is no build context"),
        ("/empty", 2, "the Dockerfile cannot be empty"),
    ] {
        let finished = Rbuild::new(&User::Caller)
            .build_at(server.url(path))
            .fails();
        let finished = finished.says(&[message]);
        assert_eq!(finished.status.code(), Some(code), "{path}");
    }
    let finished = Rbuild::new(&User::Caller)
        .build_at("http://user:secret@127.0.0.1:1/x")
        .fails();
    let finished = finished.says(&["failed to fetch `http://127.0.0.1:1/x`: connection refused"]);
    assert!(!finished.stderr.contains("secret"));
}

#[test]
fn an_archive_can_not_reach_out_of_itself() {
    let server = HttpServer::start();
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    tar.append_link(&mut link, "out", "/etc").unwrap();
    let text = b"FROM scratch\nCOPY out/passwd /\n";
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", &text[..])
        .unwrap();
    server.serve("/c.tar", Answer::ok(tar.into_inner().unwrap()));
    let finished = Rbuild::new(&User::Caller)
        .build_at(server.url("/c.tar"))
        .fails();
    finished.says(&["`/out/passwd`: not found"]);
}

#[test]
fn questions_are_answered_about_them_too() {
    let server = HttpServer::start();
    server.serve("/c.tar", Answer::ok(context()));
    let rbuild = Rbuild::new(&User::Caller);
    let url = server.url("/c.tar");
    let targets = rbuild.run(["build", "--call=targets", &url]).ok();
    assert!(targets.text().contains("TARGET"), "{}", targets.text());
    rbuild.run(["build", "--check", &url]).ok();
}

#[test]
fn an_unchanged_context_is_not_fetched_again() {
    let server = HttpServer::start();
    server.serve("/c.tar", Answer::ok(context()).etag("\"c\""));
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build_at(server.url("/c.tar")).ok();
    let (_, log) = rbuild.build_at(server.url("/c.tar")).image_and_log();
    assert!(log.ran().is_empty(), "{:?}", log.ran());
    assert_eq!(server.asked_lines(), ["GET /c.tar", "HEAD /c.tar"]);
}

#[test]
fn a_named_context_is_a_folder_with_one_file() {
    let server = HttpServer::start();
    server
        .serve("/lib.tar", Answer::ok(context()))
        .serve("/text", Answer::ok("text"));
    let named = |path: &str| {
        [
            "--build-context".to_owned(),
            format!("lib={}", server.url(path)),
        ]
    };
    let project = Project::with(
        "
        FROM lib AS start
        COPY --from=lib context /copied
        FROM scratch
        COPY --from=start / /
        ",
    );
    each_user(|user| {
        let image = Rbuild::new(user)
            .build(&project)
            .args(named("/text"))
            .image();
        assert_lines(
            &image.tree().all(),
            r#"
            f 0600 0:0 context "text"
            f 0600 0:0 copied "text"
            "#,
        );
    });
    // An archive is one, too.
    let project = Project::with("FROM scratch\nCOPY --from=lib / /");
    let image = Rbuild::new(&User::Caller)
        .build(&project)
        .args(named("/lib.tar"))
        .image();
    let context = context();
    assert_eq!(image.tree().get("context").size, context.len() as u64);
    server.asked();
    // One that nobody wants isn't fetched.
    let project = Project::with("FROM lib AS unused\nFROM scratch\nCOPY Dockerfile /");
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).args(named("/missing")).ok();
    assert!(server.asked().is_empty());
    let project = Project::with("FROM scratch\nCOPY --from=lib / /");
    let finished = rbuild.build(&project).args(named("/missing")).fails();
    finished.says(&["404 Not Found", "Dockerfile:2"]);
    let project = Project::with("FROM scratch\nCOPY --from=lib /x /");
    let finished = rbuild.build(&project).args(named("/text")).fails();
    finished.says(&["`/x`: not found"]);
}

#[test]
fn a_step_mounts_a_named_context_from_elsewhere() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let server = HttpServer::start();
    server.serve("/text", Answer::ok("text"));
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=bind,from=lib,target=/l cat /l/context > /whole
        RUN --mount=from=lib,source=context,target=/f cat /f > /one && stat -c %a /f > /mode
        ",
    );
    each_user(|user| {
        let named = format!("lib={}", server.url("/text"));
        let build = Rbuild::new(user);
        let build = build.build(&project).args(["--build-context", &named]);
        let tree = build.image().tree();
        assert_eq!(
            (tree.text("whole"), tree.text("one")),
            ("text".into(), "text".into())
        );
        assert_eq!(tree.text("mode"), "600\n");
    });
}

/// Docker's BuildKit builds the same files from the same URLs.
#[test]
fn docker_fetches_the_same() {
    if !needs(&[Need::Program("curl")]) {
        return;
    }
    let Some(docker) = Docker::start() else {
        return;
    };
    let server = HttpServer::start();
    let then = "Wed, 21 Oct 2015 07:28:00 GMT";
    let named = "attachment; filename=\"other\"";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"plain").unwrap();
    let gzip = Answer::ok(gzip.finish().unwrap()).header("Content-Encoding", "gzip");
    server
        .serve("/dated", Answer::ok("dated").modified(then))
        .serve(
            "/named",
            Answer::ok("named").header("Content-Disposition", named),
        )
        .serve("/a%20b", Answer::ok("blank"))
        .serve("/folder/", Answer::ok("folder"))
        .serve("/", Answer::ok("root"))
        .serve("/?q=1", Answer::ok("query"))
        .serve("/in.tar", Answer::ok(context()))
        .serve("/gzip", gzip)
        .serve("/there", Answer::redirect("/dated"));
    let url = |path: &str| server.url(path);
    let dockerfile = format!(
        "FROM scratch\n\
         COPY . /context/\n\
         ADD {} {} {} {} {} /names/\n\
         ADD {} {} /\n\
         ADD --chown=3:4 {} /owned/as\n\
         ADD {} /query/\n\
         ADD {} /redirected\n",
        url("/dated"),
        url("/named"),
        url("/a%20b"),
        url("/folder/"),
        url("/"),
        url("/in.tar"),
        url("/gzip"),
        url("/dated"),
        url("/?q=1"),
        url("/there"),
    );
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text, owner) in [
        ("Dockerfile", dockerfile.as_str(), 0),
        (".dockerignore", "ignored\n", 0),
        ("ignored", "", 1234),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o640);
        header.set_uid(owner);
        header.set_gid(owner);
        archive
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
    }
    server
        .serve("/app.tar", Answer::ok(archive.into_inner().unwrap()))
        .serve("/Dockerfile", Answer::ok("FROM scratch\nCOPY . /all/\n"));
    let rbuild = Rbuild::new(&User::Caller);
    let on_theirs = Project::with("FROM base");
    for (path, tag) in [("/app.tar", "archive"), ("/Dockerfile", "file")] {
        let request = format!("http://docker/build?version=2&t={tag}&remote={}", url(path));
        let socket = docker.host();
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--fail", "-X", "POST", "--unix-socket"]);
        command.args([socket.trim_start_matches("unix://"), &request]);
        run_with_timeout(command, None).ok();
        let saved = rbuild.out().join(format!("{tag}.tar"));
        docker
            .run(&["save", "-o", saved.to_str().unwrap(), tag])
            .ok();
        let base = format!("base=docker-archive://{}", saved.display());
        let theirs = rbuild
            .build(&on_theirs)
            .args(["--build-context", &base])
            .image()
            .tree();
        let own = rbuild.build_at(url(path)).image().tree();
        assert_eq!(own.all(), theirs.all());
        if tag == "archive" {
            assert_eq!(
                own.get("names/dated").mtime,
                theirs.get("names/dated").mtime
            );
            assert_eq!(own.get("gzip").mtime, theirs.get("gzip").mtime);
        }
    }
}

#[test]
fn standard_input_keeps_owners_as_other_archives_do() {
    each_user(|user| {
        let image = Rbuild::new(user).build_at("-").stdin(context()).image();
        let tree = image.tree();
        assert_eq!(
            (tree.get("sub/a").uid, tree.get("sub/a").mode),
            (1234, 0o640)
        );
        assert!(tree.has("sub/ignored"));
    });
}
