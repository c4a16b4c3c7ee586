//! `rbuild debug`: failed steps that were kept.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Context;
use super::history::ago;
use super::run::progress::OnDemand;
use super::run::session::{self, Options};
use super::run::{failure, not_run};
use crate::build::debug::{self, KeptStep};
use crate::build::run_image::RunImageError;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::template::Format;
use crate::cli::ui::{ProgressMode, format};
use crate::time::Timestamp;

/// How long the program has to end after a signal.
const PATIENCE: Duration = Duration::from_secs(10);

/// So much of a step's name is shown in the table.
const NAME: usize = 60;

/// Options of `rbuild debug`.
#[derive(Args, Debug)]
#[command(
    override_usage = "rbuild debug [OPTIONS]\n       rbuild debug ID [-- COMMAND [ARGUMENT…]]\n       rbuild debug --rm ID…",
    after_help = "`rbuild build --on-error=keep` keeps a RUN step that fails. Without an ID all kept steps are \
                  listed; with one, the step's file system is entered with its environment, user and \
                  working directory. What is written there goes at the end. `rbuild prune` removes \
                  kept steps, too."
)]
pub struct DebugArguments {
    /// Number of a kept step, and the program to run in place of a shell
    #[arg(
        value_name = "ID [COMMAND]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,

    /// Remove kept steps
    #[arg(long)]
    rm: bool,

    /// Print numbers only
    #[arg(short, long)]
    quiet: bool,

    /// Print rows as a template says: 'table {{.ID}}\t{{.Name}}', '{{.Reason}}' or json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

impl DebugArguments {
    /// Whether files of a step are touched.
    pub fn needs_trees(&self) -> bool {
        !self.words.is_empty()
    }

    /// Whether a program is run.
    pub fn runs(&self) -> bool {
        !self.words.is_empty() && !self.rm
    }
}

/// Lists kept steps, enters or removes them.
///
/// # Errors
/// When there is no such step; else as the program ends.
pub async fn run(arguments: DebugArguments, context: &Context) -> Result<(), Failure> {
    if arguments.rm {
        return remove(&arguments.words, context);
    }
    let mut words = arguments.words.clone().into_iter();
    let Some(id) = words.next() else {
        return list(arguments, context);
    };
    // Docker's tools stop reading options here.
    let words = words.skip_while({
        let mut is_first = true;
        move |word| std::mem::take(&mut is_first) && word == "--"
    });
    enter(&id, words.collect(), context).await
}

fn number(text: &str) -> Result<i64, Failure> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| {
        Failure::user(format!("`{text}` is no number of a kept step"))
            .hint("`rbuild debug` lists all")
    })
}

fn list(arguments: DebugArguments, context: &Context) -> Result<(), Failure> {
    let steps = debug::kept(&context.open_store()?)?;
    if arguments.quiet {
        let ids = steps.iter().map(|step| format!("{}\n", step.id));
        return output::print(&ids.collect::<String>());
    }
    let now = Timestamp::now();
    let width = match arguments.format {
        Some(_) => usize::MAX,
        None => NAME,
    };
    let rows = steps.iter().map(|step| row(step, now, width));
    let rows = rows.collect::<Vec<_>>();
    let headings = json!({
        "ID": "ID",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Reason": "REASON",
        "Name": "STEP",
        "User": "USER",
        "Cwd": "WORKDIR",
    });
    const TABLE: &str = "table {{.ID}}\t{{.CreatedSince}}\t{{.Reason}}\t{{.Name}}";
    let format = arguments.format.map_or_else(|| TABLE.parse(), Ok)?;
    output::print(&format.rows(&rows, &headings)?)
}

fn row(step: &KeptStep, now: Timestamp, width: usize) -> serde_json::Value {
    let about = step.about.as_ref();
    let text = |text: Option<&String>| text.map(|text| text.replace(['\t', '\n'], " "));
    json!({
        "ID": step.id.to_string(),
        "CreatedSince": ago(step.created, now),
        "CreatedAt": step.created.to_string(),
        "Reason": text(about.map(|about| &about.reason)).unwrap_or_default(),
        "Name": format::shortened(&text(about.map(|about| &about.name)).unwrap_or_default(), width),
        "User": text(about.map(|about| &about.user)).unwrap_or_default(),
        "Cwd": text(about.map(|about| &about.cwd)).unwrap_or_default(),
    })
}

fn remove(ids: &[String], context: &Context) -> Result<(), Failure> {
    if ids.is_empty() {
        return Err(Failure::user("the number of the step to remove is missing")
            .hint("`rbuild debug` lists all; `rbuild prune` removes all"));
    }
    let ids = ids
        .iter()
        .map(|id| number(id))
        .collect::<Result<Vec<_>, _>>()?;
    let store = context.open_store()?;
    for id in ids {
        let removed = store.remove_kept(id)?;
        if removed.is_none() {
            return Err(failure(RunImageError::NoKeptStep(id)));
        }
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}

async fn enter(id: &str, command: Vec<String>, context: &Context) -> Result<(), Failure> {
    let id = number(id).map_err(not_run)?;
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let environment = context.build_environment(None).map_err(not_run)?;
    let progress = Arc::new(OnDemand::new(ProgressMode::Auto, context));
    let prepared = tokio::select! {
        prepared = debug::prepare(id, command, terminal, &environment, progress.clone()) => prepared,
        interrupted = context.interrupt.wait() => interrupted.map(|never| match never {})?,
    };
    progress.finish();
    let prepared = prepared.map_err(failure).map_err(not_run)?;
    let options = Options {
        interactive: true,
        terminal,
        patience: PATIENCE,
    };
    session::run(&options, prepared, context).await
}
