//! Syntax tree to instructions: what each instruction's words mean.

use super::device::Device;
use super::diagnostic::{Diagnostic, Kind};
use super::flags::Flags;
use super::instruction::{
    ArgDeclaration, CommandLine, From, Healthcheck, Heredoc, Instruction, KeyValue, Mount, Run,
    RunNetwork, RunSecurity, Source, Step, Transfer, Word,
};
use super::nearest;
use super::span::{Span, Spanned};
use super::syntax::{Node, heredoc_mark};
use super::{targets, unknown, values};

/// An instruction, FROM among them.
pub(super) enum Interpreted {
    From(From),
    Instruction(Instruction),
}

/// Reads a node. `before` is the one in front of it, for advice.
pub(super) fn interpret(node: &Node, before: Option<&Node>) -> Result<Interpreted, Diagnostic> {
    if node.command() == "FROM" {
        return from(node).map(Interpreted::From);
    }
    instruction(node, before).map(Interpreted::Instruction)
}

/// The step that a node is.
pub(super) fn step(node: &Node, instruction: Instruction) -> Step {
    Step {
        instruction,
        span: node.span,
        text: node.original.trim().to_owned(),
        comments: node.comments.clone(),
    }
}

/// Reads any instruction but FROM.
pub(super) fn instruction(node: &Node, before: Option<&Node>) -> Result<Instruction, Diagnostic> {
    let command = node.command();
    let reader: fn(&Node, &Flags) -> Result<Instruction, Diagnostic> = match command.as_str() {
        "ADD" => |node, flags| transfer(node, flags).map(Instruction::Add),
        "ARG" => |node, _| arg(node).map(Instruction::Arg),
        "CMD" => |node, _| Ok(Instruction::Cmd(command_line(node, &node.arguments))),
        "COPY" => |node, flags| transfer(node, flags).map(Instruction::Copy),
        "ENTRYPOINT" => |node, _| Ok(Instruction::Entrypoint(command_line(node, &node.arguments))),
        "ENV" => |node, _| pairs(node).map(Instruction::Env),
        "EXPOSE" => |node, _| at_least_one(node).map(Instruction::Expose),
        "HEALTHCHECK" => |node, flags| healthcheck(node, flags).map(Instruction::Healthcheck),
        "LABEL" => |node, _| pairs(node).map(Instruction::Label),
        "MAINTAINER" => |node, _| exactly_one(node).map(|word| Instruction::Maintainer(word.value)),
        "ONBUILD" => |node, _| onbuild(node),
        "RUN" => |node, flags| run(node, flags).map(Instruction::Run),
        "SHELL" => |node, _| shell(node),
        "STOPSIGNAL" => |node, _| exactly_one(node).map(Instruction::Stopsignal),
        "USER" => |node, _| exactly_one(node).map(Instruction::User),
        "VOLUME" => |node, _| volume(node),
        "WORKDIR" => |node, _| exactly_one(node).map(Instruction::Workdir),
        _ => return Err(unknown::instruction(node, before)),
    };
    reader(node, &Flags::read(node)?)
}

fn from(node: &Node) -> Result<From, Diagnostic> {
    let flags = Flags::read(node)?;
    let (image, name) = match node.arguments.as_slice() {
        [image] => (image, None),
        [image, word, name] if word.value.eq_ignore_ascii_case("as") => {
            (image, Some(stage_name(name)?))
        }
        _ => {
            let message = "FROM requires either one or three arguments";
            return Err(Diagnostic::syntax(arguments_span(node), message)
                .with_help("write `FROM <image>` or `FROM <image> AS <name>`"));
        }
    };
    Ok(From {
        platform: flags.value("platform"),
        image: image.clone(),
        name,
    })
}

