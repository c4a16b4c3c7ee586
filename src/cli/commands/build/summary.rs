//! What a build leaves for the user to read, and for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use crate::build::{BuildResult, Output, OutputTarget};
use crate::cli::ui::format;
use crate::cli::ui::style::Style;
use crate::reference::{DEFAULT_DOMAIN, Reference};

/// The last lines of a successful build: what was made, how long it took, what to do next.
pub(super) fn summary(
    result: &BuildResult,
    outputs: &[Output],
    elapsed: Duration,
    style: Style,
) -> String {
    let cached = match result.cached_steps {
        0 => String::new(),
        n if n == result.steps => ", every step cached".to_owned(),
        n => format!(", {n} of {} steps cached", result.steps),
    };
    let compressed = match result.compressed_size {
        Some(size) => format!(" ({} compressed)", format::bytes(size)),
        None => String::new(),
    };
    let built: Vec<String> = match result.images.as_slice() {
        [one] => vec![format!("built {}", one.id)],
        several => several
            .iter()
            .map(|image| format!("built {} for {}", image.id, image.platform))
            .collect(),
    };
    let mut out = format!(
        "\n{}\nin {}{cached}\nsize {}{compressed}\n",
        built.join("\n"),
        format::seconds(elapsed),
        format::bytes(result.size),
    );
    let stored = has(outputs, |target| *target == OutputTarget::Store);
    let pushed = has(outputs, |target| {
        matches!(target, OutputTarget::Registry { .. })
    });
    let by_digest = has(outputs, |target| {
        matches!(target, OutputTarget::Registry { by_digest: true })
    });
    for tag in &result.tags {
        let name = tag.familiar();
        let _ = match result.manifest.as_ref().filter(|_| pushed) {
            Some(manifest) if by_digest => {
                writeln!(out, "pushed {}@{}", tag.familiar_name(), manifest.digest)
            }
            Some(manifest) => writeln!(out, "pushed {name}@{}", manifest.digest),
            None => writeln!(out, "named {name}"),
        };
    }
    if let Some(engine) = result.loaded {
        let _ = writeln!(out, "loaded into {}", engine.name());
    }
    for output in outputs {
        if let Some(dest) = output.target.dest()
            && !output.target.is_stdout()
        {
            let _ = writeln!(out, "wrote {}", dest.display());
        }
    }
    if stored && !pushed && !result.images.is_empty() {
        let _ = writeln!(out, "{} {}", style.hint("next:"), next(result));
    }
    out
}

fn has(outputs: &[Output], is_wanted: impl Fn(&OutputTarget) -> bool) -> bool {
    outputs.iter().any(|output| is_wanted(&output.target))
}

fn next(result: &BuildResult) -> String {
    match result.tags.first() {
        None if result.images.len() > 1 => {
            "build with `-t NAME` to give them one name, `rbuild images` lists all".to_owned()
        }
        None => {
            let first = result.images.first();
            let id = first.map_or_else(String::new, |image| image.id.hex());
            let id: String = id.chars().take(12).collect();
            format!("`rbuild tag {id} NAME` names it, `rbuild images` lists all")
        }
        Some(tag) if is_official(tag) => {
            let name = tag.familiar();
            format!(
                "`rbuild tag {name} REGISTRY/{name}` and `rbuild push REGISTRY/{name}` publish it"
            )
        }
        Some(tag) => format!("`rbuild push {}` publishes it", tag.familiar()),
    }
}

/// Names without a registry and an owner belong to Docker Hub's official images: nobody else can
/// push there.
fn is_official(reference: &Reference) -> bool {
    reference.domain() == DEFAULT_DOMAIN && reference.repository().starts_with("library/")
}

/// What a build is known by afterwards: the image's id; of several images the digest of their index,
/// as in buildx.
pub(super) fn id(result: &BuildResult) -> String {
    match (result.images.as_slice(), &result.manifest) {
        ([_, _, ..], Some(index)) => index.digest.to_string(),
        (images, _) => images
            .first()
            .map_or_else(String::new, |image| image.id.to_string()),
    }
}

