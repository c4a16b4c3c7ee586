//! What programs are told of a build: one JSON object a line.

use std::collections::BTreeMap;

use super::chain;
use crate::support::{Finished, Need, Project, Rbuild, User, needs};

/// Every line of `--progress=rawjson`.
fn json(finished: &Finished) -> Vec<serde_json::Value> {
    let lines = finished.stderr.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What each vertex has printed.
pub(super) fn json_logs(finished: &Finished) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine as _;
    let mut logs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for status in json(finished) {
        for log in status["logs"].as_array().into_iter().flatten() {
            let data = log["data"].as_str().unwrap();
            let data = base64::engine::general_purpose::STANDARD
                .decode(data)
                .unwrap();
            logs.entry(log["vertex"].as_str().unwrap().to_owned())
                .or_default()
                .extend(data);
        }
    }
    logs
}

#[test]
fn programs_get_one_json_object_a_line() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let rbuild = Rbuild::new(&User::Caller);
    let project = chain();
    let build = || {
        rbuild
            .build(&project)
            .own_progress()
            .args(["--progress", "rawjson"])
            .tag("app")
            .ok()
    };
    let first = build();
    assert!(
        first.stderr.lines().all(|line| line.starts_with('{')),
        "{}",
        first.stderr
    );
    assert_eq!(first.text(), "");
    let mut vertexes: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    let mut transferred = false;
    for status in json(&first) {
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            vertexes.insert(
                vertex["digest"].as_str().unwrap().to_owned(),
                vertex.clone(),
            );
        }
        for item in status["statuses"].as_array().into_iter().flatten() {
            transferred |= item["completed"].is_string()
                && item["id"].as_str().unwrap().starts_with("sha256:");
            assert!(vertexes.contains_key(item["vertex"].as_str().unwrap()));
        }
    }
    assert!(transferred);
    let named = |name: &str| {
        let mut found = vertexes
            .values()
            .filter(|vertex| vertex["name"].as_str().unwrap().contains(name));
        found.next().unwrap_or_else(|| panic!("no {name}"))
    };
    let run = named("RUN echo one");
    assert_eq!(
        run["inputs"],
        serde_json::json!([named("COPY input")["digest"]])
    );
    for time in ["started", "completed"] {
        let _: jiff::Timestamp = run[time].as_str().unwrap().parse().unwrap();
    }
    assert!(run["cached"].is_null() && run["error"].is_null());
    let logs = json_logs(&first);
    assert_eq!(logs[run["digest"].as_str().unwrap()], b"one\n");
    let cached = json(&build()).into_iter().any(|status| {
        let vertex = &status["vertexes"][0];
        vertex["name"] == run["name"] && vertex["cached"] == true
    });
    assert!(cached);
    let failing = Project::with("FROM busybox\nRUN exit 4\n");
    let failed = rbuild
        .build(&failing)
        .own_progress()
        .env("BUILDKIT_PROGRESS", "rawjson")
        .fails();
    let error = json(&failed)
        .into_iter()
        .find_map(|status| status["vertexes"][0]["error"].as_str().map(str::to_owned));
    assert!(error.unwrap().contains("exit code: 4"));
}
