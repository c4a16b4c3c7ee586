//! `RUN --device`: the name of a CDI device (`vendor.com/class=name`), and whether it has to be
//! there.

use super::diagnostic::Diagnostic;
use super::nearest;
use super::span::{Span, Spanned};
use super::values;

/// The keys that it knows.
const KEYS: [&str; 2] = ["name", "required"];

/// One `RUN --device=…`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// `name`, or the word without a key.
    pub name: String,
    /// `required`.
    pub required: bool,
}

impl Device {
    /// Reads a flag's value as BuildKit does: a name may hold a `=` of its own.
    pub(super) fn read(text: &str, span: Span) -> Result<Spanned<Self>, Diagnostic> {
        let refused = |message: String| Diagnostic::syntax(span, message);
        let fields = values::fields(text)
            .map_err(|reason| refused(format!("failed to parse csv devices: {reason}")))?;
        let mut device = Self::default();
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = values::boolean(value)
                        .ok_or_else(|| refused(format!("invalid value for {key}: {value}")))?;
                }
                ("name", Some(_)) if !device.name.is_empty() => {
                    let message = format!("device name already set to {}", device.name);
                    return Err(refused(message));
                }
                ("name", Some(value)) => device.name = value.to_owned(),
                _ if device.name.is_empty() => device.name = field,
                (_, None) => {
                    let message = format!("invalid field '{field}' must be a key=value pair");
                    return Err(refused(message));
                }
                (_, Some(_)) => {
                    let error = refused(format!("unexpected key '{key}' in '{field}'"));
                    return Err(match nearest::nearest(&key, KEYS.iter().copied()) {
                        Some(near) => error.with_label(format!("did you mean `{near}`?")),
                        None => error.with_help(format!("there are: {}", KEYS.join(", "))),
                    });
                }
            }
        }
        Ok(Spanned::new(device, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_buildkit_reads_them() {
        for (text, name, required) in [
            ("vendor1.com/device=foo", "vendor1.com/device=foo", false),
            ("vendor1.com/device", "vendor1.com/device", false),
            (
                "name=vendor1.com/device=foo",
                "vendor1.com/device=foo",
                false,
            ),
            (
                "vendor1.com/device=foo,required",
                "vendor1.com/device=foo",
                true,
            ),
            ("required=1,name=a/b=c", "a/b=c", true),
            ("a/b=c,required=false", "a/b=c", false),
            ("REQUIRED,\"a/b=c,d\"", "a/b=c,d", true),
        ] {
            let expected = Device {
                name: name.to_owned(),
                required,
            };
            let found = Device::read(text, Span::default()).unwrap();
            assert_eq!(found.value, expected, "{text}");
        }
        for (text, message) in [
            ("a/b=c,name=d", "device name already set to a/b=c"),
            ("a/b=c,required=maybe", "invalid value for required: maybe"),
            (
                "a/b=c,more",
                "invalid field 'more' must be a key=value pair",
            ),
            ("a/b=c,requird=1", "unexpected key 'requird' in 'requird=1'"),
        ] {
            let found = Device::read(text, Span::default()).unwrap_err();
            assert_eq!(found.message, message, "{text}");
        }
    }
}
