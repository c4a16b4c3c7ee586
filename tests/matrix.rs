//! The same builds in every place that rbuild is made for, each place real: users with and without
//! subordinate ids, containers by podman. What a build gives doesn't depend on where it ran: the
//! images have the config and the files (path, kind, owner, mode, content, links, devices,
//! attributes) that root's have. What differs nevertheless stands in [`DIFFERENCES`] with its reason,
//! and in `docs/isolation.md`; nothing else is tolerated, and neither is a difference that is gone.
//!
//! `testdata/matrix` holds the builds. `RBUILD_TEST_CASES=users` builds those whose file or title
//! holds that, `RBUILD_TEST_PLACES=root,stranger` in these places (root's are always built, for they are
//! what is compared with); `RBUILD_TEST_UPDATE=1` writes down what root's gave.

mod comparison;
mod differences;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use self::comparison::{alike, check, update};
use self::differences::DIFFERENCES;
use crate::language_cases::{assert_no_title_twice, in_parallel};
use crate::real_dockerfiles::{machine_apt_settings, proxy_arguments};
use crate::support::{
    Case, CaseFile, Image, Need, Podman, User, as_other_user, base_image_mirror, needs, repository,
    run_with_timeout,
};

/// Somewhere to build.
struct Place {
    name: &'static str,
    /// What `rbuild doctor` must say that a build uses there; `None` where no step runs.
    rung: &'static str,
    at: At,
}

/// How a program is started there.
enum At {
    /// As the user who runs the tests.
    Root,
    /// As the unprivileged user with subordinate ids.
    Subordinate,
    /// As a user whom nobody knows.
    Stranger,
    /// In a container.
    Container {
        /// Where the store is: in the container's own file system, or on a volume.
        store: Store,
        filter: Filter,
        /// More of podman's options.
        options: &'static [&'static str],
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Own,
    Volume,
}

/// The system calls that a container engine lets through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Podman's own, which forbids no namespaces.
    Podman,
    /// Docker's, where namespaces and mounts need `CAP_SYS_ADMIN`.
    Docker,
}

/// Every place; the first is what the others are compared with.
const PLACES: &[Place] = &[
    Place {
        name: "root",
        rung: "root",
        at: At::Root,
    },
    Place {
        name: "subordinate",
        rung: "userns",
        at: At::Subordinate,
    },
    Place {
        name: "stranger",
        rung: "userns-single",
        at: At::Stranger,
    },
    Place {
        name: "container",
        rung: "userns",
        at: At::Container {
            store: Store::Own,
            filter: Filter::Podman,
            options: &[],
        },
    },
    Place {
        name: "container-volume",
        rung: "userns",
        at: At::Container {
            store: Store::Volume,
            filter: Filter::Podman,
            options: &[],
        },
    },
    Place {
        name: "stock-container",
        rung: "chroot",
        at: At::Container {
            store: Store::Own,
            filter: Filter::Docker,
            // What Docker gives and podman doesn't.
            options: &["--cap-add=mknod,net_raw,audit_write"],
        },
    },
    Place {
        name: "stock-container-without-mknod",
        rung: "chroot",
        at: At::Container {
            store: Store::Volume,
            filter: Filter::Docker,
            options: &["--cap-drop=mknod"],
        },
    },
    Place {
        name: "nothing-allowed",
        rung: "none",
        at: At::Container {
            store: Store::Own,
            filter: Filter::Docker,
            options: &[
                "--user=64243:64243",
                "--cap-drop=all",
                "--security-opt=no-new-privileges",
            ],
        },
    },
];

