//! How registries have lately answered: for a person who looks, and so that not every request of a
//! pull waits for one that is silent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

/// What is remembered of registries and their endpoints.
#[derive(Debug, Default)]
pub struct Health {
    /// Endpoints that let a question go unanswered for too long. One that refuses connections is not
    /// listed: asking it again costs nothing.
    silent: Mutex<HashMap<String, Instant>>,
    /// By the registry's configured name.
    registries: Mutex<BTreeMap<String, Record>>,
}

/// How one registry has lately answered.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryHealth {
    /// Its configured name; `forward` stands for plain http that is passed on.
    pub name: String,
    /// The last answer that was none of the failures.
    pub last_success: Option<SystemTime>,
    pub last_failure: Option<Failed>,
    /// Requests in the last five minutes, redirects and token services included.
    pub requests: u32,
    /// Those of them that failed: no answer, a 429, or a server error.
    pub failures: u32,
    /// Until the response's head, over the last successes of these minutes.
    pub median: Option<Duration>,
    pub rate_limit: Option<RateLimit>,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub at: SystemTime,
    /// A sentence for the person who has to mend it.
    pub message: String,
}

/// What a registry said of its rate limit (`ratelimit-remaining`, `ratelimit-limit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub remaining: i64,
    pub limit: Option<i64>,
    /// What the limit counts over (`w=`).
    pub window: Option<Duration>,
    pub at: SystemTime,
}

#[derive(Debug, Default)]
struct Record {
    last_success: Option<SystemTime>,
    last_failure: Option<Failed>,
    /// When each stretch of [`STEP`] began, with its requests and failures; the latest last.
    steps: VecDeque<(Instant, u32, u32)>,
    /// The latest last.
    latencies: VecDeque<(Instant, Duration)>,
    rate_limit: Option<RateLimit>,
}

// === impl Health ===

impl Health {
    /// Notes that `endpoint` was asked and said nothing in time.
    pub fn was_silent(&self, endpoint: &str) {
        self.silent().insert(endpoint.to_owned(), Instant::now());
    }

    /// Notes that `endpoint` answered.
    pub fn answered(&self, endpoint: &str) {
        self.silent().remove(endpoint);
    }

    /// Whether a question would likely go unanswered now.
    pub fn is_silent(&self, endpoint: &str) -> bool {
        let mut silent = self.silent();
        match silent.get(endpoint) {
            Some(since) if since.elapsed() < REMEMBERED => true,
            Some(_) => {
                silent.remove(endpoint);
                false
            }
            None => false,
        }
    }

    /// Nobody is silent, as far as is known.
    pub fn forget(&self) {
        self.silent().clear();
    }

    /// Notes that the registry `name` answered well, its head `after` the question.
    pub fn succeeded(&self, name: &str, after: Duration) {
        self.record(name, |record| record.succeeded(Instant::now(), after));
    }

    /// Notes that a question to the registry `name` failed, and why.
    pub fn failed(&self, name: &str, message: String) {
        self.record(name, |record| record.failed(Instant::now(), message));
    }

    /// Notes what the registry `name` says of its rate limit.
    pub fn limited(&self, name: &str, limit: RateLimit) {
        self.record(name, |record| record.rate_limit = Some(limit));
    }

    /// Every registry that was asked since the start, by name.
    pub fn report(&self) -> Vec<RegistryHealth> {
        let now = Instant::now();
        self.registries()
            .iter()
            .map(|(name, record)| record.report(name, now))
            .collect()
    }

    fn record(&self, name: &str, note: impl FnOnce(&mut Record)) {
        let mut registries = self.registries();
        match registries.get_mut(name) {
            Some(record) => note(record),
            None => note(registries.entry(name.to_owned()).or_default()),
        }
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registries(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Reads `ratelimit-remaining: 76;w=21600` and `ratelimit-limit: 100;w=21600`.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let field = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            let (count, rest) = value.split_once(';').unwrap_or((value, ""));
            let window = rest
                .split(';')
                .find_map(|part| part.trim().strip_prefix("w="));
            let seconds = window.and_then(|window| window.parse().ok());
            Some((count.trim().parse::<i64>().ok()?, seconds))
        };
        let (remaining, window) = field("ratelimit-remaining")?;
        let limit = field("ratelimit-limit");
        Some(Self {
            remaining,
            limit: limit.map(|(limit, _)| limit),
            window: window
                .or(limit.and_then(|(_, window)| window))
                .map(Duration::from_secs),
            at: SystemTime::now(),
        })
    }
}

