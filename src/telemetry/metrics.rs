//! Every metric, named and explained here and nowhere else.

mod process;
mod runtime;
mod tally;
mod text;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    registry: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
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
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EntryLabels {
    entry: u64,
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
        let r = registry;
        r.register(
            "requests",
            "Requests answered, by registry and by outcome (hit, follow, miss, revalidated, stale, relay, tunnel, denied, error)",
            metrics.requests.clone(),
        );
        r.register(
            "pulls",
            "Images that clients were given: GETs answered with the manifest of an image, not of an index",
            metrics.pulls.clone(),
        );
        r.register_with_unit(
            "served",
            "Body bytes sent to clients, by outcome",
            Unit::Bytes,
            served,
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
            "download_splits",
            "Downloads that went on over several connections because one was slow",
            metrics.splits.clone(),
        );
        r.register(
            "lookahead_downloads",
            "Blob downloads begun because a manifest passed, before a client asked",
            metrics.lookaheads.clone(),
        );
        r.register(
            "followers",
            "Clients that read along with a blob download now",
            metrics.followers.clone(),
        );
        r.register(
            "evictions",
            "Objects removed to make room",
            metrics.evictions.clone(),
        );
        r.register_with_unit(
            "evicted",
            "Bytes removed to make room",
            Unit::Bytes,
            metrics.evicted_bytes.clone(),
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
            "connections_accepted",
            "Client connections taken, by listener (proxy, proxy_tls)",
            metrics.connections_accepted.clone(),
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
        r.register(
            "leaves_minted",
            "Certificates signed for hosts",
            metrics.leaves_minted.clone(),
        );
        r.register("tunnels", "Tunnels open now", metrics.tunnels.clone());
        r.register_with_unit(
            "tunnel",
            "Bytes through tunnels, both directions",
            Unit::Bytes,
            metrics.tunnel_bytes.clone(),
        );
        r.register(
            "rate_limit",
            "Pulls a registry says it allows (ratelimit-limit)",
            metrics.rate_limit.clone(),
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
        r.register(
            "config_reloads",
            "Times the configuration was read anew, by result (taken, refused)",
            metrics.reloads.clone(),
        );
        r.register(
            "config_last_reload_success",
            "1 if the configuration was taken when it was last read, 0 if it was refused and the one before is in force",
            metrics.reload_success.clone(),
        );
        r.register_with_unit(
            "config_last_reload_timestamp",
            "When the configuration that is in force was read, since the epoch",
            Unit::Seconds,
            metrics.reload_time.clone(),
        );
        metrics.in_force_since_now();
        r.register(
            "prefetch_failures",
            "Times an image of a [[prefetch]] entry could not be pulled, by the entry's number",
            metrics.prefetch_failures.clone(),
        );
        r.register_with_unit(
            "prefetch_last_success_timestamp",
            "When all images of a [[prefetch]] entry were last pulled, by the entry's number, since the epoch",
            Unit::Seconds,
            metrics.prefetch_last_success.clone(),
        );
        r.register(
            "spans",
            "Spans for the collector of log.otlp, by result (sent, lost)",
            metrics.spans.clone(),
        );
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

    /// The configuration was read anew, and taken or refused.
    pub fn reloaded(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.reloads
            .get_or_create(&ResultLabels {
                result: result.to_owned(),
            })
            .inc();
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Type, labels, help.
    type Described = (String, String, String);

    #[tokio::test]
    async fn the_readme_lists_every_metric_as_it_is() {
        assert_eq!(listed(include_str!("../../README.md")), exposed(&used()));
    }

    #[test]
    fn counters_with_few_labels_are_there_before_the_first_event() {
        let text = Metrics::new().encode();
        for sample in [
            "pierhead_served_bytes_total{outcome=\"hit\"} 0",
            "pierhead_downloads_total{result=\"mismatch\"} 0",
            "pierhead_handshakes_total{result=\"failed\"} 0",
            "pierhead_connections_accepted_total{listener=\"proxy_tls\"} 0",
            "pierhead_leaves_minted_total 0",
        ] {
            assert!(text.contains(sample), "{sample} is missing:\n{text}");
        }
    }

    /// Metrics with everything counted once, so that all labels are seen.
    fn used() -> Metrics {
        let metrics = Metrics::new();
        metrics.request(&metrics.tally("ghcr.io"), Outcome::Hit, 1);
        metrics.pulled(&metrics.tally("ghcr.io"));
        metrics.upstream_request("ghcr.io", "2xx", 0.1);
        metrics.rate_limit("ghcr.io", 100);
        metrics.rate_limit_remaining("ghcr.io", 76);
        metrics.login_refused("ghcr.io");
        metrics.reloaded(true);
        metrics.prefetch_failed(1);
        metrics.prefetched(1, 1);
        metrics
    }

    fn exposed(metrics: &Metrics) -> BTreeMap<String, Described> {
        let text = metrics.encode();
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let Some((name, kind)) = line
                .strip_prefix("# TYPE ")
                .and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let help = format!("# HELP {name} ");
            let help = text.lines().find_map(|line| line.strip_prefix(&*help));
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let mut labels = BTreeSet::new();
            let mut samples = 0;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let Some(rest) = line.strip_prefix(name) else {
                    continue;
                };
                let (tail, set) = rest.split_once('{').unwrap_or((rest, ""));
                let tail = tail.split(' ').next().unwrap();
                let histogram =
                    kind == "histogram" && matches!(tail, "_bucket" | "_sum" | "_count");
                if tail != suffix && !histogram {
                    continue;
                }
                samples += 1;
                let set = set.split('}').next().unwrap();
                let names = set.split(',').filter_map(|pair| pair.split_once('='));
                labels.extend(names.map(|(name, _)| name).filter(|name| *name != "le"));
            }
            assert!(samples > 0, "{name} has no sample: count it once in `used`");
            let labels: Vec<&str> = labels.into_iter().collect();
            let help = help.unwrap().trim_end_matches('.').to_owned();
            let described = (kind.to_owned(), labels.join(", "), help);
            found.insert(format!("{name}{suffix}"), described);
        }
        found
    }

    fn listed(readme: &str) -> BTreeMap<String, Described> {
        let rows = readme.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
            let ours = name.starts_with("pierhead_") || name.starts_with("process_");
            (ours && cells.len() == 6).then(|| {
                let described = (cells[2].into(), cells[3].into(), cells[4].into());
                (name.to_owned(), described)
            })
        });
        rows.collect()
    }
}
