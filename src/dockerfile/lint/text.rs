//! What the text alone shows: names and their letter case, comments, blank lines.

use std::collections::BTreeSet;

use super::{Checks, Findings, Rule, Warning};
use crate::dockerfile::interpret;
use crate::dockerfile::span::Span;
use crate::dockerfile::syntax::{self, Node};

/// Names that mean something else where a stage's name may stand.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Looks at a Dockerfile's text, as far as it can be read: behind the first instruction that
/// can't, nothing more is said.
pub fn text(text: &str, checks: &Checks) -> Vec<Warning> {
    let mut findings = Findings::default();
    let (tree, errors) = syntax::parse(text);
    if !errors.is_empty() {
        return Vec::new();
    }
    for span in &tree.empty_continuations {
        let detail = "Empty continuation line";
        findings.add(checks, Rule::NoEmptyContinuation, *span, detail);
    }
    let mut has_stage = false;
    for node in &tree.nodes {
        instruction(node, &checks.with_comments(&node.comments), &mut findings);
        let command = node.command();
        has_stage |= command == "FROM";
        let is_stray = !has_stage && command != "ARG";
        if is_stray || interpret::interpret(node, None).is_err() {
            return findings.into_warnings();
        }
        description(node, &checks.with_comments(&node.comments), &mut findings);
    }
    if has_stage {
        stage_names(&tree.nodes, checks, &mut findings);
        letter_case(&tree.nodes, checks, &mut findings);
    }
    findings.into_warnings()
}

fn is_lower(text: &str) -> bool {
    text == text.to_lowercase()
}

fn is_upper(text: &str) -> bool {
    text == text.to_uppercase()
}

fn instruction(node: &Node, checks: &Checks, findings: &mut Findings) {
    match node.command().as_str() {
        "MAINTAINER" => findings.add(
            checks,
            Rule::MaintainerDeprecated,
            node.span,
            "Maintainer instruction is deprecated in favor of using label",
        ),
        "FROM" => from(node, checks, findings),
        _ => {}
    }
}

fn from(node: &Node, checks: &Checks, findings: &mut Findings) {
    let [_, word, rest @ ..] = node.arguments.as_slice() else {
        return;
    };
    if let [name] = rest
        && !is_lower(&name.value)
    {
        let detail = format!("Stage name '{}' should be lowercase", name.value);
        findings.add(checks, Rule::StageNameCasing, node.span, detail);
    }
    let (keyword, word) = (node.name.value.as_str(), word.value.as_str());
    // a keyword of mixed case is another rule's affair
    let matches = match (is_lower(keyword), is_upper(keyword)) {
        (true, _) => is_lower(word),
        (_, true) => is_upper(word),
        _ => true,
    };
    if !rest.is_empty() && !matches {
        let detail = format!("'{word}' and '{keyword}' keywords' casing do not match");
        findings.add(checks, Rule::FromAsCasing, node.span, detail);
    }
}

/// The comment right above an ARG or a named stage describes it, and then begins with its name.
fn description(node: &Node, checks: &Checks, findings: &mut Findings) {
    let command = node.command();
    let names: Vec<String> = match command.as_str() {
        "ARG" => {
            let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
            node.arguments
                .iter()
                .map(|word| name(&word.value))
                .collect()
        }
        "FROM" => {
            let name = node.arguments.get(2);
            name.iter().map(|word| word.value.to_lowercase()).collect()
        }
        _ => return,
    };
    let first = node.comments.last().and_then(|line| line.split(' ').next());
    let (Some(first), Some(name)) = (first, names.first()) else {
        return;
    };
    if names.iter().any(|name| name == first) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { name };
    let detail =
        format!("Comment for {command} should follow the format: `# {example} <description>`");
    findings.add(
        checks,
        Rule::InvalidDefinitionDescription,
        node.span,
        detail,
    );
}

fn stage_names(nodes: &[Node], checks: &Checks, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for node in nodes.iter().filter(|node| node.command() == "FROM") {
        let Some(name) = node.arguments.get(2) else {
            continue;
        };
        let name = name.value.to_lowercase();
        if RESERVED.contains(&name.as_str()) {
            let detail =
                format!("Stage name should not use the same name as reserved stage {name:?}");
            findings.add(checks, Rule::ReservedStageName, node.span, detail);
        }
        if seen.contains(&name) {
            let detail = format!("Duplicate stage name {name:?}, stage names should be unique");
            findings.add(checks, Rule::DuplicateStageName, node.span, detail);
        }
        seen.insert(name);
    }
}

/// Instructions are written the way most of them are. Those in front of the first FROM count for
/// nothing, and an even number is a majority of capitals.
fn letter_case(nodes: &[Node], checks: &Checks, findings: &mut Findings) {
    let names: Vec<(&str, Span)> = nodes
        .iter()
        .skip_while(|node| node.command() != "FROM")
        .map(|node| (node.name.value.as_str(), node.span))
        .collect();
    let lower = names.iter().filter(|(name, _)| is_lower(name)).count();
    let upper = names.iter().filter(|(name, _)| is_upper(name)).count();
    for (name, span) in names {
        let wanted = match lower > upper {
            true if !is_lower(name) => "lowercase",
            false if !is_upper(name) => "uppercase",
            _ => continue,
        };
        let detail =
            format!("Command '{name}' should match the case of the command majority ({wanted})");
        findings.add(checks, Rule::ConsistentInstructionCasing, span, detail);
    }
}
