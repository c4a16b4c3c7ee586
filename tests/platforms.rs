//! One build for several platforms: an index of as many images, kept under one name and sent
//! wherever images go.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{
    Finished, Need, Project, Rbuild, Registry, User, architecture, each_user, emulators, needs,
    run_with_timeout,
};

const BOTH: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

/// Something that differs by platform, on something that doesn't.
fn project() -> Project {
    Project::with(
        r#"
        FROM --platform=$BUILDPLATFORM scratch AS shared
        COPY common /common

        FROM scratch
        ARG TARGETARCH
        COPY --from=shared /common /common
        COPY for-$TARGETARCH /which
        ENV ARCH=$TARGETARCH
        CMD ["/which"]
        "#,
    )
    .file("common", "the same")
    .file("for-amd64", "an x86")
    .file("for-arm64", "an arm")
    .file("for-arm", "an older arm")
}

fn program(name: &str, args: &[&str]) -> Finished {
    let mut command = Command::new(name);
    command.args(args);
    run_with_timeout(command, None)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The files of a tar archive, by name.
fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        files.insert(name, content);
    }
    files
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, digest: &Value) -> &'a [u8] {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    &files[&format!("blobs/sha256/{hex}")]
}

/// `linux/arm/v7` of a descriptor or config.
fn platform(value: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|name| value[name].as_str());
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    parts.join("/")
}

#[test]
fn an_archive_holds_an_index_with_an_image_for_each_platform() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        // each once, by whatever name; in the order that was asked for
        rbuild
            .build(&project())
            .args(["--platform", "linux/arm64/v8,linux/x86_64"])
            .args(["--platform", "linux/arm64,linux/arm"])
            .args(["-t", "app:1", "-o", "type=oci,dest=a.tar"])
            .args(["--annotation", "index:of=all"])
            .args(["--annotation", "manifest[linux/arm64]:of=one"])
            .args(["--metadata-file", "meta.json", "--iidfile", "id"])
            .ok();
        let files = members(&rbuild.out().join("a.tar"));
        let top = json(&files["index.json"]);
        let tops = top["manifests"].as_array().unwrap();
        assert_eq!(tops.len(), 1);
        assert_eq!(
            tops[0]["mediaType"],
            "application/vnd.oci.image.index.v1+json"
        );
        assert_eq!(
            tops[0]["annotations"]["io.containerd.image.name"],
            "docker.io/library/app:1"
        );
        let index = json(blob(&files, &tops[0]["digest"]));
        assert_eq!(index["annotations"]["of"], "all");
        let manifests = index["manifests"].as_array().unwrap();
        let platforms: Vec<String> = manifests
            .iter()
            .map(|manifest| platform(&manifest["platform"]))
            .collect();
        assert_eq!(platforms, ["linux/arm64", "linux/amd64", "linux/arm/v7"]);
        let mut lowest = Vec::new();
        for (manifest, platform_name) in manifests.iter().zip(&platforms) {
            let manifest = json(blob(&files, &manifest["digest"]));
            let note = &manifest["annotations"]["of"];
            assert_eq!(
                note.as_str(),
                (platform_name == "linux/arm64").then_some("one")
            );
            let config = json(blob(&files, &manifest["config"]["digest"]));
            assert_eq!(platform(&config), *platform_name);
            let variables = config["config"]["Env"].as_array().unwrap();
            let arch = platform_name.split('/').nth(1).unwrap();
            assert!(variables.iter().any(|one| one == &format!("ARCH={arch}")));
            lowest.push(manifest["layers"][0]["digest"].clone());
        }
        assert_eq!(lowest[0], lowest[1], "what is common is there once");
        // What scripts get, as from buildx: no config's digest, but the index's.
        let meta = json(&std::fs::read(rbuild.out().join("meta.json")).unwrap());
        assert_eq!(meta["containerimage.digest"], tops[0]["digest"]);
        assert_eq!(meta["image.name"], "docker.io/library/app:1");
        assert_eq!(meta["containerimage.config.digest"], Value::Null);
        let id = std::fs::read_to_string(rbuild.out().join("id")).unwrap();
        assert_eq!(tops[0]["digest"], id.as_str());
        // Readers of other projects find each.
        if needs(&[Need::Program("skopeo")]) {
            for arch in ["amd64", "arm64"] {
                let archive = format!("oci-archive:{}/a.tar", rbuild.out().display());
                let shown = program("skopeo", &["inspect", "--override-arch", arch, &archive]);
                assert_eq!(json(&shown.ok().stdout)["Architecture"], arch);
            }
        }
    });
}

