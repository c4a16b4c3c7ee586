//! Which stages a target needs, and which images those need.
//!
//! Images' configs hold ONBUILD triggers, and a trigger may copy from yet another image. So the
//! caller asks [`Plan::missing_images`], resolves those, and asks again until none is missing;
//! only then can the plan be lowered. Stages that the target doesn't need are never looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::arguments;
use super::environment::Environment;
use super::{BaseImage, NetworkMode, RunSettings, Trigger};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::instruction::{Instruction, Step};
use crate::dockerfile::nearest::nearest;
use crate::dockerfile::span::Span;
use crate::dockerfile::stages::{self, Reference, Referent};
use crate::dockerfile::{self, Dockerfile, expansion};
use crate::platform::{self, Platform};
use crate::reference;

mod written;

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
    /// Whether it is one of several, so that names of steps say it.
    pub platform_is_one_of_several: bool,
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
    /// What is asked for by nothing but a Dockerfile, on a machine of this platform.
    pub fn on(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            build_platform: platform.clone(),
            platform,
            platform_is_explicit: false,
            platform_is_one_of_several: false,
            network: NetworkMode::default(),
            run: Arc::default(),
            source_date_epoch: None,
            fresh_stages: Vec::new(),
            contexts: BTreeMap::new(),
        }
    }

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

