//! `--format`: the templates that scripts give to `docker`, which are those of Go's
//! `text/template`, as far as anybody writes them on a command line.
//!
//! Fields, `index`, `range`, `if`, `with`, variables, pipelines, comments and trim markers are
//! there, and the functions `json join split lower upper title println print printf len index
//! slice eq ne lt le gt ge and or not truncate pad`. Left out are `define`, `template`, `block`,
//! `break` and `continue`. A field that doesn't exist is an error with the nearest one's name: a
//! script with a typing mistake fails and does not go on with nothing. Only maps, such as labels,
//! give `<no value>` for a key that they don't have.
//!
//! Pure: text and values in, text out.

mod evaluate;
mod parse;

use std::str::FromStr;

use serde_json::Value;

use super::error::Failure;
use super::output;

/// Why a template can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("in the template `{template}`: {reason}")]
pub struct TemplateError {
    template: String,
    reason: String,
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        Self::user(error.to_string())
    }
}

/// A template, understood.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<parse::Node>,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let nodes = parse::parse(text).map_err(|reason| TemplateError {
            template: text.to_owned(),
            reason,
        })?;
        Ok(Self {
            text: text.to_owned(),
            nodes,
        })
    }
}

impl Template {
    /// What the template makes of a value.
    ///
    /// # Errors
    /// When it names a field that the value doesn't have, or asks something impossible.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        evaluate::render(&self.nodes, value).map_err(|reason| TemplateError {
            template: self.text.clone(),
            reason,
        })
    }
}

/// The value of a `--format` option.
#[derive(Clone, PartialEq, Debug)]
pub enum Format {
    /// `json`: each row as one line of JSON.
    Json,
    /// `table …`: columns, separated by tabs, under their headings.
    Table(Template),
    /// A template for each row.
    Each(Template),
}

impl FromStr for Format {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let text = parse::unescape_text(text);
        let text = text.trim_start_matches(' ');
        if text.trim() == "json" || text.replace(' ', "") == "{{json.}}" {
            return Ok(Self::Json);
        }
        match text.strip_prefix("table ").or(text.strip_prefix("table\t")) {
            Some(columns) => Ok(Self::Table(columns.trim_start().parse()?)),
            None => Ok(Self::Each(text.parse()?)),
        }
    }
}

impl Format {
    /// The rows as the option asks. `headings` has a heading for each field that a table can
    /// show.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn rows(&self, rows: &[Value], headings: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        match self {
            Self::Json => {
                for row in rows {
                    out.push_str(&row.to_string());
                    out.push('\n');
                }
            }
            Self::Each(template) => {
                for row in rows {
                    out.push_str(&template.render(row)?);
                    out.push('\n');
                }
            }
            Self::Table(template) => {
                let columns = |text: String| text.split('\t').map(str::to_owned).collect();
                let headings: Vec<String> = columns(template.render(headings)?);
                let mut cells: Vec<Vec<String>> = Vec::with_capacity(rows.len());
                for row in rows {
                    cells.push(columns(template.render(row)?));
                }
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                out = output::table(&headings, &cells);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
