//! `save` and `load`: what others write is read, what is written others read.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Containerd, Docker, Finished, Image, Layer, Need, Podman, Project, Rbuild, User,
    damaged_archive, docker_archive, each_user, needs, run_with_timeout,
};

/// Two images, the second on the layers of the first.
pub(crate) fn pair() -> Project {
    Project::with(
        r#"
        FROM scratch AS lower
        COPY a /a
        FROM lower
        COPY b /b
        CMD ["/b"]
        "#,
    )
    .file("a", "a")
    .file("b", "b")
}

/// An rbuild whose store has the pair as `app:lower`, and as `app:1` and `example.org/app:2`.
fn with_pair(user: &User) -> Rbuild {
    let rbuild = Rbuild::new(user);
    let project = pair();
    rbuild.build(&project).target("lower").tag("app:lower").ok();
    rbuild
        .build(&project)
        .tag("app:1")
        .tag("example.org/app:2")
        .ok();
    rbuild
}

/// An image's whole id.
pub(crate) fn id_of(rbuild: &Rbuild, name: &str) -> String {
    let ids = rbuild
        .run(["images", "--quiet", "--no-trunc", name])
        .ok()
        .text();
    ids.lines()
        .next()
        .unwrap_or_else(|| panic!("no `{name}`"))
        .to_owned()
}

fn program(name: &str, args: &[&str]) -> Finished {
    let mut command = Command::new(name);
    command.args(args);
    run_with_timeout(command, None)
}

/// Saves to a file; gives its path.
fn save(rbuild: &Rbuild, args: &[&str]) -> PathBuf {
    let file = rbuild.out().join("saved.tar");
    let mut words = vec!["save", "-o", file.to_str().unwrap()];
    words.extend_from_slice(args);
    rbuild.run(words).ok();
    file
}

/// Loads a file into an empty store; gives that and what was printed.
fn load(user: &User, file: &Path) -> (Rbuild, String) {
    let rbuild = Rbuild::new(user);
    let copy = rbuild.out().join("given.tar");
    std::fs::copy(file, &copy).unwrap();
    user.own(&copy);
    let said = rbuild
        .run(["load", "-q", "-i", copy.to_str().unwrap()])
        .ok()
        .text();
    (rbuild, said)
}

#[test]
fn what_is_saved_is_loaded_with_names_and_ids() {
    each_user(|user| {
        let rbuild = with_pair(user);
        for format in ["docker", "oci"] {
            let file = save(&rbuild, &["--format", format, "app", "example.org/app:2"]);
            let (other, said) = load(user, &file);
            let mut said: Vec<&str> = said.lines().collect();
            said.sort_unstable();
            assert_eq!(
                said,
                [
                    "Loaded image: app:1",
                    "Loaded image: app:lower",
                    "Loaded image: example.org/app:2"
                ]
            );
            for name in ["app:1", "app:lower", "example.org/app:2"] {
                assert_eq!(id_of(&other, name), id_of(&rbuild, name), "{format} {name}");
            }
            // What was loaded is built on, and saved again as it came.
            let on_top = Project::with("FROM app:1\nCOPY c /c\n").file("c", "c");
            let image = other.build(&on_top).image();
            assert_eq!(image.tree().text("b"), "b");
            let again = save(&other, &["--format", format, "app", "example.org/app:2"]);
            assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(again).unwrap());
        }
    });
}

