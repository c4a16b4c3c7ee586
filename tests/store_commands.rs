//! Looking at the images of the store, comparing them, and making room.

use serde_json::{Value, json};

use crate::support::{Need, Project, Rbuild, Registry, User, each_user, needs, run_with_timeout};

fn small() -> Project {
    Project::with(
        r#"
        FROM scratch
        COPY a b /dir/
        LABEL team=blue org.example.version=1.2
        USER nobody
        CMD ["/dir/a"]
        "#,
    )
    .file("a", "a")
    .file("b", "bb")
}

/// What lies in a folder of the store, by path.
fn files_below(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn inspect_says_what_scripts_ask_for() {
    let rbuild = Rbuild::new(&User::Caller);
    let image = rbuild.build(&small()).tag("app").tag("app:2").image();
    rbuild.build(&small()).tag("app").tag("app:2").ok();
    let document = rbuild.run(["inspect", "app"]).ok().text();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document[0]["Id"], image.id.as_str());
    assert_eq!(document[0]["RepoTags"], json!(["app:2", "app:latest"]));
    assert_eq!(document[0]["Config"]["User"], "nobody");
    assert_eq!(document[0]["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    for (template, expected) in [
        ("{{.Config.User}}", "nobody"),
        ("{{index .Config.Labels \"org.example.version\"}}", "1.2"),
        ("{{json .Config.Cmd}}", "[\"/dir/a\"]"),
        ("{{range .RepoTags}}{{.}} {{end}}", "app:2 app:latest"),
        (
            "{{.Os}}/{{.Architecture}}",
            &format!("linux/{}", image.config["architecture"].as_str().unwrap()),
        ),
    ] {
        let shown = rbuild.run(["inspect", "-f", template, "app"]).ok();
        assert_eq!(shown.text(), expected, "{template}");
    }
    let missing = rbuild.run(["inspect", "app", "nothing"]).fails();
    assert!(missing.text().contains(&image.id), "what is there is shown");
    missing.says(&["error: No such image: nothing"]);
    rbuild
        .run(["inspect", "-f", "{{.Config.Usr}}", "app"])
        .fails()
        .says(&["there's no field `.Usr`; did you mean `.User`?"]);
}

#[test]
fn history_shows_every_step_and_its_size() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&small()).tag("app").ok();
    let rows = rbuild
        .run(["history", "--format", "{{.CreatedBy}}|{{.Size}}", "app"])
        .ok()
        .text();
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(rows[0], "CMD [\"/dir/a\"]|0B");
    assert_eq!(rows[1], "USER nobody|0B");
    assert!(
        rows[3].starts_with("COPY a b /dir/ # buildkit|"),
        "{rows:?}"
    );
    assert!(!rows[3].ends_with("|0B"), "{rows:?}");
    assert_eq!(rows.len(), 4);
    let table = rbuild.run(["image", "history", "app"]).ok().text();
    assert!(table.starts_with("IMAGE "), "{table}");
}

#[test]
fn images_can_be_chosen_and_printed() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&small()).tag("app").tag("team/app:1").ok();
    let project = small().file("a", "other");
    rbuild.build(&project).ok();
    let list = |args: &[&str]| {
        let mut command = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        command.extend(args);
        rbuild.run(command).ok().text()
    };
    assert_eq!(list(&["-f", "dangling=true"]), "<none>:<none>");
    // The other name of the image is not what was asked for.
    assert_eq!(list(&["-f", "reference=team/*"]), "team/app:1");
    assert_eq!(list(&["team/*"]), "team/app:1");
    assert_eq!(list(&["team/app"]), "team/app:1");
    assert_eq!(list(&["-f", "label=team=red"]), "");
    assert_eq!(list(&["-f", "label=team", "app"]), "app:latest");
    rbuild
        .run(["images", "-f", "colour=blue"])
        .fails()
        .says(&["unknown filter `colour`"]);
}

