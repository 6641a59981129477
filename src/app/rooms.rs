//! Every room of a gateway, wired; nothing bound and nobody served yet.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::Unusable;
use super::engine::Engine;
use super::parts::{authority, strangers};
use crate::cache::Cache;
use crate::config::Config;
use crate::connect::{Gateway, Live};
use crate::policy::Policy;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Leaves, Notice};
use crate::users::{self, Users};
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
        let (authority, notices) = authority(config, &policy)?;
        tell(&notices);
        let leaves = Arc::new(Leaves::new(Arc::new(authority))?);

        let metrics = Arc::new(Metrics::new());
        metrics.count_leaves(leaves.counter().clone());
        let users = Users::open(users::PROXY, config.users_file.as_deref(), metrics.clone())
            .map_err(Unusable::new)?;
        for warning in strangers(config, |user| users.knows(user)) {
            warn!("{warning}");
        }
        let Engine {
            cache,
            upstream,
            registries,
            rules,
            metrics,
            parent,
        } = Engine::build(config, &policy, metrics).await?;
        let live = Live {
            rules: Arc::new(rules),
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
            parent,
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
