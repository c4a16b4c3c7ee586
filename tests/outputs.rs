//! `--output`: the image's files as a folder or a tar, the image as archives and in registries.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Finished, Image, Layer, Need, Project, Rbuild, Registry, Tree, User, assert_lines,
    docker_archive, each_user, needs, run_with_timeout,
};

fn small() -> Project {
    Project::with(
        r#"
        FROM scratch
        COPY --chown=5:6 a /bin/a
        COPY folder /srv
        "#,
    )
    .file("a", "a")
    .mode("a", 0o755)
    .mtime("a", 1_000_000_000)
    .file("folder/b", "b")
    .symlink("folder/link", "/bin/a")
}

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

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn manifest_of(layout: &Path) -> Value {
    let index = json_file(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    json_file(&layout.join("blobs/sha256").join(&digest["sha256:".len()..]))
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

#[test]
fn one_build_has_several_outputs() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let log = rbuild
            .build(&small())
            .tag("app:1")
            .args(["-o", "files", "-o", "type=tar,dest=files.tar"])
            .args([
                "-o",
                "type=oci,dest=oci.tar",
                "-o",
                "type=oci,tar=false,dest=layout",
            ])
            .args([
                "-o",
                "type=docker,dest=docker.tar,name=other",
                "-o",
                "type=image",
            ])
            .ok();
        assert_eq!(log.ran().len(), 2, "{}", log.stderr);
        let at = |name: &str| rbuild.out().join(name);
        let image = Image::read(&at("oci.tar"));
        assert_eq!(Image::read(&at("layout")).digest, image.digest);
        let docker = Image::read(&at("docker.tar"));
        assert_eq!(docker.digest, image.digest);
        let names = |image: &Image| -> Vec<String> {
            let entries = image.index["manifests"].as_array().unwrap().iter();
            entries
                .map(|entry| entry["annotations"]["io.containerd.image.name"].to_string())
                .collect()
        };
        assert_eq!(names(&image), ["\"docker.io/library/app:1\""]);
        assert_eq!(
            names(&docker),
            [
                "\"docker.io/library/app:1\"",
                "\"docker.io/library/other:latest\""
            ]
        );
        let paths: Vec<Vec<u8>> = image.tree().nodes.into_keys().collect();
        let files: Vec<Vec<u8>> = Tree::of_folder(&at("files")).nodes.into_keys().collect();
        assert_eq!(files, paths);
        let images = rbuild.run(["images"]).ok().text();
        assert!(
            images.contains("app") && !images.contains("other"),
            "{images}"
        );
    });
}

#[test]
fn layers_are_compressed_as_asked() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = small().file("folder/b", "b".repeat(100_000));
    let types = |output: &str| -> (Vec<String>, String, u64) {
        let dest = format!("type=oci,tar=false,dest=layout,{output}");
        rbuild.build(&project).args(["-o", &dest]).ok();
        let layout = rbuild.out().join("layout");
        // Reading checks every digest and diff ID.
        Image::read(&layout);
        let manifest = manifest_of(&layout);
        std::fs::remove_dir_all(&layout).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let size = layers.iter().map(|layer| layer["size"].as_u64().unwrap());
        let names = layers.iter().map(|layer| {
            let name = layer["mediaType"].as_str().unwrap();
            name.rsplit_once('.').unwrap().1.to_owned()
        });
        (
            names.collect(),
            manifest["mediaType"].as_str().unwrap().to_owned(),
            size.sum(),
        )
    };
    let oci = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let docker = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
    let (names, media_type, usual) = types("compression=gzip");
    assert_eq!((names, &media_type), (vec!["tar+gzip".to_owned(); 2], &oci));
    let (names, media_type, _) = types("compression=zstd");
    assert_eq!((names, &media_type), (vec!["tar+zstd".to_owned(); 2], &oci));
    let (names, _, plain) = types("compression=uncompressed");
    assert_eq!(names, ["tar", "tar"]);
    assert!(plain > 100_000 && usual < 10_000);
    let (names, media_type, _) = types("oci-mediatypes=false");
    assert_eq!((names, &media_type), (vec!["gzip".to_owned(); 2], &docker));
    let (_, _, stored) = types("compression-level=0");
    assert!(stored > 100_000);
    // What was built before has no say in what is built now.
    let (names, _, again) = types("compression=gzip");
    assert_eq!((names[0].as_str(), again), ("tar+gzip", usual));
}

