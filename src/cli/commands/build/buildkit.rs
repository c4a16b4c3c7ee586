//! Build arguments and variables that mean something to BuildKit and Docker themselves.
//!
//! Those whose effect holds are accepted; one that asks for something absent is refused by name.

use std::collections::BTreeMap;

use crate::cli::environment::Environment;
use crate::cli::error::Failure;
use crate::cli::spelling::parse_bool;

/// Switches among BuildKit's build arguments that ask for what rbuild hasn't, and why not.
const ABSENT: [(&str, &str); 2] = [
    (
        "BUILDKIT_INLINE_CACHE",
        "rbuild writes no cache into images yet: drop it",
    ),
    (
        "BUILDKIT_MULTI_PLATFORM",
        "an image of one platform is written without an index: drop it",
    ),
];

/// Refuses build arguments that ask for something absent.
pub(super) fn check_arguments(build_args: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, hint) in ABSENT {
        let Some(value) = build_args.get(name) else {
            continue;
        };
        if !value.is_empty() && parse_bool(value) != Some(false) {
            let message = format!("rbuild does not support `--build-arg {name}={value}` yet");
            return Err(Failure::user(message).hint(hint));
        }
    }
    Ok(())
}

/// What the user is to be told of variables that choose a builder: rbuild is its own.
pub(super) fn builder_note(environment: &Environment) -> Option<String> {
    let name = environment.get("BUILDX_BUILDER")?;
    (name != "default")
        .then(|| format!("BUILDX_BUILDER=`{name}` has no effect: rbuild builds by itself"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_refused() {
        for (name, value, accepted) in [
            ("BUILDKIT_INLINE_CACHE", "1", false),
            ("BUILDKIT_INLINE_CACHE", "yes", false),
            ("BUILDKIT_INLINE_CACHE", "0", true),
            ("BUILDKIT_INLINE_CACHE", "", true),
            ("BUILDKIT_MULTI_PLATFORM", "true", false),
            ("BUILDKIT_MULTI_PLATFORM", "false", true),
            ("BUILDKIT_DOCKERFILE_CHECK", "error=true", true),
            ("BUILDKIT_SYNTAX", "docker/dockerfile:1", true),
            ("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1", true),
            ("VERSION", "1", true),
        ] {
            let arguments = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert_eq!(
                check_arguments(&arguments).is_ok(),
                accepted,
                "{name}={value}"
            );
        }
    }

    #[test]
    fn a_builder_that_is_not_used_is_told() {
        let note = |variables: &[(&str, &str)]| builder_note(&variables.iter().copied().collect());
        assert_eq!(note(&[]), None);
        assert_eq!(note(&[("BUILDX_BUILDER", "")]), None);
        assert_eq!(note(&[("BUILDX_BUILDER", "default")]), None);
        let text = note(&[("BUILDX_BUILDER", "mine")]).unwrap();
        assert!(text.contains("`mine`"), "{text}");
    }
}
