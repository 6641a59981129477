//! The downloads under way, at most one for each digest.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::flight::Flight;
use super::sync::{Mutex, MutexGuard};
use crate::oci::digest::Digest;

/// Who asks for a blob that is not here joins its download, or begins it.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Arc<Flight>>>);

/// What came of asking for a download.
#[derive(Debug)]
pub enum Download {
    /// This call began it.
    Begun(Arc<Flight>),
    UnderWay(Arc<Flight>),
    /// It ended well since the caller looked: the blob is here.
    Landed,
}

// === impl Flights ===

impl Flights {
    pub fn get(&self, digest: &Digest) -> Option<Arc<Flight>> {
        self.lock().get(digest).cloned()
    }

    /// The download of `digest` that is under way, or the one that `begin` makes, unless the blob
    /// `is_here`. Each download must [end](Flights::end) after what it brought can be seen there.
    pub fn join(
        &self,
        digest: &Digest,
        is_here: impl FnOnce() -> bool,
        begin: impl FnOnce() -> Arc<Flight>,
    ) -> Download {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(digest) {
            return Download::UnderWay(flight.clone());
        }
        if is_here() {
            return Download::Landed;
        }
        let flight = begin();
        flights.insert(digest.clone(), flight.clone());
        Download::Begun(flight)
    }

    /// Whether there was one to end.
    pub fn end(&self, digest: &Digest) -> bool {
        self.lock().remove(digest).is_some()
    }

    pub fn all(&self) -> Vec<Arc<Flight>> {
        self.lock().values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
