//! `type=local` and `type=tar`: the image's files, in a folder and as a stream.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::outputs::small;
use crate::support::{
    Layer, Need, Project, Rbuild, Tree, User, assert_lines, docker_archive, each_user, needs,
};

/// A context whose image is made by hand.
fn from_archive(
    rbuild: &Rbuild,
    layers: impl IntoIterator<Item = Layer>,
) -> (Project, [String; 2]) {
    let archive = rbuild.out().join("handmade.tar");
    std::fs::write(&archive, docker_archive("handmade", layers)).unwrap();
    let flag = format!("handmade=docker-archive://{}", archive.display());
    (
        Project::with("FROM handmade\n"),
        ["--build-context".to_owned(), flag],
    )
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_folder_gets_the_files_as_the_users_own() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        for spelling in ["out", "type=local,dest=out"] {
            let out = rbuild.out().join("out");
            let log = rbuild.build(&small()).args(["-o", spelling]).ok();
            log.says(&["copying files to out", "wrote out"]);
            let tree = Tree::of_folder(&out);
            let (uid, gid) = owner(&rbuild.out());
            assert_lines(
                &tree.all(),
                &format!(
                    r#"
                    d 0755 {uid}:{gid} bin
                    f 0755 {uid}:{gid} bin/a "a"
                    d 0755 {uid}:{gid} srv
                    f 0644 {uid}:{gid} srv/b "b"
                    l {uid}:{gid} srv/link -> /bin/a
                    "#
                ),
            );
            assert_eq!(tree.get("bin/a").mtime, 1_000_000_000);
        }
        let images = rbuild.run(["images", "-q"]).ok().text();
        assert_eq!(images, "", "plain files leave no image in the store");
    });
}

#[test]
fn a_stage_of_a_real_base_gives_its_files() {
    if !needs(&[Need::BaseImages, Need::Sandbox]) {
        return;
    }
    let project = Project::with(
        r#"
        FROM busybox AS build
        RUN mkdir /made && echo made > /made/file && rm /bin/wget && chmod 4711 /made/file
        FROM scratch
        COPY --from=build /made /
        "#,
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&project).args(["-o", "made"]).ok();
        let made = rbuild.out().join("made");
        assert_eq!(
            std::fs::read_to_string(made.join("file")).unwrap(),
            "made\n"
        );

        rbuild
            .build(&project)
            .target("build")
            .args(["-o", "whole"])
            .ok();
        let found = Tree::of_folder(&rbuild.out().join("whole"));
        let expected = rbuild.build(&project).target("build").image().tree();
        let names = |tree: &Tree| tree.nodes.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        for (path, node) in &expected.nodes {
            let here = found.get(path);
            assert_eq!(
                (here.kind, &here.digest, here.mtime, here.mode),
                (node.kind, &node.digest, node.mtime, node.mode & 0o1777),
                "{}",
                path.escape_ascii()
            );
        }
    });
}

#[test]
fn what_stands_in_the_folder_is_merged_or_replaced_never_followed() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let at = |path: &str| rbuild.out().join(path);
        let folder = |path: &str| {
            std::fs::create_dir_all(at(path)).unwrap();
            user.own(&at(path));
        };
        let file = |path: &str, text: &str| {
            std::fs::write(at(path), text).unwrap();
            user.own(&at(path));
        };
        let link =
            |path: &str, target: &Path| std::os::unix::fs::symlink(target, at(path)).unwrap();
        for path in [
            "outside",
            "out",
            "out/srv",
            "out/srv/b",
            "out/srv/b/deep",
            "out/kept",
        ] {
            folder(path);
        }
        file("outside/file", "outside");
        file("out/srv/mine", "mine");
        file("out/srv/b/deep/file", "in the way");
        // A folder of the image where a link stands, a file where one stands, and a file that has
        // another name elsewhere.
        link("out/bin", &at("outside"));
        link("out/srv/link", &at("outside/file"));
        file("outside/other-name", "outside");
        std::fs::hard_link(at("outside/other-name"), at("out/hard")).unwrap();
        let project = small().dockerfile(
            r#"
            FROM scratch
            COPY a /bin/a
            COPY folder /srv
            COPY a /hard
            "#,
        );
        for _ in 0..2 {
            rbuild.build(&project).args(["-o", "out"]).ok();
            let tree = Tree::of_folder(&at("out"));
            let (uid, gid) = owner(&rbuild.out());
            let expected = [
                format!("d 0755 {uid}:{gid} bin\n"),
                format!("f 0755 {uid}:{gid} bin/a \"a\"\n"),
                format!("f 0755 {uid}:{gid} hard \"a\"\n"),
                format!("f 0644 {uid}:{gid} srv/b \"b\"\n"),
                format!("l {uid}:{gid} srv/link -> /bin/a\n"),
            ];
            let found = tree.lines(&["bin", "bin/a", "hard", "srv/b", "srv/link"]);
            assert_eq!(found, expected.concat());
            assert_eq!(tree.text("srv/mine"), "mine");
            assert!(tree.has("kept"));
            let outside = Tree::of_folder(&at("outside"));
            assert_eq!(outside.text("file"), "outside");
            assert_eq!(outside.text("other-name"), "outside");
            assert_eq!(outside.nodes.len(), 2);
            let leftovers = tree.nodes.keys().filter(|path| {
                path.windows(b".rbuild-".len())
                    .any(|part| part == b".rbuild-")
            });
            assert_eq!(leftovers.count(), 0);
        }
    });
}

