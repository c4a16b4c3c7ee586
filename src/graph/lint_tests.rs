use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::digest::DiffId;
use crate::digest::{Digest, ImageId};
use crate::dockerfile::corpus::corpus;
use crate::dockerfile::{self, lint};
use crate::graph::BaseLayer;
use crate::ignore::read_patterns;
use crate::image::config::ImageConfig;

fn options(case: &Value) -> Options {
    let mut build_args = BTreeMap::new();
    for (name, value) in case["attrs"].as_object().into_iter().flatten() {
        let name = name.strip_prefix("build-arg:").unwrap();
        build_args.insert(name.to_owned(), value.as_str().unwrap().to_owned());
    }
    Options {
        target: case["target"].as_str().map(str::to_owned),
        build_args,
        ..Options::on("linux/amd64".parse().unwrap())
    }
}

/// An image for this platform, with one layer and one variable.
fn image(name: &str, platform: &Platform) -> BaseImage {
    let mut config = ImageConfig::default();
    config.config.set_env("PYTHON_VERSION", "3");
    BaseImage {
        id: ImageId(Digest::of(name.as_bytes())),
        name: name.to_owned(),
        repository: None,
        layers: vec![BaseLayer {
            diff_id: DiffId(Digest::of(name.as_bytes())),
            blob: None,
            stored: None,
        }],
        platform: platform.clone(),
        config,
    }
}

/// Everything that is found in a case, on one line each; images are there for the asking.
fn found(case: &Value, covers_all: bool, actual: Option<&Platform>) -> Vec<String> {
    let text = case["dockerfile"].as_str().unwrap();
    let options = options(case);
    let checks = match options.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
        Some(written) => Checks::parse(written).map_err(|error| error.to_string()),
        None => Checks::of_dockerfile(text).map_err(|error| error.to_string()),
    };
    let checks = checks.unwrap();
    let ignore = case["dockerignore"].as_str().map(|text| {
        let patterns = read_patterns(text.as_bytes());
        Matcher::new(&patterns).unwrap()
    });
    let mut warnings = lint::text(text, &checks);
    if let Ok(dockerfile) = dockerfile::parse(text) {
        warnings.extend(from_lines(&dockerfile, &options, &checks));
        if let Ok(mut plan) = Plan::new(dockerfile, options) {
            if covers_all {
                plan = plan.covering_all_stages();
            }
            let mut images = BTreeMap::new();
            for key in plan.missing_images(&images).unwrap().into_keys() {
                let platform = actual.unwrap_or(&key.platform);
                images.insert(key.clone(), image(&key.name, platform));
            }
            warnings.extend(stages(&plan, &images, ignore.as_ref(), &checks));
        }
    }
    let mut short: Vec<String> = warnings.iter().map(Warning::short).collect();
    short.sort();
    short
}

#[test]
fn every_case_of_buildkits() {
    let Some(file) = corpus("lint/cases.json") else {
        return;
    };
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(cases.len() > 80);
    for case in &cases {
        let warnings = case["warnings"].as_array().unwrap();
        let mut expected: Vec<String> = warnings
            .iter()
            .map(|warning| {
                let (rule, detail) = (&warning["RuleName"], &warning["Detail"]);
                let (rule, detail) = (rule.as_str().unwrap(), detail.as_str().unwrap());
                format!("{rule}: {detail} (line {})", warning["Line"])
            })
            .collect();
        expected.sort();
        assert_eq!(found(case, false, None), expected, "{case:#}");
    }
}

#[test]
fn every_rule_is_buildkits() {
    let Some(file) = corpus("lint/rules.json") else {
        return;
    };
    let rules: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(rules.len(), Rule::ALL.len());
    for (rule, expected) in Rule::ALL.iter().zip(&rules) {
        assert_eq!(expected["rule"], rule.name());
        assert_eq!(expected["description"], rule.description());
        let url = expected["url"].as_str().filter(|url| !url.is_empty());
        assert_eq!(url, rule.url().as_deref(), "{}", rule.name());
        assert_eq!(expected["experimental"], rule.is_experimental());
        for example in expected["doc_good"].as_array().unwrap() {
            let text = format!("{}\n", example["dockerfile"].as_str().unwrap());
            let mut case = example.clone();
            case["dockerfile"] = if text.contains("FROM") || text.contains("from") {
                text.into()
            } else {
                format!("FROM a\n{text}").into()
            };
            let found = found(&case, true, None);
            let own = found.iter().find(|line| line.starts_with(rule.name()));
            assert_eq!(own, None, "{case:#}");
        }
    }
}

#[test]
fn every_case_of_our_own() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lint/cases.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for case in &cases {
        let expected: Vec<String> = serde_json::from_value(case["warnings"].clone()).unwrap();
        let covers_all = case["target"].is_null();
        assert_eq!(found(case, covers_all, None), expected, "{}", case["name"]);
    }
}

#[test]
fn an_image_for_another_machine_is_told() {
    let case = serde_json::json!({"dockerfile": "FROM busybox\nCOPY --from=alpine /x /\n"});
    let other: Platform = "linux/arm64".parse().unwrap();
    assert_eq!(
        found(&case, false, Some(&other)),
        [
            "InvalidBaseImagePlatform: Base image alpine was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 2)",
            "InvalidBaseImagePlatform: Base image busybox was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)",
        ]
    );
}

#[test]
fn names_that_secrets_are_called_by() {
    for (name, expected) in [
        ("PASSWORD", true),
        ("db_password_2", true),
        ("git_key", true),
        ("monkey", false),
        ("PUBLIC_KEY", false),
        ("TOKEN_FILE", false),
        ("", false),
    ] {
        assert_eq!(names_a_secret(name), expected, "{name}");
    }
}
