//! The files of `testdata/language`: what the Dockerfile language means, case by case; and those of
//! `testdata/matrix`, which may leave out what is expected: there, images are compared.
//!
//! A file begins with remarks (`# …`) and holds one case after the other:
//!
//! ```text
//! === A sentence that says the rule
//! args: --build-arg who=me --target last      flags of the build, the same for every builder;
//!                                             `{context}` is the context's folder
//! env: NAME=value                             a variable of the builder's environment
//! packages: yes                               steps install packages; the context has a
//!                                             `machine.conf` with what the machine's apt needs
//! docker: no, because …                       left out where Docker 20.10 is compared with;
//!                                             `but for history, …`: compared in the rest
//! --- Dockerfile                              a file of the context, and its content
//! --- bin/tool 0755 @1000000000               its mode (else 0644) and time
//! --- empty/ 0700                             a folder (else 0755)
//! --- link -> target                          a symbolic link; `=>` is a hard one
//! --- a.tar.gz archive=gzip                   an archive of the members listed: plain, gzip,
//!                                             bzip2, xz, zstd
//! f 0640 1:2 a "text" user.x=0x01             a member, with attributes; `d MODE OWNER PATH`,
//!                                             `l OWNER PATH -> TARGET`, `h MODE OWNER PATH =>
//!                                             EXISTING`, `c` and `b MODE OWNER PATH MAJOR,MINOR`,
//!                                             `p MODE OWNER PATH`
//! +++ tree                                    what the build added to its base, exactly
//! +++ config                                  the image's config, exactly
//! +++ history                                 the entries behind those of the base, exactly
//! +++ layers                                  the layers above the base's, entry by entry
//! +++ times                                   `PATH SECONDS`, for the paths that are named
//! +++ output                                  what RUN steps printed, exactly
//! +++ fails                                   the build fails, and says each line
//! ```
//!
//! Behind a file's name may stand `crlf` (lines end so), `bom` (a byte order mark in front) and
//! `no-newline` (none at the end).

use std::path::Path;

use super::{Project, User};

/// One file of cases.
pub(crate) struct CaseFile {
    /// Its name below the folder, for messages.
    pub(crate) name: String,
    remarks: Vec<String>,
    /// The cases, in order.
    pub(crate) cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The sentence that says the rule.
    pub(crate) title: String,
    headers: Vec<(String, String)>,
    sections: Vec<Section>,
}

#[derive(Clone, Debug)]
struct Section {
    is_expected: bool,
    marker: String,
    body: Vec<String>,
    /// Empty lines behind it, where it is the last of its case.
    gap: usize,
}

impl CaseFile {
    /// All files below a folder, sorted by name.
    pub(crate) fn all(folder: &Path) -> Vec<CaseFile> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            for file in std::fs::read_dir(entry.path()).unwrap() {
                let file = file.unwrap().path();
                let name = file.strip_prefix(folder).unwrap().display().to_string();
                files.push(CaseFile::read(
                    &name,
                    &std::fs::read_to_string(&file).unwrap(),
                ));
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    fn read(name: &str, text: &str) -> CaseFile {
        let mut file = CaseFile {
            name: name.to_owned(),
            remarks: Vec::new(),
            cases: Vec::new(),
        };
        for line in text.split_terminator('\n') {
            if let Some(title) = line.strip_prefix("=== ") {
                file.cases.push(Case {
                    title: title.to_owned(),
                    headers: Vec::new(),
                    sections: Vec::new(),
                });
                continue;
            }
            let Some(case) = file.cases.last_mut() else {
                assert!(
                    line.is_empty() || line.starts_with('#'),
                    "{name}: no remark in front of the first case: {line}"
                );
                file.remarks.push(line.to_owned());
                continue;
            };
            let marker = |sign: &str| line.strip_prefix(sign).map(str::to_owned);
            if let Some((is_expected, marker)) = marker("--- ")
                .map(|marker| (false, marker))
                .or_else(|| marker("+++ ").map(|marker| (true, marker)))
            {
                case.sections.push(Section {
                    is_expected,
                    marker,
                    body: Vec::new(),
                    gap: 0,
                });
            } else if let Some(section) = case.sections.last_mut() {
                section.body.push(line.to_owned());
            } else {
                let header = line.split_once(": ");
                let (key, value) =
                    header.unwrap_or_else(|| panic!("{name}: {}: no header: {line}", case.title));
                assert!(
                    ["args", "env", "docker", "packages"].contains(&key),
                    "{name}: {}: no such header: {line}",
                    case.title
                );
                case.headers.push((key.to_owned(), value.to_owned()));
            }
        }
        for case in &mut file.cases {
            case.check(name);
        }
        file
    }

    /// The file as text again.
    pub(crate) fn text(&self) -> String {
        let mut lines = self.remarks.clone();
        for case in &self.cases {
            lines.push(format!("=== {}", case.title));
            for (key, value) in &case.headers {
                lines.push(format!("{key}: {value}"));
            }
            for section in &case.sections {
                let sign = if section.is_expected { "+++" } else { "---" };
                lines.push(format!("{sign} {}", section.marker));
                lines.extend(section.body.iter().cloned());
                lines.extend(vec![String::new(); section.gap]);
            }
        }
        lines.join("\n") + "\n"
    }
}

impl Case {
    fn check(&mut self, file: &str) {
        let title = &self.title;
        let last = self
            .sections
            .last_mut()
            .unwrap_or_else(|| panic!("{file}: {title}: nothing in it"));
        while last.body.last().is_some_and(String::is_empty) {
            last.body.pop();
            last.gap += 1;
        }
        for section in self.sections.iter().filter(|section| section.is_expected) {
            assert!(
                [
                    "tree", "config", "history", "layers", "times", "output", "fails"
                ]
                .contains(&section.marker.as_str()),
                "{file}: {title}: no such expectation: {}",
                section.marker
            );
        }
    }

