//! What is said of a failure beyond the error itself: where exactly in the Dockerfile it stands,
//! what was probably meant, why a file that is there can't be seen.
//!
//! Must never change what an error is, only how well it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dockerfile::Ignored;
use super::error::{BuildError, LeftStep, Located};
use super::resolve::ResolveError;
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::{
    CommandLine, Instruction, Mount, MountKind, Run, Source, Step, Transfer,
};
use crate::dockerfile::nearest::nearest;
use crate::dockerfile::slips;
use crate::dockerfile::span::{Span, Spanned};
use crate::graph::plan::{ImageKey, ImageUse, Plan};
use crate::graph::{BaseImage, FileSystem, Graph, Operation, masked_in_place};
use crate::ignore::Matcher;
use crate::platform;
use crate::registry::ErrorKind;
use crate::solver::SolveError;
use crate::step::{CopyError, Missing, RunError, StepError, UnknownOwner, signal_name};

/// What is said of names on the command line that nothing in the Dockerfile has, and of instructions
/// that can be carried out and were hardly meant so.
pub(super) fn unused(plan: &Plan, images: &BTreeMap<ImageKey, BaseImage>) -> Vec<String> {
    let mut said = Vec::new();
    let unused = plan.unused_arguments(images);
    if !unused.is_empty() {
        let declared = plan.declared_arguments();
        let names = unused.iter().map(|name| {
            let near = nearest(name, declared.iter().copied());
            near.map_or_else(
                || (*name).to_owned(),
                |near| format!("{name} (did you mean {near}?)"),
            )
        });
        let names = names.collect::<Vec<_>>().join(", ");
        said.push(format!("one or more build-args were not consumed: {names}"));
    }
    for step in plan.written_steps() {
        let text = masked_in_place(&step.text);
        if let Some(slip) = slips::suspect(&text) {
            let line = step.span.first_line;
            let shown = text.lines().next().unwrap_or_default();
            said.push(format!("line {line}, `{shown}`: {slip}"));
        }
    }
    for name in plan.unknown_stages() {
        let near = nearest(name, plan.stage_names(..));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        said.push(format!(
            "no stage is called `{name}`, as `--no-cache-filter` has it{near}"
        ));
    }
    said
}

/// The error for an image that can't be had.
pub(super) fn image_error(
    plan: &Plan,
    key: &ImageKey,
    used: &ImageUse,
    error: &ResolveError,
) -> Diagnostic {
    let mut one = Diagnostic::error(used.span, with_causes(error));
    if is_image_id(&key.name) {
        one = one.with_help(
            "an id names no image in FROM: give the image a name with `rbuild tag ID NAME`, or write \
             `NAME@sha256:…` with the digest of its manifest",
        );
    }
    if let ResolveError::Registry(error) = error
        && let ErrorKind::NoPlatform { wanted, .. } = error.kind()
        && let Some(near) = platform::nearest(&wanted.to_string())
    {
        one = one.with_help(format!("did you mean the platform `{near}`?"));
    }
    let may_be_stage = !key.name.contains(['/', ':', '@', '.']);
    if may_be_stage && one.help.is_none() {
        one = as_stage(plan, &key.name, used, is_unknown(error), one);
    }
    match &used.trigger {
        Some(trigger) => trigger.explain(one, used.span),
        None => one,
    }
}

/// What an error says, with the causes that it doesn't say itself.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// Whether this is the id of an image, whole or as lists show it.
fn is_image_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:");
    let (digits, least) = hex.map_or((name, 12), |hex| (hex, 1));
    (least..=64).contains(&digits.len())
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && (hex.is_some() || matches!(digits.len(), 12 | 64))
}

/// Whether there is no such image, as far as the registry tells.
fn is_unknown(error: &ResolveError) -> bool {
    match error {
        ResolveError::Registry(error) => match error.kind() {
            ErrorKind::Status(status) => matches!(status.status, 401 | 403 | 404),
            _ => false,
        },
        _ => false,
    }
}

/// Says of an image's name that it may have been meant as a stage's.
fn as_stage(
    plan: &Plan,
    name: &str,
    used: &ImageUse,
    is_unknown: bool,
    one: Diagnostic,
) -> Diagnostic {
    let known: Vec<&str> = match used.is_base {
        true => plan.stage_names(..used.stage).collect(),
        false => plan.stage_names(..).collect(),
    };
    if let Some(near) = nearest(name, known.iter().copied()) {
        return one.with_help(format!("did you mean the stage `{near}`?"));
    }
    if let Some(near) = nearest(name, plan.context_names()) {
        return one.with_help(format!("did you mean the build context `{near}`?"));
    }
    let is_below = used.is_base && plan.stage_names(used.stage..).any(|below| below == name);
    if is_below {
        return one
            .with_note(format!("the stage `{name}` does not stand above this FROM"))
            .with_help("move it above");
    }
    if !is_unknown || (used.is_base && known.is_empty()) {
        return one;
    }
    let note = format!("no stage is called `{name}`, so that it is the name of an image");
    match known.as_slice() {
        [] => one.with_note(note),
        known => one.with_note(format!("{note}; stages are: {}", known.join(", "))),
    }
}

