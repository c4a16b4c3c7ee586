//! What a step prints, made harmless; and what the terminal can show.
//!
//! Output of a step comes from a stranger's program. Colours (SGR sequences) may pass where the
//! reader wants colours; everything else that a terminal would obey (moving the cursor, clearing
//! the screen, setting titles, writing the clipboard, answering with input) is dropped, in a
//! terminal and in a log alike. A carriage return means that the line begins anew: a progress
//! bar leaves just its last state.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use unicode_width::UnicodeWidthChar;

/// Whether colours of a step's output are passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Colours {
    /// SGR sequences stay; the line ends with a reset.
    Keep,
    /// SGR sequences go, too.
    Drop,
}

/// One line of a step's output (without its newline) as it may be shown. Bytes that are not
/// UTF-8 become U+FFFD.
pub(crate) fn neutralise_line(line: &[u8], colours: Colours) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let start = line
        .iter()
        .rposition(|&byte| byte == b'\r')
        .map_or(0, |at| at + 1);
    neutralise(&String::from_utf8_lossy(&line[start..]), colours)
}

/// Text from outside (a name, a message) as it may be shown: no control characters, no colours.
pub(crate) fn neutralise_text(text: &str) -> String {
    neutralise(text, Colours::Drop)
}

fn neutralise(text: &str, colours: Colours) -> String {
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\x1b' => {
                let length = escape_length(rest);
                if colours == Colours::Keep && is_sgr(&rest[..length]) {
                    out.push_str(&rest[..length]);
                    coloured = !matches!(&rest[..length], "\x1b[m" | "\x1b[0m");
                }
                length
            }
            // C1 controls: 0x9b, 0x9d and their kin act like ESC sequences in some terminals.
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => string_length(rest, c.len_utf8()),
            '\u{9b}' => csi_length(rest, c.len_utf8()),
            '\t' => {
                out.push('\t');
                1
            }
            c if c.is_control() || turns_text(c) => c.len_utf8(),
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// Whether a character has no look of its own but changes the order or the lines of those
/// around it: text that reads otherwise than it is written.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of the escape sequence that `text` begins with (ECMA-48).
fn escape_length(text: &str) -> usize {
    match text.as_bytes().get(1) {
        Some(b'[') => csi_length(text, 2),
        Some(b']' | b'P' | b'X' | b'^' | b'_') => string_length(text, 2),
        // Intermediate bytes, then a final one: character sets and the like.
        Some(0x20..=0x2f) => {
            let bytes = text.as_bytes();
            let end = 1 + bytes[1..]
                .iter()
                .take_while(|b| (0x20..=0x2f).contains(*b))
                .count();
            end + usize::from(bytes.get(end).is_some_and(|b| (0x30..=0x7e).contains(b)))
        }
        Some(0x30..=0x7e) => 2,
        _ => 1,
    }
}

/// A control sequence: parameter and intermediate bytes, then one final byte.
fn csi_length(text: &str, introducer: usize) -> usize {
    let bytes = text.as_bytes();
    let body = bytes[introducer..]
        .iter()
        .take_while(|b| (0x20..=0x3f).contains(*b))
        .count();
    let end = introducer + body;
    end + usize::from(bytes.get(end).is_some_and(|b| (0x40..=0x7e).contains(b)))
}

/// A control string: ended by BEL, ST or its C1 form; an open one takes the rest of the line.
fn string_length(text: &str, introducer: usize) -> usize {
    let body = &text[introducer..];
    let ends = [("\x07", 1), ("\x1b\\", 2), ("\u{9c}", 2)];
    ends.iter()
        .filter_map(|(end, length)| body.find(end).map(|at| introducer + at + length))
        .min()
        .unwrap_or(text.len())
}

fn is_sgr(sequence: &str) -> bool {
    sequence
        .strip_prefix("\x1b[")
        .and_then(|rest| rest.strip_suffix('m'))
        .is_some_and(|body| body.bytes().all(|b| matches!(b, b'0'..=b'9' | b';' | b':')))
}

