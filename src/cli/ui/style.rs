//! The few colours that rbuild uses on a terminal.

use std::fmt::Display;

/// Whether and how text is coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// No colours.
    pub const PLAIN: Self = Self { colours: false };
    /// Colours.
    pub const COLOURED: Self = Self { colours: true };

    /// Colours where `colours` holds.
    pub const fn new(colours: bool) -> Self {
        Self { colours }
    }

    /// Whether text is coloured.
    pub const fn colours(self) -> bool {
        self.colours
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// A failure.
    pub fn error(self, text: impl Display) -> String {
        self.paint("31;1", text)
    }

    /// A warning.
    pub fn warning(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    /// Advice.
    pub fn hint(self, text: impl Display) -> String {
        self.paint("36", text)
    }

    /// Something that has succeeded.
    pub fn done(self, text: impl Display) -> String {
        self.paint("34", text)
    }

    /// Something of less interest.
    pub fn faint(self, text: impl Display) -> String {
        self.paint("2", text)
    }
}
