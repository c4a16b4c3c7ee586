//! Specification tests: a Dockerfile and a context in, an image out, one file per feature.
//!
//! They run the real binary; what they need beyond Rust is told by `support::needs`. Run one
//! feature with `cargo test --test spec run::`.

// Outside `#[test]` functions these lints don't know that this is a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The runner shows what a failing test has printed.
#![allow(clippy::print_stdout)]

mod support;

mod add_url;
mod base_images;
mod beyond_ids;
mod cache;
mod cgroups;
mod chroot;
mod commands;
mod compatibility;
mod completion;
mod conformance;
mod copy_into_existing;
mod copy_parents;
mod diagnostics;
mod differential;
mod dockerfile_page;
mod doctor;
mod emulation;
mod engines;
mod errors;
mod first_hour;
mod flags;
mod git_access;
mod git_add;
mod git_contexts;
mod harness;
mod hello_example;
mod hostile;
mod kernel_fallbacks;
mod language;
mod language_cases;
mod layers;
mod lint;
mod login;
mod matrix;
mod named_contexts;
mod on_error;
mod one_id;
mod output_files;
mod outputs;
mod platforms;
mod private_network;
mod progress;
mod real_dockerfiles;
mod registry;
mod remote_contexts;
mod reproducible;
mod rooms;
mod run;
mod run_image;
mod save_load;
mod security_page;
mod signals;
mod ssh_mounts;
mod storage_drivers;
mod store_commands;
