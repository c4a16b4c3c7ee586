//! `rbuild doctor` and `rbuild unshare`: what works on a machine, and a look at rbuild's own files.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{
    Finished, Need, Project, Rbuild, User, as_other_user, each_user, needs, run_with_timeout,
};

fn report(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout).unwrap()
}

/// What the report says of one kind of isolation.
fn kind<'a>(report: &'a Value, name: &str) -> &'a Value {
    let kinds = report["isolation"]["kinds"].as_array().unwrap();
    kinds.iter().find(|kind| kind["name"] == name).unwrap()
}

#[test]
fn the_report_says_what_a_build_does() {
    if !needs(&[Need::Sandbox]) {
        return;
    }
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let text = rbuild.run(["doctor"]).ok().text();
        let json = report(&rbuild.run(["doctor", "--json"]).ok());
        let used = json["isolation"]["used"].as_str().unwrap();
        assert!(
            text.starts_with(&format!("RUN steps work, with the isolation `{used}`\n")),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(json["run"], true);
        assert_eq!(kind(&json, used)["works"], true);
        assert_eq!(json["store"]["path"], rbuild.store().to_str().unwrap());
        assert_eq!(json["store"]["overlay"]["works"], true);
        let told = rbuild
            .build_at(crate::support::repository().join("examples/hello"))
            .args(["-v"])
            .ok();
        told.says(&[&format!("isolation: {used}")]);
        if !user.is_root() {
            let root = kind(&json, "root");
            assert_eq!(root["works"], false);
            assert_eq!(root["reason"], "CAP_SYS_ADMIN is missing");
        }
    });
}

#[test]
fn nothing_is_left_where_the_store_would_be() {
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        rbuild.run(["doctor"]);
        let missing = rbuild.out().join("not/there/yet");
        let json = rbuild.run(["--root", missing.to_str().unwrap(), "doctor", "--json"]);
        assert_eq!(report(&json)["store"]["exists"], false);
        for folder in [rbuild.store(), rbuild.out()] {
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{folder:?}");
        }
    });
}

#[test]
fn what_was_asked_for_is_what_counts() {
    let rbuild = Rbuild::new(&User::Caller);
    let none = rbuild.run(["--isolation=none", "doctor"]).fails();
    assert_eq!(none.status.code(), Some(1));
    assert!(none.text().starts_with("RUN steps don't work"), "{none:?}");
    as_other_user(|user| {
        let rbuild = Rbuild::new(user).env("RBUILD_ISOLATION", "root");
        let json = report(&rbuild.run(["doctor", "--json"]).fails());
        assert_eq!(json["run"], false);
        assert_eq!(json["isolation"]["asked"], "root");
    });
}

/// Runs `rbuild ARGS` below `script`, which ends in `exec "$@"`.
fn below(rbuild: &Rbuild, wrapper: &[&str], script: &str, args: &[&str]) -> Finished {
    let inner = rbuild.command();
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).args(["sh", "-c", script, "sh"]);
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .args(args);
    command.env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    run_with_timeout(command, None)
}

