//! `key=value,key=value` with quotes, as buildx reads `--output` and `--secret` (RFC 4180 fields:
//! `type=oci,"dest=a,b.tar"`).

/// Why a value is not a list of fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum InvalidList {
    /// A quoted field is not closed.
    #[error("a quote is not closed")]
    Open,
    /// Something stands behind a closing quote.
    #[error("a comma must follow a closing quote")]
    BehindQuote,
    /// A quote inside of a field that doesn't begin with one.
    #[error("a quote may only stand around a whole field: `\"key=value\"`")]
    Bare,
}

/// The fields of a list.
pub(super) fn fields(text: &str) -> Result<Vec<String>, InvalidList> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(rest)?,
        };
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return Ok(fields),
        }
    }
}

fn plain_field(text: &str) -> Result<(String, Option<&str>), InvalidList> {
    let (field, behind) = match text.split_once(',') {
        Some((field, behind)) => (field, Some(behind)),
        None => (text, None),
    };
    if field.contains('"') {
        return Err(InvalidList::Bare);
    }
    Ok((field.to_owned(), behind))
}

/// The field behind its opening quote; two quotes stand for one.
fn quoted_field(text: &str) -> Result<(String, Option<&str>), InvalidList> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (piece, behind) = rest.split_once('"').ok_or(InvalidList::Open)?;
        field.push_str(piece);
        if let Some(more) = behind.strip_prefix('"') {
            field.push('"');
            rest = more;
        } else if behind.is_empty() {
            return Ok((field, None));
        } else if let Some(next) = behind.strip_prefix(',') {
            return Ok((field, Some(next)));
        } else {
            return Err(InvalidList::BehindQuote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_at_commas_outside_of_quotes() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("type=oci,dest=x.tar", &["type=oci", "dest=x.tar"]),
            (r#"type=oci,"dest=a,b.tar""#, &["type=oci", "dest=a,b.tar"]),
            (r##""dest=say ""hi""""##, &[r#"dest=say "hi""#]),
            ("a,,b", &["a", "", "b"]),
            ("", &[""]),
            ("a,", &["a", ""]),
        ] {
            assert_eq!(
                fields(text).as_deref(),
                Ok(expected.map_owned().as_slice()),
                "{text}"
            );
        }
        for (text, error) in [
            (r#""a"#, InvalidList::Open),
            (r#""a"b"#, InvalidList::BehindQuote),
            (r#"dest="a""#, InvalidList::Bare),
        ] {
            assert_eq!(fields(text), Err(error), "{text}");
        }
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|&text| text.to_owned()).collect()
        }
    }

    proptest::proptest! {
        #[test]
        fn quoted_fields_come_back(list in proptest::collection::vec(".*", 1..5)) {
            let text: Vec<String> = list.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            proptest::prop_assert_eq!(fields(&text.join(",")), Ok(list));
        }
    }
}
