//! What the instructions of a Dockerfile mean, where no program has to run for it.

use serde_json::json;

use crate::support::{Image, Need, Project, Rbuild, architecture, assert_lines, each_user, needs};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds with an empty store as whoever runs the tests; what is tested here doesn't depend on
/// the user.
fn build(project: &Project) -> Image {
    Rbuild::new(&crate::support::User::Caller)
        .build(project)
        .image()
}

#[test]
fn metadata_instructions_fill_the_config() {
    let project = Project::with(
        r#"
        FROM scratch
        MAINTAINER Ada <ada@example.org>
        ARG version=1.2
        LABEL org.example.version=$version "two words"="a b" quoted='$version'
        ENV A=1 B="two words" C=$A
        ENV OLD style  value
        WORKDIR /srv/app
        WORKDIR data
        EXPOSE 80 443/tcp 53/UDP 7000-7001
        VOLUME /data
        VOLUME ["/var/a b", "/log"]
        USER 1000:1000
        STOPSIGNAL SIGTERM
        SHELL ["/bin/ash", "-c"]
        HEALTHCHECK --interval=30s --timeout=3s --start-period=1m --retries=2 CMD wget -q localhost
        ENTRYPOINT ["/bin/app", "-v"]
        CMD serve now
        ONBUILD RUN make
        "#,
    );
    let image = build(&project);
    assert_eq!(image.config["author"], "Ada <ada@example.org>");
    assert_eq!(image.config["os"], "linux");
    assert_eq!(image.config["architecture"], architecture());
    let settings = [
        (
            "Env",
            json!([DEFAULT_PATH, "A=1", "B=two words", "C=", "OLD=style  value"]),
        ),
        (
            "Labels",
            json!({"org.example.version": "1.2", "two words": "a b", "quoted": "$version"}),
        ),
        ("WorkingDir", json!("/srv/app/data")),
        (
            "ExposedPorts",
            json!({"80/tcp": {}, "443/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}}),
        ),
        ("Volumes", json!({"/data": {}, "/var/a b": {}, "/log": {}})),
        ("User", json!("1000:1000")),
        ("StopSignal", json!("SIGTERM")),
        ("Shell", json!(["/bin/ash", "-c"])),
        (
            "Healthcheck",
            json!({
                "Test": ["CMD-SHELL", "wget -q localhost"],
                "Interval": 30_000_000_000_i64,
                "Timeout": 3_000_000_000_i64,
                "StartPeriod": 60_000_000_000_i64,
                "Retries": 2
            }),
        ),
        ("Entrypoint", json!(["/bin/app", "-v"])),
        ("Cmd", json!(["/bin/ash", "-c", "serve now"])),
        ("OnBuild", json!(["RUN make"])),
    ];
    for (name, expected) in settings {
        assert_eq!(image.setting(name), &expected, "{name}");
    }
    assert_lines(
        &image.tree().all(),
        "
        d 0755 0:0 srv
        d 0755 0:0 srv/app
        d 0755 0:0 srv/app/data
        ",
    );
}

#[test]
fn variables_expand_where_the_reference_says() {
    let project = Project::with(
        r#"
        FROM scratch
        ARG set=yes empty=
        ENV name=app dir=/srv
        LABEL plain=$set braces=${set}x default=${unset:-d} empty=${empty:-d} \
              alternative=${set:+a} none=${unset:+a} escaped=\$set single='${set}' \
              nested=${unset:-${set}} only-unset=${empty-d}
        WORKDIR ${dir}/$name
        COPY $name.txt ${dir}/$name/copied-${set:+and-renamed}.txt
        EXPOSE ${port:-8080}
        USER ${user:-nobody}
        VOLUME $dir
        STOPSIGNAL ${signal:-SIGINT}
        "#,
    )
    .file("app.txt", "text");
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({
            "plain": "yes", "braces": "yesx", "default": "d", "empty": "d",
            "alternative": "a", "none": "", "escaped": "$set", "single": "${set}",
            "nested": "yes", "only-unset": ""
        })
    );
    assert_eq!(image.setting("WorkingDir"), "/srv/app");
    assert_eq!(image.setting("ExposedPorts"), &json!({"8080/tcp": {}}));
    assert_eq!(image.setting("User"), "nobody");
    assert_eq!(image.setting("Volumes"), &json!({"/srv": {}}));
    assert_eq!(image.setting("StopSignal"), "SIGINT");
    assert_eq!(image.tree().text("srv/app/copied-and-renamed.txt"), "text");
}

#[test]
fn env_of_one_instruction_sees_what_was_before_it() {
    let project = Project::with(
        "
        FROM scratch
        ENV abc=hello
        ENV abc=bye def=$abc
        ENV ghi=$abc
        ",
    );
    assert_eq!(
        build(&project).setting("Env"),
        &json!([DEFAULT_PATH, "abc=bye", "def=hello", "ghi=bye"])
    );
}

#[test]
fn arguments_have_scopes() {
    let project = Project::with(
        "
        ARG global=from-global
        ARG shadowed=outer
        FROM scratch AS first
        ARG global
        ARG local=from-first
        LABEL first-global=$global first-local=$local
        FROM first AS second
        LABEL inherited-local=${local:-unset}
        FROM scratch
        ARG shadowed=inner
        ARG given=default
        ARG wins=arg
        ENV wins=env
        LABEL undeclared=${global:-unset} shadowed=$shadowed given=$given wins=$wins
        ",
    );
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let first = rbuild.build(&project).target("first").image();
    assert_eq!(
        first.setting("Labels"),
        &json!({"first-global": "from-global", "first-local": "from-first"})
    );
    let second = rbuild.build(&project).target("second").image();
    assert_eq!(
        second.setting("Labels")["inherited-local"],
        "from-first",
        "a stage inherits the arguments of the stage it is built from"
    );
    let last = rbuild.build(&project).build_arg("given=by-flag").image();
    assert_eq!(
        last.setting("Labels"),
        &json!({"undeclared": "unset", "shadowed": "inner", "given": "by-flag", "wins": "env"})
    );
    assert_eq!(last.setting("Env"), &json!([DEFAULT_PATH, "wins=env"]));
}

#[test]
fn a_build_argument_without_value_comes_from_the_environment() {
    let project = Project::with(
        "
        FROM scratch
        ARG one=default
        ARG two=default
        LABEL one=$one two=$two
        ",
    );
    let image = Rbuild::new(&crate::support::User::Caller)
        .build(&project)
        .build_arg("one")
        .build_arg("two")
        .env("one", "environment")
        .image();
    assert_eq!(
        image.setting("Labels"),
        &json!({"one": "environment", "two": "default"})
    );
}

#[test]
fn platform_arguments_are_there_when_asked_for() {
    let project = Project::with(
        "
        FROM --platform=$BUILDPLATFORM scratch
        ARG TARGETPLATFORM
        ARG TARGETOS
        ARG TARGETARCH
        ARG BUILDPLATFORM
        LABEL target=$TARGETPLATFORM os=$TARGETOS arch=$TARGETARCH build=$BUILDPLATFORM \
              undeclared=${BUILDARCH:-unset}
        ",
    );
    let arch = architecture();
    assert_eq!(
        build(&project).setting("Labels"),
        &json!({
            "target": format!("linux/{arch}"), "os": "linux", "arch": arch,
            "build": format!("linux/{arch}"), "undeclared": "unset"
        })
    );
}

#[test]
fn only_what_the_target_needs_is_built() {
    let project = Project::with(
        r#"
        FROM scratch AS base
        COPY a /a
        FROM no.such.registry.invalid/nothing AS unneeded
        RUN ["/never"]
        FROM base AS left
        COPY a /left
        FROM base AS right
        COPY a /right
        FROM scratch AS both
        COPY --from=left /left /
        COPY --from=3 /right /
        "#,
    )
    .file("a", "a");
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let names = |image: &Image| -> Vec<String> {
        image
            .tree()
            .nodes
            .keys()
            .map(|path| String::from_utf8(path.clone()).unwrap())
            .collect()
    };
    assert_eq!(names(&rbuild.build(&project).image()), ["left", "right"]);
    assert_eq!(
        names(&rbuild.build(&project).target("LEFT").image()),
        ["a", "left"]
    );
    assert_eq!(names(&rbuild.build(&project).target("0").image()), ["a"]);
    let (_, log) = rbuild
        .build(&project)
        .target("right")
        .args(["--no-cache"])
        .image_and_log();
    assert_eq!(log.ran(), ["COPY a /a", "COPY a /right"]);
}

#[test]
fn copy_places_files_and_folders() {
    let project = Project::with(
        "
        FROM scratch
        COPY a.txt /as-file
        COPY a.txt /folder/
        COPY a.txt b.txt relative/
        COPY dir /contents
        COPY dir/ /trailing/
        COPY dir/sub dir/b.txt /several/
        WORKDIR /work
        COPY a.txt .
        COPY a.txt ./deeper/x
        COPY ../b.txt /never-above-the-context
        ",
    )
    .file("a.txt", "a")
    .file("b.txt", "b")
    .file("dir/b.txt", "in dir")
    .mode("dir/b.txt", 0o600)
    .file("dir/sub/tool.sh", "#!")
    .mode("dir/sub/tool.sh", 0o4755)
    .mode("dir/sub", 0o700)
    .folder("dir/empty")
    .hard_link("dir/sub/same", "dir/b.txt")
    .mode("dir", 0o750)
    .symlink("dir/link", "b.txt")
    .symlink("dir/dangling", "/no/where");
    assert_lines(
        &build(&project).tree().all(),
        r##"
        f 0644 0:0 as-file "a"
        d 0755 0:0 contents
        f 0600 0:0 contents/b.txt "in dir" (2 links)
        l 0:0 contents/dangling -> /no/where
        d 0755 0:0 contents/empty
        l 0:0 contents/link -> b.txt
        d 0700 0:0 contents/sub
        f 0600 0:0 contents/sub/same "in dir" (2 links)
        f 4755 0:0 contents/sub/tool.sh "#!"
        d 0755 0:0 folder
        f 0644 0:0 folder/a.txt "a"
        f 0644 0:0 never-above-the-context "b"
        d 0755 0:0 relative
        f 0644 0:0 relative/a.txt "a"
        f 0644 0:0 relative/b.txt "b"
        d 0755 0:0 several
        f 0600 0:0 several/b.txt "in dir"
        f 0600 0:0 several/same "in dir"
        f 4755 0:0 several/tool.sh "#!"
        d 0755 0:0 trailing
        f 0600 0:0 trailing/b.txt "in dir" (2 links)
        l 0:0 trailing/dangling -> /no/where
        d 0755 0:0 trailing/empty
        l 0:0 trailing/link -> b.txt
        d 0700 0:0 trailing/sub
        f 0600 0:0 trailing/sub/same "in dir" (2 links)
        f 4755 0:0 trailing/sub/tool.sh "#!"
        d 0755 0:0 work
        f 0644 0:0 work/a.txt "a"
        d 0755 0:0 work/deeper
        f 0644 0:0 work/deeper/x "a"
        "##,
    );
}

#[test]
fn a_link_named_as_source_is_followed_and_stays_inside_the_context() {
    let project = Project::with(
        "
        FROM scratch
        COPY link /copied
        COPY dir-link /contents
        COPY escape /escaped
        ",
    )
    .file("real/file", "content")
    .file("etc/inside", "inside")
    .symlink("link", "real/file")
    .symlink("dir-link", "real")
    .symlink("escape", "../../../../../etc/inside");
    assert_lines(
        &build(&project).tree().all(),
        r#"
        d 0755 0:0 contents
        f 0644 0:0 contents/file "content"
        f 0644 0:0 copied "content"
        f 0644 0:0 escaped "inside"
        "#,
    );
}

#[test]
fn wildcards_match_as_go_does() {
    let project = Project::with(
        r"
        FROM scratch
        COPY *.txt /star/
        COPY a?.md /question/
        COPY [ab]1.md /class/
        COPY */deep.rs /folders/
        COPY none*.at-all /nothing/
        COPY arr[[]0].c /literal/
        ",
    )
    .file("x.txt", "x")
    .file("y.txt", "y")
    .file("a1.md", "a1")
    .file("a2.md", "a2")
    .file("b1.md", "b1")
    .file("one/deep.rs", "one")
    .file("arr[0].c", "literal")
    .file("arr0.c", "other");
    assert_lines(
        &build(&project).tree().all(),
        r#"
        d 0755 0:0 class
        f 0644 0:0 class/a1.md "a1"
        f 0644 0:0 class/b1.md "b1"
        d 0755 0:0 folders
        f 0644 0:0 folders/deep.rs "one"
        d 0755 0:0 literal
        f 0644 0:0 literal/arr[0].c "literal"
        d 0755 0:0 question
        f 0644 0:0 question/a1.md "a1"
        f 0644 0:0 question/a2.md "a2"
        d 0755 0:0 star
        f 0644 0:0 star/x.txt "x"
        f 0644 0:0 star/y.txt "y"
        "#,
    );
}

#[test]
fn owners_and_modes_can_be_set() {
    let project = Project::with(
        "
        FROM scratch
        COPY passwd group /etc/
        COPY --chown=1000:50 dir /numbers/new
        COPY --chown=app file /by-name
        COPY --chown=app:staff file /by-both-names
        COPY --chown=7 file /user-only
        COPY --chmod=600 dir /modes
        COPY --chmod=u+x,go-r file /symbolic
        COPY --chmod=g=u,o+r-w file /copied
        ADD --chown=1:2 --chmod=4750 file /added
        ",
    )
    .file("passwd", "root:x:0:0::/:\napp:x:1001:1002::/:\n")
    .file("group", "root:x:0:\nstaff:x:77:\napp:x:1002:\n")
    .file("file", "f")
    .file("dir/inner", "i")
    .folder("dir/sub");
    assert_lines(
        &build(&project).tree().lines(&[
            "numbers/**",
            "by-name",
            "by-both-names",
            "user-only",
            "modes/inner",
            "modes/sub",
            "symbolic",
            "copied",
            "added",
        ]),
        r#"
        d 0755 1000:50 numbers
        d 0755 1000:50 numbers/new
        f 0644 1000:50 numbers/new/inner "i"
        d 0755 1000:50 numbers/new/sub
        f 0644 1001:1002 by-name "f"
        f 0644 1001:77 by-both-names "f"
        f 0644 7:7 user-only "f"
        f 0600 0:0 modes/inner "i"
        d 0600 0:0 modes/sub
        f 0700 0:0 symbolic "f"
        f 0664 0:0 copied "f"
        f 4750 1:2 added "f"
        "#,
    );
}

#[test]
fn ignore_files_leave_files_out() {
    let project = Project::with(
        "
        FROM scratch
        COPY . /all/
        ",
    )
    .file("keep.txt", "k")
    .file("drop.log", "d")
    .file("sub/drop.log", "d")
    .file("sub/keep.log", "k")
    .file("node_modules/big/x", "x")
    .file("node_modules/needed/x", "x")
    .file(
        ".dockerignore",
        "# comment\n**/*.log\n!sub/keep.log\nnode_modules/*\n!node_modules/needed\n.dockerignore\nDockerfile*\n",
    );
    let names = |image: Image| -> Vec<String> {
        let tree = image.tree();
        tree.nodes
            .keys()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect()
    };
    assert_eq!(
        names(build(&project)),
        [
            "all",
            "all/keep.txt",
            "all/node_modules",
            "all/node_modules/needed",
            "all/node_modules/needed/x",
            "all/sub",
            "all/sub/keep.log"
        ]
    );
    // A Dockerfile's own ignore file goes before the common one.
    let project = project
        .file("other.Dockerfile", "FROM scratch\nCOPY . /all/\n")
        .file("other.Dockerfile.dockerignore", "*\n!drop.log\n");
    let image = Rbuild::new(&crate::support::User::Caller)
        .build(&project)
        .args([
            "-f".as_ref(),
            project.path().join("other.Dockerfile").as_os_str(),
        ])
        .image();
    assert_eq!(names(image), ["all", "all/drop.log"]);
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, content: &str, link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            tar.append_data(&mut header, path, content.as_bytes())
                .unwrap();
        } else {
            tar.append_link(&mut header, path, link).unwrap();
        }
    };
    add("inner/", tar::EntryType::Directory, 0o750, "", "");
    add("inner/file", tar::EntryType::Regular, 0o4711, "packed", "");
    add("inner/link", tar::EntryType::Symlink, 0o777, "", "file");
    add("inner/hard", tar::EntryType::Link, 0o644, "", "inner/file");
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let project = Project::with(
        "
        FROM scratch
        ADD plain.tar /plain/
        ADD packed.tgz /gzip
        ADD packed.tar.zst /zstd/
        ADD --chown=5:6 plain.tar /chown/
        ADD no-archive.tar.gz /kept/
        COPY plain.tar /copied/
        ",
    )
    .file("plain.tar", &tar)
    .file("packed.tgz", gzip)
    .file("packed.tar.zst", zstd)
    .file("no-archive.tar.gz", "just text");
    let tree = build(&project).tree();
    for place in ["plain", "gzip", "zstd"] {
        assert_lines(
            &tree.lines(&[&format!("{place}/**")]).replace(place, "X"),
            r#"
            d 0755 0:0 X
            d 0750 12:34 X/inner
            f 4711 12:34 X/inner/file "packed" (2 links)
            f 4711 12:34 X/inner/hard "packed" (2 links)
            l 12:34 X/inner/link -> file
            "#,
        );
        assert_eq!(tree.get(format!("{place}/inner/file")).mtime, 1_000_000_000);
    }
    assert_eq!(
        (
            tree.get("chown/inner/file").uid,
            tree.get("chown/inner/file").gid
        ),
        (5, 6)
    );
    assert_eq!(tree.text("kept/no-archive.tar.gz"), "just text");
    assert_eq!(tree.get("copied/plain.tar").content.as_ref(), Some(&tar));
}

