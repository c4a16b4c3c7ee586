//! Real Dockerfiles become graphs, every stage of them.

use std::collections::BTreeMap;
use std::fs;

use super::BaseImage;
use super::lowering::lower;
use super::plan::{Options, Plan};
use crate::digest::{Digest, ImageId};
use crate::dockerfile::corpus::{corpus, entries};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::{self, diagnostic};
use crate::image::config::ImageConfig;

/// What can't be lowered for Linux, with the reason: a destination that ends with a backslash is a
/// folder on Windows only.
const REFUSED: [(&str, &str); 1] = [(
    "docker-library_mongo__7.0_windows_nanoserver-ltsc2022_Dockerfile",
    "the destination must be a directory and end with a /",
)];

/// Lowers one stage, with images that are there for the asking.
fn graph(text: &str, target: usize) -> Result<usize, Vec<Diagnostic>> {
    let dockerfile = dockerfile::parse(text)?;
    let options = Options {
        target: Some(target.to_string()),
        ..Options::on("linux/amd64".parse().unwrap())
    };
    let plan = Plan::new(dockerfile, options)?;
    let mut images = BTreeMap::new();
    for key in plan.missing_images(&images)?.into_keys() {
        let image = BaseImage {
            id: ImageId(Digest::of(key.name.as_bytes())),
            name: key.name.clone(),
            repository: None,
            config: ImageConfig::default(),
            layers: Vec::new(),
            platform: key.platform.clone(),
        };
        images.insert(key, image);
    }
    let lowered = lower(&plan, &images)?;
    Ok(lowered.graph.vertices.len())
}

fn is_refused(name: &str, errors: &[Diagnostic]) -> bool {
    let said = |words: &str| errors.iter().any(|error| error.message.contains(words));
    REFUSED
        .iter()
        .any(|(file, words)| *file == name && said(words))
}

#[test]
fn every_real_dockerfile_lowers_to_a_graph() {
    let Some(folder) = corpus("dockerfiles") else {
        return;
    };
    let (mut stages, mut vertices, mut refused) = (0, 0, 0);
    let mut failed = Vec::new();
    for path in entries(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".tsv") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for target in 0..dockerfile::parse(&text).unwrap().stages.len() {
            stages += 1;
            match graph(&text, target) {
                Ok(count) => vertices += count,
                Err(errors) if is_refused(&name, &errors) => refused += 1,
                Err(errors) => failed.push(diagnostic::render_all(&errors, &name, &text, false)),
            }
        }
    }
    assert_eq!(refused, REFUSED.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{stages} stages, {vertices} vertices");
}
