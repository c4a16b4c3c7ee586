//! `COPY --parents`: which folders come along, as what, and what is said where nothing does.

use crate::support::{Need, Project, Rbuild, User, assert_lines, each_user, needs};

/// A monorepo of packages, with folders of unusual modes.
fn monorepo(dockerfile: &str) -> Project {
    Project::with(dockerfile)
        .file("package.json", "root")
        .file("packages/a/package.json", "a")
        .file("packages/a/src/index.js", "a index")
        .file("packages/b/package.json", "b")
        .file("packages/b/node_modules/dep/package.json", "dep")
        .file("packages/notes.txt", "notes")
        .folder("packages/empty")
        .mode("packages", 0o2775)
        .mode("packages/a", 0o775)
}

/// The files of the image that `monorepo` gives.
fn copied(dockerfile: &str) -> String {
    let project = monorepo(dockerfile);
    let image = Rbuild::new(&User::Caller).build(&project).image();
    image.tree().all()
}

#[test]
fn folders_on_the_way_come_along_as_the_source_has_them() {
    let project = monorepo(
        "
        FROM scratch
        COPY --parents packages/*/package.json package.json /app/
        ",
    );
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        assert_lines(
            &image.tree().all(),
            r#"
            d 0755 0:0 app
            f 0644 0:0 app/package.json "root"
            d 2775 0:0 app/packages
            d 0775 0:0 app/packages/a
            f 0644 0:0 app/packages/a/package.json "a"
            d 0755 0:0 app/packages/b
            f 0644 0:0 app/packages/b/package.json "b"
            "#,
        );
        assert!(
            image
                .history()
                .contains("COPY --parents packages/*/package.json package.json /app/ # buildkit"),
            "{}",
            image.history()
        );
    });
}

#[test]
fn two_stars_stand_for_any_number_of_folders() {
    assert_lines(
        &copied("FROM scratch\nCOPY --parents ./**/package.json /"),
        r#"
        f 0644 0:0 package.json "root"
        d 2775 0:0 packages
        d 0775 0:0 packages/a
        f 0644 0:0 packages/a/package.json "a"
        d 0755 0:0 packages/b
        d 0755 0:0 packages/b/node_modules
        d 0755 0:0 packages/b/node_modules/dep
        f 0644 0:0 packages/b/node_modules/dep/package.json "dep"
        f 0644 0:0 packages/b/package.json "b"
        "#,
    );
}

#[test]
fn only_folders_behind_the_dot_are_kept() {
    assert_lines(
        &copied("FROM scratch\nCOPY --parents packages/./a/src ./packages/b/./node_modules/. /d/"),
        r#"
        d 0755 0:0 d
        d 0775 0:0 d/a
        d 0755 0:0 d/a/src
        f 0644 0:0 d/a/src/index.js "a index"
        d 0755 0:0 d/node_modules
        d 0755 0:0 d/node_modules/dep
        f 0644 0:0 d/node_modules/dep/package.json "dep"
        "#,
    );
    // Before the dot, wildcards are those of every COPY; what is no folder has nothing in it.
    assert_lines(
        &copied("FROM scratch\nCOPY --parents packages/*/./package.json packages/*/./src /d/"),
        r#"
        d 0755 0:0 d
        f 0644 0:0 d/package.json "b"
        d 0755 0:0 d/src
        f 0644 0:0 d/src/index.js "a index"
        "#,
    );
}

#[test]
fn the_root_stands_for_all_that_is_in_it() {
    assert_lines(
        &copied("FROM scratch\nCOPY --parents packages/a/./ /d/"),
        r#"
        d 0755 0:0 d
        f 0644 0:0 d/package.json "a"
        d 0755 0:0 d/src
        f 0644 0:0 d/src/index.js "a index"
        "#,
    );
}

#[test]
fn other_flags_go_with_it() {
    assert_lines(
        &copied(
            "FROM scratch\nCOPY --parents --chown=7:8 --chmod=750 --exclude=**/node_modules packages/b /d/",
        ),
        r#"
        d 0750 7:8 d
        d 0750 7:8 d/packages
        d 0750 7:8 d/packages/b
        f 0750 7:8 d/packages/b/package.json "b"
        "#,
    );
    // An exception brings back what is below a folder that is left out, with that folder.
    assert_lines(
        &copied(
            "FROM scratch\nCOPY --parents --link --exclude=packages/* --exclude=!packages/a/src packages /d/",
        ),
        r#"
        d 0755 0:0 d
        d 2775 0:0 d/packages
        d 0775 0:0 d/packages/a
        d 0755 0:0 d/packages/a/src
        f 0644 0:0 d/packages/a/src/index.js "a index"
        "#,
    );
    // Without it, or with it switched off, names are all that is kept.
    assert_lines(
        &copied("FROM scratch\nCOPY --parents=false packages/*/package.json /d/"),
        r#"
        d 0755 0:0 d
        f 0644 0:0 d/package.json "b"
        "#,
    );
}

