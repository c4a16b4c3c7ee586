//! RUN steps for other processors, with nothing registered on the machine: an emulator on PATH is
//! all that they need.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Finished, Need, Project, Rbuild, User, architecture, each_user, emulators, needs,
    run_with_timeout,
};

/// A folder for PATH with the emulators of these names.
pub(crate) fn path_with(rbuild: &Rbuild, names: &[&str]) -> PathBuf {
    let folder = rbuild.home().join("programs");
    std::fs::create_dir_all(&folder).unwrap();
    // What rbuild itself calls on its way into a user namespace.
    for program in ["newuidmap", "newgidmap", "getsubids", "id"] {
        if let Some(place) = ["/usr/bin", "/bin"]
            .map(|folder| Path::new(folder).join(program))
            .into_iter()
            .find(|place| place.exists())
        {
            std::os::unix::fs::symlink(place, folder.join(program)).unwrap();
        }
    }
    for name in names {
        std::fs::copy(emulators().join("bin").join(name), folder.join(name)).unwrap();
    }
    folder
}

/// A root file system of one static busybox for a processor, and its Dockerfile's further lines.
pub(crate) fn busybox(name: &str, lines: &str) -> Project {
    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
    let dockerfile = format!(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\n\
         RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n{}\n",
        lines.join("\n")
    );
    let content = std::fs::read(emulators().join(format!("busybox-{name}"))).unwrap();
    Project::new()
        .file("Dockerfile", dockerfile)
        .file("busybox", content)
}

fn each_rbuild(emulators: &[&str], case: impl Fn(&Rbuild, &User)) {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let path = path_with(&rbuild, emulators);
        case(&rbuild.env("PATH", path), user);
    });
}

/// An arm64 program that ends with its effective user's number: busybox gives up what a
/// set-user-ID bit gives it.
fn effective_user() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    for number in [0x40_0078_u64, 64, 0] {
        program.extend(number.to_le_bytes());
    }
    program.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0_u64, 0x40_0000, 0x40_0000, 136, 136, 0x1_0000] {
        program.extend(number.to_le_bytes());
    }
    // geteuid(), then exit() with what it gave
    for word in [0xd280_15e8_u32, 0xd400_0001, 0xd280_0ba8, 0xd400_0001] {
        program.extend(word.to_le_bytes());
    }
    program
}

