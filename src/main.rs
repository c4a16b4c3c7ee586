//! The `rbuild` program.
//!
//! The order matters. A launcher that has become a copy of itself goes on as one. Arguments are understood without a thread, and commands that become another
//! program or look at the process itself never have one; then the namespaces that the
//! command needs are entered and the processes beside this one are forked, which only a process
//! with one thread can do; the runtime and its threads come last.

use std::process::ExitCode;

use rbuild::cli::ui::stderr_style;
use rbuild::cli::{self, Environment};
use rbuild::sandbox::process;

fn main() -> ExitCode {
    process::resume_launcher();
    let environment = Environment::of_process();
    let invocation = match cli::parse(std::env::args_os(), &environment) {
        Ok(invocation) => invocation,
        Err(stop) => return stop.report(stderr_style(&environment)),
    };
    if let Some(code) = cli::run_alone(&invocation, &environment) {
        return code;
    }
    let needs = invocation.needs(&environment);
    match process::enter(&needs) {
        Ok(processes) => cli::run(invocation, environment, processes),
        Err(error) => invocation.failure(error).report(stderr_style(&environment)),
    }
}