#[test]
fn an_archive_can_be_a_stream_a_folder_and_compressed() {
    each_user(|user| {
        let rbuild = with_pair(user);
        let piped = rbuild.run(["image", "save", "app:1"]).ok().stdout;
        let file = save(&rbuild, &["app:1"]);
        assert_eq!(piped, std::fs::read(&file).unwrap());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&piped).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&piped[..], 1).unwrap();
        for bytes in [piped, gzip, zstd] {
            let other = Rbuild::new(user);
            let mut command = other.command();
            command.args(["image", "load"]);
            let loaded = run_with_timeout(command, Some(bytes.clone())).ok();
            assert_eq!(loaded.text(), "Loaded image: app:1");
            // Standard input as a file, and a file by its name.
            let given = other.out().join("given");
            std::fs::write(&given, &bytes).unwrap();
            user.own(&given);
            let mut command = other.command();
            command
                .arg("load")
                .stdin(std::fs::File::open(&given).unwrap());
            let output = command.output().unwrap();
            assert_eq!(output.stdout, b"Loaded image: app:1\n");
            let loaded = other.run(["load", "--input", given.to_str().unwrap()]).ok();
            assert_eq!(loaded.text(), "Loaded image: app:1");
        }
        rbuild
            .build(&pair())
            .tag("app:1")
            .args(["-o", "type=oci,tar=false,dest=layout"])
            .ok();
        let layout = rbuild.out().join("layout");
        let other = Rbuild::new(user);
        let copy = other.out().join("layout");
        program(
            "cp",
            &["-r", layout.to_str().unwrap(), copy.to_str().unwrap()],
        )
        .ok();
        program("chmod", &["-R", "a+rX", copy.to_str().unwrap()]).ok();
        let loaded = other.run(["load", "-i", copy.to_str().unwrap()]).ok();
        assert_eq!(loaded.text(), "Loaded image: app:1");
        assert_eq!(id_of(&other, "app:1"), id_of(&rbuild, "app:1"));
    });
}

#[test]
fn the_same_images_give_the_same_archive() {
    let archive = || {
        let rbuild = Rbuild::new(&User::Caller).env("SOURCE_DATE_EPOCH", "1000000000");
        let output = "type=image,rewrite-timestamp=true";
        rbuild.build(&pair()).tag("app:1").args(["-o", output]).ok();
        rbuild.run(["save", "app:1"]).ok().stdout
    };
    assert_eq!(archive(), archive());
}

