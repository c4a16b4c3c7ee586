//! Stages to graph: instructions in order, each a vertex, a change of the config, or both.
//!
//! Words are expanded here, with the environment as it is at their instruction. History gets one
//! entry per instruction in BuildKit's words, and exactly the entries that aren't marked empty
//! have a vertex (and so a layer) of their own.

use std::collections::BTreeMap;

use super::environment::Environment;
use super::path::absolute;
use super::plan::{Base, From, ImageKey, Plan};
use super::remote;
use super::{
    BaseImage, Copy, FileSystem, Graph, MakeDirectory, Meta, Operation, Trigger, Vertex,
    VertexIndex,
};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion;
use crate::dockerfile::instruction::{self, Instruction, Step, Word};
use crate::dockerfile::span::Span;
use crate::dockerfile::stages::Reference;
use crate::image::config::{DEFAULT_PATH, ImageConfig};
use crate::platform::Platform;
use crate::time::Timestamp;

mod run;

/// A lowered target.
#[derive(Debug)]
pub struct Lowered {
    /// Everything that has to happen.
    pub graph: Graph,
    /// The vertex whose file system is the image's; `None` for an empty image.
    pub target: Option<VertexIndex>,
    /// The image's config, with its history but without the diff IDs of new layers.
    pub config: ImageConfig,
    /// Name of the target stage.
    pub stage: String,
}

/// Lowers the stages that the target needs.
///
/// # Errors
/// [`Diagnostic`]s for the instructions that can't be lowered, in the order of the text: a word
/// that can't be expanded, a value out of range, a feature that rbuild doesn't have.
pub fn lower(
    plan: &Plan,
    images: &BTreeMap<ImageKey, BaseImage>,
) -> Result<Lowered, Vec<Diagnostic>> {
    let mut lowering = Lowering {
        plan,
        images,
        graph: Graph::default(),
        image_vertices: BTreeMap::new(),
        states: BTreeMap::new(),
    };
    let mut errors = Vec::new();
    for index in plan.reachable(images)? {
        if let Some(state) = lowering.stage(index, &mut errors) {
            lowering.states.insert(index, state);
        }
    }
    if !errors.is_empty() {
        errors.sort_by_key(|error| error.span.start);
        return Err(errors);
    }
    let target = plan.target();
    let mut state = lowering.states.remove(&target).ok_or_else(|| {
        let message = "the target stage was not lowered";
        vec![Diagnostic::error(Span::default(), message)]
    })?;
    let labels = plan.options.labels.clone();
    state.config.config.labels.extend(labels);
    if plan.options.platform_is_explicit {
        set_platform(&mut state.config, &plan.options.platform);
    }
    Ok(Lowered {
        graph: lowering.graph,
        target: state.vertex,
        config: state.config,
        stage: plan.stages[target].name.clone(),
    })
}

pub(super) struct Lowering<'a> {
    pub(super) plan: &'a Plan,
    images: &'a BTreeMap<ImageKey, BaseImage>,
    graph: Graph,
    image_vertices: BTreeMap<ImageKey, Option<VertexIndex>>,
    states: BTreeMap<usize, StageState>,
}

/// A stage as it is after some of its instructions.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    pub(super) vertex: Option<VertexIndex>,
    pub(super) config: ImageConfig,
    pub(super) environment: Environment,
    /// ARGs declared so far, which RUN's history entry lists.
    declared: Vec<(String, String)>,
    /// Whether this stage has set CMD: ENTRYPOINT resets an inherited one only.
    pub(super) sets_cmd: bool,
    prefix: StepPrefix,
    created: Option<Timestamp>,
    /// Whether the cache is not to be asked for this stage's steps.
    fresh: bool,
    pub(super) escape: char,
    /// The ONBUILD trigger that the step at hand is.
    trigger: Option<Trigger>,
}

/// Counts a stage's steps for the names that the user sees: `[builder 2/5]`.
#[derive(Clone, Debug)]
struct StepPrefix {
    /// The platform and a space, where the build is for several.
    platform: String,
    stage: String,
    current: usize,
    total: usize,
}

