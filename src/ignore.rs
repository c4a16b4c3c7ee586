//! Which files a build doesn't see: `.dockerignore`, `--exclude` patterns, wildcards of COPY.
//!
//! Two kinds of pattern live side by side in the language, and both are here to the letter of
//! what BuildKit uses:
//!
//! - [`Matcher`]: a list of patterns as in `.dockerignore` (moby/patternmatcher). `**` stands for
//!   any number of directories, a pattern that matches a directory matches all below it, `!`
//!   takes a match back, the last pattern that applies decides. COPY's and ADD's `--exclude` and
//!   COPY's `--parents` read their patterns this way too.
//! - [`glob_match`]: Go's `filepath.Match`, the wildcards in COPY's and ADD's sources. A `*`
//!   stays inside one path component and `**` means no more than `*`.
//!
//! moby/patternmatcher goes by way of regular expressions and lets some of their syntax through:
//! `|` and `{2}`, `\d`, `^` outside brackets, `*` inside them. None of that is in the language's
//! reference; here these characters mean themselves. A walk and a single question always agree,
//! though moby's walk forgets a directory that a later pattern excludes once more. Pure: paths are bytes, nothing is opened.

pub mod glob;
mod pattern;

pub use glob::{BadPattern, glob_match, has_wildcards, split_wildcards};
use pattern::Pattern;

/// A list of patterns that can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"; write the pattern behind the `!`")]
    LoneExclamation,
    /// An open bracket, a range without an end, a backslash at the end.
    #[error("syntax error in pattern `{pattern}`")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// What `filepath.Match` says.
        source: BadPattern,
    },
}

/// Patterns in order, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
    excludes_everything: bool,
}

/// Which patterns have matched a directory or one above it; for the walk of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inherited(Vec<bool>);

impl Matcher {
    /// Reads patterns. Blank ones are skipped.
    ///
    /// # Errors
    /// The first malformed pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, IgnoreError> {
        let mut matcher = Self::default();
        for text in patterns {
            let text = text.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let cleaned = clean(text);
            let (text, is_exception) = match cleaned.strip_prefix('!') {
                Some("") => return Err(IgnoreError::LoneExclamation),
                Some(rest) => (rest, true),
                None => (cleaned.as_str(), false),
            };
            let pattern =
                Pattern::new(text, is_exception).map_err(|source| IgnoreError::Malformed {
                    pattern: text.to_owned(),
                    source,
                })?;
            matcher.has_exceptions |= is_exception;
            matcher.excludes_everything |= !is_exception && matches!(text, "*" | "**" | "**/*");
            matcher.patterns.push(pattern);
        }
        Ok(matcher)
    }

    /// Whether there are no patterns: then nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether a pattern excludes whatever there is; a `!` behind it may still take some back.
    pub fn excludes_everything(&self) -> bool {
        self.excludes_everything
    }

    /// Whether a path, relative to the root, is excluded: by itself or by a directory above it.
    /// The root is never.
    pub fn excluded(&self, path: &[u8]) -> bool {
        let path = without_trailing_slashes(path);
        if path.is_empty() || path == b"." {
            return false;
        }
        let mut excluded = false;
        for pattern in &self.patterns {
            // a pattern that wouldn't change the answer isn't asked
            if pattern.is_exception == excluded
                && (pattern.matches(path) || parents(path).any(|parent| pattern.matches(parent)))
            {
                excluded = !pattern.is_exception;
            }
        }
        excluded
    }

    /// What the root of a walk hands down.
    pub fn root(&self) -> Inherited {
        Inherited(vec![false; self.patterns.len()])
    }

    /// Whether a directory is excluded, and what it hands down to its entries. `path` is relative
    /// to the root of the walk, `parent` what the directory above handed down.
    pub fn enter(&self, path: &[u8], parent: &Inherited) -> (bool, Inherited) {
        // every pattern is asked, also one that changes nothing here: it may below
        let own = self.patterns.iter().zip(&parent.0);
        let own = Inherited(
            own.map(|(pattern, above)| *above || pattern.matches(path))
                .collect(),
        );
        let excluded = self.decide(&own, |_| false);
        (excluded, own)
    }

    /// Whether an entry is excluded, with what its directory handed down. The same answer as
    /// [`Matcher::excluded`], without asking about the directories above once more.
    pub fn excluded_below(&self, path: &[u8], parent: &Inherited) -> bool {
        self.decide(parent, |pattern| pattern.matches(path))
    }

    /// The last pattern that applies decides: one that has matched above, or that `matches`.
    fn decide(&self, above: &Inherited, matches: impl Fn(&Pattern) -> bool) -> bool {
        let mut excluded = false;
        for (pattern, above) in self.patterns.iter().zip(&above.0) {
            if pattern.is_exception == excluded && (*above || matches(pattern)) {
                excluded = !pattern.is_exception;
            }
        }
        excluded
    }

    /// Whether a pattern without `!` may match something below a directory. Where not, a walk for
    /// matches can leave the directory out.
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut matching = self.patterns.iter().filter(|one| !one.is_exception);
        matching.any(|pattern| pattern.may_match_below(directory))
    }

    /// Whether a `!` pattern may take back something below an excluded directory. Where not, a
    /// walk can leave the directory out as a whole.
    pub fn may_have_exceptions_below(&self, directory: &[u8]) -> bool {
        self.has_exceptions
            && self
                .patterns
                .iter()
                .any(|pattern| pattern.is_exception && pattern.may_match_below(directory))
    }
}

/// Reads an ignore file: one pattern to a line, `#` in the first column begins a comment,
/// patterns are cleaned and made relative.
pub fn read_patterns(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut patterns = Vec::new();
    for line in text.lines() {
        let pattern = line.trim();
        if line.starts_with('#') || pattern.is_empty() {
            continue;
        }
        let (mark, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", pattern),
        };
        if pattern.is_empty() {
            patterns.push(mark.to_owned());
            continue;
        }
        let cleaned = clean(pattern);
        let relative = if cleaned.len() > 1 {
            cleaned.strip_prefix('/').unwrap_or(&cleaned)
        } else {
            &cleaned
        };
        patterns.push(format!("{mark}{relative}"));
    }
    patterns
}

/// The line of an ignore file that excludes a path, counted from 1, and its pattern as written:
/// the last one that applies. `None` for a path that isn't excluded.
pub fn deciding_line(content: &[u8], path: &[u8]) -> Option<(usize, String)> {
    let mut read = Vec::new();
    let mut decided = None;
    for (number, line) in (1..).zip(String::from_utf8_lossy(content).lines()) {
        let mut patterns = read_patterns(line.as_bytes());
        let Some(pattern) = patterns.pop() else {
            continue;
        };
        read.push(pattern);
        let excluded = Matcher::new(&read).ok()?.excluded(path);
        decided = match (excluded, decided) {
            (false, _) => None,
            (true, None) => Some((number, line.trim().to_owned())),
            (true, before) => before,
        };
    }
    decided
}

/// A path without `.`, without `..` where it can be taken back, without double or trailing
/// slashes: Go's `filepath.Clean`.
pub fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

fn without_trailing_slashes(path: &[u8]) -> &[u8] {
    let mut path = path;
    while let [head @ .., b'/'] = path
        && !head.is_empty()
    {
        path = head;
    }
    path
}

/// The directories above a path, the topmost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;
