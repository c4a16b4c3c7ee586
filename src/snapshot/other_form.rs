//! Layers that the store has only as trees of another form.
//!
//! A step that ran in one isolation mode leaves a tree that no other mode may mount. Its files are
//! the layer's all the same: together with the index, which knows owners and modes whatever the
//! form, they give the layer's tar again, and its diff ID proves it. A tree is only read here.

use std::fs::File;
use std::os::fd::AsFd;

use super::{Materializer, SnapshotError};
use crate::digest::{BlobDigest, DiffId};
use crate::fs::Root;
use crate::layer::diff;
use crate::store::{LayerId, StoreError};

impl Materializer {
    /// The plain tar of a layer, written into the store from a tree of another form. `None` where
    /// there is none.
    ///
    /// # Errors
    /// When there is one and its files can't be read here.
    pub(super) fn tar_of_other_form(
        &self,
        layer: LayerId,
        diff_id: DiffId,
    ) -> Result<Option<(File, BlobDigest)>, SnapshotError> {
        let digest = BlobDigest(diff_id.0);
        let Some(index) = self.store().index(layer)? else {
            return Ok(None);
        };
        let mut unreadable = None;
        for tree in self.store().trees_of_other_forms(layer, self.form())? {
            let Ok(root) = Root::open(&tree) else {
                continue;
            };
            let writer = self.store().ingest()?;
            let writer = match diff::write_tree_tar(root.as_fd(), &index, None, writer) {
                Ok((writer, _)) => writer,
                Err(source) => {
                    unreadable = Some(SnapshotError::OtherForm { diff_id, source });
                    continue;
                }
            };
            match writer.commit(Some(digest)) {
                Ok(_) => {}
                Err(StoreError::WrongDigest { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(file) = self.store().blob(&digest)? {
                return Ok(Some((file, digest)));
            }
        }
        unreadable.map_or(Ok(None), Err)
    }
}
