//! Any text as a Dockerfile, from its lines to a graph.
//!
//! Nothing panics, every diagnostic can be shown, every span lies in the text, and what has been
//! refused once is refused every time.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild::digest::{Digest, ImageId};
use rbuild::dockerfile::diagnostic::{Diagnostic, render_all};
use rbuild::dockerfile::lint::{self, Checks};
use rbuild::dockerfile::span::Span;
use rbuild::dockerfile::{self, Dockerfile, targets};
use rbuild::graph::BaseImage;
use rbuild::graph::lowering::lower;
use rbuild::graph::outline::outline;
use rbuild::graph::plan::{Options, Plan};
use rbuild::image::config::ImageConfig;

fn options() -> Options {
    Options {
        build_args: BTreeMap::from([("VERSION".to_owned(), "1.0".to_owned())]),
        ..Options::on("linux/amd64".parse().expect("a platform"))
    }
}

/// Lowers all stages, with images that are there for the asking.
fn graph(dockerfile: Dockerfile) -> Result<(), Vec<Diagnostic>> {
    let plan = Plan::new(dockerfile, options())?.covering_all_stages();
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
    if let Ok(outline) = outline(&plan, &images) {
        let _ = outline.to_text();
    }
    lower(&plan, &images).map(|_| ())
}

fn is_inside(span: Span, text: &str) -> bool {
    let lines = text.lines().count().max(1) + 1;
    span.first_line <= span.last_line && span.last_line <= lines
}

fuzz_target!(|text: &str| {
    if let Ok(checks) = Checks::of_dockerfile(text) {
        for warning in lint::text(text, &checks) {
            let _ = warning.short();
        }
    }
    let _ = lint::unknown_names(text);
    match dockerfile::parse(text) {
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                assert!(is_inside(error.span, text));
                assert!(
                    error
                        .range(text)
                        .is_none_or(|range| range.start <= range.end)
                );
            }
            if let (Some(partial), _) = dockerfile::read(text) {
                let _ = graph(partial);
            }
            let _ = render_all(&errors, "Dockerfile", text, true);
        }
        Ok(dockerfile) => {
            assert!(!dockerfile.stages.is_empty());
            let _ = targets::to_text(&dockerfile);
            for error in graph(dockerfile).err().unwrap_or_default() {
                assert!(is_inside(error.span, text));
                let _ = error.render("Dockerfile", text, false);
            }
        }
    }
});
