//! Images that are pulled before anybody asks: by hand, or again and again by `[[prefetch]]`.
//!
//! The engine asks [`Registries::serve`] like a client of the mirror endpoint does, so that the
//! policy, the proofs of access and the verification of bytes are the same for it as for anybody.

mod error;
mod events;
mod jobs;
mod place;
mod prefetch;
mod pull;

use std::sync::Arc;

pub use self::error::PullError;
pub use self::events::{Event, Progress};
use self::jobs::Jobs;
pub use self::jobs::{Busy, Job, JobId, JobState};
pub use self::prefetch::PrefetchConfig;
pub use self::pull::{Options, Platforms, Pulled};
use crate::cache::Cache;
use crate::policy::Policy;
use crate::registry::Registries;
use crate::telemetry::metrics::Metrics;

/// Pulls images into the cache.
#[derive(Debug)]
pub struct Warm {
    registries: Arc<Registries>,
    policy: Arc<Policy>,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    jobs: Jobs,
}

// === impl Warm ===

impl Warm {
    pub fn new(
        registries: Arc<Registries>,
        policy: Arc<Policy>,
        cache: Arc<Cache>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            registries,
            policy,
            cache,
            metrics,
            jobs: Jobs::default(),
        })
    }
}
