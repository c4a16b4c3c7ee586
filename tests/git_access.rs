//! Who git speaks to when it fetches a repository, as whom, and what it must not listen to.

use std::path::PathBuf;

use crate::git_contexts::{ALL, history};
use crate::support::{GitServer, Need, Rbuild, User, each_user, needs, write_program};

const GIT: Need = Need::Program("git");

#[test]
fn a_submodule_is_no_folder_of_this_machine() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let private = server.repository("private-notes");
    let commit = private.file("secret", "secret").commit();
    let app = server.repository("app");
    app.file("Dockerfile", ALL).git(&["add", "Dockerfile"]);
    let address = format!("file://{}", private.path().display());
    app.submodule(&address, "stolen", &commit).commit_added();
    let rbuild = Rbuild::new(&User::Caller);
    let failed = rbuild.build_at(app.url()).fails();
    failed.says(&[
        "failed to update the submodules",
        "can't be folders of this machine",
    ]);
}

#[test]
fn servers_of_plain_files_and_of_sha256_will_do() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    let dumb = repository.url_as("", "dumb/");
    for (behind, name) in [("", "main"), ("#v2", "v2"), (&format!("#{v1}"), "v1")] {
        let image = rbuild.build_at(format!("{dumb}{behind}")).image();
        assert_eq!(image.tree().text("name"), name, "{behind}");
    }
    let app = server.repository("app");
    app.file("Dockerfile", ALL).git(&["add", "Dockerfile"]);
    app.submodule("../../history/.git", "vendor", &v1)
        .commit_added();
    let image = rbuild.build_at(app.url_as("", "dumb/")).image();
    assert_eq!(image.tree().text("vendor/name"), "v1");
    let long = server.repository_with("long", &["--object-format=sha256"]);
    let commit = long.file("Dockerfile", ALL).file("name", "long").commit();
    assert_eq!(commit.len(), 64);
    for behind in ["", "#main", &format!("#{commit}"), "?keep-git-dir"] {
        let image = rbuild.build_at(long.at(behind)).image();
        assert_eq!(image.tree().text("name"), "long", "{behind}");
    }
}

#[test]
fn a_private_repository_wants_its_secret() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let url = repository.url_as("", "private/");
    let host = url.split('/').nth(2).unwrap();
    let rbuild = Rbuild::new(&User::Caller)
        .env("TOKEN", "letmein")
        .env("BAD", "wrongtoken");
    let header = "Basic eC1hY2Nlc3MtdG9rZW46bGV0bWVpbg==".replace("Basic", "basic");
    let failed = rbuild.build_at(&url).fails();
    failed.says(&["a private repository needs `--secret id=GIT_AUTH_TOKEN,env=…`"]);
    for id in [
        "GIT_AUTH_TOKEN".to_owned(),
        format!("GIT_AUTH_TOKEN.{host}"),
    ] {
        let secret = format!("id={id},env=TOKEN");
        let build = rbuild.build_at(&url).args(["--secret", &secret]);
        assert_eq!(build.image().tree().text("name"), "main");
        // The next must ask again.
        rbuild.run(["prune", "--all", "--force"]).ok();
    }
    let build = rbuild.build_at(&url).env("HEADER", &header);
    build
        .args(["--secret", "id=GIT_AUTH_HEADER,env=HEADER"])
        .ok();
    rbuild.run(["prune", "--all", "--force"]).ok();
    for secret in [
        "id=GIT_AUTH_TOKEN,env=BAD",
        "id=GIT_AUTH_TOKEN.elsewhere,env=TOKEN",
    ] {
        let failed = rbuild.build_at(&url).args(["--secret", secret]).fails();
        assert!(!failed.stderr.contains("wrongtoken"), "{}", failed.stderr);
        assert!(!failed.stderr.contains("letmein"), "{}", failed.stderr);
    }
    let url = repository.url_as("me:hunter2@", "private/");
    let failed = rbuild.build_at(&url).fails();
    assert!(!failed.stderr.contains("hunter2"), "{}", failed.stderr);
    failed.says(&["http://xxxxx:xxxxx@127.0.0.1:"]);
    let url = repository.url_as("x-access-token:letmein@", "private/");
    rbuild.build_at(&url).ok();
}

