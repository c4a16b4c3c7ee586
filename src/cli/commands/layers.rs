//! `rbuild inspect --layers`: what each layer added, hid and wasted.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::inspect::read_image;
use super::{Context, images};
use crate::build;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::format;
use crate::digest::ImageId;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::view::View;
use crate::store::Store;

/// What one layer did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Deeds {
    /// Files and links that were not there before.
    added: usize,
    /// Files and links that stand in place of others.
    changed: usize,
    /// What was removed.
    removed: usize,
    /// The bytes of the layer's files.
    bytes: u64,
    /// The bytes of lower layers' files that are not seen any more because of it.
    hidden: u64,
    /// The bytes of its own files that higher layers hide.
    wasted: u64,
}

/// The layers of an image as JSON.
pub(super) fn document(
    store: &Store,
    context: &Context,
    name: &str,
    id: &ImageId,
) -> Result<Value, Failure> {
    let (record, _, config) = read_image(store, id)?;
    let environment = context.build_environment(None)?;
    let tree = build::image_tree(&environment, &record.layers)
        .map_err(|error| Failure::of_build(error, context.style))?;
    let deeds = deeds(tree.view());
    let mut steps = config.history.iter().filter(|entry| !entry.empty_layer);
    let mut layers = Vec::new();
    for (position, deeds) in deeds.iter().enumerate() {
        let step = steps.next();
        layers.push(json!({
            "DiffID": config.rootfs.diff_ids.get(position).map(ToString::to_string),
            "CreatedBy": step.map(|step| step.created_by.clone()),
            "Size": images::layer_size(store, record.layers[position])?,
            "Files": deeds.bytes,
            "Added": deeds.added,
            "Changed": deeds.changed,
            "Removed": deeds.removed,
            "Hidden": deeds.hidden,
            "Wasted": deeds.wasted,
        }));
    }
    let wasted: u64 = deeds.iter().map(|deeds| deeds.wasted).sum();
    Ok(json!({"Image": name, "Id": id.to_string(), "Layers": layers, "Wasted": wasted}))
}

/// The same for people, the lowest layer first.
pub(super) fn text(document: &Value) -> String {
    let bytes = |value: &Value| format::bytes(value.as_u64().unwrap_or(0));
    let rows = document["Layers"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = rows
        .enumerate()
        .map(|(position, layer)| {
            let step = layer["CreatedBy"].as_str().unwrap_or("");
            let step: String = step.replace(['\t', '\n'], " ").chars().take(50).collect();
            vec![
                (position + 1).to_string(),
                bytes(&layer["Files"]),
                format!(
                    "+{} ~{} -{}",
                    layer["Added"], layer["Changed"], layer["Removed"]
                ),
                bytes(&layer["Hidden"]),
                bytes(&layer["Wasted"]),
                step,
            ]
        })
        .collect();
    let table = output::table(
        &[
            "LAYER",
            "FILES",
            "ADDED ~CHANGED -REMOVED",
            "HIDES",
            "WASTED",
            "CREATED BY",
        ],
        &rows,
    );
    format!(
        "{} {}\n\n{table}\nwasted: {} in files that higher layers hide\n",
        document["Image"].as_str().unwrap_or(""),
        document["Id"].as_str().unwrap_or(""),
        bytes(&document["Wasted"])
    )
}

fn deeds(whole: &View) -> Vec<Deeds> {
    let mut below = View::default();
    let mut all = Vec::with_capacity(whole.layers().len());
    for (position, index) in whole.layers().iter().enumerate() {
        let mut deeds = Deeds::default();
        let is_seen = |path: &[u8]| whole.get(path).is_some_and(|found| found.layer == position);
        // Files of which another name is seen, even where their own is hidden.
        let seen_links: BTreeSet<&[u8]> = index
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::HardLink && is_seen(&entry.path))
            .map(|entry| entry.link.as_slice())
            .collect();
        for entry in &index.entries {
            deeds.count(entry, &below);
            let is_wasted = !is_seen(&entry.path) && !seen_links.contains(entry.path.as_slice());
            if entry.is_file() && is_wasted {
                deeds.wasted += entry.size;
            }
        }
        below.push(Arc::clone(index));
        all.push(deeds);
    }
    all
}

impl Deeds {
    fn count(&mut self, entry: &Entry, below: &View) {
        let before = below.get(&entry.path);
        match entry.kind {
            EntryKind::Whiteout => {
                if before.is_some() {
                    self.removed += 1;
                    self.hidden += bytes_in(below, &entry.path);
                }
            }
            EntryKind::Directory { opaque } => {
                let was_directory = before.is_some_and(|found| found.entry.is_directory());
                if opaque && was_directory {
                    self.removed += below.children(&entry.path).len();
                    self.hidden += bytes_in(below, &entry.path);
                }
            }
            _ => {
                if entry.is_file() {
                    self.bytes += entry.size;
                }
                match before {
                    Some(_) => {
                        self.changed += 1;
                        self.hidden += bytes_in(below, &entry.path);
                    }
                    None => self.added += 1,
                }
            }
        }
    }
}

/// The bytes of all files at and below a path.
fn bytes_in(view: &View, path: &[u8]) -> u64 {
    let files = view.walk(path).into_iter();
    files
        .filter(|(_, found)| found.entry.is_file())
        .map(|(_, found)| found.entry.size)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::Index;

    fn file(path: &str, size: u64) -> Entry {
        Entry {
            kind: EntryKind::File,
            size,
            ..Entry::directory(path.as_bytes().to_vec())
        }
    }

    fn other(path: &str, kind: EntryKind) -> Entry {
        Entry {
            kind,
            ..Entry::directory(path.as_bytes().to_vec())
        }
    }

    #[test]
    fn layers_add_hide_and_waste() {
        let directory = |opaque| EntryKind::Directory { opaque };
        let layers = [
            vec![
                other("dir", directory(false)),
                file("dir/a", 10),
                file("dir/b", 20),
                file("keep", 1),
            ],
            vec![
                other("dir", directory(false)),
                file("dir/a", 11),
                other("dir/b", EntryKind::Whiteout),
                file("new", 5),
            ],
            vec![other("dir", directory(true)), file("dir/c", 7)],
        ];
        let layers = layers.map(|entries| Arc::new(Index::new(entries)));
        let deeds = deeds(&View::new(layers.to_vec()));
        let expected = [
            (3, 0, 0, 31, 0, 30),
            (1, 1, 1, 16, 30, 11),
            (1, 0, 1, 7, 11, 0),
        ];
        for (deeds, (added, changed, removed, bytes, hidden, wasted)) in deeds.iter().zip(expected)
        {
            let expected = Deeds {
                added,
                changed,
                removed,
                bytes,
                hidden,
                wasted,
            };
            assert_eq!(*deeds, expected);
        }
    }
}
