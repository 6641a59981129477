//! The configuration read anew while the gateway runs. All of it is built before any of it counts: a
//! file that is wrong anywhere changes nothing.

mod prepare;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::prepare::{Prepared, prepare};
use super::parts;
use super::rooms::Rooms;
use super::service;
use crate::cache::Cache;
use crate::config::{Config, ConfigError};
use crate::connect::{Gateway, Live};
use crate::listen::Clients;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::users::Users;
use crate::warm::{PrefetchConfig, Warm};
use crate::wire::pace::Patience;

/// Takes a changed configuration into a running gateway.
#[derive(Debug)]
pub struct Reloader {
    gateway: Arc<Gateway>,
    cache: Arc<Cache>,
    warm: Arc<Warm>,
    /// `admin.users_file`.
    admin_users: Arc<ArcSwap<Users>>,
    clients: Arc<Clients>,
    patience: Arc<ArcSwap<Patience>>,
    metrics: Arc<Metrics>,
    /// What is in force.
    config: ArcSwap<Config>,
    /// Why what was read last is not.
    refused: ArcSwapOption<String>,
    /// Held by the one who changes something.
    turn: tokio::sync::Mutex<Turn>,
}

/// What came of a reload. Keys are named as in the file; values, which may be secrets, are not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Keys that are in force as the file says by now.
    pub changed: Vec<String>,
    /// Keys that the file says differently, and that stay as they are until the next start.
    pub needs_restart: Vec<String>,
    /// What the owner should hear, though it stops nothing.
    pub warnings: Vec<String>,
}

/// Why a configuration was not taken. Everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Names the file, the line and the key.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that the configuration names cannot be used.
    #[error("{0:#}")]
    Unusable(#[from] anyhow::Error),
    #[error("the reload came to no end: {0}")]
    Broken(#[from] JoinError),
}

/// There is no registry of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no registry is called {0}; the names are those that `pierhead serve` lists under \"caches\""
)]
pub struct NoSuchRegistry(pub String);

#[derive(Debug, Default)]
struct Turn {
    /// Read the users files when they change.
    following: Option<AbortOnDropHandle<()>>,
    following_admins: Option<AbortOnDropHandle<()>>,
    /// What keeps each entry of `[[prefetch]]` warm.
    warming: Vec<(PrefetchConfig, AbortOnDropHandle<()>)>,
    /// Registries that were switched since the file was read.
    switched: BTreeMap<String, bool>,
}

// === impl Reloader ===

