//! rbuild builds OCI images from Dockerfiles without a daemon and without root.
//!
//! The data's way is straight, and the rooms of the library stand in its order:
//!
//! ```text
//! Dockerfile ─▶ instructions, stages ─▶ build graph ─▶ steps ─▶ layers ─▶ image ─▶ store, registry, files
//! dockerfile/                           graph/ solver/ step/    layer/    image/   export/ registry/
//! ```
//!
//! Each room imports only rooms at its own height or lower; `tests/rooms.rs` holds them to it.
//!
//! | height | rooms |
//! |---|---|
//! | 0 | [`digest`], [`platform`], [`reference`](mod@reference), [`time`] |
//! | 1 | [`dockerfile`], [`ignore`], [`image`]: pure text and data |
//! | 2 | [`fs`], [`layer`], [`store`], [`registry`], [`remote`], [`sandbox`], [`snapshot`], [`context`] |
//! | 3 | [`graph`], [`solver`], [`step`] |
//! | 4 | [`build`], [`export`] |
//! | 5 | [`cli`] |

pub mod digest;
pub mod platform;
pub mod reference;
pub mod time;

pub mod dockerfile;
pub mod ignore;
pub mod image;

pub mod context;
pub mod fs;
pub mod layer;
pub mod registry;
pub mod remote;
pub mod sandbox;
pub mod snapshot;
pub mod store;

pub mod graph;
pub mod solver;
pub mod step;

pub mod build;
pub mod export;

pub mod cli;
