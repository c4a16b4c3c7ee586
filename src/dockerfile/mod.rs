//! The Dockerfile language: text to instructions and stages, and the expansion of words.
//!
//! The strata, each knowing only the one above it:
//!
//! | stratum | from | to |
//! |---|---|---|
//! | [`syntax`] | text | nodes: a name, flags, words, heredocs |
//! | [`instruction`] | nodes | typed instructions, gathered into stages |
//! | [`stages`] | stages | which stages a target needs |
//! | [`lint`] | text | what is seldom meant |
//!
//! BuildKit's Dockerfile reference is the norm, for the stable and the labs channel alike; a
//! `# syntax=` line is data and fetches nothing. [`parse`] tells every mistake that it can find,
//! not only the first. Words are expanded later, by [`expansion`], when the variables are known.
//!
//! Pure: no file, no network, no clock, no environment. Nothing here panics on any input.

pub mod diagnostic;
pub mod expansion;
mod flags;
pub mod instruction;
mod interpret;
pub mod lint;
pub mod mount;
pub mod nearest;
pub mod span;
pub mod stages;
pub mod syntax;
pub mod targets;
mod unknown;
pub(crate) mod values;

use diagnostic::Diagnostic;
use instruction::{ArgDeclaration, Instruction, Stage, Step};
use interpret::Interpreted;
use span::{Span, Spanned};
use syntax::{Directives, Node};

/// A parsed Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dockerfile {
    /// Parser directives.
    pub directives: Directives,
    /// The escape character: a backslash or a backtick.
    pub escape: char,
    /// The ARG instructions in front of the first FROM, each with its declarations.
    pub global_args: Vec<Spanned<Vec<ArgDeclaration>>>,
    /// The stages, in order; at least one.
    pub stages: Vec<Stage>,
}

/// Reads a Dockerfile.
///
/// # Errors
/// Every mistake found, in the order of the text; never an empty list.
pub fn parse(text: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
    let (tree, mut errors) = syntax::parse(text);
    let mut dockerfile = Dockerfile {
        directives: tree.directives,
        escape: tree.escape,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    let mut is_stray_told = false;
    let mut before = None;
    for node in &tree.nodes {
        match interpret::interpret(node, before) {
            Err(error) => errors.push(error),
            Ok(Interpreted::From(from)) => dockerfile.stages.push(Stage {
                from: Spanned::new(from, node.span),
                text: node.original.trim().to_owned(),
                comments: node.comments.clone(),
                instructions: Vec::new(),
            }),
            Ok(Interpreted::Instruction(instruction)) => {
                if let Some(stage) = dockerfile.stages.last_mut() {
                    stage.instructions.push(interpret::step(node, instruction));
                } else if let Instruction::Arg(declarations) = instruction {
                    dockerfile
                        .global_args
                        .push(Spanned::new(declarations, node.span));
                } else if !std::mem::replace(&mut is_stray_told, true) {
                    errors.push(stray(node));
                }
            }
        }
        before = Some(node);
    }
    if errors.is_empty() && dockerfile.stages.is_empty() {
        errors.push(no_stages(text, &tree.nodes));
    }
    if errors.is_empty() {
        return Ok(dockerfile);
    }
    errors.sort_by_key(|error| error.span.start);
    Err(errors)
}

/// Reads an ONBUILD trigger from an image's config: one instruction, without its ONBUILD.
///
/// The places in the result are those in the trigger's own text.
///
/// # Errors
/// When the text isn't exactly one instruction that may be a trigger.
pub fn parse_trigger(text: &str) -> Result<Step, Vec<Diagnostic>> {
    let (tree, errors) = syntax::parse(text);
    if !errors.is_empty() {
        return Err(errors);
    }
    let [node] = tree.nodes.as_slice() else {
        let message = "onbuild trigger should be a single expression";
        return Err(vec![Diagnostic::syntax(Span::default(), message)]);
    };
    let command = node.command();
    if matches!(command.as_str(), "ONBUILD" | "MAINTAINER" | "FROM") {
        let message = format!("{command} isn't allowed as an ONBUILD trigger");
        return Err(vec![Diagnostic::syntax(node.name.span, message)]);
    }
    match interpret::instruction(node, None) {
        Ok(instruction) => Ok(interpret::step(node, instruction)),
        Err(error) => Err(vec![error]),
    }
}

/// The error for an instruction in front of the first FROM.
fn stray(node: &Node) -> Diagnostic {
    Diagnostic::syntax(node.span, "no build stage in current context")
        .with_label("no FROM stands before this")
        .with_help("begin with `FROM <image>`; only ARG may stand before it")
}

fn no_stages(text: &str, nodes: &[Node]) -> Diagnostic {
    let message = if text.is_empty() {
        "the Dockerfile cannot be empty"
    } else if nodes.is_empty() {
        "file with no instructions"
    } else {
        "dockerfile contains no stages to build"
    };
    Diagnostic::error(Span::default(), message).with_help("begin with `FROM <image>`")
}

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
