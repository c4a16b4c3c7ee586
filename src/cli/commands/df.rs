//! `rbuild df`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{Context, history::ago};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::template::Format;
use crate::cli::ui::format;
use crate::digest::ImageId;
use crate::reference::Reference;
use crate::store::{LayerUsage, Store, Usage};
use crate::time::Timestamp;

/// Options of `rbuild df`.
#[derive(Args, Debug)]
#[command(visible_aliases = ["system df", "buildx du"])]
pub struct DfArguments {
    /// A line for each image, layer and cache mount; also -v
    #[arg(long)]
    pub(in crate::cli) details: bool,

    /// Print rows as a template says: 'table {{.Type}}\t{{.Size}}', '{{.Reclaimable}}' or json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

/// Shows what the store takes on the disk.
///
/// # Errors
/// When the store can't be read.
pub fn run(arguments: DfArguments, context: &Context) -> Result<(), Failure> {
    let store = context.open_store()?;
    let usage = store.usage()?;
    if arguments.details {
        return output::print(&details(&store, &usage, Timestamp::now())?);
    }
    let images = store.images()?;
    let named: Vec<ImageId> = images
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(_, image)| image.id)
        .collect();
    let rows = summary(&usage, images.len(), &named);
    let headings = json!({
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    });
    const TABLE: &str =
        "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let is_table = arguments.format.is_none();
    let format = arguments.format.map_or_else(|| TABLE.parse(), Ok)?;
    let mut text = format.rows(&rows, &headings)?;
    if is_table {
        let total = format::bytes(usage.total);
        text.push_str(&format!("\n{total} in {}\n", store.root().display()));
    }
    output::print(&text)
}

/// One row for each kind of thing. What is reclaimable is what `rbuild prune` would remove.
fn summary(usage: &Usage, images: usize, named: &[ImageId]) -> Vec<Value> {
    let sum = |layers: &[&LayerUsage]| -> u64 { layers.iter().map(|layer| layer.bytes).sum() };
    let select = |wanted: &dyn Fn(&LayerUsage) -> bool| -> Vec<&LayerUsage> {
        usage.layers.iter().filter(|layer| wanted(layer)).collect()
    };
    let of_images = select(&|layer| !layer.images.is_empty());
    let of_dangling = select(&|layer| {
        !layer.images.is_empty() && !layer.images.iter().any(|image| named.contains(image))
    });
    let cache = select(&|layer| layer.images.is_empty());
    let mounts: u64 = usage.cache_mounts.iter().map(|mount| mount.bytes).sum();
    let repositories: u64 = usage.repositories.iter().map(|one| one.bytes).sum();
    let cache_bytes = sum(&cache) + usage.other_blobs + repositories;
    let cached = cache.len() + usage.repositories.len();
    let row = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64| {
        let percent = (reclaimable * 100).checked_div(size).unwrap_or(0);
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": format::bytes(size),
            "Reclaimable": format!("{} ({percent}%)", format::bytes(reclaimable)),
        })
    };
    vec![
        row(
            "Images",
            images,
            named.len(),
            sum(&of_images) + usage.configs,
            sum(&of_dangling),
        ),
        row("Build Cache", cached, 0, cache_bytes, cache_bytes),
        row("Cache Mounts", usage.cache_mounts.len(), 0, mounts, mounts),
    ]
}

fn details(store: &Store, usage: &Usage, now: Timestamp) -> Result<String, Failure> {
    let mut shared: BTreeMap<ImageId, (u64, u64)> = BTreeMap::new();
    for layer in &usage.layers {
        for image in &layer.images {
            let (total, own) = shared.entry(*image).or_default();
            *total += layer.bytes;
            if layer.images.len() == 1 {
                *own += layer.bytes;
            }
        }
    }
    let mut rows = Vec::new();
    for (names, image) in store.images()? {
        let (total, own) = shared.get(&image.id).copied().unwrap_or_default();
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        rows.push(vec![
            match names.is_empty() {
                true => "<none>".to_owned(),
                false => names.join(", "),
            },
            image.id.hex().chars().take(12).collect(),
            format::bytes(total),
            format::bytes(total - own),
            format::bytes(own),
        ]);
    }
    let mut out = String::from("Images:\n\n");
    out.push_str(&output::table(
        &["NAMES", "IMAGE ID", "SIZE", "SHARED", "UNIQUE"],
        &rows,
    ));
    let layers = usage.layers.iter().filter(|layer| layer.images.is_empty());
    let repositories = usage.repositories.iter().map(|one| {
        vec![
            "-".to_owned(),
            "git repository".to_owned(),
            format::bytes(one.bytes),
            ago(one.used, now),
        ]
    });
    let rows: Vec<Vec<String>> = layers
        .map(|layer| {
            let kind = if layer.is_base { "base image" } else { "step" };
            vec![
                layer.id.number().to_string(),
                kind.to_owned(),
                format::bytes(layer.bytes),
                ago(layer.used, now),
            ]
        })
        .chain(repositories)
        .collect();
    out.push_str("\nBuild cache that no image needs:\n\n");
    out.push_str(&output::table(
        &["LAYER", "OF A", "SIZE", "LAST USED"],
        &rows,
    ));
    let rows: Vec<Vec<String>> = usage
        .cache_mounts
        .iter()
        .map(|mount| {
            vec![
                mount.id.hex().chars().take(12).collect(),
                format::bytes(mount.bytes),
                ago(mount.used, now),
            ]
        })
        .collect();
    out.push_str("\nCache mounts:\n\n");
    out.push_str(&output::table(&["ID", "SIZE", "LAST USED"], &rows));
    Ok(out)
}
