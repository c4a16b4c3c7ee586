//! The name that the user probably meant.

/// Names further away than this many edits are no typing errors.
const FARTHEST: usize = 2;

/// The candidate nearest to `name`, in any letter case, or `None` when none is near. An equal
/// candidate is no suggestion: then the name isn't what is wrong.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // a long word can't be near, and comparing costs the product of the lengths
    if name.is_empty() || name.len() > 128 {
        return None;
    }
    let wanted = name.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let distance = strsim::osa_distance(&wanted, &candidate.to_lowercase());
        let allowed = FARTHEST.min(candidate.chars().count() / 2);
        if distance == 0 {
            return None;
        }
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggests_the_nearest_and_nothing_far() {
        let stages = ["base", "builder", "release"];
        for (name, expected) in [
            ("biulder", Some("builder")),
            ("Relase", Some("release")),
            ("bas", Some("base")),
            ("production", None),
            ("base", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, stages), expected, "{name}");
        }
        assert_eq!(
            nearest("x", ["ab"]),
            None,
            "two edits of two letters mean nothing"
        );
    }
}
