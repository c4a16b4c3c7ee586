//! `login` and `logout`: at a real registry, with Docker's file and its helpers.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::support::{
    Finished, Need, Project, Rbuild, Registry, User, each_user, needs, run_with_timeout,
};

const PASSWORD: &str = "correct horse: battery";
/// The user `me` with that password, as `htpasswd -B` writes it.
const USERS: &str = "me:$2b$05$abcdefghijklmnopqrstuuo.EtZwHYN4TBb5Jt4JZsHk5MDJevH0W\n";

fn registry() -> Option<Registry> {
    needs(&[Need::Program("docker-registry")]).then(|| Registry::with_users(USERS))
}

/// Runs `rbuild WORDS` with standard input.
fn run(rbuild: &Rbuild, words: &[&str], stdin: &str) -> Finished {
    let mut command = rbuild.command();
    command.args(words);
    run_with_timeout(command, Some(stdin.into()))
}

fn config(rbuild: &Rbuild) -> PathBuf {
    rbuild.home().join(".docker/config.json")
}

fn small() -> Project {
    Project::with("FROM scratch\nCOPY a /a\n").file("a", "a")
}

#[test]
fn credentials_are_proved_kept_used_and_forgotten() {
    let Some(registry) = registry() else { return };
    let (address, name) = (registry.address(), registry.name("app:1"));
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.build(&small()).tag(&name).ok();
        rbuild.run(["push", &name]).fails().says(&["401"]);

        let login = ["login", "-u", "me", "--password-stdin", &address];
        let finished = run(&rbuild, &login, &format!("{PASSWORD}\n")).ok();
        assert_eq!(finished.text(), "Login Succeeded");
        assert!(!finished.stderr.contains(PASSWORD));
        finished.says(&["WARNING! Your credentials are stored unencrypted in '"]);
        let mode = std::fs::metadata(config(&rbuild)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        rbuild.run(["push", &name]).ok();
        rbuild.run(["pull", &name]).ok();
        // Once more, with what is kept.
        let again = rbuild.run(["login", &format!("http://{address}/v2/")]).ok();
        assert_eq!(again.text(), "Login Succeeded");
        again.says(&["Authenticating with existing credentials... [Username: me]"]);

        let finished = rbuild.run(["logout", &address]).ok();
        assert_eq!(
            finished.text(),
            format!("Removing login credentials for {address}")
        );
        rbuild.run(["pull", &name]).fails().says(&["401"]);
        let text = std::fs::read_to_string(config(&rbuild)).unwrap();
        assert_eq!(text, "{\n\t\"auths\": {}\n}");
    });
}

