//! Steps that attack their sandbox, whoever answers for the kernel in it, and the machine behind.
//! What they do is in `attacks.c`; what must come of it is here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild::sandbox::{
    HostPath, Isolation, MountSource, NotedOwners, Outcome, Running, SandboxMount, SandboxSpec,
};

use super::Case;
use super::support::{Fixture, Ran, bind, mount, processes_with};

pub(crate) const CASES: &[Case] = &[
    ("a_note_on_an_owner_is_never_forged", forge),
    ("a_name_that_changes_while_it_is_read_forges_no_note", race),
    (
        "pointers_that_lead_nowhere_get_the_kernels_errors",
        pointers,
    ),
    ("every_name_of_a_file_leads_to_that_file", names),
    ("links_are_followed_in_the_asking_processs_root", jail),
    ("links_of_process_1_lead_nobody_out", magic),
    ("process_1_is_out_of_reach_and_goes_on", init_process),
    ("nobody_else_answers_for_the_kernel", listener),
    ("a_flood_of_questions_is_answered", flood),
    ("a_fork_bomb_ends_with_its_step", bomb),
    ("a_step_that_cripples_process_1_hurts_itself_alone", cripple),
    ("nothing_is_noted_on_what_is_read_only", read_only_binds),
    (
        "a_source_that_is_swapped_for_a_link_stays_inside",
        swapped_sources,
    ),
    ("masks_hold_while_their_place_is_swapped", swapped_devices),
    ("masks_hold_on_an_image_of_links", devices_of_the_image),
];

const NOTE: &str = "user.containers.override_stat";

/// Whether calls of steps are answered by a supervisor here.
fn is_supervised(fixture: &Fixture) -> bool {
    fixture.processes.isolation == Isolation::UserNamespaceSingle
}

/// A step that attacks, as a build would run it.
fn attack(fixture: &Fixture, words: &[&str]) -> SandboxSpec {
    let mut spec = fixture.program(&[&["/bin/attacks"], words].concat());
    if is_supervised(fixture) {
        spec.owners = Some(NotedOwners {
            names: None,
            noted: Vec::new(),
            notes: 0,
            stand_in: None,
        });
    }
    spec
}

/// Runs it. What it needs beside is passed along.
fn run(fixture: &Fixture, spec: SandboxSpec) -> Ran {
    let passed = notes(fixture);
    fixture.run_with(spec, None, passed)
}

fn notes(fixture: &Fixture) -> Vec<std::os::fd::OwnedFd> {
    if !is_supervised(fixture) {
        return Vec::new();
    }
    let folder = fixture.directory("notes");
    vec![std::fs::File::create(folder.join("notes")).unwrap().into()]
}

/// What an attack printed: `WORD RESULT` a line; of two lines with the same word, both results.
fn results(output: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut results: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in output.lines() {
        let (word, result) = line.split_once(' ').unwrap_or((line, ""));
        results.entry(word).or_default().push(result);
    }
    results
}

