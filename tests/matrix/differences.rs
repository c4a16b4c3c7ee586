//! What some places can't give, build by build, and why: all that is tolerated.

/// Something that a place can't give, and why.
pub(super) struct Difference {
    pub(super) places: &'static [&'static str],
    /// The title of the case where it shows.
    pub(super) case: &'static str,
    pub(super) shows: Shows,
    pub(super) reason: &'static str,
}

/// How a difference shows.
pub(super) enum Shows {
    /// These files differ.
    Files(&'static [&'static str]),
    /// The build fails, and says this.
    Fails(&'static str),
}

use Shows::{Fails, Files};

const NOT_YET: &str = "in the step itself a device is an empty file";
const ONE_USER: &str = "to the kernel every user of a step is the same one";
const NO_CHANGE: &str =
    "a program that changes its user stays who it was, and its files are that one's";
const SET_GID: &str =
    "the group that a set-gid folder gives its new files is seen from the next step on";
const LINKED: &str = "names of one file from an earlier layer are files of their own";
const WRITABLE: &str = "nothing can be mounted, so nothing is read-only";
const NO_MKNOD: &str = "without `CAP_MKNOD` no device nodes can be made";

/// All that differs. `docs/isolation.md` says the same in words.
pub(super) const DIFFERENCES: &[Difference] = &[
    Difference {
        places: &["subordinate", "container", "container-volume"],
        case: "GNU tar, with attributes and capabilities of files",
        shows: Files(&["mnt/disk", "mnt/null"]),
        reason: NOT_YET,
    },
    Difference {
        places: &["subordinate", "container", "container-volume"],
        case: "tar -x in a step gives the archive's owners and devices",
        shows: Files(&["again/disk", "again/null"]),
        reason: NOT_YET,
    },
    Difference {
        places: &["stranger"],
        case: "A file made in a set-gid folder has the folder's group, and a folder the bit",
        shows: Files(&["seen"]),
        reason: SET_GID,
    },
    Difference {
        places: &["stranger"],
        case: "Who is not root changes the modes of own files only",
        shows: Files(&["etc/group", "tmp/seen"]),
        reason: ONE_USER,
    },
    Difference {
        places: &["stranger"],
        case: "Who is not root writes where the modes allow it",
        shows: Files(&["closed/x", "etc/x", "secret/x", "tmp/seen"]),
        reason: ONE_USER,
    },
    Difference {
        places: &["stranger"],
        case: "su and setpriv change the user within a step",
        shows: Files(&["tmp/app", "tmp/d", "tmp/u"]),
        reason: NO_CHANGE,
    },
    Difference {
        places: &["stranger"],
        case: "su, setpriv, runuser and start-stop-daemon",
        shows: Files(&[
            "seen",
            "tmp/runuser",
            "tmp/setpriv",
            "tmp/started",
            "tmp/su",
        ]),
        reason: NO_CHANGE,
    },
    Difference {
        places: &["stranger"],
        case: "perl sees what was recorded",
        shows: Files(&["seen", "tmp/d", "tmp/d/m"]),
        reason: NO_CHANGE,
    },
    Difference {
        places: &[
            "container",
            "stock-container",
            "stock-container-without-mknod",
        ],
        case: "cp -a and mv keep owners, modes and links",
        shows: Files(&["c/f", "c/h"]),
        reason: LINKED,
    },
    Difference {
        places: &[
            "container",
            "stock-container",
            "stock-container-without-mknod",
        ],
        case: "Files of Debian's own that are removed, given away and linked",
        shows: Files(&["seen"]),
        reason: LINKED,
    },
    Difference {
        places: &["stock-container", "stock-container-without-mknod"],
        case: "Bind mounts of the context and of a stage, written to for the step alone",
        shows: Files(&["seen"]),
        reason: WRITABLE,
    },
    Difference {
        places: &["stock-container-without-mknod"],
        case: "Devices and FIFOs",
        shows: Fails("mknod: /null: Operation not permitted"),
        reason: NO_MKNOD,
    },
    Difference {
        places: &["stock-container-without-mknod"],
        case: "GNU tar, with attributes and capabilities of files",
        shows: Fails("Cannot mknod: Operation not permitted"),
        reason: NO_MKNOD,
    },
    Difference {
        places: &["stock-container-without-mknod"],
        case: "tar -x in a step gives the archive's owners and devices",
        shows: Files(&["again/disk", "again/null", "srv/disk", "srv/null"]),
        reason: NO_MKNOD,
    },
    Difference {
        places: &["stock-container-without-mknod"],
        case: "ADD unpacks owners, modes, links and devices, and a step sees them",
        shows: Files(&["seen"]),
        reason: NO_MKNOD,
    },
];
