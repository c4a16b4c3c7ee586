//! Stopping a build: one flag that every step looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A build was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("canceled")]
pub struct Canceled;

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    canceled: AtomicBool,
    actions: Mutex<Vec<(u64, Action)>>,
}

/// Says whether a build goes on. Clones share the flag.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

/// Takes an action back when dropped.
pub struct OnCancel {
    cancel: Cancel,
    id: u64,
}

impl Cancel {
    /// A flag that isn't set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the build: sets the flag and runs every action once.
    pub fn cancel(&self) {
        self.0.canceled.store(true, Ordering::SeqCst);
        let actions = std::mem::take(&mut *self.actions());
        for (_, action) in actions {
            action();
        }
    }

    /// Whether the build was stopped.
    pub fn is_canceled(&self) -> bool {
        self.0.canceled.load(Ordering::SeqCst)
    }

    /// Fails once the build was stopped; loops call it.
    ///
    /// # Errors
    /// [`Canceled`].
    pub fn check(&self) -> Result<(), Canceled> {
        if self.is_canceled() {
            Err(Canceled)
        } else {
            Ok(())
        }
    }

    /// Runs `action` when the build is stopped (at once if it was already), unless the value
    /// given back is dropped before.
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) -> OnCancel {
        let mut actions = self.actions();
        let id = actions.last().map_or(0, |(id, _)| id + 1);
        if self.is_canceled() {
            drop(actions);
            action();
        } else {
            actions.push((id, Box::new(action)));
        }
        OnCancel {
            cancel: self.clone(),
            id,
        }
    }

    /// Ends when the build is stopped.
    pub async fn canceled(&self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let _action = self.on_cancel(move || drop(sender));
        // The sender is dropped, never used.
        let _: Result<(), _> = receiver.await;
    }

    fn actions(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Action)>> {
        self.0
            .actions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.cancel.actions().retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_run_once_and_not_after_they_were_taken_back() {
        let cancel = Cancel::new();
        let count = Arc::new(Mutex::new(0));
        let add = |n: i32| {
            let count = Arc::clone(&count);
            move || *count.lock().unwrap() += n
        };
        let kept = cancel.on_cancel(add(1));
        drop(cancel.on_cancel(add(10)));
        assert_eq!(cancel.check(), Ok(()));
        cancel.cancel();
        cancel.cancel();
        drop(kept);
        let late = cancel.on_cancel(add(100));
        drop(late);
        assert_eq!(*count.lock().unwrap(), 101);
        assert_eq!(cancel.check(), Err(Canceled));
    }
}