    /// The arguments of the build, whose context is at `context`.
    pub(crate) fn args(&self, context: &Path) -> Vec<String> {
        let context = context.display().to_string();
        let words = self.headers("args").flat_map(words);
        words
            .map(|word| word.replace("{context}", &context))
            .collect()
    }

    /// The environment of the builder.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        self.headers("env")
            .map(|pair| {
                let (name, value) = pair.split_once('=').expect("env: NAME=value");
                (name.to_owned(), value.to_owned())
            })
            .collect()
    }

    /// In what Docker 20.10 is compared with, of what images are described by.
    pub(crate) fn compared_with_docker<'a>(&self, all: &[&'a str]) -> Vec<&'a str> {
        let mut rest = all.to_vec();
        for value in self.headers("docker") {
            let (what, reason) = value.split_once(", because ").unwrap_or_default();
            assert!(!reason.is_empty(), "{}: docker: …, because …", self.title);
            match what.strip_prefix("but for ") {
                None if what == "no" => rest.clear(),
                Some(name) if all.contains(&name) => rest.retain(|one| *one != name),
                _ => panic!("{}: docker: no, or but for {all:?}", self.title),
            }
        }
        rest
    }

    fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether something is said of what must come out.
    pub(crate) fn expects_something(&self) -> bool {
        self.sections.iter().any(|section| section.is_expected)
    }

    /// Whether steps install packages from Debian's mirrors.
    pub(crate) fn needs_packages(&self) -> bool {
        self.headers("packages").next().is_some()
    }

    /// Whether something in it stands on an image.
    pub(crate) fn needs_images(&self) -> bool {
        self.mentions("busybox")
    }

    /// Whether a program is run.
    pub(crate) fn needs_sandbox(&self) -> bool {
        self.mentions("RUN ") || self.mentions("run ")
    }

    fn mentions(&self, word: &str) -> bool {
        self.sections
            .iter()
            .filter(|section| !section.is_expected)
            .any(|section| section.body.iter().any(|line| line.contains(word)))
    }

    /// What is expected under a name, line by line.
    pub(crate) fn expected(&self, name: &str) -> Option<&[String]> {
        self.sections
            .iter()
            .find(|section| section.is_expected && section.marker == name)
            .map(|section| section.body.as_slice())
    }

    /// Whether the build has to fail.
    pub(crate) fn fails(&self) -> bool {
        self.expected("fails").is_some()
    }

    /// Replaces what is expected under a name.
    pub(crate) fn expect(&mut self, name: &str, text: &str) {
        for section in &mut self.sections {
            if section.is_expected && section.marker == name {
                section.body = text.lines().map(str::to_owned).collect();
            }
        }
    }

    /// The context, made for a user.
    pub(crate) fn context(&self, user: &User) -> Project {
        let mut project = Project::new();
        for section in self.sections.iter().filter(|section| !section.is_expected) {
            project = section.make(project);
        }
        own(user, project.path());
        // Modes and times come last: a folder's time changes with what is put into it, and one
        // that can't be read can't be filled.
        for section in self.sections.iter().filter(|section| !section.is_expected) {
            project = section.set_metadata(project);
        }
        project
    }
}

fn own(user: &User, path: &Path) {
    if *user == User::Caller {
        return;
    }
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            own(user, &entry.unwrap().path());
        }
    }
    if !path.is_symlink() {
        user.own(path);
    }
}