impl StepPrefix {
    fn next(&mut self, text: &str, is_trigger: bool) -> String {
        self.current += 1;
        let width = self.total.max(1).ilog10() as usize + 1;
        let stage = if self.stage.is_empty() {
            String::new()
        } else {
            format!("{} ", self.stage)
        };
        let trigger = if is_trigger { "ONBUILD " } else { "" };
        let (instruction, rest) = text.split_once(' ').unwrap_or((text, ""));
        format!(
            "[{}{stage}{:>width$}/{}] {trigger}{} {rest}",
            self.platform,
            self.current,
            self.total,
            instruction.to_ascii_uppercase()
        )
    }
}

impl StageState {
    /// Expands one word with the environment as it is now.
    pub(super) fn expand(&self, word: &Word) -> Result<String, Diagnostic> {
        self.expand_text(&word.value, word.span)
    }

    /// Expands a text that stands at `span`.
    pub(super) fn expand_text(&self, text: &str, span: Span) -> Result<String, Diagnostic> {
        expansion::expand(text, &self.lookup(), self.escape)
            .map_err(|error| Diagnostic::error(span, error.to_string()))
    }

    /// Looks a variable up.
    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| self.environment.get(name).map(str::to_owned)
    }

    /// Appends a history entry for an instruction that makes no layer.
    pub(super) fn remember(&mut self, created_by: String) {
        self.push_history(created_by, true);
    }

    fn push_history(&mut self, created_by: String, empty_layer: bool) {
        self.config
            .push_history(self.created, &created_by, empty_layer);
    }
}

