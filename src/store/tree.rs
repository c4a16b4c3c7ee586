//! Trees: folders that an overlay mount takes as lower directories, one for each layer and form.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{Action, StoreError};
use super::{LayerId, Store, create_directory, set_mode, sql};
use crate::fs::remove::remove_folder;
use crate::layer::form::Form;

impl Store {
    /// The layer's tree in this form, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn tree(&self, layer: LayerId, form: &Form) -> Result<Option<PathBuf>, StoreError> {
        let form = form.id();
        if !self
            .inner
            .database
            .read(|c| sql::has_tree(c, layer, &form))?
        {
            return Ok(None);
        }
        let path = self.tree_path(layer, &form);
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => Ok(Some(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).action("examine", &path)
            }
            _ => {
                self.inner
                    .database
                    .write(|transaction| Ok(sql::delete_tree(transaction, layer, &form)?))?;
                Ok(None)
            }
        }
    }

    /// Starts a new tree: an empty folder of mode 0755, to be filled.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new_tree(&self, form: &Form) -> Result<PendingTree, StoreError> {
        let path = self.inner.temporary.new_path();
        DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .action("create", &path)?;
        set_mode(&path, 0o755)?;
        Ok(PendingTree {
            store: self.clone(),
            form: form.id(),
            path,
            pending: true,
        })
    }

    /// Where trees of a layer are that have other forms than this one: to be read, never mounted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn trees_of_other_forms(
        &self,
        layer: LayerId,
        form: &Form,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let own = form.id();
        let forms = self.inner.database.read(|c| sql::tree_forms(c, layer))?;
        let others = forms.iter().filter(|form| **form != own);
        Ok(others.map(|form| self.tree_path(layer, form)).collect())
    }

    pub(super) fn tree_path(&self, layer: LayerId, form: &str) -> PathBuf {
        let trees = self.inner.root.join("trees").join(form);
        trees.join(layer.0.to_string())
    }
}

/// A tree that is being filled. Dropped without [`PendingTree::commit`], it is removed.
#[derive(Debug)]
pub struct PendingTree {
    store: Store,
    form: String,
    path: PathBuf,
    pending: bool,
}

impl PendingTree {
    /// The folder to fill.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the tree of `layer`; gives the folder's new place. Where that layer has a tree in
    /// this form already, that one stays and this one is removed.
    ///
    /// # Errors
    /// When there is no such layer, or the disk or the database fail.
    pub fn commit(mut self, layer: LayerId) -> Result<PathBuf, StoreError> {
        let store = self.store.clone();
        if let Some(path) = self.existing(layer)? {
            return Ok(path);
        }
        let place = store.tree_path(layer, &self.form);
        if let Some(parent) = place.parent() {
            create_directory(parent, false)?;
        }
        // The rename stands inside the transaction, so that two processes that commit the same
        // tree do so one after the other. Killed in between, it leaves a folder without a row.
        store.inner.database.write(|transaction| {
            if sql::layer(transaction, layer)?.is_none() {
                return Err(StoreError::MissingLayer(layer))?;
            }
            if sql::has_tree(transaction, layer, &self.form)? && place.is_dir() {
                return Ok(());
            }
            if place.symlink_metadata().is_ok() {
                store.inner.temporary.discard(&place);
            }
            std::fs::rename(&self.path, &place).action("create", &place)?;
            self.pending = false;
            Ok(sql::put_tree(
                transaction,
                layer,
                &self.form,
                &store.inner.boot,
            )?)
        })?;
        Ok(place)
    }

    fn existing(&self, layer: LayerId) -> Result<Option<PathBuf>, StoreError> {
        let inner = &self.store.inner;
        if !inner
            .database
            .read(|c| sql::has_tree(c, layer, &self.form))?
        {
            return Ok(None);
        }
        let path = self.store.tree_path(layer, &self.form);
        Ok(path.is_dir().then_some(path))
    }
}

impl Drop for PendingTree {
    fn drop(&mut self) {
        if self.pending
            && let Err(error) = remove_folder(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "left behind");
        }
    }
}