fn note(path: &Path) -> Option<String> {
    let mut value = [0_u8; 256];
    let length = rustix::fs::lgetxattr(path, NOTE, &mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// An empty file in the folder that a step writes to.
fn with_file(spec: &SandboxSpec, name: &str) -> std::path::PathBuf {
    let path = spec.writable.upper.as_path().join(name);
    std::fs::write(&path, "").unwrap();
    path
}

fn forge(fixture: &Fixture) {
    if !is_supervised(fixture) || !fixture.has_attacks {
        return;
    }
    let mut spec = attack(fixture, &[]);
    spec.args = [
        "/bin/sh",
        "-c",
        "chown 7:8 /noted; for f in /noted /bare; do attacks forge $f; done",
    ]
    .map(str::to_owned)
    .to_vec();
    let (noted, bare) = (with_file(&spec, "noted"), with_file(&spec, "bare"));
    let ran = run(fixture, spec);
    let results = results(ran.output());
    assert!(results.len() >= 11, "{results:?}");
    for (call, results) in results {
        for result in results {
            assert!(result == "EPERM" || result == "ENOSYS", "{call}: {result}");
        }
    }
    assert_eq!(note(&noted).as_deref(), Some("7:8:0644:file"));
    assert_eq!(note(&bare), None);
}

fn race(fixture: &Fixture) {
    if !is_supervised(fixture) || !fixture.has_attacks {
        return;
    }
    let spec = attack(fixture, &["race", "/file", "1.5"]);
    let file = with_file(&spec, "file");
    assert_eq!(run(fixture, spec).output(), "tried 1, innocent 1");
    assert_eq!(note(&file), None);
}

fn pointers(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let spec = attack(fixture, &["pointers", "/file"]);
    with_file(&spec, "file");
    let ran = run(fixture, spec);
    let expected = "\
        null EFAULT\nlow EFAULT\nkernel EFAULT\nminus-one EFAULT\nends-with-page done\n\
        ends-with-page 5:6\nruns-off-page EFAULT\nstat-null EFAULT\nstat-nowhere EFAULT\n\
        stat-unwritable EFAULT\nxattr-name EFAULT\nxattr-value EFAULT\n\
        xattr-huge Argument list too long\nempty ENOENT\ndescriptor EBADF\ndescriptor-far EBADF\n\
        4095 done\n4095 7:8\n4096 ENAMETOOLONG\nnot-dumpable done\nnot-dumpable 9:10";
    assert_eq!(ran.output(), expected);
}

fn names(fixture: &Fixture) {
    if !fixture.has_attacks || !fixture.has_own_proc() {
        return;
    }
    let ran = run(fixture, attack(fixture, &["names"]));
    let results = results(ran.output());
    let mut expected: BTreeMap<String, String> = (0..11)
        .map(|index| {
            (
                format!("name-{index}"),
                format!("{}:{}", 100 + index, 200 + index),
            )
        })
        .collect();
    let others = [
        ("at", "21:22"),
        ("empty-path", "23:24"),
        ("thread", "31:32"),
    ];
    let old = [("i386", "41:42"), ("i386-narrow", "43:42")];
    let old: &[_] = if cfg!(target_arch = "x86_64") {
        &old
    } else {
        &[]
    };
    for (name, owner) in others.iter().chain(old) {
        expected.insert((*name).to_owned(), (*owner).to_owned());
    }
    let got: BTreeMap<String, String> = results
        .into_iter()
        .map(|(name, results)| {
            assert_eq!(results.first(), Some(&"done"), "{name}");
            (name.to_owned(), results[1..].concat())
        })
        .collect();
    assert_eq!(got, expected);
}

fn jail(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let ran = run(fixture, attack(fixture, &["jail"]));
    assert_eq!(
        ran.output(),
        "link done\nlink 50:51\nclimb done\nclimb 52:53\nparents done\nparents 54:55\n\
         outside 0:0\ninside 54:55"
    );
}

fn magic(fixture: &Fixture) {
    use std::os::unix::fs::MetadataExt;
    if !fixture.has_attacks {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mode = std::fs::metadata(&program).unwrap().mode();
    let ran = run(fixture, attack(fixture, &["magic"]));
    assert_eq!(ran.output(), "tried 1, done 0");
    assert_eq!(std::fs::metadata(&program).unwrap().mode(), mode);
    assert_eq!(note(&program), None);
}

fn init_process(fixture: &Fixture) {
    if !fixture.has_attacks || !fixture.has_own_proc() {
        return;
    }
    let ran = run(fixture, attack(fixture, &["init"]));
    let results = results(ran.output());
    for (word, result) in &results {
        match *word {
            "chown" => assert_eq!(result, &["done", "3:4"]),
            _ => assert!(
                ["EPERM", "EACCES", "ENOSYS"].contains(&result[0]),
                "{word} {result:?}"
            ),
        }
    }
    assert_eq!(results.len(), 9, "{results:?}");
}

fn listener(fixture: &Fixture) {
    if !is_supervised(fixture) || !fixture.has_attacks {
        return;
    }
    let ran = run(fixture, attack(fixture, &["listener"]));
    assert_eq!(ran.output(), "listener EBUSY");
}

fn flood(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let start = Instant::now();
    let ran = run(fixture, attack(fixture, &["flood", "200", "20"]));
    assert_eq!(ran.output(), "good 200");
    assert!(start.elapsed() < Duration::from_secs(60));
}

fn bomb(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let token = format!("bomb-{}", std::process::id());
    let mut spec = attack(fixture, &[]);
    let script = format!("attacks bomb 7 {token}; grep -l {token} /proc/[0-9]*/cmdline | wc -l");
    spec.args = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    let ran = run(fixture, spec);
    if fixture.has_own_proc() {
        let processes: usize = ran.output().parse().unwrap();
        assert!(processes >= 100, "{processes}");
    }
    assert_eq!(processes_with(&token), 0);
}

fn cripple(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let ran = run(fixture, attack(fixture, &["cripple"]));
    assert!(ran.stdout.starts_with("limits "), "{:?}", ran.stdout);
    assert!(
        !matches!(ran.outcome, Outcome::SetupFailed(_)),
        "{:?}",
        ran.outcome
    );
    // Later ones are as they were.
    let spec = attack(fixture, &["chown", "/file", "5", "6"]);
    with_file(&spec, "file");
    assert_eq!(run(fixture, spec).output(), "chown done");
}

fn read_only_binds(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let folder = fixture.directory("read-only");
    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    let mut spec = attack(fixture, &["chown", "/run/file", "5", "6"]);
    spec.mounts.push(bind(&folder, "/run", true));
    assert_eq!(run(fixture, spec).output(), "chown EROFS");
    assert_eq!(note(&file), None);
}

/// Starts a step that has two names of a folder change places, and waits until it does.
fn start_swapping(fixture: &Fixture, folder: &Path, one: &str, other: &str) -> Running {
    let words = ["swap", &format!("/run/{one}"), &format!("/run/{other}")];
    let mut spec = fixture.program(&[&["/bin/attacks"], &words[..]].concat());
    spec.mounts.push(bind(folder, "/run", false));
    let (running, stdout, _) = fixture.start(spec, None, Vec::new());
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    running
}

fn swapped_sources(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let victim = fixture.directory("victim");
    std::fs::create_dir(victim.join("data")).unwrap();
    std::fs::write(victim.join("data/of-the-machine"), "").unwrap();
    for (kind, target) in [
        ("absolute", victim.clone()),
        (
            "climbing",
            Path::new("../../../../../../../..").join(victim.strip_prefix("/").unwrap()),
        ),
        (
            "magic",
            Path::new("/proc/self/cwd").join(victim.strip_prefix("/").unwrap()),
        ),
    ] {
        let cache = fixture.directory("cache");
        std::fs::create_dir_all(cache.join("d/data")).unwrap();
        std::fs::write(cache.join("d/data/inside"), "").unwrap();
        symlink(&target, cache.join("l")).unwrap();
        let swapping = start_swapping(fixture, &cache, "d", "l");
        let (mut seen, mut refused) = (0, 0);
        let begun = Instant::now();
        while (seen < 5 || refused < 5) && begun.elapsed() < Duration::from_secs(20) {
            let mut spec = fixture.script("ls /tmp");
            let source = MountSource::Path {
                root: HostPath::from(&cache),
                path: b"d/data".to_vec(),
                recursive: true,
            };
            spec.mounts.push(mount(source, "/tmp"));
            let ran = fixture.run(spec);
            match ran.outcome {
                Outcome::SetupFailed(_) => refused += 1,
                _ => {
                    assert_eq!(ran.output(), "inside", "{kind}");
                    seen += 1;
                }
            }
        }
        swapping.kill();
        swapping.wait().unwrap();
        assert!(
            seen > 0 && refused > 0,
            "{kind}: no race, {seen} seen, {refused} refused"
        );
    }
}

fn swapped_devices(fixture: &Fixture) {
    if !fixture.has_attacks {
        return;
    }
    let dev = fixture.directory("dev");
    std::fs::write(dev.join("null"), "").unwrap();
    symlink("/proc/sys/kernel/domainname", dev.join("l")).unwrap();
    let swapping = start_swapping(fixture, &dev, "null", "l");
    for _ in 0..25 {
        let script = "cat /proc/keys /proc/kcore /proc/timer_list 2>/dev/null | head -c 1 | wc -c; \
            (echo x > /proc/sys/kernel/domainname) 2>&1 | grep -c -e Read-only -e denied";
        let mut spec = fixture.script(script);
        spec.mounts.push(bind(&dev, "/dev", false));
        assert_eq!(fixture.run(spec).output(), "0\n1");
    }
    swapping.kill();
    swapping.wait().unwrap();
}

fn devices_of_the_image(fixture: &Fixture) {
    let layer = fixture.directory("links");
    for folder in ["dev", "etc"] {
        std::fs::create_dir(layer.join(folder)).unwrap();
    }
    let victim = fixture.directory("victim");
    for name in [
        "null", "console", "pts", "shm", "mqueue", "ptmx", "stdin", "fd", "core", "tty",
    ] {
        symlink(&victim, layer.join("dev").join(name)).unwrap();
    }
    symlink("/proc/self/attr/current", layer.join("dev/zero")).unwrap();
    let mut spec = fixture.script(
        "stat -c '%t:%T' /dev/null /dev/zero; ls -d /dev/pts/ptmx; readlink /dev/console; \
         head -c 1 /proc/kcore 2>/dev/null | wc -c; touch /sys/x 2>&1 | grep -c Read-only",
    );
    spec.lower.insert(0, HostPath::from(layer));
    spec.mounts.push(SandboxMount {
        target: b"/dev/shm".to_vec(),
        source: MountSource::Tmpfs {
            size: None,
            mode: 0o755,
            executable: false,
        },
        read_only: false,
    });
    assert_eq!(fixture.run(spec).output(), "1:3\n1:5\n/dev/pts/ptmx\n0\n1");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
}
