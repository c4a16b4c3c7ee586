//! COPY into folders that the image has already keeps what was there, as rbuild's image says and
//! as other tools read it.

use crate::support::{
    Containerd, Need, Project, READERS, Rbuild, Registry, Tree, User, assert_lines, each_user,
    needs, podman_tree, umoci_tree,
};

/// Folders of every kind that a careless layer would spoil.
fn project() -> Project {
    Project::with(
        "
        FROM debian
        RUN mkdir -p /srv/shared /opt/closed && chgrp staff /srv/shared && chmod 2775 /srv/shared \
            && chmod 0711 /opt/closed && chown 33:33 /opt/closed && echo old > /srv/shared/old \
            && ln -s ../srv/shared /opt/by-link
        COPY x /tmp/
        COPY x /srv/shared/x
        COPY x /opt/closed/
        COPY tool /bin/
        COPY tool /sbin/tool2
        COPY x /opt/by-link/through
        COPY rootfs/ /
        ADD x /var/mail/
        ",
    )
    .file("x", "x")
    .file("tool", "#!/bin/sh\n")
    .mode("tool", 0o755)
    .file("rootfs/usr/bin/from-rootfs", "#!/bin/sh\n")
    .mode("rootfs/usr/bin/from-rootfs", 0o755)
    .file("rootfs/etc/app/app.conf", "conf")
    .file("rootfs/usr/local/share/y", "y")
}

const EXPECTED: &str = r##"
    d 1777 0:0 tmp
    f 0644 0:0 tmp/x "x"
    d 2775 0:50 srv/shared
    f 0644 0:50 srv/shared/old "old\n"
    f 0644 0:0 srv/shared/through "x"
    f 0644 0:0 srv/shared/x "x"
    l 0:0 opt/by-link -> ../srv/shared
    d 0711 33:33 opt/closed
    f 0644 0:0 opt/closed/x "x"
    l 0:0 bin -> usr/bin
    l 0:0 sbin -> usr/sbin
    f 0755 0:0 usr/bin/tool "#!/bin/sh\n"
    f 0755 0:0 usr/sbin/tool2 "#!/bin/sh\n"
    f 0755 0:0 usr/bin/from-rootfs "#!/bin/sh\n"
    d 0755 0:0 etc/app
    f 0644 0:0 etc/app/app.conf "conf"
    f 0644 0:0 usr/local/share/y "y"
    d 2775 0:8 var/mail
    f 0644 0:0 var/mail/x "x"
"##;

fn lines(tree: &Tree) -> String {
    // Everything that the base had is still there.
    for path in [
        "usr/bin/bash",
        "usr/bin/passwd",
        "etc/passwd",
        "usr/sbin/useradd",
        "lib64",
    ] {
        assert!(tree.has(path), "{path} is gone");
    }
    assert_eq!(tree.get("usr/bin/passwd").mode, 0o4755);
    tree.lines(&[
        "tmp/**",
        "srv/shared/**",
        "opt/by-link",
        "opt/closed/**",
        "bin",
        "sbin",
        "usr/bin/tool",
        "usr/sbin/tool2",
        "usr/bin/from-rootfs",
        "etc/app/**",
        "usr/local/share/y",
        "var/mail/**",
    ])
}

#[test]
fn folders_of_the_image_keep_mode_owner_and_links() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = project();
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        assert_lines(&lines(&image.tree()), EXPECTED);
    });
}

#[test]
fn umoci_podman_and_containerd_read_the_same() {
    if !needs(&READERS) {
        return;
    }
    let project = project();
    let registry = Registry::start();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let name = format!("copy:{}", if user.is_root() { "root" } else { "user" });
        rbuild
            .build(&project)
            .tag(registry.name(&name))
            .args(["--push"])
            .ok();
        for (tool, tree) in [
            ("umoci", umoci_tree(&registry, &name)),
            ("podman", podman_tree(&registry, &name)),
            ("containerd", Containerd::start().tree(&registry, &name)),
        ] {
            println!("as {tool} reads it, built by {user:?}");
            assert_lines(&lines(&tree), EXPECTED);
        }
    });
}

