//! `--output`: the image as archives and in registries, and what is said of it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Image, Need, Project, Rbuild, Registry, Tree, User, each_user, needs, run_with_timeout,
};

/// An image of two files and a link.
pub(crate) fn small() -> Project {
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

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn manifest_of(layout: &Path) -> Value {
    let index = json_file(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    json_file(&layout.join("blobs/sha256").join(&digest["sha256:".len()..]))
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
            let manifest = registry.manifest("team/app", tag);
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
            registry.manifest("copy/app", "1"),
            registry.manifest("team/app", "1")
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
        let manifest = registry.manifest("by/digest", &digest);
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
        ("type=bundle", "there is no type `bundle`"),
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

#[test]
fn a_place_that_cannot_be_written_is_named_before_anything_is_built() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let project = small();
        std::fs::write(rbuild.out().join("file"), "kept").unwrap();
        std::fs::create_dir(rbuild.out().join("folder")).unwrap();
        for args in [
            ["-o", "type=oci,dest=missing/a.tar"],
            ["-o", "type=tar,dest=folder"],
            ["-o", "type=local,dest=file/out"],
            ["--iidfile", "missing/id"],
            ["--metadata-file", "folder"],
        ] {
            let failed = rbuild.build(&project).args(args).fails();
            assert!(failed.stderr.contains("can't write `"), "{}", failed.stderr);
            // A name that nobody but rbuild knows is no help.
            assert!(!failed.stderr.contains("/.rbuild-"), "{}", failed.stderr);
            assert!(failed.steps().is_empty(), "{}", failed.stderr);
        }
        let kept = std::fs::read_to_string(rbuild.out().join("file")).unwrap();
        assert_eq!(kept, "kept");
        let left = std::fs::read_dir(rbuild.out()).unwrap().count();
        assert_eq!(left, 2, "nothing else is left in the folder");
    });
}

#[test]
fn a_build_for_the_cache_alone_leaves_no_image() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = small();
    let first = rbuild
        .build(&project)
        .tag("app")
        .args(["-o", "type=cacheonly"])
        .ok();
    assert_eq!(first.ran().len(), 2, "{}", first.stderr);
    assert_eq!(rbuild.run(["images", "-q"]).ok().text(), "");
    let second = rbuild.build(&project).tag("app").ok();
    assert_eq!(second.cached().len(), 2, "{}", second.stderr);
    assert_ne!(rbuild.run(["images", "-q"]).ok().text(), "");
}
