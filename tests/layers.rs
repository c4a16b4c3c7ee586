//! What is in each layer's tar, and that layers and history stand one for one with BuildKit's.

use crate::support::{
    LayerTar, Need, Project, Rbuild, TarEntry, User, assert_lines, each_user, needs,
};

/// The digest of a tar with nothing in it: two blocks of zeroes.
const EMPTY: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

#[test]
fn every_instruction_has_its_entry_and_every_change_its_layer() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM busybox
        ARG version=1
        ARG unset
        LABEL a=b "c d"="e f"
        ENV X=1 Y="two words"
        WORKDIR /
        WORKDIR /tmp
        WORKDIR new/sub
        COPY --chown=1:2 --chmod=640 a.txt b.txt ./
        COPY <<one <<two /here/
        1
        one
        2
        two
        ADD a.txt /added
        RUN true
        RUN ["touch", "/file"]
        RUN <<EOF
        echo x > /heredoc
        EOF
        USER app
        EXPOSE 80 443
        VOLUME /v /w
        STOPSIGNAL INT
        SHELL ["/bin/sh", "-ec"]
        HEALTHCHECK NONE
        MAINTAINER me
        ENTRYPOINT ["/e", "two words"]
        CMD shell form
        "#,
    )
    .file("a.txt", "a")
    .file("b.txt", "b");
    let image = Rbuild::new(&User::Caller).build(&project).image();
    assert_lines(
        &image.history(),
        r#"
        empty ARG version=1
        empty ARG unset
        empty LABEL a=b c d=e f
        empty ENV X=1 Y=two words
        empty WORKDIR /
        layer WORKDIR /tmp
        layer WORKDIR /tmp/new/sub
        layer COPY --chown=1:2 --chmod=640 a.txt b.txt ./ # buildkit
        layer COPY <<one <<two /here/ # buildkit
        layer ADD a.txt /added # buildkit
        layer RUN |2 version=1 unset= /bin/sh -c true # buildkit
        layer RUN |2 version=1 unset= touch /file # buildkit
        layer RUN |2 version=1 unset= /bin/sh -c echo x > /heredoc
         # buildkit
        empty USER app
        empty EXPOSE [443/tcp 80/tcp]
        empty VOLUME [/v /w]
        empty STOPSIGNAL INT
        empty SHELL [/bin/sh -ec]
        empty HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
        empty MAINTAINER me
        empty ENTRYPOINT ["/e" "two words"]
        empty CMD ["/bin/sh" "-ec" "shell form"]
        "#,
    );
    for entry in image.config["history"].as_array().unwrap() {
        if entry["created_by"] != "base image for tests" {
            assert_eq!(entry["comment"], "buildkit.dockerfile.v0", "{entry}");
            assert!(entry["created"].is_string(), "{entry}");
        }
    }
    let layers = image.own_layers();
    assert_eq!(layers[0].diff_id, EMPTY, "WORKDIR onto what is there");
    assert_lines(
        &layers[1].lines(),
        "
        d 1777 0:0 tmp
        d 0755 0:0 tmp/new
        d 0755 0:0 tmp/new/sub
        ",
    );
    assert_eq!(layers[5].diff_id, EMPTY, "RUN true");
    assert_lines(&layers[6].lines(), "f 0644 0:0 file \"\"\n");
}

#[test]
fn removals_become_whiteouts() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -p /d/sub /e /f /g && echo 1 > /d/one && echo 2 > /d/sub/two && touch /e/x /f /g/x /file
        RUN rm /d/one && rm -r /d/sub /f && rm /file
        RUN rm -r /d /e && mkdir /e && echo new > /e/new
        RUN rm -r /g && echo now a file > /g
        RUN rm /g && mkdir -p /g/and/a/folder
        RUN mv /e /moved && mv /moved /e
        ",
    );
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        let layers = image.own_layers();
        assert_lines(
            &sorted(&layers[1]),
            "
            d 0755 0:0 d
            w d/one
            w d/sub
            w f
            w file
            ",
        );
        assert_lines(&layers[3].lines(), "f 0644 0:0 g \"now a file\\n\"\n");
        assert_lines(
            &layers[4].lines(),
            "
            d 0755 0:0 g
            d 0755 0:0 g/and
            d 0755 0:0 g/and/a
            d 0755 0:0 g/and/a/folder
            ",
        );
        let tree = image.tree();
        assert_lines(
            &tree.lines(&["d", "e/**", "f", "file", "moved", "g/**"]),
            r#"
            - d
            d 0755 0:0 e
            f 0644 0:0 e/new "new\n"
            - f
            - file
            - moved
            d 0755 0:0 g
            d 0755 0:0 g/and
            d 0755 0:0 g/and/a
            d 0755 0:0 g/and/a/folder
            "#,
        );
    });
}