/// What failures of steps are explained with.
pub(super) struct Explanation<'a> {
    pub(super) source: &'a Located,
    pub(super) plan: &'a Plan,
    pub(super) graph: &'a Graph,
    pub(super) ignored: &'a Ignored,
}

impl Explanation<'_> {
    /// The error of the build for that of a step.
    pub(super) fn step_error(&self, error: Arc<SolveError>, left: LeftStep) -> BuildError {
        if error.error.is_canceled() {
            return BuildError::Canceled;
        }
        let vertex = self.graph.vertex(error.vertex);
        let meta = &vertex.meta;
        let one = Diagnostic::error(meta.span, error.error.to_string());
        let step = match meta.trigger {
            None => self.plan.step_at(meta.span),
            Some(_) => None,
        };
        let mut one = match &error.error {
            StepError::Copy(CopyError::NotFound(missing)) => {
                self.missing(one, missing, &vertex.operation, step)
            }
            StepError::Copy(CopyError::BadExclude(_)) => exclude(one, step),
            StepError::Owner(unknown) => self.owner(one, unknown, step),
            StepError::Run(error) => run(one, error, step),
            _ => one,
        };
        if let Some(step) = step {
            one = self.unseen_arguments(one, step);
        }
        if let Some(trigger) = &meta.trigger {
            one = trigger.explain(one, meta.span);
        }
        BuildError::Step {
            located: self.source.with(vec![one]),
            source: error,
            left,
        }
    }

    /// Variables of the instruction that only an ARG before the first FROM declares.
    fn unseen_arguments(&self, mut one: Diagnostic, step: &Step) -> Diagnostic {
        for name in self.plan.globals_out_of_reach(step.span) {
            if has_variable(&step.text, name) {
                one = one.with_note(format!(
                    "`{name}` is declared before the first FROM, where only FROM sees it: \
                     `ARG {name}` in this stage brings it in"
                ));
            }
        }
        one
    }

    /// A source of COPY or ADD that isn't there.
    fn missing(
        &self,
        mut one: Diagnostic,
        missing: &Missing,
        operation: &Operation,
        step: Option<&Step>,
    ) -> Diagnostic {
        let transfer = transfer(step);
        let from = transfer.and_then(|transfer| transfer.from.as_ref());
        let named = from.map_or_else(String::new, |from| format!(" `{}`", from.value));
        let from = match operation {
            Operation::Copy(copy) => copy.from,
            _ => FileSystem::Scratch,
        };
        let place = match from {
            FileSystem::Context => "the build context".to_owned(),
            FileSystem::Folder(_) => format!("the build context{named}"),
            FileSystem::Vertex(_) if named.is_empty() => "its source".to_owned(),
            FileSystem::Vertex(_) => named.trim().to_owned(),
            FileSystem::Scratch if named.is_empty() => "its source, which is empty".to_owned(),
            FileSystem::Scratch => format!("{}, which is empty", named.trim()),
        };
        one.message = format!("{} in {place}", one.message);
        let sources = transfer.map_or(&[][..], |transfer| &transfer.sources);
        let mut leads_out = false;
        if let Some(Source::Path(word)) = sources.get(missing.source) {
            one.span = word.span;
            leads_out = crate::ignore::clean(&word.value).starts_with("..");
        }
        if leads_out && matches!(from, FileSystem::Context | FileSystem::Folder(_)) {
            return one
                .with_note("nothing above the build context can be copied")
                .with_help(
                    "build with the folder above as the context, or name it with `--build-context`",
                );
        }
        let path = missing.path.trim_start_matches('/');
        if from == FileSystem::Context
            && let Some((line, pattern)) = self.ignored.line(path.as_bytes())
        {
            return one.with_note(format!("`{pattern}` in {line} leaves it out"));
        }
        if let Some(link) = &missing.link {
            let end = match missing.directory.as_str() {
                "/" => path.split('/').next().unwrap_or(path).to_owned(),
                above => {
                    let behind = path.strip_prefix(above.trim_start_matches('/'));
                    let behind = behind.unwrap_or(path).trim_start_matches('/');
                    let name = behind.split('/').next().unwrap_or(behind);
                    format!("{}/{name}", above.trim_start_matches('/'))
                }
            };
            return one
                .with_note(format!(
                    "`{end}` is a link to `{link}`, which is not in {place}"
                ))
                .with_help("links are followed inside of it only: copy what the link leads to");
        }
        if let Some(near) = &missing.nearest {
            return one.with_help(format!("did you mean `{near}`?"));
        }
        if from == FileSystem::Scratch {
            return one;
        }
        let directory = match missing.directory.as_str() {
            "/" => place,
            directory => format!("`{directory}`"),
        };
        let names = missing.names.join(", ");
        one.with_note(match (missing.names.is_empty(), missing.has_more) {
            (true, _) => format!("{directory} is empty"),
            (false, false) => format!("{directory} holds: {names}"),
            (false, true) => format!("{directory} holds: {names}, …"),
        })
    }

    /// A name that the image doesn't know.
    fn owner(
        &self,
        mut one: Diagnostic,
        unknown: &UnknownOwner,
        step: Option<&Step>,
    ) -> Diagnostic {
        if let Some(chown) = transfer(step).and_then(|transfer| transfer.chown.as_ref()) {
            one.span = chown.span;
        } else if let Some(user) = step.and_then(|step| self.plan.user_before(step.span)) {
            one = one.with_note(format!("USER on line {} says so", user.span.first_line));
        }
        if transfer(step).is_some_and(|transfer| transfer.link) {
            return one
                .with_help("`--link` doesn't look at the image: write a number, or leave it out");
        }
        let (file, nearest, knows_none) = match unknown {
            UnknownOwner::User {
                nearest,
                knows_none,
                ..
            } => ("/etc/passwd", nearest, knows_none),
            UnknownOwner::Group {
                nearest,
                knows_none,
                ..
            } => ("/etc/group", nearest, knows_none),
        };
        match nearest {
            Some(near) => one.with_help(format!("did you mean `{near}`?")),
            None if *knows_none => one.with_help(format!(
                "no name stands in the image's {file}: write a number"
            )),
            None => one.with_help("make it in a RUN before, or write a number"),
        }
    }
}

