//! Text to syntax tree: lines, words, flags, heredocs. Knows how an instruction's arguments fall
//! into words, not what they mean.
//!
//! One [`Node`] per instruction. Comments and blank lines inside a continued instruction are
//! dropped, as in BuildKit; the blank ones are noted.

mod directives;
mod heredoc;
mod lines;
mod words;

use super::diagnostic::Diagnostic;
use super::instruction::Word;
use super::span::{Span, Spanned};
pub use directives::{DIRECTIVES, Directives};
pub use heredoc::{RawHeredoc, heredoc_mark};
use lines::{Line, Lines, LogicalLine, Piece, strip_continuation};
use words::{Located, json_strings, split_blanks, split_first, split_quoted, take_flags};

/// A Dockerfile's syntax tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// Parser directives.
    pub directives: Directives,
    /// The escape character.
    pub escape: char,
    /// The instructions, in order.
    pub nodes: Vec<Node>,
    /// The ends of continued instructions that have blank lines in them.
    pub empty_continuations: Vec<Span>,
}

/// An instruction, its meaning unread.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The instruction's name as written.
    pub name: Word,
    /// `--name=value` words in front of the arguments, quotes removed.
    pub flags: Vec<Word>,
    /// The arguments. ENV and LABEL have three for each pair: name, value, and `=` or nothing
    /// for the old form without it.
    pub arguments: Vec<Word>,
    /// Whether the arguments were written as a JSON array.
    pub is_json: bool,
    /// The instruction behind ONBUILD.
    pub trigger: Option<Box<Node>>,
    /// Heredocs, in order. ONBUILD's are its trigger's as well.
    pub heredocs: Vec<RawHeredoc>,
    /// The instruction's text with its lines joined, heredoc bodies excluded.
    pub original: String,
    /// The whole instruction, heredocs included.
    pub span: Span,
    /// The comments right above, without their `#`.
    pub comments: Vec<String>,
}

impl Node {
    /// The instruction's name in upper case.
    pub fn command(&self) -> String {
        self.name.value.to_ascii_uppercase()
    }

    fn may_have_heredocs(&self) -> bool {
        let node = self.trigger.as_deref().unwrap_or(self);
        matches!(node.command().as_str(), "ADD" | "COPY" | "RUN") && !node.is_json
    }
}

/// Reads a Dockerfile's text. What can't be read is left out of the tree and told in the list.
pub fn parse(text: &str) -> (Tree, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let directives = Directives::read(text, &mut errors);
    let escape = directives
        .escape
        .as_ref()
        .map_or('\\', |directive| directive.value);
    let mut reader = Reader {
        lines: Lines::new(text),
        tree: Tree {
            directives,
            escape,
            ..Tree::default()
        },
        comments: Vec::new(),
        errors,
    };
    while let Some(line) = reader.lines.next() {
        reader.read(line);
    }
    (reader.tree, reader.errors)
}

struct Reader<'a> {
    lines: Lines<'a>,
    tree: Tree,
    comments: Vec<String>,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Reads the instruction that begins on a line, if one does.
    fn read(&mut self, line: Line<'_>) {
        if line.is_comment() {
            self.comment(&line);
            return;
        }
        let logical = self.join(line);
        if logical.text.trim().is_empty() {
            return;
        }
        let comments = std::mem::take(&mut self.comments);
        match node(&logical, Piece::new(&logical.text), self.tree.escape, false) {
            Ok(mut node) => {
                node.comments = comments;
                node.span = logical.whole();
                self.heredocs(&mut node, &logical);
                self.tree.nodes.push(node);
            }
            Err(error) => self.errors.push(error),
        }
    }

    fn comment(&mut self, line: &Line<'_>) {
        if self.tree.directives.holds(line.number) {
            return;
        }
        // the first character is the `#`, or white space that stands before it
        let mut rest = line.text.chars();
        rest.next();
        match rest.as_str().trim() {
            "" => self.comments.clear(),
            comment => self.comments.push(comment.to_owned()),
        }
    }

    /// Joins a line with those that continue it.
    fn join(&mut self, line: Line<'_>) -> LogicalLine {
        let mut logical = LogicalLine::default();
        let text = line.text.trim_start();
        let (part, mut continued) = strip_continuation(text, self.tree.escape);
        logical.push(part, line.start + line.text.len() - text.len(), line.number);
        let mut has_blank = false;
        let mut last = line.span();
        while continued {
            let Some(line) = self.lines.next() else { break };
            logical.saw(line.number);
            last = line.span();
            if line.is_comment() {
                continue;
            }
            if line.text.trim_start().is_empty() {
                has_blank = true;
                continue;
            }
            let (part, more) = strip_continuation(line.text, self.tree.escape);
            logical.push(part, line.start, line.number);
            continued = more;
        }
        if has_blank {
            self.tree.empty_continuations.push(last);
        }
        logical
    }

    /// Reads the bodies of the heredocs that a line announces.
    fn heredocs(&mut self, node: &mut Node, logical: &LogicalLine) {
        if !node.may_have_heredocs() {
            return;
        }
        let found = match heredoc::heredocs_of(&logical.text) {
            Ok(found) => found,
            Err(error) => {
                self.errors
                    .push(Diagnostic::syntax(node.span, error.to_string()));
                return;
            }
        };
        for mut heredoc in found {
            let Some((line, end)) = heredoc.read(&mut self.lines) else {
                let at = logical.text.find("<<").unwrap_or(0);
                let span = logical.span(at..logical.text.trim_end().len());
                self.errors.push(
                    Diagnostic::syntax(span, "unterminated heredoc")
                        .with_label(format!("no line `{}` follows", heredoc.name))
                        .with_help(format!(
                            "end it with a line that holds `{}` and nothing else, no blanks before or behind",
                            heredoc.name
                        )),
                );
                return;
            };
            node.span.last_line = line;
            node.span.end = end;
            node.heredocs.push(heredoc);
        }
    }
}