fn sorted(layer: &LayerTar) -> String {
    let lines = layer.lines();
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

#[test]
fn what_a_step_only_touches_is_not_in_its_layer() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir /d && echo x > /d/x && chmod 600 /d/x && touch -d @1000000000 /d/x /d
        RUN chmod 644 /d/x && chmod 600 /d/x && cat /d/x > /dev/null
        RUN echo y > /d/y && rm /d/y && touch -d @1000000000 /d
        RUN chmod 640 /d/x
        ",
    );
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        let layers = image.own_layers();
        assert_eq!(layers[1].diff_id, EMPTY, "{}", layers[1].lines());
        assert_eq!(layers[2].diff_id, EMPTY, "{}", layers[2].lines());
        assert_lines(
            &layers[3].lines(),
            "
            d 0755 0:0 d
            f 0640 0:0 d/x \"x\\n\"
            ",
        );
    });
}

#[test]
fn hard_links_capabilities_devices_and_strange_names_survive() {
    if !needs(&[Need::BaseImages, Need::Program("setcap")]) {
        return;
    }
    // setcap comes from the machine with the libraries that it needs.
    let mut project = Project::with(
        r#"
        FROM debian
        COPY machine/ /machine/
        RUN echo x > /bin/ping && LD_LIBRARY_PATH=/machine /machine/setcap cap_net_raw+ep /bin/ping
        RUN mkdir /s && cd /s && mkfifo fifo && echo a > a && ln a b && mkdir d && ln a d/c \
            && (mknod null c 1 3 && chmod 660 null || true) \
            && touch "$(printf 'latin1-\351')" 'with space' "$(printf 'new\nline')" -- '-dash' \
            && ln -s "$(printf 'to-\377')" link \
            && mkdir -p $(printf 'long%.0s/' $(seq 40)) && touch $(printf 'n%.0s' $(seq 250))
        RUN rm /s/b && echo more >> /s/a
        "#,
    )
    .folder("machine");
    let setcap = ["/usr/sbin/setcap", "/sbin/setcap"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap();
    let libraries = std::process::Command::new("ldd")
        .arg(setcap)
        .output()
        .unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for file in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/') && word.contains("libcap"))
        .chain([setcap])
    {
        let name = std::path::Path::new(file)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        let place = format!("machine/{name}");
        project = project
            .file(&place, std::fs::read(file).unwrap())
            .mode(&place, 0o755);
    }
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        let tree = image.tree();
        // As capabilities(7) has it: version 2, effective, CAP_NET_RAW (13) permitted.
        assert_eq!(
            tree.get("usr/bin/ping").xattrs["security.capability"],
            [
                1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        let layers = image.own_layers();
        let first = layers[layers.len() - 2].lines();
        assert!(
            first.contains("h s/b => s/a\n") && first.contains("h s/d/c => s/a\n"),
            "{first}"
        );
        let mut shown = tree.lines(&["s", "s/-dash", "s/a", "s/d/**", "s/fifo"]);
        let odd = ["s/latin", "s/link", "s/new", "s/with"];
        for path in tree.nodes.keys() {
            if odd.iter().any(|start| path.starts_with(start.as_bytes())) {
                shown += &one_line(&tree, path);
            }
        }
        // Writing to one name of a lower layer's file parts it from its other names.
        assert_lines(
            &shown,
            r#"
            d 0755 0:0 s
            f 0644 0:0 s/-dash ""
            f 0644 0:0 s/a "a\nmore\n"
            d 0755 0:0 s/d
            f 0644 0:0 s/d/c "a\n"
            p 0644 0:0 s/fifo
            f 0644 0:0 s/latin1-\xe9 ""
            l 0:0 s/link -> to-\xff
            f 0644 0:0 s/new\nline ""
            f 0644 0:0 s/with space ""
            "#,
        );
        if user.is_root() {
            assert_lines(&tree.lines(&["s/null"]), "c 0660 0:0 s/null 1,3\n");
        }
        let deep = format!("s{}", "/long".repeat(40));
        assert!(tree.has(&deep), "a path of {} bytes", deep.len());
        assert!(tree.has(format!("s/{}", "n".repeat(250))));
        assert_lines(
            &sorted(&layers[layers.len() - 1]),
            r#"
            d 0755 0:0 s
            f 0644 0:0 s/a "a\nmore\n"
            w s/b
            "#,
        );
    });
}

fn one_line(tree: &crate::support::Tree, path: &[u8]) -> String {
    let mut alone = crate::support::Tree::default();
    alone.nodes.insert(path.to_vec(), tree.get(path).clone());
    alone.all()
}

fn name(entry: &TarEntry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

#[test]
fn layers_are_canonical() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir /z /a /a/b /a-b && echo x > /a/b/c && touch /a.c /a/z /a-b/q && ln /a/b/c /z/hard
        COPY . /context/
        ",
    )
    .file("b", "b")
    .file("a/c", "c")
    .file("a.b", "ab");
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        for layer in image.own_layers() {
            let mut seen = std::collections::BTreeSet::new();
            for entry in &layer.entries {
                assert_eq!(
                    entry.names,
                    (String::new(), String::new()),
                    "{}",
                    name(entry)
                );
                assert!(seen.insert(&entry.path), "{} twice", name(entry));
                if let Some(cut) = entry.path.iter().rposition(|byte| *byte == b'/') {
                    let parent = entry.path[..cut].to_vec();
                    assert!(seen.contains(&parent), "{} before its folder", name(entry));
                }
            }
            let by_parts = |entry: &TarEntry| -> Vec<Vec<u8>> {
                entry
                    .path
                    .split(|byte| *byte == b'/')
                    .map(<[u8]>::to_vec)
                    .collect()
            };
            assert!(
                layer.entries.iter().map(by_parts).is_sorted(),
                "not sorted:\n{}",
                layer.lines()
            );
        }
    });
}

