//! RUN where nothing can be unshared and nothing mounted: in a container with Docker's default
//! system call filter and capabilities, made for real.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::emulation::{busybox, path_with};
use crate::storage_drivers::{assert_same_layers, built, built_by, changes};
use crate::support::{
    Finished, Image, Need, Podman, Project, Rbuild, User, architecture, base_image_mirror,
    is_running, needs, run_with_timeout,
};

/// Calls that Docker's filter refuses to whom lacks CAP_SYS_ADMIN, and Podman's doesn't.
const REFUSED: [&str; 16] = [
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "add_key",
    "request_key",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// Docker's default filter, made from Podman's.
fn docker_filter(podman: &str) -> Value {
    let mut filter: Value = serde_json::from_str(podman).unwrap();
    let groups = filter["syscalls"].as_array_mut().unwrap();
    for group in groups.iter_mut() {
        if group["action"] == "SCMP_ACT_ALLOW" {
            let names = group["names"].as_array_mut().unwrap();
            names.retain(|name| {
                let name = name.as_str().unwrap();
                !REFUSED.contains(&name) && !["clone", "clone3"].contains(&name)
            });
        }
    }
    groups.retain(|group| !group["names"].as_array().unwrap().is_empty());
    let none = json!({});
    groups.push(json!({
        "names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
        "args": [], "includes": none, "excludes": none,
    }));
    // No flag for a new namespace.
    let flags = json!({
        "index": 0, "value": 0x7e02_0000_u32, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
    });
    groups.push(json!({
        "names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [flags], "includes": none, "excludes": none,
    }));
    filter
}

/// A stock container, in which the machine's programs and temporary files are.
struct Container {
    podman: Podman,
    folder: tempfile::TempDir,
    capabilities: &'static str,
}

impl Container {
    fn new(capabilities: &'static str) -> Option<Self> {
        let profile = Path::new("/usr/share/containers/seccomp.json");
        if !needs(&[Need::BaseImages, Need::Sandbox]) {
            return None;
        }
        let podman = Podman::new()?;
        if !needs(&[Need::Program("runc")]) {
            return None;
        }
        let Ok(profile) = std::fs::read_to_string(profile) else {
            crate::support::skip("no `/usr/share/containers/seccomp.json`");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "proc", "sys", "dev", "tmp", "etc", "run", "var", "root", "usr",
        ] {
            std::fs::create_dir_all(folder.path().join("root").join(name)).unwrap();
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            let link = folder.path().join("root").join(name);
            std::os::unix::fs::symlink(format!("usr/{name}"), link).unwrap();
        }
        let filter = docker_filter(&profile).to_string();
        std::fs::write(folder.path().join("filter.json"), filter).unwrap();
        Some(Self {
            podman,
            folder,
            capabilities,
        })
    }

    /// The same command, run in the container.
    fn wrap(&self, command: &Command) -> Command {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let mut wrapped = Command::new(self.podman.bin().join("podman"));
        let temporary = std::env::temp_dir().display().to_string();
        let built = Path::new(env!("CARGO_BIN_EXE_rbuild")).parent().unwrap();
        let built = built.display().to_string();

        wrapped
            .args(["run", "--rm", "--runtime", "runc", "--network", "host"])
            .args(["--ulimit", "nofile=4096:4096"])
            .args(["--ulimit", "nproc=4096:4096"])
            .args(["--security-opt", &format!("seccomp={}", at("filter.json"))])
            .args(["-v", "/usr:/usr:ro"])
            .args(["-v", &format!("{temporary}:{temporary}")])
            .args(["-v", &format!("{built}:{built}:ro")]);
        if !self.capabilities.is_empty() {
            wrapped.args(["--cap-add", self.capabilities]);
        }
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                wrapped.args(["--env", &format!("{name}={value}")]);
            }
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.arg("--workdir").arg(folder);
        }
        wrapped.args(["--rootfs", &at("root")]);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    }

    fn run(&self, rbuild: &Rbuild, arguments: &[&str]) -> Finished {
        let mut command = rbuild.command();
        command.args(arguments);
        run_with_timeout(self.wrap(&command), None)
    }

    fn build(&self, rbuild: &Rbuild, project: &Project) -> Finished {
        let mut arguments = vec!["build", "--progress", "plain"];
        if let Some(mirror) = base_image_mirror() {
            arguments.extend(["--registry-mirror", mirror]);
        }
        let path = project.path().display().to_string();
        arguments.push(&path);
        self.run(rbuild, &arguments)
    }
}

