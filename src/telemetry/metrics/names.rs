//! Every metric, named and explained here and nowhere else.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::labels::OutcomeLabels;

// === impl Metrics ===

impl Metrics {
    /// Puts all of them into the exposition. `served`: the body bytes by outcome.
    pub(super) fn register(&self, r: &mut Registry, served: Family<OutcomeLabels, Counter>) {
        r.register(
            "requests",
            "Requests answered, by registry and by outcome (hit, follow, miss, revalidated, stale, relay, tunnel, denied, error)",
            self.requests.clone(),
        );
        r.register(
            "pulls",
            "Images that clients were given: GETs answered with the manifest of an image, not of an index",
            self.pulls.clone(),
        );
        r.register_with_unit(
            "served",
            "Body bytes sent to clients, by outcome",
            Unit::Bytes,
            served,
        );
        r.register(
            "upstream_requests",
            "Requests sent to registries, by registry and by result (a status class, 401, 403, 404, 429, or what went wrong: timeout, unreachable, tls, login, forbidden, nonsense, disabled)",
            self.upstream_requests.clone(),
        );
        r.register_with_unit(
            "upstream_response",
            "Time until a registry's response head",
            Unit::Seconds,
            self.upstream_seconds.clone(),
        );
        r.register_with_unit(
            "upstream_received",
            "Blob bytes received from upstream",
            Unit::Bytes,
            self.upstream_bytes.clone(),
        );
        r.register(
            "downloads",
            "Blob downloads that ended, by result (verified, mismatch, broken, refused, no_room)",
            self.downloads.clone(),
        );
        r.register(
            "downloads_active",
            "Blob downloads under way",
            self.downloads_active.clone(),
        );
        r.register(
            "download_retries",
            "Times a download was tried again or resumed after a break",
            self.resumes.clone(),
        );
        r.register(
            "download_splits",
            "Downloads that went on over several connections because one was slow",
            self.splits.clone(),
        );
        r.register(
            "lookahead_downloads",
            "Blob downloads begun because a manifest passed, before a client asked",
            self.lookaheads.clone(),
        );
        r.register(
            "followers",
            "Clients that read along with a blob download now",
            self.followers.clone(),
        );
        r.register(
            "evictions",
            "Objects removed to make room",
            self.evictions.clone(),
        );
        r.register_with_unit(
            "evicted",
            "Bytes removed to make room",
            Unit::Bytes,
            self.evicted_bytes.clone(),
        );
        r.register_with_unit(
            "cache_used",
            "What objects, downloads and the index take on disk",
            Unit::Bytes,
            self.cache_bytes.clone(),
        );
        r.register_with_unit(
            "cache_max",
            "The bound of cache.max_size",
            Unit::Bytes,
            self.cache_max_bytes.clone(),
        );
        r.register(
            "connections",
            "Client connections open now",
            self.connections.clone(),
        );
        r.register(
            "connections_accepted",
            "Client connections taken, by listener (proxy, proxy_tls)",
            self.connections_accepted.clone(),
        );
        r.register(
            "connections_refused",
            "Client connections closed because limits.connections_per_client was reached",
            self.connections_refused.clone(),
        );
        r.register(
            "handshakes",
            "TLS handshakes with clients, by result (ok, failed)",
            self.handshakes.clone(),
        );
        r.register(
            "leaves_minted",
            "Certificates signed for hosts",
            self.leaves_minted.clone(),
        );
        r.register("tunnels", "Tunnels open now", self.tunnels.clone());
        r.register_with_unit(
            "tunnel",
            "Bytes through tunnels, both directions",
            Unit::Bytes,
            self.tunnel_bytes.clone(),
        );
        r.register(
            "rate_limit",
            "Pulls a registry says it allows (ratelimit-limit)",
            self.rate_limit.clone(),
        );
        r.register(
            "rate_limit_remaining",
            "Pulls a registry says are left (ratelimit-remaining)",
            self.rate_limit_remaining.clone(),
        );
        r.register(
            "grants",
            "Proofs of access that an upstream gave",
            self.grants.clone(),
        );
        r.register(
            "refusals",
            "Cached content withheld because upstream refused this caller",
            self.refusals.clone(),
        );
        r.register(
            "logins_refused",
            "Times a registry refused the gateway's own login",
            self.logins_refused.clone(),
        );
        r.register(
            "password_checks",
            "Passwords of proxy users checked against policy.users_file, by result (right, wrong, busy); those remembered are not checked again",
            self.password_checks.clone(),
        );
        r.register(
            "config_reloads",
            "Times the configuration was read anew, by result (taken, refused)",
            self.reloads.clone(),
        );
        r.register(
            "config_last_reload_success",
            "1 if the configuration was taken when it was last read, 0 if it was refused and the one before is in force",
            self.reload_success.clone(),
        );
        r.register_with_unit(
            "config_last_reload_timestamp",
            "When the configuration that is in force was read, since the epoch",
            Unit::Seconds,
            self.reload_time.clone(),
        );
        r.register(
            "prefetch_failures",
            "Times an image of a [[prefetch]] entry could not be pulled, by the entry's number",
            self.prefetch_failures.clone(),
        );
        r.register_with_unit(
            "prefetch_last_success_timestamp",
            "When all images of a [[prefetch]] entry were last pulled, by the entry's number, since the epoch",
            Unit::Seconds,
            self.prefetch_last_success.clone(),
        );
        r.register(
            "spans",
            "Spans for the collector of log.otlp, by result (sent, lost)",
            self.spans.clone(),
        );
    }
}
