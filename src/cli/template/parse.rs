//! The text of a template as a tree.

use serde_json::Value;

/// Templates come from a command line; nesting deeper than this is no template.
const DEEPEST: usize = 100;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    /// `$name := pipeline`, `$name = pipeline`.
    Assign(String, Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        element: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Pipeline(pub(super) Vec<Vec<Operand>>);

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Operand {
    /// `.A.B` of the dot; no names: the dot itself.
    Fields(Vec<String>),
    /// `$name.A.B`; the name is empty for `$`.
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    /// `( … ).A.B`
    Group(Box<Pipeline>, Vec<String>),
}

/// Parses a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = split(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        Ending::Text => Ok(nodes),
        Ending::Block => Err("`{{end}}` ends nothing".to_owned()),
        Ending::Else(_) => Err("`{{else}}` belongs to nothing".to_owned()),
    }
}

/// `\t` and `\n`, which stay two characters in a shell's quotes, as one, as Docker takes them. In
/// an action they are the action's: `{{"\n"}}` is a string.
pub(super) fn unescape_text(mut text: &str) -> String {
    let unescape = |text: &str| text.replace("\\t", "\t").replace("\\n", "\n");
    let mut out = String::with_capacity(text.len());
    while let Some((before, after)) = text.split_once("{{") {
        let end = action_end(after).map_or(after.len(), |end| end + 2);
        out.push_str(&unescape(before));
        out.push_str("{{");
        out.push_str(&after[..end]);
        text = &after[end..];
    }
    out + &unescape(text)
}

enum Piece {
    Text(String),
    Action(String),
}

/// Tells text from actions.
fn split(mut text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut trim = false;
    loop {
        let (before, after) = match text.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        let mut literal = if trim { before.trim_start() } else { before };
        let after = after.map(|after| match after.strip_prefix("- ") {
            Some(rest) => {
                literal = literal.trim_end();
                rest
            }
            None => after,
        });
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.to_owned()));
        }
        let Some(after) = after else {
            return Ok(pieces);
        };
        let end = action_end(after).ok_or("`{{` has no `}}`")?;
        let mut action = &after[..end];
        trim = action.ends_with(" -");
        if trim {
            action = &action[..action.len() - 2];
        }
        let action = action.trim();
        let is_comment = action.starts_with("/*") && action.ends_with("*/");
        if !is_comment {
            pieces.push(Piece::Action(action.to_owned()));
        }
        text = &after[end + 2..];
    }
}

/// Where the `}}` stands that isn't in a string.
fn action_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// What ended a block.
enum Ending {
    Text,
    Block,
    /// The rest of the action: empty, or `if …`.
    Else(String),
}

type Pieces = std::vec::IntoIter<Piece>;

fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Ending), String> {
    if depth > DEEPEST {
        return Err("it is nested too deeply".to_owned());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action
            .split_once(char::is_whitespace)
            .unwrap_or((&action, ""));
        match word {
            "end" if rest.is_empty() => return Ok((nodes, Ending::Block)),
            "else" => return Ok((nodes, Ending::Else(rest.trim().to_owned()))),
            "if" => nodes.push(conditional(rest, pieces, depth)?),
            "with" => {
                let value = pipeline(rest, depth)?;
                let (body, otherwise) = bodies(pieces, depth)?;
                nodes.push(Node::With {
                    value,
                    body,
                    otherwise,
                });
            }
            "range" => nodes.push(range(rest, pieces, depth)?),
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(format!("`{word}` is not supported"));
            }
            _ => nodes.push(statement(&action, depth)?),
        }
    }
    Ok((nodes, Ending::Text))
}

fn conditional(condition: &str, pieces: &mut Pieces, depth: usize) -> Result<Node, String> {
    let condition = pipeline(condition, depth)?;
    let (then, otherwise) = bodies(pieces, depth)?;
    Ok(Node::If {
        condition,
        then,
        otherwise,
    })
}

/// The body up to `{{else}}` or `{{end}}`, and what stands behind the `{{else}}`.
fn bodies(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (body, end) = block(pieces, depth + 1)?;
    let rest = match end {
        Ending::Block => return Ok((body, Vec::new())),
        Ending::Else(rest) => rest,
        Ending::Text => return Err("`{{end}}` is missing".to_owned()),
    };
    if let Some(condition) = rest.strip_prefix("if ") {
        // The `{{end}}` of an `{{else if}}` ends both.
        if depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        return Ok((body, vec![conditional(condition, pieces, depth + 1)?]));
    }
    if !rest.is_empty() {
        return Err(format!("unexpected `{rest}` behind `else`"));
    }
    match block(pieces, depth + 1)? {
        (otherwise, Ending::Block) => Ok((body, otherwise)),
        _ => Err("`{{end}}` is missing".to_owned()),
    }
}

