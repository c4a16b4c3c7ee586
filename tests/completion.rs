//! Completion in shells, and manual pages.

use std::process::Command;

use crate::support::{Need, Rbuild, User, needs, run_with_timeout};

fn script(rbuild: &Rbuild, shell: &str) -> String {
    rbuild.run(["completion", shell]).ok().text()
}

/// What bash offers for the last of these words.
fn offered(rbuild: &Rbuild, words: &[&str]) -> Vec<String> {
    let file = rbuild.out().join("rbuild.bash");
    std::fs::write(&file, script(rbuild, "bash")).unwrap();
    let last = words.len() - 1;
    let program = format!(
        "source {}; COMP_WORDS=({}); COMP_CWORD={last}; _rbuild rbuild '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words.join(" "),
        words[last],
        words[last - 1],
    );
    let mut command = Command::new("bash");
    command.args(["-c", &program]);
    let text = run_with_timeout(command, None).ok().text();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_commands_and_options_but_none_that_is_refused() {
    if !needs(&[Need::Program("bash")]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    assert_eq!(offered(&rbuild, &["rbuild", "logi"]), ["login"]);
    assert_eq!(
        offered(&rbuild, &["rbuild", "build", "--no-c"]),
        ["--no-cache", "--no-cache-filter"]
    );
    let shells = offered(&rbuild, &["rbuild", "completion", ""]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(shells.contains(&shell.to_owned()), "{shells:?}");
    }
    let all = offered(&rbuild, &["rbuild", "build", "--"]);
    assert!(all.contains(&"--ulimit".to_owned()), "{all:?}");
    assert!(!all.contains(&"--source-policy-file".to_owned()), "{all:?}");
    assert!(offered(&rbuild, &["rbuild", "ma"]).is_empty());
}

#[test]
fn every_shell_gets_a_script_that_it_can_read() {
    let rbuild = Rbuild::new(&User::Caller);
    for (shell, beginning) in [
        ("bash", "_rbuild() {"),
        ("zsh", "#compdef rbuild"),
        ("fish", "# Print an optspec"),
    ] {
        let script = script(&rbuild, shell);
        assert!(script.starts_with(beginning), "{shell}: {script:.100}");
        assert!(
            script.contains("no-cache-filter") && !script.contains("source-policy-file"),
            "{shell}"
        );
        if needs(&[Need::Program(shell)]) {
            let file = rbuild.out().join(shell);
            std::fs::write(&file, script).unwrap();
            let mut command = Command::new(shell);
            command.arg("-n").arg(&file);
            run_with_timeout(command, None).ok();
        }
    }
    rbuild
        .run(["completion", "tcsh"])
        .fails()
        .says(&["invalid value `tcsh` for `<SHELL>`"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let rbuild = Rbuild::new(&User::Caller);
    let folder = rbuild.out().join("man");
    rbuild
        .run(["man".as_ref(), "--output".as_ref(), folder.as_os_str()])
        .ok();
    let line = rbuild::cli::arguments::definition();
    let commands = line
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for name in commands.map(|command| command.get_name().to_owned()) {
        let page = std::fs::read_to_string(folder.join(format!("rbuild-{name}.1"))).unwrap();
        assert!(
            page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{name}"
        );
        assert!(!page.contains("source\\-policy\\-file"), "{name}");
    }
    assert!(folder.join("rbuild.1").exists());
    assert!(!folder.join("rbuild-man.1").exists());
}