#[test]
fn an_image_goes_with_its_last_name() {
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&small()).tag("app").tag("app:2").ok();
    let id = rbuild.run(["images", "-q", "--no-trunc"]).ok().text();
    assert_eq!(
        rbuild.run(["rmi", "app"]).ok().text(),
        "Untagged: app:latest"
    );
    rbuild.run(["tag", "app:2", "app:3"]).ok();
    rbuild
        .run(["rmi", &id])
        .fails()
        .says(&["has several names: app:2, app:3"]);
    assert_eq!(
        rbuild.run(["rmi", "-f", &id]).ok().text(),
        format!("Untagged: app:2\nUntagged: app:3\nDeleted: {id}")
    );
    assert_eq!(rbuild.run(["images", "-q"]).ok().text(), "");
    rbuild
        .run(["rmi", "app"])
        .fails()
        .says(&["No such image: app"]);
    rbuild.run(["rmi", "-f", "app"]).ok();
    // What it was made of is still cached.
    assert!(rbuild.build(&small()).ok().ran().is_empty());
}

#[test]
fn a_pulled_image_leaves_no_layers() {
    if !needs(&[Need::Program("docker-registry")]) {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("app:1");
    let rbuild = Rbuild::new(&User::Caller);
    let address = registry.address();
    let insecure = ["--insecure-registry", &address];
    rbuild
        .build(&small())
        .tag(&name)
        .args(["--push"])
        .args(insecure)
        .ok();
    let digest = rbuild
        .run(["inspect", "-f", "{{index .RepoDigests 0}}", &name])
        .ok()
        .text();
    assert!(digest.starts_with(name.trim_end_matches(":1")), "{digest}");
    assert!(digest.contains("@sha256:"), "{digest}");

    let other = Rbuild::new(&User::Caller);
    other
        .run(["pull"].into_iter().chain(insecure).chain([name.as_str()]))
        .ok();
    assert_eq!(
        other
            .run(["inspect", "-f", "{{index .RepoDigests 0}}", &name])
            .ok()
            .text(),
        digest
    );
    other.run(["rmi", &name]).ok();
    assert_eq!(
        files_below(&other.store().join("trees")),
        Vec::<String>::new()
    );
    let blobs = other.store().join("blobs");
    let layer = files_below(&blobs)
        .into_iter()
        .filter(|blob| std::fs::read(blob).unwrap().starts_with(b"\x1f\x8b"));
    assert_eq!(layer.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn pruning_all_leaves_nothing_whoever_owns_the_files() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=cache,target=/c echo x > /c/x && chown -R 1:1 /c && mkdir -m 700 /closed \\
            && touch /closed/f && chown -R 5:5 /closed
        RUN touch /closed/g
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&project).tag("app").ok();
        let df = rbuild
            .run(["df", "--format", "{{.Type}} {{.TotalCount}}"])
            .ok()
            .text();
        assert!(df.contains("Images 1"), "{df}");
        assert!(df.contains("Cache Mounts 1"), "{df}");
        rbuild
            .run(["prune", "--all"])
            .fails()
            .says(&["Continue? [y/N]"])
            .says(&["nothing was removed"]);
        let said = rbuild.run(["prune", "--all", "--force"]).ok().text();
        assert!(said.contains("untagged: app:latest"), "{said}");
        for folder in ["blobs", "trees", "indexes", "mounts", "tmp", "locks"] {
            let left = files_below(&rbuild.store().join(folder));
            assert_eq!(left, Vec::<String>::new(), "{folder}");
        }
        assert_eq!(rbuild.run(["images", "-q"]).ok().text(), "");
        // And the store goes on.
        rbuild.build(&project).tag("app").ok();
    });
}

