//! `--call=outline`: what a target can be given, in the forms that buildx prints.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::diagnostic::clean;
use super::lint::location;
use super::span::Span;

/// What a target can be given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// The target's name, empty where it has none.
    pub name: String,
    /// What the comment above it says.
    pub description: String,
    /// Build arguments.
    pub arguments: Vec<Argument>,
    /// Secrets, by id.
    pub secrets: Vec<Demand>,
    /// SSH agents, by id.
    pub agents: Vec<Demand>,
    /// Cache mounts, by id.
    pub caches: Vec<Demand>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// The value that it has without being given another; the one that it was given.
    pub value: String,
    /// What the comment above it says.
    pub description: String,
    /// Where it is declared.
    pub span: Span,
}

/// Something that a RUN mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Its id.
    pub name: String,
    /// Whether the build fails without.
    pub is_required: bool,
    /// The instruction.
    pub span: Span,
}

impl Outline {
    /// Puts everything in the order of the text.
    pub fn sort(&mut self) {
        self.arguments
            .sort_by(|a, b| (a.span.start, &a.name).cmp(&(b.span.start, &b.name)));
        for demands in [&mut self.secrets, &mut self.agents, &mut self.caches] {
            demands.sort_by(|a, b| (a.span.start, &a.name).cmp(&(b.span.start, &b.name)));
        }
    }

    /// For people: a table for each kind of thing that there is.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            let name = if self.name.is_empty() {
                "(default)"
            } else {
                &self.name
            };
            let mut rows = vec![vec!["TARGET:", name]];
            if !self.description.is_empty() {
                rows.push(vec!["DESCRIPTION:", &self.description]);
            }
            table(&mut out, &rows, 1);
        }
        if !self.arguments.is_empty() {
            let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
            let arguments = self.arguments.iter();
            rows.extend(arguments.map(|one| vec![&*one.name, &*one.value, &*one.description]));
            table(&mut out, &rows, 3);
        }
        for (heading, demands) in [("SECRET", &self.secrets), ("SSH", &self.agents)] {
            if demands.is_empty() {
                continue;
            }
            let mut rows = vec![vec![heading, "REQUIRED"]];
            let required = |one: &Demand| if one.is_required { "true" } else { "" };
            rows.extend(demands.iter().map(|one| vec![&*one.name, required(one)]));
            table(&mut out, &rows, 3);
        }
        if !self.caches.is_empty() {
            let mut rows = vec![vec!["CACHE MOUNT"]];
            rows.extend(self.caches.iter().map(|one| vec![&*one.name]));
            table(&mut out, &rows, 3);
        }
        out
    }

    /// For programs: one object, as BuildKit's `frontend.outline` answers.
    pub fn to_json(&self, text: &str) -> String {
        let arguments = self.arguments.iter().map(|one| {
            let mut object = Map::new();
            object.insert("name".to_owned(), one.name.as_str().into());
            set(&mut object, "description", &one.description);
            set(&mut object, "value", &one.value);
            place(object, one.span)
        });
        let demand = |one: &Demand| {
            let mut object = Map::new();
            object.insert("name".to_owned(), one.name.as_str().into());
            if one.is_required {
                object.insert("required".to_owned(), true.into());
            }
            place(object, one.span)
        };
        let cache = |one: &Demand| {
            let mut object = Map::new();
            object.insert("ID".to_owned(), one.name.as_str().into());
            place(object, one.span)
        };
        let lists: [(&str, Vec<Value>); 4] = [
            ("args", arguments.collect()),
            ("secrets", self.secrets.iter().map(demand).collect()),
            ("ssh", self.agents.iter().map(demand).collect()),
            ("cache", self.caches.iter().map(cache).collect()),
        ];
        let mut object = Map::new();
        set(&mut object, "name", &self.name);
        set(&mut object, "description", &self.description);
        for (key, list) in lists {
            if !list.is_empty() {
                object.insert(key.to_owned(), list.into());
            }
        }
        object.insert("sources".to_owned(), json!([BASE64.encode(text)]));
        format!("{:#}\n", Value::Object(object))
    }
}

fn set(object: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        object.insert(key.to_owned(), value.into());
    }
}

fn place(mut object: Map<String, Value>, span: Span) -> Value {
    let lines = location(span.first_line, span.last_line);
    object.insert("location".to_owned(), lines);
    Value::Object(object)
}

/// Writes rows with their columns below each other, and an empty line behind them.
fn table(out: &mut String, rows: &[Vec<&str>], gap: usize) {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let width = width + gap;
            let _ = write!(line, "{cell:width$}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
}
