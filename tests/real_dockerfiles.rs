//! Dockerfiles as people write them, built as root and without, pushed, read by other tools and
//! started by containerd.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    Containerd, Need, Project, Rbuild, Registry, Tree, User, as_other_user, assert_lines,
    each_user, needs, repository, run_with_timeout, umoci_tree,
};

fn dockerfile(name: &str) -> String {
    std::fs::read_to_string(repository().join("testdata/dockerfiles").join(name)).unwrap()
}

/// A Dockerfile, where it puts the program, and what else must be true of the image.
type GoServer = (&'static str, &'static str, fn(&Tree));

/// The Dockerfiles of the Go server.
const GO_SERVERS: [GoServer; 5] = [
    ("go-latest.Dockerfile", "app/myapp", |tree| {
        assert_eq!(tree.text("app/go.mod"), "module myapp\n\ngo 1.15\n");
        assert!(tree.has("usr/bin/go"));
    }),
    ("go-1.15.Dockerfile", "app/myapp", |_| {}),
    ("go-modules.Dockerfile", "app/myapp", |tree| {
        assert!(tree.has("app/go.sum"));
    }),
    ("go-to-scratch.Dockerfile", "app", |tree| {
        let names: Vec<_> = tree
            .nodes
            .keys()
            .map(|path| path.escape_ascii().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "app",
                "etc",
                "etc/ssl",
                "etc/ssl/certs",
                "etc/ssl/certs/ca-certificates.crt"
            ]
        );
    }),
    ("go-to-alpine.Dockerfile", "usr/local/bin/myapp", |tree| {
        assert!(tree.has("bin/sh"))
    }),
];

/// Builds the Go servers, pushes them, has skopeo and umoci read them, and containerd start them.
fn serve(user: &User) {
    let registry = Registry::start();
    let rbuild = Rbuild::new(user);
    let name = |file: &str| file.replace(".Dockerfile", "").replace('.', "-") + ":v1";
    for (file, program, check) in GO_SERVERS {
        println!("{file} as {user:?}");
        let project = Project::copy_of("testdata/go-hello").dockerfile(&dockerfile(file));
        let name = name(file);
        rbuild
            .build(&project)
            .tag(registry.name(&name))
            .args(["--push"])
            .ok();
        let mut inspect = Command::new("skopeo");
        inspect
            .args(["inspect", "--config", "--tls-verify=false"])
            .arg(format!("docker://{}", registry.name(&name)));
        let config: Value =
            serde_json::from_slice(&run_with_timeout(inspect, None).ok().stdout).unwrap();
        assert_eq!(config["os"], "linux");

        let tree = umoci_tree(&registry, &name);
        assert_eq!(tree.get(program).mode & 0o111, 0o111);
        check(&tree);

        // Built again, nothing runs.
        let log = rbuild.build(&project).ok();
        assert_eq!(log.ran(), [""; 0]);
    }
    let containerd = Containerd::start();
    for (file, ..) in GO_SERVERS {
        println!("{file} as {user:?}, started");
        let answer = containerd.answer(&registry, &name(file), "http://127.0.0.1:8080/");
        assert_eq!(answer, "Hello, World!");
    }
}

const SERVING: [Need; 8] = [
    Need::Root,
    Need::BaseImages,
    Need::Program("skopeo"),
    Need::Program("umoci"),
    Need::Program("containerd"),
    Need::Program("runc"),
    Need::Program("ip"),
    Need::Program("busybox"),
];

#[test]
fn go_servers_built_by_root_serve() {
    if needs(&SERVING) {
        serve(&User::Caller);
    }
}

#[test]
fn go_servers_built_without_root_serve() {
    if needs(&SERVING) {
        as_other_user(serve);
    }
}

/// The apt settings of this machine, for an image's own apt: sources come with the base image,
/// proxies and the like don't.
pub(crate) fn machine_apt_settings() -> String {
    let dump = Command::new("apt-config").arg("dump").output();
    let settings: String = dump
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("Acquire::http") || line.starts_with("Acquire::Retries"))
        .map(|line| format!("{line}\n"))
        .collect();
    settings + "Acquire::Retries \"5\";\n"
}

