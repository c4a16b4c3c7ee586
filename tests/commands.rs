//! The commands and flags beside the build itself.

use serde_json::json;

use crate::support::{Image, Need, Project, Rbuild, Registry, User, each_user, needs};

fn small() -> Project {
    Project::with(
        r#"
        FROM scratch
        COPY a /a
        CMD ["/a"]
        "#,
    )
    .file("a", "a")
}

#[test]
fn build_is_the_command_when_none_is_named() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let project = small();
        let context = project.path().to_str().unwrap();
        rbuild.run(["-t", "myapp", context]).ok();
        let images = rbuild.run(["images"]).ok().text();
        assert!(images.contains("myapp"), "{images}");
    });
}

#[test]
fn images_lists_names_and_ids() {
    let rbuild = Rbuild::new(&User::Caller);
    let image = rbuild.build(&small()).tag("unrelated").image();
    rbuild.build(&small()).tag("one").tag("team/two:1.0").ok();
    let listing = rbuild.run(["images"]).ok().text();
    let mut rows: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.remove(0)[..3], ["REPOSITORY", "TAG", "IMAGE"]);
    let short = &image.id["sha256:".len()..][..12];
    let mut names: Vec<&str> = Vec::new();
    for row in &rows {
        names.push(row[0]);
        if row[0] == "one" {
            assert_eq!(row[1..3], ["latest", short]);
        }
    }
    names.sort_unstable();
    assert!(
        names.contains(&"one") && names.contains(&"team/two"),
        "{listing}"
    );
    let quiet = rbuild.run(["images", "-q"]).ok().text();
    assert!(quiet.lines().all(|line| line.len() == 12), "{quiet}");
}

#[test]
fn iidfile_and_quiet_give_the_image_id() {
    let rbuild = Rbuild::new(&User::Caller);
    let file = rbuild.out().join("id");
    let quiet = rbuild
        .build(&small())
        .own_progress()
        .args(["-q", "--iidfile", file.to_str().unwrap()])
        .ok();
    let id = std::fs::read_to_string(&file).unwrap();
    assert_eq!(quiet.text(), id.trim_end());
    assert_eq!(quiet.stderr, "");
    let image = rbuild.build(&small()).image();
    assert_eq!(image.id, id.trim_end());
}

#[test]
fn a_build_says_what_it_made_and_what_to_do_next() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild
        .build(&small())
        .tag("myapp")
        .ok()
        .says(&["exporting", "myapp"]);
}

#[test]
fn tag_gives_a_second_name() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&small()).tag("one").ok();
    rbuild.run(["tag", "one", "example.org/two:v2"]).ok();
    let images = rbuild.run(["images"]).ok().text();
    assert!(images.contains("example.org/two"), "{images}");
    rbuild
        .run(["tag", "no-such-image", "x"])
        .fails()
        .says(&["no-such-image"]);
    rbuild.run(["tag", "one", "Not A Name"]).fails();
}

#[test]
fn version_names_the_program_and_its_version() {
    let rbuild = Rbuild::new(&User::Caller);
    for arguments in [["version"], ["--version"]] {
        let text = rbuild.run(arguments).ok().text();
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    }
    assert!(!rbuild.store().join("blobs").exists(), "it needs no store");
}

#[test]
fn help_names_every_command_and_flag() {
    let rbuild = Rbuild::new(&User::Caller);
    let help = rbuild.run(["--help"]).ok().text();
    for command in [
        "build", "push", "pull", "save", "load", "tag", "images", "version",
    ] {
        assert!(help.contains(command), "{command}:\n{help}");
    }
    let help = rbuild.run(["build", "--help"]).ok().text();
    for flag in [
        "--tag",
        "--file",
        "--target",
        "--build-arg",
        "--label",
        "--secret",
        "--no-cache",
        "--pull",
        "--output",
        "--push",
        "--load",
        "--annotation",
        "--iidfile",
        "--progress",
        "--quiet",
        "--network",
        "--registry-mirror",
    ] {
        assert!(help.contains(flag), "{flag}:\n{help}");
    }
}

#[test]
fn labels_of_the_command_line_go_into_the_image() {
    let project = Project::with("FROM scratch\nLABEL a=file b=file\n");
    let image = Rbuild::new(&User::Caller)
        .build(&project)
        .args(["--label", "b=flag", "--label", "c=x y"])
        .image();
    assert_eq!(
        image.setting("Labels"),
        &json!({"a": "file", "b": "flag", "c": "x y"})
    );
}

#[test]
fn a_dockerfile_can_come_from_standard_input() {
    let image = Rbuild::new(&User::Caller)
        .build(&small())
        .args(["-f", "-"])
        .stdin("FROM scratch\nCOPY a /from-stdin\n")
        .image();
    assert_eq!(image.tree().text("from-stdin"), "a");
}

