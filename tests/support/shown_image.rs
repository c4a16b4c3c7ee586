//! What an image is, as lines that a case writes down: its config, its history, and what it holds
//! beyond its base.

use std::fmt::Write as _;

use serde_json::Value;

use super::image::BASE;
use super::{Image, LayerTar, Tree, architecture};

/// What every image without a PATH of its own has.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The comment of BuildKit's history entries.
const COMMENT: &str = "buildkit.dockerfile.v0";

impl Image {
    /// The config, one line per value: the platform where it isn't the machine's, PATH where it
    /// isn't the default one.
    pub(crate) fn shown_config(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| writeln!(out, "{name} {value}").unwrap();
        let platform = ["os", "architecture", "variant"]
            .map(|name| self.config[name].as_str().unwrap_or_default());
        if platform != ["linux", architecture(), ""] {
            line("Platform", platform.join("/").trim_end_matches('/'));
        }
        if let Some(author) = self.config["author"].as_str() {
            line("Author", &shown(author));
        }
        let env: Vec<&str> = texts(self.setting("Env"));
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            line("Env", "(no PATH)");
        }
        for variable in env.iter().filter(|variable| **variable != DEFAULT_PATH) {
            line("Env", &shown(variable));
        }
        for name in ["User", "WorkingDir", "StopSignal"] {
            match self.setting(name).as_str() {
                None | Some("") => {}
                Some(value) => line(name, &shown(value)),
            }
        }
        for name in ["Entrypoint", "Cmd", "Shell"] {
            if self.setting(name).is_array() {
                line(name, &self.setting(name).to_string());
            }
        }
        for name in ["ExposedPorts", "Volumes"] {
            let mut keys: Vec<&String> = self
                .setting(name)
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys())
                .collect();
            keys.sort();
            for key in keys {
                line(name, &shown(key));
            }
        }
        let mut labels: Vec<(&String, &Value)> = self
            .setting("Labels")
            .as_object()
            .into_iter()
            .flatten()
            .collect();
        labels.sort_by_key(|(key, _)| *key);
        for (key, value) in labels {
            line(
                "Label",
                &shown(&format!("{key}={}", value.as_str().unwrap())),
            );
        }
        if let Some(check) = self.setting("Healthcheck").as_object() {
            let mut members: Vec<(&String, &Value)> = check.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            line("Healthcheck", &members.join(" "));
        }
        for trigger in texts(self.setting("OnBuild")) {
            line("OnBuild", &shown(trigger));
        }
        out
    }

    /// The history behind the base's, one line per entry; a comment only where it is not the
    /// usual one.
    pub(crate) fn shown_history(&self) -> String {
        let mut out = String::new();
        for entry in self.config["history"].as_array().into_iter().flatten() {
            let created_by = entry["created_by"].as_str().unwrap_or_default();
            if created_by == BASE {
                continue;
            }
            let kind = if entry["empty_layer"] == true {
                "empty"
            } else {
                "layer"
            };
            write!(out, "{kind} {}", shown(created_by)).unwrap();
            let comment = entry["comment"].as_str().unwrap_or_default();
            if comment != COMMENT {
                write!(out, " (comment {comment:?})").unwrap();
            }
            out.push('\n');
        }
        out
    }

    /// The files that the layers above the base's add or change.
    pub(crate) fn additions(&self) -> Tree {
        let (base, whole) = (self.base_tree(), self.tree());
        let mut changed = Tree::default();
        for (path, node) in &whole.nodes {
            let same = base.nodes.get(path).is_some_and(|below| {
                let mut node = node.clone();
                node.mtime = below.mtime;
                node.inode = below.inode;
                node == *below
            });
            if !same {
                changed.nodes.insert(path.clone(), node.clone());
            }
        }
        changed
    }

    /// What the layers above the base's change: files that are new or different, and `- PATH` for
    /// those that are gone.
    pub(crate) fn shown_additions(&self) -> String {
        let (base, whole) = (self.base_tree(), self.tree());
        let mut out = self.additions().all();
        for path in base.nodes.keys() {
            if !whole.nodes.contains_key(path) {
                writeln!(out, "- {}", path.escape_ascii()).unwrap();
            }
        }
        out
    }

    /// The layers above the base's, entry by entry.
    pub(crate) fn shown_layers(&self) -> String {
        let layers = self.own_layers().iter().map(LayerTar::lines);
        let layers = layers.map(|lines| format!("layer\n{lines}"));
        layers.collect()
    }
}

fn texts(value: &Value) -> Vec<&str> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap()).collect()
}

/// A text as it is, or quoted where a line of a case could not show it.
fn shown(text: &str) -> String {
    let plain = text.trim() == text && !text.is_empty() && !text.chars().any(char::is_control);
    if plain {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}