/// What Docker gives and Podman doesn't.
const DOCKERS: &str = "MKNOD,AUDIT_WRITE,NET_RAW";

#[test]
fn a_stock_container_gives_the_layers_that_root_gives() {
    let Some(docker) = Container::new(DOCKERS) else {
        return;
    };
    let project = changes();
    let root = Rbuild::new(&User::Caller);
    let expected = built(&root, &project, &["--isolation", "root"]);
    for container in [Some(docker), Container::new("")].into_iter().flatten() {
        let rbuild = Rbuild::new(&User::Caller);
        let got = built_by(&rbuild, &project, &[], &|command| {
            run_with_timeout(container.wrap(command), None)
        });
        assert_same_layers(&expected, &got);
    }
}

#[test]
fn doctor_says_what_is_lost() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let report = container.run(&rbuild, &["doctor", "--json"]).ok();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["isolation"]["used"], "chroot");
    assert_eq!(report["store"]["driver"], "copy");
    let text = container.run(&rbuild, &["doctor"]).ok().text();
    assert!(
        text.contains("steps share this container's processes, network and users"),
        "{text}"
    );
}

#[test]
fn a_user_of_the_step_reaches_neither_its_supervisor_nor_its_secret() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    // Threads of the step's first process are numbered after it; the file makes one of them act as
    // the user.
    let project = Project::with(
        r#"
        FROM debian
        USER 1234
        RUN ["/usr/bin/perl", "-e", "$| = 1; my $p = getppid; for my $t ($p .. $p + 40) { open my $f, '<', '/proc/self/status'; my $line = <$f>; print \"reached $t\\n\" if syscall(234, $p, $t, 0) == 0 || kill(0, $p); } print \"tried\\n\""]
        "#,
    );
    let log = container.build(&rbuild, &project).ok();
    assert_eq!(log.output(), ["tried"]);
}

#[test]
fn what_a_step_sees_is_its_own_and_goes() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(
        r#"
        FROM busybox
        RUN echo x > /dev/null && head -c 3 /dev/zero | wc -c && test -s /etc/resolv.conf && cat /etc/hosts | head -1
        RUN kill -9 -1; echo "kill: $?"
        RUN --mount=type=cache,target=/cache echo kept > /cache/file
        RUN --mount=type=cache,target=/cache cat /cache/file; ls -a / /dev | grep -c . ; echo inside > /tmp/inside
        RUN test ! -e /cache && test ! -e /dev/null && test ! -s /etc/resolv.conf && echo gone || echo there
        USER app
        RUN id -u; touch /root-only 2>/dev/null || echo refused
        "#,
    );
    let log = container.build(&rbuild, &project).ok();
    log.says(&["kill: 1", "kept", "127.0.0.1", "refused"]);
}

#[test]
fn processes_that_a_step_leaves_behind_end_with_it() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    // So many seconds that nobody else sleeps.
    let project = Project::with(
        r#"
        FROM busybox
        RUN (setsid sh -c 'while true; do sleep 86397; done' &) ; (nohup sleep 86397 >/dev/null 2>&1 &) ; echo left
        RUN echo next
        "#,
    );
    container.build(&rbuild, &project).ok().says(&["next"]);
    assert!(!is_running("86397"));
}

#[test]
fn what_needs_a_namespace_is_refused_in_words() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with("FROM busybox\nRUN --network=none true\n");
    let log = container.build(&rbuild, &project).fails();
    log.says(&["with the isolation `chroot` a step can't have a network of its own"]);
    let project = Project::with(
        "
        FROM busybox
        RUN --security=insecure --mount=type=secret,id=key,target=/etc/key true
        ",
    );
    let (key, option) = secret();
    let build = rbuild
        .build(&project)
        .args(["--allow", "security.insecure", "--secret", &option]);
    let log = run_with_timeout(container.wrap(&build.command()), None).fails();
    log.says(&["a step can't have secrets together with every privilege"]);
    drop(key);
}

