//! What a step sees as `/`, and what it leaves in its upper directory.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use rbuild::sandbox::{HostPath, MountSource, SandboxMount, XattrNamespace};
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::support::{Fixture, bind, mount};
use super::{Case, has_many_ids};

pub(crate) const CASES: &[Case] = &[
    ("changes_go_to_the_upper_directory", upper),
    (
        "deletions_leave_whiteouts_and_opaque_directories",
        deletions,
    ),
    ("many_layers_stack", many_layers),
    ("no_layer_below", scratch),
    ("a_missing_layer_is_named", missing_layer),
    (
        "a_root_without_proc_is_refused",
        missing_standard_mount_point,
    ),
    ("bind_mounts", binds),
    ("mounts_from_other_layers", layers),
    ("mounts_of_passed_descriptors", descriptors),
    ("tmpfs_mounts", tmpfs),
    ("secret_files", files),
    ("mount_points_are_found_inside_the_root", hostile_targets),
    ("sources_are_found_inside_their_root", hostile_sources),
];

fn upper(fixture: &Fixture) {
    let ran =
        fixture.run(fixture.script("echo new > /etc/file; chmod 4750 /etc/file; mkdir -p /a/b"));
    ran.output();
    let metadata = std::fs::metadata(ran.upper.join("etc/file")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o4750);
    assert!(ran.upper.join("a/b").is_dir());
    let mut names: Vec<_> = std::fs::read_dir(&ran.upper)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "etc"], "nothing of /dev, /proc and /sys");
}