impl Section {
    fn make(&self, project: Project) -> Project {
        if let Some((path, target)) = self.marker.split_once(" -> ") {
            return project.symlink(path, target);
        }
        if let Some((path, existing)) = self.marker.split_once(" => ") {
            return project.hard_link(path, existing);
        }
        let (path, options) = self.options();
        if path.ends_with('/') {
            return project.folder(path);
        }
        let compression = options
            .iter()
            .find_map(|word| word.strip_prefix("archive="));
        if let Some(compression) = compression {
            return project.file(path, archive(&self.body, compression));
        }
        let ending = if options.contains(&"crlf") {
            "\r\n"
        } else {
            "\n"
        };
        let mut text = self.body.join(ending);
        if !self.body.is_empty() && !options.contains(&"no-newline") {
            text += ending;
        }
        if options.contains(&"bom") {
            text.insert(0, '\u{feff}');
        }
        project.file(path, text)
    }

    fn set_metadata(&self, mut project: Project) -> Project {
        if self.marker.contains(" -> ") || self.marker.contains(" => ") {
            return project;
        }
        let (path, options) = self.options();
        for option in options {
            if let Some(seconds) = option.strip_prefix('@') {
                project = project.mtime(path, seconds.parse().unwrap());
            } else if option.starts_with('0') {
                project = project.mode(path, u32::from_str_radix(option, 8).unwrap());
            } else {
                assert!(
                    ["crlf", "bom", "no-newline"].contains(&option)
                        || option.starts_with("archive="),
                    "{}: no such option: {option}",
                    self.marker
                );
            }
        }
        project
    }

    /// The path, which may hold spaces where it is quoted, and the options behind it.
    fn options(&self) -> (&str, Vec<&str>) {
        if let Some(quoted) = self.marker.strip_prefix('"') {
            let (path, rest) = quoted.split_once('"').unwrap();
            return (path, rest.split_whitespace().collect());
        }
        let mut words = self.marker.split_whitespace();
        (words.next().unwrap(), words.collect())
    }
}

/// Words split at spaces; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut begun) = (false, false);
    for letter in line.chars() {
        match letter {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            letter => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// The time of archive members.
const MEMBER_TIME: u64 = 1_000_000_000;

/// An archive of members as listings show them.
fn archive(members: &[String], compression: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let (kind, rest) = member.split_once(' ').unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mtime(MEMBER_TIME);
        header.set_size(0);
        header.set_mode(0o777);
        let mut rest = rest;
        if kind != "l" {
            let (mode, behind) = rest.split_once(' ').unwrap();
            header.set_mode(u32::from_str_radix(mode, 8).unwrap());
            rest = behind;
        }
        let (owner, rest) = rest.split_once(' ').unwrap();
        let (uid, gid) = owner.split_once(':').unwrap();
        header.set_uid(uid.parse().unwrap());
        header.set_gid(gid.parse().unwrap());
        let rest = if ["f", "d"].contains(&kind) {
            with_attributes(&mut tar, rest)
        } else {
            rest
        };
        match kind {
            "d" => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, format!("{rest}/"), &b""[..])
                    .unwrap();
            }
            "c" | "b" => {
                let (path, numbers) = rest.split_once(' ').unwrap();
                let (major, minor) = numbers.split_once(',').unwrap();
                header.set_entry_type(match kind {
                    "c" => tar::EntryType::Char,
                    _ => tar::EntryType::Block,
                });
                header.set_device_major(major.parse().unwrap()).unwrap();
                header.set_device_minor(minor.parse().unwrap()).unwrap();
                tar.append_data(&mut header, path, &b""[..]).unwrap();
            }
            "p" => {
                header.set_entry_type(tar::EntryType::Fifo);
                tar.append_data(&mut header, rest, &b""[..]).unwrap();
            }
            "f" => {
                let (path, content) = rest.split_once(' ').unwrap();
                let content: String = serde_json::from_str(content).unwrap();
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes())
                    .unwrap();
            }
            "l" => {
                let (path, target) = rest.split_once(" -> ").unwrap();
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
            "h" => {
                let (path, existing) = rest.split_once(" => ").unwrap();
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, path, existing).unwrap();
            }
            other => panic!("no such kind of member: {other}"),
        }
    }
    let tar = tar.into_inner().unwrap();
    compress(&tar, compression)
}

/// Takes `NAME=0xVALUE` off the end of a member's line, and announces those attributes.
fn with_attributes<'a>(tar: &mut tar::Builder<Vec<u8>>, mut line: &'a str) -> &'a str {
    let mut attributes = Vec::new();
    while let Some((rest, word)) = line.rsplit_once(' ')
        && let Some((name, digits)) = word.split_once("=0x")
    {
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let value: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        attributes.push((format!("SCHILY.xattr.{name}"), value));
        line = rest;
    }
    if !attributes.is_empty() {
        let pairs = attributes
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        tar.append_pax_extensions(pairs).unwrap();
    }
    line
}

fn compress(tar: &[u8], compression: &str) -> Vec<u8> {
    use std::io::Write;
    match compression {
        "plain" => tar.to_vec(),
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        "bzip2" => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        "xz" => {
            let mut out = xz2::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        "zstd" => zstd::encode_all(tar, 1).unwrap(),
        other => panic!("no such compression: {other}"),
    }
}
