//! The form of a tree on disk: the same layer, extracted for another mount or another map of ids,
//! is another folder.
//!
//! Blobs and indexes are shared by all forms, trees never: a `user.overlay.opaque` directory
//! mounted with `trusted.*` attributes shows deleted files again.

use serde::{Deserialize, Serialize};

use crate::digest::CacheKeyBuilder;

/// Which extended attributes the overlay mount reads its markers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum XattrNamespace {
    /// `trusted.overlay.*`: mounts made with CAP_SYS_ADMIN in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounts with the `userxattr` option, the only way in a user namespace.
    User,
}

impl XattrNamespace {
    /// The prefix of all overlay attributes, with its dot.
    pub fn overlay_prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    /// The attribute that marks an opaque directory, with the value `y`.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// How an owner that the machine can't give a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ownership {
    /// Owners are real; an id outside the map is an error.
    Real,
    /// Owners, modes and devices outside the map are kept in the `user.containers.override_stat`
    /// attribute (`uid:gid:mode[:type]`, the convention of containers/storage).
    OverrideStat,
}

/// Everything that makes two trees of the same layer different.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Form {
    /// Where the overlay markers are.
    pub xattr_namespace: XattrNamespace,
    /// Ranges of user ids: first id inside, first id outside, how many.
    pub uid_map: Vec<(u32, u32, u32)>,
    /// Ranges of group ids, likewise.
    pub gid_map: Vec<(u32, u32, u32)>,
    /// How owners outside the maps are kept.
    pub ownership: Ownership,
}

impl Form {
    /// The form of trees made by root of the machine: every id is itself.
    pub fn root() -> Self {
        Self {
            xattr_namespace: XattrNamespace::Trusted,
            uid_map: vec![(0, 0, u32::MAX)],
            gid_map: vec![(0, 0, u32::MAX)],
            ownership: Ownership::Real,
        }
    }

    /// A short name for the form: 16 lower-case hex digits, the same for equal forms on any machine.
    pub fn id(&self) -> String {
        let mut key = CacheKeyBuilder::new("tree form 1");
        key.number(match self.xattr_namespace {
            XattrNamespace::Trusted => 0,
            XattrNamespace::User => 1,
        });
        key.number(match self.ownership {
            Ownership::Real => 0,
            Ownership::OverrideStat => 1,
        });
        for map in [&self.uid_map, &self.gid_map] {
            key.number(map.len() as u64);
            for &(inside, outside, count) in map {
                key.number(inside.into());
                key.number(outside.into());
                key.number(count.into());
            }
        }
        let mut hex = key.finish().hex();
        hex.truncate(16);
        hex
    }

    /// Whether one user id of the machine stands for all of an image's.
    pub fn has_one_id(&self) -> bool {
        matches!(self.uid_map[..], [(_, _, 1)])
    }

    /// Whether trees have notes of the owners that their files can't be given.
    pub fn notes_owners(&self) -> bool {
        self.ownership == Ownership::OverrideStat
    }

    /// The highest user and group up to which all are mapped.
    pub fn highest(&self) -> Option<(u32, u32)> {
        Some((highest(&self.uid_map)?, highest(&self.gid_map)?))
    }

    /// Whether a file can really be owned by this user and group of the image.
    pub fn is_mapped(&self, uid: u32, gid: u32) -> bool {
        is_in(&self.uid_map, uid) && is_in(&self.gid_map, gid)
    }
}

fn is_in(map: &[(u32, u32, u32)], id: u32) -> bool {
    map.iter()
        .any(|&(inside, _, count)| id.checked_sub(inside).is_some_and(|n| n < count))
}

/// The highest id up to which all are mapped.
fn highest(map: &[(u32, u32, u32)]) -> Option<u32> {
    let mut ranges: Vec<_> = map
        .iter()
        .map(|&(first, _, count)| (first, count))
        .collect();
    ranges.sort_unstable();
    let mut next = 0_u32;
    for (first, count) in ranges {
        if first > next {
            break;
        }
        next = next.max(first.saturating_add(count));
    }
    next.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rootless() -> Form {
        Form {
            xattr_namespace: XattrNamespace::User,
            uid_map: vec![(0, 1000, 1), (1, 100_000, 65_536)],
            gid_map: vec![(0, 1000, 1), (1, 100_000, 65_536)],
            ownership: Ownership::Real,
        }
    }

    #[test]
    fn the_id_tells_forms_apart_and_stays() {
        let forms = [
            Form::root(),
            rootless(),
            Form {
                ownership: Ownership::OverrideStat,
                ..rootless()
            },
            Form {
                xattr_namespace: XattrNamespace::Trusted,
                ..rootless()
            },
            Form {
                gid_map: vec![(0, 1000, 1)],
                ..rootless()
            },
            Form {
                uid_map: vec![(0, 1000, 1)],
                ..rootless()
            },
        ];
        let ids: std::collections::BTreeSet<_> = forms.iter().map(Form::id).collect();
        assert_eq!(ids.len(), forms.len());
        assert!(ids.iter().all(|id| id.len() == 16));
        assert_eq!(rootless().id(), rootless().id());
    }

    #[test]
    fn ids_are_mapped_inside_the_ranges_only() {
        let form = rootless();
        for (uid, gid, mapped) in [
            (0, 0, true),
            (65_536, 65_536, true),
            (65_537, 0, false),
            (0, 65_537, false),
            (u32::MAX, 0, false),
        ] {
            assert_eq!(form.is_mapped(uid, gid), mapped, "{uid}:{gid}");
        }
        assert!(Form::root().is_mapped(4_000_000_000, 0));
    }

    #[test]
    fn the_highest_id_has_no_gap_below() {
        for (map, expected) in [
            (&[(0, 1000, 1), (1, 100_000, 65_536)][..], Some(65_536)),
            (&[(1, 100_000, 10), (0, 1000, 1)], Some(10)),
            (&[(0, 5, 10), (20, 100, 10)], Some(9)),
            (&[(0, 0, u32::MAX)], Some(u32::MAX - 1)),
            (&[(5, 5, 10)], None),
        ] {
            assert_eq!(highest(map), expected, "{map:?}");
        }
    }
}
