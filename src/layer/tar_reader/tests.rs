use super::*;
use crate::layer::tar_writer::TarWriter;