#[test]
fn an_emulator_that_no_step_can_have_is_refused_with_what_helps() {
    if !needs(&[Need::Emulators]) || architecture() != "amd64" {
        return;
    }
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let path = path_with(&rbuild, &["qemu-aarch64-static"]);
    let rbuild = rbuild.env("PATH", path);
    let project = busybox("arm64", "RUN uname -m");
    let build = rbuild.build(&project).args(["--platform", "linux/arm64"]);
    let finished = run_with_timeout(container.wrap(&build.command()), None);
    if finished.status.success() {
        return crate::support::skip("an emulator is registered with this machine");
    }
    finished.fails().says(&[
        "error: programs for linux/arm64 don't run on this machine: `",
        "with the isolation `chroot` steps have no user namespace; to fix it: register emulators \
         with the machine: install the package `qemu-user-static` there",
    ]);
}

/// A secret, which is a script, and the option that gives it.
fn secret() -> (Project, String) {
    let project = Project::new().file("key", "echo s3cr3t-in-memory\n");
    let option = format!("id=key,src={}", project.path().join("key").display());
    (project, option)
}

/// Where files lie below a folder.
fn files_in(folder: &Path, found: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // What goes while it is looked at is not there.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.symlink_metadata().is_ok_and(|of| of.is_dir()) {
            files.extend(files_in(&path, found));
        } else if found(&path) {
            files.push(path);
        }
    }
    files
}

fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let has = |path: &Path| {
        let is_file = path.symlink_metadata().is_ok_and(|of| of.is_file());
        is_file
            && std::fs::read(path).is_ok_and(|content| {
                let mut windows = content.windows(text.len());
                windows.any(|window| window == text.as_bytes())
            })
    };
    files_in(folder, &has)
}