#[test]
fn no_layer_leads_out_of_the_folder() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let outside = rbuild.out().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        user.own(&outside);
        let target = outside.display().to_string();
        let up = "../outside";
        let layers = [
            Layer::new()
                .symlink("absolute", &target)
                .symlink("relative", up)
                .symlink("file", &format!("{target}/kept"))
                .folder("folder", 0o755)
                .symlink("folder/deep", "../../outside"),
            Layer::new()
                .file("absolute/planted", 0o644, "evil")
                .file("relative/planted", 0o644, "evil")
                .file("folder/deep/planted", 0o644, "evil")
                .file("file", 0o644, "evil")
                .hard_link("name-of-a-link", "file"),
        ];
        let (project, context) = from_archive(&rbuild, layers);
        for _ in 0..2 {
            rbuild
                .build(&project)
                .args(&context)
                .args(["-o", "out"])
                .ok();
            let tree = Tree::of_folder(&rbuild.out().join("out"));
            for path in [
                "absolute/planted",
                "relative/planted",
                "folder/deep/planted",
                "file",
                "name-of-a-link",
            ] {
                assert_eq!(tree.text(path), "evil");
            }
            let outside = Tree::of_folder(&outside);
            assert_eq!(outside.nodes.len(), 1);
            assert_eq!(outside.text("kept"), "kept");
        }
        // The other way round: a link over a folder that was written before it.
        let layers = [
            Layer::new()
                .folder("folder", 0o755)
                .file("folder/planted", 0o644, "evil"),
            Layer::new().symlink("folder", up),
        ];
        let (project, context) = from_archive(&rbuild, layers);
        rbuild
            .build(&project)
            .args(&context)
            .args(["-o", "out"])
            .ok();
        let link = std::fs::read_link(rbuild.out().join("out/folder")).unwrap();
        assert_eq!(link, Path::new(up));
        assert_eq!(Tree::of_folder(&outside).nodes.len(), 1);
    });
}

#[test]
fn what_a_folder_can_not_hold_is_told_or_dropped() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let layers = [Layer::new()
            .folder("closed", 0o555)
            .file("closed/file", 0o400, "x")
            .hard_link("closed/same", "closed/file")
            .file("set-id", 0o6755, "x")
            .folder("shared", 0o3777)
            .entry("null", tar::EntryType::Char, 0o666, "", b"")
            .entry("disk", tar::EntryType::Block, 0o660, "", b"")
            .entry("pipe", tar::EntryType::Fifo, 0o640, "", b"")];
        let (project, context) = from_archive(&rbuild, layers);
        for _ in 0..2 {
            let log = rbuild
                .build(&project)
                .args(&context)
                .args(["-o", "out"])
                .ok();
            log.says(&["2 device nodes"]);
            let (uid, gid) = owner(&rbuild.out());
            assert_lines(
                &Tree::of_folder(&rbuild.out().join("out")).all(),
                &format!(
                    r#"
                    d 0555 {uid}:{gid} closed
                    f 0400 {uid}:{gid} closed/file "x" (2 links)
                    f 0400 {uid}:{gid} closed/same "x" (2 links)
                    p 0640 {uid}:{gid} pipe
                    f 0755 {uid}:{gid} set-id "x"
                    d 1777 {uid}:{gid} shared
                    "#
                ),
            );
        }
        let closed = rbuild.out().join("out/closed");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
}

#[test]
fn a_tar_holds_the_files_with_their_owners() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let layers = [
            Layer::new()
                .folder("etc", 0o750)
                .file("etc/gone", 0o644, "gone")
                .file("etc/kept", 0o4755, "kept"),
            Layer::new()
                .file("etc/.wh.gone", 0o644, "")
                .file("one", 0o644, "one")
                .hard_link("two", "one")
                .symlink("link", "../../etc/kept")
                .entry("null", tar::EntryType::Char, 0o666, "", b""),
        ];
        let (project, context) = from_archive(&rbuild, layers);
        let tar = |spelling: &str| {
            let build = rbuild.build(&project).args(&context);
            build.args(["-o", spelling]).ok().stdout
        };
        let bytes = tar("-");
        assert_eq!(bytes, tar("type=tar"));
        assert_eq!(tar("type=tar,dest=files.tar"), b"");
        assert_eq!(
            bytes,
            std::fs::read(rbuild.out().join("files.tar")).unwrap()
        );
        let mut archive = tar::Archive::new(&bytes[..]);
        let lines = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            format!(
                "{:?} {:04o} {}:{} {} {}{}\n",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap(),
                entry.path().unwrap().display(),
                entry
                    .link_name()
                    .unwrap()
                    .map(|link| format!(" -> {}", link.display()))
                    .unwrap_or_default()
            )
        });
        assert_lines(
            &lines.collect::<String>(),
            r#"
            Directory 0750 1234:5678 1000000000 etc/
            Regular 4755 1234:5678 1000000000 etc/kept
            Symlink 0777 1234:5678 1000000000 link -> ../../etc/kept
            Char 0666 1234:5678 1000000000 null
            Regular 0644 1234:5678 1000000000 one
            Link 0644 1234:5678 1000000000 two -> one
            "#,
        );
    });
}

#[test]
fn source_date_epoch_dates_plain_files() {
    let rbuild = Rbuild::new(&User::Caller).env("SOURCE_DATE_EPOCH", "1500000000");
    rbuild
        .build(&small())
        .args(["-o", "out", "-o", "type=tar,dest=out.tar"])
        .ok();
    let tree = Tree::of_folder(&rbuild.out().join("out"));
    assert!(tree.nodes.values().all(|node| node.mtime == 1_500_000_000));
    let mut archive = tar::Archive::new(std::fs::File::open(rbuild.out().join("out.tar")).unwrap());
    for entry in archive.entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_500_000_000);
    }
}
