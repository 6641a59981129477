//! What a pull says while it runs.

use std::collections::BTreeMap;

use crate::oci::digest::Digest;

/// One step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A manifest or an index is here.
    Manifest { digest: Digest, media_type: String },
    /// A blob will be looked at. Bytes.
    Blob { digest: Digest, total: u64 },
    /// Bytes of a blob so far.
    Bytes { digest: Digest, done: u64 },
    /// A blob is complete and verified; `cached`: it had been before.
    Done { digest: Digest, cached: bool },
}

/// Where a pull stands, gathered from its [`Event`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Manifests and indexes that are here.
    pub manifests: usize,
    /// Blobs, and those of them that are complete.
    pub blobs: usize,
    pub blobs_done: usize,
    /// Bytes of all blobs known so far, and those of them that are here.
    pub total: u64,
    pub done: u64,
    /// Bytes so far of the blobs that are on their way, with what they will be.
    pub active: BTreeMap<Digest, (u64, u64)>,
}

// === impl Progress ===

impl Progress {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Manifest { .. } => self.manifests += 1,
            Event::Blob { digest, total } => {
                self.blobs += 1;
                self.total += total;
                self.active.insert(digest.clone(), (0, *total));
            }
            Event::Bytes { digest, done } => {
                if let Some((so_far, _)) = self.active.get_mut(digest) {
                    self.done += done.saturating_sub(*so_far);
                    *so_far = *done;
                }
            }
            Event::Done { digest, .. } => {
                self.blobs_done += 1;
                if let Some((so_far, total)) = self.active.remove(digest) {
                    self.done += total.saturating_sub(so_far);
                }
            }
        }
    }
}
