//! `--load`: images handed to the container engines of the machine.

use std::path::Path;

use crate::save_load::{id_of, pair};
use crate::support::{
    Containerd, Docker, Need, Podman, Rbuild, User, each_user, needs, write_program,
};

#[test]
fn load_hands_the_image_to_docker() {
    let Some(docker) = Docker::start() else {
        return;
    };
    // In a user namespace, too: the client runs outside of it.
    for isolation in ["auto", "userns"] {
        let rbuild = Rbuild::new(&User::Caller)
            .env("DOCKER_HOST", docker.host())
            .env("RBUILD_ISOLATION", isolation);
        let name = format!("app:{isolation}");
        rbuild
            .build(&pair())
            .tag(&name)
            .args(["--load"])
            .ok()
            .says(&["loading into Docker", "loaded into Docker"]);
        assert_eq!(docker.id(&name), id_of(&rbuild, &name));
        // Once more changes nothing; so does asking for it in two ways.
        rbuild
            .build(&pair())
            .tag(&name)
            .args(["--load", "-o", "type=docker"])
            .ok();
        assert_eq!(docker.id(&name), id_of(&rbuild, &name));
        rbuild
            .build(&pair().file("b", "changed"))
            .tag(&name)
            .args(["-o", "type=docker,name=other:2"])
            .ok();
        assert_ne!(docker.id(&name), id_of(&rbuild, &name));
        assert_eq!(docker.id(&name), docker.id("other:2"));
    }
}

#[test]
fn load_hands_the_image_to_podman_and_containerd() {
    let Some(podman) = Podman::new() else {
        return;
    };
    let path = format!(
        "{}:{}",
        podman.bin().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let rbuild = Rbuild::new(&User::Caller).env("PATH", path);
    rbuild
        .build(&pair())
        .tag("app:1")
        .args(["--load=podman"])
        .ok()
        .says(&["loaded into Podman"]);
    assert_eq!(podman.id("app:1"), id_of(&rbuild, "app:1"));
    if !needs(&[Need::Program("containerd"), Need::Program("ctr")]) {
        return;
    }
    let containerd = Containerd::start();
    let rbuild = Rbuild::new(&User::Caller).env("CONTAINERD_ADDRESS", containerd.address());
    rbuild
        .build(&pair())
        .tag("app:1")
        .env("RBUILD_LOAD", "containerd")
        .args(["--load"])
        .ok()
        .says(&["loaded into containerd"]);
    let listed = containerd.ctr(&["images", "ls", "-q"]).ok().text();
    assert_eq!(listed, "docker.io/library/app:1");
    rbuild
        .build(&pair())
        .args(["--load=containerd"])
        .fails()
        .says(&["add `-t NAME`"]);
}

#[test]
fn without_an_engine_the_image_stays_in_the_store() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        // A search path with nothing on it but what a user namespace needs.
        let bin = rbuild.out().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["newuidmap", "newgidmap"] {
            for folder in ["/usr/bin", "/bin"] {
                let real = Path::new(folder).join(name);
                let link = bin.join(name);
                if real.exists() && !link.exists() {
                    std::os::unix::fs::symlink(real, link).unwrap();
                }
            }
        }
        let rbuild = rbuild.env("PATH", &bin);
        rbuild
            .build(&pair())
            .tag("app:1")
            .args(["--load"])
            .ok()
            .says(&["no Docker, Podman or containerd", "rbuild's own store only"]);
        id_of(&rbuild, "app:1");
        let log = rbuild.build(&pair()).args(["--load=docker"]).fails();
        log.says(&["Docker takes no image here", "`docker` is not installed"]);
        let log = rbuild.build(&pair()).args(["-o", "type=docker"]).fails();
        log.says(&["type=docker,dest=FILE"]);
        let quiet = rbuild
            .build(&pair())
            .args(["--load"])
            .env("RBUILD_LOAD", "store")
            .ok();
        assert!(!quiet.stderr.contains("note:"), "{}", quiet.stderr);
    });
}

#[test]
fn an_engine_that_refuses_an_image_is_heard() {
    let rbuild = Rbuild::new(&User::Caller);
    let bin = rbuild.out().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script =
        "#!/bin/sh\ncase $1 in\nversion) exit 0 ;;\nesac\necho 'no space left' >&2\nexit 1\n";
    write_program(&bin.join("docker"), script);
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let large = pair().file("b", "b".repeat(3_000_000));
    rbuild
        .build(&large)
        .tag("app:1")
        .env("PATH", path)
        .args(["--load"])
        .fails()
        .says(&["Docker did not take the image: no space left"]);
    id_of(&rbuild, "app:1");
}
