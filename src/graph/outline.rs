//! What a target can be given: build arguments with their values and descriptions, secrets, agents,
//! cache mounts. Of the target's own stage and of those that it needs.
//!
//! Follows instructions as lowering does, but makes nothing of them: what rbuild can't carry out
//! is outlined all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::Environment;
use super::lowering::ensure_path;
use super::path::absolute;
use super::plan::{Base, From, ImageKey, Plan};
use super::{BaseImage, arguments};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion::{self, Expansion};
use crate::dockerfile::instruction::{ArgDeclaration, Instruction, Mount, MountKind, Step};
use crate::dockerfile::span::{Span, Spanned};
use crate::dockerfile::{outline, stages};
use outline::{Argument, Demand, Outline};

/// Outlines the target of a plan.
///
/// # Errors
/// [`Diagnostic`]s for words that can't be expanded, and for what the plan can't be lowered with.
pub fn outline(
    plan: &Plan,
    images: &BTreeMap<ImageKey, BaseImage>,
) -> Result<Outline, Vec<Diagnostic>> {
    let mut walk = Walk {
        plan,
        images,
        global: global(plan),
        stages: BTreeMap::new(),
    };
    for index in plan.reachable(images)? {
        let stage = walk.stage(index)?;
        walk.stages.insert(index, stage);
    }
    let target = plan.target();
    let from = &plan.dockerfile.stages[target].from.value;
    let name = from.name.as_ref().map_or("", |name| name.value.as_str());
    let comments = &plan.dockerfile.stages[target].comments;
    let description = match name {
        "" => None,
        name => crate::dockerfile::targets::description(comments, name),
    };
    let mut outline = Outline {
        name: name.to_owned(),
        description: description.unwrap_or_default().to_owned(),
        ..Outline::default()
    };
    walk.gather(target, &mut BTreeSet::new(), &mut outline);
    outline.sort();
    Ok(outline)
}

/// What is known of an argument by its name, and the arguments that its value was made of.
#[derive(Clone, Debug)]
struct Known {
    argument: Argument,
    needs: BTreeSet<String>,
}

type Arguments = BTreeMap<String, Known>;

#[derive(Clone, Debug, Default)]
struct Stage {
    environment: Environment,
    directory: String,
    known: Arguments,
    used: BTreeSet<String>,
    secrets: Vec<Demand>,
    agents: Vec<Demand>,
    caches: Vec<Demand>,
    /// Stages that it reads.
    reads: Vec<usize>,
}

/// The arguments in front of the first FROM.
fn global(plan: &Plan) -> Arguments {
    let mut known = Arguments::new();
    let mut environment = Environment::default();
    for declarations in &plan.dockerfile.global_args {
        for declaration in &declarations.value {
            let name = &declaration.name.value;
            let mut needs = BTreeSet::new();
            let given = plan.options.build_args.get(name).cloned();
            let value = match (&given, &declaration.default) {
                (None, Some(default)) => {
                    // names that the platform gives are known to FROM, too
                    let lookup = |name: &str| {
                        let own = environment.get(name).or_else(|| plan.global.get(name));
                        own.map(str::to_owned)
                    };
                    let escape = plan.dockerfile.escape;
                    let expansion = expansion::expand_with_names(&default.value, &lookup, escape);
                    // the plan has expanded it before
                    let expansion = expansion.unwrap_or_default();
                    needs = expansion.used;
                    if needs.remove(name)
                        && let Some(before) = known.get(name)
                    {
                        let before: &Known = before;
                        needs.extend(before.needs.iter().cloned());
                    }
                    Some(expansion.text)
                }
                _ => given,
            };
            if let Some(value) = &value {
                environment.set(name, value);
            }
            let argument = describe(declaration, name, value, declarations.span);
            known.insert(name.clone(), Known { argument, needs });
        }
    }
    known
}

fn describe(
    declaration: &ArgDeclaration,
    name: &str,
    value: Option<String>,
    span: Span,
) -> Argument {
    Argument {
        name: name.to_owned(),
        value: value.unwrap_or_default(),
        description: declaration.description.clone().unwrap_or_default(),
        span,
    }
}

struct Walk<'a> {
    plan: &'a Plan,
    images: &'a BTreeMap<ImageKey, BaseImage>,
    global: Arguments,
    stages: BTreeMap<usize, Stage>,
}

