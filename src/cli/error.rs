//! What the user sees when something fails, and the exit code that scripts see.
//!
//! Every failure of every room ends as one [`Failure`]: a one-line message, what caused it, the
//! place in the Dockerfile where there is one, what to do about it, and a kind that decides the
//! exit code:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success |
//! | 1 | a step of the build failed |
//! | 2 | the user's input can't be used: flags, Dockerfile, context |
//! | 3 | a registry or the network failed |
//! | 4 | the store, the disk, the kernel or rbuild itself failed |
//! | 129, 130, 141, 143 | ended by SIGHUP, SIGINT, SIGPIPE, SIGTERM |
//!
//! `rbuild run`, `debug` and `unshare` end with the code of the program that they run, the first two
//! with Docker's 125 where that never came to run.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use super::ui::style::Style;
use super::ui::terminal::{neutralise_text, write_all};
use crate::build::{BuildError, LeftStep, Located, ResolveError};
use crate::export::ExportError;
use crate::export::engine::EngineError;
use crate::registry::{self, RegistryError};
use crate::remote::{GitError, HttpError, RemoteError};
use crate::sandbox::EnterError;
use crate::snapshot::SnapshotError;
use crate::step::StepError;
use crate::store::StoreError;

/// SIGPIPE's number on every architecture of Linux: nobody reads our output any more.
pub const SIGPIPE: u8 = 13;

/// Which side a failure is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// A step of the build failed.
    Step,
    /// The user's input can't be used.
    User,
    /// A registry or the network failed.
    Registry,
    /// The store, the disk, the kernel or rbuild itself failed.
    Internal,
    /// A signal of this number ended the command.
    Signal(u8),
}

impl ErrorKind {
    /// The exit code of the process.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Step => 1,
            Self::User => 2,
            Self::Registry => 3,
            Self::Internal => 4,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }
}

/// A failure as the user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
    is_drawn: bool,
    exit_code: Option<u8>,
    causes: Vec<String>,
    excerpts: Vec<String>,
    hints: Vec<String>,
}