#[test]
fn ssh_is_the_users_own() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    // What git would have the other side run is run here.
    let script = "#!/bin/sh\nwhile [ \"$1\" = -o ]; do shift 2; done\necho \"$1\" >> \"$0.log\"\neval \"$2\"\n";
    let ssh = rbuild.out().join("ssh");
    write_program(&ssh, script);
    let rbuild = rbuild.env("GIT_SSH_COMMAND", &ssh);
    let path = repository.path().display();
    for address in [
        format!("git@example.com:{path}#v1"),
        format!("ssh://git@example.com{path}#v1"),
    ] {
        let image = rbuild.build_at(address).image();
        assert_eq!(image.tree().text("name"), "v1");
    }
    let log = std::fs::read_to_string(rbuild.out().join("ssh.log")).unwrap();
    assert!(log.lines().all(|line| line == "git@example.com"), "{log}");
    write_program(
        &ssh,
        "#!/bin/sh\necho Host key verification failed. >&2\nexit 255\n",
    );
    let failed = rbuild.build_at("git@example.com:other.git").fails();
    failed.says(&["Host key verification failed", "ssh-keyscan"]);
}

#[test]
fn the_users_configuration_and_hooks_have_no_say() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    let (mark, template) = (rbuild.out().join("mark"), rbuild.home().join("template"));
    std::fs::create_dir_all(template.join("hooks")).unwrap();
    let hook = format!("#!/bin/sh\ntouch {}\n", mark.display());
    write_program(&template.join("hooks/post-checkout"), &hook);
    let configuration = format!(
        "[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://127.0.0.1\n\
         [init]\n\ttemplateDir = {}\n[core]\n\tautocrlf = true\n",
        template.display()
    );
    std::fs::write(rbuild.home().join(".gitconfig"), configuration).unwrap();
    let rbuild = rbuild
        .env("GIT_TEMPLATE_DIR", &template)
        .env("GIT_DIR", "/nonexistent");
    let image = rbuild.build_at(repository.url()).image();
    assert_eq!(image.tree().text("Dockerfile"), ALL);
    assert!(!mark.exists());
}

#[test]
fn without_git_one_line_says_so() {
    if !needs(&[GIT]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller).env("PATH", "/nonexistent");
    let failed = rbuild.build_at("https://example.com/app.git").fails();
    failed.says(&["`git` is not installed, and `https://example.com/app.git` is a git repository"]);
}

#[test]
fn prune_removes_what_was_fetched() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [v1, ..]) = history(&server);
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let address = repository.at(&format!("#{v1}"));
        rbuild.build_at(&address).ok();
        server.requests();
        let used = rbuild.run(["df", "--verbose"]).ok().text();
        assert!(used.contains("git repository"), "{used}");
        let pruned = rbuild.run(["prune", "--all", "--force"]).ok().text();
        assert!(
            pruned.contains("0 cache mounts, 1 git repositories"),
            "{pruned}"
        );
        let sources = rbuild.store().join("mounts/sources");
        assert_eq!(std::fs::read_dir(sources).unwrap().count(), 0);
        rbuild.build_at(&address).ok();
        assert_ne!(server.requests(), [""; 0]);
    });
}

/// Where the store has the one repository that was fetched.
fn stored(rbuild: &Rbuild) -> PathBuf {
    let mut sources = std::fs::read_dir(rbuild.store().join("mounts/sources")).unwrap();
    sources.next().unwrap().unwrap().path()
}

#[test]
fn a_repository_that_was_damaged_is_fetched_anew() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build_at(repository.at("#v1")).ok();
    let stored = stored(&rbuild);
    // As a power cut may leave it: files that are there and empty.
    for folder in ["refs/rbuild", "objects/pack"] {
        for file in std::fs::read_dir(stored.join(folder)).unwrap() {
            let file = file.unwrap().path();
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "").unwrap();
        }
    }
    let image = rbuild.build_at(repository.at("#v2")).image();
    assert_eq!(image.tree().text("name"), "v2");
}

