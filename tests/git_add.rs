//! ADD of git repositories.

use crate::support::{GitServer, Need, Project, Rbuild, User, assert_lines, each_user, needs};
use std::os::unix::fs::PermissionsExt;

const GIT: Need = Need::Program("git");

/// A repository with two tags; gives their commits.
fn library(server: &GitServer) -> (crate::support::Repository<'_>, String, String) {
    let repository = server.repository("library");
    repository.file("lib.c", "one").file("doc/a.md", "a");
    repository.file("tool", "#!/bin/sh\n");
    let tool = repository.path().join("tool");
    std::fs::set_permissions(tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let first = repository.commit();
    repository.git(&["tag", "v1"]);
    let second = repository.file("lib.c", "two").commit();
    repository.git(&["tag", "-a", "v2", "-m", "second"]);
    (repository, first, second)
}

#[test]
fn the_files_of_a_commit_are_added() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, ..) = library(&server);
    let url = library.url();
    let project = Project::with(&format!(
        "
        FROM scratch
        ARG REF=v1
        WORKDIR /work
        ADD {url}#$REF library
        ADD {url}#v2:doc /doc/
        ADD {url}?tag=v2&subdir=doc own.txt /several/
        "
    ))
    .file("own.txt", "own");
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        assert_lines(
            &image.tree().all(),
            r##"
            d 0755 0:0 doc
            f 0644 0:0 doc/a.md "a"
            d 0755 0:0 several
            f 0644 0:0 several/a.md "a"
            f 0644 0:0 several/own.txt "own"
            d 0755 0:0 work
            d 0755 0:0 work/library
            d 0755 0:0 work/library/doc
            f 0644 0:0 work/library/doc/a.md "a"
            f 0644 0:0 work/library/lib.c "one"
            f 0755 0:0 work/library/tool "#!/bin/sh\n"
            "##,
        );
        let history = image.history();
        assert!(
            history.contains(&format!("ADD {url}#v1 library # buildkit")),
            "{history}"
        );
    });
}

#[test]
fn flags_say_what_becomes_of_them() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, first, _) = library(&server);
    let url = library.url();
    let project = Project::with(&format!(
        "
        FROM scratch
        ADD --chown=5:6 --chmod=u=rwX,go= --exclude=doc {url}#v1 /a
        ADD --link --exclude=* --exclude=!*.c {url}#v1 /b/
        ADD --checksum={first} {url}#v1:doc /c
        "
    ));
    let rbuild = Rbuild::new(&User::Caller);
    let image = rbuild.build(&project).image();
    assert_lines(
        &image.tree().all(),
        r##"
        d 0755 5:6 a
        f 0600 5:6 a/lib.c "one"
        f 0700 5:6 a/tool "#!/bin/sh\n"
        d 0755 0:0 b
        f 0644 0:0 b/lib.c "one"
        d 0755 0:0 c
        f 0644 0:0 c/a.md "a"
        "##,
    );
}

#[test]
fn the_git_folder_is_kept_on_demand() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, first, second) = library(&server);
    let url = library.url();
    let project = Project::with(&format!(
        "
        FROM scratch
        ADD --keep-git-dir=true {url}#v1 /flag
        ADD {url}?keep-git-dir=true#{second} /query
        ADD --keep-git-dir=false {url}#v1 /not
        ADD --keep-git-dir {url}#v1:doc /folder
        "
    ));
    let tree = Rbuild::new(&User::Caller).build(&project).image().tree();
    assert_eq!(tree.text("flag/.git/HEAD").trim(), first);
    assert_eq!(tree.text("query/.git/HEAD").trim(), second);
    assert!(!tree.has("not/.git"));
    assert!(!tree.has("folder/.git"));
}

#[test]
fn a_checksum_names_the_commit() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, first, second) = library(&server);
    let url = library.url();
    let rbuild = Rbuild::new(&User::Caller);
    let dockerfile = |flags: &str, behind: &str| {
        Project::with(&format!("FROM scratch\nADD {flags} {url}{behind} /a/\n"))
    };
    let tag = library.git(&["rev-parse", "v2"]);
    for (flags, behind) in [
        (format!("--checksum={first}"), "#v1"),
        (format!("--checksum={}", &first[..8]), "#v1"),
        (format!("--checksum={second}"), "#v2"),
        (format!("--checksum={tag}"), "#v2"),
        (format!("--checksum={tag} --keep-git-dir"), "#v2"),
        (
            format!("--checksum={first}"),
            &format!("?checksum={first}#v1"),
        ),
        (format!("--checksum={first}"), &format!("#{first}")),
    ] {
        rbuild.build(&dockerfile(&flags, behind)).ok();
    }
    let wrong = format!("expected checksum to match `{first}`, got `{tag}` or `{second}`");
    let mismatch = format!("checksum mismatch \"{first}\" != \"{second}\"");
    for (flags, behind, said) in [
        (
            format!("--checksum={first}"),
            "#v2".to_owned(),
            wrong.as_str(),
        ),
        (
            format!("--checksum={second}"),
            format!("#{first}"),
            "expected checksum",
        ),
        (
            "--checksum=sha256:abc".to_owned(),
            "#v1".to_owned(),
            "expected a hex commit hash",
        ),
        (
            format!("--checksum={first}"),
            format!("?checksum={second}#v1"),
            &mismatch,
        ),
        (
            "--keep-git-dir=false".to_owned(),
            "?keep-git-dir".to_owned(),
            "inconsistent keep-git-dir configuration",
        ),
    ] {
        let failed = rbuild.build(&dockerfile(&flags, &behind)).fails();
        failed.says(&[said]);
    }
}