/// The columns that `text` takes, character by character: a terminal that joins characters into
/// one shows fewer.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The text cut to at most `width` columns, with `…` where something was cut. Tabs count and
/// show as one space. `text` holds no escape sequences.
pub(crate) fn truncate(text: &str, width: usize) -> String {
    let text = text.replace('\t', " ");
    if columns(&text) <= width {
        return text;
    }
    let mut out = String::new();
    let mut used = 1; // the ellipsis
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// `left` at the left and `right` at the right of a line of `width` columns; `left` is cut to
/// leave one space between them.
pub(crate) fn justify(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(columns(right) + 1);
    let left = truncate(left, room);
    let gap = width.saturating_sub(columns(&left) + columns(right)).max(1);
    truncate(&format!("{left}{}{right}", " ".repeat(gap)), width)
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size {
    /// Columns.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
}

/// The size of the terminal behind `file`: `None` where it is no terminal or doesn't say.
pub(crate) fn size_of(file: impl AsFd) -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(file).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| Size {
        width: usize::from(size.ws_col),
        height: usize::from(size.ws_row),
    })
}

/// Writes all of `bytes`. Who shares the file may have made it non-blocking: then this waits.
///
/// # Errors
/// When it can't be written.
pub(crate) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = [PollFd::new(&file, PollFlags::OUT)];
                match poll(&mut ready, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether nobody will ever read what is written to `file`: the other end of a pipe is closed, a
/// terminal is gone.
pub(crate) fn is_abandoned(file: impl AsFd) -> bool {
    let mut ready = [PollFd::new(&file, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
        && ready[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_output_can_not_drive_the_terminal() {
        for (line, kept, dropped) in [
            ("plain", "plain", "plain"),
            ("a\tb", "a\tb", "a\tb"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m", "red"),
            ("\x1b[1;38:5:9mred", "\x1b[1;38:5:9mred\x1b[0m", "red"),
            ("\x1b[2J\x1b[Hcleared", "cleared", "cleared"),
            ("\x1b[?1049hx\x1b[?25l", "x", "x"),
            ("\x1b]0;title\x07x", "x", "x"),
            ("\x1b]52;c;aGk=\x1b\\x", "x", "x"),
            ("\x1bP+q544e\x1b\\x", "x", "x"),
            ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link", "link"),
            ("\x1b]0;never ended", "", ""),
            ("\x1b(Bx\x1b7y\x1bcz", "xyz", "xyz"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}y\u{85}", "xy", "xy"),
            ("\x07\x08\x0b\x7fx\0", "x", "x"),
            ("x\x1b", "x", "x"),
            ("x\x1b[", "x", "x"),
            ("x\x1b[3", "x", "x"),
            ("\x1b[31é", "é", "é"),
            ("\x1b[>4;1mx", "x", "x"),
            ("a\u{202e}b\u{2066}c\u{2028}d", "abcd", "abcd"),
        ] {
            assert_eq!(
                neutralise_line(line.as_bytes(), Colours::Keep),
                kept,
                "{line:?}"
            );
            assert_eq!(
                neutralise_line(line.as_bytes(), Colours::Drop),
                dropped,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_carriage_return_begins_the_line_anew() {
        for (line, shown) in [
            (&b"10%\r50%\r100%"[..], "100%"),
            (b"10%\r100%\r", "100%"),
            (b"dos line\r", "dos line"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"", ""),
        ] {
            assert_eq!(neutralise_line(line, Colours::Drop), shown);
        }
    }

    #[test]
    fn widths_are_columns() {
        assert_eq!(truncate("abcdef", 6), "abcdef");
        assert_eq!(truncate("abcdef", 5), "abcd…");
        assert_eq!(truncate("日本語", 5), "日本…");
        assert_eq!(truncate("日本語", 4), "日…");
        assert_eq!(truncate("abc", 0), "");
        assert_eq!(justify("left", "1.0s", 12), "left    1.0s");
        assert_eq!(justify("much too long", "1.0s", 12), "much t… 1.0s");
        assert_eq!(justify("x", "1.0s", 2), " …");
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_text_and_tabs_passes(bytes: Vec<u8>) {
            let shown = neutralise_line(&bytes, Colours::Drop);
            proptest::prop_assert!(shown.chars().all(|c| c == '\t' || !c.is_control()));
        }

        #[test]
        fn only_colours_pass_besides(bytes: Vec<u8>) {
            let shown = neutralise_line(&bytes, Colours::Keep);
            let mut rest = shown.as_str();
            while let Some(at) = rest.find('\x1b') {
                let length = escape_length(&rest[at..]);
                proptest::prop_assert!(is_sgr(&rest[at..at + length]));
                rest = &rest[at + length..];
            }
        }

        #[test]
        fn a_cut_line_fits(text: String, width in 0_usize..40) {
            proptest::prop_assert!(columns(&truncate(&text, width)) <= width);
        }
    }
}