/// Whether a text has `$name` or `${name`.
fn has_variable(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        let rest = &text[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let behind = rest.strip_prefix(name).map(|behind| behind.chars().next());
        behind.is_some_and(|next| next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_'))
    })
}

fn transfer(step: Option<&Step>) -> Option<&Transfer> {
    match &step?.instruction {
        Instruction::Copy(transfer) | Instruction::Add(transfer) => Some(transfer),
        _ => None,
    }
}

/// Points at the `--exclude` that can't be read.
fn exclude(mut one: Diagnostic, step: Option<&Step>) -> Diagnostic {
    let patterns = transfer(step).map_or(&[][..], |transfer| &transfer.exclude);
    let bad = |value: &str| Matcher::new(&[value]).is_err();
    if let Some(word) = patterns.iter().find(|word| bad(&word.value)) {
        one.span = word.span;
    }
    one
}

/// A RUN that can't begin.
fn run(mut one: Diagnostic, error: &RunError, step: Option<&Step>) -> Diagnostic {
    if let RunError::Exit { code, .. } = error {
        return one.or_help(exit_code(*code));
    }
    let Some(Instruction::Run(run)) = step.map(|step| &step.instruction) else {
        return one;
    };
    match error {
        RunError::NoSecret(id) => {
            one.span = secret_span(run, id).unwrap_or(one.span);
            one.with_help(format!("pass `--secret id={id},src=FILE`"))
        }
        RunError::NoSource { mount, .. } => {
            let is_meant = |written: &&Spanned<Mount>| {
                let target = written.value.target.as_deref();
                target
                    .is_some_and(|target| target == mount || mount.ends_with(&format!("/{target}")))
            };
            let Some(written) = run.mounts.iter().find(is_meant) else {
                return one;
            };
            one.span = written.span;
            if let MountKind::Bind { from, .. } = &written.value.kind {
                let place = from.as_ref().map_or_else(
                    || "the build context".to_owned(),
                    |from| format!("`{from}`"),
                );
                one.message = format!("{} in {place}", one.message);
            }
            one
        }
        RunError::NotStarted { command, code, .. } => {
            let shell = command.split(' ').next().unwrap_or_default();
            let is_shell = matches!(run.command, CommandLine::Shell(_)) && *code == 127;
            match is_shell {
                true => one.with_help(format!(
                    "without `{shell}` in the image only the exec form can be run: \
                     `RUN [\"/program\", \"argument\"]`"
                )),
                false => one,
            }
        }
        _ => one,
    }
}

/// What the code that a step's program ended with says by convention.
fn exit_code(code: i32) -> Option<String> {
    match code {
        126 => Some(
            "126 is a shell's word for a program that can't be run: check that it is executable, \
             and made for this platform"
                .to_owned(),
        ),
        127 => Some(
            "127 is a shell's word for a program that isn't there: check its spelling, PATH, and \
             the first line of a script"
                .to_owned(),
        ),
        // 255 is what many programs call any failure.
        129..=192 => Some(format!(
            "{code} is 128 + {}: a program of the step was killed by {}",
            code - 128,
            signal_name(code - 128)
        )),
        _ => None,
    }
}

/// Where the `--mount` of a secret stands.
fn secret_span(run: &Run, wanted: &str) -> Option<Span> {
    let found = run.mounts.iter().find(|mount| match &mount.value.kind {
        MountKind::Secret { id: Some(id), .. } => id == wanted,
        MountKind::Secret { id: None, .. } => {
            let target = mount.value.target.as_deref();
            target.and_then(|target| target.rsplit('/').next()) == Some(wanted)
        }
        _ => false,
    });
    found.map(|mount| mount.span)
}
