//! Which stages a target needs, and which images those need.
//!
//! Images' configs hold ONBUILD triggers, and a trigger may copy from yet another image. So the
//! caller asks [`Plan::missing_images`], resolves those, and asks again until none is missing;
//! only then can the plan be lowered. Stages that the target doesn't need are never looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::arguments;
use super::environment::Environment;
use super::{BaseImage, NetworkMode};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::{Instruction, MountKind, Step};
use crate::dockerfile::span::Span;
use crate::dockerfile::{self, Dockerfile, expansion, nearest};
use crate::platform::Platform;

/// What the user asked for, as far as it changes the graph.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The platform of the image.
    pub platform: Platform,
    /// Whether the user named the platform.
    pub platform_is_explicit: bool,
    /// The platform that the build runs on.
    pub build_platform: Platform,
    /// `--network`.
    pub network: NetworkMode,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub source_date_epoch: Option<i64>,
}

/// An image that a stage needs, by the name in the Dockerfile.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ImageKey {
    /// As written, variables expanded.
    pub name: String,
    /// For which platform.
    pub platform: Platform,
}

/// What a stage starts from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Base {
    Scratch,
    Stage(usize),
    Image(ImageKey),
}

/// A stage whose FROM line has been expanded.
#[derive(Clone, Debug)]
pub(super) struct PlannedStage {
    pub(super) base: Base,
    pub(super) platform: Platform,
    /// Its name, or `stage-N`.
    pub(super) name: String,
    /// Whether FROM gave it a name.
    named: bool,
}

/// What `--from` or `from=` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum From {
    Scratch,
    Stage(usize),
    Image(ImageKey),
}

/// A Dockerfile with a target.
#[derive(Debug)]
pub struct Plan {
    pub(super) dockerfile: Dockerfile,
    pub(super) options: Options,
    pub(super) global: Environment,
    pub(super) stages: Vec<PlannedStage>,
    target: usize,
}

impl Plan {
    /// Expands the FROM lines and finds the target.
    ///
    /// # Errors
    /// A [`Diagnostic`] for an argument that can't be expanded, a bad platform, an unknown target.
    pub fn new(dockerfile: Dockerfile, options: Options) -> Result<Self, Diagnostic> {
        let global = arguments::global(&dockerfile, &options)?;
        let mut stages: Vec<PlannedStage> = Vec::new();
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            let planned = plan_stage(index, stage, &stages, &global, &options, dockerfile.escape)?;
            stages.push(planned);
        }
        let target = find_target(&stages, options.target.as_deref())?;
        Ok(Self {
            dockerfile,
            options,
            global,
            stages,
            target,
        })
    }

    /// The number of the target stage.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Images that the target needs and `known` doesn't have, each with the line that asks for it.
    ///
    /// # Errors
    /// A [`Diagnostic`] for a reference to a later stage or a bad ONBUILD trigger.
    pub fn missing_images(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<BTreeMap<ImageKey, Span>, Diagnostic> {
        let mut missing = BTreeMap::new();
        self.visit(known, &mut |key, span| {
            if !known.contains_key(key) {
                missing.entry(key.clone()).or_insert(span);
            }
        })?;
        Ok(missing)
    }

    /// The numbers of the stages that the target needs, itself among them.
    pub(super) fn reachable(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<BTreeSet<usize>, Diagnostic> {
        self.visit(known, &mut |_, _| {})
    }

    fn visit(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
        image: &mut dyn FnMut(&ImageKey, Span),
    ) -> Result<BTreeSet<usize>, Diagnostic> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !seen.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            match &stage.base {
                Base::Scratch => {}
                Base::Stage(base) => open.push(*base),
                Base::Image(key) => image(key, self.dockerfile.stages[index].from.span),
            }
            for (step, _) in self.steps(index, known)? {
                for name in referenced(&step.instruction) {
                    match self.from(name, index, step.span)? {
                        From::Scratch => {}
                        From::Stage(other) => open.push(other),
                        From::Image(key) => image(&key, step.span),
                    }
                }
            }
        }
        Ok(seen)
    }

    /// The steps of a stage: its base's ONBUILD triggers, then its own. The flag says which
    /// are triggers.
    pub(super) fn steps(
        &self,
        index: usize,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<Vec<(Step, bool)>, Diagnostic> {
        let span = self.dockerfile.stages[index].from.span;
        let mut steps = Vec::new();
        match &self.stages[index].base {
            Base::Scratch => {}
            Base::Stage(base) => {
                for step in &self.dockerfile.stages[*base].instructions {
                    if let Instruction::Onbuild { text, .. } = &step.instruction {
                        steps.push((trigger(text, span)?, true));
                    }
                }
            }
            Base::Image(key) => {
                let triggers = known
                    .get(key)
                    .map(|image| image.config.config.on_build.as_slice());
                for text in triggers.into_iter().flatten() {
                    steps.push((trigger(text, span)?, true));
                }
            }
        }
        let own = &self.dockerfile.stages[index].instructions;
        steps.extend(own.iter().map(|step| (step.clone(), false)));
        Ok(steps)
    }

    /// What `name` in a `--from` of stage `current` means.
    pub(super) fn from(&self, name: &str, current: usize, span: Span) -> Result<From, Diagnostic> {
        if name.eq_ignore_ascii_case("scratch") {
            return Ok(From::Scratch);
        }
        let found = match name.parse::<usize>() {
            Ok(number) if number < self.stages.len() => Some(number),
            Ok(number) => {
                return Err(
                    Diagnostic::error(span, format!("invalid stage index {number}")).with_help(
                        format!(
                            "this Dockerfile has {} stages, counted from 0",
                            self.stages.len()
                        ),
                    ),
                );
            }
            Err(_) => find_stage(&self.stages[..current], name)
                .or_else(|| find_stage(&self.stages[current..], name).map(|at| current + at)),
        };
        match found {
            Some(index) if index < current => Ok(From::Stage(index)),
            Some(index) => Err(Diagnostic::error(
                span,
                format!(
                    "cannot copy from stage `{name}`, it needs to be defined before current stage `{}`",
                    self.stages[current].name
                ),
            )
            .with_help(if index == current {
                "a stage can't copy from itself".to_owned()
            } else {
                "move that stage above this one".to_owned()
            })),
            None => Ok(From::Image(ImageKey {
                name: name.to_owned(),
                platform: self.options.platform.clone(),
            })),
        }
    }
}