impl Reloader {
    pub(super) fn new(
        config: Config,
        rooms: &Rooms,
        admin_users: Arc<ArcSwap<Users>>,
        clients: Arc<Clients>,
        patience: Arc<ArcSwap<Patience>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gateway: rooms.gateway.clone(),
            cache: rooms.cache.clone(),
            warm: rooms.warm.clone(),
            admin_users,
            clients,
            patience,
            metrics: rooms.metrics.clone(),
            config: ArcSwap::from_pointee(config),
            refused: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Why the configuration that was read last is not in force; `None`: it is.
    pub fn refused(&self) -> Option<String> {
        self.refused.load().as_deref().cloned()
    }

    /// Reads the file and the environment anew, and takes what can be taken without a restart. New
    /// requests are judged by it, on connections that stand already too; what runs finishes as it
    /// began. The log and the metrics tell the result.
    pub async fn reload(self: &Arc<Self>) -> Result<Report, ReloadError> {
        let reloader = self.clone();
        // In a task of its own: one whose caller goes away is not left half done.
        tokio::spawn(async move {
            let mut turn = reloader.turn.lock().await;
            service::reloading();
            let result = reloader.attempt(&mut turn).await;
            reloader.tell(&result);
            service::ready();
            result
        })
        .await?
    }

    /// Switches a registry on, or off: answered from the cache alone. Until the next reload or restart,
    /// which the answer says.
    pub async fn set_enabled(
        &self,
        registry: &str,
        enabled: bool,
    ) -> Result<String, NoSuchRegistry> {
        let mut turn = self.turn.lock().await;
        let live = self.gateway.live.load_full();
        let policy = live.policy.switched(registry, enabled);
        let policy = policy.ok_or_else(|| NoSuchRegistry(registry.to_owned()))?;
        self.gateway.live.store(Arc::new(Live {
            policy: Arc::new(policy),
            ..Live::clone(&live)
        }));
        turn.switched.insert(registry.to_owned(), enabled);
        let state = if enabled { "on" } else { "off" };
        let told = format!(
            "{registry} is switched {state} until the next reload or restart; enabled = {enabled} in its [[registry]] makes it last"
        );
        info!("{told}");
        Ok(told)
    }

    /// Begins what goes on beside requests: to follow the users files, to keep images warm.
    pub(super) async fn begin(&self) {
        let mut turn = self.turn.lock().await;
        turn.following = Some(follow(self.gateway.live.load().users.clone()));
        turn.following_admins = Some(follow(self.admin_users.load_full()));
        self.keep_warm(&mut turn, &self.config().prefetch);
    }

    async fn attempt(&self, turn: &mut Turn) -> Result<Report, ReloadError> {
        let (running, gateway) = (self.config(), self.gateway.clone());
        let admins = self.admin_users.load_full();
        let preparing = tokio::task::spawn_blocking(move || prepare(&running, &gateway, &admins));
        let mut prepared = preparing.await??;
        for (registry, enabled) in std::mem::take(&mut turn.switched) {
            let state = if enabled { "on" } else { "off" };
            prepared.report.warnings.push(format!(
                "{registry} was switched {state} by hand; what the file says of it is in force again"
            ));
        }
        let report = prepared.report.clone();
        self.put_in_force(prepared, turn);
        Ok(report)
    }

    /// Nothing here may fail.
    fn put_in_force(&self, prepared: Prepared, turn: &mut Turn) {
        let Prepared { config, live, .. } = prepared;
        if let Some(authority) = prepared.authority {
            self.gateway.leaves.sign_by(Arc::new(authority));
        }
        if let Some(way) = prepared.way {
            self.gateway.upstream.go_by(way);
        }
        self.gateway.upstream.start_over();
        self.patience.store(Arc::new(parts::patience(&config)));
        self.clients.allow(config.limits.connections_per_client);
        log::set_level(config.log.level.as_str());
        let others = !Arc::ptr_eq(&live.users, &self.gateway.live.load().users);
        if let Some(fresh) = prepared.users {
            live.users.take(fresh);
        }
        self.gateway.live.store(Arc::new(live));
        if others {
            turn.following = Some(follow(self.gateway.live.load().users.clone()));
        }
        self.cache.download_over(config.upstream.parallel);
        let (admins, fresh) = prepared.admins;
        if let Some(fresh) = fresh {
            admins.take(fresh);
        }
        if !Arc::ptr_eq(&admins, &self.admin_users.load()) {
            self.admin_users.store(admins.clone());
            turn.following_admins = Some(follow(admins));
        }
        self.keep_warm(turn, &config.prefetch);
        // To make room takes a while, and nobody has to wait for it.
        let (cache, bounds) = (self.cache.clone(), parts::bounds(&config));
        tokio::spawn(async move { cache.keep_within(bounds).await });
        self.config.store(Arc::new(config));
    }

    /// Begins what is not kept warm yet and ends what is not to be any more. An entry that stands where
    /// it stood goes on; a download that another one began goes on, too, for whoever follows it.
    fn keep_warm(&self, turn: &mut Turn, entries: &[PrefetchConfig]) {
        for gone in entries.len()..turn.warming.len() {
            self.metrics.not_prefetched(gone + 1);
        }
        turn.warming.truncate(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let before = turn.warming.get(at);
            if before.is_some_and(|(same, _)| same == entry) {
                continue;
            }
            let warming = self.warm.clone().keep_warm(at + 1, entry.clone());
            let warming = (entry.clone(), AbortOnDropHandle::new(tokio::spawn(warming)));
            match turn.warming.get_mut(at) {
                Some(before) => {
                    self.metrics.not_prefetched(at + 1);
                    *before = warming;
                }
                None => turn.warming.push(warming),
            }
        }
    }

    fn tell(&self, result: &Result<Report, ReloadError>) {
        self.metrics.reloaded(result.is_ok());
        let refused = result.as_ref().err().map(ToString::to_string);
        self.refused.store(refused.map(Arc::new));
        match result {
            Ok(report) => {
                for warning in &report.warnings {
                    warn!("{warning}");
                }
                if !report.needs_restart.is_empty() {
                    warn!(
                        keys = report.needs_restart.join("; "),
                        "these keys have changed and need a restart; they stay as they were"
                    );
                }
                info!(
                    changed = report.changed.join("; "),
                    "the configuration was read anew"
                );
            }
            Err(e) => warn!(
                error = %e,
                "the configuration was not taken; everything stays as it was"
            ),
        }
    }
}

fn follow(users: Arc<Users>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(users.follow()))
}

#[cfg(test)]
mod tests;
