//! Where a FROM line's image can come from.

use std::process::Command;

use crate::support::{
    Need, Project, Rbuild, Registry, User, architecture, assert_lines, base_image_mirror,
    each_user, needs, run_with_timeout,
};

/// Builds `FROM NAME` and adds a file.
fn on(name: &str) -> Project {
    Project::with(&format!("FROM {name}\nCOPY added /added\n")).file("added", "added")
}

fn base(rbuild: &Rbuild, tag: &str) -> crate::support::Image {
    let project = Project::with(
        r#"
        FROM scratch
        COPY etc/ /etc/
        ENV KEPT=yes
        LABEL kept=yes
        HEALTHCHECK --interval=5s CMD ["/check"]
        ONBUILD LABEL triggered=yes
        SHELL ["/bin/own", "-c"]
        "#,
    )
    .file("etc/base", "base");
    rbuild.build(&project).tag(tag).ok();
    rbuild.build(&project).tag(tag).image()
}

fn check(image: &crate::support::Image, base: &crate::support::Image) {
    assert_lines(
        &image.tree().all(),
        r#"
        f 0644 0:0 added "added"
        d 0755 0:0 etc
        f 0644 0:0 etc/base "base"
        "#,
    );
    assert_eq!(image.layers[0].diff_id, base.layers[0].diff_id);
    assert_eq!(
        image.setting("Labels"),
        &serde_json::json!({"kept": "yes", "triggered": "yes"})
    );
    assert_eq!(image.setting("Healthcheck"), base.setting("Healthcheck"));
    assert_eq!(
        image.setting("Shell"),
        &serde_json::json!(["/bin/own", "-c"])
    );
}

#[test]
fn the_local_store_goes_first() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let base = base(&rbuild, "my/base:v1");
        check(&rbuild.build(&on("my/base:v1")).image(), &base);
        check(&rbuild.build(&on("docker.io/my/base:v1")).image(), &base);
    });
}

#[test]
fn an_oci_layout_folder_or_archive() {
    each_user(|user| {
        let maker = Rbuild::new(user);
        let base = base(&maker, "base");
        let rbuild = Rbuild::new(user);
        let context = on("base");
        for (output, name) in [("type=oci,tar=false", "layout"), ("type=oci", "layout.tar")] {
            let place = maker.out().join(name);
            maker
                .build(&Project::with("FROM base\n"))
                .args(["-o", &format!("{output},dest={}", place.display())])
                .ok();
            let image = rbuild
                .build(&context)
                .args([
                    "--build-context",
                    &format!("base=oci-layout://{}", place.display()),
                ])
                .image();
            // ONBUILD has fired already when `FROM base` was built.
            assert_eq!(image.layers[0].diff_id, base.layers[0].diff_id);
            assert_eq!(image.tree().text("added"), "added");
        }
    });
}

#[test]
fn a_docker_archive() {
    if !needs(&[Need::Program("skopeo")]) {
        return;
    }
    each_user(|user| {
        let maker = Rbuild::new(user);
        let base = base(&maker, "base");
        let layout = maker.out().join("layout");
        maker
            .build(&Project::with("FROM base\n"))
            .args([
                "-o",
                &format!("type=oci,tar=false,dest={}", layout.display()),
            ])
            .ok();
        let archive = maker.out().join("docker.tar");
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", &format!("oci:{}", layout.display())])
            .arg(format!("docker-archive:{}:base:latest", archive.display()));
        run_with_timeout(copy, None).ok();
        let image = Rbuild::new(user)
            .build(&on("base"))
            .args([
                "--build-context",
                &format!("base=docker-archive://{}", archive.display()),
            ])
            .image();
        assert_eq!(image.layers[0].diff_id, base.layers[0].diff_id);
        assert_eq!(image.tree().text("added"), "added");
    });
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    // busybox is an index whose first image is of another platform.
    let project = Project::with("FROM busybox\n");
    let image = Rbuild::new(&User::Caller).build(&project).image();
    assert_eq!(image.config["architecture"], architecture());
    let tree = image.tree();
    assert!(tree.has("bin/busybox") && !tree.has("wrong-platform"));
    let other = if architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let project = Project::with(&format!("FROM --platform=linux/{other} busybox\n"));
    let image = Rbuild::new(&User::Caller).build(&project).image();
    assert!(image.tree().has("wrong-platform"));
    let project = Project::with("FROM --platform=linux/s390x busybox\n");
    Rbuild::new(&User::Caller)
        .build(&project)
        .fails()
        .says(&["s390x", "busybox", "Dockerfile:1"]);
}

