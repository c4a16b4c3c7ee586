//! Which stage is the target, and which stages it needs.
//!
//! A stage refers to others by `FROM name`, `COPY --from=`, `RUN --mount=from=`, and through the
//! ONBUILD triggers of a stage that it is built on. A name that is no stage's is an image's.
//! FROM knows only the stages above; the others know all, so that a reference to a later stage
//! is an error and not an image.

use std::collections::BTreeSet;

use super::Dockerfile;
use super::diagnostic::Diagnostic;
use super::expansion;
use super::instruction::{Instruction, MountKind, Stage};
use super::nearest::nearest;
use super::span::{Span, Spanned};

/// What a reference means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Referent {
    /// The stage of this number.
    Stage(usize),
    /// No stage: an image, a named context, or `scratch`.
    Elsewhere,
}

/// The stage that the build is for: the last one, or the one that `target` names in any letter
/// case or by number.
///
/// # Errors
/// When there is no such stage, with the nearest name.
pub fn target(dockerfile: &Dockerfile, target: Option<&str>) -> Result<usize, Diagnostic> {
    let stages = &dockerfile.stages;
    let Some(last) = stages.len().checked_sub(1) else {
        return Err(Diagnostic::error(
            Span::default(),
            "dockerfile contains no stages to build",
        ));
    };
    let Some(wanted) = target else {
        return Ok(last);
    };
    let number = || {
        wanted
            .parse::<usize>()
            .ok()
            .filter(|number| *number <= last)
    };
    if let Some(index) = find(stages, wanted).or_else(number) {
        return Ok(index);
    }
    let error = Diagnostic::error(
        Span::default(),
        format!("target stage {wanted:?} could not be found"),
    );
    let names: Vec<&str> = stages.iter().filter_map(name).collect();
    Err(match nearest(wanted, names.iter().copied()) {
        Some(near) => error.with_help(format!("did you mean `{near}`?")),
        None if names.is_empty() => {
            error.with_help("no stage has a name: give it one with `FROM … AS <name>`")
        }
        None => error.with_help(format!("stages are: {}", names.join(", "))),
    })
}

/// The stage that FROM in stage `current` means when its image, variables expanded, is `image`:
/// the nearest one above with that name, which is in lower case.
pub fn base(dockerfile: &Dockerfile, current: usize, image: &str) -> Referent {
    let above = dockerfile.stages.get(..current).unwrap_or_default();
    let found = above.iter().rposition(|stage| name(stage) == Some(image));
    found.map_or(Referent::Elsewhere, Referent::Stage)
}

/// The stage that `COPY --from=name` in stage `current` means.
///
/// # Errors
/// A name with variables; a number that no stage has; the stage itself or a later one.
pub fn copy_from(
    dockerfile: &Dockerfile,
    current: usize,
    name: &Spanned<String>,
) -> Result<Referent, Diagnostic> {
    let plain = expansion::expand(&name.value, &|_| None, dockerfile.escape)
        .map_err(|error| Diagnostic::error(name.span, error.to_string()))?;
    if plain != name.value {
        let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround";
        return Err(Diagnostic::error(name.span, message));
    }
    let number = match name.value.parse::<i64>() {
        Err(_) => None,
        Ok(number) => {
            let known = usize::try_from(number)
                .ok()
                .filter(|index| *index < dockerfile.stages.len());
            let Some(index) = known else {
                return Err(
                    Diagnostic::error(name.span, format!("invalid stage index {number}"))
                        .with_help(match dockerfile.stages.len() {
                            1 => "there is one stage, number 0".to_owned(),
                            many => format!("there are {many} stages, numbered from 0"),
                        }),
                );
            };
            Some(index)
        }
    };
    earlier(dockerfile, current, number, name, "copy")
}

/// The stage that `RUN --mount=from=name` in stage `current` means. Numbers aren't stages here.
///
/// # Errors
/// The stage itself or a later one.
pub fn mount_from(
    dockerfile: &Dockerfile,
    current: usize,
    name: &Spanned<String>,
) -> Result<Referent, Diagnostic> {
    earlier(dockerfile, current, None, name, "mount")
}

