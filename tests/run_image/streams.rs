//! What is written and read while a program runs: the machine's streams are the program's.

use std::io::Read;
use std::time::Duration;

use super::{Started, run, with_image};
use crate::support::{Need, each_user, needs, run_with_timeout};

#[test]
fn standard_input_is_given_where_it_is_wanted() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let cat = |options: &[&str]| {
            let mut command = rbuild.command();
            command.arg("run").args(options).args(["app", "cat"]);
            run_with_timeout(command, Some(b"input\n".to_vec()))
                .ok()
                .text()
        };
        assert_eq!(cat(&[]), "");
        assert_eq!(cat(&["-i"]), "input");
        assert_eq!(cat(&["--interactive=false"]), "");
        let both = run(&rbuild, &["app", "sh", "-c", "echo out; echo err >&2"]).ok();
        assert_eq!(
            (both.text().as_str(), both.stderr.as_str()),
            ("out", "err\n")
        );
    });
}

#[test]
fn files_that_streams_lead_to_are_out_of_reach() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let file = |name: &str| rbuild.out().join(name);
        std::fs::write(file("in"), "input\n").unwrap();
        std::fs::write(file("out"), "kept\n").unwrap();
        let before = std::fs::metadata(file("in")).unwrap().permissions();
        let script = "cat; echo appended; \
                      exec 2>/dev/null; for n in 0 1; do chmod 777 /proc/self/fd/$n; done; \
                      echo replaced > /proc/self/fd/0; cat /proc/self/fd/1 & sleep 0.1; kill $!";
        let mut command = rbuild.command();
        command.args(["run", "-i", "app", "timeout", "10", "sh", "-c", script]);
        command.stdin(std::fs::File::open(file("in")).unwrap());
        let out = std::fs::File::options().append(true).open(file("out"));
        command.stdout(out.unwrap());
        command.status().unwrap();
        let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
        assert_eq!(read("in"), "input\n");
        assert_eq!(read("out"), "kept\ninput\nappended\n");
        assert_eq!(std::fs::metadata(file("in")).unwrap().permissions(), before);
        // The streams are the user's who runs there, by whichever name.
        let script = "echo out > /dev/stdout; echo err > /dev/stderr";
        let named = run(&rbuild, &["-u", "app", "app", "sh", "-c", script]).ok();
        assert_eq!(
            (named.text().as_str(), named.stderr.as_str()),
            ("out", "err\n")
        );
    });
}

#[test]
fn all_output_comes_however_slow_its_reader() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let mut command = rbuild.command();
        command.args(["run", "app", "sh", "-c", "seq 1 200000; echo end >&2"]);
        let mut program = Started::new(command);
        std::thread::sleep(Duration::from_secs(3));
        let mut shown = String::new();
        let stdout = program.0.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut shown).unwrap();
        assert!(shown.ends_with("\n199999\n200000\n"));
        assert_eq!(program.code(), Some(0));
        // One that goes away is the program's affair.
        let mut command = rbuild.command();
        command.args(["run", "app", "sh", "-c", "yes; echo $? >&2"]);
        let mut program = Started::new(command);
        program.wait_for("y\n");
        drop(program.0.stdout.take());
        let mut said = String::new();
        let stderr = program.0.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(said.lines().last(), Some("141"), "{said}");
    });
}