#[test]
fn steps_say_their_platform_and_shared_ones_run_once() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let built = rbuild.build(&project()).args(BOTH).ok();
        let mut steps: Vec<String> = built.steps().into_iter().map(|(name, _)| name).collect();
        steps.retain(|step| step.contains(" COPY "));
        steps.sort();
        assert_eq!(
            steps,
            [
                "[linux/amd64 shared 1/1] COPY common /common",
                "[linux/amd64 stage-1 1/2] COPY --from=shared /common /common",
                "[linux/amd64 stage-1 2/2] COPY for-amd64 /which",
                "[linux/arm64 stage-1 2/2] COPY for-arm64 /which",
            ]
        );
        let again = rbuild.build(&project()).args(BOTH).ok();
        assert_eq!(again.ran(), [""; 0]);
        // A build for one of them finds its steps, too, and shows no platform.
        let one = rbuild
            .build(&project())
            .args(["--platform", "linux/arm64"])
            .ok();
        assert_eq!(one.ran(), [""; 0]);
        assert!(
            one.stderr.contains("[stage-1 2/2] COPY for-arm64"),
            "{one:?}"
        );
    });
}

#[test]
fn one_name_stands_for_all_of_them() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&project()).args(BOTH).tag("app").ok();
        let arch_of = |words: &[&str]| {
            let words = [&["inspect", "-f", "{{.Architecture}}"], words].concat();
            rbuild.run(words).ok().text()
        };
        let (own, other) = match architecture() {
            "arm64" => ("arm64", "amd64"),
            own => (own, "arm64"),
        };
        if own == "amd64" || own == "arm64" {
            assert_eq!(arch_of(&["app"]), own);
        }
        let flag = format!("--platform=linux/{other}");
        assert_eq!(arch_of(&[&flag, "app"]), other);
        let history = rbuild
            .run(["history", &flag, "--no-trunc", "app"])
            .ok()
            .text();
        assert!(history.contains(&format!("ENV ARCH={other}")), "{history}");
        rbuild
            .run(["inspect", "--platform=linux/s390x", "app"])
            .fails()
            .says(&["the image `app` is for linux/", "not for linux/s390x"]);
        // None of them is without a name.
        let nameless = rbuild.run(["images", "-q", "--filter", "dangling=true"]);
        assert_eq!(nameless.ok().text(), "");
        rbuild.run(["prune", "-f"]).ok();
        // Another name is one for all, too, and a FROM takes what fits.
        rbuild.run(["tag", "app", "again:1"]).ok();
        let upper = Project::with("FROM again:1\nLABEL a=b\n");
        for arch in ["amd64", "arm64"] {
            let flag = format!("linux/{arch}");
            rbuild
                .build(&upper)
                .args(["--platform", &flag, "-t", "upper"])
                .ok();
            assert_eq!(arch_of(&["upper"]), arch);
        }
        rbuild.run(["rmi", "app"]).ok();
        assert_eq!(arch_of(&["again:1", &flag]), other);
        let removed = rbuild.run(["rmi", "again:1"]).ok().text();
        assert_eq!(removed.matches("Deleted: ").count(), 2, "{removed}");
        // A name that one image takes is that image's alone.
        rbuild.build(&project()).args(BOTH).tag("app").ok();
        rbuild
            .build(&project())
            .args(["--platform", "linux/arm64", "-t", "app"])
            .ok();
        assert_eq!(arch_of(&["app"]), "arm64");
    });
}

