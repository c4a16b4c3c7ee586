//! What a build leaves for the user to read, and for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use crate::build::{BuildResult, Output};
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
    let mut out = format!(
        "\nbuilt {}\nin {}{cached}\nsize {}{compressed}\n",
        result.image_id,
        format::seconds(elapsed),
        format::bytes(result.size),
    );
    let stored = outputs.contains(&Output::Store);
    let pushed = outputs.contains(&Output::Registry);
    for tag in &result.tags {
        let _ = match result.manifest.filter(|_| pushed) {
            Some(digest) => writeln!(out, "pushed {}@{digest}", tag.familiar()),
            None => writeln!(out, "named {}", tag.familiar()),
        };
    }
    for output in outputs {
        if let Output::Oci { dest, .. } = output
            && dest.as_os_str() != "-"
        {
            let _ = writeln!(out, "wrote {}", dest.display());
        }
    }
    if stored && !pushed {
        let _ = writeln!(out, "{} {}", style.hint("next:"), next(result));
    }
    out
}

fn next(result: &BuildResult) -> String {
    match result.tags.first() {
        None => {
            let id: String = result.image_id.hex().chars().take(12).collect();
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

/// The content of `--metadata-file`, with BuildKit's keys.
pub(super) fn metadata(result: &BuildResult) -> String {
    let mut object = serde_json::Map::new();
    let mut set = |key: &str, value: String| object.insert(key.to_owned(), value.into());
    set("containerimage.config.digest", result.image_id.to_string());
    if let Some(digest) = result.manifest {
        set("containerimage.digest", digest.to_string());
    }
    if !result.tags.is_empty() {
        let names: Vec<String> = result.tags.iter().map(ToString::to_string).collect();
        set("image.name", names.join(","));
    }
    format!("{:#}\n", serde_json::Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{BlobDigest, Digest, ImageId};

    fn result(tags: &[&str]) -> BuildResult {
        BuildResult {
            image_id: ImageId(Digest::of(b"config")),
            manifest: Some(BlobDigest(Digest::of(b"manifest"))),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            size: 4_567_000,
            compressed_size: tags.is_empty().then_some(1_230_000),
            cached_steps: 3,
            steps: 9,
        }
    }

    fn shown(tags: &[&str], outputs: &[Output]) -> String {
        summary(
            &result(tags),
            outputs,
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
            shown(&[], &[Output::Store]),
            format!(
                "{compressed}next: `rbuild tag {} NAME` names it, `rbuild images` lists all\n",
                &id.hex()[..12]
            )
        );
        assert_eq!(
            shown(&["myapp:latest"], &[Output::Store]),
            format!(
                "{built}named myapp:latest\nnext: `rbuild tag myapp:latest REGISTRY/myapp:latest` and \
                 `rbuild push REGISTRY/myapp:latest` publish it\n"
            )
        );
        assert_eq!(
            shown(&["r.io/app:v1"], &[Output::Store]),
            format!("{built}named r.io/app:v1\nnext: `rbuild push r.io/app:v1` publishes it\n")
        );
        assert_eq!(
            shown(&["r.io/app:v1"], &[Output::Store, Output::Registry]),
            format!("{built}pushed r.io/app:v1@{}\n", Digest::of(b"manifest"))
        );
        let oci = Output::Oci {
            dest: "a.tar".into(),
            tar: true,
        };
        assert_eq!(shown(&[], &[oci]), format!("{compressed}wrote a.tar\n"));
    }

    #[test]
    fn metadata_has_buildkits_keys() {
        assert_eq!(
            metadata(&result(&["app:v1", "r.io/app:v1"])),
            format!(
                "{{\n  \"containerimage.config.digest\": \"{}\",\n  \"containerimage.digest\": \"{}\",\n  \
                 \"image.name\": \"docker.io/library/app:v1,r.io/app:v1\"\n}}\n",
                Digest::of(b"config"),
                Digest::of(b"manifest")
            )
        );
    }
}
