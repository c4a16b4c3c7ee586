//! `RUN --mount=type=…,…`: fields to a [`Mount`].
//!
//! Values may hold variables, so a mount is read twice: when the Dockerfile is parsed, where
//! every mistake that doesn't hide behind a variable is told at once, and when the stage's
//! variables are known ([`Mount::expand`]).

use std::ops::Range;

use super::diagnostic::{Diagnostic, Kind};
use super::expansion::ExpandError;
use super::instruction::{CacheSharing, Mount, MountKind};
use super::nearest::nearest;
use super::span::{Span, Spanned};
use super::values;

/// The keys of mounts, of one type or another.
pub const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];
/// The types of mounts.
pub const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: [&str; 3] = ["shared", "private", "locked"];

/// A `--mount` that can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct MountError {
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub label: String,
    /// What to do, where it can be told.
    pub help: Option<String>,
    /// Whether a field's name is what is wrong, and not its value.
    is_key: bool,
    /// What is wrong in the flag's value.
    range: Option<Range<usize>>,
}

impl MountError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            label: String::new(),
            help: None,
            is_key: false,
            range: None,
        }
    }

    fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn suggesting(message: String, value: &str, candidates: &[&str]) -> Self {
        let mut error = Self::new(message);
        match nearest(&value.to_lowercase(), candidates.iter().copied()) {
            Some(near) => error.label = format!("did you mean `{near}`?"),
            None => error.help = Some(format!("there are: {}", candidates.join(", "))),
        }
        error
    }

    /// The same in a field of the flag's value.
    fn of_field(mut self, field: Option<Range<usize>>, key: usize) -> Self {
        self.range = field.map(|field| match self.is_key {
            true => field.start..(field.start + key).min(field.end),
            false => (field.start + key + 1).min(field.end)..field.end,
        });
        if self.range.as_ref().is_some_and(Range::is_empty) {
            self.range = None;
        }
        self
    }

    /// The diagnostic for a `--mount` with this value, which stands at `span`.
    pub fn diagnostic(self, kind: Kind, value: &str, span: Span) -> Diagnostic {
        let written = Spanned::new(value.to_owned(), span);
        let span = self.range.map_or(span, |range| written.part(range));
        Diagnostic {
            kind,
            label: self.label,
            help: self.help,
            ..Diagnostic::error(span, self.message)
        }
    }
}

/// Where the fields of a flag's value are; nothing where quotes make that hard to say.
fn places(text: &str) -> Vec<Range<usize>> {
    let mut start = 0;
    if text.contains('"') {
        return Vec::new();
    }
    let fields = text.split(',').map(|field| {
        let place = start..start + field.len();
        start = place.end + 1;
        place
    });
    fields.collect()
}

impl From<ExpandError> for MountError {
    fn from(error: ExpandError) -> Self {
        Self::new(error.to_string())
    }
}

/// Expands a value with the variables of a stage.
pub type Expander<'a> = dyn Fn(&str) -> Result<String, ExpandError> + 'a;

impl Mount {
    /// Reads a flag's value. Strings stay as written; numbers and keywords that hold a variable
    /// are left out.
    pub(super) fn read(text: &str) -> Result<Self, MountError> {
        read(text, None)
    }

    /// The mount with the variables in its values expanded, quotes and escapes removed.
    ///
    /// # Errors
    /// When a value can't be expanded, or isn't what its key takes.
    pub fn expand(&self, expand: &Expander<'_>) -> Result<Self, MountError> {
        read(&self.text, Some(expand))
    }

    /// Where the value of `from=` stands in a flag whose value stands at `span`.
    pub fn from_span(&self, span: Span) -> Span {
        let written = Spanned::new(self.text.clone(), span);
        let place = places(&self.text).into_iter().rev().find_map(|place| {
            let (key, _) = self.text.get(place.clone())?.split_once('=')?;
            (key.eq_ignore_ascii_case("from")).then_some(place.start + key.len() + 1..place.end)
        });
        place.map_or(span, |place| written.part(place))
    }
}

