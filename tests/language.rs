//! What the instructions of a Dockerfile mean, where no program has to run for it.

mod copying;

use serde_json::json;

use crate::support::{Image, Need, Project, Rbuild, architecture, assert_lines, each_user, needs};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds with an empty store as whoever runs the tests; what is tested here doesn't depend on
/// the user.
fn build(project: &Project) -> Image {
    Rbuild::new(&crate::support::User::Caller)
        .build(project)
        .image()
}

#[test]
fn metadata_instructions_fill_the_config() {
    let project = Project::with(
        r#"
        FROM scratch
        MAINTAINER Ada <ada@example.org>
        ARG version=1.2
        LABEL org.example.version=$version "two words"="a b" quoted='$version'
        ENV A=1 B="two words" C=$A
        ENV OLD style  value
        WORKDIR /srv/app
        WORKDIR data
        EXPOSE 80 443/tcp 53/UDP 7000-7001
        VOLUME /data
        VOLUME ["/var/a b", "/log"]
        USER 1000:1000
        STOPSIGNAL SIGTERM
        SHELL ["/bin/ash", "-c"]
        HEALTHCHECK --interval=30s --timeout=3s --start-period=1m --retries=2 CMD wget -q localhost
        ENTRYPOINT ["/bin/app", "-v"]
        CMD serve now
        ONBUILD RUN make
        "#,
    );
    let image = build(&project);
    assert_eq!(image.config["author"], "Ada <ada@example.org>");
    assert_eq!(image.config["os"], "linux");
    assert_eq!(image.config["architecture"], architecture());
    let settings = [
        (
            "Env",
            json!([DEFAULT_PATH, "A=1", "B=two words", "C=", "OLD=style  value"]),
        ),
        (
            "Labels",
            json!({"org.example.version": "1.2", "two words": "a b", "quoted": "$version"}),
        ),
        ("WorkingDir", json!("/srv/app/data")),
        (
            "ExposedPorts",
            json!({"80/tcp": {}, "443/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}}),
        ),
        ("Volumes", json!({"/data": {}, "/var/a b": {}, "/log": {}})),
        ("User", json!("1000:1000")),
        ("StopSignal", json!("SIGTERM")),
        ("Shell", json!(["/bin/ash", "-c"])),
        (
            "Healthcheck",
            json!({
                "Test": ["CMD-SHELL", "wget -q localhost"],
                "Interval": 30_000_000_000_i64,
                "Timeout": 3_000_000_000_i64,
                "StartPeriod": 60_000_000_000_i64,
                "Retries": 2
            }),
        ),
        ("Entrypoint", json!(["/bin/app", "-v"])),
        ("Cmd", json!(["/bin/ash", "-c", "serve now"])),
        ("OnBuild", json!(["RUN make"])),
    ];
    for (name, expected) in settings {
        assert_eq!(image.setting(name), &expected, "{name}");
    }
    assert_lines(
        &image.tree().all(),
        "
        d 0755 0:0 srv
        d 0755 0:0 srv/app
        d 0755 0:0 srv/app/data
        ",
    );
}

#[test]
fn variables_expand_where_the_reference_says() {
    let project = Project::with(
        r#"
        FROM scratch
        ARG set=yes empty=
        ENV name=app dir=/srv
        LABEL plain=$set braces=${set}x default=${unset:-d} empty=${empty:-d} \
              alternative=${set:+a} none=${unset:+a} escaped=\$set single='${set}' \
              nested=${unset:-${set}} only-unset=${empty-d}
        WORKDIR ${dir}/$name
        COPY $name.txt ${dir}/$name/copied-${set:+and-renamed}.txt
        EXPOSE ${port:-8080}
        USER ${user:-nobody}
        VOLUME $dir
        STOPSIGNAL ${signal:-SIGINT}
        "#,
    )
    .file("app.txt", "text");
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({
            "plain": "yes", "braces": "yesx", "default": "d", "empty": "d",
            "alternative": "a", "none": "", "escaped": "$set", "single": "${set}",
            "nested": "yes", "only-unset": ""
        })
    );
    assert_eq!(image.setting("WorkingDir"), "/srv/app");
    assert_eq!(image.setting("ExposedPorts"), &json!({"8080/tcp": {}}));
    assert_eq!(image.setting("User"), "nobody");
    assert_eq!(image.setting("Volumes"), &json!({"/srv": {}}));
    assert_eq!(image.setting("StopSignal"), "SIGINT");
    assert_eq!(image.tree().text("srv/app/copied-and-renamed.txt"), "text");
}

#[test]
fn env_of_one_instruction_sees_what_was_before_it() {
    let project = Project::with(
        "
        FROM scratch
        ENV abc=hello
        ENV abc=bye def=$abc
        ENV ghi=$abc
        ",
    );
    assert_eq!(
        build(&project).setting("Env"),
        &json!([DEFAULT_PATH, "abc=bye", "def=hello", "ghi=bye"])
    );
}

#[test]
fn arguments_have_scopes() {
    let project = Project::with(
        "
        ARG global=from-global
        ARG shadowed=outer
        FROM scratch AS first
        ARG global
        ARG local=from-first
        LABEL first-global=$global first-local=$local
        FROM first AS second
        LABEL inherited-local=${local:-unset}
        FROM scratch
        ARG shadowed=inner
        ARG given=default
        ARG wins=arg
        ENV wins=env
        LABEL undeclared=${global:-unset} shadowed=$shadowed given=$given wins=$wins
        ",
    );
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let first = rbuild.build(&project).target("first").image();
    assert_eq!(
        first.setting("Labels"),
        &json!({"first-global": "from-global", "first-local": "from-first"})
    );
    let second = rbuild.build(&project).target("second").image();
    assert_eq!(
        second.setting("Labels")["inherited-local"],
        "from-first",
        "a stage inherits the arguments of the stage it is built from"
    );
    let last = rbuild.build(&project).build_arg("given=by-flag").image();
    assert_eq!(
        last.setting("Labels"),
        &json!({"undeclared": "unset", "shadowed": "inner", "given": "by-flag", "wins": "env"})
    );
    assert_eq!(last.setting("Env"), &json!([DEFAULT_PATH, "wins=env"]));
}

#[test]
fn a_build_argument_without_value_comes_from_the_environment() {
    let project = Project::with(
        "
        FROM scratch
        ARG one=default
        ARG two=default
        LABEL one=$one two=$two
        ",
    );
    let image = Rbuild::new(&crate::support::User::Caller)
        .build(&project)
        .build_arg("one")
        .build_arg("two")
        .env("one", "environment")
        .image();
    assert_eq!(
        image.setting("Labels"),
        &json!({"one": "environment", "two": "default"})
    );
}

#[test]
fn platform_arguments_are_there_when_asked_for() {
    let project = Project::with(
        "
        FROM --platform=$BUILDPLATFORM scratch
        ARG TARGETPLATFORM
        ARG TARGETOS
        ARG TARGETARCH
        ARG BUILDPLATFORM
        LABEL target=$TARGETPLATFORM os=$TARGETOS arch=$TARGETARCH build=$BUILDPLATFORM \
              undeclared=${BUILDARCH:-unset}
        ",
    );
    let arch = architecture();
    assert_eq!(
        build(&project).setting("Labels"),
        &json!({
            "target": format!("linux/{arch}"), "os": "linux", "arch": arch,
            "build": format!("linux/{arch}"), "undeclared": "unset"
        })
    );
}

#[test]
fn only_what_the_target_needs_is_built() {
    let project = Project::with(
        r#"
        FROM scratch AS base
        COPY a /a
        FROM no.such.registry.invalid/nothing AS unneeded
        RUN ["/never"]
        FROM base AS left
        COPY a /left
        FROM base AS right
        COPY a /right
        FROM scratch AS both
        COPY --from=left /left /
        COPY --from=3 /right /
        "#,
    )
    .file("a", "a");
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let names = |image: &Image| -> Vec<String> {
        image
            .tree()
            .nodes
            .keys()
            .map(|path| String::from_utf8(path.clone()).unwrap())
            .collect()
    };
    assert_eq!(names(&rbuild.build(&project).image()), ["left", "right"]);
    assert_eq!(
        names(&rbuild.build(&project).target("LEFT").image()),
        ["a", "left"]
    );
    assert_eq!(names(&rbuild.build(&project).target("0").image()), ["a"]);
    let (_, log) = rbuild
        .build(&project)
        .target("right")
        .args(["--no-cache"])
        .image_and_log();
    assert_eq!(log.ran(), ["COPY a /a", "COPY a /right"]);
}

#[test]
fn comments_continuations_and_directives_read_as_documented() {
    let project = Project::new().file(
        "Dockerfile",
        "\u{feff}# escape=`\r\n\
         # check=skip=all\n\
         from scratch as Stage\n\
         # a comment\n\
         LABEL a=1 `\n\
         # a comment inside\n\
         \n\
         \x20     b=c:`\\dir `  \n\
         \x20     c=3\n\
         \tlabel d=\"x `\n\
         y\"\n",
    );
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({"a": "1", "b": "c:\\dir", "c": "3", "d": "x y"})
    );
}