#[test]
fn a_secret_lies_on_no_disk_while_its_step_has_it() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let (key, option) = secret();
    let project = Project::with(
        r#"
        FROM busybox
        RUN --mount=type=secret,id=key,target=/etc/deep/key --mount=type=secret,id=key,env=KEY echo on-the-disk > /waiting; while [ ! -e /looked ]; do sleep 0.1; done; rm /waiting /looked; rev /etc/deep/key; echo ${#KEY}
        RUN test ! -e /etc/deep && test ! -e /run/secrets && echo gone ${KEY:-unset}
        "#,
    );
    let file = rbuild.out().join("image.tar");
    let output = format!("type=oci,dest={}", file.display());
    let build = rbuild
        .build(&project)
        .args(["--secret", &option, "-o", &output]);
    let command = container.wrap(&build.command());
    let store = rbuild.store();
    let log = std::thread::scope(|scope| {
        let building = scope.spawn(|| run_with_timeout(command, None));
        let begun = Instant::now();
        let waiting = loop {
            if let [waiting] = &files_with(&store, "on-the-disk\n")[..]
                && waiting.ends_with("waiting")
            {
                break Some(waiting.clone());
            }
            if building.is_finished() || begun.elapsed() > Duration::from_secs(300) {
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let seen = waiting.map(|waiting| {
            let root = waiting.parent().unwrap();
            let place = root.join("etc/deep/key").symlink_metadata();
            let place = place.map(|place| (place.mode(), place.len()));
            let seen = (files_with(&store, "s3cr3t-in-memory"), place.ok());
            std::fs::write(root.join("looked"), "").unwrap();
            seen
        });
        let log = building.join().unwrap().ok();
        // A file that nobody but root may open, and with nothing in it.
        assert_eq!(
            seen,
            Some((Vec::new(), Some((0o100_000, 0)))),
            "{}",
            log.stderr
        );
        log
    });
    let expected = ["yromem-ni-t3rc3s ohce", "22", "gone unset"];
    assert_eq!(log.output(), expected, "{}", log.stderr);
    assert_eq!(
        files_with(&store, "s3cr3t-in-memory"),
        [""; 0].map(PathBuf::from)
    );
    let layers = &Image::read(&file).layers;
    for entry in layers.iter().flat_map(|layer| &layer.entries) {
        let path = String::from_utf8_lossy(&entry.path);
        assert!(
            !path.contains("deep") && !path.contains("secrets"),
            "{path}"
        );
    }
    drop(key);
}

#[test]
fn a_secret_is_the_file_that_a_mount_would_show() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let project = Project::with(
        r#"
        FROM debian
        SHELL ["/bin/bash", "-c"]
        RUN --mount=type=secret,id=key rev /run/secrets/key; find /run/secrets -type f -printf '%f %m %U:%G %s %n\n'; stat -Lc %F /run/secrets/key; cat /run/secrets/key | wc -c
        RUN --mount=type=secret,id=key ln -s /run/secrets/key /absolute; ln -s ../run/secrets/key /tmp/relative; rev < /absolute; rev /tmp/relative; cd /run; rev secrets/key; cd /usr/bin; rev ../../run/secrets/key; readlink -f /tmp/relative
        RUN --mount=type=secret,id=key sh /absolute | rev; . /absolute | rev; perl -e 'open F, "<", "/absolute"; print <F>' | rev; cp /run/secrets/key /dev/stdout | rev
        RUN --mount=type=secret,id=key exec 3</run/secrets/key; rev /proc/self/root/run/secrets/key; cd /run; rev /proc/self/cwd/secrets/key; cat <&3 | rev; exec 3<secrets; rev /dev/fd/3/key
        RUN --mount=type=secret,id=key cd /run/secrets; exec 2>&1; (echo x > key); (echo x >> key); dd if=/dev/null of=key; rm key; mv key /tmp; mv -T /absolute key; ln key /tmp/linked; perl -e 'print "$!\n" unless exec "/run/secrets/key"'; test -w key || echo read-only; test -x key || echo no program; rev key
        RUN --mount=type=secret,id=key,mode=0440,uid=1000,gid=50,target=/etc/key stat -c '%a %u:%g' /etc/key; for who in '--reuid 1000 --clear-groups' '--reuid 1234 --groups 49,50' '--reuid 1234 --regid 50 --clear-groups' '--reuid 1234 --regid 1234 --clear-groups' '--reuid 1234 --regid 1234 --groups 0,51' '--bounding-set=-all'; do setpriv $who rev /etc/key 2>&1; setpriv $who test -r /etc/key; echo $?; done
        RUN --mount=type=secret,id=key perl -e '$) = 1234; $> = 1234; open(F, "<", "/run/secrets/key") ? print "read <", <F>, ">" : print "$!\n"'
        USER 1234
        RUN --mount=type=secret,id=key cat /run/secrets/key /absolute /proc/self/root/run/secrets/key 2>&1; stat -c %a /run/secrets/key; ln /run/secrets/key /tmp/linked 2>&1; echo mine > /tmp/mine; rev /tmp/mine
        RUN --mount=type=secret,id=key,mode=0444 rev /run/secrets/key; rev /tmp/relative
        RUN cat /run/secrets/key /absolute 2>&1; echo next
        "#,
    );
    let (key, option) = secret();
    let rbuild = Rbuild::new(&User::Caller);
    let mounted = rbuild
        .build(&project)
        .args(["--secret", &option, "--isolation", "root"]);
    let mounted = mounted.run();
    let rbuild = Rbuild::new(&User::Caller);
    let build = rbuild.build(&project).args(["--secret", &option]);
    let log = run_with_timeout(container.wrap(&build.command()), None);
    assert_eq!(log.output(), mounted.output(), "{}", log.stderr);
    let whole = "yromem-ni-t3rc3s ohce";
    let begin = [whole, "key 400 0:0 22 1", "regular file", "22"];
    assert_eq!(log.output()[..4], begin, "{}", log.stderr);
    let refused = log
        .output()
        .iter()
        .filter(|line| line.contains("Permission denied"))
        .count();
    assert_eq!(refused, 8, "{}", log.stderr);
    drop(key);
}

/// What a hostile step has at hand: names that it changes while they are looked at, and files of its
/// own where the secret was.
#[test]
fn what_is_put_in_a_secrets_place_gives_nobody_more() {
    let Some(container) = Container::new(DOCKERS) else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(
        r#"
        FROM debian
        SHELL ["/bin/bash", "-c"]
        RUN --mount=type=secret,id=key mv /run/secrets /run/moved && mkdir /run/secrets && echo mine > /run/secrets/key && rev /run/secrets/key /run/moved/key && ln -sf /etc/shadow /run/secrets/key && chmod 711 /run/secrets && setpriv --reuid 1234 --clear-groups cat /run/secrets/key 2>&1; setpriv --reuid 1234 --clear-groups cat /run/moved/key 2>&1; true
        RUN --mount=type=secret,id=key cd /tmp; echo other > other; perl -e 'while (1) { for ("/run/secrets/key", "other") { symlink $_, "new"; rename "new", "name" } }' & sleep 0.5; setpriv --reuid 1234 --clear-groups perl -e 'for (1..5000) { open(F, "<", "/tmp/name") or next; $read{join "", <F>} = 1 } print sort keys %read'; kill %1; wait; rm -f /tmp/name /tmp/new
        RUN ls -A /run/moved; echo next
        "#,
    );
    let (key, option) = secret();
    let file = rbuild.out().join("image.tar");
    let output = format!("type=oci,dest={}", file.display());
    let build = rbuild
        .build(&project)
        .args(["--secret", &option, "-o", &output]);
    let log = run_with_timeout(container.wrap(&build.command()), None).ok();
    let expected = [
        "enim",
        "yromem-ni-t3rc3s ohce",
        "cat: /run/secrets/key: Permission denied",
        "cat: /run/moved/key: Permission denied",
        "other",
        "next",
    ];
    assert_eq!(log.output(), expected, "{}", log.stderr);
    assert_eq!(
        files_with(&rbuild.store(), "s3cr3t-in-memory"),
        [""; 0].map(PathBuf::from)
    );
    let layers = &Image::read(&file).layers;
    for entry in layers.iter().flat_map(|layer| &layer.entries) {
        let path = String::from_utf8_lossy(&entry.path);
        assert!(!path.ends_with("/key"), "{path}");
    }
    drop(key);
}

#[test]
fn the_kernel_s_files_and_devices_are_there_without_being_mounted() {
    let project = Project::with(
        r#"
        FROM debian
        SHELL ["/bin/bash", "-c"]
        RUN cat <(echo substituted); read -r name < /proc/self/comm; echo "I am $name"
        RUN readlink /proc/self/exe; head -c 2 /dev/zero | wc -c; echo lost > /dev/null; grep -c MemTotal: /proc/meminfo
        RUN [ -d /sys/class ] && [ -r /proc/cpuinfo ] && [ ! -e /proc/1/environ ] && echo shown
        RUN { echo x > /proc/sys/kernel/hostname; } 2>/dev/null || echo refused; cat /proc/self/root/etc/debian_version >/dev/null && echo own; echo to > /dev/stdout
        USER 1234
        RUN cat <(echo as $(id -u)); readlink /proc/self/exe; cat /proc/$$/comm; [ ! -r /proc/1/root ] && echo hidden
        "#,
    );
    for capabilities in [DOCKERS, ""] {
        let Some(container) = Container::new(capabilities) else {
            return;
        };
        let rbuild = Rbuild::new(&User::Caller);
        let log = container.build(&rbuild, &project).ok();
        let expected = [
            "substituted",
            "I am bash",
            "/usr/bin/readlink",
            "2",
            "1",
            "shown",
            "refused",
            "own",
            "to",
            "as 1234",
            "/usr/bin/readlink",
            "bash",
            "hidden",
        ];
        assert_eq!(log.output(), expected, "{}", log.stderr);
    }
}

#[test]
fn packages_are_installed_with_their_users_and_modes() {
    if !needs(&[Need::PackageMirror]) {
        return;
    }
    let Some(container) = Container::new("") else {
        return;
    };
    let rbuild = Rbuild::new(&User::Caller);
    let project = Project::with(
        r#"
        FROM debian
        RUN apt-get update -q && apt-get install -qy --no-install-recommends dbus sudo >/log 2>&1 || { cat /log; exit 1; }
        RUN stat -c '%a %U:%G' /usr/lib/dbus-1.0/dbus-daemon-launch-helper /usr/bin/sudo
        "#,
    );
    let log = container.build(&rbuild, &project).ok();
    log.says(&["4754 root:messagebus", "4755 root:root"]);
}
