//! What a Dockerfile says by itself, needed for the target or not: for whoever explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use super::{ImageKey, Plan};
use crate::dockerfile;
use crate::dockerfile::instruction::{Instruction, Step};
use crate::dockerfile::span::Span;
use crate::graph::{BaseImage, arguments};

impl Plan {
    /// Names among `fresh_stages` that are no stage's.
    pub fn unknown_stages(&self) -> Vec<&str> {
        let names = self.options.fresh_stages.iter().map(String::as_str);
        names
            .filter(|name| !(0..self.stages.len()).any(|index| self.is_called(index, name)))
            .collect()
    }

    /// The names of the stages of these numbers that have one.
    pub fn stage_names(&self, numbers: impl RangeBounds<usize>) -> impl Iterator<Item = &str> {
        let stages = self.dockerfile.stages.iter().enumerate();
        let stages = stages.filter(move |(number, _)| numbers.contains(number));
        stages.filter_map(|(_, stage)| Some(stage.from.value.name.as_ref()?.value.as_str()))
    }

    /// The names of `--build-context`.
    pub fn context_names(&self) -> impl Iterator<Item = &str> {
        self.options.contexts.keys().map(String::as_str)
    }

    /// Every instruction of every stage.
    pub fn written_steps(&self) -> impl Iterator<Item = &Step> {
        let stages = self.dockerfile.stages.iter();
        stages.flat_map(|stage| &stage.instructions)
    }

    /// The instruction at a place.
    pub fn step_at(&self, span: Span) -> Option<&Step> {
        self.written_steps().find(|step| step.span == span)
    }

    /// The USER that is in force at the instruction at a place, in the same stage.
    pub fn user_before(&self, span: Span) -> Option<&Step> {
        let mut stages = self.dockerfile.stages.iter();
        let stage = stages.rfind(|stage| stage.from.span.start < span.start)?;
        let mut steps = stage.instructions.iter();
        steps.rfind(|step| {
            step.span.start < span.start && matches!(step.instruction, Instruction::User(_))
        })
    }

    /// The names that an ARG before the first FROM declares and that nothing declares in the stage
    /// of the instruction at a place, before it.
    pub fn globals_out_of_reach(&self, span: Span) -> Vec<&str> {
        let mut stages = self.dockerfile.stages.iter();
        let stage = stages.rfind(|stage| stage.from.span.start < span.start);
        let steps = stage.map_or(&[][..], |stage| &stage.instructions);
        let before = steps.iter().filter(|step| step.span.start < span.start);
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for step in before {
            match &step.instruction {
                Instruction::Arg(args) => {
                    known.extend(args.iter().map(|arg| arg.name.value.as_str()));
                }
                Instruction::Env(pairs) => {
                    known.extend(pairs.iter().map(|pair| pair.key.value.as_str()));
                }
                _ => {}
            }
        }
        let names = self.global_names();
        names.filter(|name| !known.contains(name)).collect()
    }

    /// The names that ARGs before the first FROM declare.
    fn global_names(&self) -> impl Iterator<Item = &str> {
        let globals = self.dockerfile.global_args.iter();
        let globals = globals.flat_map(|args| &args.value);
        globals.map(|arg| arg.name.value.as_str())
    }

    /// The names that ARGs declare.
    pub fn declared_arguments(&self) -> BTreeSet<&str> {
        let mut declared: BTreeSet<&str> = self.global_names().collect();
        for step in self.written_steps() {
            if let Instruction::Arg(args) = &step.instruction {
                declared.extend(args.iter().map(|arg| arg.name.value.as_str()));
            }
        }
        declared
    }

    /// Build arguments that no ARG takes, be it in the Dockerfile or in a trigger of one of its base
    /// images, and that mean nothing by themselves.
    pub fn unused_arguments(&self, images: &BTreeMap<ImageKey, BaseImage>) -> Vec<&str> {
        let declared = self.declared_arguments();
        let of_triggers = trigger_arguments(images);
        let names = self.options.build_args.keys().map(String::as_str);
        names
            .filter(|name| {
                !declared.contains(name)
                    && !of_triggers.contains(*name)
                    && !arguments::is_proxy(name)
                    && *name != "SOURCE_DATE_EPOCH"
                    && !name.starts_with("BUILDKIT_")
                    && !arguments::is_platform(name)
            })
            .collect()
    }
}

/// The names that ONBUILD triggers of images declare.
fn trigger_arguments(images: &BTreeMap<ImageKey, BaseImage>) -> BTreeSet<String> {
    let triggers = images
        .values()
        .flat_map(|image| &image.config.config.on_build);
    let steps = triggers.filter_map(|text| dockerfile::parse_trigger(text).ok());
    let declarations = steps.filter_map(|step| match step.instruction {
        Instruction::Arg(declarations) => Some(declarations),
        _ => None,
    });
    declarations.flatten().map(|arg| arg.name.value).collect()
}
