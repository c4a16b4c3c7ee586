//! `RUN --mount=type=ssh`: steps sign with the user's keys and never have them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{Need, Project, Rbuild, User, assert_lines, each_user, needs};

const NEEDS: [Need; 3] = [
    Need::BaseImages,
    Need::Program("ssh-agent"),
    Need::Program("ssh-add"),
];

/// How a step calls OpenSSH's client of the agent, brought along with its libraries.
const SSH_ADD: &str = "/ssh/loader --library-path /ssh /ssh/ssh-add";

/// A context in which the folder `ssh` holds this machine's programs.
fn project(dockerfile: &str) -> Project {
    let programs = ["ssh-add", "ssh-keygen"].map(|name| Path::new("/usr/bin").join(name));
    let output = Command::new("ldd").args(&programs).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let mut project = Project::with(&dockerfile.replace("ssh-add", SSH_ADD));
    for program in &programs {
        let name = program.file_name().unwrap().to_str().unwrap();
        project = add(project, &format!("ssh/{name}"), program);
    }
    for library in output
        .split_whitespace()
        .filter(|word| word.starts_with("/lib"))
    {
        let library = Path::new(library);
        let name = library.file_name().unwrap().to_str().unwrap();
        let name = if name.starts_with("ld-") {
            "loader"
        } else {
            name
        };
        project = add(project, &format!("ssh/{name}"), library);
    }
    project
}

fn add(project: Project, name: &str, file: &Path) -> Project {
    let content = std::fs::read(file).unwrap();
    project.file(name, content).mode(name, 0o755)
}

/// Makes a key of the user's in rbuild's folder and gives the paths of both halves.
fn key(rbuild: &Rbuild, user: &User, name: &str, options: &str) -> [PathBuf; 2] {
    let path = rbuild.out().join(name);
    let made = user
        .command("ssh-keygen")
        .args(["-q", "-C", name, "-N", ""])
        .args(options.split_whitespace())
        .arg("-f")
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    [path, rbuild.out().join(format!("{name}.pub"))]
}

/// An agent of the user's own.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn with(rbuild: &Rbuild, user: &User, name: &str, keys: &[&Path]) -> Agent {
        let socket = rbuild.out().join(name);
        let mut command = user.command("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        command.stdout(std::process::Stdio::null());
        let process = command.spawn().unwrap();
        let agent = Agent { process, socket };
        let begun = Instant::now();
        while !agent.socket.exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for key in keys {
            let mut command = user.command("ssh-add");
            command
                .arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &agent.socket);
            assert!(command.status().unwrap().success());
        }
        agent
    }

    /// The comments of the keys that it has now.
    fn keys(&self, user: &User) -> Vec<String> {
        let mut command = user.command("ssh-add");
        let output = command.arg("-L").env("SSH_AUTH_SOCK", &self.socket);
        let text = String::from_utf8(output.output().unwrap().stdout).unwrap();
        let words = text.lines().filter_map(|line| line.split(' ').nth(2));
        words.map(str::to_owned).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_step_has_the_users_agent_sign_and_can_do_nothing_else_with_it() {
    if !needs(&NEEDS) {
        return;
    }
    let project = project(
        "
        FROM busybox
        COPY ssh /ssh
        COPY *.pub /keys/
        RUN --mount=type=ssh echo $SSH_AUTH_SOCK && ssh-add -L | cut -d ' ' -f 3
        RUN --mount=type=ssh ssh-add -T /keys/mine.pub && echo signed
        RUN --mount=type=ssh ssh-add -D 2>&1 | head -n 1
        RUN --mount=type=ssh stat -c '%F %a %u:%g' /run/buildkit/ssh_agent.0
        RUN test ! -e /run/buildkit && echo gone ${SSH_AUTH_SOCK:-unset}
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let [private, public] = key(&rbuild, user, "mine", "-t ed25519");
        let agent = Agent::with(&rbuild, user, "agent.sock", &[&private]);
        std::fs::copy(public, project.path().join("mine.pub")).unwrap();
        let build = || {
            let build = rbuild.build(&project).args(["--ssh", "default"]);
            build.env("SSH_AUTH_SOCK", &agent.socket)
        };
        let (image, log) = build().image_and_log();
        assert_eq!(
            log.output(),
            [
                "/run/buildkit/ssh_agent.0",
                "mine",
                "signed",
                "Failed to remove all identities.",
                "socket 600 0:0",
                "gone unset",
            ],
            "as {user:?}\n{}",
            log.stderr
        );
        assert_eq!(agent.keys(user), ["mine"]);
        // Nothing of it is in the image.
        for layer in &image.own_layers()[2..] {
            assert_lines(&layer.lines(), "");
        }
        let socket = agent.socket.to_str().unwrap();
        assert!(!image.history().contains(socket), "{}", image.history());
        assert!(!log.stderr.contains(socket), "{}", log.stderr);
        // Nor in any key of the cache.
        drop(agent);
        let other = Agent::with(&rbuild, user, "other.sock", &[]);
        let again = rbuild.build(&project).args(["--ssh", "default"]);
        assert_eq!(
            again.env("SSH_AUTH_SOCK", &other.socket).ok().ran(),
            [""; 0]
        );
    });
}

