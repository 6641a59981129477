//! What is counted, and who counts it.

mod labels;
mod names;
mod process;
mod runtime;
mod tally;
mod text;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::labels::{
    EntryLabels, ListenerLabels, OutcomeLabels, RegistryLabels, RequestLabels, ResultLabels,
    UpstreamLabels,
};
use self::process::Process;
use self::runtime::Runtime;
pub use self::tally::Tally;
use super::access::Outcome;
use super::build;
use super::history::History;
use super::live::Live;

/// The gateway's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What goes on now.
    pub live: Arc<Live>,
    /// What was done in each minute and hour.
    pub history: History,
    requests: Family<RequestLabels, Counter>,
    pulls: Family<RegistryLabels, Counter>,
    tallies: Mutex<HashMap<Arc<str>, Arc<Tally>>>,
    /// By outcome, in the order of [`Outcome::ALL`].
    served_bytes: [Counter; Outcome::ALL.len()],
    upstream_requests: Family<UpstreamLabels, Counter>,
    upstream_seconds: Family<RegistryLabels, Histogram>,
    downloads: Family<ResultLabels, Counter>,
    upstream_bytes: Counter,
    pub downloads_active: Gauge,
    pub resumes: Counter,
    pub splits: Counter,
    pub lookaheads: Counter,
    pub followers: Gauge,
    evictions: Counter,
    evicted_bytes: Counter,
    pub cache_bytes: Gauge,
    pub cache_max_bytes: Gauge,
    pub connections: Gauge,
    connections_accepted: Family<ListenerLabels, Counter>,
    pub connections_refused: Counter,
    leaves_minted: Counter<u64, AtomicU64>,
    /// Where the leaves are counted.
    leaves: OnceLock<Arc<AtomicU64>>,
    handshakes: Family<ResultLabels, Counter>,
    pub tunnels: Gauge,
    pub tunnel_bytes: Counter<u64, AtomicU64>,
    rate_limit: Family<RegistryLabels, Gauge>,
    rate_limit_remaining: Family<RegistryLabels, Gauge>,
    pub grants: Counter,
    pub refusals: Counter,
    logins_refused: Family<RegistryLabels, Counter>,
    password_checks: Family<ResultLabels, Counter>,
    reloads: Family<ResultLabels, Counter>,
    reload_success: Gauge,
    reload_time: Gauge,
    prefetch_failures: Family<EntryLabels, Counter>,
    prefetch_last_success: Family<EntryLabels, Gauge>,
    spans: Family<ResultLabels, Counter>,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(Process::new()));
        let registry = all.sub_registry_with_prefix("pierhead");
        registry.register_collector(Box::new(Runtime));
        let info: Info<Vec<(&str, &str)>> =
            Info::new(vec![("version", build::VERSION), ("commit", build::COMMIT)]);
        registry.register("build", "The running build", info);
        let served = Family::<OutcomeLabels, Counter>::default();
        let metrics = Self {
            live: Live::new(),
            history: History::new(),
            requests: Family::default(),
            pulls: Family::default(),
            tallies: Mutex::default(),
            served_bytes: Outcome::ALL.map(|outcome| {
                let outcome = outcome.as_str();
                served.get_or_create_owned(&OutcomeLabels { outcome })
            }),
            upstream_requests: Family::default(),
            upstream_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.002, 2.5, 12))
            }),
            downloads: Family::default(),
            upstream_bytes: Counter::default(),
            downloads_active: Gauge::default(),
            resumes: Counter::default(),
            splits: Counter::default(),
            lookaheads: Counter::default(),
            followers: Gauge::default(),
            evictions: Counter::default(),
            evicted_bytes: Counter::default(),
            cache_bytes: Gauge::default(),
            cache_max_bytes: Gauge::default(),
            connections: Gauge::default(),
            connections_accepted: Family::default(),
            connections_refused: Counter::default(),
            leaves_minted: Counter::default(),
            leaves: OnceLock::new(),
            handshakes: Family::default(),
            tunnels: Gauge::default(),
            tunnel_bytes: Counter::default(),
            rate_limit: Family::default(),
            rate_limit_remaining: Family::default(),
            grants: Counter::default(),
            refusals: Counter::default(),
            logins_refused: Family::default(),
            password_checks: Family::default(),
            reloads: Family::default(),
            reload_success: Gauge::default(),
            reload_time: Gauge::default(),
            prefetch_failures: Family::default(),
            prefetch_last_success: Family::default(),
            spans: Family::default(),
            registry: Registry::default(),
        };
        metrics.register(registry, served);
        metrics.in_force_since_now();
        metrics.begin_at_zero();
        Self {
            registry: all,
            ..metrics
        }
    }

    /// Counters with few labels are there before the first event, so that a rate over them is right.
    fn begin_at_zero(&self) {
        let begin = |family: &Family<ResultLabels, Counter>, results: &[&str]| {
            for result in results {
                let result = (*result).to_owned();
                drop(family.get_or_create(&ResultLabels { result }));
            }
        };
        let ends = ["verified", "mismatch", "broken", "refused", "no_room"];
        begin(&self.downloads, &ends);
        begin(&self.handshakes, &["ok", "failed"]);
        begin(&self.spans, &["sent", "lost"]);
        begin(&self.password_checks, &["right", "wrong", "busy"]);
        for listener in ["proxy", "proxy_tls"] {
            drop(
                self.connections_accepted
                    .get_or_create(&ListenerLabels { listener }),
            );
        }
    }

    /// The exposition in OpenMetrics text.
    pub fn encode(&self) -> String {
        if let Some(leaves) = self.leaves.get() {
            let minted = leaves.load(Ordering::Relaxed);
            self.leaves_minted.inner().store(minted, Ordering::Relaxed);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The same in the text format that was before OpenMetrics (version 0.0.4).
    pub fn encode_classic(&self) -> String {
        text::classic(&self.encode())
    }

    /// Shows what `minted` counts as the leaves that were signed.
    pub fn count_leaves(&self, minted: Arc<AtomicU64>) {
        // Told twice, it is the same counter.
        let _ = self.leaves.set(minted);
    }

    /// A registry that the gateway logs in to: refusals are shown from zero on.
    pub fn has_login(&self, registry: &str) {
        let registry = registry.to_owned();
        drop(
            self.logins_refused
                .get_or_create(&RegistryLabels { registry }),
        );
    }

    pub fn evicted(&self, objects: u64, bytes: u64) {
        self.evictions.inc_by(objects);
        self.evicted_bytes.inc_by(bytes);
    }

    /// Counts a client's connection to the listener that is configured as `listener`.
    pub fn connection_accepted(&self, listener: &'static str) {
        self.connections_accepted
            .get_or_create(&ListenerLabels { listener })
            .inc();
    }

    /// Where the requests of the registry that is configured as `name` are counted; `""` for those of
    /// none. To be kept by who counts often.
    pub fn tally(&self, name: &str) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tallies.get(name) {
            return tally.clone();
        }
        let name: Arc<str> = name.into();
        let tally = Arc::new(Tally::new(name.clone()));
        tallies.insert(name, tally.clone());
        tally
    }

    /// Counts a request that was answered with `bytes` of body.
    pub fn request(&self, registry: &Tally, outcome: Outcome, bytes: u64) {
        registry.count(&self.requests, outcome);
        self.served_bytes[outcome as usize].inc_by(bytes);
        self.history.request(outcome, bytes);
    }

    /// Counts an image that a client was given.
    pub fn pulled(&self, registry: &Tally) {
        registry.pulled(&self.pulls);
        self.history.pulled();
    }

    /// Counts blob bytes that came from upstream.
    pub fn received(&self, bytes: u64) {
        self.upstream_bytes.inc_by(bytes);
        self.history.received(bytes);
    }

    pub fn upstream_request(&self, registry: &str, result: &str, seconds: f64) {
        self.upstream_requests
            .get_or_create(&UpstreamLabels {
                registry: registry.to_owned(),
                result: result.to_owned(),
            })
            .inc();
        self.upstream_seconds
            .get_or_create(&RegistryLabels {
                registry: registry.to_owned(),
            })
            .observe(seconds);
    }

    pub fn rate_limit_remaining(&self, registry: &str, left: i64) {
        self.rate_limit_remaining
            .get_or_create(&RegistryLabels {
                registry: registry.to_owned(),
            })
            .set(left);
    }

    pub fn rate_limit(&self, registry: &str, limit: i64) {
        self.rate_limit
            .get_or_create(&RegistryLabels {
                registry: registry.to_owned(),
            })
            .set(limit);
    }

    pub fn login_refused(&self, registry: &str) {
        self.logins_refused
            .get_or_create(&RegistryLabels {
                registry: registry.to_owned(),
            })
            .inc();
    }

    pub fn download_ended(&self, result: &str) {
        count(&self.downloads, result);
    }

    pub fn password_checked(&self, result: &str) {
        count(&self.password_checks, result);
    }

    /// The configuration was read anew, and taken or refused.
    pub fn reloaded(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        count(&self.reloads, result);
        match taken {
            true => self.in_force_since_now(),
            false => drop(self.reload_success.set(0)),
        }
    }

    fn in_force_since_now(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.reload_success.set(1);
        self.reload_time.set(now);
    }

    /// `entry` counts from one.
    pub fn prefetch_failed(&self, entry: usize) {
        let entry = entry as u64;
        self.prefetch_failures
            .get_or_create(&EntryLabels { entry })
            .inc();
    }

    /// `at`: seconds since the epoch.
    pub fn prefetched(&self, entry: usize, at: u64) {
        let entry = entry as u64;
        self.prefetch_last_success
            .get_or_create(&EntryLabels { entry })
            .set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    /// The entry is another one from here on, or gone.
    pub fn not_prefetched(&self, entry: usize) {
        let entry = EntryLabels {
            entry: entry as u64,
        };
        self.prefetch_failures.remove(&entry);
        self.prefetch_last_success.remove(&entry);
    }

    /// Counts spans that a collector took, and those it did not get.
    pub fn spans(&self, sent: u64, lost: u64) {
        for (result, n) in [("sent", sent), ("lost", lost)] {
            let result = result.to_owned();
            self.spans.get_or_create(&ResultLabels { result }).inc_by(n);
        }
    }

    pub fn handshake(&self, result: &str) {
        count(&self.handshakes, result);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

// === helpers ===

fn count(family: &Family<ResultLabels, Counter>, result: &str) {
    let result = result.to_owned();
    family.get_or_create(&ResultLabels { result }).inc();
}

#[cfg(test)]
mod tests;