fn stage_name(written: &Word) -> Result<Word, Diagnostic> {
    let name = written.value.to_lowercase();
    let mut letters = name.chars();
    let is_valid = letters.next().is_some_and(|c| c.is_ascii_lowercase())
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
    if is_valid {
        return Ok(Spanned::new(name, written.span));
    }
    let message = format!(
        "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
        written.value
    );
    Err(Diagnostic::syntax(written.span, message)
        .with_help("begin it with a letter; letters, digits, `-`, `_` and `.` may follow"))
}

fn transfer(node: &Node, flags: &Flags) -> Result<Transfer, Diagnostic> {
    let command = node.command();
    let Some((destination, sources)) = node
        .arguments
        .split_last()
        .filter(|(_, rest)| !rest.is_empty())
    else {
        let given = if node.arguments.is_empty() {
            "none was"
        } else {
            "only one was"
        };
        let message = format!(
            "{command} requires at least two arguments, but {given} provided. Destination could not be determined"
        );
        return Err(Diagnostic::syntax(node.span, message)
            .with_help(format!("write `{command} <source>… <destination>`")));
    };
    if matches!(heredoc_mark(&destination.value), Ok(Some(_))) {
        let message = format!("{command} cannot accept a heredoc as a destination");
        return Err(Diagnostic::syntax(destination.span, message)
            .with_help("write the destination behind the heredoc"));
    }
    Ok(Transfer {
        sources: sources.iter().map(|word| source(node, word)).collect(),
        destination: destination.clone(),
        from: flags.value("from"),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        parents: flags.boolean("parents").unwrap_or(false),
        exclude: flags.values("exclude"),
        checksum: flags.value("checksum"),
        keep_git_dir: flags.boolean("keep-git-dir"),
        unpack: flags.boolean("unpack"),
    })
}

fn source(node: &Node, word: &Word) -> Source {
    let Ok(Some(mark)) = heredoc_mark(&word.value) else {
        return Source::Path(word.clone());
    };
    let read = node
        .heredocs
        .iter()
        .rev()
        .find(|heredoc| heredoc.name == mark.name);
    Source::Heredoc(Heredoc {
        content: read.map(|heredoc| heredoc.body()).unwrap_or_default(),
        name: mark.name,
        expand: mark.expand,
    })
}

fn arg(node: &Node) -> Result<Vec<ArgDeclaration>, Diagnostic> {
    let words = at_least_one(node)?;
    let declarations = words.into_iter().map(|word| {
        let (name, default) = match word.value.split_once('=') {
            Some(("", _)) => return Err(blank_name(node, word.span)),
            Some((name, default)) => {
                let span = word.part(name.len() + 1..word.value.len());
                (name, Some(Spanned::new(default.to_owned(), span)))
            }
            None => (word.value.as_str(), None),
        };
        Ok(ArgDeclaration {
            name: Spanned::new(name.to_owned(), word.span),
            default,
            description: targets::description(&node.comments, name).map(str::to_owned),
        })
    });
    declarations.collect()
}

fn pairs(node: &Node) -> Result<Vec<KeyValue>, Diagnostic> {
    at_least_one(node)?;
    let pairs = node.arguments.chunks_exact(3).map(|triple| match triple {
        [key, ..] if key.value.is_empty() => Err(blank_name(node, key.span)),
        [key, value, delimiter] => Ok(KeyValue {
            key: key.clone(),
            value: value.clone(),
            is_legacy: delimiter.value.is_empty(),
        }),
        _ => Err(Diagnostic::syntax(node.span, "bad pair of name and value")),
    });
    pairs.collect()
}

fn blank_name(node: &Node, span: Span) -> Diagnostic {
    let command = node.command();
    Diagnostic::syntax(span, format!("{command} names can not be blank"))
        .with_help(format!("write `{command} name=value`"))
}

fn command_line(node: &Node, arguments: &[Word]) -> CommandLine {
    let mut texts = arguments.iter().map(|word| word.value.clone());
    if node.is_json {
        CommandLine::Exec(texts.collect())
    } else {
        CommandLine::Shell(texts.next().unwrap_or_default())
    }
}

