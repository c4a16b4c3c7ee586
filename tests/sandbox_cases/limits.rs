//! What a step may not do: capabilities, system calls, hidden paths, network.

use rbuild::sandbox::{MountSource, Network, SandboxMount, Security};

use super::support::{Fixture, bind};
use super::{Case, has_many_ids};

pub(crate) const CASES: &[Case] = &[
    ("capabilities_are_dockers", capabilities),
    ("system_calls_are_filtered", system_calls),
    ("an_insecure_step_is_free", insecure),
    ("paths_of_the_kernel_are_hidden", masked),
    ("mounts_uncover_no_path_of_the_kernel", masked_below_mounts),
    ("paths_of_the_kernel_are_read_only", read_only),
    ("process_1_can_not_be_looked_into", process_1),
    ("network_none_has_loopback_only", network),
    ("devices", devices),
    ("device_nodes_lead_nowhere", device_nodes),
];

/// Lines of `/proc/self/status` by their names.
fn status(fixture: &Fixture, security: Security, uid: u32, name: &str) -> String {
    let mut spec = fixture.program(&[
        "sed",
        "-n",
        &format!("s/^{name}:\\s*//p"),
        "/proc/self/status",
    ]);
    spec.security = security;
    (spec.uid, spec.gid) = (uid, uid);
    fixture.run(spec).output().to_owned()
}

/// The same of this process.
fn own_status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.split(':').next() == Some(name));
    line.unwrap()[name.len() + 1..].trim().to_owned()
}

fn capabilities(fixture: &Fixture) {
    const DOCKER: &str = "00000000a80425fb";
    const EMPTY: &str = "0000000000000000";
    let of = |uid, name: &str| status(fixture, Security::Sandbox, uid, name);
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(of(0, name), DOCKER, "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(of(0, name), EMPTY, "{name}");
    }
    if has_many_ids(fixture) {
        for name in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(of(1000, name), EMPTY, "{name}");
        }
        assert_eq!(of(1000, "CapBnd"), DOCKER);
    }
}

fn system_calls(fixture: &Fixture) {
    assert_eq!(status(fixture, Security::Sandbox, 0, "Seccomp"), "2");
    // So that set-uid programs work, unless rbuild itself may not use them.
    assert_eq!(
        status(fixture, Security::Sandbox, 0, "NoNewPrivs"),
        own_status("NoNewPrivs")
    );
    for command in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "umount /proc",
        "dmesg",
    ] {
        let ran = fixture.run(fixture.script(&format!("{command} 2>&1")));
        assert!(
            ran.stdout.contains("ermission denied") || ran.stdout.contains("not permitted"),
            "{command}: {:?} {}",
            ran.outcome,
            ran.stdout
        );
    }
}

fn insecure(fixture: &Fixture) {
    for (name, own) in [("Seccomp", "Seccomp"), ("CapEff", "CapBnd")] {
        let insecure = status(fixture, Security::Insecure, 0, name);
        assert_eq!(insecure, own_status(own), "{name}");
    }
    let mut spec = fixture.script("mount -t tmpfs x /tmp && mount | grep -c ' /tmp '");
    spec.security = Security::Insecure;
    assert_eq!(fixture.run(spec).output(), "1");
}

fn masked(fixture: &Fixture) {
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/latency_stats",
    ] {
        if std::path::Path::new(path).exists() {
            assert_eq!(
                fixture.sh(&format!("head -c 1 {path} | wc -c")),
                "0",
                "{path}"
            );
        }
    }
    for path in [
        "/proc/acpi",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ] {
        if std::path::Path::new(path).exists() {
            assert_eq!(
                fixture.sh(&format!(
                    "ls -A {path}; touch {path}/x 2>&1 | grep -c Read-only"
                )),
                "1",
                "{path}"
            );
        }
    }
}

