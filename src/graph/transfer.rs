//! COPY and ADD: from words to an operation, refusing what rbuild doesn't have.

use super::lowering::{StageState, absent, absolute};
use super::{Chmod, Copy, CopySource, FileSystem, InlineFile};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion;
use crate::dockerfile::instruction::{Heredoc, Source, Transfer};
use crate::dockerfile::span::Span;

impl StageState {
    /// Expands a COPY or ADD. Gives the operation and its history text without the ` # buildkit`.
    pub(super) fn transfer(
        &self,
        transfer: &Transfer,
        from: FileSystem,
        is_add: bool,
        span: Span,
        directory_time: Option<i64>,
    ) -> Result<(Copy, String), Diagnostic> {
        refuse_absent(transfer, is_add, span)?;
        let instruction = if is_add { "ADD" } else { "COPY" };
        let mut message = instruction.to_owned();
        if transfer.parents {
            message.push_str(" --parents");
        }
        let chown = transfer
            .chown
            .as_ref()
            .map(|word| self.expand(word))
            .transpose()?;
        let chown = chown.filter(|chown| !chown.is_empty());
        if let Some(chown) = &chown {
            message.push_str(&format!(" --chown={chown}"));
        }
        let chmod = match &transfer.chmod {
            None => None,
            Some(word) => {
                let text = self.expand(word)?;
                if text.is_empty() {
                    None
                } else {
                    message.push_str(&format!(" --chmod={text}"));
                    let chmod = Chmod::parse(&text).map_err(|message| {
                        Diagnostic::error(word.span, message)
                            .with_help("write the mode as --chmod=755 or --chmod=u+x")
                    })?;
                    Some(chmod)
                }
            }
        };
        let mut sources = Vec::new();
        // Paths first, whatever their order.
        let (paths, heredocs): (Vec<&Source>, Vec<&Source>) = transfer
            .sources
            .iter()
            .partition(|source| matches!(source, Source::Path(_)));
        for source in paths.into_iter().chain(heredocs) {
            sources.push(self.source(source, transfer.parents, is_add, &mut message)?);
        }
        let destination = self.expand(&transfer.destination)?;
        message.push_str(&format!(" {destination}"));
        let destination = self.destination(&destination);
        if sources.len() > 1 && !destination.ends_with('/') {
            return Self::refuse(
                transfer.destination.span,
                format!(
                    "When using {instruction} with more than one source file, the destination must be a directory and end with a /"
                ),
            );
        }
        let copy = Copy {
            from,
            sources,
            destination,
            chown,
            // As in BuildKit, a mode makes it an ordinary copy.
            link: transfer.link && chmod.is_none(),
            chmod,
            unpack: is_add && transfer.unpack != Some(false),
            // As in BuildKit, variables in these patterns are not expanded.
            exclude: transfer
                .exclude
                .iter()
                .map(|word| word.value.clone())
                .collect(),
            directory_time,
        };
        Ok((copy, message))
    }

    fn source(
        &self,
        source: &Source,
        parents: bool,
        is_add: bool,
        message: &mut String,
    ) -> Result<CopySource, Diagnostic> {
        match source {
            Source::Path(word) => {
                let path = self.expand(word)?;
                message.push_str(&format!(" {path}"));
                if is_remote(&path) {
                    return Err(if is_add {
                        absent(word.span, "ADD of a URL or a git repository")
                    } else {
                        Diagnostic::error(word.span, "source can't be a URL for COPY".to_owned())
                            .with_help("download it in a RUN step")
                    });
                }
                Ok(if parents {
                    with_parents(&path)
                } else {
                    CopySource::Path(absolute("/", &path))
                })
            }
            Source::Heredoc(heredoc) => {
                message.push_str(&format!(" <<{}", heredoc.name));
                Ok(CopySource::Inline(InlineFile {
                    name: heredoc.name.clone(),
                    content: self.heredoc(heredoc)?,
                }))
            }
        }
    }

    fn heredoc(&self, heredoc: &Heredoc) -> Result<String, Diagnostic> {
        if !heredoc.expand {
            return Ok(heredoc.content.clone());
        }
        expansion::expand_heredoc(&heredoc.content, &self.lookup())
            .map_err(|error| Diagnostic::error(Span::default(), error.to_string()))
    }

    /// The destination, absolute; a trailing slash (or `.`) says that it is a directory.
    fn destination(&self, written: &str) -> String {
        let clean = absolute(&self.config.config.working_dir, written);
        let is_directory = written.is_empty()
            || written == "."
            || written.ends_with('/')
            || written.ends_with("/.");
        if is_directory && clean != "/" {
            format!("{clean}/")
        } else {
            clean
        }
    }
}

fn refuse_absent(transfer: &Transfer, is_add: bool, span: Span) -> Result<(), Diagnostic> {
    let instruction = if is_add { "ADD" } else { "COPY" };
    let flag = if transfer.checksum.is_some() {
        "--checksum"
    } else if transfer.keep_git_dir.is_some() {
        "--keep-git-dir"
    } else {
        return Ok(());
    };
    Err(absent(span, &format!("`{instruction} {flag}`")))
}

/// A source of `COPY --parents`: what stands behind its first `/./` is kept.
fn with_parents(path: &str) -> CopySource {
    let (root, pattern) = path.split_once("/./").unwrap_or(("/", path));
    let pattern = absolute("/", pattern);
    let pattern = match pattern.trim_start_matches('/') {
        // The root itself: all that is in it.
        "" => "**".to_owned(),
        // Only ignore files know exceptions.
        pattern if pattern.starts_with('!') => format!("\\{pattern}"),
        pattern => pattern.to_owned(),
    };
    CopySource::Parents {
        root: absolute("/", root),
        pattern,
    }
}

pub(super) fn is_remote(path: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| path.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_between_slashes_says_which_parents_are_kept() {
        for (written, root, pattern) in [
            ("a/b", "/", "a/b"),
            ("./a/b/", "/", "a/b"),
            ("/a//b/.", "/", "a/b"),
            ("../a/../b", "/", "b"),
            ("a/./b", "/a", "b"),
            ("./a/b/./c/d*", "/a/b", "c/d*"),
            ("a/./b/./c", "/a", "b/c"),
            ("/./a", "/", "a"),
            ("a*/./**/b", "/a*", "**/b"),
            (".", "/", "**"),
            ("a/./", "/a", "**"),
            ("!a", "/", "\\!a"),
        ] {
            let expected = CopySource::Parents {
                root: root.to_owned(),
                pattern: pattern.to_owned(),
            };
            assert_eq!(with_parents(written), expected, "{written}");
        }
    }
}