fn earlier(
    dockerfile: &Dockerfile,
    current: usize,
    number: Option<usize>,
    name: &Spanned<String>,
    verb: &str,
) -> Result<Referent, Diagnostic> {
    let Some(index) = number.or_else(|| find(&dockerfile.stages, &name.value)) else {
        return Ok(Referent::Elsewhere);
    };
    if index < current {
        return Ok(Referent::Stage(index));
    }
    let label = |index: usize| {
        let named = dockerfile.stages.get(index).and_then(self::name);
        named.map_or_else(|| format!("stage-{index}"), str::to_owned)
    };
    if index == current {
        return Err(Diagnostic::error(
            name.span,
            format!("circular dependency detected on stage: {}", label(current)),
        )
        .with_help(format!("a stage can't {verb} from itself")));
    }
    Err(Diagnostic::error(
        name.span,
        format!(
            "cannot {verb} from stage {:?}, it needs to be defined before current stage {:?}",
            label(index),
            label(current)
        ),
    )
    .with_help(format!("move stage {:?} above this one", label(index))))
}

/// A reference that an instruction makes to another file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// `COPY --from=`.
    Copy(Spanned<String>),
    /// `RUN --mount=from=`.
    Mount(Spanned<String>),
}

impl Reference {
    /// The name, and where it stands.
    pub fn name(&self) -> &Spanned<String> {
        match self {
            Self::Copy(name) | Self::Mount(name) => name,
        }
    }
}

/// The references of one instruction, as written. Neither may hold variables.
pub fn references(instruction: &Instruction) -> Vec<Reference> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().cloned().map(Reference::Copy).collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.value.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => {
                    from.clone().map(|from| {
                        let span = mount.value.from_span(mount.span);
                        Reference::Mount(Spanned::new(from, span))
                    })
                }
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The stages that `target` needs, itself among them. `bases` holds each stage's FROM image with
/// its variables expanded, in the order of the stages.
///
/// # Errors
/// A reference, in a stage that is needed, to itself, to a later stage or to a number that
/// isn't there.
pub fn reachable(
    dockerfile: &Dockerfile,
    bases: &[String],
    target: usize,
) -> Result<BTreeSet<usize>, Diagnostic> {
    let mut seen = BTreeSet::new();
    let mut open = vec![target];
    while let Some(current) = open.pop() {
        let Some(stage) = dockerfile.stages.get(current) else {
            continue;
        };
        if !seen.insert(current) {
            continue;
        }
        let base = bases
            .get(current)
            .map(|image| self::base(dockerfile, current, image));
        let mut instructions: Vec<&Instruction> = Vec::new();
        if let Some(Referent::Stage(below)) = base {
            open.push(below);
            instructions.extend(dockerfile.stages.get(below).into_iter().flat_map(triggers));
        }
        instructions.extend(stage.instructions.iter().map(|step| &step.instruction));
        for reference in instructions.into_iter().flat_map(references) {
            let referent = match &reference {
                Reference::Copy(name) => copy_from(dockerfile, current, name)?,
                Reference::Mount(name) => mount_from(dockerfile, current, name)?,
            };
            if let Referent::Stage(index) = referent {
                open.push(index);
            }
        }
    }
    Ok(seen)
}

/// The ONBUILD triggers that a stage leaves to those built on it.
fn triggers(stage: &Stage) -> impl Iterator<Item = &Instruction> {
    stage
        .instructions
        .iter()
        .filter_map(|step| match &step.instruction {
            Instruction::Onbuild { trigger, .. } => Some(&trigger.value),
            _ => None,
        })
}

/// The last stage with a name; a name given twice belongs to the later stage.
fn find(stages: &[Stage], wanted: &str) -> Option<usize> {
    let wanted = wanted.to_lowercase();
    stages
        .iter()
        .rposition(|stage| name(stage) == Some(&wanted))
}

