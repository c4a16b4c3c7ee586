//! Pulling, pushing and authenticating at registries: against a scripted server for what a
//! registry does on a bad day, and against Debian's `docker-registry` for what it does on a
//! good one.

mod authentication;
mod distribution;
mod fake;
mod images;
mod pulling;
mod pushing;