#[test]
fn entrypoint_takes_back_the_command_of_the_base() {
    let project = Project::with(
        r#"
        FROM scratch AS base
        CMD ["inherited"]
        FROM base AS entry
        ENTRYPOINT ["/e"]
        FROM base AS both
        CMD ["own"]
        ENTRYPOINT /shell form
        "#,
    );
    let rbuild = Rbuild::new(&crate::support::User::Caller);
    let entry = rbuild.build(&project).target("entry").image();
    assert_eq!(entry.setting("Entrypoint"), &json!(["/e"]));
    assert!(entry.setting("Cmd").is_null());
    let both = rbuild.build(&project).target("both").image();
    assert_eq!(both.setting("Cmd"), &json!(["own"]));
    assert_eq!(
        both.setting("Entrypoint"),
        &json!(["/bin/sh", "-c", "/shell form"])
    );
}

#[test]
fn onbuild_runs_in_the_image_that_is_built_from_it() {
    let project = Project::with(
        "
        FROM scratch AS parent
        ONBUILD COPY late /late
        ONBUILD LABEL triggered=yes
        FROM parent
        LABEL own=yes
        ",
    )
    .file("late", "late");
    let image = build(&project);
    assert_eq!(
        image.setting("Labels"),
        &json!({"triggered": "yes", "own": "yes"})
    );
    assert!(image.setting("OnBuild").is_null(), "triggers fire once");
    assert_eq!(image.tree().text("late"), "late");
}

#[test]
fn names_of_the_image_are_looked_up_for_user_and_workdir() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let project = Project::with(
            "
            FROM busybox
            USER app
            WORKDIR /home/app/work/deep
            COPY --chown=www-data:staff file ./
            COPY file /home/app/still-root
            USER nobody:adm
            WORKDIR ../by-group
            ",
        )
        .file("file", "f");
        let image = Rbuild::new(user).build(&project).image();
        assert_eq!(image.setting("User"), "nobody:adm");
        assert_eq!(image.setting("WorkingDir"), "/home/app/work/by-group");
        assert_lines(
            &image.tree().lines(&["home/app/**"]),
            r#"
            d 0755 1000:1000 home/app
            f 0644 0:0 home/app/still-root "f"
            d 0755 1000:1000 home/app/work
            d 0755 65534:4 home/app/work/by-group
            d 0755 1000:1000 home/app/work/deep
            f 0644 33:50 home/app/work/deep/file "f"
            "#,
        );
    });
}