#[test]
fn names_are_what_docker_makes_of_them() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let expected = rbuild.build(&on("busybox")).image();
    for name in [
        "busybox:latest",
        "library/busybox",
        "docker.io/busybox",
        "docker.io/library/busybox:latest",
        "index.docker.io/library/busybox",
    ] {
        let image = rbuild.build(&on(name)).image();
        assert_eq!(image.layers[0].blob, expected.layers[0].blob, "{name}");
    }
}

#[test]
fn a_digest_pins_an_image() {
    if !needs(&[Need::BaseImages, Need::Program("skopeo")]) {
        return;
    }
    let mirror = base_image_mirror().unwrap().trim_start_matches("http://");
    let mut inspect = Command::new("skopeo");
    inspect
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{mirror}/library/busybox"));
    let raw = run_with_timeout(inspect, None).ok().stdout;
    let digest = {
        use sha2::Digest;
        sha2::Sha256::digest(&raw)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&on(&format!("busybox@sha256:{digest}"))).ok();
    rbuild
        .build(&on(&format!("busybox:ignored@sha256:{digest}")))
        .ok();
    let wrong = "0".repeat(64);
    rbuild
        .build(&on(&format!("busybox@sha256:{wrong}")))
        .fails()
        .says(&["Dockerfile:1"]);
}