/// In a layer such a name would hide what is below; BuildKit makes files of them, which do so in the
/// image and not in the steps of the build.
#[test]
fn names_that_hide_files_are_left_out_of_an_archive_with_a_warning() {
    let mut tar = tar::Builder::new(Vec::new());
    for path in ["sub/.wh.hidden", "sub/.wh..wh..opq", "sub/file"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(3);
        tar.append_data(&mut header, path, &b"add"[..]).unwrap();
    }
    let project = Project::with("FROM scratch\nCOPY sub /sub\nADD marks.tar /\n")
        .file("marks.tar", tar.into_inner().unwrap())
        .file("sub/hidden", "is there")
        .file("sub/other", "is there");
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let (image, log) = rbuild.build(&project).image_and_log();
    assert_lines(
        &image.tree().lines(&["sub/**"]),
        r#"
        d 0755 0:0 sub
        f 0644 0:0 sub/file "add"
        f 0644 0:0 sub/hidden "is there"
        f 0644 0:0 sub/other "is there"
        "#,
    );
    log.says(&[
        "names that begin with `.wh.` mean removed files in a layer: those of `/marks.tar`",
    ]);
}

#[test]
fn heredocs_become_files() {
    let project = Project::with(
        r#"
        FROM scratch
        ARG who=world
        COPY <<one.txt <<"two.txt" /here/
        Hello, $who
        one.txt
        Hello, $who
        two.txt
        COPY --chmod=755 <<-EOF /tool.sh
        	#!/bin/sh
        	exit 0
        EOF
        "#,
    );
    assert_lines(
        &build(&project).tree().all(),
        r##"
        d 0755 0:0 here
        f 0644 0:0 here/one.txt "Hello, world\n"
        f 0644 0:0 here/two.txt "Hello, $who\n"
        f 0755 0:0 tool.sh "#!/bin/sh\nexit 0\n"
        "##,
    );
}

