//! Pulling, pushing and authenticating at registries: against a scripted server for what a
//! registry does on a bad day, and against Debian's `docker-registry` for what it does on a
//! good one.

// A test that cannot go on should stop there and then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "registry/fake.rs"]
mod fake;
#[path = "registry/images.rs"]
mod images;

#[path = "registry/authentication.rs"]
mod authentication;
#[path = "registry/distribution.rs"]
mod distribution;
#[path = "registry/pulling.rs"]
mod pulling;
#[path = "registry/pushing.rs"]
mod pushing;
