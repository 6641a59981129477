//! Which upstreams have lately been silent, so that not every request of a pull waits for them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Endpoints that let a question go unanswered for too long. One that refuses connections is not
/// listed: asking it again costs nothing.
#[derive(Debug, Default)]
pub struct Health {
    silent: Mutex<HashMap<String, Instant>>,
}

// === impl Health ===

impl Health {
    /// Notes that `endpoint` was asked and said nothing in time.
    pub fn was_silent(&self, endpoint: &str) {
        self.silent().insert(endpoint.to_owned(), Instant::now());
    }

    /// Notes that `endpoint` answered.
    pub fn answered(&self, endpoint: &str) {
        self.silent().remove(endpoint);
    }

    /// Whether a question would likely go unanswered now.
    pub fn is_silent(&self, endpoint: &str) -> bool {
        let mut silent = self.silent();
        match silent.get(endpoint) {
            Some(since) if since.elapsed() < REMEMBERED => true,
            Some(_) => {
                silent.remove(endpoint);
                false
            }
            None => false,
        }
    }

    /// Nobody is silent, as far as is known.
    pub fn forget(&self) {
        self.silent().clear();
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const REMEMBERED: Duration = Duration::from_secs(5);