/// Who asks for an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageUse {
    /// Where its name stands; the FROM that brought it where an ONBUILD trigger names it.
    pub span: Span,
    /// In which stage.
    pub stage: usize,
    /// Whether that is the stage's FROM, and not a `--from`.
    pub is_base: bool,
    /// The trigger that names it.
    pub trigger: Option<Trigger>,
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
    /// [`Diagnostic`]s for arguments that can't be expanded, bad platforms, an unknown target.
    pub fn new(dockerfile: Dockerfile, options: Options) -> Result<Self, Vec<Diagnostic>> {
        let global = arguments::global(&dockerfile, &options).map_err(|one| vec![one])?;
        let mut errors = Vec::new();
        let mut stages: Vec<PlannedStage> = Vec::new();
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            match plan_stage(index, stage, &dockerfile, &global, &options) {
                Ok(planned) => stages.push(planned),
                Err(error) => errors.push(error),
            }
        }
        let target = stages::target(&dockerfile, options.target.as_deref());
        let target = target.unwrap_or_else(|error| {
            errors.push(error);
            0
        });
        if !errors.is_empty() {
            return Err(errors);
        }
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
    ) -> Result<Vec<(ImageKey, Span)>, Vec<Diagnostic>> {
        let mut uses = Vec::new();
        self.visit(known, &mut |key, used| uses.push((key.clone(), used.span)))?;
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

    /// Whether a stage has this name or number, as `--target` understands it.
    fn is_called(&self, index: usize, name: &str) -> bool {
        let own = &self.dockerfile.stages[index].from.value.name;
        own.as_ref()
            .is_some_and(|own| own.value.eq_ignore_ascii_case(name))
            || name.parse() == Ok(index)
    }

    /// Images that the target needs and `known` doesn't have, each with the place that asks for it.
    ///
    /// # Errors
    /// [`Diagnostic`]s for references to later stages and bad ONBUILD triggers.
    pub fn missing_images(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<BTreeMap<ImageKey, ImageUse>, Vec<Diagnostic>> {
        let mut missing = BTreeMap::new();
        self.visit(known, &mut |key, used| {
            if !known.contains_key(key) {
                missing.entry(key.clone()).or_insert(used);
            }
        })?;
        Ok(missing)
    }

    /// The numbers of the stages that the target needs, itself among them.
    pub(super) fn reachable(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<BTreeSet<usize>, Vec<Diagnostic>> {
        self.visit(known, &mut |_, _| {})
    }

    fn visit(
        &self,
        known: &BTreeMap<ImageKey, BaseImage>,
        image: &mut dyn FnMut(&ImageKey, ImageUse),
    ) -> Result<BTreeSet<usize>, Vec<Diagnostic>> {
        let mut seen = BTreeSet::new();
        let mut errors = Vec::new();
        let mut open = self.wanted.clone();
        while let Some(index) = open.pop() {
            if !seen.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            match &stage.base {
                Base::Scratch | Base::Folder(_) => {}
                Base::Stage(base) => open.push(*base),
                Base::Image(key) => {
                    let used = ImageUse {
                        span: self.dockerfile.stages[index].from.value.image.span,
                        stage: index,
                        is_base: true,
                        trigger: None,
                    };
                    image(key, used);
                }
            }
            let steps = self.steps(index, known).unwrap_or_else(|more| {
                errors.extend(more);
                Vec::new()
            });
            for (step, trigger) in steps {
                for reference in stages::references(&step.instruction) {
                    match self.from(&reference, index) {
                        Ok(From::Scratch | From::Folder(_)) => {}
                        Ok(From::Stage(other)) => open.push(other),
                        Ok(From::Image(key)) => {
                            let used = ImageUse {
                                span: match &trigger {
                                    None => reference.name().span,
                                    Some(_) => step.span,
                                },
                                stage: index,
                                is_base: false,
                                trigger: trigger.clone(),
                            };
                            image(&key, used);
                        }
                        Err(error) => errors.push(match &trigger {
                            None => error,
                            Some(trigger) => trigger.explain(error, step.span),
                        }),
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok(seen);
        }
        errors.sort_by_key(|error| error.span.start);
        Err(errors)
    }

    /// The steps of a stage: its base's ONBUILD triggers, each with where it comes from, then its
    /// own.
    pub(super) fn steps(
        &self,
        index: usize,
        known: &BTreeMap<ImageKey, BaseImage>,
    ) -> Result<Vec<(Step, Option<Trigger>)>, Vec<Diagnostic>> {
        let span = self.dockerfile.stages[index].from.span;
        let mut steps = Vec::new();
        let mut errors = Vec::new();
        let mut read = |text: &str, owner: String| {
            let trigger = Trigger {
                text: text.lines().next().unwrap_or_default().to_owned(),
                owner,
            };
            match dockerfile::parse_trigger(text) {
                Ok(step) => steps.push((Step { span, ..step }, Some(trigger))),
                Err(more) => {
                    let more = more.into_iter().map(|one| trigger.explain(one, span));
                    errors.extend(more);
                }
            }
        };
        if self.stages[index].is_replaced {
            return Ok(Vec::new());
        }
        match &self.stages[index].base {
            Base::Scratch | Base::Folder(_) => {}
            Base::Stage(base) => {
                let above = &self.dockerfile.stages[*base].instructions;
                let is_replaced = self.stages[*base].is_replaced;
                for step in above.iter().filter(|_| !is_replaced) {
                    if let Instruction::Onbuild { text, .. } = &step.instruction {
                        read(text, format!("the stage `{}`", self.stages[*base].name));
                    }
                }
            }
            Base::Image(key) => {
                let triggers = known
                    .get(key)
                    .map(|image| image.config.config.on_build.as_slice());
                for text in triggers.into_iter().flatten() {
                    read(text, format!("the image `{}`", key.name));
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let own = &self.dockerfile.stages[index].instructions;
        steps.extend(own.iter().map(|step| (step.clone(), None)));
        Ok(steps)
    }

    /// What a `--from` or `from=` in stage `current` means.
    pub(super) fn from(&self, reference: &Reference, current: usize) -> Result<From, Diagnostic> {
        let name = reference.name();
        let found = match reference {
            Reference::Copy(name) => stages::copy_from(&self.dockerfile, current, name),
            Reference::Mount(name) => stages::mount_from(&self.dockerfile, current, name),
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

/// Reads the value of `FROM --platform`, which is written as `word` and expands to `text`.
fn parse_platform(
    word: &dockerfile::instruction::Word,
    text: &str,
    global: &Environment,
) -> Result<Platform, Diagnostic> {
    if text.is_empty() {
        let message = format!("empty platform value from expression {}", word.value);
        let error = Diagnostic::error(word.span, message);
        let names = global.pairs().iter().map(|(name, _)| name.as_str());
        let written = word.value.trim_matches(['$', '{', '}']);
        return Err(match nearest(written, names) {
            Some(near) => error.with_label(format!("did you mean `${near}`?")),
            None => error.with_help("give the ARG a default, or pass --build-arg"),
        });
    }
    text.parse().map_err(|error: platform::InvalidPlatform| {
        let message = match error.0 == word.value {
            true => format!("failed to parse platform {text}"),
            false => format!("failed to parse platform {} = {text}", word.value),
        };
        let help = "write OS/ARCHITECTURE[/VARIANT], such as linux/arm64 or linux/arm/v7";
        let error = Diagnostic::error(word.span, message).with_help(help);
        match platform::nearest(text) {
            Some(near) => error.with_label(format!("did you mean `{near}`?")),
            None => error,
        }
    })
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
            parse_platform(word, &text, global)?
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
