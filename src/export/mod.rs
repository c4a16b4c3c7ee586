//! Images leave: into registries, archives and folders.

pub mod layers;
pub mod registry;