impl Failure {
    /// A failure with its one-line message: lower-case, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            is_drawn: false,
            exit_code: None,
            causes: Vec::new(),
            excerpts: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// A failure whose text is complete: what [`crate::dockerfile`] draws of its diagnostics, with
    /// message, place, caret and advice. Its control characters were dealt with when it was drawn.
    pub fn drawn(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            is_drawn: true,
            ..Self::new(kind, text)
        }
    }

    /// A failure of the user's input.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, message)
    }

    /// A failure of the store, the disk, the kernel or rbuild itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Whether the user's input was at fault.
    pub fn is_user_error(&self) -> bool {
        self.kind == ErrorKind::User
    }

    /// The command was ended by a signal.
    pub fn signal(number: u8) -> Self {
        let message = match number {
            1 => "the terminal went away",
            2 => "interrupted",
            15 => "terminated",
            _ => "ended by a signal",
        };
        Self::new(ErrorKind::Signal(number), message)
    }

    /// A program that rbuild ran in the foreground ended with this code and has said itself why:
    /// rbuild adds nothing.
    pub fn program(code: u8) -> Self {
        Self::new(ErrorKind::Step, String::new()).exit_with(code)
    }

    /// Makes `code` the exit code, where a command has codes of its own.
    #[must_use]
    pub fn exit_with(mut self, code: u8) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.exit_code.unwrap_or_else(|| self.kind.exit_code())
    }

    /// A failure from an error of a room below: its message, and its sources as causes.
    pub fn from_error(kind: ErrorKind, error: &(dyn Error + 'static)) -> Self {
        Self::new(kind, error.to_string()).caused_by_chain(error.source())
    }

    /// Adds one thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a piece of source text with its caret, or other preformatted lines, shown as they are.
    #[must_use]
    pub fn excerpt(mut self, excerpt: impl Into<String>) -> Self {
        self.excerpts.push(excerpt.into());
        self
    }

    /// Adds an error and its sources as causes. A cause that the text before it ends with
    /// already is left out: many errors print their source themselves.
    #[must_use]
    pub fn caused_by(self, error: &(dyn Error + 'static)) -> Self {
        self.caused_by_chain(Some(error))
    }

    fn caused_by_chain(mut self, mut next: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = next {
            let text = error.to_string();
            let before = self.causes.last().unwrap_or(&self.message);
            if !before.ends_with(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Which side it is on.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The one-line message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The whole text for standard error, each line ended. Messages may quote a Dockerfile, a
    /// registry or a path: control characters in them never reach the terminal.
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        for excerpt in &self.excerpts {
            for line in excerpt.lines() {
                let _ = writeln!(text, "{}", neutralise_text(line));
            }
        }
        let _ = if self.is_drawn {
            writeln!(text, "{}", self.message.trim_end_matches('\n'))
        } else {
            writeln!(
                text,
                "{} {}",
                style.error("error:"),
                one_line(&self.message)
            )
        };
        for cause in &self.causes {
            let _ = writeln!(text, "  caused by: {}", one_line(cause));
        }
        for hint in &self.hints {
            let _ = writeln!(text, "{} {}", style.hint("hint:"), one_line(hint));
        }
        text
    }

    /// Writes the failure to standard error and gives the exit code. A closed standard error is
    /// no further failure. A reader of our output that has gone is told nothing.
    pub fn report(&self, style: Style) -> ExitCode {
        if self.kind != ErrorKind::Signal(SIGPIPE) && !self.message.is_empty() {
            let _ = write_all(io::stderr(), self.render(style).as_bytes());
        }
        ExitCode::from(self.exit_code())
    }
}

impl Failure {
    /// What a build failed with: its place in the Dockerfile drawn, its side decided.
    pub fn of_build(error: BuildError, style: Style) -> Self {
        match error {
            BuildError::Remote(ref source) => Self::from_error(of_remote(source), &error),
            BuildError::Store(error) => error.into(),
            BuildError::Dockerfile(located) => Self::drawn(ErrorKind::User, draw(&located, style)),
            BuildError::Resolve { located, source } => {
                let kind = match source.as_ref() {
                    ResolveError::Registry(_) | ResolveError::Image { .. } => ErrorKind::Registry,
                    ResolveError::Store(_) | ResolveError::Canceled => ErrorKind::Internal,
                    ResolveError::Name { .. }
                    | ResolveError::OtherPlatform { .. }
                    | ResolveError::LayerCount { .. }
                    | ResolveError::Import(_) => ErrorKind::User,
                };
                Self::drawn(kind, draw(&located, style))
            }
            BuildError::Step {
                located,
                source,
                left,
            } => {
                let kind = match &source.error {
                    StepError::Store(_) => ErrorKind::Internal,
                    StepError::Snapshot(SnapshotError::Registry(_)) => ErrorKind::Registry,
                    StepError::Remote(error) => of_remote(error),
                    _ => ErrorKind::Step,
                };
                let failure = Self::drawn(kind, draw(&located, style));
                match left {
                    LeftStep::Kept(id) => failure.hint(format!(
                        "the step is kept as it ended: `rbuild debug {id}` opens a shell in it"
                    )),
                    LeftStep::Nothing | LeftStep::Open(_) => failure,
                }
            }
            BuildError::Checks(message) => Self::user(message)
                .hint("warnings are errors here by `error=true` in `# check=` or BUILDKIT_DOCKERFILE_CHECK"),
            BuildError::Push { .. } | BuildError::Pull { .. } => {
                Self::from_error(ErrorKind::Registry, &error)
            }
            BuildError::Engine(EngineError::Nameless(_)) => {
                Self::from_error(ErrorKind::User, &error)
            }
            BuildError::Snapshot(SnapshotError::Registry(error))
            | BuildError::Export(ExportError::Snapshot(SnapshotError::Registry(error))) => {
                error.into()
            }
            BuildError::Export(error) if is_broken_pipe(&error) => Self::new(
                ErrorKind::Signal(SIGPIPE),
                "nobody reads the image that is written",
            ),
            BuildError::NoDockerfile(_)
            | BuildError::NotText(_)
            | BuildError::Context(_)
            | BuildError::Secret { .. }
            | BuildError::Ssh { .. }
            | BuildError::NoSshAgent { .. }
            | BuildError::Import(_)
            | BuildError::NoImage(_)
            | BuildError::Request(_) => Self::from_error(ErrorKind::User, &error),
            _ => Self::from_error(ErrorKind::Internal, &error),
        }
    }
}

/// On which side it is that something can't be had from elsewhere.
fn of_remote(error: &RemoteError) -> ErrorKind {
    match error {
        RemoteError::Http(error) => match error.as_ref() {
            HttpError::Fetch { kind, .. } if matches!(**kind, registry::ErrorKind::Sink(_)) => {
                ErrorKind::Internal
            }
            HttpError::Fetch { .. } => ErrorKind::Registry,
            HttpError::Url { .. } | HttpError::Authorization(_) => ErrorKind::User,
            HttpError::Store(_) => ErrorKind::Internal,
            _ => ErrorKind::Step,
        },
        RemoteError::Git(error) => match error.as_ref() {
            GitError::Failed { .. } | GitError::Moved { .. } => ErrorKind::Registry,
            GitError::Snapshot(_) | GitError::Run(_) => ErrorKind::Internal,
            GitError::WrongCommit { .. } | GitError::Tree(_) | GitError::Layer(_) => {
                ErrorKind::Step
            }
            _ => ErrorKind::User,
        },
        RemoteError::Canceled => ErrorKind::Internal,
    }
}

/// Whether a reader that has gone is at the root of an error.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = error.source();
    }
    false
}

fn draw(located: &Located, style: Style) -> String {
    let drawn = located
        .diagnostics
        .iter()
        .map(|one| one.render(&located.name, &located.text, style.colours()));
    drawn.collect::<Vec<_>>().join("\n")
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // What a setting mends is the user's to mend.
        let kind = match &error {
            StoreError::ForeignOwner { .. }
            | StoreError::NotAStore { .. }
            | StoreError::NoPlace { .. } => ErrorKind::User,
            _ => ErrorKind::Internal,
        };
        Self::from_error(kind, &error)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let kind = match error.kind() {
            // The disk's or the store's doing, not the registry's.
            registry::ErrorKind::Sink(_) | registry::ErrorKind::Source(_) => ErrorKind::Internal,
            _ => ErrorKind::Registry,
        };
        Self::from_error(kind, &error)
    }
}

