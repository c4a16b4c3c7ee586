//! `rbuild diff`.

use clap::Args;
use serde_json::{Value, json};

use super::inspect::{pretty, read_image};
use super::{Context, find_image};
use crate::build;
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::output;
use crate::cli::ui::format;
use crate::digest::DiffId;
use crate::layer::entry::{Entry, EntryKind};
use crate::snapshot::compare::{Aspect, Difference, compare};

/// Options of `rbuild diff`.
#[derive(Args, Debug)]
pub struct DiffArguments {
    /// Name or id of an image
    image1: String,

    /// Name or id of the image to compare it with
    image2: String,

    /// Times of modification count, too
    #[arg(long)]
    times: bool,

    /// Names of the differing paths only
    #[arg(long)]
    name_only: bool,

    /// Exit with 1 when there is a difference
    #[arg(long)]
    exit_code: bool,

    /// How it is printed: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// Prints what two images differ in: config, layers, files.
///
/// # Errors
/// When one isn't there or can't be read; with `--exit-code` when they differ.
pub fn run(arguments: DiffArguments, context: &Context) -> Result<(), Failure> {
    let environment = context.build_environment(None)?;
    let store = &environment.store;
    let read = |name: &str| -> Result<_, Failure> {
        let image = read_image(store, &find_image(store, name)?)?;
        let tree = build::image_tree(&environment, &image.0.layers)
            .map_err(|error| Failure::of_build(error, context.style))?;
        Ok((image, tree))
    };
    let ((record1, bytes1, config1), tree1) = read(&arguments.image1)?;
    let ((record2, bytes2, config2), tree2) = read(&arguments.image2)?;
    let files = compare(&tree1, &tree2, arguments.times)
        .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
    let config = config_differences(&bytes1, &bytes2);
    let layers = layer_differences(&config1.rootfs.diff_ids, &config2.rootfs.diff_ids);
    let text = if arguments.name_only {
        files
            .iter()
            .map(|file| format!("{}\n", path(file)))
            .collect()
    } else if arguments.format == "json" {
        pretty(&json!({
            "Config": config
                .iter()
                .map(|(name, a, b)| json!({"Member": name, "Before": a, "After": b}))
                .collect::<Vec<_>>(),
            "Layers": {"Common": layers.0, "Before": layers.1, "After": layers.2},
            "Files": files.iter().map(file_json).collect::<Vec<_>>(),
        }))
    } else {
        text(&config, &layers, &files)
    };
    output::print(&text)?;
    let same = record1.id == record2.id || (config.is_empty() && files.is_empty());
    match arguments.exit_code && !same {
        true => Err(Failure::program(1)),
        false => Ok(()),
    }
}

type ConfigDifference = (String, Value, Value);

/// The members that differ, by their path. Times, layers and history differ for other reasons.
fn config_differences(a: &[u8], b: &[u8]) -> Vec<ConfigDifference> {
    let parse = |bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let (a, b) = (parse(a), parse(b));
    let mut found = Vec::new();
    for name in ["architecture", "variant", "os", "author"] {
        differ(name, &a[name], &b[name], &mut found);
    }
    let members = |value: &Value| value["config"].as_object().cloned().unwrap_or_default();
    let (a, b) = (members(&a), members(&b));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let get = |members: &serde_json::Map<String, Value>| members.get(name).cloned();
        let (a, b) = (get(&a).unwrap_or_default(), get(&b).unwrap_or_default());
        match (name.as_str(), a.as_array(), b.as_array()) {
            ("Env", Some(a), Some(b)) => environment(a, b, &mut found),
            _ => differ(&format!("config.{name}"), &a, &b, &mut found),
        }
    }
    found
}

fn differ(name: &str, a: &Value, b: &Value, found: &mut Vec<ConfigDifference>) {
    match (a, b) {
        (a, b) if a == b => {}
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for member in names {
                let get = |members: &serde_json::Map<String, Value>| {
                    members.get(member).cloned().unwrap_or_default()
                };
                differ(&format!("{name}.{member}"), &get(a), &get(b), found);
            }
        }
        _ => found.push((name.to_owned(), a.clone(), b.clone())),
    }
}

/// Variables one by one.
fn environment(a: &[Value], b: &[Value], found: &mut Vec<ConfigDifference>) {
    let split = |values: &[Value]| -> std::collections::BTreeMap<String, Value> {
        let texts = values.iter().filter_map(Value::as_str);
        texts
            .map(|text| {
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                (name.to_owned(), value.into())
            })
            .collect()
    };
    let (a, b) = (split(a), split(b));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let get = |values: &std::collections::BTreeMap<String, Value>| {
            values.get(name).cloned().unwrap_or_default()
        };
        differ(&format!("config.Env.{name}"), &get(&a), &get(&b), found);
    }
}

