use proptest::prelude::*;

use super::diagnostic::render_all;
use super::instruction::*;
use super::*;

fn stage(text: &str) -> Stage {
    let dockerfile = parse(&format!("FROM a\n{text}\n")).unwrap_or_else(|errors| {
        panic!("{}", render_all(&errors, "Dockerfile", text, false));
    });
    dockerfile.stages.into_iter().next().unwrap()
}

fn one(text: &str) -> Instruction {
    let mut steps = stage(text).instructions;
    assert_eq!(steps.len(), 1, "{text}");
    steps.remove(0).instruction
}

fn errors(text: &str) -> Vec<Diagnostic> {
    parse(text).expect_err(text)
}

fn error(instruction: &str) -> Diagnostic {
    let mut errors = errors(&format!("FROM a\n{instruction}\n"));
    assert_eq!(errors.len(), 1, "{instruction}: {errors:?}");
    errors.remove(0)
}

fn values(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.value.as_str()).collect()
}

#[test]
fn arguments_before_the_first_stage_are_global() {
    let dockerfile =
        parse("# syntax=x/y:1\nARG A=1 B\nARG C\nFROM $A AS Base\nARG D\nFROM base\n").unwrap();
    let names: Vec<Vec<&str>> = dockerfile
        .global_args
        .iter()
        .map(|args| {
            args.value
                .iter()
                .map(|arg| arg.name.value.as_str())
                .collect()
        })
        .collect();
    assert_eq!(names, [vec!["A", "B"], vec!["C"]]);
    assert_eq!(dockerfile.directives.syntax.unwrap().value, "x/y:1");
    assert_eq!(dockerfile.stages.len(), 2);
    let from = &dockerfile.stages[0].from.value;
    assert_eq!(
        (
            from.image.value.as_str(),
            from.name.as_ref().unwrap().value.as_str()
        ),
        ("$A", "base")
    );
    assert_eq!(dockerfile.stages[0].text, "FROM $A AS Base");
}

#[test]
fn every_flag_of_copy_and_add() {
    let Instruction::Copy(copy) = one(
        "COPY --from=x --chown=1:2 --chmod=755 --link --parents=false --exclude=a --exclude=b s1 s2 /d/",
    ) else {
        panic!()
    };
    assert_eq!(copy.from.unwrap().value, "x");
    assert_eq!(copy.chown.unwrap().value, "1:2");
    assert_eq!(copy.chmod.unwrap().value, "755");
    assert_eq!((copy.link, copy.parents), (true, false));
    assert_eq!(values(&copy.exclude), ["a", "b"]);
    assert_eq!(copy.sources.len(), 2);
    assert_eq!(copy.destination.value, "/d/");
    let Instruction::Add(add) =
        one("ADD --keep-git-dir=true --checksum=sha256:0 --unpack=false u /d")
    else {
        panic!()
    };
    assert_eq!(
        (add.keep_git_dir, add.unpack, add.link),
        (Some(true), Some(false), false)
    );
    assert_eq!(add.checksum.unwrap().value, "sha256:0");
}

#[test]
fn heredocs_as_sources() {
    let Instruction::Copy(copy) = one("COPY <<A x <<-\"B\" /d/\n$a\nA\n\t$b\nB") else {
        panic!()
    };
    let heredoc = |name: &str, content: &str, expand| {
        Source::Heredoc(Heredoc {
            name: name.to_owned(),
            content: content.to_owned(),
            expand,
        })
    };
    assert_eq!(copy.sources[0], heredoc("A", "$a\n", true));
    assert!(matches!(&copy.sources[1], Source::Path(word) if word.value == "x"));
    assert_eq!(copy.sources[2], heredoc("B", "$b\n", false));
}