#[test]
fn apt_get_install() {
    if !needs(&[Need::BaseImages, Need::PackageMirror]) {
        return;
    }
    let plain = dockerfile("apt.Dockerfile");
    // What the machine needs for its mirror is mounted, and so stays out of the image.
    let mounted = plain.replace(
        "RUN ",
        "RUN --mount=type=bind,source=machine.conf,target=/etc/apt/apt.conf.d/99machine ",
    ) + "RUN --mount=type=bind,source=machine.conf,target=/etc/apt/apt.conf.d/99machine \
         apt-get install -y --no-install-recommends dbus openssh-client sudo\n\
         RUN python3 -c 'print(6 * 7)' && git --version && id messagebus && stat -c '%a %U:%G' \
         /usr/bin/sudo /usr/bin/ssh-agent /usr/lib/dbus-1.0/dbus-daemon-launch-helper\n";
    let project = Project::with(&mounted).file("machine.conf", machine_apt_settings());
    let listings = std::cell::RefCell::new(Vec::new());
    each_user(|user| {
        let (image, log) = Rbuild::new(user)
            .build(&project)
            .args(proxy_arguments())
            .image_and_log();
        let tree = image.tree();
        let output = log.output();
        assert!(output.contains(&"42".to_owned()), "{}", log.stderr);
        let group = |name: &str| -> u32 {
            let text = tree.text("etc/group");
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name}:")));
            line.unwrap().split(':').nth(2).unwrap().parse().unwrap()
        };
        let kept = [
            ("usr/bin/su", 0o4755, 0),
            ("usr/bin/passwd", 0o4755, 0),
            ("usr/bin/chage", 0o2755, group("shadow")),
            ("usr/bin/sudo", 0o4755, 0),
            ("usr/bin/ssh-agent", 0o2755, group("_ssh")),
            (
                "usr/lib/dbus-1.0/dbus-daemon-launch-helper",
                0o4754,
                group("messagebus"),
            ),
            ("etc/shadow", 0o640, group("shadow")),
            ("var/mail", 0o2775, group("mail")),
            ("etc/sudoers", 0o440, 0),
        ];
        for (path, mode, gid) in kept {
            let node = tree.get(path);
            assert_eq!(
                (node.mode, node.uid, node.gid),
                (mode, 0, gid),
                "{path} as {user:?}"
            );
        }
        // _apt's own folder: a user that is neither root nor the builder.
        let passwd = tree.text("etc/passwd");
        let apt = passwd
            .lines()
            .find(|line| line.starts_with("_apt:"))
            .unwrap();
        let apt: u32 = apt.split(':').nth(2).unwrap().parse().unwrap();
        assert_eq!(tree.get("var/lib/apt/lists/partial").uid, apt);
        assert_lines(
            &tree.lines(&[
                "etc/apt/apt.conf.d/99machine",
                "tmp/**",
                "dev/null",
                "proc",
                "sys",
            ]),
            "
            - etc/apt/apt.conf.d/99machine
            d 1777 0:0 tmp
            c 0666 0:0 dev/null 1,3
            d 0755 0:0 proc
            d 0755 0:0 sys
            ",
        );
        let owners: Vec<String> = tree
            .nodes
            .iter()
            .filter(|(path, _)| !path.starts_with(b"var/lib/apt/lists/"))
            .map(|(path, node)| {
                format!(
                    "{} {:o} {}:{}",
                    path.escape_ascii(),
                    node.mode,
                    node.uid,
                    node.gid
                )
            })
            .collect();
        listings.borrow_mut().push(owners);
    });
    // Root and others get the same files with the same owners and modes.
    let listings = listings.into_inner();
    if let [root, other] = &listings[..] {
        assert_lines(&(other.join("\n") + "\n"), &(root.join("\n") + "\n"));
    }
}

/// Proxies of the machine, for the steps.
pub(crate) fn proxy_arguments() -> Vec<String> {
    ["http_proxy", "https_proxy", "no_proxy"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var(name).ok()?)))
        .flat_map(|(name, value)| ["--build-arg".to_owned(), format!("{name}={value}")])
        .collect()
}

#[test]
fn every_dockerfile_of_the_test_data_is_tested() {
    let here = std::fs::read_to_string(repository().join("tests/real_dockerfiles.rs")).unwrap();
    for entry in std::fs::read_dir(repository().join("testdata/dockerfiles")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(here.contains(&name), "{name} is built by no test");
    }
}
