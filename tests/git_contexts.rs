//! Git repositories as build contexts, the main one and named ones.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::{
    COMMIT_TIME, Docker, GitServer, Need, Project, Rbuild, Repository, User, assert_lines,
    each_user, needs,
};

const GIT: Need = Need::Program("git");

/// A Dockerfile that copies everything.
pub(crate) const ALL: &str = "FROM scratch\nCOPY . /\n";

/// Three commits: `v1` (a light tag), `v2` (an annotated one) and the tip of `main`; each says its
/// name in `name` and in `sub/name`.
pub(crate) fn history(server: &GitServer) -> (Repository<'_>, [String; 3]) {
    let repository = server.repository("history");
    let commits = ["v1", "v2", "main"].map(|name| {
        repository.file("Dockerfile", ALL).file("name", name);
        repository.file("sub/Dockerfile", ALL);
        let commit = repository
            .file("sub/name", &format!("sub of {name}"))
            .commit();
        match name {
            "v1" => repository.git(&["tag", "v1"]),
            "v2" => repository.git(&["tag", "-a", "v2", "-m", "the second"]),
            _ => String::new(),
        };
        commit
    });
    (repository, commits)
}

#[test]
fn a_repository_is_a_context_with_its_own_dockerfile() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let repository = server.repository("app");
    repository
        .file("Dockerfile", ALL)
        .file("bin/run", "#!/bin/sh\n")
        .file("notes/a", "a")
        // As in BuildKit, what is in a repository is there to be built.
        .file(".dockerignore", "notes\n");
    let run = repository.path().join("bin/run");
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink("notes/a", repository.path().join("link")).unwrap();
    repository.commit();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let (image, log) = rbuild.build_at(repository.url()).image_and_log();
        assert_lines(
            &image.tree().all(),
            r##"
            f 0644 0:0 .dockerignore "notes\n"
            f 0644 0:0 Dockerfile "FROM scratch\nCOPY . /\n"
            d 0755 0:0 bin
            f 0755 0:0 bin/run "#!/bin/sh\n"
            l 0:0 link -> notes/a
            d 0755 0:0 notes
            f 0644 0:0 notes/a "a"
            "##,
        );
        log.says(&["[internal] load git source http://127.0.0.1:"]);
    });
}

#[test]
fn what_stands_behind_the_address_says_what_of_it() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, v2, tip]) = history(&server);
    let tag_object = repository.git(&["rev-parse", "v2"]);
    assert_ne!(tag_object, v2);
    let rbuild = Rbuild::new(&User::Caller);
    for (behind, name) in [
        ("", "main"),
        ("#", "main"),
        ("#main", "main"),
        ("#refs/heads/main", "main"),
        ("#heads/main", "main"),
        ("#v1", "v1"),
        ("#v2", "v2"),
        ("#refs/tags/v2", "v2"),
        (&format!("#{v1}"), "v1"),
        (&format!("#{tag_object}"), "v2"),
        ("#:sub", "sub of main"),
        ("#v1:sub", "sub of v1"),
        ("#v1:/sub/../sub/", "sub of v1"),
        ("#v1:../../sub", "sub of v1"),
        ("?ref=v1", "v1"),
        ("?tag=v2", "v2"),
        ("?branch=main&subdir=/sub", "sub of main"),
        ("?subdir=sub#v2", "sub of v2"),
        (&format!("?checksum={v1}#v1"), "v1"),
        (&format!("?commit={}#v1", &v1[..7]), "v1"),
        (&format!("?checksum={v2}&tag=v2"), "v2"),
        (&format!("?checksum={tag_object}&tag=v2"), "v2"),
        (&format!("?fetch-by-commit&checksum={v1}#main"), "v1"),
        (&format!("?fetch-by-commit&checksum={tip}"), "main"),
    ] {
        let image = rbuild.build_at(repository.at(behind)).image();
        assert_eq!(image.tree().text("name"), name, "{behind}");
    }
}

#[test]
fn a_branch_comes_before_a_tag_of_its_name() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    repository.git(&["tag", "main", "v1"]);
    repository.git(&["branch", "v2", "v1^{commit}"]);
    let rbuild = Rbuild::new(&User::Caller);
    for (behind, name) in [("#main", "main"), ("#refs/tags/main", "v1"), ("#v2", "v1")] {
        let image = rbuild.build_at(repository.at(behind)).image();
        assert_eq!(image.tree().text("name"), name, "{behind}");
    }
}

