//! RUN: the program, what it is given, and what history says of it.

use std::sync::Arc;

use super::{Lowering, StageState, absent};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::{self, RunNetwork, RunSecurity, Script, Step};
use crate::graph::environment::Environment;
use crate::graph::path::absolute;
use crate::graph::{InlineFile, Mount, NetworkMode, Operation, Run, arguments, mounts};
use crate::platform::Platform;

/// By which programs find the agent that signs with the user's keys.
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        index: usize,
        state: &mut StageState,
        step: &Step,
        run: &instruction::Run,
        is_trigger: bool,
    ) -> Result<(), Diagnostic> {
        refuse_devices(run)?;
        let (args, script) = command(state, run);
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in &run.mounts {
            let agents = mounts.iter().filter(|mount| mount.is_agent()).count();
            mounts.push(mounts::lower(self, index, state, mount, agents)?);
        }
        let mut env = state.environment.pairs().to_vec();
        let agent = mounts.iter().find(|mount| mount.is_agent());
        if let Some(agent) = agent
            && !env.iter().any(|(name, _)| name == SSH_AUTH_SOCK)
        {
            env.push((SSH_AUTH_SOCK.to_owned(), agent.target.clone()));
        }
        let history = run_history(state, &args);
        let operation = Operation::Run(Run {
            platform: self.platform(index, state),
            args,
            shell: state.shell_program(),
            env,
            proxy: arguments::proxies(&self.plan.options.build_args),
            user: state.config.config.user.clone(),
            cwd: absolute("/", &state.config.config.working_dir),
            network: match run.network {
                None | Some(RunNetwork::Default) => self.plan.options.network,
                Some(RunNetwork::None) => NetworkMode::None,
                Some(RunNetwork::Host) => NetworkMode::Host,
            },
            insecure: run.security == Some(RunSecurity::Insecure),
            mounts,
            script,
            hostname: arguments::hostname(&self.plan.options.build_args),
            settings: Arc::clone(&self.plan.options.run),
        });
        self.add(state, operation, step, is_trigger);
        state.push_history(history, false);
        Ok(())
    }

    /// The platform of what a stage runs: its base image's own, which may be another than the one
    /// that was asked for.
    fn platform(&self, index: usize, state: &StageState) -> Platform {
        match state.config.architecture.is_empty() {
            true => self.plan.stages[index].platform.clone(),
            false => state.config.platform(),
        }
    }
}

fn refuse_devices(run: &instruction::Run) -> Result<(), Diagnostic> {
    match run.devices.first() {
        Some(device) => {
            let refused = absent(device.span, "`RUN --device`");
            Err(refused.with_help("steps see Docker's default devices and no others"))
        }
        None => Ok(()),
    }
}

/// The program that a RUN instruction starts: the exec form as it is, else the stage's shell.
fn command(state: &StageState, run: &instruction::Run) -> (Vec<String>, Option<InlineFile>) {
    match run.script() {
        Script::Exec(args) => (args.to_vec(), None),
        Script::Shell(text) => (state.shell_command(&text), None),
        Script::File(heredoc) => {
            let script = InlineFile {
                name: heredoc.name.clone(),
                content: heredoc.content.clone(),
            };
            (
                state.shell_command(&format!("/dev/pipes/{}", heredoc.name)),
                Some(script),
            )
        }
    }
}

fn run_history(state: &StageState, args: &[String]) -> String {
    let mut declared = Environment::default();
    for (name, value) in &state.declared {
        declared.set(name, state.environment.get(name).unwrap_or(value));
    }
    let mut words = Vec::new();
    if !declared.pairs().is_empty() {
        words.push(format!("|{}", declared.pairs().len()));
    }
    words.extend(
        declared
            .pairs()
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    words.extend_from_slice(args);
    format!("RUN {} # buildkit", words.join(" "))
}
