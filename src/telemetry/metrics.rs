//! Every metric, named and explained here and nowhere else.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::build;

/// The gateway's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    served_bytes: Family<OutcomeLabels, Counter>,
    upstream_requests: Family<UpstreamLabels, Counter>,
    upstream_seconds: Family<RegistryLabels, Histogram>,
    downloads: Family<ResultLabels, Counter>,
    pub upstream_bytes: Counter,
    pub downloads_active: Gauge,
    pub resumes: Counter,
    pub evictions: Counter,
    pub cache_bytes: Gauge,
    pub cache_max_bytes: Gauge,
    pub connections: Gauge,
    pub connections_refused: Counter,
    handshakes: Family<ResultLabels, Counter>,
    pub tunnels: Gauge,
    pub tunnel_bytes: Counter<u64, AtomicU64>,
    rate_limit_remaining: Family<RegistryLabels, Gauge>,
    pub grants: Counter,
    pub refusals: Counter,
    logins_refused: Family<RegistryLabels, Counter>,
    password_checks: Family<ResultLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    registry: String,
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    registry: String,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RegistryLabels {
    registry: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: String,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("pierhead");
        let info: Info<Vec<(&str, &str)>> =
            Info::new(vec![("version", build::VERSION), ("commit", build::COMMIT)]);
        registry.register("build", "The running build", info);
        let mut metrics = Self {
            requests: Family::default(),
            served_bytes: Family::default(),
            upstream_requests: Family::default(),
            upstream_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.002, 2.5, 12))
            }),
            downloads: Family::default(),
            upstream_bytes: Counter::default(),
            downloads_active: Gauge::default(),
            resumes: Counter::default(),
            evictions: Counter::default(),
            cache_bytes: Gauge::default(),
            cache_max_bytes: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes: Family::default(),
            tunnels: Gauge::default(),
            tunnel_bytes: Counter::default(),
            rate_limit_remaining: Family::default(),
            grants: Counter::default(),
            refusals: Counter::default(),
            logins_refused: Family::default(),
            password_checks: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "requests",
            "Requests answered, by registry and by outcome (hit, follow, miss, revalidated, stale, relay, tunnel, denied, error)",
            metrics.requests.clone(),
        );
        r.register_with_unit(
            "served",
            "Body bytes sent to clients, by outcome",
            Unit::Bytes,
            metrics.served_bytes.clone(),
        );
        r.register(
            "upstream_requests",
            "Requests sent to registries, by registry and by result (a status class, 429, timeout or unreachable)",
            metrics.upstream_requests.clone(),
        );
        r.register_with_unit(
            "upstream_response",
            "Time until a registry's response head",
            Unit::Seconds,
            metrics.upstream_seconds.clone(),
        );
        r.register_with_unit(
            "upstream_received",
            "Blob bytes received from upstream",
            Unit::Bytes,
            metrics.upstream_bytes.clone(),
        );
        r.register(
            "downloads",
            "Blob downloads that ended, by result (verified, mismatch, broken, refused, no_room)",
            metrics.downloads.clone(),
        );
        r.register(
            "downloads_active",
            "Blob downloads under way",
            metrics.downloads_active.clone(),
        );
        r.register(
            "download_retries",
            "Times a download was tried again or resumed after a break",
            metrics.resumes.clone(),
        );
        r.register(
            "evictions",
            "Objects removed to make room",
            metrics.evictions.clone(),
        );
        r.register_with_unit(
            "cache_used",
            "What objects, downloads and the index take on disk",
            Unit::Bytes,
            metrics.cache_bytes.clone(),
        );
        r.register_with_unit(
            "cache_max",
            "The bound of cache.max_size",
            Unit::Bytes,
            metrics.cache_max_bytes.clone(),
        );
        r.register(
            "connections",
            "Client connections open now",
            metrics.connections.clone(),
        );
        r.register(
            "connections_refused",
            "Client connections closed because limits.connections_per_client was reached",
            metrics.connections_refused.clone(),
        );
        r.register(
            "handshakes",
            "TLS handshakes with clients, by result (ok, failed)",
            metrics.handshakes.clone(),
        );
        r.register("tunnels", "Tunnels open now", metrics.tunnels.clone());
        r.register_with_unit(
            "tunnel",
            "Bytes through tunnels, both directions",
            Unit::Bytes,
            metrics.tunnel_bytes.clone(),
        );
        r.register(
            "rate_limit_remaining",
            "Pulls a registry says are left (ratelimit-remaining)",
            metrics.rate_limit_remaining.clone(),
        );
        r.register(
            "grants",
            "Proofs of access that an upstream gave",
            metrics.grants.clone(),
        );
        r.register(
            "refusals",
            "Cached content withheld because upstream refused this caller",
            metrics.refusals.clone(),
        );
        r.register(
            "logins_refused",
            "Times a registry refused the gateway's own login",
            metrics.logins_refused.clone(),
        );
        r.register(
            "password_checks",
            "Passwords of proxy users checked against policy.users_file, by result (right, wrong, busy); those remembered are not checked again",
            metrics.password_checks.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// The exposition in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    pub fn request(&self, registry: &str, outcome: &str, bytes: u64) {
        self.requests
            .get_or_create(&RequestLabels {
                registry: registry.to_owned(),
                outcome: outcome.to_owned(),
            })
            .inc();
        self.served_bytes
            .get_or_create(&OutcomeLabels {
                outcome: outcome.to_owned(),
            })
            .inc_by(bytes);
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

    pub fn login_refused(&self, registry: &str) {
        self.logins_refused
            .get_or_create(&RegistryLabels {
                registry: registry.to_owned(),
            })
            .inc();
    }

    pub fn download_ended(&self, result: &str) {
        self.downloads
            .get_or_create(&ResultLabels {
                result: result.to_owned(),
            })
            .inc();
    }

    pub fn password_checked(&self, result: &str) {
        self.password_checks
            .get_or_create(&ResultLabels {
                result: result.to_owned(),
            })
            .inc();
    }

    pub fn handshake(&self, result: &str) {
        self.handshakes
            .get_or_create(&ResultLabels {
                result: result.to_owned(),
            })
            .inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
