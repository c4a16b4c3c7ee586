//! No progress: only warnings are shown.

use std::fmt::Write as _;
use std::time::Duration;

use super::display::Display;
use super::style::Style;
use super::trace::{Change, Trace};

/// The quiet display.
#[derive(Debug)]
pub(super) struct Quiet {
    style: Style,
}

impl Quiet {
    /// A display that shows warnings only.
    pub(super) const fn new(style: Style) -> Self {
        Self { style }
    }
}

impl Display for Quiet {
    fn show(&mut self, _: &Trace, changes: &[Change], _: Duration) -> String {
        let mut out = String::new();
        for change in changes {
            if let Change::Warning(text) = change {
                let _ = writeln!(out, "{} {text}", self.style.warning("warning:"));
            }
        }
        out
    }

    fn note(&mut self, _: &Trace, text: &str, _: Duration) -> String {
        text.to_owned()
    }

    fn finish(&mut self, _: &Trace, _: Duration) -> String {
        String::new()
    }

    fn frame_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    #[test]
    fn only_warnings_are_shown() {
        let script = Script::new()
            .announce(0, "[1/1] RUN x")
            .start(0)
            .log(0, "output\n")
            .warning("careful")
            .finding()
            .done(0, 5);
        assert_eq!(
            script.play(&mut Quiet::new(Style::PLAIN)),
            "warning: careful\n"
        );
    }
}
