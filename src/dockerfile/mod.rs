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

pub mod device;
pub mod diagnostic;
pub mod expansion;
mod flags;
pub mod instruction;
mod interpret;
pub mod lint;
pub mod mount;
pub mod nearest;
pub mod outline;
pub mod slips;
pub mod span;
pub mod stages;
pub mod syntax;
pub mod targets;
mod unknown;
pub(crate) mod values;

pub use flags::of_instruction as flags_of;
pub use syntax::DIRECTIVES;
pub use unknown::INSTRUCTIONS;

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
    match read(text) {
        (Some(dockerfile), errors) if errors.is_empty() => Ok(dockerfile),
        (_, errors) => Err(errors),
    }
}

/// Reads a Dockerfile as far as that goes: with mistakes in the list, what they stand in is left
/// out. `None` where stages are missing, so that nothing can be said of those there are.
pub fn read(text: &str) -> (Option<Dockerfile>, Vec<Diagnostic>) {
    let (tree, mut errors) = syntax::parse(text);
    let mut dockerfile = Dockerfile {
        directives: tree.directives,
        escape: tree.escape,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    let mut is_stray_told = false;
    // whether a FROM is among what can't be read
    let mut lacks_stage = false;
    let mut before = None;
    for node in &tree.nodes {
        match interpret::interpret(node, before) {
            Err(error) => {
                lacks_stage |= node.command() == "FROM" || unknown::is_meant_as(node, "FROM");
                errors.push(error);
            }
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
                } else if !lacks_stage && !std::mem::replace(&mut is_stray_told, true) {
                    errors.push(stray(node));
                }
            }
        }
        before = Some(node);
    }
    if errors.is_empty() && dockerfile.stages.is_empty() {
        errors.push(no_stages(text, &tree.nodes));
    }
    errors.sort_by_key(|error| error.span.start);
    let is_usable = !lacks_stage && !dockerfile.stages.is_empty();
    (is_usable.then_some(dockerfile), errors)
}

/// Whether all of these mistakes are in instructions that give no variable its value.
pub fn unset_nothing(text: &str, errors: &[Diagnostic]) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    errors.iter().all(|error| {
        let line = lines.get(error.span.first_line.saturating_sub(1));
        let word = line.and_then(|line| line.split_whitespace().next());
        let word = word.unwrap_or_default().to_ascii_uppercase();
        unknown::INSTRUCTIONS.contains(&&*word) && !matches!(&*word, "ARG" | "ENV" | "FROM")
    })
}

/// Reads an ONBUILD trigger from an image's config: one instruction, without its ONBUILD.
///
/// The places in the result are those in the trigger's own text.
///
/// # Errors
/// When the text isn't exactly one instruction that may be a trigger; never an empty list.
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
