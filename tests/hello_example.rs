//! The example that the README begins with: an image from nothing, by anyone.

use std::process::Command;

use crate::support::{
    Need, Project, Rbuild, User, architecture, assert_lines, each_user, needs, repository,
    run_with_timeout,
};

fn builds_and_says(user: &User) {
    let rbuild = Rbuild::new(user);
    let image = rbuild
        .build_at(repository().join("examples/hello"))
        .tag("hello")
        .image();
    let tree = image.tree();
    assert_lines(
        &tree.lines(&["greeting", "bin"]),
        r#"
        f 0644 0:0 greeting "Hello, world!\n"
        d 0755 0:0 bin
        "#,
    );
    let program =
        std::fs::read(repository().join(format!("examples/hello/hello-{}", architecture())))
            .unwrap();
    assert_eq!(tree.get("bin/hello").content.as_deref(), Some(&program[..]));
    assert_eq!(tree.get("bin/hello").mode, 0o755);
    assert_eq!(tree.nodes.len(), 3, "{}", tree.all());
    assert_eq!(image.setting("Cmd"), &serde_json::json!(["/bin/hello"]));
    assert_lines(
        &image.history(),
        r#"
        layer COPY /bin/hello /bin/hello # buildkit
        layer COPY /greeting /greeting # buildkit
        empty CMD ["/bin/hello"]
        "#,
    );
}

#[test]
fn builds_with_no_registry_and_nothing_installed() {
    if !needs(&[Need::Sandbox]) {
        return;
    }
    each_user(builds_and_says);
}

/// No name in /etc/passwd, no subordinate ids, no set-uid helper: one id is enough here.
#[test]
fn builds_as_a_user_that_the_machine_does_not_know() {
    if needs(&[Need::Root, Need::Sandbox]) {
        builds_and_says(&User::stranger());
    }
}

#[test]
fn a_build_argument_changes_the_greeting() {
    if !needs(&[Need::Sandbox]) {
        return;
    }
    each_user(|user| {
        let image = Rbuild::new(user)
            .build_at(repository().join("examples/hello"))
            .build_arg("NAME=Ada")
            .image();
        assert_eq!(image.tree().text("greeting"), "Hello, Ada!\n");
    });
}

#[test]
fn what_is_built_greets() {
    if !needs(&[Need::Sandbox]) {
        return;
    }
    let project = Project::copy_of("examples/hello");
    each_user(|user| {
        let dockerfile = format!(
            "FROM scratch\n\
             COPY hello-{} /bin/hello\n\
             RUN [\"/bin/hello\", \"--greet\", \"/greeting\"]\n\
             RUN [\"/bin/hello\"]\n",
            architecture()
        );
        let log = Rbuild::new(user)
            .build(&project)
            .args(["-f", "-"])
            .stdin(dockerfile)
            .ok();
        assert_eq!(log.output(), ["Hello, !"]);
    });
}

#[test]
fn the_programs_come_from_their_sources() {
    let tools = [
        Need::Program("x86_64-linux-gnu-as"),
        Need::Program("aarch64-linux-gnu-as"),
    ];
    if !needs(&tools) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let example = repository().join("examples/hello");
    let mut make = Command::new(example.join("make.sh"));
    make.arg(folder.path());
    run_with_timeout(make, None).ok();
    for name in ["hello-amd64", "hello-arm64"] {
        let committed = std::fs::read(example.join(name)).unwrap();
        let made = std::fs::read(folder.path().join(name)).unwrap();
        assert!(committed == made, "{name} is not what its source gives");
        assert!(committed.len() < 2048, "{name} has grown");
    }
}
