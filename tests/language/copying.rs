//! COPY and ADD: which files come, where they go, whose they are.

use super::build;
use crate::support::{Image, Need, Project, Rbuild, assert_lines, each_user, needs};

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
