//! How the gateway is: what it is configured to do, how its registries are, what it has counted.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::live::seconds;
use super::{Admin, Body, Problem};
use crate::admin::steering::ReloadReport;
use crate::policy::{AuthMode, Push};
use crate::upstream::health::RegistryHealth;

/// The gateway at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    version: String,
    /// Seconds since the epoch.
    started: u64,
    /// `false`: it is draining.
    ready: bool,
    /// SHA-256 of the CA's certificate.
    ca_fingerprint: String,
    /// Bytes on disk, and their bound.
    cache_used: u64,
    cache_max: u64,
    downloads: usize,
    tunnels: usize,
    /// Why the configuration that was read last is not in force; null: it is.
    config_refused: Option<String>,
    /// Since the start.
    requests: u64,
    /// Images that clients were given.
    pulls: u64,
    hits: u64,
    /// Of content; null before the first request.
    hit_ratio: Option<f64>,
    /// Bytes that clients got from the cache, or from a download of another client.
    saved_bytes: u64,
    /// Blob bytes that came from upstream.
    received_bytes: u64,
}

/// The registries that are intercepted and cached.
#[derive(Debug, Serialize, ToSchema)]
pub struct Registries {
    registries: Vec<Registry>,
}

/// One registry.
#[derive(Debug, Serialize, ToSchema)]
pub struct Registry {
    pub name: String,
    pub hosts: Vec<String>,
    /// `client`, `gateway` or `client-or-gateway`.
    pub auth: &'static str,
    pub push: bool,
    /// `false`: only what is cached is answered.
    pub enabled: bool,
    /// It is one of the well-known public ones.
    pub builtin: bool,
    pub health: Option<Health>,
}

/// How a registry was lately.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Health {
    /// Of the last five minutes.
    pub requests: u64,
    pub failures: u64,
    /// Milliseconds until half of its answers began; null where none did.
    pub median_ms: Option<u64>,
    /// Seconds since the epoch.
    pub last_success: Option<u64>,
    pub last_failure: Option<u64>,
    pub last_error: Option<String>,
    /// Pulls that it says are left, and out of how many.
    pub rate_limit_remaining: Option<i64>,
    pub rate_limit: Option<i64>,
}

/// A switch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    enabled: bool,
}

/// What a switch did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Switched {
    /// Until when it holds, and how to make it last.
    note: String,
}

/// The gateway at a glance.
#[utoipa::path(get, path = "/status", tag = "gateway", responses((status = 200, body = Status)))]
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.status())
}

/// The registries, and how each was lately.
#[utoipa::path(get, path = "/registries", tag = "gateway", responses((status = 200, body = Registries)))]
pub(super) async fn registries(State(admin): State<Arc<Admin>>) -> Json<Registries> {
    Json(Registries {
        registries: admin.registries(),
    })
}

/// Switches a registry on, or off: answered from the cache alone, never dialled.
#[utoipa::path(put, path = "/registries/{name}/enabled", tag = "gateway", request_body = Switch,
    params(("name" = String, Path, description = "as listed")),
    responses((status = 200, body = Switched), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 415, body = Problem, content_type = "application/problem+json"), (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn switch(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    Body(switch): Body<Switch>,
) -> Result<Json<Switched>, Problem> {
    let note = admin.steering.switch(name, switch.enabled).await;
    Ok(Json(Switched {
        note: note.map_err(Problem::not_found)?,
    }))
}

/// Reads the configuration anew. A bad one changes nothing.
#[utoipa::path(post, path = "/reload", tag = "gateway",
    responses((status = 200, body = ReloadReport), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> Result<Json<ReloadReport>, Problem> {
    let report = admin.steering.reload().await;
    let report = report.map_err(|why| Problem::new(StatusCode::CONFLICT, why))?;
    Ok(Json(report))
}

// === impl Admin ===

impl Admin {
    pub(in crate::admin) fn status(&self) -> Status {
        let counted = self.metrics.history.total();
        let (cache_used, cache_max) = self.cache.used_of();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            ready: !self.drain.has_begun(),
            ca_fingerprint: self.steering.ca().fingerprint,
            cache_used,
            cache_max,
            downloads: self.cache.flights_under_way(),
            tunnels: self.metrics.live.tunnels().len(),
            config_refused: self.steering.refused(),
            requests: counted.requests,
            pulls: counted.pulls,
            hits: counted.hits,
            hit_ratio: counted.hit_ratio(),
            saved_bytes: counted.cached_bytes,
            received_bytes: counted.received_bytes,
        }
    }

    pub(in crate::admin) fn registries(&self) -> Vec<Registry> {
        let health = self.upstream.health().report().into_iter();
        let mut health: HashMap<String, Health> =
            health.map(|one| (one.name.clone(), one.into())).collect();
        let policy = self.steering.policy();
        let listed = policy.registries().iter().map(|registry| Registry {
            name: registry.name.clone(),
            hosts: registry
                .hosts
                .iter()
                .map(|host| host.as_str().to_owned())
                .collect(),
            auth: match registry.auth {
                AuthMode::Client => "client",
                AuthMode::Gateway => "gateway",
                AuthMode::ClientOrGateway => "client-or-gateway",
            },
            push: registry.push == Push::Allow,
            enabled: registry.enabled,
            builtin: registry.builtin,
            health: health.remove(&registry.name),
        });
        listed.collect()
    }
}

impl From<RegistryHealth> for Health {
    fn from(health: RegistryHealth) -> Self {
        let median = health.median.map(|after| after.as_millis());
        Self {
            requests: u64::from(health.requests),
            failures: u64::from(health.failures),
            median_ms: median.and_then(|ms| u64::try_from(ms).ok()),
            last_success: health.last_success.map(seconds),
            last_failure: health
                .last_failure
                .as_ref()
                .map(|failed| seconds(failed.at)),
            last_error: health.last_failure.map(|failed| failed.message),
            rate_limit_remaining: health.rate_limit.map(|limit| limit.remaining),
            rate_limit: health.rate_limit.and_then(|limit| limit.limit),
        }
    }
}
