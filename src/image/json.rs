//! JSON as image documents need it: members written in a chosen order with empty ones left
//! out, `null` read as empty.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::ImageError;

/// Reads a document of at most `limit` bytes.
pub(super) fn parse<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: u64,
) -> Result<T, ImageError> {
    let size = bytes.len() as u64;
    if size > limit {
        return Err(ImageError::TooLarge { what, size, limit });
    }
    serde_json::from_slice(bytes).map_err(|source| ImageError::Malformed { what, source })
}

/// Reads a value, or its default in place of `null`, which Go's encoder writes for empty lists
/// and maps.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads an object whose values mean nothing (`{"80/tcp": {}}`) as the set of its names.
pub(super) fn names<'de, D>(deserializer: D) -> Result<BTreeSet<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

/// An object under construction. Every method but [`Object::always`] leaves an empty value out.
#[derive(Default)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    /// Adds a member whatever its value.
    pub(super) fn always(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a string.
    pub(super) fn text(self, name: &str, text: &str) -> Self {
        if text.is_empty() {
            return self;
        }
        self.always(name, text)
    }

    /// Adds what a value looks like as text.
    pub(super) fn optional(self, name: &str, value: Option<&impl Display>) -> Self {
        match value {
            Some(value) => self.always(name, value.to_string()),
            None => self,
        }
    }

    /// Adds a list of strings.
    pub(super) fn list(self, name: &str, items: &[String]) -> Self {
        if items.is_empty() {
            return self;
        }
        self.always(name, items.to_vec())
    }

    /// Adds an object with these names and empty objects as values.
    pub(super) fn names(self, name: &str, names: &BTreeSet<String>) -> Self {
        let empty = || Value::Object(Map::new());
        self.object(
            name,
            Self(names.iter().map(|n| (n.clone(), empty())).collect()),
        )
    }

    /// Adds an object of strings, sorted.
    pub(super) fn map(self, name: &str, map: &BTreeMap<String, String>) -> Self {
        let members = map.iter().map(|(k, v)| (k.clone(), v.clone().into()));
        self.object(name, Self(members.collect()))
    }

    /// Adds a number.
    pub(super) fn number(self, name: &str, number: i64) -> Self {
        if number == 0 {
            return self;
        }
        self.always(name, number)
    }

    /// Adds a flag.
    pub(super) fn flag(self, name: &str, set: bool) -> Self {
        if set { self.always(name, true) } else { self }
    }

    /// Adds an object.
    pub(super) fn object(self, name: &str, object: Self) -> Self {
        if object.0.is_empty() {
            return self;
        }
        self.always(name, object)
    }

    /// Adds members that are kept as they were read, except those that stand already.
    pub(super) fn others(mut self, others: &BTreeMap<String, Value>) -> Self {
        for (name, value) in others {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
        self
    }

    /// Puts the members in the order of their names.
    pub(super) fn sorted(mut self) -> Self {
        self.0.sort_keys();
        self
    }

    /// The object as compact JSON.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        Value::Object(self.0).to_string().into_bytes()
    }

    /// The object as indented JSON, as manifests are written everywhere.
    pub(super) fn into_indented_bytes(self) -> Vec<u8> {
        format!("{:#}", Value::Object(self.0)).into_bytes()
    }

    /// The object as a JSON value.
    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}