#[test]
fn a_bases_layers_leave_as_they_came_unless_forced() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild
        .build(&small())
        .args(["-o", "type=oci,dest=base.tar,compression=zstd"])
        .ok();
    let on_top = Project::with("FROM base\nCOPY c /c\n").file("c", "c");
    let kinds = |output: &str| -> Vec<String> {
        let base = format!(
            "base=oci-layout://{}",
            rbuild.out().join("base.tar").display()
        );
        let dest = format!("type=oci,tar=false,dest=layout,{output}");
        rbuild
            .build(&on_top)
            .args(["--build-context", &base, "-o", &dest])
            .ok();
        let layout = rbuild.out().join("layout");
        Image::read(&layout);
        let manifest = manifest_of(&layout);
        std::fs::remove_dir_all(&layout).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| {
                let name = layer["mediaType"].as_str().unwrap();
                name.rsplit_once('+')
                    .map_or("plain", |(_, kind)| kind)
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(kinds("compression=gzip"), ["zstd", "zstd", "gzip"]);
    assert_eq!(
        kinds("compression=gzip,force-compression=true"),
        ["gzip", "gzip", "gzip"]
    );
    assert_eq!(
        kinds("compression=uncompressed,force-compression=true"),
        ["plain", "plain", "plain"]
    );
    assert_eq!(kinds("compression=gzip"), ["zstd", "zstd", "gzip"]);
}

#[test]
fn annotations_stand_in_manifest_and_descriptor() {
    let rbuild = Rbuild::new(&User::Caller);
    let metadata = rbuild.out().join("metadata.json");
    rbuild
        .build(&small())
        .args(["--annotation", "org.example.Flag=1"])
        .args(["--annotation", "manifest,manifest-descriptor:both=2"])
        .args(["-o", "type=oci,tar=false,dest=layout,annotation.own=x=y"])
        .args(["--metadata-file", metadata.to_str().unwrap()])
        .ok();
    let layout = rbuild.out().join("layout");
    assert_eq!(
        manifest_of(&layout)["annotations"],
        json!({"both": "2", "org.example.Flag": "1", "own": "x=y"})
    );
    let entry = json_file(&layout.join("index.json"))["manifests"][0].clone();
    assert_eq!(entry["annotations"]["both"], "2");
    assert_eq!(
        json_file(&metadata)["containerimage.descriptor"]["annotations"]["both"],
        "2"
    );
    rbuild
        .build(&small())
        .args(["--annotation", "index:a=b"])
        .fails()
        .says(&["an image for one platform has not"]);
}

#[test]
fn the_metadata_file_says_what_was_made() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let image = rbuild.build(&small()).image();
        let metadata = rbuild.out().join("metadata.json");
        let metadata_of = |args: &[&str]| {
            rbuild
                .build(&small())
                .args(["--metadata-file", metadata.to_str().unwrap()])
                .args(args)
                .ok();
            json_file(&metadata)
        };
        // The store needs no manifest, but who asks for its digest gets it.
        let of_store = metadata_of(&["-t", "app", "-t", "example.org/app:2"]);
        assert_eq!(of_store["containerimage.config.digest"], image.id.as_str());
        assert_eq!(of_store["containerimage.digest"], image.digest.as_str());
        assert_eq!(
            of_store["image.name"],
            "docker.io/library/app:latest,example.org/app:2"
        );
        let descriptor = &of_store["containerimage.descriptor"];
        assert_eq!(descriptor["digest"], image.digest.as_str());
        assert_eq!(
            descriptor["mediaType"],
            image.index["manifests"][0]["mediaType"]
        );
        assert_eq!(descriptor["size"], image.index["manifests"][0]["size"]);
        assert_eq!(descriptor["platform"]["os"], "linux");
        assert!(descriptor["annotations"]["org.opencontainers.image.created"].is_string());
        let of_files = metadata_of(&["-o", "out"]);
        assert_eq!(of_files.get("containerimage.digest"), None);
        assert_eq!(of_files.get("image.name"), None);
    });
}

