//! What was done in each minute of the last day and in each hour of the last month, in memory.
//!
//! A request costs a few relaxed additions: the counts only grow, and what a minute had is the
//! difference between them at its end and at its beginning. Whoever comes first in a new minute
//! closes the one before.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::access::Outcome;

/// Counts, and their past.
#[derive(Debug)]
pub struct History {
    now: Counters,
    /// The minute (since 1970) that is counted into.
    minute: AtomicU64,
    past: Mutex<Past>,
    /// Seconds since 1970.
    clock: fn() -> u64,
}

/// What was counted in a minute, in an hour, or since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything that was answered.
    pub requests: u64,
    /// Images that clients were given.
    pub pulls: u64,
    /// Answered by the cache: hit, follow, revalidated, stale.
    pub hits: u64,
    /// Fetched for the cache.
    pub misses: u64,
    pub denials: u64,
    pub errors: u64,
    /// Body bytes that clients got from the cache, or from a download of another client.
    pub cached_bytes: u64,
    /// Body bytes that clients got from upstream: misses and what is relayed.
    pub relayed_bytes: u64,
    /// Bytes through tunnels, both directions, counted when a tunnel ends.
    pub tunnel_bytes: u64,
    /// Blob bytes that came from upstream.
    pub received_bytes: u64,
}

/// A stretch of time, and what was counted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where it begins; it ends where the next one begins.
    pub start: SystemTime,
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    pulls: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    denials: AtomicU64,
    errors: AtomicU64,
    cached_bytes: AtomicU64,
    relayed_bytes: AtomicU64,
    tunnel_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Past {
    /// The counts when the current minute began.
    base: Counts,
    /// Minutes in which something happened, by number; the latest last.
    minutes: VecDeque<(u64, Counts)>,
    hours: VecDeque<(u64, Counts)>,
}

// === impl History ===

impl History {
    pub fn new() -> Self {
        Self::with_clock(unix_seconds)
    }

    fn with_clock(clock: fn() -> u64) -> Self {
        Self {
            now: Counters::default(),
            minute: AtomicU64::new(clock() / 60),
            past: Mutex::default(),
            clock,
        }
    }

    /// Counts a request that was answered with `bytes` of body.
    pub fn request(&self, outcome: Outcome, bytes: u64) {
        self.turn();
        let now = &self.now;
        add(&now.requests, 1);
        let (kind, moved) = match outcome {
            Outcome::Hit | Outcome::Follow | Outcome::Revalidated | Outcome::Stale => {
                (Some(&now.hits), &now.cached_bytes)
            }
            Outcome::Miss => (Some(&now.misses), &now.relayed_bytes),
            Outcome::Relay => (None, &now.relayed_bytes),
            Outcome::Tunnel => (None, &now.tunnel_bytes),
            Outcome::Denied => return add(&now.denials, 1),
            Outcome::Error => return add(&now.errors, 1),
        };
        if let Some(kind) = kind {
            add(kind, 1);
        }
        add(moved, bytes);
    }

    /// Counts an image that a client was given.
    pub fn pulled(&self) {
        self.turn();
        add(&self.now.pulls, 1);
    }

    /// Counts blob bytes that came from upstream.
    pub fn received(&self, bytes: u64) {
        self.turn();
        add(&self.now.received_bytes, bytes);
    }

    /// What was counted since the start.
    pub fn total(&self) -> Counts {
        self.now.read()
    }

    /// The last `n` minutes (a day of them at most), the one that runs now last. A minute in which
    /// nothing happened is there, with zeros.
    pub fn minutes(&self, n: usize) -> Vec<Bucket> {
        self.turn();
        let past = self.past();
        let current = self.minute.load(Ordering::Relaxed);
        let running = (current, self.now.read().since(&past.base));
        let all = past.minutes.iter().copied().chain([running]);
        filled(all, current, n.min(MINUTES), 60)
    }