#[test]
fn what_run_starts() {
    let script = |text: &str| match one(text) {
        Instruction::Run(run) => match run.script() {
            Script::Exec(arguments) => format!("exec {arguments:?}"),
            Script::Shell(text) => format!("shell {text}"),
            Script::File(heredoc) => format!("file {}", heredoc.content),
        },
        other => panic!("{other:?}"),
    };
    for (text, expected) in [
        ("RUN echo \\\n  a", "shell echo   a"),
        ("RUN [\"a\", \"b c\"]", "exec [\"a\", \"b c\"]"),
        ("RUN", "shell "),
        ("RUN <<EOF\na\nb\nEOF", "shell a\nb\n"),
        ("RUN <<-EOF\n\ta\n\tEOF", "shell a\n"),
        ("RUN <<EOF\n#!/bin/x\nEOF", "file #!/bin/x\n"),
        ("RUN <<EOF python3\na\nEOF", "shell <<EOF python3\na\nEOF"),
        (
            "RUN cat <<A <<B\na\nA\nb\nB",
            "shell cat <<A <<B\na\nA\nb\nB",
        ),
        ("RUN --network=none <<EOF\na\nEOF", "shell a\n"),
    ] {
        assert_eq!(script(text), expected, "{text}");
    }
}

#[test]
fn every_flag_of_run() {
    let Instruction::Run(run) = one(
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=s,required --network=host --security=insecure --device=v.com/d=x make",
    ) else {
        panic!()
    };
    assert_eq!(run.mounts.len(), 2);
    assert_eq!(run.mounts[0].value.target.as_deref(), Some("/c"));
    assert!(
        matches!(&run.mounts[1].value.kind, MountKind::Secret { id: Some(id), required: true, .. } if id == "s")
    );
    assert_eq!(
        (run.network, run.security),
        (Some(RunNetwork::Host), Some(RunSecurity::Insecure))
    );
    assert_eq!(run.devices[0].value.name, "v.com/d=x");
    assert_eq!(run.command, CommandLine::Shell("make".to_owned()));
}

#[test]
fn the_other_instructions() {
    let shell = |text: &str| CommandLine::Shell(text.to_owned());
    let exec =
        |words: &[&str]| CommandLine::Exec(words.iter().map(|word| (*word).to_owned()).collect());
    assert_eq!(one("CMD a b"), Instruction::Cmd(shell("a b")));
    assert_eq!(one("cmd [\"a\"]"), Instruction::Cmd(exec(&["a"])));
    assert_eq!(one("CMD []"), Instruction::Cmd(exec(&[])));
    assert_eq!(one("ENTRYPOINT"), Instruction::Entrypoint(shell("")));
    assert_eq!(
        one("MAINTAINER A <a@b>"),
        Instruction::Maintainer("A <a@b>".to_owned())
    );
    assert_eq!(
        one("SHELL [\"a\", \"-c\"]"),
        Instruction::Shell(vec!["a".to_owned(), "-c".to_owned()])
    );
    assert_eq!(
        one("HEALTHCHECK none"),
        Instruction::Healthcheck(Healthcheck::None)
    );
    assert_eq!(
        one(
            "HEALTHCHECK --interval=1m --timeout=0s --start-period=2s --start-interval=5ms --retries=3 CMD [\"a\"]"
        ),
        Instruction::Healthcheck(Healthcheck::Command {
            command: exec(&["a"]),
            interval: 60_000_000_000,
            timeout: 0,
            start_period: 2_000_000_000,
            start_interval: 5_000_000,
            retries: 3,
        })
    );
    for (text, expected) in [
        ("EXPOSE 80 $P/udp", vec!["80", "$P/udp"]),
        ("VOLUME [\"/a b\"]", vec!["/a b"]),
        ("VOLUME /a /b", vec!["/a", "/b"]),
    ] {
        let (Instruction::Expose(words) | Instruction::Volume(words)) = one(text) else {
            panic!()
        };
        assert_eq!(values(&words), expected);
    }
    for text in ["USER a:b", "WORKDIR /a b", "STOPSIGNAL 9"] {
        let (Instruction::User(word) | Instruction::Workdir(word) | Instruction::Stopsignal(word)) =
            one(text)
        else {
            panic!()
        };
        assert!(text.ends_with(&word.value));
    }
    let Instruction::Env(pairs) = one("ENV a=b c=\"d $e\"") else {
        panic!()
    };
    let pairs: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.key.value.as_str(), pair.value.value.as_str()))
        .collect();
    assert_eq!(pairs, [("a", "b"), ("c", "\"d $e\"")]);
    let Instruction::Label(pairs) = one("LABEL a b c") else {
        panic!()
    };
    assert_eq!(
        (pairs[0].key.value.as_str(), pairs[0].value.value.as_str()),
        ("a", "b c")
    );
}

