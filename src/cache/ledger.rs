//! Every byte of the cache directory, by who answers for it.
//!
//! An object goes from one owner to the next in one step, so that nothing is ever counted twice or not
//! at all: reserved, then written, then known to the index, then taken out and held until the file is
//! gone. What the index loses is counted as lost until the files have been found again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::telemetry::metrics::Metrics;

/// The sums of one cache directory, in bytes on disk.
#[derive(Debug)]
pub struct Ledger {
    sums: Mutex<Sums>,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Objects that the index knows, as of its last commit.
    known: u64,
    /// Set aside, being written, kept for resuming, or on the way out.
    held: u64,
    /// What of `held` is not on disk yet.
    pending: u64,
    /// Objects that an index knew that is no more.
    lost: u64,
    /// The index itself.
    index: u64,
}

/// What one commit of the index changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Objects the index knows now, all together.
    pub known: u64,
    /// Set aside until now, and known from here on.
    pub from_held: u64,
    /// Found on disk, and known from here on.
    pub found: u64,
    /// Known until now; held until the files are gone.
    pub to_held: u64,
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub struct Held {
    ledger: Arc<Ledger>,
    bytes: u64,
}

// === impl Ledger ===

impl Ledger {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            sums: Mutex::default(),
            metrics,
        })
    }

    /// Bytes that objects, downloads, the index and the few small files beside it take.
    pub fn used(&self) -> u64 {
        self.sums().used()
    }

    /// Bytes that are no object's.
    pub fn overhead(&self) -> u64 {
        self.sums().index.saturating_add(SMALL_FILES)
    }

    /// Bytes to keep free beside all that is counted: the index grows after it has been asked to.
    pub fn margin(&self) -> u64 {
        MARGIN.saturating_add(self.sums().index / 8)
    }

    /// Bytes that are set aside and not on disk yet.
    pub fn pending(&self) -> u64 {
        self.sums().pending
    }

    /// Sets bytes aside; nothing of them is on disk yet.
    pub(super) fn set_aside(&self, bytes: u64) {
        self.change(|sums| {
            sums.held = sums.held.saturating_add(bytes);
            sums.pending = sums.pending.saturating_add(bytes);
        });
    }

    /// Takes on bytes that are on disk.
    pub(super) fn hold(&self, bytes: u64) {
        self.change(|sums| sums.held = sums.held.saturating_add(bytes));
    }

    /// Notes that bytes that were set aside are on disk.
    pub(super) fn wrote(&self, bytes: u64) {
        self.change(|sums| sums.pending = sums.pending.saturating_sub(bytes));
    }

    /// Lets go of bytes, of which `pending` were never written.
    pub(super) fn give_back(&self, bytes: u64, pending: u64) {
        self.change(|sums| {
            sums.held = sums.held.saturating_sub(bytes);
            sums.pending = sums.pending.saturating_sub(pending);
        });
    }

    /// The index has committed.
    pub(super) fn committed(self: &Arc<Self>, moved: Moved) {
        self.change(|sums| {
            sums.known = moved.known;
            let held = sums.held.saturating_add(moved.to_held);
            sums.held = held.saturating_sub(moved.from_held);
            sums.lost = sums.lost.saturating_sub(moved.found);
        });
    }

    /// Bytes that [`Moved::to_held`] put here, to be given back when they are gone.
    pub(super) fn held(self: &Arc<Self>, bytes: u64) -> Held {
        Held {
            ledger: self.clone(),
            bytes,
        }
    }

    /// The index was opened (anew), and knows this much.
    pub(super) fn index_knows(&self, known: u64) {
        self.change(|sums| sums.known = known);
    }

    /// The index is gone: what it knew is on disk still.
    pub(super) fn index_lost(&self) {
        self.change(|sums| sums.lost = sums.lost.saturating_add(std::mem::take(&mut sums.known)));
    }

    /// The files were counted, before anything was reserved: they take this much in all.
    pub(super) fn counted(&self, bytes: u64) {
        self.change(|sums| sums.lost = bytes.saturating_sub(sums.known));
    }

    /// Every file is known: what is still missed is no more.
    pub(super) fn all_found(&self) {
        self.change(|sums| sums.lost = 0);
    }

    /// What the index itself takes by now.
    pub(super) fn index_takes(&self, bytes: u64) {
        self.change(|sums| sums.index = bytes);
    }

    fn change(&self, change: impl FnOnce(&mut Sums)) {
        let mut sums = self.sums();
        change(&mut sums);
        // Under the lock, so that the last word in the metrics is the last one here.
        let used = i64::try_from(sums.used()).unwrap_or(i64::MAX);
        self.metrics.cache_bytes.set(used);
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sums ===

impl Sums {
    fn used(&self) -> u64 {
        [self.held, self.lost, self.index, SMALL_FILES]
            .into_iter()
            .fold(self.known, u64::saturating_add)
    }
}

// === impl Held ===

impl Held {
    /// On disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.give_back(self.bytes, 0);
    }
}

/// `lock`, `grants.key`, `admin.token`.
const SMALL_FILES: u64 = 12 << 10;
const MARGIN: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(Arc::new(Metrics::new()))
    }

    #[test]
    fn an_object_is_counted_once_from_its_reservation_to_its_removal() {
        let ledger = ledger();
        let empty = ledger.used();
        ledger.set_aside(100);
        assert_eq!((ledger.used() - empty, ledger.pending()), (100, 100));
        ledger.wrote(100);
        ledger.committed(Moved {
            known: 100,
            from_held: 100,
            ..Moved::default()
        });
        assert_eq!((ledger.used() - empty, ledger.pending()), (100, 0));
        ledger.committed(Moved {
            to_held: 100,
            ..Moved::default()
        });
        let held = ledger.held(100);
        assert_eq!(ledger.used() - empty, 100);
        drop(held);
        assert_eq!(ledger.used(), empty);
    }

    #[test]
    fn what_an_index_lost_counts_until_it_is_found_or_given_up() {
        let ledger = ledger();
        let empty = ledger.used();
        ledger.index_knows(300);
        ledger.index_lost();
        assert_eq!(ledger.used() - empty, 300);
        ledger.committed(Moved {
            known: 100,
            found: 100,
            ..Moved::default()
        });
        assert_eq!(ledger.used() - empty, 300);
        ledger.all_found();
        assert_eq!(ledger.used() - empty, 100);
    }
}