fn read(text: &str, expand: Option<&Expander<'_>>) -> Result<Mount, MountError> {
    let fields = values::fields(text)
        .map_err(|reason| MountError::new(format!("failed to parse csv mounts: {reason}")))?;
    let mut options = Options::default();
    let mut places = places(text).into_iter();
    for field in &fields {
        let key = field
            .split_once('=')
            .map_or(field.len(), |(key, _)| key.len());
        let place = places.next();
        options
            .read(field, expand)
            .map_err(|error| error.of_field(place, key))?;
    }
    options.finish(text)
}

/// Whether a key's value is a string that may hold anything.
fn is_text(key: &str) -> bool {
    matches!(
        key,
        "from" | "source" | "src" | "target" | "dst" | "destination" | "id" | "env"
    )
}

/// The options of every type, before it is known which one it is.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    /// Whether the type is behind a variable.
    is_open: bool,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    read_only: Option<bool>,
    required: Option<bool>,
    size: Option<u64>,
    sharing: Option<CacheSharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Options {
    fn read(&mut self, field: &str, expand: Option<&Expander<'_>>) -> Result<(), MountError> {
        let Some((key, value)) = field.split_once('=') else {
            return self.switch(&field.to_lowercase(), field);
        };
        let key = key.to_lowercase();
        self.check_key(&key, field)?;
        let value = match expand {
            Some(expand) => expand(value)?,
            None => value.to_owned(),
        };
        if expand.is_none() {
            if key == "from" && value.find('$').is_some_and(|at| at + 1 != value.len()) {
                let message =
                    "'from' doesn't support variable expansion, define alias stage instead";
                let help = "write `FROM <image with the variable> AS alias` and `from=alias`";
                return Err(MountError::new(message).with_help(help));
            }
            if !is_text(&key) && value.contains(['$', '\'', '"', '\\', '`']) {
                self.is_open |= key == "type";
                return Ok(());
            }
        }
        self.set(&key, value)
    }

    /// A key without a value.
    fn switch(&mut self, key: &str, field: &str) -> Result<(), MountError> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => self.required = Some(true),
            _ => {
                let message = format!("invalid field '{field}' must be a key=value pair");
                let mut error = MountError::suggesting(message, key, &KEYS);
                error.is_key = true;
                return Err(match KEYS.contains(&key) {
                    true => error.with_help(format!("write `{key}=…`")),
                    false if field.is_empty() => {
                        error.with_help("no comma may stand at the end or before a blank")
                    }
                    false => error,
                });
            }
        }
        Ok(())
    }

    fn check_key(&self, key: &str, field: &str) -> Result<(), MountError> {
        if KEYS.contains(&key) {
            return Ok(());
        }
        let message = format!("unexpected key '{key}' in '{field}'");
        Err(MountError {
            is_key: true,
            ..MountError::suggesting(message, key, &KEYS)
        })
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), MountError> {
        let invalid = || {
            let help = match key {
                "size" => "write a number of bytes, or one with a unit, such as 64m",
                _ => "write `true` or `false`",
            };
            MountError::new(format!("invalid value for {key}: {value}")).with_help(help)
        };
        let number = |radix| {
            let help = match radix {
                8 => "write the mode in octal, such as 0755",
                _ => "write a number; names aren't looked up here",
            };
            u32::from_str_radix(&value, radix).map_err(|_| {
                MountError::new(format!("invalid value {value} for {key}")).with_help(help)
            })
        };
        let text = |value: String| (!value.is_empty()).then_some(value);
        match key {
            "type" => {
                let kind = value.to_lowercase();
                if !TYPES.contains(&kind.as_str()) {
                    let message = format!("unsupported mount type {value:?}");
                    return Err(MountError::suggesting(message, &value, &TYPES));
                }
                self.kind = Some(kind);
            }
            "from" => self.from = text(value),
            "source" | "src" => self.source = text(value),
            "target" | "dst" | "destination" => self.target = text(value),
            "id" => self.id = text(value),
            "env" => self.env = Some(value),
            "readonly" | "ro" => {
                self.read_only = Some(values::boolean(&value).ok_or_else(invalid)?)
            }
            "readwrite" | "rw" => {
                self.read_only = Some(!values::boolean(&value).ok_or_else(invalid)?);
            }
            "required" => self.required = Some(values::boolean(&value).ok_or_else(invalid)?),
            "size" => self.size = Some(values::size(&value).ok_or_else(invalid)?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            _ => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => CacheSharing::Shared,
                    "private" => CacheSharing::Private,
                    "locked" => CacheSharing::Locked,
                    _ => {
                        let message = format!("unsupported sharing value {value:?}");
                        return Err(MountError::suggesting(message, &value, &SHARING));
                    }
                });
            }
        }
        Ok(())
    }

    /// Refuses what the type doesn't know, as BuildKit does.
    fn check(&self, kind: &str) -> Result<(), MountError> {
        let is_file = matches!(kind, "secret" | "ssh");
        if self.required.is_some() && !is_file {
            return Err(MountError::new(format!(
                "unexpected key 'required' for mount type '{kind}'"
            )));
        }
        if self.size.is_some() && kind != "tmpfs" {
            return Err(MountError::new(format!(
                "unexpected key 'size' for mount type '{kind}'"
            )));
        }
        if !is_file && kind != "cache" {
            let set = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = set.iter().find(|(_, value)| value.is_some()) {
                return Err(MountError::new(format!(
                    "{key} not allowed for {kind:?} type mounts"
                )));
            }
        }
        if kind == "secret" {
            self.check_secret()?;
        }
        if kind == "ssh" && self.source.is_some() {
            return Err(MountError::new("ssh does not support source"));
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(MountError::new(format!(
                "invalid cache sharing set for {kind} mount"
            )));
        }
        Ok(())
    }

    fn check_secret(&self) -> Result<(), MountError> {
        let message = if self.from.is_some() {
            "secret mount should not have a from"
        } else if self.sharing.is_some() {
            "secret mount should not define sharing"
        } else if self.source.is_none() && self.target.is_none() && self.id.is_none() {
            "invalid secret mount. one of source, target required"
        } else if self.source.is_some() && self.id.is_some() {
            "both source and id can't be set"
        } else {
            return Ok(());
        };
        Err(MountError::new(message))
    }

    fn finish(self, text: &str) -> Result<Mount, MountError> {
        let kind = self.kind.clone().unwrap_or_else(|| "bind".to_owned());
        if !self.is_open {
            self.check(&kind)?;
        }
        let required = self.required.unwrap_or(false);
        let (mode, uid, gid) = (self.mode, self.uid, self.gid);
        let kind = match kind.as_str() {
            "cache" => MountKind::Cache {
                id: self.id,
                from: self.from,
                source: self.source,
                sharing: self.sharing.unwrap_or_default(),
                read_only: self.read_only.unwrap_or(false),
                mode,
                uid,
                gid,
            },
            "tmpfs" => MountKind::Tmpfs {
                size: self.size.filter(|size| *size > 0),
            },
            "secret" => MountKind::Secret {
                id: self.id.or(self.source),
                required,
                mode,
                uid,
                gid,
                env: self.env,
            },
            "ssh" => MountKind::Ssh {
                id: self.id,
                required,
                mode,
                uid,
                gid,
            },
            _ => MountKind::Bind {
                from: self.from,
                source: self.source,
                read_write: !self.read_only.unwrap_or(true),
            },
        };
        Ok(Mount {
            kind,
            target: self.target,
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::expansion;
    use super::*;

    fn expanded(text: &str) -> Result<Mount, String> {
        let lookup = |name: &str| match name {
            "id" => Some("1000".to_owned()),
            "kind" => Some("cache".to_owned()),
            "dir" => Some("/a b".to_owned()),
            _ => None,
        };
        let expand = |word: &str| expansion::expand(word, &lookup, '\\');
        let mount = Mount::read(text).map_err(|error| error.message)?;
        mount.expand(&expand).map_err(|error| error.message)
    }

    #[test]
    fn variables_stand_for_any_value() {
        let mount = expanded("type=$kind,target=$dir,uid=$id,sharing=Locked,ro").unwrap();
        let kind = MountKind::Cache {
            id: None,
            from: None,
            source: None,
            sharing: CacheSharing::Locked,
            read_only: true,
            mode: None,
            uid: Some(1000),
            gid: None,
        };
        assert_eq!((mount.kind, mount.target.as_deref()), (kind, Some("/a b")));
    }

    #[test]
    fn defaults_are_those_of_a_bind_mount() {
        let mount = Mount::read("target=/x").unwrap();
        let kind = MountKind::Bind {
            from: None,
            source: None,
            read_write: false,
        };
        assert_eq!((mount.kind, mount.target.as_deref()), (kind, Some("/x")));
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let first = Mount::read("type=tmpfs,size=64m,dst=/x").unwrap();
        let second = Mount::read("size=64m,dst=/x,type=tmpfs").unwrap();
        assert_eq!(
            first.kind,
            MountKind::Tmpfs {
                size: Some(64 << 20)
            }
        );
        assert_eq!(first.kind, second.kind);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, message) in [
            ("type=tmpf", "unsupported mount type \"tmpf\""),
            (
                "type=cache,sharing=some",
                "unsupported sharing value \"some\"",
            ),
            ("targt=/x", "unexpected key 'targt' in 'targt=/x'"),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "from=$x,target=/x",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
            (
                "uid=1,target=/x",
                "uid not allowed for \"bind\" type mounts",
            ),
            ("type=cache,uid=one", "invalid value one for uid"),
            ("type=cache,mode=9", "invalid value 9 for mode"),
            (
                "type=cache,required",
                "unexpected key 'required' for mount type 'cache'",
            ),
            (
                "size=1,target=/x",
                "unexpected key 'size' for mount type 'bind'",
            ),
            ("type=tmpfs,size=x", "invalid value for size: x"),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            (
                "type=secret,id=a,from=b",
                "secret mount should not have a from",
            ),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            ("type=ssh,src=b", "ssh does not support source"),
            (
                "type=bind,sharing=shared",
                "invalid cache sharing set for bind mount",
            ),
            ("type=bind,ro=maybe", "invalid value for ro: maybe"),
            (
                "a\"b",
                "failed to parse csv mounts: bare \" in non-quoted field",
            ),
        ] {
            assert_eq!(Mount::read(text).unwrap_err().message, message, "{text}");
        }
        assert_eq!(
            expanded("type=cache,uid=$dir").unwrap_err(),
            "invalid value /a b for uid"
        );
        assert_eq!(
            expanded("type=bind,uid=$id").unwrap_err(),
            "uid not allowed for \"bind\" type mounts"
        );
        assert!(expanded("target=${x:?no}").unwrap_err().contains("x: no"));
    }

    #[test]
    fn suggestions_stand_where_they_are_needed() {
        let told = |text: &str| {
            let span = Span {
                start: 100,
                end: 100 + text.len(),
                first_line: 1,
                last_line: 1,
            };
            let error = Mount::read(text).unwrap_err();
            let one = error.diagnostic(Kind::Syntax, text, span);
            let meant = &text[one.span.start - 100..one.span.end - 100];
            (
                meant.to_owned(),
                format!("{}{}", one.label, one.help.unwrap_or_default()),
            )
        };
        for (text, meant, advice) in [
            ("target=/x,type=tmpf,rw", "tmpf", "did you mean `tmpfs`?"),
            ("type=bind,targt=/x", "targt", "did you mean `target`?"),
            ("rw,target", "target", "write `target=…`"),
            (
                "type=cache,uid=me,rw",
                "me",
                "write a number; names aren't looked up here",
            ),
            (
                "type=cache,target=/x,required",
                "type=cache,target=/x,required",
                "",
            ),
        ] {
            assert_eq!(told(text), (meant.to_owned(), advice.to_owned()), "{text}");
        }
        let mount = Mount::read("type=bind,from=x,target=/y").unwrap();
        let span = Span {
            start: 8,
            end: 34,
            first_line: 1,
            last_line: 1,
        };
        let from = mount.from_span(span);
        assert_eq!((from.start, from.end), (23, 24));
    }
}