impl From<EnterError> for Failure {
    fn from(error: EnterError) -> Self {
        let kind = match &error {
            // Only an isolation that was asked for is refused.
            EnterError::Refused(_) => ErrorKind::User,
            EnterError::Threads | EnterError::System { .. } => ErrorKind::Internal,
        };
        Self::from_error(kind, &error)
    }
}

/// Text on one line: line breaks become spaces, control characters vanish.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    neutralise_text(&words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't open `{path}`")]
    struct Open {
        path: &'static str,
        source: io::Error,
    }

    #[test]
    fn exit_codes_tell_the_sides_apart() {
        let codes = [
            ErrorKind::Step,
            ErrorKind::User,
            ErrorKind::Registry,
            ErrorKind::Internal,
            ErrorKind::Signal(1),
            ErrorKind::Signal(2),
            ErrorKind::Signal(13),
            ErrorKind::Signal(15),
        ]
        .map(ErrorKind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4, 129, 130, 141, 143]);
    }

    #[test]
    fn a_program_s_own_code_goes_through_without_a_word() {
        let failure = Failure::program(42);
        assert_eq!(failure.exit_code(), 42);
        assert_eq!(
            Failure::user("no such image").exit_with(125).exit_code(),
            125
        );
        assert_eq!(Failure::user("no such image").exit_code(), 2);
    }

    #[test]
    fn a_failure_shows_place_message_causes_and_hints() {
        let error = Open {
            path: "/x",
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        let failure = Failure::from_error(ErrorKind::Internal, &error)
            .excerpt(" --> Dockerfile:2\n  |\n2 | RUNN make\n  | ^^^^")
            .hint("check its owner");
        assert_eq!(
            failure.render(Style::PLAIN),
            " --> Dockerfile:2\n  |\n2 | RUNN make\n  | ^^^^\n\
             error: can't open `/x`\n  caused by: permission denied\nhint: check its owner\n"
        );
    }

    #[test]
    fn a_drawn_diagnostic_is_shown_as_it_is() {
        let failure = Failure::drawn(ErrorKind::User, "error: x\n --> Dockerfile:1\n").hint("more");
        assert_eq!(
            failure.render(Style::PLAIN),
            "error: x\n --> Dockerfile:1\nhint: more\n"
        );
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("can't read the store: {0}")]
        struct Said(#[source] io::Error);
        let failure =
            Failure::from_error(ErrorKind::Internal, &Said(io::Error::other("disk on fire")));
        assert_eq!(
            failure.render(Style::PLAIN),
            "error: can't read the store: disk on fire\n"
        );
    }

    #[test]
    fn a_message_from_outside_can_not_drive_the_terminal() {
        let failure =
            Failure::user("unknown instruction `\x1b]0;owned\x07\x1b[2JFOO`\nsecond line");
        assert_eq!(
            failure.render(Style::PLAIN),
            "error: unknown instruction `FOO` second line\n"
        );
    }
}
