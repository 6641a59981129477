//! Every room of a gateway, wired; nothing bound and nobody served yet.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::parts::{authority, bounds, parent, robots, rules, strangers, via, way};
use super::{Parent, Unusable};
use crate::cache::{Cache, CacheConfig};
use crate::config::Config;
use crate::connect::{Gateway, Live};
use crate::policy::Policy;
use crate::registry::Registries;
use crate::registry::access::Access;
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Leaves, Notice};
use crate::upstream::Upstream;
use crate::users::Users;
use crate::warm::Warm;

/// What requests are answered with.
pub struct Rooms {
    pub gateway: Arc<Gateway>,
    pub cache: Arc<Cache>,
    pub warm: Arc<Warm>,
    pub metrics: Arc<Metrics>,
    /// The parent proxy, as it may be shown.
    pub parent: Option<String>,
}

// === impl Rooms ===

impl Rooms {
    /// Builds every room from its part of the configuration, and settles what the last process left.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        let policy = Policy::new(
            config.policy.clone(),
            config.registries.clone(),
            config.builtin_registries,
        );
        let (client_tls, warnings) =
            tls::client_config(config.upstream.ca_file.as_deref()).map_err(Unusable::new)?;
        for warning in warnings {
            warn!("{warning}");
        }
        let (authority, notices) = authority(config, &policy)?;
        tell(&notices);
        let leaves = Arc::new(Leaves::new(Arc::new(authority))?);

        let metrics = Arc::new(Metrics::new());
        metrics.count_leaves(leaves.counter().clone());
        let users =
            Users::open(config.users_file.as_deref(), metrics.clone()).map_err(Unusable::new)?;
        for warning in strangers(config, |user| users.knows(user)) {
            warn!("{warning}");
        }
        let via = via()?;
        let parent = parent(config, &client_tls, via.clone())?;
        let parent_place = parent.as_ref().map(Parent::place);
        let way = way(config, client_tls, parent);
        let upstream = Arc::new(Upstream::new(way, via, metrics.clone()));

        let cache_config = CacheConfig {
            dir: config.cache.dir.clone(),
            bounds: bounds(config),
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
        let robots = robots(config, &policy);
        for registry in robots.keys() {
            metrics.has_login(registry);
        }
        let live = Live {
            rules: Arc::new(rules(config, robots)),
            policy: Arc::new(policy),
            users: Arc::new(users),
            client_idle: config.limits.client_idle,
        };

        let gateway = Arc::new(Gateway {
            live: ArcSwap::from_pointee(live),
            leaves,
            registries,
            upstream,
            metrics: metrics.clone(),
        });
        let judged = gateway.clone();
        let in_force = move || {
            let live = judged.live.load();
            (live.policy.clone(), live.rules.clone())
        };
        let warm = Warm::new(
            gateway.registries.clone(),
            Arc::new(in_force),
            cache.clone(),
            metrics.clone(),
        );
        Ok(Self {
            gateway,
            cache,
            warm,
            metrics,
            parent: parent_place,
        })
    }
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        if notice.is_warning() {
            warn!("{notice}");
        } else {
            info!("{notice}");
        }
    }
}
