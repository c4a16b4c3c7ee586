//! `.dockerignore` matching.