#[test]
fn what_a_repository_does_not_have_is_named() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    symlink("/etc", repository.path().join("out")).unwrap();
    symlink("sub", repository.path().join("in")).unwrap();
    let tip = repository.commit();
    let wrong_checksum = format!("expected checksum to match `{v1}`, got `{tip}`");
    let absent = "0123456789abcdef0123456789abcdef01234567";
    let rbuild = Rbuild::new(&User::Caller);
    for (behind, said) in [
        ("#nope", "does not contain ref `nope`"),
        ("#refs/tags/main", "does not contain ref `refs/tags/main`"),
        ("#0123456", "a commit is named by its whole hash"),
        (&format!("#{absent}"), "does not contain ref"),
        ("#:nope", "git subpath `nope` of"),
        ("#:sub/name", "`sub/name` is not a directory"),
        ("#:in", "`in` is not a directory"),
        ("#:out", "`out` is not a directory"),
        ("#:out/ssl", "`out` is not a directory"),
        ("#:.git", "`.git` is not there"),
        (&format!("?checksum={v1}"), wrong_checksum.as_str()),
        ("?checksum=nope", "invalid checksum `nope`"),
        ("?fetch-by-commit", "requires a full commit"),
        ("?ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
        ("?keep-git-dir=maybe", "invalid keep-git-dir value"),
        ("?depth=1", "unexpected query \"depth\""),
        ("#--upload-pack=x", "invalid git ref \"--upload-pack=x\""),
    ] {
        let address = repository.at(behind);
        rbuild.build_at(&address).fails().says(&[said]);
    }
    let absent = repository.url().replace("/history/", "/absent/");
    let failed = rbuild.build_at(absent).fails();
    failed.says(&["failed to ask the git repository", "not found"]);
}

#[test]
fn the_dockerfile_is_in_the_repository_unless_it_is_said_to_be_here() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let repository = server.repository("app");
    repository
        .file("dockerfile", "FROM scratch\nCOPY a /lower\n")
        .file("a", "a")
        .file("sub/b", "b")
        .file("sub/docker/Other", "FROM scratch\nCOPY b /other\n");
    symlink("docker/Other", repository.path().join("sub/linked")).unwrap();
    symlink("../a", repository.path().join("sub/above")).unwrap();
    repository.commit();
    let here = Project::with("FROM scratch\nCOPY b /here\n");
    let here = here.path().join("Dockerfile");
    let rbuild = Rbuild::new(&User::Caller);
    let built = |behind: &str, file: &str| {
        let build = rbuild.build_at(repository.at(behind));
        build.args(["-f", file]).image().tree().all()
    };
    assert!(built("", "Dockerfile").contains("lower"));
    assert!(built("#:sub", "docker/Other").contains("other"));
    assert!(built("#:sub", "linked").contains("other"));
    assert!(built("#:sub", here.to_str().unwrap()).contains("here"));
    let build = rbuild.build_at(repository.at("#:sub")).args(["-f", "-"]);
    let image = build.stdin("FROM scratch\nCOPY b /stdin\n").image();
    assert_eq!(image.tree().text("stdin"), "b");
    for file in ["nope", "above", "../dockerfile"] {
        let build = rbuild.build_at(repository.at("#:sub")).args(["-f", file]);
        build.fails().says(&["failed to read dockerfile", file]);
    }
    let bare = rbuild.build_at(repository.at("#:sub"));
    bare.fails()
        .says(&["failed to read dockerfile: `Dockerfile`"]);
}

#[test]
fn links_in_a_repository_lead_nowhere_else() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let repository = server.repository("app");
    repository.file("Dockerfile", "FROM scratch\nCOPY out/hostname /\n");
    symlink("/etc", repository.path().join("out")).unwrap();
    repository.commit();
    let rbuild = Rbuild::new(&User::Caller);
    let failed = rbuild.build_at(repository.url()).fails();
    failed.says(&["`/out/hostname`: not found"]);
}

#[test]
fn files_are_as_old_as_their_checkout_or_their_commit() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let times = |behind: &str, epoch: Option<&str>| {
        // Times are in no key: with one store the first layer would serve all.
        let rbuild = Rbuild::new(&User::Caller);
        let mut build = rbuild.build_at(repository.at(behind));
        if let Some(epoch) = epoch {
            build = build.env("SOURCE_DATE_EPOCH", epoch);
        }
        let image = build.image();
        let entries = image.own_layers().iter().flat_map(|layer| &layer.entries);
        let mut times: Vec<i64> = entries.map(|entry| entry.mtime).collect();
        times.dedup();
        times
    };
    assert_eq!(times("?mtime=commit", None), [COMMIT_TIME]);
    assert_eq!(times("", Some("5")), [COMMIT_TIME]);
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    for time in times("", None)
        .into_iter()
        .chain(times("?mtime=checkout", Some("5")))
    {
        assert!((time - now).abs() < 600, "{time}");
    }
}