impl Lowering<'_> {
    /// Lowers a stage. `None` where what comes behind an error can't be judged, in it or in a
    /// stage below it.
    fn stage(&mut self, index: usize, errors: &mut Vec<Diagnostic>) -> Option<StageState> {
        if let Base::Stage(base) = &self.plan.stages[index].base
            && !self.states.contains_key(base)
        {
            return None;
        }
        let steps = self.plan.steps(index, self.images);
        let steps = steps.map_err(|more| errors.extend(more)).ok()?;
        let state = self.start(index, &steps);
        let mut state = state.map_err(|error| errors.push(error)).ok()?;
        for (step, trigger) in &steps {
            state.trigger.clone_from(trigger);
            if let Err(error) = self.step(index, &mut state, step, trigger.is_some()) {
                let is_placed = error.span != Span::default();
                errors.push(match trigger {
                    None if is_placed => error,
                    None => Diagnostic {
                        span: step.span,
                        ..error
                    },
                    Some(trigger) => trigger.explain(error, step.span),
                });
                if changes_words(&step.instruction) {
                    return None;
                }
            }
        }
        Some(state)
    }

    fn start(
        &mut self,
        index: usize,
        steps: &[(Step, Option<Trigger>)],
    ) -> Result<StageState, Diagnostic> {
        let planned = &self.plan.stages[index];
        let from_image = matches!(planned.base, Base::Image(_));
        let from_folder = matches!(planned.base, Base::Folder(_));
        let total = steps
            .iter()
            .filter(|(step, _)| makes_layer(&step.instruction))
            .count();
        let prefix = StepPrefix {
            platform: self.shown_platform(index),
            stage: if self.plan.stages.len() == 1 {
                String::new()
            } else {
                planned.name.clone()
            },
            current: 0,
            total: total + usize::from(from_image || from_folder),
        };
        let mut state = match &planned.base {
            Base::Stage(base) => {
                let base = self.states.get(base).ok_or_else(|| {
                    let span = self.plan.dockerfile.stages[index].from.span;
                    Diagnostic::error(span, "the base stage was not lowered".to_owned())
                })?;
                StageState {
                    sets_cmd: false,
                    prefix,
                    fresh: self.plan.is_fresh(index),
                    ..base.clone()
                }
            }
            _ => self.start_anew(index, prefix)?,
        };
        if from_folder {
            state.push_history(format!("{} # buildkit", self.shown_from(index)), false);
        }
        state.config.config.on_build = Vec::new();
        ensure_path(&mut state.config);
        if from_image || state.environment == Environment::default() {
            state.environment = Environment::from_config(&state.config.config.env);
        }
        Ok(state)
    }

    /// The state of a stage that stands on no other.
    fn start_anew(
        &mut self,
        index: usize,
        mut prefix: StepPrefix,
    ) -> Result<StageState, Diagnostic> {
        let plan = self.plan;
        let planned = &plan.stages[index];
        let (vertex, config) = match &planned.base {
            Base::Image(key) => {
                let span = plan.dockerfile.stages[index].from.span;
                let name = self.image(key, span)?.name.clone();
                let name = prefix.next(&format!("FROM {name}"), false);
                let vertex = self.image_vertex(key, name, span)?;
                let mut config = self.image(key, span)?.config.clone();
                config.created = None;
                (vertex, config)
            }
            Base::Folder(number) => {
                let name = prefix.next(&self.shown_from(index), false);
                let vertex = self.folder_vertex(index, *number, name);
                (Some(vertex), ImageConfig::empty(&planned.platform))
            }
            _ => (None, ImageConfig::empty(&planned.platform)),
        };
        let time = plan.options.source_date_epoch;
        Ok(StageState {
            vertex,
            config,
            environment: Environment::default(),
            declared: Vec::new(),
            sets_cmd: false,
            prefix,
            created: time.map(Timestamp::from_seconds),
            fresh: plan.is_fresh(index),
            escape: plan.dockerfile.escape,
            trigger: None,
        })
    }

    /// A FROM as it is shown where a folder stands for what it names.
    fn shown_from(&self, index: usize) -> String {
        let from = &self.plan.dockerfile.stages[index].from.value;
        let replaced = from
            .name
            .as_ref()
            .filter(|_| self.plan.stages[index].is_replaced);
        format!("FROM {}", replaced.unwrap_or(&from.image).value)
    }

    /// All of a folder as the root of a stage.
    fn folder_vertex(&mut self, index: usize, number: usize, name: String) -> VertexIndex {
        let copy = Copy::literal(FileSystem::Folder(number), "/".to_owned(), "/");
        self.graph.add(Vertex {
            operation: Operation::Copy(copy),
            parent: None,
            fresh: self.plan.is_fresh(index),
            meta: Meta {
                name,
                span: self.plan.dockerfile.stages[index].from.span,
                trigger: None,
            },
        })
    }

    /// `linux/arm64 `, and for a stage that is built elsewhere `linux/amd64->arm64 `, where the build
    /// is for several platforms.
    fn shown_platform(&self, index: usize) -> String {
        let options = &self.plan.options;
        if !options.platform_is_one_of_several {
            return String::new();
        }
        let (own, target) = (&self.plan.stages[index].platform, &options.platform);
        if own == target {
            return format!("{own} ");
        }
        let mut parts = Vec::new();
        if own.os != target.os {
            parts.push(target.os.as_str());
        }
        let differs = own.architecture != target.architecture || own.variant != target.variant;
        if differs {
            parts.push(&target.architecture);
            parts.extend(target.variant.as_deref());
        }
        format!("{own}->{} ", parts.join("/"))
    }

    fn image(&self, key: &ImageKey, span: Span) -> Result<&BaseImage, Diagnostic> {
        self.images.get(key).ok_or_else(|| {
            Diagnostic::error(span, format!("image `{}` was not resolved", key.name))
        })
    }

    /// The vertex of a base image, one for all that use it; `None` when it has no layers.
    fn image_vertex(
        &mut self,
        key: &ImageKey,
        name: String,
        span: Span,
    ) -> Result<Option<VertexIndex>, Diagnostic> {
        if let Some(vertex) = self.image_vertices.get(key) {
            return Ok(*vertex);
        }
        let image = self.image(key, span)?.clone();
        let vertex = if image.layers.is_empty() {
            None
        } else {
            self.graph.images.push(image);
            let operation = Operation::Image(self.graph.images.len() - 1);
            Some(self.graph.add(Vertex {
                operation,
                parent: None,
                fresh: false,
                meta: Meta {
                    name,
                    span,
                    trigger: None,
                },
            }))
        };
        self.image_vertices.insert(key.clone(), vertex);
        Ok(vertex)
    }

    /// The file system that a reference means.
    pub(super) fn file_system(
        &mut self,
        from: &From,
        span: Span,
    ) -> Result<FileSystem, Diagnostic> {
        let vertex = match from {
            From::Scratch => None,
            From::Folder(number) => return Ok(FileSystem::Folder(*number)),
            From::Stage(stage) => self.states.get(stage).and_then(|state| state.vertex),
            From::Image(key) => {
                let shown = format!("FROM {}", self.image(key, span)?.name);
                self.image_vertex(key, shown, span)?
            }
        };
        Ok(vertex.map_or(FileSystem::Scratch, FileSystem::Vertex))
    }

    fn step(
        &mut self,
        index: usize,
        state: &mut StageState,
        step: &Step,
        is_trigger: bool,
    ) -> Result<(), Diagnostic> {
        match &step.instruction {
            Instruction::Run(run) => self.run(index, state, step, run, is_trigger),
            Instruction::Copy(transfer) | Instruction::Add(transfer) => {
                let is_add = matches!(step.instruction, Instruction::Add(_));
                let from = match &transfer.from {
                    None => FileSystem::Context,
                    Some(name) => {
                        let from = self.plan.from(&Reference::Copy(name.clone()), index)?;
                        self.file_system(&from, name.span)?
                    }
                };
                let time = self.plan.options.source_date_epoch;
                let (copy, message) = state.transfer(transfer, from, is_add, time)?;
                self.add(state, Operation::Copy(copy), step, is_trigger);
                state.push_history(format!("{message} # buildkit"), false);
                Ok(())
            }
            Instruction::Workdir(word) => {
                let mut path = state.expand(word)?;
                // One that is absolute is kept as it is written, as BuildKit does.
                if !path.starts_with('/') {
                    path = absolute(&state.config.config.working_dir, &path);
                }
                state.config.config.working_dir.clone_from(&path);
                let makes_layer = path != "/";
                if makes_layer {
                    let operation = Operation::MakeDirectory(MakeDirectory {
                        path: absolute("/", &path),
                        user: state.config.config.user.clone(),
                        time: self.plan.options.source_date_epoch,
                    });
                    self.add(state, operation, step, is_trigger);
                }
                state.push_history(format!("WORKDIR {path}"), !makes_layer);
                Ok(())
            }
            Instruction::Arg(declarations) => self.arg(state, declarations),
            _ => state.metadata(step),
        }
    }

    fn add(&mut self, state: &mut StageState, operation: Operation, step: &Step, is_trigger: bool) {
        let text = expansion::expand_for_display(&step.text, &state.lookup(), state.escape);
        let name = state
            .prefix
            .next(&remote::without_passwords(&text), is_trigger);
        state.vertex = Some(self.graph.add(Vertex {
            operation,
            parent: state.vertex,
            fresh: state.fresh,
            meta: Meta {
                name,
                span: step.span,
                trigger: state.trigger.clone(),
            },
        }));
    }

    fn arg(
        &self,
        state: &mut StageState,
        declarations: &[instruction::ArgDeclaration],
    ) -> Result<(), Diagnostic> {
        let mut texts = Vec::new();
        for declaration in declarations {
            let name = declaration.name.value.clone();
            let value = if let Some(value) = self.plan.options.build_args.get(&name) {
                Some(value.clone())
            } else if let Some(default) = &declaration.default {
                Some(state.expand(default)?)
            } else {
                self.plan.global.get(&name).map(str::to_owned)
            };
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if let Some(value) = &value {
                state.environment.set(&name, value);
            }
            state.declared.push((name, value.unwrap_or_default()));
        }
        state.remember(format!("ARG {}", texts.join(" ")));
        Ok(())
    }
}

/// What an explicit `--platform` says is what the config says.
fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    let same = config.os == platform.os && config.architecture == platform.architecture;
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    if platform.variant.is_some() || !same {
        config.variant = platform.variant.clone().unwrap_or_default();
    }
}

/// PATH is always set, as steps of images without one still have to find their programs.
pub(super) fn ensure_path(config: &mut ImageConfig) {
    if config.config.env("PATH").is_none() {
        config.config.set_env("PATH", DEFAULT_PATH);
    }
}

fn makes_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

/// Whether the words of later instructions depend on this one.
fn changes_words(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Arg(_) | Instruction::Env(_))
}

/// The error for a part of the language that rbuild doesn't have.
pub(super) fn absent(span: Span, what: &str) -> Diagnostic {
    Diagnostic::error(
        span,
        format!("{what} is not supported by this version of rbuild"),
    )
}