#[test]
fn a_local_image_wins_over_the_registry_unless_pulled() {
    if !needs(&[Need::Program("docker-registry")]) {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("base:latest");
    let version = |text: &str| Project::with("FROM scratch\nCOPY v /v\n").file("v", text);
    let rbuild = Rbuild::new(&User::Caller);
    rbuild
        .build(&version("registry"))
        .tag(&name)
        .args(["--push"])
        .ok();
    let other = Rbuild::new(&User::Caller);
    other.build(&version("local")).tag(&name).ok();
    let project = on(&name);
    assert_eq!(other.build(&project).image().tree().text("v"), "local");
    let pulled = other.build(&project).args(["--pull"]).image();
    assert_eq!(pulled.tree().text("v"), "registry");
}

#[test]
fn a_tag_that_moved_is_seen() {
    if !needs(&[Need::Program("docker-registry")]) {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("moving");
    let version = |text: &str| Project::with("FROM scratch\nCOPY v /v\n").file("v", text);
    let publisher = Rbuild::new(&User::Caller);
    let reader = Rbuild::new(&User::Caller);
    for text in ["one", "two"] {
        publisher
            .build(&version(text))
            .tag(&name)
            .args(["--push"])
            .ok();
        assert_eq!(reader.build(&on(&name)).image().tree().text("v"), text);
    }
}

#[test]
fn damaged_layers_are_refused() {
    if !needs(&[Need::Program("docker-registry")]) {
        return;
    }
    let maker = Rbuild::new(&User::Caller);
    base(&maker, "base");
    let layout = maker.out().join("layout");
    maker
        .build(&Project::with("FROM base\n"))
        .args([
            "-o",
            &format!("type=oci,tar=false,dest={}", layout.display()),
        ])
        .ok();
    let image = crate::support::Image::read(&layout);
    let layer = image.layers[0].blob.replace("sha256:", "blobs/sha256/");
    let path = layout.join(layer);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    Rbuild::new(&User::Caller)
        .build(&on("x"))
        .args([
            "--build-context",
            &format!("x=oci-layout://{}", layout.display()),
        ])
        .fails()
        .says(&["digest"]);
}

/// An image whose manifest calls a blob of its own what its config calls the layer of another
/// image: neither that image's builds nor its pushes may come to use that blob.
#[test]
fn what_one_manifest_claims_of_a_layer_is_nothing_to_other_images() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("curl")]) {
        return;
    }
    let registry = Registry::start();
    let of = |content: &str| Project::with("FROM scratch\nCOPY file /file\n").file("file", content);
    let maker = Rbuild::new(&User::Caller);
    for content in ["good", "evil"] {
        let name = registry.name(&format!("team/app:{content}"));
        maker.build(&of(content)).tag(&name).args(["--push"]).ok();
    }
    let mut tampered = registry.manifest("team/app", "good");
    tampered["layers"] = registry.manifest("team/app", "evil")["layers"].clone();
    registry.put_manifest("team/app", "tampered", &tampered);

    let rbuild = Rbuild::new(&User::Caller);
    let [good, tampered] =
        ["good", "tampered"].map(|tag| registry.name(&format!("team/app:{tag}")));
    let read =
        |name: &str| Project::with(&format!("FROM scratch\nCOPY --from={name} /file /read\n"));
    let unread = |name: &str| Project::with(&format!("FROM {name}\nENV A=1\n"));
    rbuild.build(&unread(&tampered)).ok();
    rbuild.run(["pull", &tampered]).ok();
    let image = rbuild.build(&read(&good)).image();
    assert_eq!(image.tree().text("read"), "good");

    let other = Rbuild::new(&User::Caller);
    other.run(["pull", &tampered]).ok();
    other
        .build(&unread(&good))
        .tag(registry.name("copy/app:1"))
        .ok();
    other.run(["push", &registry.name("copy/app:1")]).ok();
    assert_eq!(
        registry.manifest("copy/app", "1")["layers"][0]["digest"],
        registry.manifest("team/app", "good")["layers"][0]["digest"],
    );

    let third = Rbuild::new(&User::Caller);
    third
        .build(&read(&tampered))
        .fails()
        .says(&["does not hold the layer"]);
}

/// Images that name the layer of another image, or its very blob, and can't be had any more: they
/// don't stand between that image and where it can be had.
#[test]
fn registries_that_are_gone_are_nothing_to_other_images() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("curl")]) {
        return;
    }
    let registry = Registry::start();
    let of = |content: &str| Project::with("FROM scratch\nCOPY file /file\n").file("file", content);
    let unread = |name: &str| Project::with(&format!("FROM {name}\nENV A=1\n"));
    let maker = Rbuild::new(&User::Caller);
    let good = registry.name("team/app:good");
    maker.build(&of("good")).tag(&good).args(["--push"]).ok();

    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&unread(&good)).tag("app").ok();
    {
        let gone = Registry::start();
        let [copied, lying] = ["team/app:copied", "team/app:lying"].map(|name| gone.name(name));
        maker.build(&of("good")).tag(&copied).args(["--push"]).ok();
        maker.build(&of("evil")).tag(&lying).args(["--push"]).ok();
        let mut lie = gone.manifest("team/app", "copied");
        lie["layers"] = gone.manifest("team/app", "lying")["layers"].clone();
        // The first of several to be tried.
        lie["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
        gone.put_manifest("team/app", "lying", &lie);
        for name in [copied, lying] {
            rbuild.build(&unread(&name)).ok();
        }
    }
    let copy = registry.name("copy/app:1");
    rbuild.run(["tag", "app", &copy]).ok();
    rbuild.run(["push", &copy]).ok();
    assert_eq!(
        registry.manifest("copy/app", "1")["layers"][0]["digest"],
        registry.manifest("team/app", "good")["layers"][0]["digest"],
    );
}
