//! The same input gives the same bytes.

use serde_json::json;

use crate::support::{Image, Need, Project, Rbuild, User, each_user, needs};

const EPOCH: &str = "1500000000";

fn diff_ids(image: &Image) -> Vec<&str> {
    image
        .layers
        .iter()
        .map(|layer| layer.diff_id.as_str())
        .collect()
}

fn blobs(image: &Image) -> Vec<&str> {
    image
        .layers
        .iter()
        .map(|layer| layer.blob.as_str())
        .collect()
}

/// Layers of FROM, COPY, ADD and WORKDIR steps, twice from an empty store. WORKDIR's new folders
/// carry the time of the build, unless SOURCE_DATE_EPOCH says one; so it goes last.
#[test]
fn layers_of_copied_files_are_equal() {
    let archive = Project::new()
        .file("packed/x", "x")
        .mtime("packed/x", 77)
        .tar();
    let project = Project::with(
        "
        FROM scratch
        COPY . /all/
        COPY --chown=1:2 --chmod=640 dir/a /new/folder/
        ADD packed.tar /unpacked/
        ",
    )
    .file("dir/a", "a")
    .file("dir/b", "b".repeat(3_000_000))
    .symlink("dir/link", "a")
    .file("packed.tar", archive);
    each_user(|user| {
        let once = Rbuild::new(user).build(&project).image();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let again = Rbuild::new(user).build(&project).image();
        assert_eq!(diff_ids(&once), diff_ids(&again));
        assert_eq!(blobs(&once), blobs(&again));
    });
}

#[test]
fn workdir_layers_are_equal() {
    let project = Project::with(
        "
        FROM scratch
        WORKDIR /made/by/workdir
        ",
    );
    each_user(|user| {
        let once = Rbuild::new(user).build(&project).image();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let again = Rbuild::new(user).build(&project).image();
        assert_eq!(diff_ids(&once), diff_ids(&again));
    });
}

/// A Dockerfile that depends on nothing but its input.
fn deterministic() -> Project {
    Project::with(
        r#"
        FROM busybox AS tools
        RUN mkdir -p /out/sub && seq 100000 > /out/numbers && ln /out/numbers /out/sub/again
        FROM busybox
        WORKDIR /srv/app
        COPY . .
        COPY --from=tools /out/ ./out/
        ADD dir/ /new/place/
        RUN for i in 1 2 3; do echo $i > /srv/app/$i; done; rm /etc/group; mkdir /var/made
        RUN touch /tmp/x && rm /tmp/x
        ENV A=1
        CMD ["true"]
        "#,
    )
    .file("a.txt", "a")
    .file("dir/b", "b")
    .symlink("link", "a.txt")
}

#[test]
fn with_an_epoch_the_whole_image_is_equal() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let build = || {
            Rbuild::new(user)
                .build(&deterministic())
                .env("SOURCE_DATE_EPOCH", EPOCH)
                .image_with_output("type=oci,rewrite-timestamp=true")
                .0
        };
        let once = build();
        // Another context: other inodes, other times of the files.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let again = build();
        assert_eq!(once.config, again.config);
        assert_eq!(once.digest, again.digest);
        assert_eq!(once.config["created"], "2017-07-14T02:40:00Z");
        for entry in &once.config["history"].as_array().unwrap()[1..] {
            assert_eq!(entry["created"], "2017-07-14T02:40:00Z", "{entry}");
        }
        for layer in once.own_layers() {
            for entry in &layer.entries {
                assert!(entry.mtime <= 1_500_000_000, "{entry:?}");
            }
        }
        // Times of the base are never touched: its layer keeps its bytes.
        let base = Rbuild::new(user)
            .build(&Project::with("FROM busybox\n"))
            .image();
        assert_eq!(base.layers[0].blob, once.layers[0].blob);
    });
}

#[test]
fn root_and_others_make_the_same_image() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = deterministic();
    let digests = std::cell::RefCell::new(Vec::new());
    each_user(|user| {
        let (image, _) = Rbuild::new(user)
            .build(&project)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .image_with_output("type=oci,rewrite-timestamp=true");
        digests.borrow_mut().push(image.digest);
    });
    assert!(
        digests.borrow().windows(2).all(|pair| pair[0] == pair[1]),
        "{digests:?}"
    );
}

#[test]
fn an_epoch_can_be_a_build_argument() {
    let project = Project::with(
        "
        FROM scratch
        WORKDIR /made
        COPY new /new
        ARG SOURCE_DATE_EPOCH
        LABEL epoch=$SOURCE_DATE_EPOCH
        ",
    )
    .file("new", "new");
    let rbuild = Rbuild::new(&User::Caller);
    let build = || {
        rbuild
            .build(&project)
            .build_arg(&format!("SOURCE_DATE_EPOCH={EPOCH}"))
            .env("SOURCE_DATE_EPOCH", "5")
    };
    let image = build().image();
    assert_eq!(
        image.config["created"], "2017-07-14T02:40:00Z",
        "the argument goes first"
    );
    assert_eq!(image.setting("Labels"), &json!({"epoch": EPOCH}));
    let tree = image.tree();
    assert_eq!(tree.get("made").mtime, 1_500_000_000);
    assert!(
        tree.get("new").mtime > 1_500_000_000,
        "files keep their times without being asked"
    );
    let (clamped, _) = build().image_with_output("type=oci,rewrite-timestamp=true");
    assert_eq!(clamped.tree().get("new").mtime, 1_500_000_000);
}

#[test]
fn older_times_are_not_raised_to_the_epoch() {
    let project = Project::with(
        "
        FROM scratch
        COPY old new /files/
        ",
    )
    .file("old", "old")
    .mtime("old", 1_000_000_000)
    .file("new", "new");
    let (image, _) = Rbuild::new(&User::Caller)
        .build(&project)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .image_with_output("type=oci,rewrite-timestamp=true");
    let tree = image.tree();
    assert_eq!(tree.get("files/old").mtime, 1_000_000_000);
    assert_eq!(tree.get("files/new").mtime, 1_500_000_000);
}

/// Compression splits the work over the cores; the bytes don't show how many there were.
#[test]
fn the_number_of_cores_does_not_matter() {
    if !needs(&[Need::Program("taskset")]) {
        return;
    }
    let text: String = (0..400_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let project = Project::with("FROM scratch\nCOPY big /big\n").file("big", text);
    let image = |cores: &str| {
        let rbuild = Rbuild::new(&User::Caller);
        let file = rbuild.out().join("image.tar");
        let build = rbuild
            .build(&project)
            .args(["-o", &format!("type=oci,dest={}", file.display())])
            .command();
        let mut command = std::process::Command::new("taskset");
        command.args(["--cpu-list", cores]).arg(build.get_program());
        command.args(build.get_args());
        command.envs(
            build
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        crate::support::run_with_timeout(command, None).ok();
        Image::read(&file)
    };
    let all = Rbuild::new(&User::Caller).build(&project).image();
    assert_eq!(blobs(&image("0")), blobs(&all));
}