fn run(node: &Node, flags: &Flags) -> Result<Run, Diagnostic> {
    let mounts = flags.values("mount").into_iter().map(|word| {
        let mount = Mount::read(&word.value)
            .map_err(|error| error.diagnostic(Kind::Syntax, &word.value, word.span))?;
        Ok(Spanned::new(mount, word.span))
    });
    let network = flags
        .value("network")
        .map(|word| match word.value.as_str() {
            "default" => Ok(RunNetwork::Default),
            "none" => Ok(RunNetwork::None),
            "host" => Ok(RunNetwork::Host),
            other => {
                let message = format!("invalid network mode {other:?}");
                let error = Diagnostic::syntax(word.span, message);
                Err(choices(error, other, &["default", "none", "host"]))
            }
        });
    let security = flags
        .value("security")
        .map(|word| match word.value.as_str() {
            "sandbox" => Ok(RunSecurity::Sandbox),
            "insecure" => Ok(RunSecurity::Insecure),
            other => {
                let message = format!("security {other:?} is not valid");
                let error = Diagnostic::syntax(word.span, message);
                Err(choices(error, other, &["sandbox", "insecure"]))
            }
        });
    let devices = flags.values("device").into_iter();
    let devices = devices.map(|word| Device::read(&word.value, word.span));
    let heredocs = node.heredocs.iter().map(|heredoc| Heredoc {
        name: heredoc.name.clone(),
        content: heredoc.body(),
        expand: heredoc.expand,
    });
    Ok(Run {
        command: command_line(node, &node.arguments),
        heredocs: heredocs.collect(),
        mounts: mounts.collect::<Result<_, Diagnostic>>()?,
        network: network.transpose()?,
        security: security.transpose()?,
        devices: devices.collect::<Result<_, Diagnostic>>()?,
    })
}

/// Says which of `known` was meant, or what they are.
fn choices(error: Diagnostic, written: &str, known: &[&str]) -> Diagnostic {
    match nearest::nearest(written, known.iter().copied()) {
        Some(near) => error.with_label(format!("did you mean `{near}`?")),
        None => error.with_help(format!("there are: {}", known.join(", "))),
    }
}

fn healthcheck(node: &Node, flags: &Flags) -> Result<Healthcheck, Diagnostic> {
    at_least_one(node)?;
    let (kind, command) = node.arguments.split_at(1);
    let kind_span = kind.first().map_or(node.span, |word| word.span);
    let kind = kind
        .first()
        .map(|word| word.value.to_uppercase())
        .unwrap_or_default();
    match kind.as_str() {
        "NONE" if !command.is_empty() => Err(Diagnostic::syntax(
            kind_span,
            "HEALTHCHECK NONE takes no arguments",
        )),
        "NONE" => Ok(Healthcheck::None),
        "CMD" if command.is_empty() => Err(Diagnostic::syntax(
            node.span,
            "Missing command after HEALTHCHECK CMD",
        )
        .with_help("write `HEALTHCHECK CMD <command>`")),
        "CMD" => Ok(Healthcheck::Command {
            command: command_line(node, command),
            interval: interval(flags, "interval")?,
            timeout: interval(flags, "timeout")?,
            start_period: interval(flags, "start-period")?,
            start_interval: interval(flags, "start-interval")?,
            retries: retries(flags)?,
        }),
        _ => Err(Diagnostic::syntax(
            kind_span,
            format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"),
        )
        .with_help("write `HEALTHCHECK CMD <command>` or `HEALTHCHECK NONE`")),
    }
}

fn interval(flags: &Flags, name: &str) -> Result<i64, Diagnostic> {
    const LEAST: i64 = 1_000_000;
    let Some(word) = flags.value(name) else {
        return Ok(0);
    };
    match values::duration(&word.value) {
        Some(0) => Ok(0),
        Some(nanoseconds) if nanoseconds < LEAST => {
            let message = format!("Interval {name:?} cannot be less than 1ms");
            Err(Diagnostic::syntax(word.span, message)
                .with_help("write a longer time, such as 30s"))
        }
        Some(nanoseconds) => Ok(nanoseconds),
        None => {
            let message = format!("invalid duration {:?} for --{name}", word.value);
            Err(Diagnostic::syntax(word.span, message)
                .with_help("write a number with its unit, such as 30s or 1m30s"))
        }
    }
}