#[test]
fn an_image_that_is_here_for_another_platform_is_said_to_be() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let lower = Project::with("FROM scratch\nCOPY a /a\n").file("a", "a");
        rbuild
            .build(&lower)
            .args(["--platform", "linux/s390x"])
            .tag("127.0.0.1:9/lower:1")
            .ok();
        let failed = rbuild
            .build(&Project::with("FROM 127.0.0.1:9/lower:1\n"))
            .args(["--platform", "linux/ppc64le"])
            .run()
            .fails();
        failed.says(&[
            "error: the image `127.0.0.1:9/lower:1` is here for linux/s390x, and linux/ppc64le is wanted",
            "Dockerfile:1",
        ]);
    });
}

#[test]
fn a_registry_gets_the_index_and_every_image() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let registry = Registry::start();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let name = registry.name("pushed:1");
        rbuild
            .build(&project())
            .args(BOTH)
            .args(["--push", "-t", &name, "--iidfile", "id"])
            .ok();
        let index = registry.manifest("pushed", "1");
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2);
        for manifest in manifests {
            let digest = manifest["digest"].as_str().unwrap();
            let manifest = registry.manifest("pushed", digest);
            assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        }
        // A later push of the same name, under another one, sends the same index.
        let other = registry.name("pushed:2");
        rbuild.run(["tag", &name, &other]).ok();
        let told = rbuild.run(["push", &other]).ok().text();
        let id = std::fs::read_to_string(rbuild.out().join("id")).unwrap();
        assert!(told.contains(&format!("2: digest: {id} ")), "{told}");
        assert_eq!(registry.manifest("pushed", "2"), index);
        for arch in ["amd64", "arm64"] {
            let words = ["inspect", "--tls-verify=false", "--override-arch", arch];
            let place = format!("docker://{other}");
            let shown = program("skopeo", &[&words[..], &[&place]].concat()).ok();
            let shown = json(&shown.stdout);
            assert_eq!(shown["Architecture"], arch);
            assert_eq!(shown["Env"][1], format!("ARCH={arch}"));
        }
        // Without a tag only the digest leads there.
        let nameless = registry.name("nameless");
        let output = format!("type=image,name={nameless},push=true,push-by-digest=true");
        rbuild
            .build(&project())
            .args(BOTH)
            .args(["-o", &output, "--metadata-file", "meta.json"])
            .ok();
        let meta = json(&std::fs::read(rbuild.out().join("meta.json")).unwrap());
        let digest = meta["containerimage.digest"].as_str().unwrap();
        let found = registry.manifest("nameless", digest);
        assert_eq!(found["manifests"].as_array().unwrap().len(), 2);
    });
}

#[test]
fn a_saved_name_takes_all_its_platforms_along() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&project()).args(BOTH).tag("app").ok();
        let saved = |words: &[&str]| {
            rbuild
                .run([&["save", "-o", "saved.tar"], words].concat())
                .ok();
            members(&rbuild.out().join("saved.tar"))
        };
        for format in ["--format=oci", "--format=docker"] {
            let files = saved(&[format, "app"]);
            let top = json(&files["index.json"]);
            let tops = top["manifests"].as_array().unwrap();
            assert_eq!(tops.len(), 1, "{format}");
            let index = json(blob(&files, &tops[0]["digest"]));
            assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
            // Whoever knows no index finds this machine's.
            if format == "--format=docker" && matches!(architecture(), "amd64" | "arm64") {
                let list = json(&files["manifest.json"]);
                let config = list[0]["Config"].as_str().unwrap();
                assert_eq!(json(&files[config])["architecture"], architecture());
                assert_eq!(list[0]["RepoTags"][0], "app:latest");
            }
        }
        let files = saved(&["--platform", "linux/arm64", "app"]);
        let top = json(&files["index.json"]);
        let manifest = json(blob(&files, &top["manifests"][0]["digest"]));
        let config = json(blob(&files, &manifest["config"]["digest"]));
        assert_eq!(config["architecture"], "arm64");
    });
}