#[test]
fn pruning_keeps_what_named_images_need() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = |text: &str| {
        Project::with("FROM busybox\nRUN true > /first\nCOPY file /\nRUN cat /file > /last\n")
            .file("file", text)
    };
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project("1")).tag("app").ok();
    rbuild.build(&project("2")).ok();
    let said = rbuild.run(["prune", "-f"]).ok().text();
    assert!(said.contains("Deleted Images:"), "{said}");
    assert!(rbuild.build(&project("1")).tag("app").ok().ran().is_empty());
    let ran = rbuild.build(&project("2")).ok();
    assert_eq!(ran.ran(), ["COPY file /", "RUN cat /file > /last"]);
    let nothing_old = rbuild
        .run(["prune", "-f", "--filter", "until=1h"])
        .ok()
        .text();
    assert_eq!(nothing_old, "Total reclaimed space: 0B");
}

#[test]
fn diff_names_what_differs() {
    let rbuild = Rbuild::new(&User::Caller);
    let before = Project::with(
        "
        FROM scratch
        COPY --chmod=644 a /a
        COPY gone same /d/
        ENV V=1
        ",
    )
    .file("a", "a")
    .file("gone", "g")
    .file("same", "s");
    let after = Project::with(
        "
        FROM scratch
        COPY --chmod=755 a /a
        COPY same new /d/
        ENV V=2
        ",
    )
    .file("a", "x")
    .file("new", "new")
    .file("same", "s");
    rbuild.build(&before).tag("before").ok();
    rbuild.build(&after).tag("after").ok();
    let diff = rbuild.run(["diff", "before", "after"]).ok().text();
    assert_eq!(
        diff,
        "config  config.Env.V: \"1\" → \"2\"\n\
         layers  0 in common, then 2 → 2\n\
         M  /a  mode 0644 → 0755, content\n\
         D  /d/gone\n\
         A  /d/new  3B"
    );
    let same = rbuild.run(["diff", "--exit-code", "before", "before"]).ok();
    assert_eq!(same.text(), "no difference");
    let differ = rbuild.run(["diff", "--exit-code", "--name-only", "before", "after"]);
    assert_eq!(differ.status.code(), Some(1));
    assert_eq!(differ.text(), "/a\n/d/gone\n/d/new");
}

#[test]
fn layers_are_shown_with_their_waste() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN dd if=/dev/zero of=/big bs=1000 count=100 2>/dev/null
        RUN rm /big
        ",
    );
    let rbuild = Rbuild::new(&User::Caller);
    rbuild.build(&project).tag("app").ok();
    let json = rbuild
        .run(["inspect", "--layers", "--format", "json", "app"])
        .ok()
        .text();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Wasted"], 100_000);
    let layers = json["Layers"].as_array().unwrap();
    assert_eq!(layers[layers.len() - 2]["Wasted"], 100_000);
    assert_eq!(layers[layers.len() - 1]["Hidden"], 100_000);
    assert_eq!(layers[layers.len() - 1]["Removed"], 1);
    let text = rbuild.run(["inspect", "--layers", "app"]).ok().text();
    assert!(text.contains("wasted: 100.00kB"), "{text}");
}

#[test]
fn a_full_disk_can_be_pruned() {
    if !needs(&[Need::Root]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = small();
    // A disk of its own, filled to the last byte by something else.
    let script = format!(
        "mount -t tmpfs -o size=8m none {store}; \
         {rbuild} -t app {context} >/dev/null || exit 8; \
         cat /dev/zero > {store}/filler; {rbuild} -t other --no-cache {context} && exit 9; \
         {rbuild} prune --all --force",
        store = rbuild.store().display(),
        rbuild = env!("CARGO_BIN_EXE_rbuild"),
        context = project.path().display(),
    );
    let mut command = rbuild.command();
    command.env("SCRIPT", script);
    let mut shell = std::process::Command::new("unshare");
    shell
        .args(["--mount", "sh", "-c", "eval \"$SCRIPT\""])
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let finished = run_with_timeout(shell, None).ok();
    finished.says(&["no space left"]);
}