/// Reads one instruction. `is_trigger` says that it stands behind ONBUILD.
fn node(
    line: &LogicalLine,
    piece: Piece<'_>,
    escape: char,
    is_trigger: bool,
) -> Result<Node, Diagnostic> {
    let piece = piece.trim();
    let (name, rest) = split_first(piece);
    let (flags, arguments) = take_flags(rest.unwrap_or(piece.from(piece.text.len())), escape);
    let arguments = arguments.trim();
    let place = |(text, range): Located| Spanned::new(text, line.span(range));
    let mut node = Node {
        name: place((name.text.to_owned(), name.range())),
        flags: flags.into_iter().map(place).collect(),
        original: piece.text.to_owned(),
        span: line.span(piece.range()),
        ..Node::default()
    };
    let whole = || (arguments.text.to_owned(), arguments.range());
    let command = node.command();
    let words = match command.as_str() {
        _ if arguments.text.is_empty() => Vec::new(),
        "ADD" | "COPY" | "VOLUME" => match json(&mut node, line, arguments)? {
            Some(words) => words,
            None => split_blanks(arguments),
        },
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => match json(&mut node, line, arguments)? {
            Some(words) => words,
            None => vec![whole()],
        },
        "ARG" => split_quoted(arguments, escape),
        "ENV" | "LABEL" => pairs(&command, line, arguments, escape)?,
        "EXPOSE" | "FROM" => split_blanks(arguments),
        "HEALTHCHECK" => healthcheck(&mut node, line, arguments)?,
        "ONBUILD" => {
            node.trigger = Some(Box::new(trigger(line, arguments, escape, is_trigger)?));
            Vec::new()
        }
        _ => vec![whole()],
    };
    node.arguments = words.into_iter().map(place).collect();
    Ok(node)
}

fn trigger(
    line: &LogicalLine,
    piece: Piece<'_>,
    escape: char,
    is_trigger: bool,
) -> Result<Node, Diagnostic> {
    if is_trigger {
        let span = line.span(piece.range());
        return Err(Diagnostic::syntax(
            span,
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )
        .with_help("remove one ONBUILD"));
    }
    node(line, piece, escape, true)
}

/// The arguments when they are a JSON array of strings.
fn json(
    node: &mut Node,
    line: &LogicalLine,
    piece: Piece<'_>,
) -> Result<Option<Vec<Located>>, Diagnostic> {
    match json_strings(piece.text) {
        Ok(None) => Ok(None),
        Ok(Some(strings)) => {
            node.is_json = true;
            Ok(Some(
                strings
                    .into_iter()
                    .map(|text| (text, piece.range()))
                    .collect(),
            ))
        }
        Err(words::NotStrings) => Err(Diagnostic::syntax(
            line.span(piece.range()),
            "when using JSON array syntax, arrays must be comprised of strings only",
        )
        .with_help("put every element in double quotes")),
    }
}

/// The words of ENV and LABEL: `name=value …`, or the old `name value`.
fn pairs(
    command: &str,
    line: &LogicalLine,
    piece: Piece<'_>,
    escape: char,
) -> Result<Vec<Located>, Diagnostic> {
    let words = split_quoted(piece, escape);
    let span = line.span(piece.range());
    if !words.first().is_some_and(|(word, _)| word.contains('=')) {
        let (name, value) = split_first(piece);
        let Some(value) = value else {
            return Err(
                Diagnostic::syntax(span, format!("{command} must have two arguments"))
                    .with_label("no value")
                    .with_help(format!("write `{command} {}=value`", name.text)),
            );
        };
        let nothing = (String::new(), name.range());
        return Ok(vec![
            (name.text.to_owned(), name.range()),
            (value.text.to_owned(), value.range()),
            nothing,
        ]);
    }
    let mut out = Vec::with_capacity(words.len() * 3);
    for (word, range) in words {
        let Some((name, value)) = word.split_once('=') else {
            let message =
                format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value");
            return Err(Diagnostic::syntax(line.span(range), message)
                .with_help("put a value with spaces in double quotes"));
        };
        out.push((name.to_owned(), range.clone()));
        out.push((value.to_owned(), range.clone()));
        out.push(("=".to_owned(), range));
    }
    Ok(out)
}

/// The words of HEALTHCHECK: a type, then a command line of either form.
fn healthcheck(
    node: &mut Node,
    line: &LogicalLine,
    piece: Piece<'_>,
) -> Result<Vec<Located>, Diagnostic> {
    let end = piece
        .text
        .find(char::is_whitespace)
        .unwrap_or(piece.text.len());
    let kind = piece.slice(0, end);
    let command = piece.from(end).trim();
    let mut words = vec![(kind.text.to_owned(), kind.range())];
    if !command.text.is_empty() {
        match json(node, line, command)? {
            Some(strings) => words.extend(strings),
            None => words.push((command.text.to_owned(), command.range())),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