#[test]
fn parents_are_repeated_in_the_layer_as_they_are() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -p /a/b && chmod 1711 /a && chown 5:6 /a && touch -d @1000000001 /a/b && touch -d @1000000000 /a
        COPY x /a/b/x
        COPY x /new/folder/x
        ",
    )
    .file("x", "x")
    .mtime("x", 1_400_000_000);
    let image = Rbuild::new(&User::Caller).build(&project).image();
    let layers = image.own_layers();
    assert_lines(
        &layers[1].lines(),
        r#"
        d 1711 5:6 a
        d 0755 0:0 a/b
        f 0644 0:0 a/b/x "x"
        "#,
    );
    let mtime = |layer: usize, path: &str| {
        let entries = &layers[layer].entries;
        let found = entries.iter().find(|entry| entry.path == path.as_bytes());
        found.unwrap().mtime
    };
    assert_eq!(mtime(1, "a"), 1_000_000_000);
    assert_eq!(mtime(1, "a/b/x"), 1_400_000_000);
    // Folders made on the way take the newest time of what is in them.
    assert_eq!(mtime(2, "new"), 1_400_000_000);
    assert_eq!(mtime(2, "new/folder"), 1_400_000_000);
}

#[test]
fn a_folder_never_takes_the_place_of_something_else() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let cases = [
        // A folder of the source onto a link or a file of the image.
        ("COPY rootfs/ /", "cannot copy to non-directory"),
        // A file onto a folder.
        ("COPY as-file/ /srv/", "cannot"),
    ];
    let project = Project::new()
        .file("rootfs/link/tool", "x")
        .file("as-file/taken", "x");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        for (line, message) in cases {
            rbuild
                .build(&project)
                .args(["-f", "-"])
                .stdin(format!(
                    "FROM busybox\nRUN ln -s usr/bin /link && mkdir -p /srv/taken\n{line}\n"
                ))
                .fails()
                .says(&[message, ":3:1"]);
        }
    });
}

#[test]
fn a_file_takes_the_place_of_a_file_or_link() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN echo old > /plain && ln -s plain /link && mkdir /dir && ln -s /plain /dir/inner && ln /plain /hard
        COPY new /plain
        COPY new /link
        COPY tree/ /dir/
        ",
    )
    .file("new", "new")
    .file("tree/inner", "inner");
    each_user(|user| {
        // A destination that is a link is followed, as for cp; a link met on the way down a
        // copied folder is replaced.
        assert_lines(
            &Rbuild::new(user)
                .build(&project)
                .image()
                .tree()
                .lines(&["plain", "link", "hard", "dir/**"]),
            r#"
            f 0644 0:0 plain "new"
            l 0:0 link -> plain
            f 0644 0:0 hard "old\n"
            d 0755 0:0 dir
            f 0644 0:0 dir/inner "inner"
            "#,
        );
    });
}

#[test]
fn files_that_move_between_stages_keep_owner_mode_and_time() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox AS builder
        RUN mkdir -p /out/d && echo x > /out/d/x && chown -R 12:34 /out && chmod 4711 /out/d/x \
            && chmod 1770 /out/d && ln /out/d/x /out/hard && mkfifo /out/fifo && touch -d @1234567890 /out/d/x
        FROM debian
        COPY --from=builder /out/ /srv/
        COPY --from=builder --chown=root:root /out/d/x /tmp/
        ",
    );
    each_user(|user| {
        let tree = Rbuild::new(user).build(&project).image().tree();
        assert_lines(
            &tree.lines(&["srv/**", "tmp/**"]),
            r#"
            d 0755 0:0 srv
            d 1770 12:34 srv/d
            f 4711 12:34 srv/d/x "x\n" (2 links)
            p 0644 0:0 srv/fifo
            f 4711 12:34 srv/hard "x\n" (2 links)
            d 1777 0:0 tmp
            f 4711 0:0 tmp/x "x\n"
            "#,
        );
        assert_eq!(tree.get("srv/d/x").mtime, 1_234_567_890);
    });
}

/// Large contexts are listed by several threads; what is copied hangs on none of them.
#[test]
fn many_folders_are_copied_as_few_are() {
    let mut project = Project::with(
        "FROM scratch\nCOPY --exclude=d3 --exclude=d*/s2 --exclude=!d5/s2/kept . /all/\n",
    );
    let mut expected = Vec::new();
    for d in 0..9 {
        for s in 0..6 {
            for f in ["file", "kept"] {
                let path = format!("d{d}/s{s}/{f}");
                if d != 3 && (s != 2 || (d == 5 && f == "kept")) {
                    expected.push(format!("all/{path}"));
                }
                project = project.file(&path, &path);
            }
        }
    }
    let image = Rbuild::new(&User::Caller).build(&project).image();
    let tree = image.tree();
    let listing = tree.all();
    let found: Vec<&str> = listing
        .lines()
        .filter(|line| line.trim_start().starts_with("f ") && !line.contains("Dockerfile"))
        .map(|line| line.split_whitespace().nth(3).unwrap())
        .collect();
    assert_eq!(found, expected);
    for path in &expected {
        assert_eq!(tree.text(path), path["all/".len()..]);
    }
}
