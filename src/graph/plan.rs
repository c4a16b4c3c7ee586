//! Which stages a target needs, and which images those need.
//!
//! Images' configs hold ONBUILD triggers, and a trigger may copy from yet another image. So the
//! caller asks [`Plan::missing_images`], resolves those, and asks again until none is missing;
//! only then can the plan be lowered. Stages that the target doesn't need are never looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::arguments;
use super::environment::Environment;
use super::{BaseImage, NetworkMode, RunSettings};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::{Instruction, Step};
use crate::dockerfile::span::Span;
use crate::dockerfile::stages::{self, Reference, Referent};
use crate::dockerfile::{self, Dockerfile, expansion};
use crate::platform::Platform;
use crate::reference;

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
    /// What RUN steps get beyond what the Dockerfile says.
    pub run: Arc<RunSettings>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub source_date_epoch: Option<i64>,
    /// `--no-cache-filter`: names or numbers of stages that are built anew.
    pub fresh_stages: Vec<String>,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, ContextKind>,
}

/// What a name of `--build-context` stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// An image, which is resolved like every other.
    Image,
    /// A folder, counted among the folders.
    Folder(usize),
    /// Nothing.
    Scratch,
}

impl Options {
    /// The named context of this name, as it is written or as it is meant as an image's.
    fn context(&self, name: &str) -> Option<ContextKind> {
        // As in BuildKit, nothing can stand for these.
        if ["scratch", "context"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own))
        {
            return None;
        }
        let same = |(other, _): &(&String, &ContextKind)| reference::is_same_image(other, name);
        let found = self.contexts.get(name);
        let found = found.or_else(|| self.contexts.iter().find(same).map(|(_, kind)| kind));
        found.copied()
    }
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
    Folder(usize),
}

/// A stage whose FROM line has been expanded.
#[derive(Clone, Debug)]
pub(super) struct PlannedStage {
    pub(super) base: Base,
    pub(super) platform: Platform,
    /// Its name, or `stage-N`.
    pub(super) name: String,
    /// Whether a named context of this name stands in its place: then none of its steps is.
    pub(super) is_replaced: bool,
}

/// What `--from` or `from=` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum From {
    Scratch,
    Stage(usize),
    Image(ImageKey),
    Folder(usize),
}