fn range(rest: &str, pieces: &mut Pieces, depth: usize) -> Result<Node, String> {
    let (mut key, mut element, mut over) = (None, None, rest);
    if let Some((names, behind)) = rest.split_once(":=")
        && names.trim_start().starts_with('$')
    {
        over = behind;
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        match names.as_slice() {
            [one] => element = Some(variable_name(one)?),
            [first, second] => {
                key = Some(variable_name(first)?);
                element = Some(variable_name(second)?);
            }
            _ => return Err("`range` takes one or two variables".to_owned()),
        }
    }
    let over = pipeline(over, depth)?;
    let (body, otherwise) = bodies(pieces, depth)?;
    Ok(Node::Range {
        key,
        element,
        over,
        body,
        otherwise,
    })
}

fn variable_name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('$').filter(|name| is_name(name));
    name.map(str::to_owned)
        .ok_or_else(|| format!("`{text}` is no variable"))
}

fn statement(action: &str, depth: usize) -> Result<Node, String> {
    if action.starts_with('$')
        && let Some((name, value)) = action.split_once('=')
    {
        let name = name.trim_end_matches(':').trim();
        if is_name(name.trim_start_matches('$')) {
            return Ok(Node::Assign(variable_name(name)?, pipeline(value, depth)?));
        }
    }
    Ok(Node::Print(pipeline(action, depth)?))
}

fn pipeline(text: &str, depth: usize) -> Result<Pipeline, String> {
    let mut tokens = Tokens { rest: text };
    let pipeline = tokens.pipeline(depth)?;
    match tokens.rest.trim_start() {
        "" => Ok(pipeline),
        rest => Err(format!("unexpected `{rest}`")),
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}

struct Tokens<'a> {
    rest: &'a str,
}

impl Tokens<'_> {
    /// Up to the end or a closing parenthesis.
    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, String> {
        if depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        let mut commands = vec![Vec::new()];
        loop {
            self.rest = self.rest.trim_start();
            let last = commands.last_mut().filter(|_| !self.rest.is_empty());
            let Some(last) = last else { break };
            if self.rest.starts_with(')') {
                break;
            }
            if self.take('|') {
                commands.push(Vec::new());
            } else {
                let operand = self.operand(depth)?;
                last.push(operand);
            }
        }
        if commands.iter().any(Vec::is_empty) {
            return Err("a value is missing".to_owned());
        }
        Ok(Pipeline(commands))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, String> {
        if self.take('(') {
            let inner = self.pipeline(depth + 1)?;
            if !self.take(')') {
                return Err("`(` has no `)`".to_owned());
            }
            return Ok(Operand::Group(Box::new(inner), self.fields()?));
        }
        if self.rest.starts_with('.') {
            if self.rest[1..].starts_with(is_name_start) {
                return Ok(Operand::Fields(self.fields()?));
            }
            self.rest = &self.rest[1..];
            return Ok(Operand::Fields(Vec::new()));
        }
        if self.take('$') {
            let name = self.name();
            return Ok(Operand::Variable(name, self.fields()?));
        }
        if self.rest.starts_with('"') {
            return self.string();
        }
        if let Some(raw) = self.rest.strip_prefix('`') {
            let (text, rest) = raw.split_once('`').ok_or("a string has no end")?;
            self.rest = rest;
            return Ok(Operand::Literal(text.into()));
        }
        let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
        if self.rest.starts_with(is_number) {
            let end = self.rest.find(|c| !is_number(c)).unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(end);
            self.rest = rest;
            let value = serde_json::from_str::<serde_json::Number>(number);
            let value = value.map_err(|_| format!("`{number}` is no number"))?;
            return Ok(Operand::Literal(Value::Number(value)));
        }
        match self.name().as_str() {
            "" => Err(format!("unexpected `{}`", self.rest)),
            "true" => Ok(Operand::Literal(true.into())),
            "false" => Ok(Operand::Literal(false.into())),
            "nil" => Ok(Operand::Literal(Value::Null)),
            name => Ok(Operand::Function(name.to_owned())),
        }
    }

    /// `.A.B`, possibly none.
    fn fields(&mut self) -> Result<Vec<String>, String> {
        let mut fields = Vec::new();
        while self.take('.') {
            match self.name() {
                name if name.is_empty() => {
                    return Err(format!("a field's name is missing before `{}`", self.rest));
                }
                name => fields.push(name),
            }
        }
        Ok(fields)
    }

    fn name(&mut self) -> String {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A string in double quotes, whose escapes are those of JSON as far as anybody uses them.
    fn string(&mut self) -> Result<Operand, String> {
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let Some(Ok(text)) = stream.next() else {
            return Err(format!("not a string: {}", self.rest));
        };
        let end = stream.byte_offset();
        self.rest = &self.rest[end..];
        Ok(Operand::Literal(text.into()))
    }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}
