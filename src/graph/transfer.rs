//! COPY and ADD: from words to an operation, refusing what rbuild doesn't have.

use super::lowering::StageState;
use super::path::absolute;
use super::remote::{self, HttpSource, RemoteSource};
use super::{Chmod, Copy, CopySource, FileSystem, InlineFile};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion;
use crate::dockerfile::instruction::{Heredoc, Source, Transfer};
use crate::dockerfile::span::Span;
use crate::remote::git::{GitReference, GitSource, masked};

impl StageState {
    /// Expands a COPY or ADD. Gives the operation and its history text without the ` # buildkit`.
    pub(super) fn transfer(
        &self,
        transfer: &Transfer,
        from: FileSystem,
        is_add: bool,
        directory_time: Option<i64>,
    ) -> Result<(Copy, String), Diagnostic> {
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
        let checksum = self.checksum(transfer)?;
        let mut sources = Vec::new();
        // Paths first, whatever their order.
        let (paths, heredocs): (Vec<&Source>, Vec<&Source>) = transfer
            .sources
            .iter()
            .partition(|source| matches!(source, Source::Path(_)));
        for source in paths.into_iter().chain(heredocs) {
            let checksum = checksum.as_ref();
            sources.push(self.source(source, transfer, checksum, is_add, &mut message)?);
        }
        let destination = self.expand(&transfer.destination)?;
        message.push_str(&format!(" {destination}"));
        let destination = self.destination(&destination);
        if sources.len() > 1 && !destination.ends_with('/') {
            let message = format!(
                "When using {instruction} with more than one source file, the destination must be a directory and end with a /"
            );
            let written = &transfer.destination;
            return Self::refuse(written.span, message)
                .map_err(|one: Diagnostic| one.with_help(format!("write `{}/`", written.value)));
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

    /// The `--checksum`, which only what is fetched can have, with where it is written.
    fn checksum(&self, transfer: &Transfer) -> Result<Option<(String, Span)>, Diagnostic> {
        let Some(word) = &transfer.checksum else {
            return Ok(None);
        };
        let text = self.expand(word)?;
        if text.is_empty() {
            return Ok(None);
        }
        let paths = transfer.sources.iter().filter_map(|source| match source {
            Source::Path(path) => Some(path),
            Source::Heredoc(_) => None,
        });
        let refused = match paths.collect::<Vec<_>>().as_slice() {
            [path] if remote::is_remote(&self.expand(path)?) => return Ok(Some((text, word.span))),
            [_] => "checksum requires HTTP(S) or Git sources",
            _ => "checksum can't be specified for multiple sources",
        };
        Self::refuse(word.span, refused.to_owned())
    }

    fn source(
        &self,
        source: &Source,
        transfer: &Transfer,
        checksum: Option<&(String, Span)>,
        is_add: bool,
        message: &mut String,
    ) -> Result<CopySource, Diagnostic> {
        match source {
            Source::Path(word) => {
                let path = self.expand(word)?;
                message.push_str(&format!(" {}", masked(&path)));
                let git = remote::git(&path)
                    .map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
                if let Some(found) = git {
                    if !is_add {
                        let message = "source can't be a git ref for COPY".to_owned();
                        return Err(Diagnostic::error(word.span, message)
                            .with_help("ADD clones repositories"));
                    }
                    let source = repository(&found, word.span, checksum, transfer.keep_git_dir)?;
                    return Ok(CopySource::Remote(RemoteSource::Git(source)));
                }
                if remote::is_http(&path) {
                    if !is_add {
                        let message = "source can't be a URL for COPY".to_owned();
                        return Err(
                            Diagnostic::error(word.span, message).with_help("ADD fetches URLs")
                        );
                    }
                    let source = http(path, checksum, transfer.unpack)?;
                    return Ok(CopySource::Remote(RemoteSource::Http(source)));
                }
                Ok(if transfer.parents {
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

/// A file that ADD fetches. As in BuildKit, it is unpacked only where that is asked for.
fn http(
    url: String,
    checksum: Option<&(String, Span)>,
    unpack: Option<bool>,
) -> Result<HttpSource, Diagnostic> {
    let checksum = match checksum {
        None => None,
        Some((text, span)) => {
            let digest = remote::checksum(text).map_err(|message| {
                Diagnostic::error(*span, message)
                    .with_help("write it as --checksum=sha256:HEX, with 64 lower-case digits")
            })?;
            Some(digest)
        }
    };
    Ok(HttpSource {
        name: remote::file_name(&url),
        url,
        checksum,
        unpack: unpack == Some(true),
    })
}

/// A repository that ADD clones. What its address says and what flags say has to agree.
fn repository(
    found: &GitReference,
    span: Span,
    checksum: Option<&(String, Span)>,
    keep_git_dir: Option<bool>,
) -> Result<GitSource, Diagnostic> {
    if let (Some(flag), Some(address)) = (keep_git_dir, found.keep_git_dir)
        && flag != address
    {
        let message = "inconsistent keep-git-dir configuration".to_owned();
        return Err(Diagnostic::error(span, message));
    }
    let mut source = GitSource::new(found);
    source.keep_git_dir = found.keep_git_dir.or(keep_git_dir).unwrap_or_default();
    if let Some((flag, span)) = checksum {
        if let Some(address) = &found.checksum
            && address != flag
        {
            let message = format!("checksum mismatch \"{flag}\" != \"{address}\"");
            return Err(Diagnostic::error(*span, message));
        }
        source.checksum = Some(flag.clone());
    }
    Ok(source)
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