#[test]
fn a_dockerfile_can_have_another_name_and_place() {
    let elsewhere = Project::new().file("Elsewhere", "FROM scratch\nCOPY a /elsewhere\n");
    let project = small().file("sub/Other", "FROM scratch\nCOPY a /other\n");
    let rbuild = Rbuild::new(&User::Caller);
    for (file, made) in [
        (project.path().join("sub/Other"), "other"),
        (elsewhere.path().join("Elsewhere"), "elsewhere"),
    ] {
        let image = rbuild
            .build(&project)
            .args(["-f".as_ref(), file.as_os_str()])
            .image();
        assert!(image.tree().has(made));
    }
}

#[test]
fn a_context_can_be_a_tar_on_standard_input() {
    let project = small()
        .file("sub/b", "b")
        .mode("sub/b", 0o750)
        .file("drop", "d")
        .file(".dockerignore", "drop\n")
        .file("other/Dockerfile", "FROM scratch\nCOPY . /all/\n");
    let tar = project.tar();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let gzip = gzip.finish().unwrap();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        for bytes in [&tar, &gzip] {
            let image = rbuild.build_at("-").stdin(bytes.clone()).image();
            assert_eq!(image.tree().text("a"), "a");
        }
        let image = rbuild
            .build_at("-")
            .args(["-f", "other/Dockerfile"])
            .stdin(tar.clone())
            .image();
        let tree = image.tree();
        assert_eq!(tree.get("all/sub/b").mode, 0o750);
        // Ignore files are for folders.
        assert!(tree.has("all/drop"));
    });
}

#[test]
fn output_can_be_an_archive_a_folder_or_a_stream() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let archive = rbuild.build(&small()).image();
        let folder = rbuild.out().join("layout");
        rbuild
            .build(&small())
            .args([
                "-o",
                &format!("type=oci,tar=false,dest={}", folder.display()),
            ])
            .ok();
        assert_eq!(Image::read(&folder).digest, archive.digest);
        let stream = rbuild.build(&small()).args(["-o", "type=oci,dest=-"]).ok();
        let file = rbuild.out().join("stream.tar");
        std::fs::write(&file, stream.stdout).unwrap();
        assert_eq!(Image::read(&file).digest, archive.digest);
    });
}

#[test]
fn push_and_pull_by_way_of_a_registry() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    each_user(|user| {
        let registry = Registry::start();
        let name = registry.name("team/app:1.0");
        let rbuild = Rbuild::new(user);
        let built = rbuild.build(&small()).tag(&name).image();
        rbuild.build(&small()).tag(&name).ok();
        rbuild.run(["push", &name]).ok();
        let inspect = |name: &str| -> serde_json::Value {
            let mut command = std::process::Command::new("skopeo");
            command.args(["inspect", "--tls-verify=false", &format!("docker://{name}")]);
            let text = crate::support::run_with_timeout(command, None).ok().text();
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(inspect(&name)["Digest"], built.digest.as_str());

        // Another machine pulls it and builds on it.
        let other = Rbuild::new(user);
        other.run(["pull", &name]).ok();
        let images = other.run(["images"]).ok().text();
        assert!(images.contains("team/app"), "{images}");
        let on_top = Project::with(&format!("FROM {name}\nCOPY b /b\n")).file("b", "b");
        let image = other.build(&on_top).image();
        assert_eq!(image.layers[0].blob, built.layers[0].blob);
        assert_eq!(image.setting("Cmd"), &json!(["/a"]));

        // Several names at once, and blobs that are there are not sent again.
        let log = rbuild
            .build(&small())
            .tag(registry.name("team/app:2.0"))
            .tag(registry.name("other/app"))
            .args(["--push"])
            .ok();
        assert_eq!(log.ran(), [""; 0]);
        for name in ["team/app:2.0", "other/app:latest"] {
            assert_eq!(
                inspect(&registry.name(name))["Digest"],
                built.digest.as_str()
            );
        }
    });
}

#[test]
fn push_of_what_is_not_there_fails() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild
        .run(["push", "localhost:1/never-built"])
        .fails()
        .says(&["never-built"]);
    rbuild.build(&small()).tag("localhost:1/x").ok();
    rbuild
        .run(["push", "localhost:1/x"])
        .fails()
        .says(&["localhost:1"]);
}

#[test]
fn exit_codes_tell_who_is_at_fault() {
    let rbuild = Rbuild::new(&User::Caller);
    let user_error = rbuild.run(["--no-such-flag"]).fails().status.code();
    let dockerfile = Project::with("FROM scratch\nCOPPY a b\n");
    let dockerfile_error = rbuild.build(&dockerfile).fails().status.code();
    let registry_error = rbuild.run(["pull", "localhost:1/x"]).fails().status.code();
    assert_ne!(dockerfile_error, registry_error);
    assert_ne!(user_error, registry_error);
    if needs(&[Need::BaseImages]) {
        let failing = Project::with("FROM busybox\nRUN exit 3\n");
        let step_error = rbuild.build(&failing).fails().status.code();
        assert_ne!(step_error, dockerfile_error);
        assert_ne!(step_error, registry_error);
    }
}
