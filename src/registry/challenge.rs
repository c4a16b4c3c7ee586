//! `WWW-Authenticate` headers: which kind of credentials a registry asks for. Pure.
//!
//! The grammar is RFC 9110 §11.6.1: a header holds one or more challenges, each a scheme and
//! comma-separated parameters whose values are tokens or quoted strings.

/// One challenge that this client can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from `realm` (distribution's token authentication specification).
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// A user name and a password.
    Basic,
}

/// The best challenge among the values of all `WWW-Authenticate` headers: a bearer challenge
/// with a realm before a basic one; `None` where neither is offered.
pub(super) fn best<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, parameters) in parse(header) {
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: parameter("service"),
                        scope: parameter("scope").filter(|scope| !scope.is_empty()),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = token(rest);
        if name.is_empty() {
            return challenges;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        match after_space.strip_prefix('=') {
            Some(value) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((name.to_owned(), value));
                }
                rest = after;
            }
            None => {
                challenges.push((name.to_owned(), Vec::new()));
                rest = after_space;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries leave out the quotes even around URLs.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read() {
        for (headers, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                ],
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/alpine:pull"),
                ),
            ),
            (vec![r#"Basic realm="Registry""#], Some(Challenge::Basic)),
            (vec!["basic"], Some(Challenge::Basic)),
            (
                vec![r#"Basic realm="a", Bearer realm="https://t/", service="s""#],
                bearer("https://t/", Some("s"), None),
            ),
            (
                vec!["Basic realm=x", r#"bearer REALM="https://t""#],
                bearer("https://t", None, None),
            ),
            (
                vec![r#"Bearer realm="https://t/a,b" , service = "a \"quoted\" s" ,scope="""#],
                bearer("https://t/a,b", Some("a \"quoted\" s"), None),
            ),
            (
                vec!["Bearer realm=https://t/x?y,service=s"],
                bearer("https://t/x?y", Some("s"), None),
            ),
            (
                vec![
                    r#"Bearer realm="https://t",scope="repository:a:pull,push repository:b:pull",error="insufficient_scope""#,
                ],
                bearer(
                    "https://t",
                    None,
                    Some("repository:a:pull,push repository:b:pull"),
                ),
            ),
            (vec!["Negotiate", "Digest realm=\"x\""], None),
            (vec!["Bearer"], None),
            (vec![""], None),
            (
                vec![r#"Bearer realm="https://unterminated"#],
                bearer("https://unterminated", None, None),
            ),
        ] {
            assert_eq!(best(headers.iter().copied()), expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in "\\PC{0,80}") {
            best([header.as_str()]);
        }
    }
}