    /// The last `n` hours (30 days of them at most), the one that runs now last.
    pub fn hours(&self, n: usize) -> Vec<Bucket> {
        self.turn();
        let past = self.past();
        let current = self.minute.load(Ordering::Relaxed) / 60;
        let running = (current, self.now.read().since(&past.base));
        let all = past.hours.iter().copied().chain([running]);
        filled(all, current, n.min(HOURS), 3600)
    }

    /// Closes the minute that is over. After a clock that was set back, time
    /// has to catch up first.
    fn turn(&self) {
        let current = (self.clock)() / 60;
        if current <= self.minute.load(Ordering::Relaxed) {
            return;
        }
        let mut past = self.past();
        let counted = self.minute.load(Ordering::Relaxed);
        if current <= counted {
            return;
        }
        let now = self.now.read();
        let done = now.since(&past.base);
        past.base = now;
        if done != Counts::default() {
            note(&mut past.minutes, counted, done, MINUTES);
            note(&mut past.hours, counted / 60, done, HOURS);
        }
        self.minute.store(current, Ordering::Relaxed);
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Counts ===

impl Counts {
    /// The share of requests for content that the cache answered, from 0 to 1; `None` before the first.
    pub fn hit_ratio(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }

    fn since(&self, base: &Self) -> Self {
        Self {
            requests: self.requests - base.requests,
            pulls: self.pulls - base.pulls,
            hits: self.hits - base.hits,
            misses: self.misses - base.misses,
            denials: self.denials - base.denials,
            errors: self.errors - base.errors,
            cached_bytes: self.cached_bytes - base.cached_bytes,
            relayed_bytes: self.relayed_bytes - base.relayed_bytes,
            tunnel_bytes: self.tunnel_bytes - base.tunnel_bytes,
            received_bytes: self.received_bytes - base.received_bytes,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.pulls += other.pulls;
        self.hits += other.hits;
        self.misses += other.misses;
        self.denials += other.denials;
        self.errors += other.errors;
        self.cached_bytes += other.cached_bytes;
        self.relayed_bytes += other.relayed_bytes;
        self.tunnel_bytes += other.tunnel_bytes;
        self.received_bytes += other.received_bytes;
    }
}

// === impl Counters ===

impl Counters {
    /// Always read under the lock of the past, or after it: so no count is ever less than its base.
    fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: read(&self.requests),
            pulls: read(&self.pulls),
            hits: read(&self.hits),
            misses: read(&self.misses),
            denials: read(&self.denials),
            errors: read(&self.errors),
            cached_bytes: read(&self.cached_bytes),
            relayed_bytes: read(&self.relayed_bytes),
            tunnel_bytes: read(&self.tunnel_bytes),
            received_bytes: read(&self.received_bytes),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Adds `counts` to the number `at`, and forgets what is older than `most` numbers.
fn note(kept: &mut VecDeque<(u64, Counts)>, at: u64, counts: Counts, most: usize) {
    match kept.back_mut() {
        Some((last, sum)) if *last == at => *sum += counts,
        _ => kept.push_back((at, counts)),
    }
    while kept
        .front()
        .is_some_and(|(old, _)| *old + most as u64 <= at)
    {
        kept.pop_front();
    }
}

/// The `n` numbers up to `current`, with what was counted in them; each is `seconds` long.
fn filled(
    counted: impl Iterator<Item = (u64, Counts)>,
    current: u64,
    n: usize,
    seconds: u64,
) -> Vec<Bucket> {
    let first = (current + 1).saturating_sub(n as u64);
    let mut buckets: Vec<Bucket> = (first..=current)
        .map(|at| Bucket {
            start: UNIX_EPOCH + Duration::from_secs(at * seconds),
            counts: Counts::default(),
        })
        .collect();
    for (at, counts) in counted {
        let place = at
            .checked_sub(first)
            .and_then(|place| buckets.get_mut(usize::try_from(place).ok()?));
        if let Some(bucket) = place {
            bucket.counts += counts;
        }
    }
    buckets
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const MINUTES: usize = 24 * 60;
const HOURS: usize = 30 * 24;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_minute_has_what_was_counted_in_it() {
        at(0);
        let history = History::with_clock(clock);
        history.request(Outcome::Hit, 10);
        history.request(Outcome::Miss, 20);
        history.received(20);
        history.pulled();
        at(59);
        history.request(Outcome::Denied, 99);
        at(60);
        history.request(Outcome::Stale, 5);
        at(190);
        history.request(Outcome::Error, 0);
        let minutes = history.minutes(5);
        let seen: Vec<(u64, u64, u64, u64)> = minutes
            .iter()
            .map(|bucket| {
                let c = bucket.counts;
                (c.requests, c.hits, c.cached_bytes, c.relayed_bytes)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, 0, 0, 0),
                (3, 1, 10, 20),
                (1, 1, 5, 0),
                (0, 0, 0, 0),
                (1, 0, 0, 0)
            ]
        );
        assert_eq!(minutes[1].counts.denials, 1);
        assert_eq!(minutes[1].counts.pulls, 1);
        assert_eq!(minutes[1].counts.received_bytes, 20);
        assert_eq!(minutes[4].counts.errors, 1);
        assert_eq!(
            minutes[4].start,
            UNIX_EPOCH + Duration::from_secs(START + 180)
        );
        assert_eq!(history.total().requests, 5);
        assert_eq!(history.total().hit_ratio(), Some(2.0 / 3.0));
    }

    #[test]
    fn hours_outlive_minutes_and_end_too() {
        at(0);
        let history = History::with_clock(clock);
        history.request(Outcome::Hit, 1);
        at(3600);
        history.request(Outcome::Hit, 1);
        at(25 * 3600);
        assert_eq!(sum(&history.minutes(usize::MAX)), 0);
        assert_eq!(history.minutes(usize::MAX).len(), MINUTES);
        let hours = history.hours(26);
        assert_eq!(hours[0].counts.requests, 1);
        assert_eq!(hours[1].counts.requests, 1);
        at(31 * 24 * 3600);
        history.request(Outcome::Hit, 1);
        assert_eq!(sum(&history.hours(usize::MAX)), 1);
        at(31 * 24 * 3600 + 60);
        history.request(Outcome::Hit, 1);
        assert_eq!(history.past().hours.len(), 1, "the old ones are forgotten");
        assert_eq!(history.past().minutes.len(), 1);
    }

    #[test]
    fn nothing_is_lost_when_the_clock_is_set_back() {
        at(600);
        let history = History::with_clock(clock);
        history.request(Outcome::Hit, 1);
        at(0);
        history.request(Outcome::Hit, 1);
        at(660);
        history.request(Outcome::Hit, 1);
        assert_eq!(sum(&history.minutes(2)), 3);
    }

    #[test]
    fn nothing_is_lost_when_many_count_while_minutes_pass() {
        static SECONDS: AtomicU64 = AtomicU64::new(START);
        let history = History::with_clock(|| SECONDS.load(Ordering::Relaxed));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for n in 0..10_000 {
                        history.request(Outcome::Hit, 1);
                        if n % 100 == 0 {
                            SECONDS.fetch_add(7, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(sum(&history.minutes(MINUTES)), 40_000);
        assert_eq!(sum(&history.hours(HOURS)), 40_000);
    }

    fn sum(buckets: &[Bucket]) -> u64 {
        buckets.iter().map(|bucket| bucket.counts.requests).sum()
    }

    thread_local! {
        static SECONDS: Cell<u64> = const { Cell::new(START) };
    }

    fn at(seconds: u64) {
        SECONDS.set(START + seconds);
    }

    fn clock() -> u64 {
        SECONDS.get()
    }

    /// An hour's beginning.
    const START: u64 = 3600 * 480_000;
}