impl Walk<'_> {
    fn stage(&self, index: usize) -> Result<Stage, Vec<Diagnostic>> {
        let mut stage = self.start(index);
        for (step, trigger) in self.plan.steps(index, self.images)? {
            self.step(index, &mut stage, &step).map_err(|one| {
                vec![match &trigger {
                    None => one,
                    Some(trigger) => trigger.explain(one, step.span),
                }]
            })?;
        }
        Ok(stage)
    }

    fn start(&self, index: usize) -> Stage {
        let mut stage = Stage::default();
        match self.plan.base(index) {
            Some(Base::Stage(base)) => {
                if let Some(below) = self.stages.get(base) {
                    stage.environment = below.environment.clone();
                    stage.directory.clone_from(&below.directory);
                    stage.known = below.known.clone();
                }
                stage.reads.push(*base);
            }
            base => {
                let image = match base {
                    Some(Base::Image(key)) => self.images.get(key),
                    _ => None,
                };
                let mut config = image.map(|image| image.config.clone()).unwrap_or_default();
                ensure_path(&mut config);
                stage.environment = Environment::from_config(&config.config.env);
                stage.directory = absolute("/", &config.config.working_dir);
                stage.known = self.global.clone();
            }
        }
        let from = &self.plan.dockerfile.stages[index].from.value;
        let words = std::iter::once(&from.image).chain(&from.platform);
        for word in words {
            let expansion = self.expand(&word.value, &self.plan.global);
            stage.used.extend(expansion.unwrap_or_default().used);
        }
        stage
    }

    fn expand(
        &self,
        text: &str,
        environment: &Environment,
    ) -> Result<Expansion, expansion::ExpandError> {
        let lookup = |name: &str| environment.get(name).map(str::to_owned);
        expansion::expand_with_names(text, &lookup, self.plan.dockerfile.escape)
    }

    fn step(&self, index: usize, stage: &mut Stage, step: &Step) -> Result<(), Diagnostic> {
        let expand = |stage: &Stage, word: &Spanned<String>| {
            self.expand(&word.value, &stage.environment)
                .map(|expansion| expansion.text)
                .map_err(|error| Diagnostic::error(word.span, error.to_string()))
        };
        match &step.instruction {
            Instruction::Env(pairs) => {
                let before = stage.clone();
                for pair in pairs {
                    let name = expand(&before, &pair.key)?;
                    let value = expand(&before, &pair.value)?;
                    stage.environment.set(&name, &value);
                }
            }
            Instruction::Workdir(word) => {
                stage.directory = absolute(&stage.directory, &expand(stage, word)?);
            }
            Instruction::Arg(declarations) => {
                for declaration in declarations {
                    let name = declaration.name.value.clone();
                    let given = self.plan.options.build_args.get(&name);
                    let (value, is_own) = match (given, &declaration.default) {
                        (Some(value), _) => (Some(value.clone()), true),
                        (None, Some(default)) => (Some(expand(stage, default)?), true),
                        (None, None) => match self.plan.global.get(&name) {
                            Some(value) => (Some(value.to_owned()), false),
                            None => (None, true),
                        },
                    };
                    if let Some(value) = &value {
                        stage.environment.set(&name, value);
                    }
                    if is_own {
                        let argument = describe(declaration, &name, value, step.span);
                        let needs = BTreeSet::new();
                        stage.known.insert(name.clone(), Known { argument, needs });
                    }
                    stage.used.insert(name);
                }
            }
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    self.mount(stage, mount, step.span)?;
                }
            }
            _ => {}
        }
        for reference in stages::references(&step.instruction) {
            if let From::Stage(other) = self.plan.from(&reference, index)? {
                stage.reads.push(other);
            }
        }
        Ok(())
    }

    fn mount(
        &self,
        stage: &mut Stage,
        written: &Spanned<Mount>,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let expand = |text: &str| {
            let expansion = self.expand(text, &stage.environment);
            expansion.map(|expansion| expansion.text)
        };
        let mount = written
            .value
            .expand(&expand)
            .map_err(|error| Diagnostic::error(written.span, error.to_string()))?;
        let target = mount.target.unwrap_or_default();
        let base_name = target.rsplit('/').next().unwrap_or_default().to_owned();
        let demand = |name, is_required| Demand {
            name,
            is_required,
            span,
        };
        match mount.kind {
            MountKind::Secret { id, required, .. } => {
                let one = demand(id.unwrap_or(base_name), required);
                add(&mut stage.secrets, one);
            }
            MountKind::Ssh { id, required, .. } => {
                let one = demand(id.unwrap_or_else(|| "default".to_owned()), required);
                add(&mut stage.agents, one);
            }
            MountKind::Cache { id, .. } => {
                let id = id.unwrap_or_else(|| absolute(&stage.directory, &target));
                let id = arguments::cache_mount_id(&self.plan.options.build_args, id);
                add(&mut stage.caches, demand(id, false));
            }
            MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
        }
        Ok(())
    }

    /// Gathers what a stage takes and those that it reads. What it says of a name counts before
    /// what they say.
    fn gather(&self, index: usize, seen: &mut BTreeSet<usize>, outline: &mut Outline) {
        let Some(stage) = self.stages.get(&index).filter(|_| seen.insert(index)) else {
            return;
        };
        let mut open: Vec<&String> = stage.used.iter().collect();
        let mut used = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some(known) = stage.known.get(name).filter(|_| used.insert(name)) {
                open.extend(&known.needs);
                let arguments = &mut outline.arguments;
                if !arguments.iter().any(|other| other.name == *name) {
                    arguments.push(known.argument.clone());
                }
            }
        }
        for one in &stage.secrets {
            add(&mut outline.secrets, one.clone());
        }
        for one in &stage.agents {
            add(&mut outline.agents, one.clone());
        }
        for one in &stage.caches {
            add(&mut outline.caches, one.clone());
        }
        for other in &stage.reads {
            self.gather(*other, seen, outline);
        }
    }
}

/// Adds a demand unless there is one of that name.
fn add(demands: &mut Vec<Demand>, one: Demand) {
    if !demands.iter().any(|other| other.name == one.name) {
        demands.push(one);
    }
}

#[cfg(test)]
#[path = "outline_tests.rs"]
mod tests;
