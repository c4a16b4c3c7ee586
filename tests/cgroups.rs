//! `--memory`, `--cpus`, `--cgroup-parent` and their kin: a step has a control group of its own, what
//! limits it is enforced there, and nothing of it stays.
//!
//! Every test has a group of its own, in which rbuild is started. Where cgroup version 2 is not at
//! its usual place, a mount namespace with it stands in. It has there what controllers the machine
//! leaves to it; one that is missing is to be named.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{
    Finished, Need, Project, Rbuild, User, as_other_user, each_user, needs, run_with_timeout, skip,
};

const NOTHING: [&str; 0] = [];

fn step(command: &str) -> Project {
    Project::with(&format!("FROM busybox\nRUN {command}\n"))
}

/// A group of a test's own.
struct Tree {
    name: String,
    controllers: String,
}

impl Tree {
    /// `None` where a test can make none, which it then has said.
    fn new(name: &str) -> Option<Tree> {
        if !needs(&[Need::BaseImages, Need::Root, Need::Program("unshare")]) {
            return None;
        }
        let name = format!("rbuild-test-{name}-{}", std::process::id());
        let mut tree = Tree {
            name,
            controllers: String::new(),
        };
        let made = tree.script(
            "mkdir shell; for one in cpu cpuset memory pids; do \
             echo +$one > ../cgroup.subtree_control || :; done 2>/dev/null; cat cgroup.controllers",
        );
        if !made.status.success() {
            skip("cgroup version 2 can't be mounted");
            return None;
        }
        tree.controllers = made.text();
        Some(tree)
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(' ').any(|one| one == controller)
    }

    /// Runs a script in the group's folder.
    fn script(&self, script: &str) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{{ {script}\n}}")]);
        command
            .env("PATH", std::env::var_os("PATH").unwrap())
            .current_dir("/");
        run_with_timeout(self.with("cd $group", &command), None)
    }

    /// The command, run in the group.
    fn enter(&self, command: &Command) -> Command {
        self.with("echo 0 > $group/shell/cgroup.procs", command)
    }

    fn with(&self, preparation: &str, command: &Command) -> Command {
        let script = format!(
            "group=/sys/fs/cgroup/{}\n\
             test -e /sys/fs/cgroup/cgroup.controllers || \
             mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null || exit 99\n\
             mkdir -p $group && {preparation} || exit 99\nexec \"$@\"",
            self.name
        );
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "--", "sh", "-c", &script, "sh"]);
        outer.arg(command.get_program()).args(command.get_args());
        outer.env_clear();
        let variables = command.get_envs();
        outer.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        outer.current_dir(command.get_current_dir().unwrap());
        outer
    }

    /// Hands the group over, as systemd does.
    fn delegate(&self, user: &User) {
        if let User::Other { uid, .. } = user {
            let files = ". cgroup.procs cgroup.subtree_control shell shell/cgroup.procs";
            self.script(&format!("chown {uid} {files}")).ok();
        }
    }

    /// The groups in it, but for that of rbuild itself.
    fn groups(&self) -> Vec<String> {
        let found = self.script("find . -mindepth 1 -type d ! -name shell | sort");
        found.ok().text().lines().map(str::to_owned).collect()
    }

    /// Runs a case as root, and as a user who was given the group.
    fn each_user(&self, case: impl Fn(&User)) {
        case(&User::Caller);
        as_other_user(|user| {
            self.delegate(user);
            case(user);
        });
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.script("find $PWD -depth -type d -exec rmdir {} ';'");
    }
}

#[test]
fn a_step_gets_a_group_below_the_parent() {
    let Some(tree) = Tree::new("parent") else {
        return;
    };
    tree.each_user(|user| {
        // What root has made on the way is root's.
        let top = if user.is_root() { "root" } else { "user" };
        let parent = format!("{}/{top}/on/the-way", tree.name);
        let rbuild = Rbuild::new(user);
        let run = |project: &Project| {
            let build = rbuild.build(project).args(["--cgroup-parent", &parent]);
            run_with_timeout(tree.enter(&build.command()), None)
        };
        let log = run(&step(
            "grep ^0: /proc/self/cgroup; test -e /sys/fs/cgroup/cgroup.type && echo mine; \
             grep -c . /sys/fs/cgroup/cgroup.procs",
        ));
        let log = log.ok();
        let output = log.output();
        // The step's own group is the root of what it sees, and it isn't alone there: its init.
        assert_eq!(output[..2], ["0::/", "mine"], "{user:?} {}", log.stderr);
        assert!(output[2].parse::<u32>().unwrap() >= 1);
        run(&step("exit 3")).fails().says(&["exit code: 3"]);
        // The parent stays, as Docker leaves it.
        let mut groups = tree.groups();
        groups.retain(|group| group.starts_with(&format!("./{top}")));
        let parents = ["", "/on", "/on/the-way"].map(|end| format!("./{top}{end}"));
        assert_eq!(groups, parents, "{user:?}");
    });
}

