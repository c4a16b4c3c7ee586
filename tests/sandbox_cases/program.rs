//! The program of a step: how it is found, what it gets, how it ends.

use std::collections::BTreeMap;

use rbuild::sandbox::{Isolation, Outcome, OutsideError, OutsideProgram};

use super::support::Fixture;
use super::{Case, has_many_ids};

pub(crate) const CASES: &[Case] = &[
    ("exit_codes_and_signals_are_reported", exit_codes),
    ("output_streams_are_apart", streams),
    ("environment_is_exactly_what_was_given", environment),
    ("programs_are_found_as_docker_finds_them", lookup),
    ("working_directory", working_directory),
    ("user_group_and_groups", identity),
    ("standard_input", standard_input),
    ("host_name_session_and_umask", surroundings),
    ("a_request_larger_than_a_socket_buffer", large_request),
    ("many_steps_at_once", many),
    ("foreign_programs_run_as_the_caller", outside),
];

fn exit_codes(fixture: &Fixture) {
    for code in [0, 1, 7, 255] {
        let ran = fixture.run(fixture.script(&format!("exit {code}")));
        assert_eq!(ran.outcome, Outcome::Exited { code });
    }
    for signal in [6, 9, 15] {
        let ran = fixture.run(fixture.script(&format!("kill -{signal} $$")));
        assert_eq!(ran.outcome, Outcome::Signaled { signal });
    }
}

fn streams(fixture: &Fixture) {
    let ran = fixture.run(fixture.script("echo out; echo err >&2"));
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn environment(fixture: &Fixture) {
    let mut spec = fixture.program(&["env"]);
    spec.env = vec![
        "PATH=/bin".to_owned(),
        "EMPTY=".to_owned(),
        "A=b c\nd".to_owned(),
    ];
    assert_eq!(fixture.run(spec).output(), "PATH=/bin\nEMPTY=\nA=b c\nd");
}

fn lookup(fixture: &Fixture) {
    let cases = [
        (
            "nothing",
            127,
            "exec: \"nothing\": executable file not found in $PATH",
        ),
        (
            "/nothing",
            127,
            "exec: \"/nothing\": stat /nothing: no such file or directory",
        ),
        ("/etc", 126, "exec: \"/etc\": is a directory"),
        ("/tmp/plain", 126, "exec: \"/tmp/plain\": permission denied"),
        (
            "/tmp/orphan",
            127,
            "exec /tmp/orphan: no such file or directory",
        ),
        ("/tmp/garbage", 126, "exec /tmp/garbage: exec format error"),
        ("", 127, "exec: \"\": executable file not found in $PATH"),
    ];
    for (program, code, message) in cases {
        let spec = fixture.program(&[program]);
        let tmp = spec.writable.upper.as_path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        for (name, mode, content) in [
            ("plain", 0o644, "#!/bin/sh\n"),
            ("orphan", 0o755, "#!/nothing\n"),
            ("garbage", 0o755, "\u{1}\u{2}\u{3}"),
        ] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(tmp.join(name), content).unwrap();
            std::fs::set_permissions(tmp.join(name), std::fs::Permissions::from_mode(mode))
                .unwrap();
        }
        let message = message.to_owned();
        assert_eq!(
            fixture.run(spec).outcome,
            Outcome::NotExecutable { code, message }
        );
    }
    let mut spec = fixture.program(&["echo", "found"]);
    spec.env = vec!["PATH=/nowhere::/bin".to_owned()];
    assert_eq!(fixture.run(spec).output(), "found");
}

fn working_directory(fixture: &Fixture) {
    assert_eq!(fixture.sh("pwd"), "/");
    let mut spec = fixture.script("pwd -P; mkdir here");
    std::fs::create_dir_all(spec.writable.upper.as_path().join("a/b")).unwrap();
    std::os::unix::fs::symlink("/a/b", spec.writable.upper.as_path().join("link")).unwrap();
    spec.cwd = b"/link/../../../../a/b".to_vec();
    let ran = fixture.run(spec);
    assert_eq!(ran.output(), "/a/b");
    assert!(ran.upper.join("a/b/here").is_dir());

    let mut spec = fixture.script("true");
    spec.cwd = b"/not/there".to_vec();
    assert_eq!(
        fixture.run(spec).setup_failure(),
        "can't set up the sandbox: can't open the working directory `/not/there`: No such file or directory (os error 2)"
    );
}

