//! Paths of an image as a Dockerfile writes them: text, never opened.

/// Joins `path` to `base` and cleans the result: absolute, no `.`, no `..`, no double slash.
pub(super) fn absolute(base: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_and_clean() {
        for (base, path, expected) in [
            ("/", "app", "/app"),
            ("/app", "src/../bin", "/app/bin"),
            ("/app", "/", "/"),
            ("/app", "../../..", "/"),
            ("", "a//b/.", "/a/b"),
        ] {
            assert_eq!(absolute(base, path), expected);
        }
    }
}