#[test]
fn a_group_that_a_killed_rbuild_leaves_goes_with_the_next_build() {
    let Some(tree) = Tree::new("killed") else {
        return;
    };
    tree.each_user(|user| {
        // What root has made is root's.
        let name = if user.is_root() { "root" } else { "user" };
        let parent = format!("{}/{name}", tree.name);
        let rbuild = Rbuild::new(user);
        let build = |project: &Project| {
            let build = rbuild.build(project).args(["--cgroup-parent", &parent]);
            tree.enter(&build.command())
        };
        let log = rbuild.out().join("log");
        let long = step("echo begun; exec sleep 600");
        let mut child = build(&long)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        loop {
            // The child ends by itself where it can't begin.
            let ended = child.try_wait().unwrap();
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(ended.is_none(), "{user:?} {text}");
            if text.contains(" begun\n") {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let groups = || {
            let mut groups = tree.groups();
            groups.retain(|group| group.starts_with(&format!("./{name}")));
            groups
        };
        assert_eq!(groups().len(), 2, "{user:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        tree.script(&format!(
            "for try in $(seq 600); do grep -q 'populated 0' {name}/rbuild-*/cgroup.events && \
             exit 0; sleep 0.1; done; exit 1"
        ))
        .ok();
        run_with_timeout(build(&step("true")), None).ok();
        assert_eq!(groups(), [format!("./{name}")], "{user:?}");
    });
}

#[test]
fn limits_are_enforced() {
    let Some(tree) = Tree::new("limits") else {
        return;
    };
    let lacks = |log: Finished, controller: &str| {
        let missing = format!(
            "`/sys/fs/cgroup/{}` has no controller `{controller}`",
            tree.name
        );
        log.fails().says(&[&missing])
    };
    tree.each_user(|user| {
        let rbuild = Rbuild::new(user);
        for (limits, controller, command, expected) in [
            (
                &["--cpus", "0.2"][..],
                "cpu",
                "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; cd /sys/fs/cgroup; \
                 cat cpu.max; awk '/^nr_throttled/ && $2 > 0 {print \"waited\"}' cpu.stat",
                &["20000 100000", "waited"][..],
            ),
            (
                &["--cpuset-cpus", "0"],
                "cpuset",
                "grep Cpus_allowed_list: /proc/self/status",
                &["Cpus_allowed_list:\t0"],
            ),
            (
                &["--memory", "64m", "--memory-swap", "128m"],
                "memory",
                "cd /sys/fs/cgroup; cat memory.max; test ! -e memory.swap.max || \
                 test 67108864 = $(cat memory.swap.max) && echo swap",
                &["67108864", "swap"],
            ),
        ] {
            let project = step(command);
            let build = rbuild.build(&project).args(limits);
            let log = run_with_timeout(tree.enter(&build.command()), None);
            match tree.has(controller) {
                true => assert_eq!(log.ok().output(), expected, "{user:?} {limits:?}"),
                false => drop(lacks(log, controller).says(&["Dockerfile:2"])),
            }
        }
        let too_much = step("--mount=type=tmpfs,target=/t head -c 100m /dev/zero > /t/file");
        let limits = ["--memory", "32m", "--memory-swap", "32m"];
        let build = rbuild.build(&too_much).args(limits);
        let log = run_with_timeout(tree.enter(&build.command()), None);
        match tree.has("memory") {
            true => drop(log.fails().says(&["exit code: 137", "out of memory"])),
            false => drop(lacks(log, "memory")),
        }
        rbuild.build(&step("true")).tag("app").ok();
        let mut run = rbuild.command();
        run.args(["run", "--rm", "--pids-limit", "6", "app", "sh", "-c"])
            .arg("for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait");
        let log = run_with_timeout(tree.enter(&run), None);
        match tree.has("pids") {
            true => drop(log.fails().says(&["can't fork"])),
            false => drop(lacks(log, "pids")),
        }
        assert_eq!(tree.groups(), NOTHING, "{user:?}");
    });
}

#[test]
fn a_group_with_processes_limits_none_below_it() {
    let Some(tree) = Tree::new("occupied") else {
        return;
    };
    tree.script(
        "for one in $(cat cgroup.controllers); do echo +$one > cgroup.subtree_control || :; done",
    )
    .ok();
    // The one that rbuild itself is in.
    let parent = format!("{}/shell", tree.name);
    tree.each_user(|user| {
        let rbuild = Rbuild::new(user);
        let project = step("echo $((6 * 7))");
        let run = |limits: &[&str]| {
            let build = rbuild.build(&project).args(["--cgroup-parent", &parent]);
            run_with_timeout(tree.enter(&build.args(limits).command()), None)
        };
        for (limits, controller) in [(["--cpus", "1"], "cpu"), (["--memory", "1g"], "memory")] {
            let message = match tree.has(controller) {
                true => "/shell` has processes of its own, so none below it can be limited",
                false => "has no controller",
            };
            run(&limits).fails().says(&["`--cgroup-parent`: ", message]);
        }
        assert_eq!(run(&[]).ok().output(), ["42"], "{user:?}");
        let kind = tree.script("cat shell/cgroup.type; cat shell/cgroup.subtree_control");
        assert_eq!(kind.ok().text(), "domain", "{user:?}");
    });
}

#[test]
fn a_group_that_can_not_be_had_is_an_error() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = Rbuild::new(user);
        let has_version_2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if has_version_2 && user.is_root() {
            return;
        }
        let log = rbuild
            .build(&step("true"))
            .args(["--cgroup-parent", "/rbuild-nobody-may"])
            .fails();
        log.says(&["`--cgroup-parent`: "]).says(&[if has_version_2 {
            "has to be writable for the user who builds"
        } else {
            "this machine has not just cgroup version 2"
        }]);
        if !has_version_2 {
            let limited = rbuild.build(&step("true")).args(["--memory", "1g"]).fails();
            let limited = limited.says(&[
                "can't limit what a step uses of the machine: this machine has not just cgroup",
            ]);
            assert_eq!(limited.stderr.matches("error:").count(), 1);
        }
    });
}
