//! The first hour of somebody who knows `docker build`: tests/first_hour.sh, as root and as an
//! ordinary user, on a terminal and without one, compared with testdata/first-hour/ word by word.
//!
//! `RBUILD_TEST_UPDATE=1` writes what was shown to testdata/first-hour/ instead; read the
//! difference before it is committed.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{
    Need, Rbuild, Registry, Terminal, User, base_image_mirror, each_user, needs, repository,
    run_with_timeout,
};

const NEEDS: [Need; 5] = [
    Need::BaseImages,
    Need::Sandbox,
    Need::Program("podman"),
    Need::Program("curl"),
    Need::Program("setsid"),
];

/// A place to spend an hour in.
struct Hour {
    rbuild: Rbuild,
    registry: Registry,
    port: u16,
}

impl Hour {
    fn new(user: &User) -> Hour {
        let rbuild = Rbuild::new(user);
        for name in ["bin", "second", "podman"] {
            let path = rbuild.out().join(name);
            std::fs::create_dir(&path).unwrap();
            user.own(&path);
        }
        let link = rbuild.out().join("bin/rbuild");
        std::os::unix::fs::symlink(user.binary(), link).unwrap();
        // A podman with a storage of its own.
        let podman = rbuild.out().join("podman").display().to_string();
        let driver = if user.is_root() { "overlay" } else { "vfs" };
        let wrapper = rbuild.out().join("bin/podman");
        let text = format!(
            "#!/bin/sh\nexec /usr/bin/podman --log-level error --root {podman}/root \
             --runroot {podman}/run --tmpdir {podman}/tmp --storage-driver {driver} \
             --cgroup-manager cgroupfs \"$@\"\n"
        );
        std::fs::write(&wrapper, text).unwrap();
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        Hour {
            rbuild,
            registry: Registry::start(),
            port,
        }
    }

    fn command(&self) -> Command {
        let out = self.rbuild.out();
        let at = |name: &str| out.join(name).display().to_string();
        let script = repository().join("tests/first_hour.sh");
        let mut command = self.rbuild.shell_command(script);
        command
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", at("bin")),
            )
            .env("SECOND", at("second"))
            .env("REGISTRY", self.registry.address())
            .env(
                "RBUILD_REGISTRY_MIRROR",
                base_image_mirror().unwrap_or_default(),
            )
            .env("PORT", self.port.to_string());
        command
    }

    /// What was shown, without what differs from one hour to the next.
    fn masked(&self, shown: &str) -> String {
        let out = self.rbuild.out().display().to_string();
        let home = self.rbuild.store().display().to_string();
        let mut text = String::new();
        for line in shown.replace('\r', "").lines() {
            // How often a transfer is told of depends on its speed.
            if line.contains(" / ") && line.contains("sha256:") {
                continue;
            }
            let mut line = line.to_owned();
            for (found, name) in [
                (self.registry.address(), "REGISTRY"),
                (home.clone(), "STORE"),
                (out.clone(), "OUT"),
                (self.port.to_string(), "PORT"),
            ] {
                line = line.replace(&found, name);
            }
            // A build's logs are in a folder named by time and chance.
            if let Some((before, after)) = line.split_once("STORE/logs/")
                && let Some((_, name)) = after.split_once('/')
            {
                line = format!("{before}STORE/logs/BUILD/{name}");
            }
            text += line.trim_end();
            text.push('\n');
        }
        // So does whether its rate is told.
        mask_digits(&text).replace(" N N done", " N done")
    }
}

/// Digests, ids, times and sizes, which are another's every time.
fn mask_digits(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let end_word = |word: &mut String, out: &mut String| {
        let hex = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let shown = if hex(word) {
            "HEX".to_owned()
        } else if is_quantity(word) {
            "N".to_owned()
        } else {
            std::mem::take(word)
        };
        out.push_str(&shown);
        word.clear();
    };
    for c in text.chars() {
        if c.is_alphanumeric() || c == '.' {
            word.push(c);
        } else {
            end_word(&mut word, &mut out);
            out.push(c);
        }
    }
    end_word(&mut word, &mut out);
    out
}

/// `0.3s`, `4.21MB`, `0.123`.
fn is_quantity(word: &str) -> bool {
    let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &word[number.len()..];
    let has_unit = matches!(unit, "s" | "B" | "kB" | "MB" | "GB");
    let is_log_time = unit.is_empty() && number.contains('.') && number.len() >= 5;
    (has_unit || is_log_time) && number.parse::<f64>().is_ok()
}

#[track_caller]
fn assert_is(found: &str, name: &str) {
    let path = repository().join("testdata/first-hour").join(name);
    if std::env::var_os("RBUILD_TEST_UPDATE").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of {name}\n", number + 1);
    }
    assert_eq!(
        found.lines().count(),
        expected.lines().count(),
        "{name}:\n{found}"
    );
}

fn is_left(store: &Path) -> Vec<String> {
    ["blobs", "trees", "indexes", "mounts"]
        .iter()
        .flat_map(|name| {
            let output = Command::new("find")
                .arg(store.join(name))
                .args(["-type", "f"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn without_a_terminal() {
    if !needs(&NEEDS) {
        return;
    }
    each_user(|user| {
        let hour = Hour::new(user);
        // Both streams in the order of their writing, as a CI system shows them.
        let mut command = hour.command();
        command.arg("--both");
        let finished = run_with_timeout(command, None).ok();
        assert_is(&hour.masked(&finished.text()), "plain.txt");
        assert_eq!(is_left(&hour.rbuild.store()), Vec::<String>::new());
    });
}

#[test]
fn on_a_terminal() {
    if !needs(&NEEDS) {
        return;
    }
    each_user(|user| {
        let hour = Hour::new(user);
        let mut command = hour.command();
        command.env("TERM", "xterm-256color");
        let mut terminal = Terminal::start(&command, 100, 500);
        assert!(
            terminal.wait().success(),
            "{}",
            terminal.screen().join("\n")
        );
        let shown = terminal.screen().join("\n");
        assert_is(&hour.masked(&shown), "terminal.txt");
        assert!(terminal.shows_cursor());
        assert_eq!(is_left(&hour.rbuild.store()), Vec::<String>::new());
    });
}
