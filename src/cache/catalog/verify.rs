//! Every object hashed anew.
use super::*;
use crate::cache::Cache;
use std::sync::Arc;

/// One object was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Its bytes were not its digest's; it is gone.
    pub damaged: bool,
    /// Objects looked at so far, and all of them.
    pub done: u64,
    pub of: u64,
}

/// What a whole pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub objects: u64,
    pub bytes: u64,
    /// Removed: to be fetched anew by whoever asks.
    pub damaged: Vec<Digest>,
    /// The index knew them, and the disk did not.
    pub missing: u64,
    /// They could not be read at this time.
    pub unreadable: u64,
}

impl Cache {
    /// Hashes every object at half of one disk's speed, and removes those that are damaged.
    pub async fn verify(self: &Arc<Self>, progress: impl Fn(&Checked) + Send + Sync) -> Verified {
        let _ = progress;
        todo!()
    }
}
