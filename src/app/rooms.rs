//! Every room of a gateway, wired; nothing bound and nobody served yet.

use std::sync::Arc;

use anyhow::Context;
use tracing::{info, warn};

use super::parts::{authority, parent, robots, strangers, via};
use super::{Parent, Unusable};
use crate::cache::space::Bounds;
use crate::cache::{Cache, CacheConfig};
use crate::config::Config;
use crate::connect::Gateway;
use crate::policy::{AddressGuard, Policy};
use crate::registry::access::Access;
use crate::registry::{Registries, RegistryRules};
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Leaves, Notice};
use crate::upstream::Upstream;
use crate::upstream::dial::Dialer;
use crate::users::Users;

/// What requests are answered with.
pub struct Rooms {
    pub gateway: Arc<Gateway>,
    pub cache: Arc<Cache>,
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
        let authority = Arc::new(authority);
        let leaves = Arc::new(Leaves::new(authority.clone())?);

        let metrics = Arc::new(Metrics::new());
        metrics.count_leaves(leaves.counter().clone());
        let users =
            Users::open(config.users_file.as_deref(), metrics.clone()).map_err(Unusable::new)?;
        for warning in strangers(config, &users) {
            warn!("{warning}");
        }
        let via = via()?;
        let parent = parent(config, &client_tls, via.clone())?;
        let parent_place = parent.as_ref().map(Parent::place);
        let dialer = Dialer::new(
            AddressGuard::new(config.upstream.allow_private.clone()),
            config.upstream.resolve.clone(),
            config.limits.upstream_connect,
        );
        let dialer = Arc::new(dialer.behind(parent));
        let upstream = Arc::new(Upstream::new(
            client_tls,
            dialer,
            config.limits.upstream_idle,
            via,
            metrics.clone(),
        ));

        let cache_config = CacheConfig {
            dir: config.cache.dir.clone(),
            bounds: Bounds {
                max_size: config.cache.max_size,
                min_free: config.cache.min_free,
            },
        };
        let cache = Cache::open(&cache_config, metrics.clone())?;
        cache.settle().await;
        let access = Access::open(
            &config.cache.dir,
            cache.index().clone(),
            upstream.clone(),
            config.cache.revalidate_timeout,
            config.cache.offline_for,
            metrics.clone(),
        )
        .with_context(|| format!("the cache directory {}", config.cache.dir.display()))?;
        let rules = RegistryRules {
            tag_ttl: config.cache.tag_ttl,
            offline_for: config.cache.offline_for,
            revalidate_timeout: config.cache.revalidate_timeout,
            manifest_size: config.limits.manifest_size,
        };
        let robots = robots(config, &policy);
        for registry in robots.keys() {
            metrics.has_login(registry);
        }
        let registries = Registries::new(
            cache.clone(),
            upstream.clone(),
            Arc::new(access),
            rules,
            robots,
        );

        let gateway = Arc::new(Gateway {
            policy: Arc::new(policy),
            users: Arc::new(users),
            authority,
            leaves,
            registries,
            upstream,
            metrics: metrics.clone(),
            client_idle: config.limits.client_idle,
        });
        Ok(Self {
            gateway,
            cache,
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
