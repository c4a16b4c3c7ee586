//! The names of files that may belong to somebody else than the kernel says.
//!
//! Nearly every file of an image is what the kernel says it is, and a program that looks at many of
//! them would wait for each. A file is found under its own name, unless a link led there: where
//! nothing of that name was ever given away, in whatever folder, and no link has it, the kernel can
//! answer at once.
//!
//! A name is never taken out, and where names can't be kept they are unknown: then every file may be
//! somebody else's. What a program changes while one reads its arguments shows it, and nobody else,
//! root as an owner.

use std::collections::HashMap;

use crate::sandbox::spec::FileNames;

/// Names without folders; `None` where any file may have a note.
pub(super) struct Names(Option<HashMap<Vec<u8>, Kept>>);

/// What is kept of a name.
#[derive(Clone, Copy, Default)]
struct Kept {
    /// A file of that name may have a note.
    noted: bool,
    /// A link has it.
    link: bool,
}

impl Names {
    /// Those of the image; `None` where the step sees other files, too.
    pub(super) fn new(names: Option<FileNames>) -> Self {
        let Some(FileNames { noted, links }) = names else {
            return Self(None);
        };
        let mut kept: HashMap<Vec<u8>, Kept> = HashMap::with_capacity(noted.len() + links.len());
        for name in noted {
            kept.entry(name).or_default().noted = true;
        }
        for name in links {
            kept.entry(name).or_default().link = true;
        }
        Self(Some(kept))
    }

    /// Whether the file that a path leads to may have a note; `follow` is whether a link at its end
    /// leads further.
    pub(super) fn may_be_noted(&self, path: &[u8], follow: bool) -> bool {
        let (Some(names), Some(name)) = (&self.0, last(path)) else {
            return true;
        };
        let kept = names.get(name).copied().unwrap_or_default();
        kept.noted || follow && (kept.link || is_of_proc(name))
    }

    /// The file at the end of a path has a note.
    pub(super) fn add(&mut self, path: &[u8]) {
        match self.kept(path) {
            Some(kept) => kept.noted = true,
            None => self.0 = None,
        }
    }

    /// There is a link at the end of a path.
    pub(super) fn add_link(&mut self, path: &[u8]) {
        match self.kept(path) {
            Some(kept) => kept.link = true,
            None => self.0 = None,
        }
    }

    /// A file gets another name, or one more, or changes places with another. `None` is a file of
    /// any name.
    pub(super) fn rename(&mut self, from: Option<&[u8]>, to: &[u8]) {
        let everything = Kept {
            noted: true,
            link: true,
        };
        let kept = |path: &[u8]| match (&self.0, last(without_slashes(path))) {
            (Some(names), Some(name)) => names.get(name).copied().unwrap_or_default(),
            _ => everything,
        };
        let (one, other) = (from.map_or(everything, kept), kept(to));
        let both = Kept {
            noted: one.noted || other.noted,
            link: one.link || other.link,
        };
        for path in [from, Some(to)].into_iter().flatten() {
            // What has no name of its own here can't be moved.
            if (both.noted || both.link)
                && let Some(kept) = self.kept(path)
            {
                kept.noted |= both.noted;
                kept.link |= both.link;
            }
        }
    }

    /// From now on any file may have a note.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    fn kept(&mut self, path: &[u8]) -> Option<&mut Kept> {
        let name = last(without_slashes(path))?;
        Some(self.0.as_mut()?.entry(name.to_vec()).or_default())
    }
}

/// The name that a path ends with. A slash behind it would follow a link.
fn last(path: &[u8]) -> Option<&[u8]> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    (!matches!(name, b"" | b"." | b"..")).then_some(name)
}

fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    end.map_or(&[], |end| &path[..=end])
}

/// Whether a link of `/proc` or `/dev` that leads to a file may have this name.
fn is_of_proc(name: &[u8]) -> bool {
    let is_number = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    matches!(
        name,
        b"cwd" | b"exe" | b"root" | b"stdin" | b"stdout" | b"stderr"
    ) || name.split(|byte| *byte == b'-').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::{FileNames, Names};

    fn names(noted: &[&str], links: &[&str]) -> Names {
        let all = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Names::new(Some(FileNames {
            noted: all(noted),
            links: all(links),
        }))
    }

    #[test]
    fn what_was_never_given_away_is_the_kernels_to_show() {
        let names = names(&["shadow", "_apt"], &["mtab", "_apt"]);
        for (path, itself, followed) in [
            ("/etc/shadow", true, true),
            ("shadow", true, true),
            ("../../etc/shadow", true, true),
            ("/etc/passwd", false, false),
            ("shadow/passwd", false, false),
            ("/proc/self/cwd/passwd", false, false),
            ("/etc/mtab", false, true),
            ("_apt", true, true),
            // Links to any file, made by the kernel.
            ("/proc/self/exe", false, true),
            ("fd/17", false, true),
            ("/proc/self/map_files/7f00-7f10", false, true),
            ("/dev/stdin", false, true),
            // Whatever these are called.
            ("", true, true),
            (".", true, true),
            ("/", true, true),
            ("/etc/passwd/..", true, true),
            ("/etc/passwd/.", true, true),
            // A slash follows a link.
            ("passwd/", true, true),
        ] {
            let got = [false, true].map(|follow| names.may_be_noted(path.as_bytes(), follow));
            assert_eq!(got, [itself, followed], "{path}");
        }
    }

    #[test]
    fn a_note_stays_with_its_file_under_every_name() {
        let mut names = names(&[], &["link"]);
        names.add(b"/var/mail");
        names.rename(Some(b"/var/mail/"), b"/var/old");
        names.rename(Some(b"old"), b"/older//");
        names.rename(Some(b"unrelated"), b"other");
        names.rename(Some(b"link"), b"moved-link");
        names.add_link(b"/etc/new-link");
        // Exchanged.
        names.rename(Some(b"exchanged"), b"older");
        for (name, itself, followed) in [
            ("mail", true, true),
            ("old", true, true),
            ("older", true, true),
            ("exchanged", true, true),
            ("unrelated", false, false),
            ("other", false, false),
            ("moved-link", false, true),
            ("new-link", false, true),
        ] {
            let got = [false, true].map(|follow| names.may_be_noted(name.as_bytes(), follow));
            assert_eq!(got, [itself, followed], "{name}");
        }
    }

    #[test]
    fn a_file_without_a_name_may_get_any() {
        for from in [None, Some(&b""[..])] {
            let mut names = names(&[], &[]);
            names.rename(from, b"linked");
            assert!(names.may_be_noted(b"linked", false));
            assert!(!names.may_be_noted(b"other", true));
        }
    }

    #[test]
    fn unknown_names_may_be_anybodys() {
        let mut unknown = Names::new(None);
        assert!(unknown.may_be_noted(b"file", false));
        unknown.rename(Some(b"a"), b"b");
        assert!(unknown.may_be_noted(b"c", false));
        for lose in [Names::forget, |names: &mut Names| names.add(b"/")] {
            let mut names = names(&[], &[]);
            lose(&mut names);
            assert!(names.may_be_noted(b"file", false));
        }
    }
}
