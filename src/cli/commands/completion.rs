//! `rbuild completion`: a script by which a shell completes commands and options.

use clap::{Args, ValueEnum};

use crate::cli::arguments;
use crate::cli::error::Failure;
use crate::cli::output;

/// A shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// Options of `rbuild completion`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
        rbuild completion bash > ~/.local/share/bash-completion/completions/rbuild\n  \
        rbuild completion zsh > ~/.zfunc/_rbuild        with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc\n  \
        rbuild completion fish > ~/.config/fish/completions/rbuild.fish")]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Writes the script to standard output.
///
/// # Errors
/// When standard output can't be written.
pub fn run(arguments: CompletionArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    // Each by its own type: what is for other shells stays out of the program.
    match arguments.shell {
        Shell::Bash => generate(clap_complete::aot::Bash, &mut script),
        Shell::Zsh => generate(clap_complete::aot::Zsh, &mut script),
        Shell::Fish => generate(clap_complete::aot::Fish, &mut script),
    }
    output::print(&String::from_utf8_lossy(&script))
}

fn generate(shell: impl clap_complete::Generator, script: &mut Vec<u8>) {
    clap_complete::generate(shell, &mut arguments::visible(), "rbuild", script);
}