#[test]
fn triggers_keep_their_text() {
    let Instruction::Onbuild { text, trigger } = one("ONBUILD  COPY --chown=1 <<A \\\n /x\nb\nA")
    else {
        panic!()
    };
    assert_eq!(text, "COPY --chown=1 <<A  /x\nb\nA");
    let again = parse_trigger(&text).unwrap();
    let Instruction::Copy(copy) = &trigger.value else {
        panic!()
    };
    let Instruction::Copy(parsed) = &again.instruction else {
        panic!()
    };
    assert_eq!(copy.sources, parsed.sources);
    assert_eq!(copy.destination.value, parsed.destination.value);
}

#[test]
fn a_trigger_is_one_instruction() {
    for text in [
        "FROM a",
        "ONBUILD RUN a",
        "MAINTAINER a",
        "RUN a\nRUN b",
        "",
        "FOO",
    ] {
        assert!(parse_trigger(text).is_err(), "{text}");
    }
}

#[test]
fn errors_in_buildkits_words() {
    for (instruction, message) in [
        ("FORM b", "unknown instruction: FORM"),
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "ADD",
            "ADD requires at least two arguments, but none was provided. Destination could not be determined",
        ),
        (
            "COPY a <<EOF\nEOF",
            "COPY cannot accept a heredoc as a destination",
        ),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1b",
            "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        ),
        ("ENV a", "ENV must have two arguments"),
        ("ENV", "ENV requires at least one argument"),
        (
            "ENV a=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("LABEL =b", "LABEL names can not be blank"),
        ("ARG =b", "ARG names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        (
            "VOLUME [\"\"]",
            "VOLUME specified can not be an empty string",
        ),
        (
            "SHELL /bin/sh -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("SHELL []", "SHELL requires at least one argument"),
        (
            "CMD [\"a\", 1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments"),
        (
            "HEALTHCHECK TCP 80",
            "Unknown type \"TCP\" in HEALTHCHECK (try CMD)",
        ),
        (
            "HEALTHCHECK --interval=1us CMD a",
            "Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD a",
            "--retries cannot be negative (-1)",
        ),
        (
            "ONBUILD ONBUILD RUN a",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("RUN --network=some a", "invalid network mode \"some\""),
        ("RUN --security=none a", "security \"none\" is not valid"),
        ("RUN --mount=type=x a", "unsupported mount type \"x\""),
        ("COPY --chwon=1 a b", "unknown flag: --chwon"),
        ("COPY ----chown=1 a b", "unknown flag: ----chown"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        (
            "COPY --link=yes a b",
            "expecting boolean value for flag --link, not: yes",
        ),
        (
            "COPY --from=a --from=b a b",
            "duplicate flag specified: --from",
        ),
        ("WORKDIR --x a", "unknown flag: --x"),
    ] {
        assert_eq!(error(instruction).message, message, "{instruction}");
    }
    for (text, message) in [
        ("", "the Dockerfile cannot be empty"),
        ("# x\n\n", "file with no instructions"),
        ("ARG a\n", "dockerfile contains no stages to build"),
        ("RUN a\nRUN b\nFROM c", "no build stage in current context"),
        (
            "# escape=x\nFROM a",
            "invalid escape token 'x' does not match ` or \\",
        ),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text}");
        assert_eq!(errors[0].message, message);
    }
}

#[test]
fn advice() {
    for (instruction, advice) in [
        ("FORM b", "did you mean `FROM`?"),
        ("form b", "did you mean `from`?"),
        ("RUNS b", "did you mean `RUN`?"),
        ("COPY..", "write `COPY . .`"),
        ("COPY. /x", "write `COPY . /x`"),
        ("ADD. $GOPATH/src/myapp", "write `ADD . $GOPATH/src/myapp`"),
        ("RUNapt-get update", "write `RUN apt-get update`"),
        ("RUNls", "write `RUN ls`"),
        ("CMD[\"a\"]", "write `CMD [\"a\"]`"),
        ("COPY../x /y", "write `COPY ../x /y`"),
        ("COPY --chwon=1 a b", "did you mean `--chown`?"),
        ("ADD --from=x a b", "`--from` is a flag of COPY, not of ADD"),
        ("ENV a", "write `ENV a=value`"),
        ("RUN --mount=typ=x a", "did you mean `type`?"),
    ] {
        let error = error(instruction);
        let found = [
            error.label.as_str(),
            error.help.as_deref().unwrap_or_default(),
        ];
        assert!(found.contains(&advice), "{instruction}: {found:?}");
    }
    let lost = errors("FROM a\nRUN apt-get update\n  apt-get install x\n");
    assert_eq!(
        lost[0].help.as_deref(),
        Some("if this belongs to the RUN above, end line 2 with the escape character (`\\`)")
    );
}

#[test]
fn several_errors_are_told_at_once_in_order() {
    let text = "FROM a\nFORM b\nENV x\nCOPY y\nRUN [1]\nRUN ok\nUSER\n";
    let lines: Vec<usize> = errors(text)
        .iter()
        .map(|error| error.span.first_line)
        .collect();
    assert_eq!(lines, [2, 3, 4, 5, 7]);
}

#[test]
fn an_error_as_the_user_sees_it() {
    let text = "FROM alpine\nCOPY --chwon=1 \\\n  a b\n";
    assert_eq!(
        render_all(&errors(text), "Dockerfile", text, false),
        "error: dockerfile parse error on line 2: unknown flag: --chwon\n \
         --> Dockerfile:2:6\n  \
         |\n\
         2 | COPY --chwon=1 \\\n  \
         |      ^^^^^^^ did you mean `--chown`?\n"
    );
}

#[test]
fn steps_know_their_text_and_place() {
    let text = "FROM a\n  RUN x \\\n  # c\n  y\nCOPY <<A /\nb\nA\n";
    let dockerfile = parse(text).unwrap();
    let steps: Vec<_> = dockerfile.stages[0]
        .instructions
        .iter()
        .map(|step| {
            (
                step.text.as_str(),
                step.span.first_line,
                step.span.last_line,
            )
        })
        .collect();
    assert_eq!(steps, [("RUN x   y", 2, 4), ("COPY <<A /", 5, 7)]);
}

#[test]
fn deep_and_long_input_is_refused_not_followed() {
    let chained = format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(100_000));
    assert!(parse(&chained).is_err());
    let nested = format!("FROM a\nRUN {}\n", "[".repeat(100_000));
    assert!(parse(&nested).is_ok(), "no JSON, so the shell's affair");
    let marks = format!("FROM a\nRUN cat {}\n", "<<A ".repeat(20_000));
    assert!(parse(&marks).is_err());
}

/// Text that looks like a Dockerfile now and then.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\PC{0,20}",
        "(FROM|RUN|COPY|ADD|ENV|LABEL|ARG|CMD|ONBUILD|HEALTHCHECK|SHELL|VOLUME|EXPOSE|USER|from|run)( --?[a-z]{0,6}(=[a-z\"',=$]{0,8})?){0,2}([ \t]+[a-z$\"'\\[\\],{}<=.\\\\-]{0,8}){0,4}",
        "(RUN|COPY|ONBUILD RUN) (--mount=[a-z=,\"$]{0,20} )?<<-?['\"]?[AB]['\"]?( <<B)?",
        "# (syntax|escape|check) ?= ?[`\\\\a-z]{0,3}",
        "\t?[AB]",
        "#.{0,5}",
        "",
    ];
    let end = prop_oneof![
        Just("\n"),
        Just(" \\\n"),
        Just("\r\n"),
        Just("`\n"),
        Just("")
    ];
    prop::collection::vec((line, end), 0..12).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(line, end)| [line, end.to_owned()])
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parsing_never_panics(text in dockerfile_like()) {
        match parse(&text) {
            Ok(dockerfile) => {
                prop_assert!(!dockerfile.stages.is_empty());
                for stage in &dockerfile.stages {
                    for step in &stage.instructions {
                        prop_assert!(text.get(step.span.start..step.span.end).is_some());
                        if let Instruction::Run(run) = &step.instruction {
                            run.script();
                        }
                    }
                }
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in &errors {
                    prop_assert!(text.get(error.span.start..error.span.end).is_some(), "{:?}", error);
                }
                render_all(&errors, "Dockerfile", &text, false);
            }
        }
        let _ = parse_trigger(&text);
        for warning in lint::text(&text, &lint::Checks::default()) {
            lint::excerpt("Dockerfile", &lint::lines(&text), warning.first_line, warning.last_line);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>()) {
        let _ = parse(&text);
    }
}