/// Builds the cases named on its command line's folder, one after the other, whatever comes of them.
const SCRIPT: &str = r#"
folder=$1 out=$2 store=$3; shift 3
umask 022
export RBUILD_ROOT="$store" HOME="$out"
"$folder/rbuild" doctor --json >"$out/doctor.json" 2>"$out/doctor.log"
for context in "$folder"/cases/*/; do (
    case=$(basename "$context")
    while read -r word; do set -- "$@" "$word"; done <"$folder/cases/$case.args"
    "$folder/rbuild" build --progress plain "$@" -o "type=oci,dest=$out/$case.tar" "$context" \
        >"$out/$case.log" 2>&1 </dev/null
    echo $? >"$out/$case.status"
) done
"#;

/// What came of one build.
struct Built {
    code: i32,
    log: String,
    image: Option<Image>,
}

const NEEDED: [Need; 6] = [
    Need::Root,
    Need::BaseImages,
    Need::PackageMirror,
    Need::Program("podman"),
    Need::Program("runc"),
    Need::Program("setpriv"),
];

#[test]
fn every_place_gives_the_images_that_root_gives() {
    if !needs(&NEEDED) {
        return;
    }
    let mut files = CaseFile::all(&repository().join("testdata/matrix"));
    assert_no_title_twice(&files);
    let cases: Vec<(usize, Case)> = chosen(&files);
    let bench = Bench::new(cases.iter().map(|(_, case)| case));
    let chosen_places = std::env::var("RBUILD_TEST_PLACES").ok();
    let places: Vec<&Place> = PLACES
        .iter()
        .enumerate()
        .filter(|(at, place)| {
            let is_named = |names: &String| names.split(',').any(|name| name == place.name);
            *at == 0 || chosen_places.as_ref().is_none_or(is_named)
        })
        .map(|(_, place)| place)
        .collect();
    let ran = in_parallel(&places, |place| bench.run(place));
    let mut wrong = String::new();
    let there: Vec<&Place> = places
        .iter()
        .zip(ran)
        .filter_map(|(place, ran)| match ran {
            Ok(true) => Some(*place),
            Ok(false) => None,
            Err(message) => {
                writeln!(wrong, "{}:\n{message}", place.name).unwrap();
                None
            }
        })
        .collect();
    let is_update = std::env::var_os("RBUILD_TEST_UPDATE").is_some();
    if is_update {
        for (number, (file, case)) in cases.iter().enumerate() {
            update(
                &mut files[*file],
                case,
                &bench.built(PLACES[0].name, number),
            );
        }
    }
    let numbers: Vec<usize> = (0..cases.len()).collect();
    let compared = in_parallel(&numbers, |number| {
        let (file, case) = &cases[*number];
        let at = format!("{}: {}", files[*file].name, case.title);
        let mut wrong = String::new();
        let root = bench.built(PLACES[0].name, *number);
        if !is_update {
            check(case, &root, &at, &mut wrong);
        }
        for place in there.iter().filter(|place| place.name != PLACES[0].name) {
            let other = bench.built(place.name, *number);
            if let Err(message) = alike(place, case, &root, &other) {
                writeln!(wrong, "=== {at}: {}\n{message}", place.name).unwrap();
            }
        }
        wrong
    });
    wrong.extend(
        compared
            .into_iter()
            .map(|one| one.unwrap_or_else(|error| error)),
    );
    if is_update {
        for file in &files {
            let path = repository().join("testdata/matrix").join(&file.name);
            std::fs::write(path, file.text()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_difference_is_documented_and_of_a_case() {
    let files = CaseFile::all(&repository().join("testdata/matrix"));
    let cases: Vec<&Case> = files.iter().flat_map(|file| &file.cases).collect();
    assert!(cases.len() >= 40, "{} builds", cases.len());
    let page = std::fs::read_to_string(repository().join("docs/isolation.md")).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for difference in DIFFERENCES {
        let is_known = cases.iter().any(|case| case.title == difference.case);
        assert!(is_known, "no case `{}`", difference.case);
        assert!(
            page.contains(difference.reason),
            "docs/isolation.md doesn't say: {}",
            difference.reason
        );
    }
}

/// The cases to build, each with the number of its file.
fn chosen(files: &[CaseFile]) -> Vec<(usize, Case)> {
    let part = std::env::var("RBUILD_TEST_CASES").unwrap_or_default();
    let mut chosen = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let named = |case: &&Case| format!("{}: {}", file.name, case.title).contains(&part);
        chosen.extend(
            file.cases
                .iter()
                .filter(named)
                .map(|case| (at, case.clone())),
        );
    }
    chosen
}

/// Contexts, the program and what comes of them, in a folder that every place can see.
struct Bench {
    folder: tempfile::TempDir,
    podman: std::sync::OnceLock<Option<Podman>>,
}

impl Bench {
    fn new<'a>(cases: impl Iterator<Item = &'a Case>) -> Bench {
        let folder = tempfile::Builder::new()
            .prefix("rbuild-matrix-")
            .tempdir()
            .unwrap();
        let bench = Bench {
            folder,
            podman: std::sync::OnceLock::new(),
        };
        for name in ["", "cases", "out", "store"] {
            let path = bench.path(name);
            std::fs::create_dir_all(&path).unwrap();
            set_mode(&path, 0o755);
        }
        std::fs::copy(User::Caller.binary(), bench.path("rbuild")).unwrap();
        set_mode(&bench.path("rbuild"), 0o755);
        std::fs::write(bench.path("script"), SCRIPT).unwrap();
        set_mode(&bench.path("script"), 0o644);
        for (number, case) in cases.enumerate() {
            bench.add(number, case);
        }
        bench
    }

    /// Puts a case's context and arguments where the script finds them.
    fn add(&self, number: usize, case: &Case) {
        let place = self.path(&format!("cases/{number:02}"));
        let mut project = case.context(&User::Caller);
        if case.needs_packages() {
            project = project.file("machine.conf", machine_apt_settings());
        }
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(project.path()).arg(&place);
        run_with_timeout(copy, None).ok();
        let mut args = case.args(&place);
        if case.needs_packages() {
            args.extend(proxy_arguments());
        }
        let lines: String = args.iter().map(|word| format!("{word}\n")).collect();
        std::fs::write(place.with_extension("args"), lines).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Builds everything at a place and checks how steps were isolated; whether there is such a
    /// place here.
    fn run(&self, place: &Place) -> bool {
        let user = match place.at {
            At::Subordinate => {
                let mut found = None;
                as_other_user(|user| found = Some(user.clone()));
                let Some(user) = found else { return false };
                user
            }
            At::Stranger => User::stranger(),
            At::Root | At::Container { .. } => User::Caller,
        };
        let out = self.path(&format!("out/{}", place.name));
        let store = self.path(&format!("store/{}", place.name));
        for folder in [&out, &store] {
            std::fs::create_dir(folder).unwrap();
            user.own(folder);
        }
        let finished = if let At::Container {
            store: kind,
            filter,
            options,
        } = &place.at
        {
            // Whoever the container's user is.
            set_mode(&out, 0o777);
            set_mode(&store, 0o777);
            let store = match kind {
                Store::Volume => store.clone(),
                Store::Own => PathBuf::from("/tmp/store"),
            };
            let Some(podman) = self.podman() else {
                return false;
            };
            let mut args = self.container(*filter, options);
            args.extend(self.words(&out, &store));
            podman.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
        } else {
            let mut command = user.command("sh");
            command.args(&self.words(&out, &store)[1..]);
            run_with_timeout(command, None)
        };
        finished.ok();
        let report = std::fs::read_to_string(out.join("doctor.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let used = report["isolation"]["used"].as_str().unwrap_or("none");
        assert_eq!(used, place.rung, "{report:#}");
        true
    }

    /// The command that builds everything.
    fn words(&self, out: &Path, store: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "sh".to_owned(),
            text(&self.path("script")),
            text(self.folder.path()),
            text(out),
            text(store),
            "--registry-mirror".to_owned(),
            base_image_mirror().unwrap().to_owned(),
        ]
    }

    /// Podman, with an image for the containers.
    fn podman(&self) -> Option<&Podman> {
        let make = || {
            let podman = Podman::with_storage("overlay")?;
            podman
                .run(&["pull", "--quiet", "--tls-verify=false", &base()])
                .ok();
            Some(podman)
        };
        self.podman.get_or_init(make).as_ref()
    }

    fn container(&self, filter: Filter, options: &[&str]) -> Vec<String> {
        let folder = self.folder.path().display();
        let mut args: Vec<String> = ["run", "--rm", "--network=host"]
            .into_iter()
            .chain(["--ulimit=nofile=16384:16384", "--ulimit=nproc=16384:16384"])
            .chain(options.iter().copied())
            .map(str::to_owned)
            .collect();
        args.push(format!("--volume={folder}:{folder}"));
        if filter == Filter::Docker {
            let profile = self.path("docker.json");
            std::fs::write(&profile, docker_profile().to_string()).unwrap();
            args.push(format!("--security-opt=seccomp={}", profile.display()));
        }
        args.push(base());
        args
    }

    /// What a place made of a case.
    fn built(&self, place: &str, number: usize) -> Built {
        let file = |ending: &str| self.path(&format!("out/{place}/{number:02}.{ending}"));
        let read = |ending: &str| std::fs::read(file(ending)).unwrap_or_default();
        let code = String::from_utf8_lossy(&read("status")).trim().parse();
        let code = code.unwrap_or(-1);
        Built {
            code,
            log: String::from_utf8_lossy(&read("log")).into_owned(),
            image: (code == 0).then(|| Image::read(&file("tar"))),
        }
    }
}

/// The containers' image.
fn base() -> String {
    let mirror = base_image_mirror().unwrap();
    format!("{}/library/debian", mirror.trim_start_matches("http://"))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Docker's filter for a container without `CAP_SYS_ADMIN`, made of podman's, which differs in what
/// it says of namespaces and mounts.
fn docker_profile() -> Value {
    const PRIVILEGED: [&str; 18] = [
        "bpf",
        "clone",
        "clone3",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "perf_event_open",
        "pivot_root",
        "quotactl",
        "setns",
        "umount",
        "umount2",
        "unshare",
    ];
    let text = std::fs::read_to_string("/usr/share/containers/seccomp.json").unwrap();
    let mut profile: Value = serde_json::from_str(&text).unwrap();
    let rules = profile["syscalls"].as_array_mut().unwrap();
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| !PRIVILEGED.contains(&name.as_str().unwrap()));
    }
    rules.retain(|rule| !rule["names"].as_array().unwrap().is_empty());
    let refused: Vec<&str> = PRIVILEGED
        .into_iter()
        .filter(|name| !name.starts_with("clone"))
        .collect();
    let namespaces = 0x7e02_0000;
    rules.extend([
        serde_json::json!({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
        serde_json::json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
        serde_json::json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
    ]);
    profile
}
