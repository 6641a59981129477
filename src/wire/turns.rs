//! One at a time asks the same question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by name; a name that nobody holds costs nothing.
#[derive(Debug, Default)]
pub struct Turns {
    held: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

// === impl Turns ===

impl Turns {
    /// Waits for this question's turn, though not for ever: whoever has waited for long asks beside the
    /// others, so that slow answers do not add up.
    pub async fn take(&self, question: String) -> Option<OwnedMutexGuard<()>> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.len() >= SWEEP_AT && held.len().is_power_of_two() {
                held.retain(|_, lock| lock.strong_count() > 0);
            }
            match held.get(&question).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    held.insert(question, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        tokio::time::timeout(LONGEST, lock.lock_owned()).await.ok()
    }
}

const LONGEST: Duration = Duration::from_secs(10);
const SWEEP_AT: usize = 1024;
