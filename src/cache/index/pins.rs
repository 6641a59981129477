//! Which images are pinned, and what must not go because of it.
//!
//! The names are in the index; what they protect is computed from them, and kept in memory so that an
//! eviction need not look for it.

use std::collections::{BTreeSet, HashSet};
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::store::Key;

/// The pinned images, and all that hangs on them.
#[derive(Debug)]
pub struct Pins {
    /// [`super::tag_prefix`] of each.
    names: RwLock<BTreeSet<String>>,
    protected: RwLock<Protected>,
    /// Whether `protected` is known yet.
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Protected {
    keys: HashSet<Key>,
    /// Those that came since the last computation began.
    added: HashSet<Key>,
}

// === impl Pins ===

impl Pins {
    pub(super) fn new(names: BTreeSet<String>) -> Self {
        let ready = watch::Sender::new(names.is_empty());
        Self {
            names: RwLock::new(names),
            protected: RwLock::default(),
            ready,
        }
    }

    /// Whether the image of this [`super::tag_prefix`] is pinned; a digest stands in a tag's place.
    pub fn is_pinned(&self, name: &str) -> bool {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.contains(name)
    }

    /// Whether any image of the repository is.
    pub fn in_repository(&self, origin: &str, repository: &str) -> bool {
        let prefix = format!("{origin}\n{repository}\n");
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let next = names.range(prefix.clone()..).next();
        next.is_some_and(|name| name.starts_with(&prefix))
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<String> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().cloned().collect()
    }

    pub fn count(&self) -> usize {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.len()
    }

    /// Whether `key` must not go: it is a pinned image's, be it here or yet to come.
    pub fn protects(&self, key: &Key) -> bool {
        let protected = self.protected.read();
        let protected = protected.unwrap_or_else(PoisonError::into_inner);
        protected.keys.contains(key)
    }

    /// Waits until it is known what must not go.
    pub async fn ready(&self) {
        // Fails only when the sender is gone, and it is a part of this.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    pub(super) fn set_name(&self, name: &str, pinned: bool) {
        let names = self.names.write();
        let mut names = names.unwrap_or_else(PoisonError::into_inner);
        match pinned {
            true => drop(names.insert(name.to_owned())),
            false => drop(names.remove(name)),
        }
    }

    pub(super) fn begin(&self) {
        self.write().added.clear();
    }

    pub(super) fn add(&self, keys: &HashSet<Key>) {
        let mut protected = self.write();
        protected.keys.extend(keys.iter().cloned());
        protected.added.extend(keys.iter().cloned());
    }

    pub(super) fn finish(&self, mut keys: HashSet<Key>) {
        let mut protected = self.write();
        keys.extend(protected.added.drain());
        protected.keys = keys;
        drop(protected);
        self.ready.send_replace(true);
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Protected> {
        let protected = self.protected.write();
        protected.unwrap_or_else(PoisonError::into_inner)
    }
}
