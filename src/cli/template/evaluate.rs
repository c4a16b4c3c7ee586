//! A template's tree and a value as text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Number, Value};

use super::parse::{Node, Operand, Pipeline};

type Result<T> = std::result::Result<T, String>;

/// Renders a template with `value` as its dot.
pub(super) fn render(nodes: &[Node], value: &Value) -> Result<String> {
    let mut scope = Scope {
        variables: vec![(String::new(), value.clone())],
    };
    let mut out = String::new();
    scope.block(nodes, value, &mut out)?;
    Ok(out)
}

struct Scope {
    /// Innermost last; `$` has no name.
    variables: Vec<(String, Value)>,
}

impl Scope {
    /// Variables that a block declares end with it.
    fn block(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<()> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot, out)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<()> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&text(&self.pipeline(pipeline, dot)?)),
            Node::Assign(name, pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                    Some(variable) => variable.1 = value,
                    None => self.variables.push((name.clone(), value)),
                }
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let chosen = match truth(&self.pipeline(condition, dot)?) {
                    true => then,
                    false => otherwise,
                };
                self.block(chosen, dot, out)?;
            }
            Node::With {
                value,
                body,
                otherwise,
            } => {
                let value = self.pipeline(value, dot)?;
                match truth(&value) {
                    true => self.block(body, &value, out)?,
                    false => self.block(otherwise, dot, out)?,
                }
            }
            Node::Range {
                key,
                element,
                over,
                body,
                otherwise,
            } => {
                let items = items(self.pipeline(over, dot)?)?;
                if items.is_empty() {
                    return self.block(otherwise, dot, out);
                }
                for (item_key, item) in items {
                    let outer = self.variables.len();
                    if let Some(name) = key {
                        self.variables.push((name.clone(), item_key));
                    }
                    if let Some(name) = element {
                        self.variables.push((name.clone(), item.clone()));
                    }
                    self.block(body, &item, out)?;
                    self.variables.truncate(outer);
                }
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut piped = None;
        for command in &pipeline.0 {
            piped = Some(self.command(command, piped, dot)?);
        }
        Ok(piped.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        operands: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value> {
        let Some((first, rest)) = operands.split_first() else {
            return Ok(Value::Null);
        };
        if let Operand::Function(name) = first {
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(piped);
            return call(name, arguments);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("only functions take arguments".to_owned());
        }
        self.operand(first, dot)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Fields(names) => field(dot, names),
            Operand::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                let (_, value) = found.ok_or_else(|| format!("there's no variable `${name}`"))?;
                field(value, names)
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, Vec::new()),
            Operand::Group(pipeline, names) => {
                let value = self.pipeline(pipeline, dot)?;
                field(&value, names)
            }
        }
    }
}

fn field(value: &Value, names: &[String]) -> Result<Value> {
    let mut value = value;
    for name in names {
        let Value::Object(members) = value else {
            return match value {
                Value::Null if !is_field(name) => Ok(Value::Null),
                Value::Null => Err(format!("`.{name}` of nothing")),
                _ => Err(format!(
                    "`.{name}` of `{}`, which has no fields",
                    text(value)
                )),
            };
        };
        if !members.contains_key(name) && !is_field(name) && !members.keys().any(|k| is_field(k)) {
            return Ok(Value::Null);
        }
        value = members.get(name).ok_or_else(|| {
            let known = members.keys().map(String::as_str);
            let near = known.max_by(|a, b| {
                let [a, b] = [a, b].map(|known| strsim::jaro(known, name));
                a.total_cmp(&b)
            });
            match near {
                Some(near) => format!("there's no field `.{name}`; did you mean `.{near}`?"),
                None => format!("there's no field `.{name}`"),
            }
        })?;
    }
    Ok(value.clone())
}

/// Whether a name is a field's: those of Docker's documents begin with a capital letter. Others are
/// keys of maps, such as labels, and a key that isn't there is no mistake.
fn is_field(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

fn items(value: Value) -> Result<Vec<(Value, Value)>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok((0u64..).map(Value::from).zip(items).collect()),
        Value::Object(members) => Ok(members
            .into_iter()
            .map(|(name, value)| (Value::String(name), value))
            .collect()),
        other => Err(format!("can't range over `{}`", text(&other))),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// As Go prints it.
fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.into(),
        Value::Bool(_) | Value::Number(_) => value.to_string().into(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(text).collect();
            format!("[{}]", items.join(" ")).into()
        }
        Value::Object(members) => {
            let members = members.iter().map(|(k, v)| format!("{k}:{}", text(v)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" ")).into()
        }
    }
}

fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let wrong = |what: &str| Err(format!("`{name}` takes {what}"));
    let whole = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    match (name, arguments.as_slice()) {
        ("json", [value]) => Ok(value.to_string().into()),
        ("lower", [value]) => Ok(text(value).to_lowercase().into()),
        ("upper", [value]) => Ok(text(value).to_uppercase().into()),
        ("title", [value]) => Ok(title(&text(value)).into()),
        ("split", [Value::String(value), Value::String(separator)]) => {
            Ok(value.split(separator.as_str()).map(Value::from).collect())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("join", [Value::Array(items), Value::String(separator)]) => {
            let items: Vec<_> = items.iter().map(text).collect();
            Ok(items.join(separator).into())
        }
        ("truncate", [value, length]) => {
            let length = whole(length).ok_or("`truncate` takes a length")?;
            Ok(text(value).chars().take(length).collect::<String>().into())
        }
        ("pad", [value, before, after]) => match (whole(before), whole(after)) {
            (Some(before), Some(after)) if before.max(after) <= 1000 => {
                let (before, after) = (" ".repeat(before), " ".repeat(after));
                Ok(format!("{before}{}{after}", text(value)).into())
            }
            _ => wrong("a text and two lengths"),
        },
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("print", values) => Ok(values.iter().map(text).collect::<String>().into()),
        ("println", values) => {
            let values: Vec<_> = values.iter().map(text).collect();
            Ok(format!("{}\n", values.join(" ")).into())
        }
        ("printf", [Value::String(format), values @ ..]) => printf(format, values),
        ("not", [value]) => Ok((!truth(value)).into()),
        ("and", [.., last]) => {
            let first_false = arguments.iter().find(|value| !truth(value));
            Ok(first_false.unwrap_or(last).clone())
        }
        ("or", [.., last]) => {
            let first_true = arguments.iter().find(|value| truth(value));
            Ok(first_true.unwrap_or(last).clone())
        }
        ("eq", [value, others @ ..]) if !others.is_empty() => {
            Ok(others.iter().any(|other| equal(value, other)).into())
        }
        ("ne", [a, b]) => Ok((!equal(a, b)).into()),
        ("lt", [a, b]) => Ok((order(a, b)? == Ordering::Less).into()),
        ("le", [a, b]) => Ok((order(a, b)? != Ordering::Greater).into()),
        ("gt", [a, b]) => Ok((order(a, b)? == Ordering::Greater).into()),
        ("ge", [a, b]) => Ok((order(a, b)? != Ordering::Less).into()),
        (
            "json" | "lower" | "upper" | "title" | "split" | "join" | "truncate" | "pad" | "len"
            | "index" | "slice" | "printf" | "not" | "and" | "or" | "eq" | "ne" | "lt" | "le"
            | "gt" | "ge",
            _,
        ) => wrong("other arguments"),
        _ => Err(format!("there's no function `{name}`")),
    }
}

/// The first letter of every word in upper case.
fn title(text: &str) -> String {
    let mut at_start = true;
    let letters = text.chars().map(|c| {
        let shown = if at_start { c.to_ascii_uppercase() } else { c };
        at_start = c.is_whitespace();
        shown
    });
    letters.collect()
}

fn length(value: &Value) -> Result<Value> {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(members) => Ok(members.len().into()),
        Value::Null => Ok(0.into()),
        other => Err(format!("`{}` has no length", text(other))),
    }
}

/// A key that a map doesn't have gives the empty string, as in Go's map of strings.
fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Object(members), Value::String(name)) => {
                members.get(name).cloned().unwrap_or_else(|| "".into())
            }
            (Value::Null, Value::String(_)) => "".into(),
            (Value::Array(items), Value::Number(number)) => {
                let at = number.as_u64().and_then(|n| usize::try_from(n).ok());
                let item = at.and_then(|at| items.get(at));
                let item = item.ok_or_else(|| {
                    format!("index {number} is out of range, there are {}", items.len())
                })?;
                item.clone()
            }
            (other, key) => {
                return Err(format!(
                    "can't index `{}` with `{}`",
                    text(other),
                    text(key)
                ));
            }
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value> {
    let length = length(value)?.as_u64().unwrap_or(0);
    let bound = |at: usize, default: u64| bounds.get(at).map_or(Some(default), Value::as_u64);
    let (Some(from), Some(to)) = (bound(0, 0), bound(1, length)) else {
        return Err("`slice` takes a value and up to two numbers".to_owned());
    };
    let range = usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(0);
    let found = match value {
        Value::String(text) => text.get(range).map(Value::from),
        Value::Array(items) => items.get(range).map(Value::from),
        _ => None,
    };
    found.ok_or_else(|| format!("can't slice `{}` from {from} to {to}", text(value)))
}

fn printf(format: &str, values: &[Value]) -> Result<Value> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let left = chars.next_if_eq(&'-').is_some();
        let mut width = 0;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            width = (width * 10 + digit as usize).min(1000);
            chars.next();
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = 0;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                digits = (digits * 10 + digit as usize).min(1000);
                chars.next();
            }
            precision = Some(digits);
        }
        let verb = chars.next().unwrap_or('%');
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| format!("`printf` has no value for `%{verb}`"))?;
        let shown = match verb {
            's' | 'v' | 'd' | 't' => text(value),
            'q' => Value::String(text(value).into_owned()).to_string().into(),
            other => return Err(format!("`printf` doesn't know `%{other}`")),
        };
        let shown: String = match precision {
            Some(precision) => shown.chars().take(precision).collect(),
            None => shown.into_owned(),
        };
        let _ = match left {
            true => write!(out, "{shown:<width$}"),
            false => write!(out, "{shown:>width$}"),
        };
    }
    Ok(out.into())
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering> {
    let ordering = match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    ordering.ok_or_else(|| format!("can't compare `{}` with `{}`", text(a), text(b)))
}

fn numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}