#[test]
fn the_same_tree_gives_the_same_layer_for_root_and_for_others() {
    if !needs(&[Need::BaseImages, Need::Root]) {
        return;
    }
    let project = Project::with(
        "
        FROM debian
        RUN mkdir -p /d/e && echo x > /d/e/x && ln /d/e/x /d/y && chown 12:34 /d/y && chmod 4755 /d/y \
            && rm -r /usr/share/doc && mkdir /usr/share/doc && mkfifo /d/fifo \
            && find /d /usr/share -maxdepth 1 -exec touch -h -d @1000000000 {} +
        COPY x /tmp/y
        ",
    )
    .file("x", "x");
    let layers = std::cell::RefCell::new(Vec::new());
    each_user(|user| {
        let image = Rbuild::new(user).build(&project).image();
        layers.borrow_mut().push(image.own_layers().to_vec());
    });
    let layers = layers.into_inner();
    if let [root, other] = &layers[..] {
        for (one, two) in root.iter().zip(other) {
            assert_eq!(one.lines(), two.lines());
        }
        let times = |layer: &LayerTar| -> Vec<(String, i64)> {
            layer
                .entries
                .iter()
                .map(|entry| (name(entry), entry.mtime))
                .collect()
        };
        for (one, two) in root.iter().zip(other) {
            assert_eq!(times(one), times(two));
            assert_eq!(one.diff_id, two.diff_id);
        }
    }
}

#[test]
fn known_blobs_are_used_for_known_layers() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nLABEL a=b\n");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let image = rbuild.build(&project).image();
        let base = rbuild.build(&Project::with("FROM busybox\n")).image();
        assert_eq!(
            image.layers[0].blob, base.layers[0].blob,
            "a base layer keeps the blob that it came as"
        );
    });
}
