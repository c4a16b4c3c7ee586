//! `--check` and `--call`: asking about a Dockerfile instead of building it.

use super::{Input, Prepared};
use crate::build::{self, BuildRequest};
use crate::cli::commands::Context;
use crate::cli::csv;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::spelling::parse_bool;
use crate::cli::ui::{Phase, ProgressMode};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// What in it is seldom meant.
    Check,
    /// Which stages can be built.
    Targets,
}

/// A question, and how the answer is to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) question: Question,
    /// `format=json`.
    pub(super) is_json: bool,
    /// `ignorestatus=true`: warnings are no failure.
    pub(super) ignores_status: bool,
}

impl Call {
    /// Reads `--call` beside `--check`; `None` where the image is to be built.
    pub(super) fn read(text: Option<&str>, check: bool) -> Result<Option<Self>, Failure> {
        let text = text.unwrap_or_default();
        let invalid = |hint: &str| {
            Failure::user(format!("invalid value `{text}` for `--call`")).hint(hint.to_owned())
        };
        let mut name = None;
        let (mut is_json, mut ignores_status) = (false, false);
        let fields = match text {
            "" => Vec::new(),
            text => csv::fields(text).map_err(|error| invalid(&error.to_string()))?,
        };
        for field in &fields {
            match field.split_once('=') {
                Some(("format", "json")) => is_json = true,
                Some(("format", "" | "text")) => is_json = false,
                Some(("format", _)) => return Err(invalid("formats are text and json")),
                Some(("ignorestatus", value)) => {
                    ignores_status = parse_bool(value)
                        .ok_or_else(|| invalid("`ignorestatus` is true or false"))?;
                }
                None if name.is_none() => name = Some(field.as_str()),
                _ => return Err(invalid("write `NAME[,format=json][,ignorestatus=true]`")),
            }
        }
        let question = match (name, check) {
            (Some("check" | "lint"), _) | (None, true) => Question::Check,
            (Some("build") | None, false) => return Ok(None),
            (Some(_), true) => return Err(invalid("`--check` means `--call=check`")),
            (Some("targets"), false) => Question::Targets,
            (Some("outline"), false) => {
                return Err(
                    Failure::user("rbuild does not support `--call=outline` yet")
                        .hint("`--call=targets` lists the stages, `--call=check` checks them"),
                );
            }
            (Some(_), false) => {
                return Err(invalid("it is one of build, check, targets"));
            }
        };
        Ok(Some(Self {
            question,
            is_json,
            ignores_status,
        }))
    }
}

/// Answers a question on standard output.
pub(super) async fn answer(
    call: Call,
    prepared: Prepared,
    input: Input,
    context: &Context,
) -> Result<(), Failure> {
    let environment = context.build_environment(input.stdin)?;
    match call.question {
        Question::Check => {
            check(
                call,
                prepared.request,
                prepared.progress,
                &environment,
                context,
            )
            .await
        }
        Question::Targets => {
            let targets = build::targets(&prepared.request, &environment).await;
            let targets = targets.map_err(|error| Failure::of_build(error, context.style))?;
            output::print(if call.is_json {
                &targets.json
            } else {
                &targets.text
            })
        }
    }
}

async fn check(
    call: Call,
    request: BuildRequest,
    mode: ProgressMode,
    environment: &build::BuildEnvironment,
    context: &Context,
) -> Result<(), Failure> {
    let progress = context.progress(mode, Phase::Checking)?;
    let checked = build::check(request, environment, progress.sink()).await;
    progress.finish();
    let checked = checked.map_err(|error| Failure::of_build(error, context.style))?;
    let report = &checked.report;
    output::print(&if call.is_json {
        report.to_json()
    } else {
        report.to_text()
    })?;
    let is_clean = report.is_clean();
    match checked.error {
        Some(error) => Err(Failure::of_build(error, context.style)),
        None if is_clean || call.ignores_status => Ok(()),
        None => Err(Failure::program(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_buildx_reads_them() {
        let call = |question, is_json, ignores_status| {
            Some(Call {
                question,
                is_json,
                ignores_status,
            })
        };
        for (text, check, expected) in [
            (None, false, None),
            (None, true, call(Question::Check, false, false)),
            (Some("build"), false, None),
            (Some(""), false, None),
            (Some("check"), false, call(Question::Check, false, false)),
            (Some("lint"), true, call(Question::Check, false, false)),
            (
                Some("check,format=json"),
                true,
                call(Question::Check, true, false),
            ),
            (
                Some("format=json,ignorestatus=1"),
                true,
                call(Question::Check, true, true),
            ),
            (
                Some("targets,format=json"),
                false,
                call(Question::Targets, true, false),
            ),
        ] {
            assert_eq!(
                Call::read(text, check).unwrap(),
                expected,
                "{text:?} {check}"
            );
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        for (text, check) in [
            ("outline", false),
            ("subrequests.describe", false),
            ("targets", true),
            ("build", true),
            ("check,format=xml", false),
            ("check,ignorestatus=maybe", false),
            ("check,depth=1", false),
            ("check,targets", false),
        ] {
            assert!(Call::read(Some(text), check).is_err(), "{text} {check}");
        }
    }
}