#[test]
fn a_commit_gives_the_same_image_everywhere() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let id = || {
        let rbuild = Rbuild::new(&User::Caller);
        let build = rbuild
            .build_at(repository.url())
            .args(["-q"])
            .own_progress();
        build.env("SOURCE_DATE_EPOCH", "1700000000").ok().text()
    };
    let first = id();
    assert!(first.starts_with("sha256:"), "{first}");
    // Another checkout, later.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(id(), first);
}

#[test]
fn docker_builds_the_same_of_a_repository() {
    if !needs(&[GIT]) {
        return;
    }
    let Some(docker) = Docker::start_builder() else {
        return;
    };
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    repository
        .file("notes/a", "a")
        .file(".dockerignore", "notes\n");
    let run = repository.file("run", "#!/bin/sh\n").path().join("run");
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o775)).unwrap();
    symlink("../notes", repository.path().join("sub/link")).unwrap();
    repository.commit();
    let rbuild = Rbuild::new(&User::Caller);
    // Docker's of 2020 takes `master` for every default branch, and knows no folders.
    let cases = ["#main", "#v1", "#v2", "#refs/tags/v2", &format!("#{v1}")];
    let tags: Vec<String> = (0..cases.len()).map(|n| format!("git-{n}")).collect();
    for (case, tag) in cases.iter().zip(&tags) {
        let address = repository.at(case);
        docker.build(Path::new(&address), &[], &[], tag).ok();
    }
    let theirs = docker.images(&tags);
    for (case, tag) in cases.iter().zip(&tags) {
        let ours = rbuild.build_at(repository.at(case)).image();
        assert_lines(&ours.tree().all(), &theirs[tag].tree().all());
        assert_eq!(ours.history(), theirs[tag].history(), "{case}");
    }
    for case in ["#nope", "#refs/heads/v1"] {
        let address = repository.at(case);
        docker.build(Path::new(&address), &[], &[], "none").fails();
        rbuild.build_at(address).fails();
    }
}

#[test]
fn the_git_folder_comes_along_when_it_is_asked_for() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    let url = repository.url_as("user:secret@", "");
    for (behind, argument, commit) in [
        ("?keep-git-dir#v1", None, v1.as_str()),
        ("#v1", Some("BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"), &v1),
        (
            &format!("#{v1}"),
            Some("BUILDKIT_CONTEXT_KEEP_GIT_DIR=true"),
            &v1,
        ),
    ] {
        let mut build = rbuild.build_at(format!("{url}{behind}"));
        if let Some(argument) = argument {
            build = build.build_arg(argument);
        }
        let tree = build.image().tree();
        assert_eq!(tree.text(".git/HEAD").trim(), commit, "{behind}");
        let config = tree.text(".git/config");
        let masked = repository.url_as("xxxxx:xxxxx@", "");
        assert!(config.contains(&format!("url = {masked}\n")), "{config}");
        assert!(!tree.all().contains("secret"));
        let has_tag = behind.ends_with("v1");
        assert_eq!(tree.has(".git/refs/tags/v1"), has_tag, "{behind}");
    }
    for behind in ["#v1", "?keep-git-dir=false#v1", "?keep-git-dir#v1:sub"] {
        assert!(
            !rbuild
                .build_at(repository.at(behind))
                .image()
                .tree()
                .has(".git")
        );
    }
}

#[test]
fn a_git_folder_that_is_kept_is_a_repository() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [_, v2, _]) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    let out = rbuild.out().join("files");
    let build = rbuild.build_at(repository.at("?keep-git-dir#v2"));
    build.args(["-o", out.to_str().unwrap()]).ok();
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(&out)
            .args(["-c", "safe.directory=*"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), v2);
    assert_eq!(git(&["describe"]), "v2");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["fsck"]), "");
}

#[test]
fn submodules_come_along() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let inner = server.repository("inner");
    let deepest = inner.file("deep", "deep").commit();
    let library = server.repository("library");
    library.file("lib", "old").git(&["add", "lib"]);
    library.submodule("../../inner/.git", "nested", &deepest);
    let old = library.commit_added();
    library.file("lib", "new").git(&["add", "lib"]);
    library.commit_added();
    let app = server.repository("app");
    app.file("Dockerfile", ALL);
    app.submodule("../../library/.git", "vendor/library", &old);
    app.git(&["add", "Dockerfile"]);
    app.commit_added();
    let rbuild = Rbuild::new(&User::Caller);
    let image = rbuild.build_at(app.url()).image();
    let tree = image.tree();
    assert_eq!(tree.text("vendor/library/lib"), "old");
    assert_eq!(tree.text("vendor/library/nested/deep"), "deep");
    assert!(!tree.all().contains(".git\""));
    assert!(!tree.has("vendor/library/.git"));
    let image = rbuild.build_at(app.at("?submodules=false")).image();
    assert!(image.tree().has("vendor/library"));
    assert!(!image.tree().has("vendor/library/lib"));
    let kept = rbuild.build_at(app.at("?keep-git-dir")).image().tree();
    assert!(
        kept.text("vendor/library/.git")
            .starts_with("gitdir: ../../.git/modules/")
    );
    // Those of a commit that was there before are those of that commit.
    app.git(&["rm", "-q", "-f", "--cached", "vendor/library"]);
    app.commit_added();
    let tree = rbuild.build_at(app.url()).image().tree();
    assert!(!tree.has("vendor/library/lib"));
}