#[test]
fn an_image_without_a_name_has_its_id() {
    let rbuild = with_pair(&User::Caller);
    let id = id_of(&rbuild, "app:1");
    let file = save(&rbuild, &[&id["sha256:".len()..][..12]]);
    let image = Image::read(&file);
    assert_eq!(image.id, id);
    let (other, said) = load(&User::Caller, &file);
    assert_eq!(said, format!("Loaded image ID: {id}"));
    other.run(["tag", &id, "named"]).ok();
    assert_eq!(id_of(&other, "named"), id);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_silently() {
    let rbuild = Rbuild::new(&User::Caller);
    let project = pair().file("b", "b".repeat(3_000_000));
    rbuild.build(&project).tag("app:1").ok();
    for args in [
        vec!["save", "app:1"],
        vec!["build", "-o", "-", project.path().to_str().unwrap()],
    ] {
        let mut command = rbuild.command();
        command
            .args(&args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(141), "{args:?}: {said}");
        assert!(!said.contains("error:"), "{args:?}: {said}");
    }
}

#[test]
fn what_can_not_be_saved_or_loaded_is_said() {
    let rbuild = with_pair(&User::Caller);
    rbuild
        .run(["save", "nothing"])
        .fails()
        .says(&["No such image: nothing"]);
    rbuild
        .run([
            "save",
            "--platform",
            "linux/riscv64",
            "-o",
            "x.tar",
            "app:1",
        ])
        .fails()
        .says(&["not for linux/riscv64"]);
    assert!(!rbuild.out().join("x.tar").exists());
    rbuild
        .run(["save", "-o", "no/such/folder/x.tar", "app:1"])
        .fails();
    rbuild
        .run(["load", "-i", "no-such.tar"])
        .fails()
        .says(&["no-such.tar"]);
    let text = rbuild.out().join("text");
    std::fs::write(&text, "no archive at all").unwrap();
    let failed = rbuild.run(["load", "-i", text.to_str().unwrap()]).fails();
    assert!(failed.stdout.is_empty());
    let cut = rbuild.out().join("cut.tar");
    let whole = std::fs::read(save(&rbuild, &["app:1"])).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let other = Rbuild::new(&User::Caller);
    other.run(["load", "-i", cut.to_str().unwrap()]).fails();
    assert_eq!(other.run(["images", "-q"]).ok().text(), "");
}

#[test]
fn an_archive_whose_layers_are_not_what_they_say_is_refused() {
    let rbuild = Rbuild::new(&User::Caller);
    let layer = |text: &str| Layer::new().file("file", 0o644, text);
    let file = rbuild.out().join("damaged.tar");
    std::fs::write(
        &file,
        damaged_archive("app:1", layer("said"), layer("held")),
    )
    .unwrap();
    rbuild.run(["load", "-i", file.to_str().unwrap()]).fails();
    assert_eq!(rbuild.run(["images", "-q"]).ok().text(), "");

    // The same of a compressed layer, whose own digest nobody has told.
    let mut archive = tar::Builder::new(Vec::new());
    let honest = docker_archive("app:1", [layer("said")]);
    for entry in tar::Archive::new(&honest[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if path.ends_with("layer.tar") {
            let at = bytes.windows(4).position(|part| part == b"said").unwrap();
            bytes[at] = b'S';
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&bytes).unwrap();
            bytes = gzip.finish().unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    std::fs::write(&file, archive.into_inner().unwrap()).unwrap();
    rbuild
        .run(["load", "-i", file.to_str().unwrap()])
        .fails()
        .says(&["tampered"]);
    assert_eq!(rbuild.run(["images", "-q"]).ok().text(), "");
    // Nothing of it is left that an image with the true layer would come upon.
    std::fs::write(&file, docker_archive("app:1", [layer("said")])).unwrap();
    rbuild.run(["load", "-i", file.to_str().unwrap()]).ok();
    rbuild
        .build(&Project::with("FROM app:1\n"))
        .args(["-o", "out"])
        .ok();
    let text = std::fs::read_to_string(rbuild.out().join("out/file")).unwrap();
    assert_eq!(text, "said");
}

#[test]
fn of_several_platforms_one_is_chosen() {
    if !needs(&[Need::Program("skopeo")]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let layout = rbuild.out().join("layout");
    let build = |platform: &str, name: &str| {
        let output = format!("type=oci,tar=false,dest={},name={name}", layout.display());
        let project = Project::with("FROM scratch\nCOPY a /a\n").file("a", platform);
        rbuild
            .build(&project)
            .args(["--platform", platform, "-o", &output])
            .ok();
    };
    // A layout whose one name is that of images for two platforms, none of this machine.
    build("linux/s390x", "a");
    build("linux/ppc64le", "b");
    let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
    let index = index.replace("library/b:", "library/a:");
    std::fs::write(layout.join("index.json"), index).unwrap();
    let path = layout.to_str().unwrap();
    let load = |args: &[&str]| {
        let other = Rbuild::new(&User::Caller);
        let mut words = vec!["load", "-i", path];
        words.extend_from_slice(args);
        (other.run(words), other)
    };
    load(&[])
        .0
        .fails()
        .says(&["linux/s390x, linux/ppc64le", "--platform"]);
    load(&["--platform", "linux/riscv64"])
        .0
        .fails()
        .says(&["linux/riscv64"]);
    let (loaded, other) = load(&["--platform", "linux/ppc64le"]);
    assert_eq!(loaded.ok().text(), "Loaded image: a:latest");
    let file = save(&other, &["--platform", "linux/ppc64le", "a"]);
    let inspected = program(
        "skopeo",
        &["inspect", &format!("docker-archive:{}", file.display())],
    );
    assert!(inspected.ok().text().contains("\"ppc64le\""));
    // An archive for one foreign platform only is what was asked for.
    let single = Rbuild::new(&User::Caller);
    let loaded = single.run(["load", "-i", file.to_str().unwrap()]).ok();
    assert_eq!(loaded.text(), "Loaded image: a:latest");
}

#[test]
fn skopeo_reads_and_writes_the_archives() {
    if !needs(&[Need::Program("skopeo")]) {
        return;
    }
    let rbuild = with_pair(&User::Caller);
    let id = id_of(&rbuild, "app:1");
    let at = |name: &str| rbuild.out().join(name).display().to_string();
    let docker = save(&rbuild, &["app", "example.org/app:2"])
        .display()
        .to_string();
    let from = format!("docker-archive:{docker}:app:1");
    for to in ["docker-archive", "oci-archive"] {
        let file = at(to);
        let target = format!("{to}:{file}:my.org/copy:3");
        program("skopeo", &["copy", "--quiet", &from, &target]).ok();
        let (other, said) = load(&User::Caller, Path::new(&file));
        assert_eq!(said, "Loaded image: my.org/copy:3", "{to}");
        if to == "docker-archive" {
            assert_eq!(id_of(&other, "my.org/copy:3"), id);
        }
    }
    rbuild
        .run(["save", "--format", "oci", "-o", &at("oci.tar"), "app:1"])
        .ok();
    let from = format!("oci-archive:{}", at("oci.tar"));
    let copied = format!("oci-archive:{}", at("copied.tar"));
    program("skopeo", &["copy", "--quiet", &from, &copied]).ok();
    let (_, said) = load(&User::Caller, &rbuild.out().join("copied.tar"));
    assert_eq!(said, format!("Loaded image ID: {id}"));
}

#[test]
fn docker_reads_and_writes_the_archives() {
    let Some(docker) = Docker::start() else {
        return;
    };
    let rbuild = with_pair(&User::Caller);
    let file = save(&rbuild, &["app", "example.org/app:2"]);
    docker
        .run(&["load", "--input", file.to_str().unwrap()])
        .ok();
    for name in ["app:1", "app:lower", "example.org/app:2"] {
        assert_eq!(docker.id(name), id_of(&rbuild, name));
    }
    let written = rbuild.out().join("docker.tar");
    let to = written.to_str().unwrap();
    docker.run(&["save", "-o", to, "app:1", "app:lower"]).ok();
    let (other, said) = load(&User::Caller, &written);
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["Loaded image: app:1", "Loaded image: app:lower"]);
    assert_eq!(id_of(&other, "app:1"), id_of(&rbuild, "app:1"));
    // Docker writes plain layers; they leave compressed, as from any other build.
    let layout = Image::read(&save(&other, &["app:1"]));
    assert_eq!(
        layout.layers[0].blob,
        Image::read(&save(&rbuild, &["app:1"])).layers[0].blob
    );
}

#[test]
fn podman_reads_and_writes_the_archives() {
    let Some(podman) = Podman::new() else {
        return;
    };
    let rbuild = with_pair(&User::Caller);
    for format in ["docker", "oci"] {
        let file = save(&rbuild, &["--format", format, "app:1"]);
        podman
            .run(&["load", "--input", file.to_str().unwrap()])
            .ok();
        assert_eq!(podman.id("app:1"), id_of(&rbuild, "app:1"));
        podman.run(&["rmi", "--all", "--force"]).ok();
    }
    let file = save(&rbuild, &["app", "example.org/app:2"]);
    podman
        .run(&["load", "--input", file.to_str().unwrap()])
        .ok();
    for name in ["app:1", "app:lower", "example.org/app:2"] {
        assert_eq!(podman.id(name), id_of(&rbuild, name));
    }
    for format in ["docker-archive", "oci-archive"] {
        let written = rbuild.out().join(format);
        let to = written.to_str().unwrap();
        podman
            .run(&["save", "--format", format, "-o", to, "example.org/app:2"])
            .ok();
        let (other, said) = load(&User::Caller, &written);
        assert_eq!(said, "Loaded image: example.org/app:2", "{format}");
        // In an OCI archive Podman writes the config in its own words.
        if format == "docker-archive" {
            assert_eq!(id_of(&other, "example.org/app:2"), id_of(&rbuild, "app:1"));
        }
    }
}

#[test]
fn containerd_reads_and_writes_the_archives() {
    if !needs(&[
        Need::Root,
        Need::Program("containerd"),
        Need::Program("ctr"),
    ]) {
        return;
    }
    let containerd = Containerd::start();
    let rbuild = with_pair(&User::Caller);
    let names = [
        "docker.io/library/app:1",
        "docker.io/library/app:lower",
        "example.org/app:2",
    ];
    for format in ["docker", "oci"] {
        let file = save(&rbuild, &["--format", format, "app", "example.org/app:2"]);
        containerd
            .ctr(&["images", "import", file.to_str().unwrap()])
            .ok();
        let listed = containerd.ctr(&["images", "ls", "-q"]).ok().text();
        assert_eq!(listed.lines().collect::<Vec<_>>(), names);
        let written = rbuild.out().join("ctr.tar");
        let to = written.to_str().unwrap();
        containerd
            .ctr(&["images", "export", to, names[0], names[1]])
            .ok();
        let (other, _) = load(&User::Caller, &written);
        assert_eq!(id_of(&other, "app:1"), id_of(&rbuild, "app:1"));
        assert_eq!(id_of(&other, "app:lower"), id_of(&rbuild, "app:lower"));
        containerd
            .ctr(&["images", "rm", names[0], names[1], names[2]])
            .ok();
    }
}
