//! Progress for programs: one JSON object a line, as `docker buildx build --progress=rawjson`
//! writes it.
//!
//! Each line is a `SolveStatus` of BuildKit's client (`client/graph.go`): lists of vertexes,
//! statuses (transfers), logs and warnings, empty ones left out. Bytes are base64, times RFC 3339
//! with nanoseconds. A vertex's digest only names it within one build.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::display::Display;
use super::trace::{Change, Trace};
use crate::digest::Digest;
use crate::dockerfile::lint;
use crate::solver::events::{Event, LogStream, Outcome, VertexId};

/// A transfer is told again after this time, as BuildKit has it.
const ITEM_INTERVAL: Duration = Duration::from_millis(100);
/// The words by which BuildKit's clients know a step that was stopped.
const CANCELED: &str = "context canceled";

#[derive(Serialize, Default)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<&'a Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<&'a Item>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<Log<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning<'a>>,
}

#[derive(Serialize, Clone, Default)]
struct Vertex {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Serialize)]
struct Item {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip)]
    told: Duration,
}

#[derive(Serialize)]
struct Log<'a> {
    vertex: &'a str,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct Warning<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertex: Option<&'a str>,
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<serde_json::Value>,
}

impl Warning<'_> {
    fn saying(text: &str) -> Self {
        Self {
            vertex: None,
            level: 1,
            short: BASE64.encode(text),
            detail: Vec::new(),
            url: None,
            range: Vec::new(),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The display for programs.
pub(super) struct RawJson {
    begin: jiff::Timestamp,
    vertices: BTreeMap<VertexId, Vertex>,
    items: BTreeMap<VertexId, BTreeMap<String, Item>>,
}

impl RawJson {
    /// A display of a build that begins at `begin`.
    pub(super) fn new(begin: jiff::Timestamp) -> Self {
        Self {
            begin,
            vertices: BTreeMap::new(),
            items: BTreeMap::new(),
        }
    }

    fn time(&self, at: Duration) -> String {
        // Out of range after the year 9999 only.
        self.begin.checked_add(at).unwrap_or(self.begin).to_string()
    }

    fn vertex(&self, id: VertexId) -> String {
        line(&Status {
            vertexes: self.vertices.get(&id).into_iter().collect(),
            ..Status::default()
        })
    }

    fn digest(&self, id: VertexId) -> String {
        self.vertices
            .get(&id)
            .map_or_else(String::new, |vertex| vertex.digest.clone())
    }

    fn announced(&mut self, id: VertexId, name: &str, inputs: &[VertexId]) -> String {
        let vertex = Vertex {
            digest: Digest::of(format!("{} {name}", id.0).as_bytes()).to_string(),
            inputs: inputs.iter().map(|input| self.digest(*input)).collect(),
            name: name.to_owned(),
            ..Vertex::default()
        };
        self.vertices.insert(id, vertex);
        self.vertex(id)
    }

    fn ended(&mut self, id: VertexId, outcome: &Outcome, at: Duration) -> String {
        let time = self.time(at);
        let Some(vertex) = self.vertices.get_mut(&id) else {
            return String::new();
        };
        if vertex.started.is_none() && *outcome == Outcome::Canceled {
            return String::new();
        }
        vertex.started.get_or_insert_with(|| time.clone());
        vertex.completed = Some(time.clone());
        match outcome {
            Outcome::Done => {}
            Outcome::Cached => vertex.cached = true,
            Outcome::Failed(reason) => vertex.error.clone_from(reason),
            Outcome::Canceled => CANCELED.clone_into(&mut vertex.error),
        }
        let mut items = self.items.remove(&id).unwrap_or_default();
        items.retain(|_, item| item.completed.is_none());
        for item in items.values_mut() {
            item.timestamp.clone_from(&time);
            item.completed = Some(time.clone()).filter(|_| *outcome == Outcome::Done);
        }
        line(&Status {
            vertexes: self.vertices.get(&id).into_iter().collect(),
            statuses: items.values().collect(),
            ..Status::default()
        })
    }

    fn progress(
        &mut self,
        id: VertexId,
        name: &str,
        (current, total): (u64, Option<u64>),
        at: Duration,
    ) -> String {
        let time = self.time(at);
        let vertex = self.digest(id);
        let items = self.items.entry(id).or_default();
        let is_new = !items.contains_key(name);
        let item = items.entry(name.to_owned()).or_insert_with(|| Item {
            id: name.to_owned(),
            vertex,
            total: 0,
            current: 0,
            timestamp: String::new(),
            started: time.clone(),
            completed: None,
            told: at,
        });
        item.current = current;
        item.total = total.unwrap_or(item.total);
        let ends = total == Some(current);
        if !is_new && !ends && at.saturating_sub(item.told) < ITEM_INTERVAL {
            return String::new();
        }
        item.told = at;
        item.completed = ends.then(|| time.clone());
        item.timestamp = time;
        line(&Status {
            statuses: vec![item],
            ..Status::default()
        })
    }

    /// BuildKit's clients show a warning at its vertex: here the first, that of the Dockerfile.
    fn warning(&self, text: &str) -> String {
        self.warn(Warning::saying(text))
    }

    /// What a build check has found, with the page that explains it.
    fn finding(&self, found: &lint::Warning) -> String {
        let line = |line: usize| serde_json::json!({ "line": line });
        let range =
            serde_json::json!({"start": line(found.first_line), "end": line(found.last_line)});
        self.warn(Warning {
            detail: vec![BASE64.encode(found.rule.description())],
            url: found.rule.url(),
            range: vec![range],
            ..Warning::saying(&found.short())
        })
    }

    fn warn(&self, warning: Warning<'_>) -> String {
        let first = self.vertices.values().next();
        line(&Status {
            warnings: vec![Warning {
                vertex: first.map(|vertex| vertex.digest.as_str()),
                ..warning
            }],
            ..Status::default()
        })
    }
}

fn line(status: &Status<'_>) -> String {
    // Strings and numbers can't fail to be written.
    let mut text = serde_json::to_string(status).unwrap_or_default();
    text.push('\n');
    text
}

impl Display for RawJson {
    fn event(&mut self, event: &Event, at: Duration) -> String {
        match event {
            Event::Announced { id, name, inputs } => self.announced(*id, name, inputs),
            Event::Started { id } => {
                let time = self.time(at);
                if let Some(vertex) = self.vertices.get_mut(id) {
                    vertex.started = Some(time);
                }
                self.vertex(*id)
            }
            Event::Log { id, stream, bytes } => line(&Status {
                logs: vec![Log {
                    vertex: &self.digest(*id),
                    stream: match stream {
                        LogStream::Stdout => 1,
                        LogStream::Stderr => 2,
                    },
                    data: BASE64.encode(bytes),
                    timestamp: self.time(at),
                }],
                ..Status::default()
            }),
            Event::LogFile { .. } => String::new(),
            Event::Progress {
                id,
                item,
                current,
                total,
            } => self.progress(*id, item, (*current, *total), at),
            Event::Ended { id, outcome, .. } => self.ended(*id, outcome, at),
            Event::Finding { warning, .. } => self.finding(warning),
            Event::Warning(text) => self.warning(text),
        }
    }

    fn show(&mut self, _: &Trace, _: &[Change], _: Duration) -> String {
        String::new()
    }

    fn note(&mut self, _: &Trace, text: &str, _: Duration) -> String {
        self.warning(text.trim_end())
    }

    fn finish(&mut self, _: &Trace, _: Duration) -> String {
        String::new()
    }

    fn frame_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn lines(script: Script) -> Vec<String> {
        let begin: jiff::Timestamp = "2024-05-01T10:00:00Z".parse().unwrap();
        let text = script.play(&mut RawJson::new(begin));
        let a = Digest::of(b"0 [1/2] FROM a").to_string();
        let b = Digest::of(b"1 [2/2] RUN b").to_string();
        text.lines()
            .map(|line| line.replace(&a, "A").replace(&b, "B"))
            .collect()
    }

    fn announced() -> Script {
        Script::new()
            .announce(0, "[1/2] FROM a")
            .announce_after(1, "[2/2] RUN b", &[0])
    }

    #[test]
    fn a_build_is_told_as_buildkit_tells_it() {
        let script = announced()
            .at(1)
            .cached(0)
            .at(1000)
            .start(1)
            .at(1500)
            .log(1, "\x1b[1mhi\n")
            .at(2250)
            .failed(1, "exit code: 1", 1250);
        assert_eq!(
            lines(script),
            [
                r#"{"vertexes":[{"digest":"A","name":"[1/2] FROM a"}]}"#,
                r#"{"vertexes":[{"digest":"B","inputs":["A"],"name":"[2/2] RUN b"}]}"#,
                r#"{"vertexes":[{"digest":"A","name":"[1/2] FROM a","started":"2024-05-01T10:00:00.001Z","completed":"2024-05-01T10:00:00.001Z","cached":true}]}"#,
                r#"{"vertexes":[{"digest":"B","inputs":["A"],"name":"[2/2] RUN b","started":"2024-05-01T10:00:01Z"}]}"#,
                r#"{"logs":[{"vertex":"B","stream":1,"data":"G1sxbWhpCg==","timestamp":"2024-05-01T10:00:01.5Z"}]}"#,
                r#"{"vertexes":[{"digest":"B","inputs":["A"],"name":"[2/2] RUN b","started":"2024-05-01T10:00:01Z","completed":"2024-05-01T10:00:02.25Z","error":"exit code: 1"}]}"#,
            ]
        );
    }

    #[test]
    fn transfers_are_told_now_and_then_and_always_end() {
        let mut script = announced().start(0);
        for millis in 0..=250 {
            script = script.at(millis).progress(0, "x", millis, Some(1000));
        }
        let told = lines(script.at(300).done(0, 300));
        assert_eq!(
            told[3..],
            [
                r#"{"statuses":[{"id":"x","vertex":"A","total":1000,"current":0,"timestamp":"2024-05-01T10:00:00Z","started":"2024-05-01T10:00:00Z"}]}"#,
                r#"{"statuses":[{"id":"x","vertex":"A","total":1000,"current":100,"timestamp":"2024-05-01T10:00:00.1Z","started":"2024-05-01T10:00:00Z"}]}"#,
                r#"{"statuses":[{"id":"x","vertex":"A","total":1000,"current":200,"timestamp":"2024-05-01T10:00:00.2Z","started":"2024-05-01T10:00:00Z"}]}"#,
                r#"{"vertexes":[{"digest":"A","name":"[1/2] FROM a","started":"2024-05-01T10:00:00Z","completed":"2024-05-01T10:00:00.3Z"}],"statuses":[{"id":"x","vertex":"A","total":1000,"current":250,"timestamp":"2024-05-01T10:00:00.3Z","started":"2024-05-01T10:00:00Z","completed":"2024-05-01T10:00:00.3Z"}]}"#,
            ]
        );
    }

    #[test]
    fn what_a_build_check_finds_has_its_page_and_its_lines() {
        let told = lines(announced().finding());
        let told: serde_json::Value = serde_json::from_str(&told[2]).unwrap();
        let found = &told["warnings"][0];
        let text = |value: &serde_json::Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let short = b"StageNameCasing: Stage name 'Odd' should be lowercase (line 3)";
        assert_eq!(text(&found["short"]), short);
        assert_eq!(
            text(&found["detail"][0]),
            b"Stage names should be lowercase"
        );
        let page = "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/";
        assert_eq!(found["url"], page);
        assert_eq!(
            found["range"],
            serde_json::json!([{"start": {"line": 3}, "end": {"line": 3}}])
        );
    }

    #[test]
    fn a_step_that_was_stopped_and_a_warning() {
        let script = announced()
            .warning("careful")
            .start(0)
            .canceled(0)
            .canceled(1);
        let told = lines(script);
        assert_eq!(
            told[2],
            r#"{"warnings":[{"vertex":"A","level":1,"short":"Y2FyZWZ1bA=="}]}"#
        );
        assert!(
            told[4].contains(r#""error":"context canceled""#),
            "{told:?}"
        );
        assert_eq!(told.len(), 5);
    }
}