/// What hides a path is not looked up where a mount of the step's could have put something else.
fn masked_below_mounts(fixture: &Fixture) {
    let evil = fixture.directory("evil-dev");
    std::os::unix::fs::symlink("/proc/keys", evil.join("null")).unwrap();
    let mut spec = fixture.script("head -c 1 /proc/keys | wc -c; readlink /dev/null");
    spec.mounts.push(bind(evil, "/dev", false));
    assert_eq!(fixture.run(spec).output(), "0\n/proc/keys");
}

fn read_only(fixture: &Fixture) {
    for path in [
        "/proc/sys/kernel/domainname",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ] {
        if std::path::Path::new(path).exists() {
            let refused = fixture.sh(&format!(
                "(echo x > {path}) 2>&1 | grep -c -e Read-only -e denied"
            ));
            assert_eq!(refused, "1", "{path}");
        }
    }
    assert_eq!(
        fixture.sh("awk '$5 == \"/sys\" || $5 == \"/proc/sys\" || $5 ~ /^.sys.fs.cgroup/ {print $6}' /proc/self/mountinfo | grep -vc '^ro' || true"),
        "0"
    );
    assert_eq!(fixture.sh("ls -d /sys/class /sys/kernel | wc -l"), "2");
}

fn process_1(fixture: &Fixture) {
    for path in ["/proc/1/root/", "/proc/1/fd/0", "/proc/1/environ"] {
        let refused = fixture.sh(&format!("cat {path} 2>&1 | grep -c denied"));
        assert_eq!(refused, "1", "{path}");
    }
    let shown = fixture.sh("tr '\\0' '|' < /proc/1/cmdline | tr -d '|'");
    assert_eq!(shown, "rbuild");
}

fn network(fixture: &Fixture) {
    let devices = "sed -n 's/^ *\\([^ ]*\\):.*/\\1/p' /proc/net/dev | sort";
    let own = std::fs::read_to_string("/proc/net/dev").unwrap();
    let own = own.lines().filter(|line| line.contains(':')).count();
    assert_eq!(fixture.sh(devices).lines().count(), own);
    let mut spec = fixture.script(&format!("{devices}; ip link show lo | grep -o 'LOOPBACK,UP'; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo pong"));
    spec.network = Network::None;
    assert_eq!(fixture.run(spec).output(), "lo\nLOOPBACK,UP\npong");
}

/// Where a step may make device nodes (as root on the machine itself), opening one is refused: it
/// could be the machine's disk.
fn device_nodes(fixture: &Fixture) {
    let script = "for place in / /dev/ /dev/shm/ /run/; do \
        if mknod ${place}node c 1 5; then head -c 1 ${place}node | wc -c; else echo 0; fi; done 2>&1 \
        | grep -v -i -e 'permission denied' -e 'not permitted'";
    let mut spec = fixture.script(script);
    spec.mounts.push(SandboxMount {
        target: b"/run".to_vec(),
        source: MountSource::Tmpfs {
            executable: true,
            size: None,
            mode: 0o755,
        },
        read_only: false,
    });
    assert_eq!(fixture.run(spec).output(), "0\n0\n0\n0");
}

fn devices(fixture: &Fixture) {
    assert_eq!(
        fixture.sh("ls /dev | tr '\\n' ' '"),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(
        fixture.sh("echo gone > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; (echo x > /dev/full) 2>&1 | grep -o 'No space'"),
        "3\n3\nNo space"
    );
    assert_eq!(
        fixture.sh("echo x > /dev/shm/y; cat /dev/shm/y; echo z > /dev/stdout"),
        "x\nz"
    );
    assert_eq!(
        fixture.sh("stat -c '%a %t:%T' /dev/null /dev/tty"),
        "666 1:3\n666 5:0"
    );
    // A new terminal appears in the sandbox's own list.
    assert_eq!(
        fixture.sh("exec 3<>/dev/ptmx && ls /dev/pts"),
        "0
ptmx"
    );
}