#[test]
fn what_a_killed_fetch_leaves_is_in_nobodys_way() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, [_, _, tip]) = history(&server);
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build_at(repository.at("#v1")).ok();
    let stored = stored(&rbuild);
    for lock in ["shallow.lock".to_owned(), format!("refs/rbuild/{tip}.lock")] {
        std::fs::write(stored.join(lock), "").unwrap();
    }
    let image = rbuild.build_at(repository.at("#main")).image();
    assert_eq!(image.tree().text("name"), "main");
    // One that was not even made to its end.
    std::fs::remove_file(stored.join("rbuild-ready")).unwrap();
    std::fs::write(stored.join("config.lock"), "").unwrap();
    let image = rbuild.build_at(repository.at("#v2")).image();
    assert_eq!(image.tree().text("name"), "v2");
}

#[test]
fn what_a_server_says_of_a_tag_is_checked() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (good, [_, v2, main]) = history(&server);
    good.git(&["pack-refs", "--all"]);
    // The tag is of v2, and the server says that it is of the newest commit.
    let packed = good.path().join(".git/packed-refs");
    let refs = std::fs::read_to_string(&packed).unwrap();
    assert!(refs.contains(&format!("^{v2}")), "{refs}");
    std::fs::write(
        &packed,
        refs.replace(&format!("^{v2}"), &format!("^{main}")),
    )
    .unwrap();
    let rbuild = Rbuild::new(&User::Caller);
    let checksum = format!("?ref=v2&checksum={main}");
    for behind in ["#v2", &checksum] {
        let failed = rbuild.build_at(good.at(behind)).fails();
        failed.says(&["says that a tag is of commit", "tampered with"]);
    }
    // Nothing of it stands in for the commit.
    let image = rbuild.build_at(good.at(&format!("#{main}"))).image();
    assert_eq!(image.tree().text("name"), "main");
}

#[test]
fn credentials_are_not_sent_to_where_a_server_points() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let (repository, _) = history(&server);
    let target = repository.url();
    let gate = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gate.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in gate.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if std::io::Read::read(&mut stream, &mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let place = format!("{target}{}", path.trim_start_matches("/a.git"));
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    let rbuild = Rbuild::new(&User::Caller).env("TOKEN", "letmein");
    let plain = rbuild.build_at(format!("http://{address}/a.git")).image();
    assert_eq!(plain.tree().text("name"), "main");
    server.requests();
    let with_secret = rbuild.build_at(format!("http://{address}/a.git"));
    for build in [
        with_secret.args(["--secret", "id=GIT_AUTH_TOKEN,env=TOKEN"]),
        rbuild.build_at(format!("http://me:letmein@{address}/a.git")),
    ] {
        build.fails().says(&["it has moved"]);
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_token_in_an_address_is_kept_and_shown_nowhere() {
    if !needs(&[GIT]) {
        return;
    }
    let server = GitServer::start();
    let library = server.repository("library");
    let commit = library.file("name", "library").commit();
    let app = server.repository("app");
    app.file("Dockerfile", ALL).git(&["add", "Dockerfile"]);
    app.submodule("../../library/.git", "vendor", &commit)
        .commit_added();
    let rbuild = Rbuild::new(&User::Caller);
    let url = app.url_as("me:hunter2@", "");
    let image = rbuild.build_at(format!("{url}?keep-git-dir=1")).image();
    let tree = image.tree();
    assert_eq!(tree.text("vendor/name"), "library");
    for file in [".git/config", ".git/modules/vendor/config"] {
        let text = tree.text(file);
        assert!(
            text.contains("/library/.git") || text.contains("/app/.git"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{file}: {text}");
    }
    for user in ["hunter2@", "hunter%32@"] {
        let failed = rbuild.build_at(app.url_as(user, "private/")).fails();
        assert!(!failed.stderr.contains("hunter2"), "{}", failed.stderr);
        assert!(!failed.stderr.contains("hunter%32"), "{}", failed.stderr);
    }
}