fn plan_stage(
    index: usize,
    stage: &dockerfile::instruction::Stage,
    before: &[PlannedStage],
    global: &Environment,
    options: &Options,
    escape: char,
) -> Result<PlannedStage, Diagnostic> {
    let from = &stage.from.value;
    let lookup = |name: &str| global.get(name).map(str::to_owned);
    let expand = |word: &dockerfile::instruction::Word| {
        expansion::expand(&word.value, &lookup, escape)
            .map_err(|error| Diagnostic::error(word.span, error.to_string()))
    };
    let image = expand(&from.image)?;
    if image.is_empty() {
        return Err(Diagnostic::error(
            from.image.span,
            format!("base name ({}) should not be blank", from.image.value),
        )
        .with_help("give the ARG a default, or pass --build-arg"));
    }
    let platform = match &from.platform {
        None => options.platform.clone(),
        Some(word) => {
            let text = expand(word)?;
            text.parse().map_err(|error| {
                Diagnostic::error(
                    word.span,
                    format!("failed to parse platform {}: {error}", word.value),
                )
            })?
        }
    };
    let base = match find_stage(before, &image) {
        _ if image == "scratch" => Base::Scratch,
        Some(stage) => Base::Stage(stage),
        None => Base::Image(ImageKey {
            name: image,
            platform: platform.clone(),
        }),
    };
    let name = from.name.as_ref().map(|name| name.value.clone());
    Ok(PlannedStage {
        base,
        platform,
        named: name.is_some(),
        name: name.unwrap_or_else(|| format!("stage-{index}")),
    })
}

fn find_stage(stages: &[PlannedStage], name: &str) -> Option<usize> {
    stages
        .iter()
        .rposition(|stage| stage.named && stage.name.eq_ignore_ascii_case(name))
}

fn find_target(stages: &[PlannedStage], target: Option<&str>) -> Result<usize, Diagnostic> {
    let Some(last) = stages.len().checked_sub(1) else {
        return Err(Diagnostic::error(
            Span::default(),
            "dockerfile contains no stages to build".to_owned(),
        ));
    };
    let Some(target) = target else {
        return Ok(last);
    };
    if let Some(index) = find_stage(stages, target) {
        return Ok(index);
    }
    if let Some(index) = target.parse::<usize>().ok().filter(|index| *index <= last) {
        return Ok(index);
    }
    let error = Diagnostic::error(
        Span::default(),
        format!("target stage `{target}` could not be found"),
    );
    let names = stages.iter().map(|stage| stage.name.as_str());
    Err(match nearest::nearest(target, names.clone()) {
        Some(name) => error.with_help(format!("did you mean `{name}`?")),
        None => error.with_help(format!(
            "stages are: {}",
            names.collect::<Vec<_>>().join(", ")
        )),
    })
}

/// The names that an instruction gives in `--from` and `from=`.
fn referenced(instruction: &Instruction) -> Vec<&str> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().map(|from| from.value.as_str()).collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.value.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from.as_deref(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Parses an ONBUILD trigger; errors and steps point at the FROM line that brought it.
fn trigger(text: &str, span: Span) -> Result<Step, Diagnostic> {
    let bad = |message: String| {
        Diagnostic::error(
            span,
            format!("ONBUILD trigger `{text}` of the base image: {message}"),
        )
    };
    let parsed = dockerfile::parse(&format!("FROM scratch\n{text}\n")).map_err(|diagnostics| {
        bad(diagnostics
            .first()
            .map_or_else(String::new, |d| d.message.clone()))
    })?;
    let mut steps = parsed
        .stages
        .into_iter()
        .flat_map(|stage| stage.instructions);
    match (steps.next(), steps.next()) {
        (Some(step), None) => Ok(Step { span, ..step }),
        _ => Err(bad("should be a single instruction".to_owned())),
    }
}
