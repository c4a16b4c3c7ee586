//! `rbuild history`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::inspect::read_image;
use super::{Context, find_image_for, images};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::template::Format;
use crate::cli::ui::format;
use crate::image::config::ImageConfig;
use crate::platform::Platform;
use crate::store::{ImageRecord, Store};
use crate::time::Timestamp;

/// Options of `rbuild history`.
#[derive(Args, Debug)]
#[command(visible_alias = "image history")]
pub struct HistoryArguments {
    /// Name or id of an image
    image: String,

    /// Print rows as a template says: 'table {{.CreatedBy}}\t{{.Size}}', '{{.ID}}' or json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Format>,

    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// The platform to show of an image for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Sizes and dates as people read them
    #[arg(short = 'H', long, default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    human: bool,
}

/// Prints how an image came to be, the newest step first.
///
/// # Errors
/// When there's no such image.
pub fn run(arguments: HistoryArguments, context: &Context) -> Result<(), Failure> {
    let store = context.open_store()?;
    let id = find_image_for(&store, &arguments.image, arguments.platform.as_ref())?;
    let (record, _, config) = read_image(&store, &id)?;
    let sizes = sizes(&store, &record, &config)?;
    let rows = rows(&arguments, &record, &config, &sizes, Timestamp::now());
    if arguments.quiet {
        let ids = rows.iter().filter_map(|row| row["ID"].as_str());
        return output::print(&ids.map(|id| format!("{id}\n")).collect::<String>());
    }
    let headings = json!({
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    });
    const TABLE: &str = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
    let format = arguments.format.map_or_else(|| TABLE.parse(), Ok)?;
    output::print(&format.rows(&rows, &headings)?)
}

/// The size of each step's layer in bytes, for each entry of the history.
fn sizes(store: &Store, record: &ImageRecord, config: &ImageConfig) -> Result<Vec<u64>, Failure> {
    let mut layers = record.layers.iter();
    let mut sizes = Vec::with_capacity(config.history.len());
    for entry in &config.history {
        let layer = match entry.empty_layer {
            true => None,
            false => layers.next(),
        };
        sizes.push(match layer {
            Some(layer) => images::layer_size(store, *layer)?,
            None => 0,
        });
    }
    Ok(sizes)
}

fn rows(
    arguments: &HistoryArguments,
    record: &ImageRecord,
    config: &ImageConfig,
    sizes: &[u64],
    now: Timestamp,
) -> Vec<Value> {
    let steps = config.history.iter().zip(sizes).rev().enumerate();
    let rows = steps.map(|(position, (entry, size))| {
        let id = match (position, arguments.no_trunc) {
            (0, true) => record.id.to_string(),
            (0, false) => record.id.hex().chars().take(12).collect(),
            _ => "<missing>".to_owned(),
        };
        let created_at = entry.created.map(|time| time.to_string());
        let since = entry.created.map(|time| ago(time, now));
        let mut created_by = entry.created_by.replace('\t', " ");
        if !arguments.no_trunc {
            created_by = format::shortened(&created_by, 45);
        }
        let since = match arguments.human {
            true => since,
            false => created_at.clone(),
        };
        json!({
            "ID": id,
            "CreatedSince": since.unwrap_or_else(|| "N/A".to_owned()),
            "CreatedAt": created_at.unwrap_or_default(),
            "CreatedBy": created_by,
            "Size": match arguments.human {
                true => format::bytes(*size),
                false => size.to_string(),
            },
            "Comment": entry.comment,
        })
    });
    rows.collect()
}

/// `3 days ago`.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.seconds() - time.seconds()).unwrap_or(0);
    format!("{} ago", format::rough(Duration::from_secs(seconds)))
}
