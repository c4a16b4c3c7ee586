//! Names in `# check=` lines that no rule has.

use super::{Checks, Rule};
use crate::dockerfile::nearest::nearest;
use crate::dockerfile::syntax;

/// What is to be said of names that no rule has, each with its line. Rules come and go, so that
/// such a name is never an error, and no warning of a check's.
pub fn unknown_names(text: &str) -> Vec<String> {
    let (tree, _) = syntax::parse(text);
    let mut said = Vec::new();
    let mut look = |line: usize, options: &str| {
        let checks = Checks::parse(options).unwrap_or_default();
        for name in checks.names() {
            if Rule::ALL.iter().any(|rule| rule.name() == name) {
                continue;
            }
            let names = Rule::ALL.iter().map(|rule| rule.name());
            let same = |rule: &&Rule| rule.name().eq_ignore_ascii_case(name);
            let near = match Rule::ALL.iter().find(same) {
                Some(rule) => Some(rule.name()),
                None => nearest(name, names),
            };
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            said.push(format!(
                "no build check is called `{name}`, as `# check=` on line {line} has it{near}"
            ));
        }
    };
    if let Some(check) = &tree.directives.check {
        look(check.span.first_line, &check.value);
    }
    let lines: Vec<&str> = text.lines().collect();
    for node in &tree.nodes {
        let Some(options) = Checks::comment(&node.comments) else {
            continue;
        };
        // comments have no places of their own, but stand above the instruction
        let above = lines.iter().take(node.span.first_line.saturating_sub(1));
        let number = above.clone().rposition(|line| line.contains(options));
        look(number.map_or(node.span.first_line, |at| at + 1), options);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::unknown_names;

    #[test]
    fn names_that_no_rule_has_are_told_with_the_nearest() {
        let text = "# check=skip=JSONArgRecommended,all2;experimental=stagenamecasing\n\
            FROM scratch\n# why\n# check=skip=UndefindVar // so\nUSER $x\n\
            # check=skip=UndefinedVar\nUSER $y\n# check=nonsense\nUSER 1\n";
        assert_eq!(
            unknown_names(text),
            [
                "no build check is called `JSONArgRecommended`, as `# check=` on line 1 has it; \
                 did you mean `JSONArgsRecommended`?",
                "no build check is called `all2`, as `# check=` on line 1 has it",
                "no build check is called `stagenamecasing`, as `# check=` on line 1 has it; \
                 did you mean `StageNameCasing`?",
                "no build check is called `UndefindVar`, as `# check=` on line 4 has it; \
                 did you mean `UndefinedVar`?",
            ]
        );
        assert_eq!(unknown_names("# check=skip=all\nFROM scratch\n"), [""; 0]);
    }
}