#[test]
fn comments_continuations_and_directives_read_as_documented() {
    let project = Project::new().file(
        "Dockerfile",
        "\u{feff}# escape=`\r\n\
         # check=skip=all\n\
         from scratch as Stage\n\
         # a comment\n\
         LABEL a=1 `\n\
         # a comment inside\n\
         \n\
         \x20     b=c:`\\dir `  \n\
         \x20     c=3\n\
         \tlabel d=\"x `\n\
         y\"\n",
    );
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({"a": "1", "b": "c:\\dir", "c": "3", "d": "x y"})
    );
}

#[test]
fn entrypoint_takes_back_the_command_of_the_base() {
    let project = Project::with(
        r#"
        FROM scratch AS base
        CMD ["inherited"]
        FROM base AS entry
        ENTRYPOINT ["/e"]
        FROM base AS both
        CMD ["own"]
        ENTRYPOINT /shell form
        "#,
    );
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let entry = rbuild.build(&project).target("entry").image();
    assert_eq!(entry.setting("Entrypoint"), &json!(["/e"]));
    assert!(entry.setting("Cmd").is_null());
    let both = rbuild.build(&project).target("both").image();
    assert_eq!(both.setting("Cmd"), &json!(["own"]));
    assert_eq!(
        both.setting("Entrypoint"),
        &json!(["/bin/sh", "-c", "/shell form"])
    );
}

