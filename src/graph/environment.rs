//! The variables that a stage's words see: those of ENV and, behind them, those of ARG.

use std::collections::HashMap;

/// An ordered list of variables; a name keeps its place when its value changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Reads `NAME=value` entries as an image config has them.
    pub fn from_config(entries: &[String]) -> Self {
        let mut variables: Vec<(String, String)> = Vec::new();
        // An image may have very many of them.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            match places.get(name) {
                Some(place) => value.clone_into(&mut variables[*place].1),
                None => {
                    places.insert(name, variables.len());
                    variables.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Self(variables)
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Gives `name` a value.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// All variables in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_keeps_its_place() {
        let mut environment =
            Environment::from_config(&["A=1".into(), "B=x=y".into(), "A=2".into(), "C".into()]);
        environment.set("D", "");
        let pairs: Vec<_> = environment
            .pairs()
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        assert_eq!(pairs, ["A=2", "B=x=y", "C=", "D="]);
        assert_eq!(environment.get("B"), Some("x=y"));
        assert_eq!(environment.get("E"), None);
    }
}