#[test]
fn a_setting_that_forbids_namespaces_is_named_with_its_remedy() {
    if !needs(&[
        Need::Program("unshare"),
        Need::Program("setpriv"),
        Need::Sandbox,
    ]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    // In a user namespace of its own, the test may say how many more there can be.
    let finished = below(
        &rbuild,
        &["unshare", "--user", "--map-root-user"],
        "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"",
        &["doctor", "--json"],
    )
    .fails();
    assert_eq!(finished.status.code(), Some(1));
    let json = report(&finished);
    assert_eq!(json["run"], false);
    assert_eq!(json["isolation"]["used"], Value::Null);
    let single = kind(&json, "userns-single");
    assert_eq!(single["works"], false);
    assert_eq!(
        single["tried"],
        "make user and mount namespaces with `unshare`"
    );
    assert_eq!(single["cause"], "user.max_user_namespaces is 0");
    assert_eq!(single["fix"], "sysctl -w user.max_user_namespaces=15000");
}

#[test]
fn what_keeps_set_uid_programs_from_working_is_named() {
    if !needs(&[
        Need::Program("setpriv"),
        Need::Program("newuidmap"),
        Need::Sandbox,
    ]) {
        return;
    }
    as_other_user(|user| {
        let rbuild = Rbuild::new(user);
        let script = "exec \"$@\"";
        let wrapper = ["setpriv", "--no-new-privs"];
        let finished = below(&rbuild, &wrapper, script, &["doctor", "--json"]).ok();
        let json = report(&finished);
        assert_eq!(json["isolation"]["used"], "userns-single");
        let fix = kind(&json, "userns")["fix"].as_str().unwrap().to_owned();
        assert!(fix.contains("no_new_privs"), "{fix}");
    });
}

#[test]
fn a_store_on_which_overlay_can_not_write_is_noticed() {
    if !needs(&[Need::Program("unshare"), Need::Root, Need::Sandbox]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let store = rbuild.store();
    let script = format!(
        "cd {} && mkdir l u w && mount -t tmpfs none u && mkdir u/u u/w && \
         mount -t overlay none -o lowerdir=l,upperdir=u/u,workdir=u/w w && \
         export RBUILD_ROOT=$PWD/w/store && exec \"$@\"",
        rbuild.out().display()
    );
    let finished = below(
        &rbuild,
        &["unshare", "--mount"],
        &script,
        &["doctor", "--json"],
    )
    .ok();
    let json = report(&finished);
    assert_eq!(json["run"], true);
    assert_eq!(json["store"]["driver"], "copy");
    assert_eq!(json["store"]["fileSystem"], "overlay");
    assert_eq!(json["store"]["overlay"]["works"], false);
    assert_eq!(kind(&json, "root")["works"], true);
    assert!(std::fs::read_dir(store).unwrap().next().is_none());
}

#[test]
fn unshare_becomes_the_program() {
    if !needs(&[Need::Sandbox]) {
        return;
    }
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let inside = rbuild.run([
            "unshare",
            "sh",
            "-c",
            "id -u; echo $RBUILD_ROOT; pwd; exit 42",
        ]);
        assert_eq!(inside.status.code(), Some(42), "{inside:?}");
        let expected = format!(
            "0\n{}\n{}",
            rbuild.store().display(),
            rbuild.out().display()
        );
        assert_eq!(inside.text(), expected);
        let says = inside.stderr.contains("no user namespace is needed");
        assert_eq!(says, user.is_root(), "{}", inside.stderr);
        let shell = Rbuild::new(user)
            .env("SHELL", "/bin/echo")
            .run(["unshare"])
            .ok();
        assert_eq!(shell.text(), "");
        for (program, code) in [
            ("/nonexistent", 127),
            ("no-such-program", 127),
            ("/etc", 126),
        ] {
            let failed = rbuild.run(["unshare", program]);
            assert_eq!(failed.status.code(), Some(code), "{program}: {failed:?}");
        }
        assert_eq!(
            rbuild
                .run(["--isolation=none", "unshare", "true"])
                .status
                .code(),
            Some(125)
        );
        // Its options are its own.
        let words = rbuild
            .run(["unshare", "echo", "--version", "-v", "--root=x"])
            .ok();
        assert_eq!(words.text(), "--version -v --root=x");
    });
}

#[test]
fn files_of_lent_ids_can_be_looked_at_and_removed() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    as_other_user(|user| {
        let rbuild = Rbuild::new(user);
        let project = Project::with(
            "FROM busybox\nRUN mkdir -m 700 /mine && touch /mine/file && chown -R app /mine\n",
        );
        rbuild.build(&project).tag("app").ok();
        let store = rbuild.store();
        let found = rbuild
            .run([
                "unshare",
                "find",
                store.to_str().unwrap(),
                "-name",
                "file",
                "-uid",
                "1000",
            ])
            .ok()
            .text();
        assert!(found.ends_with("/mine/file"), "{found}");
        let mine = Path::new(&found).parent().unwrap();
        rbuild
            .run(["unshare", "rm", "-r", mine.to_str().unwrap()])
            .ok();
        assert!(!mine.exists());
    });
}
