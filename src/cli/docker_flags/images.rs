//! Flags of Docker's commands for images and disk space.

use super::{
    Flag, NO_BUILDERS, NO_CONTENT_TRUST, TRUE_OR_FALSE, always, any_bool, default_builder, is_true,
};

const NO_TREE: &str = "each platform's image has a line of its own";
const ALL_TAGS: &str = "name each tag";

const CONTENT_TRUST: Flag = Flag::switch("disable-content-trust", is_true, NO_CONTENT_TRUST);
const BUILDER: Flag = Flag::value("builder", default_builder, NO_BUILDERS);
/// There is no daemon to wait for.
const TIMEOUT: Flag = Flag::value("timeout", always, "");

pub(super) static TABLES: &[(&str, &[Flag])] = &[
    ("images", &[Flag::refused_switch("tree", NO_TREE)]),
    (
        "inspect",
        &[
            // An image's size is always shown.
            Flag::switch("size", any_bool, TRUE_OR_FALSE).short('s'),
        ],
    ),
    (
        "rmi",
        &[Flag::refused(
            "platform",
            "name one platform's image by its id",
        )],
    ),
    (
        "pull",
        &[
            Flag::refused_switch("all-tags", ALL_TAGS).short('a'),
            CONTENT_TRUST,
        ],
    ),
    (
        "push",
        &[
            Flag::refused_switch("all-tags", ALL_TAGS).short('a'),
            Flag::refused("platform", "an image goes with all its platforms"),
            CONTENT_TRUST,
        ],
    ),
    (
        "df",
        &[
            BUILDER,
            TIMEOUT,
            Flag::refused("filter", "rbuild shows everything that takes room"),
        ],
    ),
    (
        "prune",
        &[
            BUILDER,
            TIMEOUT,
            Flag::refused(
                "min-free-space",
                "`--keep SIZE` says how large the store may stay",
            ),
            Flag::refused(
                "reserved-space",
                "`--keep SIZE` says how large the store may stay",
            ),
        ],
    ),
    (
        "version",
        &[Flag::refused("format", "the version is one line of text").short('f')],
    ),
];
