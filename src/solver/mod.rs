//! The solver: decides which steps run, in which order, and which the cache answers.
//!
//! It knows no terminal: whoever watches a build gives it an [`events::EventSink`].

pub mod cancel;
pub mod events;
