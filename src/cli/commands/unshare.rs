//! `rbuild unshare`: a shell, or any program, in rbuild's user and mount namespace.
//!
//! Files of images belong to subordinate ids, which an ordinary user can neither read nor remove
//! from outside. This process becomes the program: signals, terminal and exit code are its own.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, absolute};
use std::process::Command;

use clap::Args;

use super::run::NOT_RUN;
use super::store_root;
use crate::cli::environment::Environment;
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::settings::Settings;
use crate::cli::ui::{SharedStderr, stderr_style};
use crate::sandbox::{Isolation, enter_alone};

/// Options of `rbuild unshare`.
#[derive(Args, Debug)]
#[command(
    override_usage = "rbuild unshare [COMMAND [ARG…]]",
    after_help = "Inside, you are user 0, and the ids lent to you in /etc/subuid and /etc/subgid are 1 and \
        above, as in a RUN step. The store's folder is in RBUILD_ROOT.\n\n\
        Examples:\n  \
        rbuild unshare                                a shell\n  \
        rbuild unshare ls -ln ~/.local/share/rbuild   files as a step sees them\n  \
        rbuild unshare rm -rf ./rootfs                remove what an ordinary user can't\n\n\
        Exit code: the program's; 125 where rbuild fails, 126 where the program can't be executed, \
        127 where it isn't there."
)]
pub struct UnshareArguments {
    /// The program and its arguments [default: $SHELL, else sh]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, num_args = 0..)]
    words: Vec<OsString>,
}

/// Becomes the program; returns only where that fails.
///
/// # Errors
/// When there is no user namespace to be had, or no such program.
pub fn run(
    arguments: &UnshareArguments,
    settings: &Settings,
    environment: &Environment,
) -> Result<(), Failure> {
    let never = become_program(arguments, settings, environment);
    never.map(|never| match never {})
}

fn become_program(
    arguments: &UnshareArguments,
    settings: &Settings,
    environment: &Environment,
) -> Result<Infallible, Failure> {
    let failed = |failure: Failure| failure.exit_with(NOT_RUN);
    // Before user 0 is who asks: the caller's store, not the machine's.
    let root = store_root(settings, environment).map_err(|error| failed(error.into()))?;
    let root = absolute(&root.path).map_err(|error| {
        failed(Failure::user("can't tell the working directory").caused_by(&error))
    })?;
    let (isolation, refusals) =
        enter_alone(settings.isolation).map_err(|error| failed(error.into()))?;
    match isolation {
        Isolation::UserNamespace { .. } | Isolation::UserNamespaceSingle => {}
        Isolation::Root | Isolation::Chroot => {
            let style = stderr_style(environment);
            SharedStderr::default().write_lines(&format!(
                "{} you are root here: no user namespace is needed\n",
                style.hint("note:")
            ));
        }
        Isolation::None => {
            let mut failure = Failure::user("there is no user namespace to be had");
            for refusal in &refusals {
                failure = failure.hint(refusal.to_string());
            }
            return Err(failed(failure.hint("`rbuild doctor` says more")));
        }
    }
    let shell = || {
        let shell = environment.get_os("SHELL").map(OsString::from);
        vec![shell.unwrap_or_else(|| "sh".into())]
    };
    let words = match arguments.words.is_empty() {
        true => shell(),
        false => arguments.words.clone(),
    };
    let Some((program, words)) = words.split_first() else {
        return Err(failed(Failure::user("no program is named")));
    };
    let error = Command::new(program)
        .args(words)
        .env("RBUILD_ROOT", root)
        .exec();
    let message = format!("can't run `{}`", program.display());
    let failure = Failure::new(ErrorKind::User, message);
    // A folder of PATH that can't be read makes the kernel's answer another one.
    Err(match is_there(program, environment) {
        false => failure.hint("there's no such program").exit_with(127),
        true => failure.caused_by(&error).exit_with(126),
    })
}

/// Whether there's a file that the program's name may mean.
fn is_there(program: &OsStr, environment: &Environment) -> bool {
    if program.as_encoded_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = environment.get_os("PATH").unwrap_or_default();
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}
