//! The context room.