fn manifest_in(registry: &Registry, repository: &str, reference: &str) -> Value {
    let url = format!(
        "http://{}/v2/{repository}/manifests/{reference}",
        registry.address()
    );
    let mut command = std::process::Command::new("curl");
    command.args(["-fsS", "--noproxy", "*"]);
    for kind in [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ] {
        command.args(["-H", &format!("Accept: {kind}")]);
    }
    command.arg(url);
    let finished: Finished = run_with_timeout(command, None);
    serde_json::from_str(&finished.ok().text()).unwrap()
}

#[test]
fn an_image_goes_to_registries_as_it_was_made() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("curl")]) {
        return;
    }
    each_user(|user| {
        let registry = Registry::start();
        let rbuild = Rbuild::new(user);
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let names = format!(
            "{},{}",
            registry.name("team/app:1"),
            registry.name("team/app:2")
        );
        let output = format!("type=image,\"name={names}\",push=true,oci-mediatypes=false");
        rbuild.build(&small()).args(["-o", &output]).ok();
        for tag in ["1", "2"] {
            let manifest = manifest_in(&registry, "team/app", tag);
            assert_eq!(manifest["mediaType"], docker);
            assert_eq!(
                manifest["config"]["mediaType"],
                "application/vnd.docker.container.image.v1+json"
            );
        }
        // A later push writes the manifest that the build wrote.
        let copy = registry.name("copy/app:1");
        rbuild
            .run(["tag", &registry.name("team/app:1"), &copy])
            .ok();
        rbuild.run(["push", &copy]).ok();
        assert_eq!(
            manifest_in(&registry, "copy/app", "1"),
            manifest_in(&registry, "team/app", "1")
        );

        let metadata = rbuild.out().join("metadata.json");
        let output = format!(
            "type=registry,name={},push-by-digest=true",
            registry.name("by/digest")
        );
        let log = rbuild
            .build(&small())
            .args(["-o", &output, "--annotation", "a=b"])
            .args(["--metadata-file", metadata.to_str().unwrap()])
            .ok();
        let digest = json_file(&metadata)["containerimage.digest"]
            .as_str()
            .unwrap()
            .to_owned();
        log.says(&[&format!("pushed {}@{digest}", registry.name("by/digest"))]);
        let manifest = manifest_in(&registry, "by/digest", &digest);
        assert_eq!(manifest["annotations"], json!({"a": "b"}));
        let tags = format!("http://{}/v2/by/digest/tags/list", registry.address());
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--noproxy", "*", &tags]);
        let listed = run_with_timeout(command, None).ok().text();
        assert!(!listed.contains("latest"), "{listed}");
    });
}

#[test]
fn what_an_output_can_not_do_is_said_at_once() {
    let rbuild = Rbuild::new(&User::Caller);
    for (output, said) in [
        ("type=image,dest=x", "does not support `dest=x`"),
        ("type=image,unpack=true", "does not support `unpack=true`"),
        ("type=local", "needs a folder"),
        ("type=cacheonly", "there is no type `cacheonly`"),
        ("type=oci,compression=estargz", "compression=estargz"),
        ("type=registry", "needs a name"),
    ] {
        let log = rbuild
            .build(&small())
            .args(["-o", output])
            .fails()
            .says(&[said]);
        assert_eq!(log.status.code(), Some(2), "{output}");
        assert!(!log.stderr.contains("COPY"), "{output}");
    }
    let log = rbuild
        .build(&small())
        .args(["-o", "type=oci,dest=no/such/folder/a.tar"])
        .fails();
    log.says(&["no/such/folder"]);
}