fn name(stage: &Stage) -> Option<&str> {
    stage
        .from
        .value
        .name
        .as_ref()
        .map(|name| name.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn needed(text: &str, wanted: Option<&str>) -> Result<Vec<usize>, String> {
        let dockerfile = parse(text).unwrap();
        let bases: Vec<String> = dockerfile
            .stages
            .iter()
            .map(|stage| stage.from.value.image.value.clone())
            .collect();
        let index = target(&dockerfile, wanted).map_err(|error| error.message)?;
        let found = reachable(&dockerfile, &bases, index).map_err(|error| error.message)?;
        Ok(found.into_iter().collect())
    }

    const SEVERAL: &str = "FROM a AS base\n\
        FROM base AS tools\nRUN x\n\
        FROM b AS unused\n\
        FROM scratch AS Final\nCOPY --from=tools /x /\nRUN --mount=from=c,target=/c true\n";

    #[test]
    fn only_what_the_target_needs() {
        for (wanted, expected) in [
            (None, vec![0, 1, 3]),
            (Some("FINAL"), vec![0, 1, 3]),
            (Some("tools"), vec![0, 1]),
            (Some("2"), vec![2]),
        ] {
            assert_eq!(needed(SEVERAL, wanted), Ok(expected), "{wanted:?}");
        }
    }

    #[test]
    fn an_unknown_target_gets_the_nearest_name() {
        let dockerfile = parse(SEVERAL).unwrap();
        let error = target(&dockerfile, Some("tool")).unwrap_err();
        assert_eq!(error.message, "target stage \"tool\" could not be found");
        assert_eq!(error.help.as_deref(), Some("did you mean `tools`?"));
        let error = target(&dockerfile, Some("4")).unwrap_err();
        assert_eq!(
            error.help.as_deref(),
            Some("stages are: base, tools, unused, final")
        );
    }

    #[test]
    fn references_by_number_mount_and_trigger() {
        let by_number = "FROM a\nFROM b\nCOPY --from=0 /x /\n";
        assert_eq!(needed(by_number, None), Ok(vec![0, 1]));
        let by_mount = "FROM a AS x\nFROM b\nRUN --mount=type=cache,from=x,target=/c true\n";
        assert_eq!(needed(by_mount, None), Ok(vec![0, 1]));
        let by_number = "FROM a\nFROM b\nRUN --mount=from=0,target=/c true\n";
        assert_eq!(needed(by_number, None), Ok(vec![1]), "an image called 0");
        let by_trigger = "FROM a AS x\nFROM b AS y\nONBUILD COPY --from=x /x /\nFROM y\n";
        assert_eq!(needed(by_trigger, None), Ok(vec![0, 1, 2]));
        assert_eq!(needed(by_trigger, Some("y")), Ok(vec![1]));
    }

    #[test]
    fn names_given_twice() {
        let from = "FROM a AS x\nFROM x AS x\nFROM x\n";
        assert_eq!(needed(from, None), Ok(vec![0, 1, 2]));
        let image = "FROM alpine AS alpine\n";
        assert_eq!(
            needed(image, None),
            Ok(vec![0]),
            "FROM knows only the stages above"
        );
    }

    #[test]
    fn bad_references() {
        for (text, message) in [
            (
                "FROM a AS x\nCOPY --from=x /x /\n",
                "circular dependency detected on stage: x",
            ),
            (
                "FROM a\nCOPY --from=0 /x /\n",
                "circular dependency detected on stage: stage-0",
            ),
            ("FROM a\nCOPY --from=1 /x /\n", "invalid stage index 1"),
            ("FROM a\nCOPY --from=-1 /x /\n", "invalid stage index -1"),
            (
                "FROM a AS x\nCOPY --from=y /x /\nFROM b AS y\nFROM x\n",
                "cannot copy from stage \"y\", it needs to be defined before current stage \"x\"",
            ),
            (
                "FROM a AS x\nRUN --mount=from=y,target=/y true\nFROM b AS y\nCOPY --from=x /x /\n",
                "cannot mount from stage \"y\", it needs to be defined before current stage \"x\"",
            ),
        ] {
            assert_eq!(needed(text, None), Err(message.to_owned()), "{text}");
        }
        let unneeded = "FROM a AS x\nCOPY --from=x /x /\nFROM b\n";
        assert_eq!(
            needed(unneeded, None),
            Ok(vec![1]),
            "a stage that isn't needed isn't looked at"
        );
    }
}
