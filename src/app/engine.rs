//! The half of a gateway that knows no clients: the cache, and the way to what is upstream of it.

use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use super::Parent;
use super::parts::{beyond, bounds, parent, robots, rules, via, way};
use crate::cache::{Cache, CacheConfig};
use crate::config::Config;
use crate::policy::Policy;
use crate::registry::access::Access;
use crate::registry::{Registries, RegistryRules};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;

/// What fetches, keeps and judges; whoever asks.
pub(super) struct Engine {
    pub cache: Arc<Cache>,
    pub upstream: Arc<Upstream>,
    pub registries: Arc<Registries>,
    pub rules: RegistryRules,
    pub metrics: Arc<Metrics>,
    /// The parent proxy, as it may be shown.
    pub parent: Option<String>,
}

// === impl Engine ===

impl Engine {
    /// Takes the cache directory for this process, and settles what the last one left in it.
    pub async fn build(
        config: &Config,
        policy: &Policy,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let beyond = beyond(config, policy)?;
        for warning in &beyond.warnings {
            warn!("{warning}");
        }
        let via = via()?;
        let parent = parent(config, &beyond.tls, via.clone())?;
        let parent_place = parent.as_ref().map(Parent::place);
        let way = way(config, beyond, parent);
        let upstream = Arc::new(Upstream::new(way, via, metrics.clone()));

        let cache_config = CacheConfig {
            dir: config.cache.dir.clone(),
            bounds: bounds(config),
            parallel: config.upstream.parallel,
        };
        let cache = Cache::open(&cache_config, metrics.clone())?;
        cache.settle().await;
        let access = Access::open(
            &config.cache.dir,
            cache.index().clone(),
            upstream.clone(),
            metrics.clone(),
        )
        .with_context(|| format!("the cache directory {}", config.cache.dir.display()))?;
        let registries = Registries::new(cache.clone(), upstream.clone(), Arc::new(access));
        let robots = robots(config, policy);
        for registry in robots.keys() {
            metrics.has_login(registry);
        }
        Ok(Self {
            cache,
            upstream,
            registries,
            rules: rules(config, robots),
            metrics,
            parent: parent_place,
        })
    }
}
