//! The cache directory of a gateway that does not run, behind the API that it would answer with: commands
//! are the same either way, and so is what they do.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::DuplexStream;

use super::engine::Engine;
use super::parts::{self, ca_config, patience};
use super::{LANDING, Unusable};
use crate::admin::steering::{Ca, Later, ReloadReport, Steering};
use crate::admin::token::Token;
use crate::admin::{self, Admin};
use crate::cache::Cache;
use crate::config::Config;
use crate::policy::Policy;
use crate::telemetry::metrics::Metrics;
use crate::tls::Authority;
use crate::users::{self, Users};
use crate::warm::Warm;
use crate::wire::drain::Drain;
use crate::wire::pace::Patience;

/// A cache directory in this process's hands. No other process has it meanwhile.
pub struct Directory {
    admin: Arc<Admin>,
    cache: Arc<Cache>,
    drain: Drain,
    patience: Patience,
}

// === impl Directory ===

impl Directory {
    /// Takes the directory of `config`, which is made where there is none. Nothing is bound, and the CA
    /// is left alone.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let policy = Arc::new(Policy::new(
            config.policy.clone(),
            config.registries.clone(),
            config.builtin_registries,
        ));
        let engine = Engine::build(config, &policy, Arc::new(Metrics::new())).await?;
        let cache = engine.cache;
        cache.find_again().await;
        let rules = Arc::new(engine.rules);
        let judged = policy.clone();
        let warm = Warm::new(
            engine.registries,
            Arc::new(move || (judged.clone(), rules.clone())),
            cache.clone(),
            engine.metrics.clone(),
        );
        let ca = Authority::open(&ca_config(config, &policy)).ok();
        let drain = Drain::default();
        let admin = Admin::new(admin::Parts {
            cache: cache.clone(),
            warm,
            upstream: engine.upstream,
            metrics: engine.metrics.clone(),
            steering: Arc::new(Ashore {
                policy,
                tag_ttl: config.cache.tag_ttl,
                ca: ca.map(|(authority, _)| Ca {
                    fingerprint: authority.fingerprint().to_owned(),
                    pem: authority.certificate_pem().to_owned(),
                }),
            }),
            // Nobody but this process can ask.
            users: Arc::new(ArcSwap::from_pointee(
                Users::open(users::ADMIN, None, engine.metrics).map_err(Unusable::new)?,
            )),
            token: Token::new()?,
            drain: drain.clone(),
        });
        Ok(Self {
            admin,
            cache,
            drain,
            patience: patience(config),
        })
    }

    /// A connection to its API.
    pub fn connect(&self) -> DuplexStream {
        self.admin.connect(self.patience)
    }

    /// Lets go of it, with everything written.
    pub async fn close(self) {
        self.drain.finish(LAST_ANSWERS).await;
        self.cache.put_in_place(LANDING).await;
        let _ = self.cache.index().flush().await;
    }
}

/// Steers no gateway: none runs.
struct Ashore {
    policy: Arc<Policy>,
    /// `cache.tag_ttl`.
    tag_ttl: Duration,
    ca: Option<Ca>,
}

// === impl Ashore ===

impl Steering for Ashore {
    fn policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }

    fn ca(&self) -> Ca {
        self.ca.clone().unwrap_or_else(|| Ca {
            fingerprint: String::new(),
            pem: String::new(),
        })
    }

    fn tag_ttl(&self, registry: &str, tag: &str) -> Duration {
        parts::tag_ttl(&self.policy, registry, tag, self.tag_ttl)
    }

    fn refused(&self) -> Option<String> {
        None
    }

    fn doors(&self) -> Vec<String> {
        Vec::new()
    }

    fn reload(&self) -> Later<'_, Result<ReloadReport, String>> {
        Box::pin(async { Err(NONE_RUNS.to_owned()) })
    }

    fn switch(&self, _: String, _: bool) -> Later<'_, Result<String, String>> {
        Box::pin(async { Err(NONE_RUNS.to_owned()) })
    }
}

const NONE_RUNS: &str = "no gateway runs here; what the file says counts at its next start";
/// Answers that nobody waits for any more.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
