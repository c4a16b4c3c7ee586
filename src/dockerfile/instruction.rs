//! The eighteen instructions of a Dockerfile as typed values.
//!
//! Words are kept as written: variables are expanded later, when the stage's environment is
//! known (see [`super::expansion`]). BuildKit's Dockerfile reference is the norm for every field.

use std::borrow::Cow;

use super::device::Device;
use super::span::{Span, Spanned};
use super::syntax::heredoc_mark;

/// One word or value as written, not yet expanded, with its place.
pub type Word = Spanned<String>;

/// A heredoc: `<<EOF … EOF`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heredoc {
    /// The delimiter, without quotes: `EOF`.
    pub name: String,
    /// The body, tabs already chomped for `<<-`.
    pub content: String,
    /// Whether variables in the body are expanded: false where the delimiter is quoted.
    pub expand: bool,
}

/// A command line: shell form or exec form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandLine {
    /// `RUN make install`: to be given to the stage's SHELL. `text` is one string with
    /// continuations joined and comments removed, as BuildKit hands it to the shell.
    Shell(String),
    /// `RUN ["make", "install"]`: executed as it is.
    Exec(Vec<String>),
}

/// What COPY and ADD take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A path or pattern (for ADD also a URL).
    Path(Word),
    /// A heredoc, written to the destination under the delimiter's name.
    Heredoc(Heredoc),
}

/// `COPY` and `ADD`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transfer {
    /// What to copy, at least one.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Word,
    /// `--from` (COPY only): a stage's name or number, an image, a named context.
    pub from: Option<Word>,
    /// `--chown=user[:group]`.
    pub chown: Option<Word>,
    /// `--chmod=mode`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (COPY only).
    pub parents: bool,
    /// `--exclude=pattern`, in order.
    pub exclude: Vec<Word>,
    /// `--checksum=algorithm:hex` (ADD only).
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD only).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD only): `None` where not written.
    pub unpack: Option<bool>,
}

/// The kind of a `RUN --mount`, with the options of that kind. Words are not yet expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountKind {
    /// `type=bind` (the default).
    Bind {
        /// `from`: a stage, image or named context; the build context where `None`.
        from: Option<String>,
        /// `source`, default `/`.
        source: Option<String>,
        /// `rw`: writes are allowed and thrown away.
        read_write: bool,
    },
    /// `type=cache`.
    Cache {
        /// `id`, default the target.
        id: Option<String>,
        /// `from`: where its first content comes from.
        from: Option<String>,
        /// `source` below `from`.
        source: Option<String>,
        /// `sharing`.
        sharing: CacheSharing,
        /// `ro`.
        read_only: bool,
        /// `mode` of a new cache directory, default 0755.
        mode: Option<u32>,
        /// `uid` of a new cache directory.
        uid: Option<u32>,
        /// `gid` of a new cache directory.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// `size` in bytes.
        size: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// `id`, default the base name of the target.
        id: Option<String>,
        /// `required`.
        required: bool,
        /// `mode` of the file, default 0400.
        mode: Option<u32>,
        /// `uid` of the file.
        uid: Option<u32>,
        /// `gid` of the file.
        gid: Option<u32>,
        /// `env`: the environment variable to set instead of, or (with a target) beside, the file.
        env: Option<String>,
    },
    /// `type=ssh`.
    Ssh {
        /// `id`, default `default`.
        id: Option<String>,
        /// `required`.
        required: bool,
        /// `mode` of the socket, default 0600.
        mode: Option<u32>,
        /// `uid` of the socket.
        uid: Option<u32>,
        /// `gid` of the socket.
        gid: Option<u32>,
    },
}

/// How steps that run at once share a cache mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheSharing {
    /// Several at once.
    #[default]
    Shared,
    /// Each its own copy when another has it.
    Private,
    /// One waits for the other.
    Locked,
}

/// One `RUN --mount=…`.
///
/// As parsed, its strings are as written, and a number or keyword that a variable stands for is
/// left out; [`Mount::expand`] gives the mount with the stage's variables in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Kind and options.
    pub kind: MountKind,
    /// `target` (`dst`, `destination`); only secret and ssh mounts may leave it out.
    pub target: Option<String>,
    /// The flag's value as written, quotes removed.
    pub text: String,
}