#[test]
fn plain_files_get_a_folder_for_each_platform() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let platforms = ["--platform", "linux/amd64,linux/arm/v7"];
        rbuild
            .build(&project())
            .args(platforms)
            .args(["-o", "files", "-o", "type=tar,dest=files.tar"])
            .args(["-o", "type=oci,tar=false,dest=layout"])
            .ok();
        let read = |path: &str| std::fs::read_to_string(rbuild.out().join(path)).unwrap();
        assert_eq!(read("files/linux_amd64/which"), "an x86");
        assert_eq!(read("files/linux_arm_v7/which"), "an older arm");
        let files = members(&rbuild.out().join("files.tar"));
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "linux_amd64/",
                "linux_amd64/common",
                "linux_amd64/which",
                "linux_arm_v7/",
                "linux_arm_v7/common",
                "linux_arm_v7/which"
            ]
        );
        let top = json(read("layout/index.json").as_bytes());
        let digest = top["manifests"][0]["digest"].as_str().unwrap();
        let hex = digest.strip_prefix("sha256:").unwrap();
        let index = json(read(&format!("layout/blobs/sha256/{hex}")).as_bytes());
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        // One platform needs no folder, unless it is asked for.
        rbuild
            .build(&project())
            .args(["--platform", "linux/arm64"])
            .args([
                "-o",
                "plain",
                "-o",
                "type=local,dest=split,platform-split=true",
            ])
            .ok();
        assert_eq!(read("plain/which"), "an arm");
        assert_eq!(read("split/linux_arm64/which"), "an arm");
    });
}

#[test]
fn docker_s_own_archives_take_one_platform() {
    let rbuild = Rbuild::new(&User::Caller);
    for words in [
        &["-o", "type=docker,dest=a.tar"][..],
        &["--load"],
        &["-o", "type=docker"],
    ] {
        let failed = rbuild
            .build(&project())
            .args(BOTH)
            .args(words)
            .run()
            .fails();
        failed.says(&[
            "error: docker exporter does not currently support exporting manifest lists",
            "type=oci",
        ]);
    }
}

#[test]
fn an_error_on_one_platform_says_which() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM scratch\nARG TARGETARCH\nCOPY only-$TARGETARCH /\n");
    let project = project.file("only-amd64", "");
    let failed = rbuild.build(&project).args(BOTH).run().fails();
    failed.says(&[
        "[linux/arm64 1/1] COPY only-arm64 /",
        "`/only-arm64`",
        "Dockerfile:3",
    ]);
}

#[test]
fn steps_run_on_every_platform() {
    let wanted = [Need::Sandbox, Need::Emulators, Need::BaseImages];
    if !needs(&wanted) || architecture() != "amd64" {
        return;
    }
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let programs = rbuild.home().join("programs");
        std::fs::create_dir(&programs).unwrap();
        let emulator = "qemu-aarch64-static";
        std::fs::copy(
            emulators().join("bin").join(emulator),
            programs.join(emulator),
        )
        .unwrap();
        let path = format!("{}:/usr/bin:/bin", programs.display());
        let rbuild = rbuild.env("PATH", path);
        let mut project = Project::with(
            r#"
            FROM --platform=$BUILDPLATFORM busybox AS once
            RUN head -c 16 /dev/urandom | od -x > /once

            FROM scratch
            ARG TARGETARCH
            COPY --chmod=755 $TARGETARCH /bin/busybox
            COPY --from=once /once /once
            RUN ["/bin/busybox", "sh", "-c", "busybox uname -m > /machine"]
            "#,
        );
        for name in ["386", "arm64"] {
            let busybox = std::fs::read(emulators().join(format!("busybox-{name}"))).unwrap();
            project = project.file(name, busybox);
        }
        rbuild
            .build(&project)
            .args(["--platform", "linux/386,linux/arm64", "-o", "files"])
            .ok();
        let read = |path: &str| std::fs::read_to_string(rbuild.out().join("files").join(path));
        assert_eq!(read("linux_386/machine").unwrap(), "x86_64\n");
        assert_eq!(read("linux_arm64/machine").unwrap(), "aarch64\n");
        // A stage for the machine that builds has run once for both.
        assert_eq!(
            read("linux_386/once").unwrap(),
            read("linux_arm64/once").unwrap()
        );
    });
}