#[test]
fn mistakes_are_shown_where_they_are() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, ..) = library(&server);
    let url = library.url();
    let rbuild = Rbuild::new(&User::Caller);
    for (line, said) in [
        (
            format!("COPY {url} /"),
            "source can't be a git ref for COPY",
        ),
        (
            "COPY git@example.com:a/b /".to_owned(),
            "source can't be a git ref for COPY",
        ),
        (format!("ADD {url}?nope=1 /"), "unexpected query \"nope\""),
        (format!("ADD {url}#nope /"), "does not contain ref `nope`"),
        (format!("ADD {url}#:nope /"), "git subpath `nope`"),
        (
            format!("ADD --checksum=abc {url} {url} /"),
            "checksum can't be specified for multiple",
        ),
        // A path of the context.
        (
            "ADD github.com/a/b /".to_owned(),
            "`/github.com/a/b`: not found",
        ),
    ] {
        let project = Project::with(&format!("FROM scratch\n{line}\n"));
        let shown = line.split(' ').next().unwrap();
        rbuild
            .build(&project)
            .fails()
            .says(&[said, "Dockerfile:2", shown]);
    }
}

#[test]
fn a_password_in_an_address_is_shown_nowhere() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, ..) = library(&server);
    let url = library.url_as("me:hunter2@", "");
    let project = Project::with(&format!("FROM scratch\nADD --keep-git-dir {url}#v1 /\n"));
    let rbuild = Rbuild::new(&User::Caller);
    let (image, log) = rbuild.build(&project).image_and_log();
    let shown = library.url_as("xxxxx:xxxxx@", "");
    let history = image.history();
    assert!(history.contains(&format!("ADD {shown}#v1 /")), "{history}");
    let log = log.says(&[&format!("ADD --keep-git-dir {shown}#v1 /")]);
    for text in [&log.stderr, &history, &image.tree().all()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_build_that_is_stopped_stops_git() {
    if !needs(&[GIT]) {
        return;
    }
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let project = Project::with(&format!("FROM scratch\nADD http://{address}/a.git /\n"));
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let mut command = rbuild.build(&project).command();
        let mut child = command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // By now git waits for an answer.
        let (connection, _) = silent.accept().unwrap();
        let begin = std::time::Instant::now();
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
        // Its end is the end of its connection.
        connection
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut &connection, &mut rest).unwrap();
    });
}

#[test]
fn a_failure_elsewhere_does_not_wait_for_git() {
    if !needs(&[GIT]) {
        return;
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for (before, after) in [("", "COPY nope /b"), ("COPY nope /b", "")] {
        let project = Project::with(&format!(
            "
            FROM scratch AS slow
            {before}
            ADD http://{address}/a.git /
            FROM scratch
            {after}
            COPY --from=slow / /
            "
        ));
        let begin = std::time::Instant::now();
        let failed = Rbuild::new(&User::Caller).build(&project).fails();
        failed.says(&["`/nope`: not found"]);
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    }
}

#[test]
fn one_source_is_loaded_once() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, ..) = library(&server);
    let url = library.url();
    let project = Project::with(&format!(
        "
        FROM scratch AS one
        ADD {url}#v1 /
        FROM scratch AS two
        ADD {url}#v1 /
        FROM scratch
        COPY --from=one / /one/
        COPY --from=two / /two/
        "
    ));
    let log = Rbuild::new(&User::Caller).build(&project).ok();
    let loads = log
        .stderr
        .lines()
        .filter(|line| line.contains(" [internal] load git source"));
    assert_eq!(loads.count(), 1, "{}", log.stderr);
}

#[test]
fn an_unchanged_commit_is_cached() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, first, _) = library(&server);
    let url = library.url();
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(&format!("FROM scratch\nADD {url} /a\nADD {url} /b\n"));
    rbuild.build(&project).ok();
    // Both steps share one look at the repository.
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|line| line.contains("service="))
            .count(),
        2
    );
    let log = rbuild.build(&project).ok();
    assert_eq!(log.ran(), [""; 0]);
    assert_eq!(server.asked().0, 1);
    library.file("lib.c", "three").commit();
    let (image, log) = rbuild.build(&project).image_and_log();
    assert_eq!(log.ran().len(), 2);
    assert_eq!(image.tree().text("a/lib.c"), "three");
    // A commit in full asks nobody once it is here.
    let pinned = Project::with(&format!("FROM scratch\nADD {url}#{first} /a\n"));
    rbuild.build(&pinned).ok();
    server.requests();
    let log = rbuild.build(&pinned).args(["--no-cache"]).ok();
    assert_eq!(log.ran().len(), 1);
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn what_a_stage_adds_that_nobody_needs_is_not_fetched() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (library, ..) = library(&server);
    let url = library.url();
    let project = Project::with(&format!(
        "
        FROM scratch AS unused
        ADD {url} /
        FROM scratch
        COPY Dockerfile /
        "
    ));
    Rbuild::new(&User::Caller).build(&project).ok();
    assert_eq!(server.requests(), [""; 0]);
}
