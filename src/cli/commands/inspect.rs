//! `rbuild inspect`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Context, find_image_for, layers};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::template::Format;
use crate::digest::ImageId;
use crate::image::config::ImageConfig;
use crate::platform::Platform;
use crate::store::{ImageRecord, Store};

/// Options of `rbuild inspect`.
#[derive(Args, Debug)]
#[command(visible_alias = "image inspect")]
pub struct InspectArguments {
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Print what a template makes of each image: '{{.Config.User}}', or json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<Format>,

    /// Show what each layer added, hid and wasted
    #[arg(long)]
    pub(in crate::cli) layers: bool,

    /// The platform to show of an image for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// What the names stand for; there are only images
    #[arg(long = "type", value_name = "image", hide = true)]
    kind: Option<String>,
}

/// Prints everything that is known of images.
///
/// # Errors
/// When there's no such image.
pub fn run(arguments: InspectArguments, context: &Context) -> Result<(), Failure> {
    if let Some(kind) = arguments.kind.filter(|kind| kind != "image") {
        return Err(Failure::user(format!("rbuild has no {kind}s, only images")));
    }
    let store = context.open_store()?;
    let mut documents = Vec::new();
    // What was found before an image that isn't there is shown.
    let mut missing = None;
    for name in &arguments.images {
        match find_image_for(&store, name, arguments.platform.as_ref()) {
            Ok(id) if arguments.layers => {
                documents.push(layers::document(&store, context, name, &id)?);
            }
            Ok(id) => documents.push(document(&store, &id)?),
            Err(failure) => {
                missing = Some(failure);
                break;
            }
        }
    }
    let text = match arguments.format {
        Some(format) => format.rows(&documents, &Value::Null)?,
        None if arguments.layers => documents.iter().map(layers::text).collect(),
        None => pretty(&Value::Array(documents)),
    };
    output::print(&text)?;
    missing.map_or(Ok(()), Err)
}

/// Indented by four spaces, as Docker does.
pub(super) fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned() + "\n",
        // A value is always JSON; without its indentation it is so, too.
        Err(_) => format!("{value}\n"),
    }
}

/// An image of the store with its config, read.
pub(super) fn read_image(
    store: &Store,
    id: &ImageId,
) -> Result<(ImageRecord, Vec<u8>, ImageConfig), Failure> {
    let lost = || {
        Failure::user(format!("the config of the image {id} is not in the store"))
            .hint("build or pull it again")
    };
    let record = store.image(id)?.ok_or_else(lost)?;
    let bytes = store.image_config(id)?;
    let bytes = bytes.ok_or_else(lost)?;
    let config =
        ImageConfig::from_bytes(&bytes).map_err(|error| Failure::user(error.to_string()))?;
    Ok((record, bytes, config))
}

/// The members that `docker image inspect` has, as far as they mean something here.
fn document(store: &Store, id: &ImageId) -> Result<Value, Failure> {
    let (record, bytes, config) = read_image(store, id)?;
    let names = |names: Vec<crate::reference::Reference>| -> Vec<String> {
        let names = names.iter().filter(|name| name.digest().is_none());
        names.map(crate::reference::Reference::familiar).collect()
    };
    let digests: Vec<String> = store
        .manifests(id)?
        .iter()
        .map(crate::reference::Reference::familiar)
        .collect();
    let raw: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut document = json!({
        "Id": id.to_string(),
        "RepoTags": names(store.names(id)?),
        "RepoDigests": digests,
        "Parent": "",
        "Comment": raw.get("comment").cloned().unwrap_or_else(|| "".into()),
        "Created": config.created.map(|time| time.to_string()),
        "Author": config.author,
        "Config": execution_config(&raw),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": super::images::size(store, &record)?,
        "RootFS": {
            "Type": "layers",
            "Layers": config.rootfs.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
    });
    if let Value::Object(members) = &mut document {
        let mut add = |name: &str, text: String| {
            if !text.is_empty() {
                members.insert(name.to_owned(), text.into());
            }
        };
        add("Variant", config.variant);
        add("OsVersion", config.os_version);
    }
    Ok(document)
}

/// The config's `config` member, with all the members that scripts ask for.
fn execution_config(raw: &Value) -> Value {
    const ALWAYS: [&str; 13] = [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
        "Shell",
        "ArgsEscaped",
    ];
    let mut given = match raw.get("config") {
        Some(Value::Object(members)) => members.clone(),
        _ => Map::new(),
    };
    let mut members = Map::new();
    for name in ALWAYS {
        let default = match name {
            "User" | "WorkingDir" | "StopSignal" => "".into(),
            "ArgsEscaped" => false.into(),
            _ => Value::Null,
        };
        let value = given.shift_remove(name).unwrap_or(default);
        members.insert(name.to_owned(), value);
    }
    members.extend(given);
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_that_scripts_ask_for_is_there() {
        let raw = json!({"config": {"Cmd": ["sh"], "X": 1}});
        let config = execution_config(&raw);
        assert_eq!(config["Cmd"], json!(["sh"]));
        assert_eq!(config["User"], "");
        assert_eq!(config["Labels"], Value::Null);
        assert_eq!(config["X"], 1);
        assert_eq!(execution_config(&Value::Null)["Env"], Value::Null);
    }

    #[test]
    fn documents_are_indented_as_dockers() {
        assert_eq!(
            pretty(&json!([{"a": 1}])),
            "[\n    {\n        \"a\": 1\n    }\n]\n"
        );
    }
}