fn deletions(fixture: &Fixture) {
    let layer = fixture.directory("layer");
    std::fs::create_dir(layer.join("kept")).unwrap();
    std::fs::create_dir(layer.join("replaced")).unwrap();
    for file in ["kept/a", "kept/b", "replaced/c"] {
        std::fs::write(layer.join(file), file).unwrap();
    }
    let mut spec =
        fixture.script("rm /kept/a; rm -r /replaced; mkdir /replaced; ls /kept /replaced");
    spec.lower.insert(0, HostPath::from(layer));
    let ran = fixture.run(spec);
    assert_eq!(ran.output(), "/kept:\nb\n\n/replaced:");
    let whiteout = std::fs::symlink_metadata(ran.upper.join("kept/a")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    let name = match fixture.processes.xattr_namespace {
        XattrNamespace::Trusted => "trusted.overlay.opaque",
        XattrNamespace::User => "user.overlay.opaque",
    };
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(ran.upper.join("replaced"), name, &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

fn many_layers(fixture: &Fixture) {
    let mut spec = fixture.script("cat /which; ls /many | wc -l");
    // Long names, so that all of them together are longer than a page.
    let long = fixture.directory(&"l".repeat(200));
    for number in 0..150 {
        let layer = long.join(format!("{},:{number}", "x".repeat(200)));
        std::fs::create_dir_all(layer.join("many")).unwrap();
        std::fs::write(layer.join("which"), number.to_string()).unwrap();
        std::fs::write(layer.join(format!("many/{number}")), "").unwrap();
        spec.lower.insert(0, HostPath::from(layer));
    }
    assert_eq!(fixture.run(spec).output(), "149150");
    let mut spec = fixture.script("true");
    spec.lower = vec![HostPath::from(&fixture.base); 501];
    assert!(
        fixture
            .run(spec)
            .setup_failure()
            .contains("501 layers are more than the 500")
    );
}

fn scratch(fixture: &Fixture) {
    let mut spec = fixture.program(&[
        "/busybox",
        "sh",
        "-c",
        "/busybox echo hi > /file; /busybox ls /",
    ]);
    spec.lower.clear();
    let upper = spec.writable.upper.as_path().to_path_buf();
    for name in ["dev", "proc", "sys"] {
        std::fs::create_dir(upper.join(name)).unwrap();
    }
    std::fs::copy(fixture.base.join("bin/busybox"), upper.join("busybox")).unwrap();
    let ran = fixture.run(spec);
    assert_eq!(ran.output(), "busybox\ndev\nfile\nproc\nsys");
    assert_eq!(std::fs::read_to_string(upper.join("file")).unwrap(), "hi\n");
}

fn missing_layer(fixture: &Fixture) {
    let mut spec = fixture.script("true");
    spec.lower.push(HostPath::from("/not/a/layer"));
    assert_eq!(
        fixture.run(spec).setup_failure(),
        "can't set up the sandbox: can't mount an overlay `/not/a/layer`: No such file or directory (os error 2)"
    );
}

fn missing_standard_mount_point(fixture: &Fixture) {
    for (make_link, errno) in [(false, "No such file"), (true, "Not a directory")] {
        let mut spec = fixture.script("true");
        let layer = fixture.directory("layer");
        if make_link {
            symlink("/tmp", layer.join("proc")).unwrap();
        }
        spec.lower = vec![HostPath::from(layer)];
        let failure = fixture.run(spec).setup_failure();
        assert!(
            failure.contains("`proc`") && failure.contains(errno),
            "{failure}"
        );
    }
}

fn binds(fixture: &Fixture) {
    let source = fixture.directory("source");
    std::fs::write(source.join("file"), "content").unwrap();
    let mut spec = fixture.script(
        "cat /run/file; (echo x > /run/file) 2>&1 | grep -o Read-only; echo more > /tmp/new; cat /etc/hosts",
    );
    std::fs::create_dir(spec.writable.upper.as_path().join("etc")).unwrap();
    std::fs::write(spec.writable.upper.as_path().join("etc/hosts"), "").unwrap();
    spec.mounts = vec![
        bind(&source, "/run", true),
        bind(&source, "/tmp", false),
        bind(source.join("file"), "/etc/hosts", true),
    ];
    let ran = fixture.run(spec);
    assert_eq!(ran.output(), "contentRead-only\ncontent");
    assert_eq!(
        std::fs::read_to_string(source.join("new")).unwrap(),
        "more\n"
    );
    assert!(!ran.upper.join("tmp").exists());

    let mut spec = fixture.script("true");
    spec.mounts = vec![bind(&source, "/opt/missing", true)];
    assert_eq!(
        fixture.run(spec).setup_failure(),
        "can't set up the sandbox: there is no mount point `/opt/missing`: No such file or directory (os error 2)"
    );
    let mut spec = fixture.script("true");
    spec.mounts = vec![bind("/not/there", "/tmp", true)];
    assert_eq!(
        fixture.run(spec).setup_failure(),
        "can't set up the sandbox: can't mount the host's `/not/there`: No such file or directory (os error 2)"
    );
}

fn layers(fixture: &Fixture) {
    let (low, high) = (fixture.directory("low"), fixture.directory("high"));
    for layer in [&low, &high] {
        std::fs::create_dir_all(layer.join("app/bin")).unwrap();
    }
    std::fs::write(low.join("app/bin/tool"), "old").unwrap();
    std::fs::write(low.join("app/bin/other"), "other").unwrap();
    std::fs::write(high.join("app/bin/tool"), "new").unwrap();
    symlink("/app/bin", high.join("link")).unwrap();
    let lower = vec![HostPath::from(&high), HostPath::from(&low)];
    let stack = |lower: &[HostPath], path: &str| MountSource::Layers {
        lower: lower.to_vec(),
        writable: None,
        path: path.as_bytes().to_vec(),
    };
    let mut spec = fixture.script("cat /tmp/tool /tmp/other; ls /run; cat /root/bin/tool; for d in /tmp /run /root; do touch $d/x 2>&1 | grep -o Read-only; done");
    spec.mounts = vec![
        SandboxMount {
            read_only: true,
            ..mount(stack(&lower, "link"), "/tmp")
        },
        mount(stack(&lower, ""), "/run"),
        mount(stack(&lower[1..], "app"), "/root"),
    ];
    assert_eq!(
        fixture.run(spec).output(),
        "newotherapp\nlink\noldRead-only\nRead-only\nRead-only"
    );

    let writable = fixture.writable();
    let mut spec = fixture.script("rm /tmp/tool; echo changed > /tmp/other; ls /tmp");
    spec.mounts = vec![mount(
        MountSource::Layers {
            lower,
            writable: Some(writable.clone()),
            path: b"app/bin".to_vec(),
        },
        "/tmp",
    )];
    assert_eq!(fixture.run(spec).output(), "other");
    assert_eq!(
        std::fs::read_to_string(low.join("app/bin/other")).unwrap(),
        "other"
    );
    assert!(writable.upper.as_path().join("app/bin/other").exists());

    let mut spec = fixture.script("true");
    spec.mounts = vec![mount(stack(&[HostPath::from(&low)], "app/none"), "/tmp")];
    assert!(
        fixture
            .run(spec)
            .setup_failure()
            .contains("the layers hold no `app/none`")
    );
}

fn descriptors(fixture: &Fixture) {
    let source = fixture.directory("source");
    std::fs::write(source.join("file"), "content").unwrap();
    let open =
        |path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut spec = fixture.script("cat /tmp/file; cat /run/only; echo x > /tmp/file");
    spec.mounts = vec![
        mount(
            MountSource::Descriptor {
                index: 1,
                recursive: false,
            },
            "/tmp",
        ),
        mount(
            MountSource::Tmpfs {
                executable: true,
                size: None,
                mode: 0o755,
            },
            "/run",
        ),
        mount(
            MountSource::Descriptor {
                index: 0,
                recursive: false,
            },
            "/run/only",
        ),
    ];
    let passed = vec![open(source.join("file")), open(source.clone())];
    assert_eq!(
        fixture.run_with(spec, None, passed).output(),
        "contentcontent"
    );
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "x\n");

    let mut spec = fixture.script("true");
    spec.mounts = vec![mount(
        MountSource::Descriptor {
            index: 3,
            recursive: false,
        },
        "/tmp",
    )];
    assert_eq!(
        fixture.run(spec).setup_failure(),
        "can't set up the sandbox: descriptor 3 of 0 passed ones is asked for"
    );

    let mut spec = fixture.script("true");
    let twice = || MountSource::Descriptor {
        index: 0,
        recursive: false,
    };
    spec.mounts = vec![mount(twice(), "/tmp"), mount(twice(), "/run")];
    assert_eq!(
        fixture
            .run_with(spec, None, vec![open(source)])
            .setup_failure(),
        "can't set up the sandbox: passed descriptor 0 is to be mounted twice"
    );
}

fn tmpfs(fixture: &Fixture) {
    let mut spec = fixture.script(
        "stat -c %a /tmp; df -k /tmp | awk 'NR==2 {print $2}'; echo x > /tmp/y; grep ' /tmp ' /proc/mounts | grep -c nosuid; ls -d /run/a/b",
    );
    spec.mounts = vec![
        mount(
            MountSource::Tmpfs {
                executable: true,
                size: Some(1 << 20),
                mode: 0o1770,
            },
            "/tmp",
        ),
        mount(
            MountSource::Tmpfs {
                executable: true,
                size: None,
                mode: 0o755,
            },
            "/run",
        ),
        // Below another mount, mount points are made.
        mount(
            MountSource::Tmpfs {
                executable: true,
                size: None,
                mode: 0o755,
            },
            "/run/a/b",
        ),
    ];
    let ran = fixture.run(spec);
    assert_eq!(ran.output(), "1770\n1024\n1\n/run/a/b");
    assert!(!ran.upper.join("tmp").exists() && !ran.upper.join("run").exists());
}

fn secret(content: &[u8]) -> OwnedFd {
    let secret = rustix::fs::memfd_create("secret", MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(secret);
    file.write_all(content).unwrap();
    file.into()
}

fn files(fixture: &Fixture) {
    let owner = if has_many_ids(fixture) { 7 } else { 0 };
    let mut spec = fixture.script(
        "cat /run/one; wc -c < /run/two; stat -c '%a %u:%g' /run/one /run/two; (echo x > /run/one) 2>&1 | grep -c Read-only",
    );
    let tmpfs = MountSource::Tmpfs {
        executable: true,
        size: None,
        mode: 0o755,
    };
    let file = |index, mode| MountSource::File {
        is_secret: true,
        index,
        mode,
        uid: owner,
        gid: owner,
    };
    spec.mounts = vec![
        mount(tmpfs, "/run"),
        SandboxMount {
            read_only: true,
            ..mount(file(1, 0o400), "/run/one")
        },
        mount(file(0, 0o644), "/run/two"),
    ];
    let passed = vec![secret(&vec![b'x'; 300_000]), secret(b"hidden\n")];
    let ran = fixture.run_with(spec, None, passed);
    assert_eq!(
        ran.output(),
        format!("hidden\n300000\n400 {owner}:{owner}\n644 {owner}:{owner}\n1")
    );
    assert!(!ran.upper.join("run").exists());
    if !has_many_ids(fixture) {
        let mut spec = fixture.script("true");
        let file = MountSource::File {
            is_secret: true,
            index: 0,
            mode: 0o400,
            uid: 7,
            gid: 7,
        };
        spec.mounts = vec![mount(file, "/tmp")];
        let failure = fixture
            .run_with(spec, None, vec![secret(b"")])
            .setup_failure();
        assert!(
            failure.contains("the wanted owner is not mapped"),
            "{failure}"
        );
    }
}

fn hostile_targets(fixture: &Fixture) {
    let source = fixture.directory("source");
    std::fs::write(source.join("inside"), "").unwrap();
    let victim = fixture.directory("victim");
    for target in ["/escape", "/up/../escape", "../../escape"] {
        let mut spec = fixture.script("ls /escape");
        let upper = spec.writable.upper.as_path().to_path_buf();
        // The same path exists inside, so that the mount can succeed there only.
        let inside = victim.strip_prefix("/").unwrap();
        std::fs::create_dir_all(upper.join(inside)).unwrap();
        std::fs::create_dir(upper.join("up")).unwrap();
        symlink(&victim, upper.join("escape")).unwrap();
        spec.mounts = vec![bind(&source, target, false)];
        assert_eq!(fixture.run(spec).output(), "inside", "{target}");
    }
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    // Not even through the kernel's own links.
    let mut spec = fixture.script("true");
    spec.mounts = vec![bind(&source, "/proc/1/root/tmp", false)];
    assert!(
        fixture
            .run(spec)
            .setup_failure()
            .contains("/proc/1/root/tmp")
    );
}

fn hostile_sources(fixture: &Fixture) {
    let context = fixture.directory("context");
    symlink("/etc/passwd", context.join("escape")).unwrap();
    std::fs::create_dir(context.join("etc")).unwrap();
    std::fs::write(context.join("etc/passwd"), "of the context").unwrap();
    let mut spec = fixture.script("cat /run/passwd");
    spec.mounts = vec![
        mount(
            MountSource::Tmpfs {
                executable: true,
                size: None,
                mode: 0o755,
            },
            "/run",
        ),
        mount(
            MountSource::Path {
                root: HostPath::from(context),
                path: b"../../escape".to_vec(),
                recursive: false,
            },
            "/run/passwd",
        ),
    ];
    assert_eq!(fixture.run(spec).output(), "of the context");
}
