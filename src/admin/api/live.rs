//! What goes on now, and what went on lately.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Admin, Problem, Query};
use crate::telemetry::history::Bucket;

/// What goes on now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Now {
    pub downloads: Vec<Download>,
    pub tunnels: Vec<Tunnel>,
    /// Lately, the latest first.
    pub denials: Vec<Denial>,
}

/// A blob on its way from upstream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Download {
    pub digest: String,
    pub registry: String,
    pub repository: String,
    /// Bytes so far; of how many, where upstream said so.
    pub done: u64,
    pub total: Option<u64>,
    /// Clients that read it as it comes.
    pub followers: usize,
    /// Bytes a second since it began.
    pub speed: u64,
    /// Seconds since the epoch.
    pub since: u64,
}

/// A tunnel that is open.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tunnel {
    pub id: u64,
    pub client: String,
    pub user: Option<String>,
    pub host: String,
    /// Seconds since the epoch.
    pub since: u64,
    /// Bytes from the client, and to it.
    pub up: u64,
    pub down: u64,
}

/// Something that was refused, once or many times in the same way.
#[derive(Debug, Serialize, ToSchema)]
pub struct Denial {
    /// Seconds since the epoch.
    pub first: u64,
    pub last: u64,
    pub times: u64,
    pub client: String,
    pub user: Option<String>,
    pub method: String,
    pub host: String,
    pub repository: String,
    pub rule: String,
    pub reason: String,
    /// What would allow it: what to write into the configuration.
    pub mend: String,
}

/// How much of the past.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Past {
    /// Minutes, up to a day of them.
    #[param(minimum = 1, maximum = 1440)]
    minutes: Option<usize>,
    /// Hours instead, up to 30 days of them.
    #[param(minimum = 1, maximum = 720)]
    hours: Option<usize>,
}

/// What was counted, in equal stretches of time, the latest last.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    buckets: Vec<Stretch>,
}

/// One stretch of time.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stretch {
    /// Seconds since the epoch of its beginning.
    start: u64,
    requests: u64,
    /// Images that clients were given.
    pulls: u64,
    /// Answered by the cache.
    hits: u64,
    misses: u64,
    denials: u64,
    errors: u64,
    /// Body bytes to clients: from the cache, and from upstream.
    cached_bytes: u64,
    relayed_bytes: u64,
    tunnel_bytes: u64,
    /// Blob bytes that came from upstream.
    received_bytes: u64,
}

/// Downloads, tunnels, and what was denied lately.
#[utoipa::path(get, path = "/live", tag = "live", responses((status = 200, body = Now)))]
pub(super) async fn live(State(admin): State<Arc<Admin>>) -> Json<Now> {
    Json(admin.now())
}

/// The same as it changes, as server-sent events named `live`: at once, and then whenever something
/// began, ended or moved, at most once a second.
#[utoipa::path(get, path = "/events", tag = "live",
    responses((status = 200, description = "Events named `live`, each with a document as of /live", body = String, content_type = "text/event-stream")))]
pub(super) async fn events(
    State(admin): State<Arc<Admin>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let bell = admin.metrics.live.bell();
    let ending = admin.drain.clone();
    let events = stream::unfold((admin, bell, true), move |(admin, mut bell, first)| {
        let ending = ending.clone();
        async move {
            if !first {
                let moves =
                    admin.cache.flights_under_way() > 0 || !admin.metrics.live.tunnels().is_empty();
                let rung = async {
                    if bell.changed().await.is_err() || moves {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = rung => tokio::time::sleep(BETWEEN).await,
                    () = tokio::time::sleep(if moves { BETWEEN } else { AT_LEAST }) => {}
                    () = ending.begun() => return None,
                }
            }
            // What rang meanwhile is in what is sent now.
            bell.mark_unchanged();
            let event = Event::default().event("live").json_data(admin.now());
            let event = event.unwrap_or_default();
            Some((Ok(event), (admin, bell, false)))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Requests, hits and bytes over time.
#[utoipa::path(get, path = "/history", tag = "live", params(Past),
    responses((status = 200, body = History), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(admin): State<Arc<Admin>>,
    Query(past): Query<Past>,
) -> Result<Json<History>, Problem> {
    let within = |n: usize, most: usize, what: &str| match (1..=most).contains(&n) {
        true => Ok(n),
        false => Err(Problem::bad(format!("{what} is 1 to {most}"))),
    };
    let buckets = match (past.minutes, past.hours) {
        (Some(_), Some(_)) => return Err(Problem::bad("say minutes or hours, not both")),
        (None, Some(hours)) => admin.metrics.history.hours(within(hours, 720, "hours")?),
        (minutes, None) => {
            let minutes = within(minutes.unwrap_or(60), 1440, "minutes")?;
            admin.metrics.history.minutes(minutes)
        }
    };
    Ok(Json(History {
        buckets: buckets.into_iter().map(Stretch::from).collect(),
    }))
}

// === impl Admin ===

impl Admin {
    pub(in crate::admin) fn now(&self) -> Now {
        Now {
            downloads: self.downloads(),
            tunnels: self.tunnels(),
            denials: self.denials(),
        }
    }

    pub(in crate::admin) fn downloads(&self) -> Vec<Download> {
        let downloads = self.cache.downloads().into_iter();
        let downloads = downloads.map(|download| Download {
            digest: download.digest.to_string(),
            registry: download.registry,
            repository: download.repository,
            done: download.written,
            total: download.total,
            followers: download.followers,
            speed: download.speed,
            since: seconds(download.since),
        });
        downloads.collect()
    }

    pub(in crate::admin) fn tunnels(&self) -> Vec<Tunnel> {
        let tunnels = self.metrics.live.tunnels().into_iter();
        let tunnels = tunnels.map(|tunnel| Tunnel {
            id: tunnel.id,
            client: tunnel.client.to_string(),
            user: tunnel.user,
            host: tunnel.host,
            since: seconds(tunnel.since),
            up: tunnel.up,
            down: tunnel.down,
        });
        tunnels.collect()
    }

    pub(in crate::admin) fn denials(&self) -> Vec<Denial> {
        let denials = self.metrics.live.denials().into_iter();
        let denials = denials.map(|denial| Denial {
            first: seconds(denial.first),
            last: seconds(denial.last),
            times: denial.times,
            client: denial.client.to_string(),
            user: denial.user,
            method: denial.method,
            host: denial.host,
            repository: denial.repository,
            rule: denial.rule,
            reason: denial.reason,
            mend: denial.mend,
        });
        denials.collect()
    }
}

impl From<Bucket> for Stretch {
    fn from(bucket: Bucket) -> Self {
        let counts = bucket.counts;
        Self {
            start: seconds(bucket.start),
            requests: counts.requests,
            pulls: counts.pulls,
            hits: counts.hits,
            misses: counts.misses,
            denials: counts.denials,
            errors: counts.errors,
            cached_bytes: counts.cached_bytes,
            relayed_bytes: counts.relayed_bytes,
            tunnel_bytes: counts.tunnel_bytes,
            received_bytes: counts.received_bytes,
        }
    }
}

/// Since the epoch.
pub(in crate::admin) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A page need not be repainted more often.
const BETWEEN: Duration = Duration::from_secs(1);
/// What changes without a bell is seen at least so often.
const AT_LEAST: Duration = Duration::from_secs(5);