/// The content of `--metadata-file`, with BuildKit's keys.
pub(super) fn metadata(result: &BuildResult) -> String {
    let mut object = serde_json::Map::new();
    let mut set = |key: &str, value: serde_json::Value| object.insert(key.to_owned(), value);
    if let [image] = result.images.as_slice() {
        set("containerimage.config.digest", image.id.to_string().into());
    }
    if let Some(manifest) = &result.manifest {
        set("containerimage.descriptor", manifest.to_json());
        let digest = manifest.digest.to_string();
        set("containerimage.digest", digest.into());
    }
    if !result.tags.is_empty() {
        let names: Vec<String> = result.tags.iter().map(ToString::to_string).collect();
        set("image.name", names.join(",").into());
    }
    format!("{:#}\n", serde_json::Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::BuiltImage;
    use crate::digest::{Digest, ImageId};
    use crate::export::ArchiveFormat;
    use crate::image::manifest::{Descriptor, media_type};
    use crate::platform::Platform;

    fn result(tags: &[&str]) -> BuildResult {
        BuildResult {
            images: vec![BuiltImage {
                platform: Platform::new("linux", "amd64", None),
                id: ImageId(Digest::of(b"config")),
            }],
            manifest: Some(
                Descriptor::of(media_type::OCI_MANIFEST, b"manifest").with_annotation("a", "b"),
            ),
            loaded: None,
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            size: 4_567_000,
            compressed_size: tags.is_empty().then_some(1_230_000),
            cached_steps: 3,
            steps: 9,
        }
    }

    const STORE: OutputTarget = OutputTarget::Store;
    const REGISTRY: OutputTarget = OutputTarget::Registry { by_digest: false };

    fn shown(tags: &[&str], targets: &[OutputTarget]) -> String {
        let outputs: Vec<Output> = targets.iter().cloned().map(Output::new).collect();
        summary(
            &result(tags),
            &outputs,
            Duration::from_millis(12_340),
            Style::PLAIN,
        )
    }

    #[test]
    fn the_summary_says_what_to_do_next() {
        let id = Digest::of(b"config");
        let built = format!("\nbuilt {id}\nin 12.3s, 3 of 9 steps cached\nsize 4.57MB\n");
        let compressed = built.replace("4.57MB", "4.57MB (1.23MB compressed)");
        assert_eq!(
            shown(&[], &[STORE]),
            format!(
                "{compressed}next: `rbuild tag {} NAME` names it, `rbuild images` lists all\n",
                &id.hex()[..12]
            )
        );
        assert_eq!(
            shown(&["myapp:latest"], &[STORE]),
            format!(
                "{built}named myapp:latest\nnext: `rbuild tag myapp:latest REGISTRY/myapp:latest` and \
                 `rbuild push REGISTRY/myapp:latest` publish it\n"
            )
        );
        assert_eq!(
            shown(&["r.io/app:v1"], &[STORE]),
            format!("{built}named r.io/app:v1\nnext: `rbuild push r.io/app:v1` publishes it\n")
        );
        assert_eq!(
            shown(&["r.io/app:v1"], &[STORE, REGISTRY]),
            format!("{built}pushed r.io/app:v1@{}\n", Digest::of(b"manifest"))
        );
        assert_eq!(
            shown(
                &["r.io/app:latest"],
                &[STORE, OutputTarget::Registry { by_digest: true }]
            ),
            format!("{built}pushed r.io/app@{}\n", Digest::of(b"manifest"))
        );
        let archive = |dest: &str| OutputTarget::Archive {
            format: ArchiveFormat::Oci,
            dest: dest.into(),
        };
        let folder = OutputTarget::Folder { dest: "out".into() };
        assert_eq!(
            shown(&[], &[archive("a.tar"), archive("-"), folder]),
            format!("{compressed}wrote a.tar\nwrote out\n")
        );
    }

    #[test]
    fn metadata_has_buildkits_keys() {
        let text = metadata(&result(&["app:v1", "r.io/app:v1"]));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "containerimage.config.digest": Digest::of(b"config").to_string(),
                "containerimage.descriptor": {
                    "mediaType": media_type::OCI_MANIFEST,
                    "digest": Digest::of(b"manifest").to_string(),
                    "size": 8,
                    "annotations": {"a": "b"},
                },
                "containerimage.digest": Digest::of(b"manifest").to_string(),
                "image.name": "docker.io/library/app:v1,r.io/app:v1",
            })
        );
        assert!(text.ends_with("}\n"));
    }
}
