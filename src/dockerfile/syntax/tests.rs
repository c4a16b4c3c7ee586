use super::*;

fn nodes(text: &str) -> Vec<Node> {
    let (tree, errors) = parse(text);
    assert_eq!(errors, [], "{text}");
    tree.nodes
}

fn originals(text: &str) -> Vec<String> {
    nodes(text).into_iter().map(|node| node.original).collect()
}

#[test]
fn comments_and_blank_lines_inside_an_instruction_are_dropped() {
    let text = "RUN a \\\n# comment\n  # another\n\n    b \\\r\n\tc\nCMD x";
    assert_eq!(originals(text), ["RUN a     b \tc", "CMD x"]);
    let (tree, _) = parse(text);
    let lines: Vec<usize> = tree
        .empty_continuations
        .iter()
        .map(|span| span.first_line)
        .collect();
    assert_eq!(lines, [6], "where BuildKit tells it");
}

#[test]
fn the_escape_directive_changes_continuations() {
    assert_eq!(
        originals("# escape=`\nRUN a `\n b\nRUN c \\\nCMD d"),
        ["RUN a  b", "RUN c \\", "CMD d"]
    );
    assert_eq!(originals("RUN a `\nCMD b"), ["RUN a `", "CMD b"]);
    assert_eq!(originals("RUN a \\\\\nCMD b"), ["RUN a \\\\", "CMD b"]);
}

#[test]
fn a_continuation_may_end_with_the_file() {
    assert_eq!(originals("RUN a \\"), ["RUN a"]);
    assert_eq!(originals("RUN a \\\n\n# x\n"), ["RUN a"]);
    assert_eq!(originals("\\\nRUN a"), ["RUN a"]);
    assert_eq!(originals("\\"), [""; 0]);
}

#[test]
fn byte_order_mark_and_line_endings() {
    assert_eq!(
        originals("\u{feff}FROM a\r\nRUN b \\\r\n c\r\n"),
        ["FROM a", "RUN b  c"]
    );
}

#[test]
fn heredocs_belong_to_their_instruction() {
    let text = "RUN <<A cat <<-'B'\n# kept\n\\\nA\n\tx\n\tB\nCMD x";
    let nodes = nodes(text);
    assert_eq!(nodes.len(), 2);
    let bodies: Vec<(String, bool, String)> = nodes[0]
        .heredocs
        .iter()
        .map(|h| (h.name.clone(), h.expand, h.body()))
        .collect();
    assert_eq!(
        bodies,
        [
            ("A".to_owned(), true, "# kept\n\\\n".to_owned()),
            ("B".to_owned(), false, "x\n".to_owned())
        ]
    );
    assert_eq!((nodes[0].span.first_line, nodes[0].span.last_line), (1, 6));
    assert_eq!(
        &text[nodes[0].span.start..nodes[0].span.end],
        text.strip_suffix("\nCMD x").unwrap()
    );
}

#[test]
fn only_instructions_that_take_heredocs_read_them() {
    assert_eq!(originals("USER <<A\nRUN x"), ["USER <<A", "RUN x"]);
    assert_eq!(originals("CMD cat <<A\nRUN x"), ["CMD cat <<A", "RUN x"]);
    assert_eq!(
        originals("RUN [\"<<A\"]\nRUN x"),
        ["RUN [\"<<A\"]", "RUN x"]
    );
    let nodes = nodes("ONBUILD RUN <<A\nx\nA\n");
    assert_eq!(nodes[0].heredocs[0].content, "x\n");
}

#[test]
fn an_open_heredoc_is_an_error_at_its_mark() {
    let (_, errors) = parse("FROM a\nRUN cat <<EOF\nx\nEOF \n");
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "dockerfile parse error on line 2: unterminated heredoc"
    );
    assert_eq!(errors[0].span.start, "FROM a\nRUN cat ".len());
}

#[test]
fn comments_right_above_are_kept() {
    let nodes = nodes("# syntax=x\n# far\n#\n# one\n  # two\nFROM a\nRUN b\n");
    assert_eq!(nodes[0].comments, ["one", "# two"]);
    assert_eq!(nodes[1].comments, [""; 0]);
}

#[test]
fn json_or_words() {
    let words = |text: &str| -> Vec<String> {
        nodes(text)[0]
            .arguments
            .iter()
            .map(|word| word.value.clone())
            .collect()
    };
    assert_eq!(words("COPY [\"a b\", \"c\"]"), ["a b", "c"]);
    assert_eq!(words("COPY ['a', 'b']"), ["['a',", "'b']"]);
    assert_eq!(words("CMD [ -f x ]"), ["[ -f x ]"]);
    assert_eq!(words("HEALTHCHECK CMD [\"a\"]"), ["CMD", "a"]);
    assert_eq!(words("ENV a b  c "), ["a", "b  c", ""]);
    assert_eq!(
        words("ENV a=b c=\"d e\""),
        ["a", "b", "=", "c", "\"d e\"", "="]
    );
}