fn identity(fixture: &Fixture) {
    let status = "sed -n 's/^\\([UG]id\\|Groups\\):\\s*//p' /proc/self/status";
    let mut spec = fixture.script(status);
    if has_many_ids(fixture) {
        assert_eq!(fixture.run(spec).output(), "0\t0\t0\t0\n0\t0\t0\t0");
        spec = fixture.script(status);
        (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![5, 1001]);
        assert_eq!(
            fixture.run(spec).output(),
            "1000\t1000\t1000\t1000\n1001\t1001\t1001\t1001\n5 1001"
        );
        spec = fixture.script("touch /tmp/mine; stat -c %u:%g /tmp/mine");
        (spec.uid, spec.gid) = (1000, 1001);
        let tmp = spec.writable.upper.as_path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        rustix::fs::chmod(&tmp, rustix::fs::Mode::from(0o1777)).unwrap();
        assert_eq!(fixture.run(spec).output(), "1000:1001");
    } else {
        // Root's usual groups can't be had, and are left out.
        spec.groups = vec![0, 1, 2, 3];
        let ran = fixture.run(spec);
        assert!(ran.output().starts_with("0\t0\t0\t0\n0\t0\t0\t0"));
        spec = fixture.script("true");
        spec.uid = 1000;
        assert!(
            fixture
                .run(spec)
                .setup_failure()
                .contains("can't become user 1000: it is not mapped in this user namespace")
        );
    }
}

fn standard_input(fixture: &Fixture) {
    assert_eq!(fixture.sh("cat | wc -c"), "0");
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::write(&writer, b"typed").unwrap();
    drop(writer);
    let ran = fixture.run_with(fixture.script("cat"), Some(reader), Vec::new());
    assert_eq!(ran.output(), "typed");
}

fn surroundings(fixture: &Fixture) {
    assert_eq!(fixture.sh("hostname"), "sandbox");
    assert_eq!(fixture.sh("umask"), "0022");
    if fixture.has_own_proc() {
        // Init and the shell, no other process.
        assert_eq!(fixture.sh("set -- /proc/[0-9]*; echo $#"), "2");
    }
    // No terminal.
    assert_eq!(
        fixture.sh("(echo x > /dev/tty) 2>&1 | grep -c 'No such device'"),
        "1"
    );
    assert_eq!(
        fixture.sh("ls -l /proc/self/fd | wc -l; ls /proc/self/fd"),
        "5\n0\n1\n2\n3"
    );
}

fn large_request(fixture: &Fixture) {
    let mut spec = fixture.script("env | wc -c; echo ${#LAST}");
    for index in 0..16 {
        spec.env.push(format!("V{index}={}", "x".repeat(100_000)));
    }
    spec.env.push(format!("LAST={}", "y".repeat(100_000)));
    let ran = fixture.run(spec);
    let (all, last) = ran.output().split_once('\n').unwrap();
    assert!(all.parse::<usize>().unwrap() > 1_700_000);
    assert_eq!(last, "100000");
}

fn many(fixture: &Fixture) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24)
            .map(|number| {
                scope.spawn(move || {
                    let script = format!("echo {number} > /mine; sleep 0.0{number}; cat /mine");
                    let ran = fixture.run(fixture.script(&script));
                    (number, ran.output().to_owned())
                })
            })
            .collect();
        let outputs: BTreeMap<i32, String> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        for (number, output) in outputs {
            assert_eq!(output, number.to_string());
        }
    });
}

fn outside(fixture: &Fixture) {
    let outside = &fixture.processes.outside;
    // Nobody enters another user namespace as root; else the caller is 0 in it.
    let caller = match &fixture.processes.isolation {
        Isolation::Root => rustix::process::geteuid().as_raw(),
        _ => fixture.processes.uid_map[0].1,
    };
    let ran = outside.run(&OutsideProgram::new("id").arg("-u")).unwrap();
    assert_eq!(
        String::from_utf8(ran.stdout).unwrap().trim(),
        caller.to_string()
    );
    let script = "cat; echo oops >&2; pwd; echo $NAME; exit 3";
    let input = vec![b'x'; 1 << 20];
    let program = OutsideProgram::new("sh")
        .arg("-c")
        .arg(script)
        .env("NAME", "value")
        .cwd("/")
        .stdin(input.clone());
    let ran = outside.run(&program).unwrap();
    assert_eq!((ran.code, ran.stderr), (3, b"oops\n".to_vec()));
    assert_eq!(ran.stdout, [&input[..], b"/\nvalue\n"].concat());
    let error = outside
        .run(&OutsideProgram::new("/not/a/program"))
        .unwrap_err();
    assert!(
        matches!(&error, OutsideError::NotStarted { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
    // Slow programs don't hold up others.
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| outside.run(&OutsideProgram::new("sleep").arg("2")).unwrap());
        for _ in 0..4 {
            outside.run(&OutsideProgram::new("true")).unwrap();
        }
        assert!(!slow.is_finished());
    });
}
