//! One registry's requests: its counters are looked up once, and not with every request.

use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::super::access::Outcome;
use super::labels::{RegistryLabels, RequestLabels};

/// The requests of one registry, by outcome.
#[derive(Debug, Default)]
pub struct Tally {
    /// The configured name: a label, so never a client's own words.
    registry: Arc<str>,
    /// In the order of [`Outcome::ALL`]; a counter is there from its first request on.
    counters: [OnceLock<Counter>; Outcome::ALL.len()],
    pulls: OnceLock<Counter>,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(registry: Arc<str>) -> Self {
        Self {
            registry,
            ..Self::default()
        }
    }

    pub(super) fn count(&self, family: &Family<RequestLabels, Counter>, outcome: Outcome) {
        let counter = self.counters[outcome as usize].get_or_init(|| {
            family.get_or_create_owned(&RequestLabels {
                registry: self.registry.to_string(),
                outcome: outcome.as_str(),
            })
        });
        counter.inc();
    }

    /// Counts an image that a client was given.
    pub(super) fn pulled(&self, family: &Family<RegistryLabels, Counter>) {
        let counter = self.pulls.get_or_init(|| {
            family.get_or_create_owned(&RegistryLabels {
                registry: self.registry.to_string(),
            })
        });
        counter.inc();
    }
}
