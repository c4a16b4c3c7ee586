//! WORKDIR: a directory that exists afterwards, in a layer of its own (empty where it was there).

use super::copy::{self, Owner};
use super::owner::Accounts;
use super::{StepContext, StepError, StepResult};
use crate::digest::CacheKeyBuilder;
use crate::graph::MakeDirectory;
use crate::snapshot::Snapshot;
use crate::solver::events::Working;

impl StepContext {
    pub(super) fn make_directory(
        &self,
        make: &MakeDirectory,
        parent: &Snapshot,
        fresh: bool,
        working: &Working,
    ) -> Result<StepResult, StepError> {
        let mut key = CacheKeyBuilder::new("make directory");
        key.key(&parent.key)
            .field(make.path.as_bytes())
            .field(make.user.as_bytes());
        key.number(u64::from(make.time.is_some()))
            .number(make.time.unwrap_or(0) as u64);
        let key = key.finish();
        let _lock = self.lock(&key)?;
        if !fresh && let Some(result) = self.cached(&key, parent)? {
            return Ok(result);
        }
        let view = self.view(parent)?;
        working.begin();
        let owner = if make.user.is_empty() {
            Owner::default()
        } else {
            Accounts::new(view.passwd(), view.group()).owner_or_root(&make.user)
        };
        let selection = copy::select_directory(&make.path, view, owner, make.time)?;
        let (layer, _) = self.write_layer(&selection)?;
        self.finished(key, parent, layer)
    }
}
