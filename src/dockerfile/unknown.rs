//! What somebody meant who wrote an instruction that there isn't.

use super::diagnostic::Diagnostic;
use super::nearest::nearest;
use super::syntax::Node;

/// The names of all instructions.
pub const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Whether an instruction that there isn't was probably meant as `command`.
pub(super) fn is_meant_as(node: &Node, command: &str) -> bool {
    nearest(&node.name.value, INSTRUCTIONS) == Some(command)
}

/// The error for a node whose name is no instruction, with what was probably meant.
pub(super) fn instruction(node: &Node, before: Option<&Node>) -> Diagnostic {
    let name = &node.name.value;
    let error = Diagnostic::syntax(node.name.span, format!("unknown instruction: {name}"));
    if let Some(line) = missing_space(node) {
        return error
            .with_label("a space is missing")
            .with_help(format!("write `{line}`"));
    }
    if let Some(near) = nearest(name, INSTRUCTIONS) {
        let near = if *name == name.to_lowercase() {
            near.to_lowercase()
        } else {
            near.to_owned()
        };
        return error.with_label(format!("did you mean `{near}`?"));
    }
    if let Some(before) = before.filter(|before| has_stray_heredoc(before)) {
        return error.with_help(format!(
            "{} on line {} takes no heredoc: only RUN, COPY and ADD do",
            before.command(),
            before.span.first_line
        ));
    }
    match before.filter(|before| {
        matches!(
            before.command().as_str(),
            "RUN" | "CMD" | "ENTRYPOINT" | "ENV" | "LABEL"
        )
    }) {
        Some(before) => error.with_help(format!(
            "if this belongs to the {} above, end line {} with the escape character (`\\`)",
            before.command(),
            before.span.last_line
        )),
        None => error.with_help(format!("instructions are: {}", INSTRUCTIONS.join(", "))),
    }
}

/// Whether an instruction that takes no heredoc ends with the mark of one.
fn has_stray_heredoc(node: &Node) -> bool {
    let takes_heredocs = matches!(node.command().as_str(), "RUN" | "COPY" | "ADD");
    let last = node.original.split_whitespace().next_back();
    let mark = last.and_then(|word| word.strip_prefix("<<"));
    let name = mark.map(|mark| mark.trim_start_matches('-').trim_matches(['"', '\'']));
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    !takes_heredocs && name.is_some_and(is_name)
}

/// The line as it was meant, where an instruction's name runs into its first argument.
fn missing_space(node: &Node) -> Option<String> {
    let name = &node.name.value;
    let (command, argument) = INSTRUCTIONS
        .iter()
        .filter_map(|command| {
            let head = name.get(..command.len())?;
            head.eq_ignore_ascii_case(command)
                .then(|| name.split_at(command.len()))
        })
        .max_by_key(|(command, _)| command.len())?;
    let next = argument.chars().next()?;
    // RUNS is a slip of the finger, RUNls and RUN./configure are a missing space
    let case_changes = command.chars().all(char::is_uppercase) && next.is_lowercase();
    let is_near = nearest(name, [command]).is_some();
    if next.is_alphanumeric() && !case_changes && is_near {
        return None;
    }
    let rest = node.original.get(name.len()..).unwrap_or_default().trim();
    let takes_two = ["ADD", "COPY"].contains(&command.to_ascii_uppercase().as_str());
    let argument = match argument {
        ".." if takes_two && rest.is_empty() => ". .",
        other => other,
    };
    Some(format!("{command} {argument} {rest}").trim_end().to_owned())
}
