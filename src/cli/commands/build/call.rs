//! `--check` and `--call`: asking about a Dockerfile instead of building it.

use super::{Input, Prepared};
use crate::build::{self, Answer, BuildError, BuildRequest};
use crate::cli::commands::Context;
use crate::cli::csv;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::spelling::parse_bool;
use crate::cli::ui::{Phase, ProgressMode};
use crate::dockerfile::nearest::nearest;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// What in it is seldom meant.
    Check,
    /// Which stages can be built.
    Targets,
    /// What the target can be given.
    Outline,
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
    /// Reads `--call` beside `--check` and `--format`; `None` where the image is to be built.
    pub(super) fn read(
        text: Option<&str>,
        check: bool,
        format: Option<&str>,
    ) -> Result<Option<Self>, Failure> {
        let call = Self::read_call(text.unwrap_or_default(), check)?;
        let (Some(call), Some(format)) = (call, format) else {
            return match format {
                None => Ok(call),
                Some(_) => Err(Failure::user(
                    "`--format` says how `--check` and `--call` answer, and the image is to be built",
                )
                .hint("images are written as OCI images: drop the flag")),
            };
        };
        match format {
            "json" => Ok(Some(Self {
                is_json: true,
                ..call
            })),
            "text" if !call.is_json => Ok(Some(call)),
            "text" => Err(Failure::user(
                "`--format text` contradicts `format=json` in `--call`",
            )),
            other => Err(
                Failure::user(format!("invalid value `{other}` for `--format`"))
                    .hint("formats are text and json"),
            ),
        }
    }

    fn read_call(text: &str, check: bool) -> Result<Option<Self>, Failure> {
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
            (Some("outline"), false) => Question::Outline,
            (Some(written), false) => {
                let known = ["build", "check", "lint", "outline", "targets"];
                return Err(match nearest(written, known) {
                    Some(near) => invalid(&format!("did you mean `{near}`?")),
                    None => invalid("it is one of build, check, outline, targets"),
                });
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
            let answer = build::targets(&prepared.request, &environment).await;
            print(call, answer, context)
        }
        Question::Outline => {
            let progress = context.progress(prepared.progress, Phase::Checking)?;
            let answer = build::outline(prepared.request, &environment, progress.sink()).await;
            progress.finish();
            print(call, answer, context)
        }
    }
}

fn print(call: Call, answer: Result<Answer, BuildError>, context: &Context) -> Result<(), Failure> {
    let answer = answer.map_err(|error| Failure::of_build(error, context.style))?;
    output::print(if call.is_json {
        &answer.json
    } else {
        &answer.text
    })
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
        // whatever a check finds is one finding to those who run it in a script
        Some(error) => Err(Failure::of_build(error, context.style).exit_with(1)),
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
                Some("outline"),
                false,
                call(Question::Outline, false, false),
            ),
            (
                Some("targets,format=json"),
                false,
                call(Question::Targets, true, false),
            ),
        ] {
            assert_eq!(
                Call::read(text, check, None).unwrap(),
                expected,
                "{text:?} {check}"
            );
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        for (text, check) in [
            ("subrequests.describe", false),
            ("targets", true),
            ("build", true),
            ("check,format=xml", false),
            ("check,ignorestatus=maybe", false),
            ("check,depth=1", false),
            ("check,targets", false),
        ] {
            assert!(
                Call::read(Some(text), check, None).is_err(),
                "{text} {check}"
            );
        }
    }

    #[test]
    fn a_format_of_its_own_needs_a_question() {
        let is_json = |text: Option<&str>, check, format| {
            let call = Call::read(text, check, Some(format)).ok()?;
            call.map(|call| call.is_json)
        };
        for (text, check, format, expected) in [
            (None, true, "json", Some(true)),
            (None, true, "text", Some(false)),
            (Some("outline"), false, "json", Some(true)),
            (Some("check,format=json"), false, "json", Some(true)),
            (Some("check,format=json"), false, "text", None),
            (None, true, "yaml", None),
            (None, false, "json", None),
            (Some("build"), false, "docker", None),
        ] {
            assert_eq!(
                is_json(text, check, format),
                expected,
                "{text:?} {check} {format}"
            );
        }
    }
}
