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
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    let mut definition = arguments::visible();
    clap_complete::generate(shell, &mut definition, "rbuild", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