/// A Dockerfile with a target.
#[derive(Debug)]
pub struct Plan {
    pub(super) dockerfile: Dockerfile,
    pub(super) options: Options,
    pub(super) global: Environment,
    pub(super) stages: Vec<PlannedStage>,
    target: usize,
    /// The stages that are wanted for themselves.
    wanted: Vec<usize>,
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
            let planned = plan_stage(index, stage, &dockerfile, &global, &options)?;
            stages.push(planned);
        }
        let target = stages::target(&dockerfile, options.target.as_deref())?;
        Ok(Self {
            dockerfile,
            options,
            global,
            stages,
            target,
            wanted: vec![target],
        })
    }

    /// The same for every stage, needed or not: for whoever looks at the Dockerfile as a whole.
    #[must_use]
    pub fn covering_all_stages(mut self) -> Self {
        self.wanted = (0..self.stages.len()).collect();
        self
    }

    /// What a stage starts from.
    pub(super) fn base(&self, index: usize) -> Option<&Base> {
        self.stages.get(index).map(|stage| &stage.base)
    }

    /// Every use of an image, with the line that asks for it.
    pub(super) fn images(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<Vec<(ImageKey, Span)>, Diagnostic> {
        let mut uses = Vec::new();
        self.visit(known, &mut |key, span| uses.push((key.clone(), span)))?;
        uses.sort_by_key(|(_, span)| span.first_line);
        Ok(uses)
    }

    /// The number of the target stage.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Whether the cache is not to be asked for the steps of a stage.
    pub(super) fn is_fresh(&self, index: usize) -> bool {
        let names = &self.options.fresh_stages;
        names.iter().any(|name| self.is_called(index, name))
    }

    /// Names among `fresh_stages` that are no stage's.
    pub fn unknown_stages(&self) -> Vec<&str> {
        let names = self.options.fresh_stages.iter().map(String::as_str);
        names
            .filter(|name| !(0..self.stages.len()).any(|index| self.is_called(index, name)))
            .collect()
    }

    /// Whether a stage has this name or number, as `--target` understands it.
    fn is_called(&self, index: usize, name: &str) -> bool {
        let own = &self.dockerfile.stages[index].from.value.name;
        own.as_ref()
            .is_some_and(|own| own.value.eq_ignore_ascii_case(name))
            || name.parse() == Ok(index)
    }

    /// Build arguments that no ARG takes and that mean nothing by themselves.
    pub fn unused_arguments(&self) -> Vec<&str> {
        let mut declared: BTreeSet<&str> = BTreeSet::new();
        let globals = self
            .dockerfile
            .global_args
            .iter()
            .flat_map(|args| &args.value);
        declared.extend(globals.map(|arg| arg.name.value.as_str()));
        for stage in &self.dockerfile.stages {
            for step in &stage.instructions {
                if let Instruction::Arg(args) = &step.instruction {
                    declared.extend(args.iter().map(|arg| arg.name.value.as_str()));
                }
            }
        }
        let names = self.options.build_args.keys().map(String::as_str);
        names
            .filter(|name| {
                !declared.contains(name)
                    && !arguments::is_proxy(name)
                    && *name != "SOURCE_DATE_EPOCH"
                    && !name.starts_with("BUILDKIT_")
                    && !arguments::is_platform(name)
            })
            .collect()
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
        let mut open = self.wanted.clone();
        while let Some(index) = open.pop() {
            if !seen.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            match &stage.base {
                Base::Scratch | Base::Folder(_) => {}
                Base::Stage(base) => open.push(*base),
                Base::Image(key) => image(key, self.dockerfile.stages[index].from.span),
            }
            for (step, _) in self.steps(index, known)? {
                for reference in stages::references(&step.instruction) {
                    match self.from(&reference, index)? {
                        From::Scratch | From::Folder(_) => {}
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
        if self.stages[index].is_replaced {
            return Ok(steps);
        }
        match &self.stages[index].base {
            Base::Scratch | Base::Folder(_) => {}
            Base::Stage(base) => {
                let above = &self.dockerfile.stages[*base].instructions;
                let is_replaced = self.stages[*base].is_replaced;
                for step in above.iter().filter(|_| !is_replaced) {
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

    /// What a `--from` or `from=` in stage `current` means.
    pub(super) fn from(&self, reference: &Reference, current: usize) -> Result<From, Diagnostic> {
        let (name, found) = match reference {
            Reference::Copy(name) => (name, stages::copy_from(&self.dockerfile, current, name)),
            Reference::Mount(name) => (name, stages::mount_from(&self.dockerfile, current, name)),
        };
        Ok(match found? {
            Referent::Stage(index) => match &self.stages[index] {
                PlannedStage {
                    is_replaced: true,
                    base: Base::Folder(number),
                    ..
                } => From::Folder(*number),
                _ => From::Stage(index),
            },
            Referent::Elsewhere if name.value == "scratch" => From::Scratch,
            Referent::Elsewhere => match self.options.context(&name.value) {
                Some(ContextKind::Folder(number)) => From::Folder(number),
                Some(ContextKind::Scratch) => From::Scratch,
                Some(ContextKind::Image) | None => From::Image(ImageKey {
                    name: name.value.clone(),
                    platform: self.options.platform.clone(),
                }),
            },
        })
    }
}

fn plan_stage(
    index: usize,
    stage: &dockerfile::instruction::Stage,
    dockerfile: &Dockerfile,
    global: &Environment,
    options: &Options,
) -> Result<PlannedStage, Diagnostic> {
    let from = &stage.from.value;
    let lookup = |name: &str| global.get(name).map(str::to_owned);
    let expand = |word: &dockerfile::instruction::Word| {
        expansion::expand(&word.value, &lookup, dockerfile.escape)
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
            if text.is_empty() {
                let message = format!("empty platform value from expression {}", word.value);
                return Err(Diagnostic::error(word.span, message)
                    .with_help("give the ARG a default, or pass --build-arg"));
            }
            text.parse().map_err(|error| {
                Diagnostic::error(
                    word.span,
                    format!("failed to parse platform {}: {error}", word.value),
                )
            })?
        }
    };
    let name = from.name.as_ref().map(|name| name.value.clone());
    let outside = |name: String| match options.context(&name) {
        Some(ContextKind::Folder(number)) => Base::Folder(number),
        Some(ContextKind::Scratch) => Base::Scratch,
        Some(ContextKind::Image) | None => Base::Image(ImageKey {
            name,
            platform: platform.clone(),
        }),
    };
    let replacing = name.clone().filter(|name| options.context(name).is_some());
    let is_replaced = replacing.is_some();
    let base = match (replacing, stages::base(dockerfile, index, &image)) {
        (Some(name), _) => outside(name),
        (None, Referent::Stage(stage)) => Base::Stage(stage),
        (None, Referent::Elsewhere) if image == "scratch" => Base::Scratch,
        (None, Referent::Elsewhere) => outside(image),
    };
    // Nothing is for every platform alike.
    let platform = match base {
        Base::Scratch => options.platform.clone(),
        _ => platform,
    };
    Ok(PlannedStage {
        base,
        platform,
        name: name.unwrap_or_else(|| format!("stage-{index}")),
        is_replaced,
    })
}

/// Parses an ONBUILD trigger; errors and steps point at the FROM line that brought it.
fn trigger(text: &str, span: Span) -> Result<Step, Diagnostic> {
    let bad = |message: String| {
        Diagnostic::error(
            span,
            format!("ONBUILD trigger `{text}` of the base image: {message}"),
        )
    };
    let step = dockerfile::parse_trigger(text).map_err(|diagnostics| {
        bad(diagnostics
            .first()
            .map_or_else(String::new, |d| d.message.clone()))
    })?;
    Ok(Step { span, ..step })
}