/// What is registered with the machine.
fn registered() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_step_for_another_processor_runs_as_it_would_there() {
    if !needs(&[Need::Sandbox, Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    let before = registered();
    each_rbuild(&["qemu-aarch64-static"], |rbuild, _| {
        let project = busybox(
            "arm64",
            r#"
            COPY effective-user /effective-user
            RUN uname -m
            # scripts and pipes: each process is started anew
            RUN printf '#!/bin/sh\necho "$0 with $# words"\n' > /script && chmod +x /script \
             && /script a b | cat
            # a program's own name stays what its caller says
            RUN sh -c 'echo "I am $0"' somebody
            RUN mkdir -p /etc && echo user:x:1000:1000::/:/bin/sh > /etc/passwd && chown 1000:1000 /script \
             && chmod 4755 /effective-user
            USER 1000
            RUN id -u; /effective-user && echo "and becomes root"
            RUN (exit 3) || echo "code $?"
            "#
            .trim_start(),
        );
        let project = project.file("effective-user", effective_user());
        let built = rbuild
            .build(&project)
            .args(["--platform", "linux/arm64", "-o", "type=oci,dest=image.tar"])
            .ok();
        assert_eq!(
            built.output(),
            [
                "aarch64",
                "/script with 2 words",
                "I am somebody",
                "1000",
                "and becomes root",
                "code 3"
            ]
        );
        let image = crate::support::Image::read(&rbuild.out().join("image.tar"));
        assert_eq!(image.config["architecture"], "arm64");
        let layers: Vec<String> = image.layers.iter().map(|layer| layer.lines()).collect();
        let layers = layers.join("\n");
        assert!(layers.contains("4755"), "{layers}");
    });
    assert_eq!(registered(), before, "something is left on the machine");
}

#[test]
fn every_processor_that_images_are_made_for() {
    if !needs(&[Need::Sandbox, Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    let emulators = [
        "qemu-arm-static",
        "qemu-ppc64le-static",
        "qemu-s390x-static",
    ];
    each_rbuild(&emulators, |rbuild, _| {
        for (platform, name, machine) in [
            ("linux/arm/v7", "arm", "armv7l"),
            ("linux/ppc64le", "ppc64le", "ppc64le"),
            ("linux/s390x", "s390x", "s390x"),
            // this processor's own affair
            ("linux/386", "386", "x86_64"),
        ] {
            let project = busybox(name, "RUN uname -m");
            let built = rbuild.build(&project).args(["--platform", platform]).ok();
            assert_eq!(built.output(), [machine], "{platform}");
        }
    });
}

#[test]
fn a_container_may_be_for_another_processor() {
    if !needs(&[Need::Sandbox, Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    each_rbuild(&["qemu-aarch64-static"], |rbuild, _| {
        let project = busybox("arm64", "");
        let arm = ["--platform", "linux/arm64"];
        rbuild.build(&project).args(arm).tag("app").ok();
        let ran = rbuild.run(["run", "--rm", "app", "uname", "-m"]).ok();
        assert_eq!(ran.text(), "aarch64");
    });
}

fn says(finished: &Finished, words: &[&str]) {
    for word in words {
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
}

#[test]
fn without_an_emulator_the_error_names_the_platform_and_the_package() {
    if !needs(&[Need::Sandbox, Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    if registered().iter().any(|name| name.contains("qemu")) {
        return crate::support::skip("an emulator is registered with this machine");
    }
    each_rbuild(&[], |rbuild, _| {
        let project = busybox("arm64", "");
        let failed = rbuild
            .build(&project)
            .args(["--platform", "linux/arm64"])
            .run()
            .fails();
        says(
            &failed,
            &[
                "error: programs for linux/arm64 don't run on this machine: there is no \
                 `qemu-aarch64-static` on PATH; to fix it: install the package `qemu-user-static`, \
                 or put `qemu-aarch64-static` on PATH",
                "Dockerfile:3",
            ],
        );
        // one that needs libraries, which no step has
        let folder = rbuild.home().join("programs");
        let dynamic = folder.join("qemu-aarch64");
        std::fs::copy("/bin/cat", &dynamic).unwrap();
        let failed = rbuild
            .build(&project)
            .args(["--platform", "linux/arm64"])
            .run()
            .fails();
        says(
            &failed,
            &["qemu-aarch64` needs libraries of this machine, which no step has"],
        );
        // and one that is no emulator at all
        std::fs::remove_file(&dynamic).unwrap();
        let other = emulators().join("bin/qemu-arm-static");
        std::fs::copy(other, folder.join("qemu-aarch64-static")).unwrap();
        let failed = rbuild
            .build(&project)
            .args(["--platform", "linux/arm64"])
            .run()
            .fails();
        says(&failed, &["qemu-aarch64-static` doesn't run them either"]);
        let failed = rbuild
            .build(&project)
            .args(["--platform", "linux/sparc64"])
            .run()
            .fails();
        says(
            &failed,
            &[
                "programs for linux/sparc64 don't run on this machine",
                "no way to emulate",
            ],
        );
    });
}

#[test]
fn the_doctor_says_which_platforms_run() {
    if !needs(&[Need::Sandbox, Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    each_rbuild(&["qemu-aarch64-static"], |rbuild, _| {
        let json: Value =
            serde_json::from_slice(&rbuild.run(["doctor", "--json"]).ok().stdout).unwrap();
        let platforms = json["platforms"].as_array().unwrap();
        let platform =
            |name: &str| -> &Value { platforms.iter().find(|one| one["name"] == name).unwrap() };
        assert_eq!(platform("linux/amd64")["means"], "processor");
        let arm = platform("linux/arm64");
        assert_eq!(arm["works"], true);
        if registered().iter().all(|name| !name.contains("qemu")) {
            assert_eq!(arm["means"], "emulator");
            let place = rbuild.home().join("programs/qemu-aarch64-static");
            assert_eq!(arm["emulator"], place.to_str().unwrap());
            let missing = platform("linux/s390x");
            assert_eq!(missing["works"], false);
            assert_eq!(missing["reason"], "there is no `qemu-s390x-static` on PATH");
        }
        let text = rbuild.run(["doctor"]).ok().text();
        assert!(
            text.contains("Platforms of RUN steps\n  linux/amd64     works: "),
            "{text}"
        );
    });
}

/// A machine with an emulator registered, as one on which the package is installed: a user
/// namespace of every id, in which that was done before rbuild came.
fn on_a_machine_that_emulates(rbuild: &Rbuild, build: &std::process::Command) -> Finished {
    let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    let emulator = emulators().join("bin/qemu-aarch64-static");
    let (outside, inside) = (
        rbuild.out().join("outside.sh"),
        rbuild.out().join("inside.sh"),
    );
    let text = r#"
        unshare --user --mount -- sh -c 'until read -r ids < /proc/self/uid_map; do sleep 0.1; done; exec sh "$@"' sh "$@" &
        until [ "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.1; done
        echo 0 0 65536 > /proc/$!/gid_map
        echo 0 0 65536 > /proc/$!/uid_map
        wait $!
        "#;
    std::fs::write(&outside, text).unwrap();
    let text = format!(
        "set -e\n/bin/mount -t binfmt_misc none /proc/sys/fs/binfmt_misc\n\
         printf '%s' ':machine:M::{magic}:{mask}:{}:F' > /proc/sys/fs/binfmt_misc/register\n\
         PATH={}\nexec \"$@\"\n",
        emulator.display(),
        path_with(rbuild, &[]).display()
    );
    std::fs::write(&inside, text).unwrap();
    let mut command = std::process::Command::new("sh");
    command.args([outside, inside]);
    command.arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.current_dir(rbuild.out());
    run_with_timeout(command, None)
}

#[test]
fn what_the_machine_has_registered_is_used() {
    if !needs(&[Need::Sandbox, Need::Emulators, Need::Root]) || architecture() != "amd64" {
        return;
    }
    for isolation in ["root", "chroot"] {
        let rbuild = Rbuild::new(&User::Caller);
        let project = busybox("arm64", "RUN uname -m");
        let build =
            rbuild
                .build(&project)
                .args(["--platform", "linux/arm64", "--isolation", isolation]);
        let finished = on_a_machine_that_emulates(&rbuild, &build.command());
        if finished.stderr.contains("mount:") {
            return crate::support::skip("user namespaces have no binfmt_misc here (Linux 6.7)");
        }
        assert_eq!(finished.ok().output(), ["aarch64"], "{isolation}");
    }
}
