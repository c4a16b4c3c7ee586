//! The Dockerfile language: text to instructions and stages, and the expansion of words.
//!
//! Pure: no file, no network, no clock.

pub mod instruction;
pub mod span;