/// How many layers both begin with, and how many each has beyond.
fn layer_differences(a: &[DiffId], b: &[DiffId]) -> (usize, usize, usize) {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (common, a.len() - common, b.len() - common)
}

fn text(
    config: &[ConfigDifference],
    (common, first, second): &(usize, usize, usize),
    files: &[Difference],
) -> String {
    let mut out = String::new();
    for (name, a, b) in config {
        let shown = |value: &Value| match value {
            Value::Null => "(none)".to_owned(),
            value => value.to_string(),
        };
        out.push_str(&format!("config  {name}: {} → {}\n", shown(a), shown(b)));
    }
    if first + second > 0 {
        out.push_str(&format!(
            "layers  {common} in common, then {first} → {second}\n"
        ));
    }
    for file in files {
        out.push_str(&format!("{}\n", file_line(file)));
    }
    if out.is_empty() {
        out.push_str("no difference\n");
    }
    out
}

fn path(difference: &Difference) -> String {
    format!("/{}", String::from_utf8_lossy(difference.path()))
}

/// `A /new 12B`, `D /gone`, `M /both content, mode 0644 → 0755`.
fn file_line(difference: &Difference) -> String {
    let path = path(difference);
    match difference {
        Difference::Added(node) => format!("A  {path}{}", size(&node.entry)),
        Difference::Removed(_) => format!("D  {path}"),
        Difference::Changed(nodes, aspects) => {
            let (a, b) = &**nodes;
            let aspects: Vec<String> = aspects
                .iter()
                .map(|aspect| aspect_text(*aspect, &a.entry, &b.entry))
                .collect();
            format!("M  {path}  {}", aspects.join(", "))
        }
    }
}

fn size(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::File => format!("  {}", format::bytes(entry.size)),
        EntryKind::Symlink => format!("  → {}", String::from_utf8_lossy(&entry.link)),
        EntryKind::Directory { .. } => "/".to_owned(),
        _ => String::new(),
    }
}

fn aspect_text(aspect: Aspect, a: &Entry, b: &Entry) -> String {
    let kind = |entry: &Entry| match entry.kind {
        EntryKind::File | EntryKind::HardLink => "file",
        EntryKind::Directory { .. } => "directory",
        EntryKind::Symlink => "link",
        EntryKind::CharDevice | EntryKind::BlockDevice => "device",
        EntryKind::Fifo => "pipe",
        EntryKind::Whiteout => "nothing",
    };
    let link = |entry: &Entry| String::from_utf8_lossy(&entry.link).into_owned();
    match aspect {
        Aspect::Kind => format!("{} → {}", kind(a), kind(b)),
        Aspect::Mode => format!("mode {:04o} → {:04o}", a.mode, b.mode),
        Aspect::Owner => format!("owner {}:{} → {}:{}", a.uid, a.gid, b.uid, b.gid),
        Aspect::Content if a.size == b.size => "content".to_owned(),
        Aspect::Content => format!(
            "content {} → {}",
            format::bytes(a.size),
            format::bytes(b.size)
        ),
        Aspect::Target => format!("target {} → {}", link(a), link(b)),
        Aspect::Device => format!("device {:?} → {:?}", a.device, b.device),
        Aspect::Xattrs => "extended attributes".to_owned(),
        Aspect::Time => "time".to_owned(),
    }
}

fn file_json(difference: &Difference) -> Value {
    let (kind, aspects): (&str, &[Aspect]) = match difference {
        Difference::Added(_) => ("added", &[]),
        Difference::Removed(_) => ("removed", &[]),
        Difference::Changed(_, aspects) => ("changed", aspects),
    };
    let names: Vec<String> = aspects
        .iter()
        .map(|aspect| format!("{aspect:?}").to_lowercase())
        .collect();
    json!({"Path": path(difference), "Change": kind, "In": names})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_compared_member_by_member() {
        let config = |text: &str| text.as_bytes().to_vec();
        let a = config(
            r#"{"os":"linux","created":"1","config":{"Env":["A=1","B=2"],"Cmd":["a"],"Labels":{"x":"1"}}}"#,
        );
        let b = config(
            r#"{"os":"linux","created":"2","config":{"Env":["A=1","B=3","C=4"],"User":"u","Labels":{"x":"2"}}}"#,
        );
        let found: Vec<String> = config_differences(&a, &b)
            .into_iter()
            .map(|(name, a, b)| format!("{name}: {a} {b}"))
            .collect();
        assert_eq!(
            found,
            [
                r#"config.Cmd: ["a"] null"#,
                r#"config.Env.B: "2" "3""#,
                r#"config.Env.C: null "4""#,
                r#"config.Labels.x: "1" "2""#,
                r#"config.User: null "u""#,
            ]
        );
        assert!(config_differences(&a, &a).is_empty());
        assert!(config_differences(b"not json", b"{}").is_empty());
    }
}
