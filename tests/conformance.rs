//! The conformance tests of another builder, buildah, and what BuildKit made of each: the same
//! config and the same files. They run where the data is at hand, in `../shared/corpora`.
//!
//! The base image of the record was another busybox than that of these tests, so what comes from
//! the base itself is left out of the comparison, by name and with the reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::language_cases::in_parallel;
use crate::support::{
    Image, Need, Node, NodeKind, Project, Rbuild, User, difference, needs, repository,
};

/// Directories that only one of the two base images has.
const OF_THE_BASE: [&str; 3] = ["/proc", "/sys", "/var/www"];

/// Files whose content is the base image's own.
const CONTENT_OF_THE_BASE: [&str; 2] = ["/subdir/passwd", "/subdir/passwd2"];

/// Folders of buildah's test data that the corpus doesn't have.
const NOT_IN_THE_CORPUS: [&str; 2] = ["/mount-targets", "/tar-g"];

/// What comes out otherwise on purpose, and why.
const OTHERWISE: [(&str, &str); 1] = [(
    "add-dir-not-dir",
    "its archive holds a file without a name, which rbuild refuses and BuildKit passes over",
)];

#[test]
fn buildahs_conformance_tests_come_out_as_buildkit_builds_them() {
    let Some(folder) = corpus() else {
        return;
    };
    if !needs(&[Need::BaseImages, Need::Sandbox]) {
        return;
    }
    let cases = std::fs::read(folder.join("expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    let rbuild = Rbuild::new(&User::Caller);
    let results = in_parallel(&cases, |case| run(&rbuild, &folder, case));
    let mut wrong = String::new();
    for (case, result) in cases.iter().zip(results) {
        let difference = result.unwrap_or_else(|message| message);
        if let Some((name, _)) = OTHERWISE.iter().find(|(name, _)| case["name"] == *name) {
            assert!(!difference.is_empty(), "{name} is no exception any more");
        } else if !difference.is_empty() {
            writeln!(wrong, "{}:\n{difference}", case["name"]).unwrap();
        }
    }
    assert!(
        cases.len() > 100,
        "there should be more than {}",
        cases.len()
    );
    assert!(wrong.is_empty(), "{wrong}");
}

/// The folder of the data, where it is.
fn corpus() -> Option<PathBuf> {
    let folder = repository().join("../shared/corpora/conformance");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("left out: no {}", folder.display());
    None
}

/// Builds a case; gives where the image differs, empty where it doesn't.
fn run(rbuild: &Rbuild, folder: &Path, case: &Value) -> String {
    let context = match case["context"].as_str().unwrap() {
        "." => folder.join("testdata"),
        name => folder.join("testdata").join(name),
    };
    let context = with_files_of(Project::new(), &context, "");
    let text = case["dockerfile"]
        .as_str()
        .unwrap()
        .replace("@BB@", "busybox");
    let dockerfile = Project::new().file("Dockerfile", &text);
    let path = dockerfile.path().join("Dockerfile");
    let mut build = rbuild
        .build(&context)
        .args(["-f".as_ref(), path.as_os_str()]);
    for (name, value) in case["args"].as_object().into_iter().flatten() {
        build = build.build_arg(&format!("{name}={}", value.as_str().unwrap()));
    }
    if case["fails"].is_string() {
        build.fails();
        return String::new();
    }
    let image = build.image();
    let expected = &case["expect"];
    let mut found = String::new();
    compare(
        &expected_config(&expected["config"]),
        &config(&image),
        &mut found,
    );
    let (theirs, ours) = (expected_files(&expected["fs"]), files(&image));
    compare(&theirs, &ours, &mut found);
    found
}

/// A context with what is in a folder, its files with the modes that version control gives them.
fn with_files_of(mut project: Project, folder: &Path, below: &str) -> Project {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (kind, path) = (entry.file_type().unwrap(), format!("{below}{name}"));
        if kind.is_dir() {
            project = project.folder(&path);
            project = with_files_of(project, &entry.path(), &format!("{path}/"));
        } else if let Some(target) = link(&entry.path()) {
            project = project.symlink(&path, target);
        } else {
            let is_program = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
            let mode = if is_program { 0o755 } else { 0o644 };
            let content = std::fs::read(entry.path()).unwrap();
            project = project.file(&path, content).mode(&path, mode);
        }
    }
    project
}

/// Where a link leads. The data may be kept without links, as files that hold the target and no
/// newline.
fn link(path: &Path) -> Option<PathBuf> {
    if path.is_symlink() {
        return Some(std::fs::read_link(path).unwrap());
    }
    let target = std::fs::read_to_string(path).ok()?;
    let is_name = !target.is_empty() && target.len() < 100 && !target.contains(['\n', '\0']);
    let leads = || {
        let to = path.parent().unwrap().join(&target);
        to.exists() && to != path
    };
    (is_name && leads()).then(|| target.into())
}

fn compare(
    expected: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    out: &mut String,
) {
    let lines = |map: &BTreeMap<String, String>| -> Vec<String> {
        map.iter()
            .map(|(key, value)| format!("{key} {value}"))
            .collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    if expected != found {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        writeln!(out, "{}", difference(&expected, &found)).unwrap();
    }
}

fn expected_config(config: &Value) -> BTreeMap<String, String> {
    let members = config.as_object().unwrap().iter();
    members
        .map(|(key, value)| (key.clone(), value.to_string()))
        .collect()
}

/// The members of the config that the record has, where they say something.
fn config(image: &Image) -> BTreeMap<String, String> {
    let members = image.config["config"].as_object().unwrap().iter();
    members
        .filter(|(key, _)| *key != "ArgsEscaped")
        .map(|(key, value)| (key.clone(), value.to_string()))
        .collect()
}

fn expected_files(files: &Value) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (path, file) in files.as_object().unwrap() {
        let is_missing = NOT_IN_THE_CORPUS.iter().any(|name| path.contains(name));
        if is_missing || OF_THE_BASE.contains(&path.as_str()) {
            continue;
        }
        let text = |name: &str| file[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| file[name].as_u64().unwrap_or_default();
        let owner = format!("{}:{}", number("uid"), number("gid"));
        let mode = text("mode");
        let line = match file["type"].as_str().unwrap() {
            "dir" => format!("d {mode} {owner}"),
            "link" => format!("l {owner} -> {}", text("target")),
            _ if CONTENT_OF_THE_BASE.contains(&path.as_str()) => format!("f {mode} {owner}"),
            _ => format!("f {mode} {owner} {}", text("sha256")),
        };
        lines.insert(path.clone(), line);
    }
    lines
}

/// What the image holds beyond its base.
fn files(image: &Image) -> BTreeMap<String, String> {
    let line = |path: &str, node: &Node| {
        let owner = format!("{}:{}", node.uid, node.gid);
        let mode = format!("0o{:o}", node.mode);
        match node.kind {
            NodeKind::Directory => format!("d {mode} {owner}"),
            NodeKind::Symlink => format!("l {owner} -> {}", node.link.escape_ascii()),
            _ if CONTENT_OF_THE_BASE.contains(&path) => format!("f {mode} {owner}"),
            _ => format!("f {mode} {owner} {}", node.digest),
        }
    };
    let added = image.additions();
    let nodes = added.nodes.iter();
    let named = nodes.map(|(path, node)| (format!("/{}", String::from_utf8_lossy(path)), node));
    named
        .filter(|(path, _)| !OF_THE_BASE.contains(&path.as_str()))
        .map(|(path, node)| {
            let line = line(&path, node);
            (path, line)
        })
        .collect()
}