/// `RUN --network=…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunNetwork {
    /// `default`: what `--network` of the build says.
    Default,
    /// `none`.
    None,
    /// `host`.
    Host,
}

/// `RUN --security=…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunSecurity {
    /// `sandbox`, the default.
    Sandbox,
    /// `insecure`.
    Insecure,
}

/// `RUN`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The command line. With heredocs it is [`CommandLine::Shell`] and holds just the first line.
    pub command: CommandLine,
    /// Heredocs of the line, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Spanned<Mount>>,
    /// `--network`.
    pub network: Option<RunNetwork>,
    /// `--security`.
    pub security: Option<RunSecurity>,
    /// `--device`.
    pub devices: Vec<Spanned<Device>>,
}

/// What a `RUN` starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Script<'a> {
    /// A program with its arguments, as it is.
    Exec(&'a [String]),
    /// A text for the stage's SHELL, heredocs included.
    Shell(Cow<'a, str>),
    /// A heredoc that begins with `#!`: to be put into an executable file and started.
    File(&'a Heredoc),
}

impl Run {
    /// What to start: `RUN <<EOF` alone makes the heredoc itself the script; any other line with
    /// heredocs goes to the shell together with them.
    pub fn script(&self) -> Script<'_> {
        let line = match &self.command {
            CommandLine::Exec(arguments) => return Script::Exec(arguments),
            CommandLine::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return Script::Shell(Cow::Borrowed(line));
        };
        if matches!(heredoc_mark(line), Ok(Some(_))) {
            return if first.content.starts_with("#!") {
                Script::File(first)
            } else {
                Script::Shell(Cow::Borrowed(&first.content))
            };
        }
        let mut text = line.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        Script::Shell(Cow::Owned(text))
    }
}

/// `HEALTHCHECK`. Durations in nanoseconds, zero where not given, as in the image config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [options] CMD …`.
    Command {
        /// What to run.
        command: CommandLine,
        /// `--interval`.
        interval: i64,
        /// `--timeout`.
        timeout: i64,
        /// `--start-period`.
        start_period: i64,
        /// `--start-interval`.
        start_interval: i64,
        /// `--retries`.
        retries: i64,
    },
}

/// `NAME=value` or `NAME value`, of ENV and LABEL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The name as written.
    pub key: Word,
    /// The value as written, quotes included.
    pub value: Word,
    /// Whether it was written in the old form, without the `=`.
    pub is_legacy: bool,
}

/// One argument of `ARG`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgDeclaration {
    /// Its name.
    pub name: Word,
    /// Its default as written, if any.
    pub default: Option<Word>,
    /// What the comment above says of it.
    pub description: Option<String>,
}

/// `FROM`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct From {
    /// `--platform=…` as written.
    pub platform: Option<Word>,
    /// Image, stage name or `scratch`, as written.
    pub image: Word,
    /// `AS name`, lower case.
    pub name: Option<Word>,
}

/// One instruction of a stage; FROM starts a stage and is not among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// `ADD`.
    Add(Transfer),
    /// `ARG`: one or more declarations.
    Arg(Vec<ArgDeclaration>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(Transfer),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`: one or more pairs.
    Env(Vec<KeyValue>),
    /// `EXPOSE`: ports as written.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`: one or more pairs.
    Label(Vec<KeyValue>),
    /// `MAINTAINER` (deprecated).
    Maintainer(String),
    /// `ONBUILD`: the trigger's text, and the trigger itself parsed.
    Onbuild {
        /// The instruction's text as it goes into the image config.
        text: String,
        /// The same, parsed.
        trigger: Box<Spanned<Instruction>>,
    },
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`: paths as written.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// A stage: FROM and the instructions behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Its FROM.
    pub from: Spanned<From>,
    /// The text of its FROM on one line.
    pub text: String,
    /// The comments right above its FROM, without their `#`.
    pub comments: Vec<String>,
    /// Its instructions, in order, each with its place and its text as written (continuations
    /// joined), which history entries and step names show.
    pub instructions: Vec<Step>,
}

/// An instruction with its place and its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The instruction.
    pub instruction: Instruction,
    /// The whole instruction, heredocs included.
    pub span: Span,
    /// The instruction's text on one line (what BuildKit calls `Original`/`String()`).
    pub text: String,
    /// The comments right above it, without their `#`.
    pub comments: Vec<String>,
}