#[test]
fn a_commit_that_was_built_before_is_not_fetched_again() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build_at(repository.at("#main")).ok();
    rbuild.build_at(repository.at("#v1")).ok();
    server.requests();
    // The refs are looked at.
    let log = rbuild.build_at(repository.at("#main")).ok();
    assert_eq!(log.ran(), [""; 0]);
    let (refs, posts) = server.asked();
    assert_eq!((refs, posts <= 1), (1, true), "{posts}");
    // A commit is what it is.
    let log = rbuild.build_at(repository.at(&format!("#{v1}"))).ok();
    assert_eq!(log.ran(), [""; 0]);
    assert_eq!(server.requests(), [""; 0]);
    // A branch that goes on is seen, and an unchanged file is still the same.
    repository.file("name", "next").commit();
    let (image, log) = rbuild.build_at(repository.at("#main")).image_and_log();
    assert_eq!(image.tree().text("name"), "next");
    assert_eq!(log.ran(), ["COPY . /"]);
    // One that goes back, too.
    repository.git(&["reset", "-q", "--hard", "v1"]);
    let image = rbuild.build_at(repository.at("#main")).image();
    assert_eq!(image.tree().text("name"), "v1");
    // A branch can become a folder of branches.
    repository.git(&["branch", "-m", "main", "other"]);
    repository.git(&["checkout", "-q", "-b", "main/deeper", "v2"]);
    let image = rbuild.build_at(repository.at("#main/deeper")).image();
    assert_eq!(image.tree().text("name"), "v2");
}

#[test]
fn named_contexts_can_be_repositories() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let project = Project::with(
        "
        FROM scratch AS files
        COPY --from=library name /all
        COPY --from=library-sub . /sub/
        FROM library AS whole
        FROM scratch AS apart
        COPY Dockerfile /
        ",
    );
    let contexts = [
        format!("--build-context=library={}", repository.at("#v1")),
        format!("--build-context=library-sub={}", repository.at("#v2:sub")),
    ];
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project).args(&contexts).target("files");
        let tree = build.image().tree();
        assert_eq!(tree.text("all"), "v1");
        assert_eq!(tree.text("sub/name"), "sub of v2");
        let build = rbuild.build(&project).args(&contexts).target("whole");
        assert_eq!(build.image().tree().text("sub/name"), "sub of v1");
        // What nobody reads nobody fetches.
        server.requests();
        let build = rbuild.build(&project).args(&contexts).target("apart");
        build.ok();
        assert_eq!(server.requests(), [""; 0]);
    });
    let rbuild = Rbuild::new(&User::Caller);
    let broken = format!("--build-context=library={}", repository.at("#nope"));
    let build = rbuild.build(&project).args([&broken, &contexts[1]]);
    let failed = build.target("files").fails();
    failed.says(&[
        "does not contain ref `nope`",
        "COPY --from=library name /all",
    ]);
}

#[test]
fn mounts_read_a_repository() {
    if !needs(&[GIT, Need::BaseImages, Need::Sandbox]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=from=library,target=/l cat /l/name /l/sub/name > /names
        ",
    );
    let context = format!("--build-context=library={}", repository.at("#v1"));
    each_user(|user| {
        let build = Rbuild::new(user);
        let image = build.build(&project).args([&context]).image();
        assert_eq!(image.tree().text("names"), "v1sub of v1");
    });
}

#[test]
fn checks_and_questions_read_the_repository_too() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let repository = server.repository("app");
    repository
        .file("Dockerfile", "FROM scratch AS one\nfrom scratch AS two\n")
        .commit();
    let rbuild = Rbuild::new(&User::Caller);
    let url = repository.url();
    let checked = rbuild.run(["build", "--check", &url]);
    assert!(checked.text().contains("ConsistentInstructionCasing"));
    let targets = rbuild.run(["build", "--call=targets", &url]).ok();
    assert!(targets.text().contains("one"), "{}", targets.text());
}
