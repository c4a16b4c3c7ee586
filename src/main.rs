//! The `rbuild` program.
//!
//! The order matters: arguments are understood without a thread, so that the processes which a
//! command needs can be forked before one exists; only then does the runtime start.

use std::process::ExitCode;

use rbuild::cli::ui::stderr_style;
use rbuild::cli::{self, Environment};

fn main() -> ExitCode {
    let environment = Environment::of_process();
    match cli::parse(std::env::args_os(), &environment) {
        Ok(invocation) => cli::run(invocation, environment),
        Err(stop) => stop.report(stderr_style(&environment)),
    }
}
