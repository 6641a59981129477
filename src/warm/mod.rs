//! Images that are pulled before anybody asks: by hand, or again and again by `[[prefetch]]`.
//!
//! The engine asks [`Registries::serve`] like a client of the mirror endpoint does, so that the
//! policy, the proofs of access and the verification of bytes are the same for it as for anybody.

mod error;
mod events;
mod jobs;
mod place;
mod platforms;
mod prefetch;
mod pull;

use std::sync::Arc;

pub use self::error::PullError;
pub use self::events::{Event, Progress};
use self::jobs::Jobs;
pub use self::jobs::{Busy, Job, JobId, JobState};
pub use self::place::answered;
pub use self::platforms::Platforms;
pub use self::prefetch::PrefetchConfig;
pub use self::pull::{Options, Pulled};
use crate::cache::Cache;
use crate::policy::Policy;
use crate::registry::{Registries, RegistryRules};
use crate::telemetry::metrics::Metrics;

/// What requests are judged by at this moment.
pub type InForce = Arc<dyn Fn() -> (Arc<Policy>, Arc<RegistryRules>) + Send + Sync>;

/// Pulls images into the cache.
pub struct Warm {
    registries: Arc<Registries>,
    in_force: InForce,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    jobs: Jobs,
}

// === impl Warm ===

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Warm")
    }
}

impl Warm {
    pub fn new(
        registries: Arc<Registries>,
        in_force: InForce,
        cache: Arc<Cache>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            registries,
            in_force,
            cache,
            metrics,
            jobs: Jobs::default(),
        })
    }
}