#[test]
fn onbuild_runs_in_the_image_that_is_built_from_it() {
    let project = Project::with(
        "
        FROM scratch AS parent
        ONBUILD COPY late /late
        ONBUILD LABEL triggered=yes
        FROM parent
        LABEL own=yes
        ",
    )
    .file("late", "late");
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({"triggered": "yes", "own": "yes"})
    );
    assert!(image.setting("OnBuild").is_null(), "triggers fire once");
    assert_eq!(image.tree().text("late"), "late");
}

#[test]
fn copy_from_an_image_and_from_a_stage() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let project = Project::with(
            "
            FROM busybox AS made
            RUN mkdir -p /made/sub && echo stage > /made/sub/file && chown 12:34 /made/sub/file \
                && ln -s sub/file /made/link && chmod 2775 /made/sub
            FROM scratch
            COPY --from=alpine /etc/passwd /from-image/
            COPY --from=made /made /from-stage
            COPY --from=made /made/link /followed
            COPY --from=0 --chown=5 /made/sub/file /by-number
            ",
        );
        let tree = Rbuild::new(user).build(&project).image().tree();
        assert!(tree.text("from-image/passwd").contains("nobody"));
        assert_lines(
            &tree.lines(&["from-stage/**", "followed", "by-number"]),
            r#"
            d 0755 0:0 from-stage
            l 0:0 from-stage/link -> sub/file
            d 2775 0:0 from-stage/sub
            f 0644 12:34 from-stage/sub/file "stage\n"
            f 0644 12:34 followed "stage\n"
            f 0644 5:5 by-number "stage\n"
            "#,
        );
    });
}

#[test]
fn names_of_the_image_are_looked_up_for_user_and_workdir() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let project = Project::with(
            "
            FROM busybox
            USER app
            WORKDIR /home/app/work/deep
            COPY --chown=www-data:staff file ./
            COPY file /home/app/still-root
            USER nobody:adm
            WORKDIR ../by-group
            ",
        )
        .file("file", "f");
        let image = Rbuild::new(user).build(&project).image();
        assert_eq!(image.setting("User"), "nobody:adm");
        assert_eq!(image.setting("WorkingDir"), "/home/app/work/by-group");
        assert_lines(
            &image.tree().lines(&["home/app/**"]),
            r#"
            d 0755 1000:1000 home/app
            f 0644 0:0 home/app/still-root "f"
            d 0755 1000:1000 home/app/work
            d 0755 65534:4 home/app/work/by-group
            d 0755 1000:1000 home/app/work/deep
            f 0644 33:50 home/app/work/deep/file "f"
            "#,
        );
    });
}