#[test]
fn keys_in_files_sign_without_an_agent() {
    if !needs(&NEEDS) {
        return;
    }
    let kinds = [
        ("ed25519", "-t ed25519"),
        ("p256", "-t ecdsa -b 256"),
        ("p384", "-t ecdsa -b 384"),
        ("rsa", "-t rsa -b 2048"),
        ("rsa3", "-t rsa -b 3072"),
        ("pkcs1", "-t rsa -b 2048 -m PEM"),
        ("pkcs8", "-t rsa -b 2048 -m PKCS8"),
        ("pkcs8-p256", "-t ecdsa -b 256 -m PKCS8"),
    ];
    let project = project(
        "
        FROM busybox
        COPY ssh /ssh
        COPY *.pub /keys/
        RUN --mount=type=ssh,id=several ssh-add -l | wc -l
        RUN --mount=type=ssh,id=several for key in /keys/*; do \
            /ssh/loader --library-path /ssh /ssh/ssh-keygen -q -Y sign -n test -f $key /etc/passwd && \
            /ssh/loader --library-path /ssh /ssh/ssh-keygen -q -Y check-novalidate -n test \
                -s /etc/passwd.sig < /etc/passwd >/dev/null && rm /etc/passwd.sig && echo $key; done
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let mut paths = Vec::new();
        let mut expected = vec![kinds.len().to_string()];
        for (name, options) in kinds {
            let [private, public] = key(&rbuild, user, name, options);
            std::fs::copy(public, project.path().join(format!("{name}.pub"))).unwrap();
            paths.push(private.to_str().unwrap().to_owned());
            expected.push(format!("/keys/{name}.pub"));
        }
        expected[1..].sort();
        let value = format!("several={}", paths.join(","));
        let log = rbuild.build(&project).args(["--ssh", &value]).ok();
        assert_eq!(log.output(), expected, "as {user:?}\n{}", log.stderr);
    });
}

#[test]
fn the_socket_is_where_and_whose_the_mount_says() {
    if !needs(&NEEDS) {
        return;
    }
    let project = project(
        "
        FROM busybox
        COPY ssh /ssh
        RUN --mount=type=ssh,target=/tmp/agent,mode=0666,uid=1000,gid=50 stat -c '%a %u:%g %n' $SSH_AUTH_SOCK
        RUN --mount=type=ssh,id=other --mount=type=ssh ls /run/buildkit; echo $SSH_AUTH_SOCK
        WORKDIR /home/app
        USER app
        RUN --mount=type=ssh,target=agent,uid=1000 stat -c '%a %u:%g %n' $SSH_AUTH_SOCK; ssh-add -L | cut -d ' ' -f 3
        RUN --mount=type=ssh ssh-add -L 2>/dev/null || echo not for me
        ENV SSH_AUTH_SOCK=/mine
        RUN --mount=type=ssh echo $SSH_AUTH_SOCK
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let [private, _] = key(&rbuild, user, "mine", "-t ed25519");
        let values = ["default", "other"].map(|id| format!("{id}={}", private.display()));
        let build = rbuild.build(&project);
        let log = build.args(["--ssh", &values[0], "--ssh", &values[1]]).ok();
        assert_eq!(
            log.output(),
            [
                "666 1000:50 /tmp/agent",
                "ssh_agent.0",
                "ssh_agent.1",
                "/run/buildkit/ssh_agent.0",
                "600 1000:0 /home/app/agent",
                "mine",
                "not for me",
                "/mine",
            ],
            "as {user:?}\n{}",
            log.stderr
        );
    });
}

#[test]
fn a_step_that_needs_no_agent_runs_without_one() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox AS without
        RUN --mount=type=ssh test ! -e $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK

        FROM busybox AS required
        RUN --mount=type=ssh,id=github,required true
        ",
    );
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let log = rbuild.build(&project).target("without").ok();
        assert_eq!(log.output(), ["/run/buildkit/ssh_agent.0"]);
        let log = rbuild.build(&project).target("required").fails();
        log.says(&[
            "no SSH key \"github\" forwarded from the client",
            "--ssh github[=PATH]",
            "Dockerfile:5",
        ]);
    });
}

#[test]
fn what_is_no_agent_and_no_key_is_refused() {
    if !needs(&NEEDS) {
        return;
    }
    let project = Project::with("FROM scratch\nCOPY Dockerfile /\n");
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let out = rbuild.out();
        let [private, public] = key(&rbuild, user, "mine", "-t ed25519");
        let [locked, _] = key(&rbuild, user, "locked", "-t ed25519 -N secret");
        let [large, _] = key(&rbuild, user, "p521", "-t ecdsa -b 521");
        let agent = Agent::with(&rbuild, user, "agent.sock", &[]);
        let path = |path: &Path| path.display().to_string();
        for (value, message) in [
            ("default".to_owned(), "make sure SSH_AUTH_SOCK is set"),
            (format!("a={}", path(&out.join("none"))), "No such file"),
            (format!("a={}", path(&public)), "it is no private key"),
            (format!("a={}", path(&locked)), "it has a passphrase"),
            (format!("a={}", path(&large)), "load it into an agent"),
            (
                format!("a={},{}", path(&private), path(&agent.socket)),
                "an id stands for one agent or for keys",
            ),
        ] {
            let log = rbuild.build(&project).args(["--ssh", &value]).fails();
            let log = log.says(&[message]);
            assert_eq!(log.stderr.lines().count(), 1, "{}", log.stderr);
        }
    });
}
