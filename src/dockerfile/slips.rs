//! Slips that a line shows by itself, told along with the error that comes of them.
//!
//! Must say nothing of a line in which nothing is wrong: what looks like a slip may be meant.

use super::diagnostic::{Diagnostic, Kind};

/// Instructions whose arguments no shell reads, for which `#` would begin a comment.
const WITHOUT_SHELL: [&str; 13] = [
    "ADD",
    "ARG",
    "COPY",
    "ENV",
    "EXPOSE",
    "FROM",
    "LABEL",
    "MAINTAINER",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The same error, with advice where its line of `text` shows how it came about.
pub fn explain(one: Diagnostic, text: &str) -> Diagnostic {
    if one.kind == Kind::Warning || one.span.first_line == 0 {
        return one;
    }
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(|line| {
        let at = start;
        start += line.len();
        (at, line.trim_end())
    });
    let mut lines = lines.skip(one.span.first_line - 1);
    let Some((at, line)) = lines.next() else {
        return one;
    };
    let written = line.split_whitespace().next().unwrap_or_default();
    let command = written.to_ascii_uppercase();
    if WITHOUT_SHELL.contains(&command.as_str())
        && let Some(comment) = comment(line)
        && one.span.end > at + comment
    {
        return one.with_help(format!(
            "a comment stands on a line of its own: here `#` belongs to the {command}"
        ));
    }
    if command != "SHELL" && is_almost_json(line) {
        return one.with_help(
            "`[…]` is a list only where it is JSON: double quotes around every word, a comma \
             between two and none behind the last",
        );
    }
    one
}

/// What is probably meant otherwise in an instruction in which nothing is wrong: `text` is its own.
pub fn suspect(text: &str) -> Option<&'static str> {
    let mut lines = text.lines();
    let (line, more) = (lines.next()?.trim_end(), lines.next());
    let command = line.split_whitespace().next()?.to_ascii_uppercase();
    match command.as_str() {
        "USER" | "WORKDIR" | "VOLUME" | "ARG" if comment(line).is_some() => {
            Some("`#` and what follows belong to it: a comment stands on a line of its own")
        }
        "CMD" | "ENTRYPOINT" if more.is_none() && is_almost_json(line) => Some(
            "it is given to the shell: as a list it needs double quotes around every word, a comma \
             between two and none behind the last",
        ),
        _ => None,
    }
}

/// Where a comment was probably meant to begin: a `#` behind a blank, outside of quotes.
fn comment(line: &str) -> Option<usize> {
    let mut quote = None;
    let mut before = 'x';
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' && before.is_whitespace() => return Some(at),
            None => {}
        }
        before = c;
    }
    None
}

/// Whether the arguments of a line look like the exec form and are none.
fn is_almost_json(line: &str) -> bool {
    let words = line.split_whitespace().skip(1);
    let words: Vec<&str> = words.skip_while(|word| word.starts_with("--")).collect();
    let list = words.join(" ");
    // `[ -f "$x" ]` is a program of its own, with its words behind blanks.
    let inside = list
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_list = inside.is_some_and(|inside| inside.trim().starts_with(['"', '\'']));
    is_list && serde_json::from_str::<Vec<String>>(&list).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::span::Span;

    fn help(text: &str, word: &str) -> Option<String> {
        let start = text.find(word).unwrap();
        let span = Span {
            start,
            end: start + word.len(),
            first_line: 2,
            last_line: 2,
        };
        explain(Diagnostic::error(span, "wrong"), text).help
    }

    #[test]
    fn comments_are_seen_where_no_shell_reads_them() {
        for (line, word, is_said) in [
            ("EXPOSE 80 # web", "#", true),
            ("expose 80 # web", "web", true),
            ("EXPOSE 80x # web", "80x", false),
            ("LABEL a=\"x # y\" b", "b", false),
            ("COPY a#b c", "c", false),
            ("RUN false # so", "# so", false),
        ] {
            let text = format!("FROM scratch\n{line}\n");
            let help = help(&text, word);
            assert_eq!(
                help.is_some_and(|help| help.contains("comment")),
                is_said,
                "{line}"
            );
        }
    }

    #[test]
    fn what_goes_through_is_suspected() {
        for (text, is_suspect) in [
            ("WORKDIR /a # where it is", true),
            ("user app # who", true),
            ("WORKDIR /a#b", false),
            ("ARG A=\"b # c\"", false),
            ("CMD ['a']", true),
            ("ENTRYPOINT [\"a\",]", true),
            ("CMD [\"a\"]", false),
            ("CMD echo # [", false),
            ("CMD [\"a\", \\\n\"b\"]", false),
            ("RUN echo # so", false),
        ] {
            assert_eq!(suspect(text).is_some(), is_suspect, "{text}");
        }
    }

    #[test]
    fn lists_are_seen_that_are_not_quite_json() {
        for (line, is_said) in [
            ("RUN ['ls']", true),
            ("RUN --mount=type=tmpfs,target=/t [\"ls\",]", true),
            ("RUN [\"ls\" \"-l\"]", true),
            ("RUN [\"ls\"]", false),
            ("RUN [ -f x ]", false),
            ("RUN [ -f \"$x\" ]", false),
            ("RUN ls", false),
        ] {
            let text = format!("FROM scratch\n{line}\n");
            assert_eq!(help(&text, line).is_some(), is_said, "{line}");
        }
    }
}