#[test]
fn other_tools_use_the_same_file() {
    if !needs(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let registry = Registry::with_users(USERS);
    let rbuild = Rbuild::new(&User::Caller);
    let name = registry.name("app:1");
    let login = ["login", "-u", "me", "-p", PASSWORD, &registry.address()];
    rbuild
        .run(login)
        .ok()
        .says(&["WARNING! Using --password via the CLI is insecure. Use --password-stdin."]);
    rbuild.build(&small()).tag(&name).args(["--push"]).ok();
    let inspect = |authfile: &std::path::Path| {
        let mut command = Command::new("skopeo");
        command
            .args(["inspect", "--tls-verify=false", "--authfile"])
            .arg(authfile)
            .arg(format!("docker://{name}"));
        run_with_timeout(command, None)
    };
    inspect(&config(&rbuild)).ok();

    // And the other way round.
    let rbuild = Rbuild::new(&User::Caller);
    std::fs::create_dir(rbuild.home().join(".docker")).unwrap();
    let mut command = Command::new("skopeo");
    command
        .args([
            "login",
            "--tls-verify=false",
            "-u",
            "me",
            "-p",
            PASSWORD,
            "--authfile",
        ])
        .arg(config(&rbuild))
        .arg(registry.address());
    run_with_timeout(command, None).ok();
    rbuild.run(["pull", &name]).ok();
}

#[test]
fn what_is_wrong_is_not_kept_and_not_repeated() {
    let Some(registry) = registry() else { return };
    let address = registry.address();
    let rbuild = Rbuild::new(&User::Caller);
    let login = ["login", "-u", "me", "--password-stdin", &address];
    let finished = run(&rbuild, &login, "hunter2").fails();
    assert_eq!(finished.status.code(), Some(3));
    assert!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
    finished.says(&[
        &format!("cannot log in at registry `{address}`: 401 Unauthorized"),
        "the user name or the password is wrong",
    ]);
    assert!(!config(&rbuild).exists());

    for (words, stdin, says) in [
        (
            &["login", "-u", "me", &address][..],
            "",
            "cannot perform an interactive login from a non TTY device",
        ),
        (&login[..], "\n", "password is empty"),
        (
            &[
                "login",
                "-u",
                "me",
                "--password-stdin",
                "https://me:hunter2@host",
            ],
            "x",
            "user and password don't belong in it",
        ),
        (
            &["login", "-u", "me", &address, "hunter2"],
            "",
            "there is an argument that `login` doesn't take",
        ),
        (
            &["login", "-u", "me", "--password-stdin", "localhost:1"],
            "hunter2",
            "cannot log in at registry `localhost:1`",
        ),
    ] {
        let finished = run(&rbuild, words, stdin).fails();
        assert!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
        finished.says(&[says]);
    }
    assert!(!config(&rbuild).exists());
}

#[test]
fn a_helper_gets_the_password_by_its_standard_input() {
    let Some(registry) = registry() else { return };
    let address = registry.address();
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let bin = rbuild.out().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let helper = bin.join("docker-credential-test");
        // It keeps what it is given, and how it was called.
        let script = "#!/bin/sh\necho \"$*\" >> $HOME/calls\ncase $1 in\n\
             store) cat > $HOME/kept; echo ignore hunter3;;\n\
             get) [ -e $HOME/kept ] || { echo credentials not found in native keychain; exit 1; }; cat $HOME/kept;;\n\
             erase) rm -f $HOME/kept;;\nesac\n";
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(rbuild.home().join(".docker")).unwrap();
        std::fs::write(config(&rbuild), "{\"credsStore\": \"test\"}").unwrap();
        for path in [
            &bin,
            &helper,
            &rbuild.home().join(".docker"),
            &config(&rbuild),
        ] {
            user.own(path);
        }
        let path = std::env::var("PATH").unwrap();
        let rbuild = rbuild.env("PATH", format!("{}:{path}", bin.display()));

        let login = ["login", "-u", "me", "--password-stdin", &address];
        let finished = run(&rbuild, &login, PASSWORD).ok();
        assert!(
            !finished.stderr.contains("unencrypted"),
            "{}",
            finished.stderr
        );
        let text = std::fs::read_to_string(config(&rbuild)).unwrap();
        assert!(!text.contains("auth\""), "{text}");
        let name = registry.name("app:1");
        rbuild.build(&small()).tag(&name).args(["--push"]).ok();
        rbuild.run(["logout", &address]).ok();
        rbuild.run(["push", &name]).fails().says(&["401"]);
        let calls = std::fs::read_to_string(rbuild.home().join("calls")).unwrap();
        assert!(calls.starts_with("store\nget\n"), "{calls}");
        assert!(!calls.contains("horse"), "{calls}");
    });
}

/// rbuild at a terminal of its own.
struct AtTerminal {
    child: Child,
    /// The terminal's other end.
    master: std::fs::File,
    terminal: OwnedFd,
}

impl AtTerminal {
    fn start(rbuild: &Rbuild, words: &[&str]) -> AtTerminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        let stream = || terminal.try_clone().unwrap();
        let child = rbuild
            .command()
            .args(words)
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        AtTerminal {
            child,
            master: master.into(),
            terminal,
        }
    }

    /// Reads until the text appears.
    fn wait_for(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let n = self.master.read(&mut buffer).unwrap();
            assert!(n > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8(seen).unwrap()
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn at_a_terminal_name_and_password_are_asked_for() {
    let Some(registry) = registry() else { return };
    let rbuild = Rbuild::new(&User::Caller);
    let address = registry.address();
    let mut session = AtTerminal::start(&rbuild, &["login", &address]);
    session.wait_for(&format!("Username for {address}: "));
    assert!(session.echoes());
    session.master.write_all(b"me\n").unwrap();
    session.wait_for("Password: ");
    assert!(!session.echoes());
    writeln!(session.master, "{PASSWORD}").unwrap();
    let seen = session.wait_for("Login Succeeded");
    assert!(!seen.contains("horse"), "{seen}");
    assert!(session.end().success());
    assert!(session.echoes());
    assert!(config(&rbuild).exists());
}

#[test]
fn an_interrupted_terminal_echoes_again() {
    let Some(registry) = registry() else { return };
    let rbuild = Rbuild::new(&User::Caller);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let login = ["login", "-u", "me", &registry.address()];
        let mut session = AtTerminal::start(&rbuild, &login);
        session.wait_for("Password: ");
        assert!(!session.echoes());
        let pid = rustix::process::Pid::from_child(&session.child);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(session.end().code(), Some(128 + signal.as_raw()));
        assert!(session.echoes());
    }
    assert!(!config(&rbuild).exists());
}

#[test]
fn docker_hub_is_where_one_logs_in_and_out_without_a_server() {
    let rbuild = Rbuild::new(&User::Caller);
    let text = rbuild.run(["logout"]).ok().text();
    assert_eq!(
        text,
        "Removing login credentials for https://index.docker.io/v1/"
    );
    let noted = Rbuild::new(&User::Caller).env("REGISTRY_AUTH_FILE", "/nonexistent");
    noted
        .run(["logout"])
        .ok()
        .says(&["REGISTRY_AUTH_FILE is set"]);
}
