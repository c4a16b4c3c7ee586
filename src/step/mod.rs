//! The step room.
