//! `--build-context NAME=FOLDER`: other folders of this machine beside the context.

use crate::support::{Need, Project, Rbuild, User, assert_lines, each_user, needs};

/// A library beside the project, with an ignore file of its own.
fn library() -> Project {
    Project::new()
        .file("lib.c", "lib")
        .file("include/lib.h", "header")
        .file("secret.key", "key")
        .mode("include", 0o775)
        .file(".dockerignore", "*.key\n.dockerignore\n")
}

/// The flag that gives a folder a name.
fn named(name: &str, folder: &Project) -> [String; 2] {
    let value = format!("{name}={}", folder.path().display());
    ["--build-context".to_owned(), value]
}

#[test]
fn copy_reads_another_folder_with_its_own_ignore_file() {
    let library = library();
    let project = Project::with(
        "
        FROM scratch
        COPY --from=library . /all/
        COPY --from=library include/*.h /headers/
        COPY --from=library --parents include/lib.h /kept/
        COPY own.key /
        ",
    )
    .file("own.key", "own");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let image = rbuild
            .build(&project)
            .args(named("library", &library))
            .image();
        assert_lines(
            &image.tree().all(),
            r#"
            d 0755 0:0 all
            d 0775 0:0 all/include
            f 0644 0:0 all/include/lib.h "header"
            f 0644 0:0 all/lib.c "lib"
            d 0755 0:0 headers
            f 0644 0:0 headers/lib.h "header"
            d 0755 0:0 kept
            d 0775 0:0 kept/include
            f 0644 0:0 kept/include/lib.h "header"
            f 0644 0:0 own.key "own"
            "#,
        );
    });
    // The context's ignore file says nothing about it, nor its own about the context.
    let project = project.file(".dockerignore", "lib.c\n");
    let rbuild = Rbuild::new(&User::Caller);
    let image = rbuild
        .build(&project)
        .args(named("library", &library))
        .image();
    assert!(image.tree().has("all/lib.c"));
    // What is ignored isn't there to be named.
    let project = Project::with("FROM scratch\nCOPY --from=library secret.key /");
    let build = rbuild.build(&project).args(named("library", &library));
    build.fails().says(&["`/secret.key`: not found"]);
}

#[test]
fn mounts_read_another_folder() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let library = library();
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=bind,from=library,target=/l \
            find /l -type f | sort > /files && stat -c '%u:%g' /l/lib.c > /owner
        RUN --mount=from=library,source=include/lib.h,target=/h cat /h > /header
        RUN --mount=type=cache,from=library,source=include,target=/c cat /c/lib.h > /cached
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let image = rbuild
            .build(&project)
            .args(named("library", &library))
            .image();
        let tree = image.tree();
        assert_eq!(tree.text("files"), "/l/include/lib.h\n/l/lib.c\n");
        assert_eq!(tree.text("owner"), "0:0\n");
        assert_eq!(tree.text("header"), "header");
        assert_eq!(tree.text("cached"), "header");
    });
}

#[test]
fn a_stage_starts_from_a_folder_or_is_replaced_by_one() {
    let library = library();
    let files = r#"
        d 0775 0:0 include
        f 0644 0:0 include/lib.h "header"
        f 0644 0:0 lib.c "lib"
    "#;
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM library AS start\nENV A=1\nFROM start\nENV B=2");
    let image = rbuild
        .build(&project)
        .args(named("library", &library))
        .image();
    assert_lines(&image.tree().all(), files);
    assert!(
        image.history().contains("FROM library"),
        "{}",
        image.history()
    );
    // The steps of a stage whose place it takes are not done, whoever asks for it.
    for dockerfile in [
        "FROM nowhere.invalid/x AS library\nCOPY missing /\nFROM scratch\nCOPY --from=library / /",
        "FROM nowhere.invalid/x AS library\nCOPY missing /\nFROM scratch\nCOPY --from=0 / /",
        "FROM nowhere.invalid/x AS library\nCOPY missing /\nFROM library",
        "FROM nowhere.invalid/x AS library\nCOPY missing /",
    ] {
        let project = Project::with(dockerfile);
        let image = rbuild
            .build(&project)
            .args(named("library", &library))
            .image();
        assert_lines(&image.tree().all(), files);
    }
}

#[test]
fn an_image_takes_the_place_of_a_stage_too() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let base = Project::with("FROM scratch\nCOPY x /").file("x", "from the image");
    let archive = rbuild.out().join("base.tar");
    let dest = format!("type=oci,dest={}", archive.display());
    rbuild.build(&base).args(["-o", &dest]).ok();
    let project = Project::with(
        "
        FROM scratch AS tools
        COPY missing /
        FROM scratch
        COPY --from=tools x /y
        ",
    );
    let value = format!("tools=oci-layout://{}", archive.display());
    let image = rbuild
        .build(&project)
        .args(["--build-context", &value])
        .image();
    assert_lines(&image.tree().all(), r#"f 0644 0:0 y "from the image""#);
}

#[test]
fn names_are_those_of_images_and_some_are_taken() {
    let folder = Project::new().file("x", "x");
    let rbuild = Rbuild::new(&User::Caller);
    for name in ["alpine", "alpine:latest", "docker.io/library/alpine"] {
        let project = Project::with(&format!("FROM scratch\nCOPY --from={name} x /"));
        let image = rbuild
            .build(&project)
            .args(named("alpine", &folder))
            .image();
        assert_lines(&image.tree().all(), r#"f 0644 0:0 x "x""#);
    }
    let project = Project::with("FROM scratch\nCOPY --from=scratch x /");
    let build = rbuild.build(&project).args(named("scratch", &folder));
    build.fails().says(&["`/x`: not found"]);
}

/// An image archive whose one file says what it is, and the flag that gives it a name.
fn image_named(rbuild: &Rbuild, name: &str, says: &str) -> [String; 2] {
    let project = Project::with("FROM scratch\nCOPY which /\nENV IS=which").file("which", says);
    let archive = rbuild.out().join(format!("{says}.tar"));
    let dest = format!("type=oci,dest={}", archive.display());
    rbuild.build(&project).args(["-o", &dest]).ok();
    let value = format!("{name}=oci-layout://{}", archive.display());
    ["--build-context".to_owned(), value]
}

#[test]
fn an_image_takes_the_place_of_just_the_one_that_is_named() {
    let rbuild = Rbuild::new(&User::Caller);
    for (name, from, is_meant) in [
        ("nowhere.invalid/a", "nowhere.invalid/a", true),
        ("nowhere.invalid/a", "nowhere.invalid/a:latest", true),
        ("nowhere.invalid/a:latest", "nowhere.invalid/a", true),
        ("nowhere.invalid/a:1.20", "nowhere.invalid/a:1.20", true),
        ("nowhere.invalid/a", "nowhere.invalid/a:1.20", false),
        ("nowhere.invalid/a:1.20", "nowhere.invalid/a", false),
        (
            "nowhere.invalid/a:1.20",
            "nowhere.invalid/a:1.20-slim",
            false,
        ),
    ] {
        let named = image_named(&rbuild, name, "own");
        for dockerfile in [
            format!("FROM {from}"),
            format!("ARG BASE={from}\nFROM $BASE AS named\nFROM named"),
            format!("FROM scratch\nCOPY --from={from} which /"),
        ] {
            let project = Project::with(&dockerfile);
            let build = rbuild.build(&project).args(&named);
            if is_meant {
                assert_eq!(
                    build.image().tree().text("which"),
                    "own",
                    "{name}: {dockerfile}"
                );
            } else {
                build.fails().says(&["nowhere.invalid"]);
            }
        }
    }
}

#[test]
fn the_last_of_the_same_name_counts() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM alpine");
    let one = image_named(&rbuild, "alpine:latest", "one");
    let two = image_named(&rbuild, "docker.io/library/alpine", "two");
    let build = rbuild.build(&project).args(&one).args(&two);
    assert_eq!(build.image().tree().text("which"), "two");
    let build = rbuild.build(&project).args(&two).args(&one);
    let image = build.image();
    assert_eq!(image.tree().text("which"), "one");
    assert_eq!(image.setting("Env")[1], "IS=which");
}

#[test]
fn a_stage_counts_before_an_image_of_its_name() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(
        "
        FROM scratch AS base
        COPY missing /
        FROM base AS next
        ENV A=1
        FROM scratch AS last
        COPY --from=next which /
        ",
    );
    let named = image_named(&rbuild, "base", "instead");
    let image = rbuild.build(&project).args(&named).image();
    assert_eq!(image.tree().text("which"), "instead");
    let named = image_named(&rbuild, "next", "later");
    let image = rbuild.build(&project).args(&named).image();
    assert_eq!(image.tree().text("which"), "later");
}

#[test]
fn nothing_can_stand_for_something() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(
        "
        FROM alpine:3 AS base
        FROM base
        COPY --from=tools / /
        COPY Dockerfile /
        ",
    );
    let nothing = |name: &str| {
        let value = format!("{name}=docker-image://scratch");
        ["--build-context".to_owned(), value]
    };
    let build = rbuild.build(&project).args(nothing("alpine:3"));
    let image = build.args(nothing("tools")).image();
    assert_eq!(image.layers.len(), 2);
    assert_lines(&image.tree().lines(&["etc"]), "- etc");
    assert!(image.tree().has("Dockerfile"));
    // A stage, too.
    let project = Project::with("FROM alpine AS b\nRUN x\nFROM b\nENV A=1");
    let build = rbuild.build(&project);
    let image = build.args(nothing("b")).image();
    assert!(image.layers.is_empty());
}

#[test]
fn a_name_is_that_of_an_image() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nCOPY Dockerfile /");
    let build = rbuild.build(&project).args(["--build-context", "Base=."]);
    let finished = build.fails().says(&["invalid context name Base"]);
    assert_eq!(finished.status.code(), Some(2));
}

#[test]
fn a_changed_file_of_the_folder_takes_what_depends_on_it() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        COPY --from=library lib.c /
        RUN cat lib.c > /out
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    let build = |library: &Project| {
        let build = rbuild.build(&project).args(named("library", library));
        build.image_and_log()
    };
    let library = library();
    build(&library);
    let (_, log) = build(&library);
    assert!(log.ran().is_empty(), "{:?}", log.ran());
    // Where the folder is doesn't matter, nor do files that nobody asked for.
    let moved = self::library().file("other.c", "other");
    let (_, log) = build(&moved);
    assert!(log.ran().is_empty(), "{:?}", log.ran());
    let (image, log) = build(&moved.file("lib.c", "changed"));
    assert_eq!(log.ran().len(), 2, "{:?}", log.ran());
    assert_eq!(image.tree().text("out"), "changed");
}

#[test]
fn links_never_lead_out_of_the_folder() {
    let outside = Project::new().file("secret", "outside");
    let folder = Project::new()
        .symlink("up", "../")
        .symlink("away", outside.path());
    let rbuild = Rbuild::new(&User::Caller);
    for source in ["away/secret", "up/etc/passwd", "../../../../etc/passwd"] {
        let project = Project::with(&format!("FROM scratch\nCOPY --from=f {source} /"));
        let build = rbuild.build(&project).args(named("f", &folder));
        build.fails().says(&["not found"]);
    }
}

#[test]
fn what_is_no_folder_is_refused() {
    let project = Project::with("FROM scratch\nCOPY --from=f x /").file("x", "x");
    let file = format!("f={}", project.path().join("x").display());
    for (value, message) in [
        (file.as_str(), "is not a folder"),
        (
            "f=/no/such/folder",
            "can't read the folder `/no/such/folder`",
        ),
        ("f=-", "standard input can't be a named context"),
        ("f=target:base", "rbuild does not support `target:base`"),
    ] {
        let rbuild = Rbuild::new(&User::Caller);
        let build = rbuild.build(&project).args(["--build-context", value]);
        build.fails().says(&["--build-context f", message]);
    }
    let bad = Project::new().file(".dockerignore", "[\n");
    let rbuild = Rbuild::new(&User::Caller);
    let build = rbuild.build(&project).args(named("f", &bad));
    let ignore = bad.path().join(".dockerignore");
    build
        .fails()
        .says(&["error parsing", &ignore.display().to_string()]);
}