// === impl Record ===

impl Record {
    fn succeeded(&mut self, now: Instant, after: Duration) {
        self.last_success = Some(SystemTime::now());
        self.step(now).1 += 1;
        self.latencies.push_back((now, after));
        if self.latencies.len() > MOST_LATENCIES {
            self.latencies.pop_front();
        }
    }

    fn failed(&mut self, now: Instant, message: String) {
        self.last_failure = Some(Failed {
            at: SystemTime::now(),
            message,
        });
        let step = self.step(now);
        step.1 += 1;
        step.2 += 1;
    }

    /// The stretch that `now` is in.
    fn step(&mut self, now: Instant) -> &mut (Instant, u32, u32) {
        while self.steps.front().is_some_and(|step| old(step.0, now)) {
            self.steps.pop_front();
        }
        let runs = |step: &(Instant, u32, u32)| now.saturating_duration_since(step.0) < STEP;
        if !self.steps.back().is_some_and(runs) {
            self.steps.push_back((now, 0, 0));
        }
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    fn report(&self, name: &str, now: Instant) -> RegistryHealth {
        let steps = || self.steps.iter().filter(|step| !old(step.0, now));
        let lately = self.latencies.iter().filter(|(at, _)| !old(*at, now));
        let mut latencies: Vec<Duration> = lately.map(|(_, after)| *after).collect();
        latencies.sort_unstable();
        RegistryHealth {
            name: name.to_owned(),
            last_success: self.last_success,
            last_failure: self.last_failure.clone(),
            requests: steps().map(|step| step.1).sum(),
            failures: steps().map(|step| step.2).sum(),
            median: latencies.get(latencies.len() / 2).copied(),
            rate_limit: self.rate_limit,
        }
    }
}

fn old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= LATELY
}

const REMEMBERED: Duration = Duration::from_secs(5);
const LATELY: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_secs(10);
const MOST_LATENCIES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_the_last_five_minutes_and_keeps_the_last_words() {
        let mut record = Record::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        record.failed(at(0), "it answered 503 Service Unavailable".into());
        for (second, after) in [(1, 90), (2, 10), (200, 30)] {
            record.succeeded(at(second), Duration::from_millis(after));
        }
        let report = record.report("ghcr.io", at(201));
        assert_eq!((report.requests, report.failures), (4, 1));
        assert_eq!(report.median, Some(Duration::from_millis(30)));
        let report = record.report("ghcr.io", at(400));
        assert_eq!((report.requests, report.failures), (1, 0));
        assert!(report.last_success.is_some());
        assert_eq!(
            report.last_failure.unwrap().message,
            "it answered 503 Service Unavailable"
        );
        let report = record.report("ghcr.io", at(900));
        assert_eq!((report.requests, report.median), (0, None));
    }

    #[test]
    fn what_is_remembered_of_a_registry_does_not_grow() {
        let mut record = Record::default();
        let start = Instant::now();
        for second in 0..2_000 {
            let now = start + Duration::from_secs(second);
            record.succeeded(now, Duration::from_millis(second));
        }
        assert!(record.steps.len() <= 31, "{}", record.steps.len());
        assert_eq!(record.latencies.len(), MOST_LATENCIES);
    }

    #[test]
    fn a_rate_limit_is_read_with_its_window() {
        let mut headers = HeaderMap::new();
        assert!(RateLimit::read(&headers).is_none());
        headers.insert("ratelimit-remaining", "76;w=21600".parse().unwrap());
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        let limit = RateLimit::read(&headers).unwrap();
        assert_eq!((limit.remaining, limit.limit), (76, Some(100)));
        assert_eq!(limit.window, Some(Duration::from_secs(21_600)));
    }
}