fn retries(flags: &Flags) -> Result<i64, Diagnostic> {
    let Some(word) = flags.value("retries") else {
        return Ok(0);
    };
    match word.value.parse::<i32>() {
        Ok(number) if number < 0 => {
            let message = format!("--retries cannot be negative ({number})");
            Err(Diagnostic::syntax(word.span, message).with_help("write 0 or more"))
        }
        Ok(number) => Ok(i64::from(number)),
        Err(_) => {
            let message = format!("invalid number {:?} for --retries", word.value);
            Err(Diagnostic::syntax(word.span, message).with_help("write a whole number"))
        }
    }
}

fn onbuild(node: &Node) -> Result<Instruction, Diagnostic> {
    let Some(trigger) = node.trigger.as_deref() else {
        at_least_one(node)?;
        return Err(Diagnostic::syntax(
            node.span,
            "ONBUILD requires at least one argument",
        ));
    };
    let command = trigger.command();
    if matches!(command.as_str(), "MAINTAINER" | "FROM") {
        let message = format!("{command} isn't allowed as an ONBUILD trigger");
        return Err(Diagnostic::syntax(trigger.name.span, message).with_help("remove this line"));
    }
    let mut text = trigger.original.clone();
    for heredoc in &node.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    let whole = Node {
        heredocs: node.heredocs.clone(),
        ..trigger.clone()
    };
    let instruction = instruction(&whole, None)?;
    Ok(Instruction::Onbuild {
        text,
        trigger: Box::new(Spanned::new(instruction, trigger.span)),
    })
}

fn shell(node: &Node) -> Result<Instruction, Diagnostic> {
    if !node.is_json && !node.arguments.is_empty() {
        let message = "SHELL requires the arguments to be in JSON form";
        return Err(Diagnostic::syntax(arguments_span(node), message).with_help(
            "write `SHELL [\"/bin/sh\", \"-c\"]`, with double quotes and every backslash doubled",
        ));
    }
    let words = at_least_one(node)?;
    Ok(Instruction::Shell(
        words.into_iter().map(|word| word.value).collect(),
    ))
}

fn volume(node: &Node) -> Result<Instruction, Diagnostic> {
    let words = at_least_one(node)?.into_iter().map(|word| {
        let path = word.value.trim().to_owned();
        if path.is_empty() {
            return Err(Diagnostic::syntax(
                word.span,
                "VOLUME specified can not be an empty string",
            )
            .with_help("write a path, or leave it out"));
        }
        Ok(Spanned::new(path, word.span))
    });
    words.collect::<Result<_, _>>().map(Instruction::Volume)
}

fn at_least_one(node: &Node) -> Result<Vec<Word>, Diagnostic> {
    if node.arguments.is_empty() {
        let message = format!("{} requires at least one argument", node.command());
        return Err(Diagnostic::syntax(node.span, message).with_label("nothing follows"));
    }
    Ok(node.arguments.clone())
}

fn exactly_one(node: &Node) -> Result<Word, Diagnostic> {
    match node.arguments.as_slice() {
        [word] => Ok(word.clone()),
        words => {
            let message = format!("{} requires exactly one argument", node.command());
            let error = Diagnostic::syntax(node.span, message);
            Err(match words {
                [] => error.with_label("nothing follows"),
                _ => error,
            })
        }
    }
}

/// From the first argument to the last, or the whole instruction where there are none.
fn arguments_span(node: &Node) -> Span {
    let spans = node.arguments.iter().map(|word| word.span);
    spans.reduce(Span::to).unwrap_or(node.span)
}
