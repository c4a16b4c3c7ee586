//! The harness of the specification tests: a Dockerfile and a context go in, an image comes out,
//! and both are written down side by side in the test.
//!
//! * [`Project`] is a build context in a temporary folder.
//! * [`Rbuild`] runs the real binary with a store, a home and an environment of its own, as one
//!   [`User`].
//! * [`Image`] reads what was built from the written archive, sharing no code with rbuild, and
//!   checks every digest on the way; [`Tree`] is a root file system, from an image or from a
//!   folder that another tool unpacked.
//! * [`Terminal`] is a pseudo-terminal and whoever sits before it.
//! * [`GitServer`] hands out git repositories that the test makes.
//! * [`HttpServer`] answers what a test tells it to.
//! * [`Registry`] is Debian's `docker-registry` on a free port; [`Docker`], [`Podman`] and
//!   [`Containerd`] are engines with state of their own.
//!
//! What a test needs beyond Rust it asks for with [`needs`]: where that is missing, the test says
//! so on standard error and passes, unless `RBUILD_TEST_REQUIRE_ALL=1` makes a skip a failure.

mod cases;
mod engines;
mod git;
mod handmade;
mod http;
mod image;
mod needs;
mod process;
mod project;
mod pty;
mod rbuild;
mod readers;
mod registry;
mod rungs;
mod saved;
mod shown_image;
mod tree;
mod user;

pub(crate) use cases::{Case, CaseFile};
pub(crate) use engines::{Docker, Podman, write_program};
pub(crate) use git::{COMMIT_TIME, GitServer, Repository};
pub(crate) use handmade::{Layer, damaged_archive, docker_archive};
pub(crate) use http::{Answer, HttpServer};
pub(crate) use image::{Image, LayerTar, TarEntry};
pub(crate) use needs::{Need, emulators, needs, skip};
pub(crate) use process::{Finished, eventually, is_running, run_with_timeout};
pub(crate) use project::Project;
pub(crate) use pty::Terminal;
pub(crate) use rbuild::Rbuild;
pub(crate) use readers::{Containerd, READERS, podman_tree, umoci_tree};
pub(crate) use registry::{Registry, base_image_mirror};
pub(crate) use rungs::{Rung, each_rung};
pub(crate) use saved::saved_images;
pub(crate) use tree::{Node, NodeKind, Tree, assert_lines, dedent, difference};
pub(crate) use user::{User, as_other_user, each_user};

use std::path::PathBuf;

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The architecture of this machine as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