#[test]
fn folders_that_the_image_has_keep_their_owner_and_take_the_mode() {
    let project = Project::with(
        "
        FROM scratch AS files
        COPY --chown=5:6 --chmod=711 . /src
        FROM scratch
        COPY --chown=1:2 --chmod=700 have/ /d/src/have/
        COPY --from=files --parents /src/have/file /src/more/./deep/file /d/
        ",
    )
    .file("have/file", "1")
    .file("more/deep/file", "2")
    .file(".dockerignore", "Dockerfile\n.dockerignore\n");
    let image = Rbuild::new(&User::Caller).build(&project).image();
    assert_lines(
        &image.tree().all(),
        r#"
        d 0700 1:2 d
        d 0711 5:6 d/deep
        f 0711 5:6 d/deep/file "2"
        d 0711 1:2 d/src
        d 0711 1:2 d/src/have
        f 0711 5:6 d/src/have/file "1"
        "#,
    );
}

#[test]
fn links_on_the_way_are_not_followed_and_links_that_match_are_copied() {
    let dockerfile = |source: &str| format!("FROM scratch\nCOPY --parents {source} /d/");
    let project = Project::new()
        .file("real/file", "x")
        .symlink("link", "real")
        .symlink("real/to-file", "file");
    let rbuild = Rbuild::new(&User::Caller);
    let project = project.dockerfile(&dockerfile("link real/to-*"));
    assert_lines(
        &rbuild.build(&project).image().tree().all(),
        r#"
        d 0755 0:0 d
        l 0:0 d/link -> real
        d 0755 0:0 d/real
        l 0:0 d/real/to-file -> file
        "#,
    );
    // The part before the dot is followed as every source is.
    let project = project.dockerfile(&dockerfile("link/./file"));
    assert_lines(
        &rbuild.build(&project).image().tree().all(),
        r#"
        d 0755 0:0 d
        f 0644 0:0 d/file "x"
        "#,
    );
    let project = project.dockerfile(&dockerfile("link/file"));
    rbuild
        .build(&project)
        .fails()
        .says(&["`/link/file`: not found"]);
}

#[test]
fn a_path_has_to_exist_and_a_pattern_may_match_nothing() {
    for (source, message) in [
        ("packages/c", "`/packages/c`: not found"),
        ("packages/./c", "`/packages/c`: not found"),
        ("nowhere/./*", "`/nowhere/*`: not found"),
        ("package.json/./x", "`/package.json/x`: not found"),
        ("package[", "syntax error in pattern"),
    ] {
        let project = monorepo(&format!("FROM scratch\nCOPY --parents {source} /d/"));
        Rbuild::new(&User::Caller)
            .build(&project)
            .fails()
            .says(&[message]);
    }
    assert_lines(
        &copied("FROM scratch\nCOPY --parents packages/c* packages/./c* c*/./x /d/"),
        "d 0755 0:0 d",
    );
    // ADD has no such flag.
    let project = monorepo("FROM scratch\nADD --parents packages /d/");
    Rbuild::new(&User::Caller)
        .build(&project)
        .fails()
        .says(&["unknown flag: --parents"]);
}

#[test]
fn the_flag_and_what_it_selects_decide_about_the_cache() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let with = |flag: &str| {
        monorepo(&format!(
            "
            FROM busybox
            COPY {flag} packages/a/package.json /d/
            RUN find /d > /list
            "
        ))
    };
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&with("--parents")).ok();
    let (_, log) = rbuild.build(&with("--parents")).image_and_log();
    assert!(log.ran().is_empty(), "{:?}", log.ran());
    let unrelated = with("--parents").file("packages/a/src/index.js", "changed");
    let (_, log) = rbuild.build(&unrelated).image_and_log();
    assert!(log.ran().is_empty(), "{:?}", log.ran());
    // The mode of a folder on the way is content, too.
    for changed in [with(""), with("--parents").mode("packages/a", 0o711)] {
        let (_, log) = rbuild.build(&changed).image_and_log();
        assert_eq!(log.ran().len(), 2, "{:?}", log.ran());
    }
}
