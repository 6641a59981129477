//! How fast one connection brings a blob, and whether it is what the download waits for.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Measures one connection, in stretches of [`STRETCH`]. The first moments, in which TCP finds out how
/// fast it may go, count for nothing.
pub(super) struct Pace {
    ticks: Interval,
    /// The stretch's beginning, and the bytes there were by then. `None` before the first tick.
    began: Option<(Instant, u64)>,
    /// Time in which there was nothing to do but to wait for upstream.
    waited: Duration,
    /// The disk could not keep up.
    held_up: bool,
}

// === impl Pace ===

impl Pace {
    pub fn begin() -> Self {
        let mut ticks = tokio::time::interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            began: None,
            waited: Duration::ZERO,
            held_up: false,
        }
    }

    /// Waits for the next moment to judge; answers when that was due.
    pub async fn tick(&mut self) -> Instant {
        self.ticks.tick().await
    }

    /// Notes that all there was to do for `time` was to wait for upstream.
    pub fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Notes that upstream had more than could be written.
    pub fn held_up(&mut self) {
        self.held_up = true;
    }

    /// `at` bytes have come, of `total`: bytes a second, if this connection is what the rest of the
    /// download would wait for. `due` is what [`Pace::tick`] answered.
    pub fn judge(&mut self, due: Instant, at: u64, total: u64) -> Option<u64> {
        let now = Instant::now();
        // A clock that comes late says that this machine is busy: then nothing is measured.
        let starved = now.saturating_duration_since(due) > LATE;
        let Some((began, from)) = self.began.filter(|_| !starved) else {
            self.start_over(now, at);
            return None;
        };
        let time = now - began;
        if time < STRETCH {
            return None;
        }
        let rate = (at.saturating_sub(from) as f64 / time.as_secs_f64()) as u64;
        let waits = !self.held_up && self.waited * 2 >= time;
        self.start_over(now, at);
        let left = total.saturating_sub(at);
        let worth = rate > 0 && rate < FAST && left >= LARGE && left / rate >= WORTH.as_secs();
        (waits && worth).then_some(rate)
    }

    fn start_over(&mut self, now: Instant, at: u64) {
        self.began = Some((now, at));
        self.waited = Duration::ZERO;
        self.held_up = false;
    }
}

/// Bytes that have to be left for more connections to be worth their while.
pub(super) const LARGE: u64 = 16 << 20;
/// Bytes a second that one connection is good enough at.
const FAST: u64 = 64 << 20;
/// How long the rest would take at least.
const WORTH: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);
const STRETCH: Duration = Duration::from_millis(400);
const LATE: Duration = Duration::from_millis(60);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Judges after each quarter of a second, in which `bytes` came and `wait` was waited.
    async fn judged(bytes: u64, wait: u64, held_up: bool) -> Vec<Option<u64>> {
        let mut pace = Pace::begin();
        let mut found = Vec::new();
        for n in 1..=3 {
            let due = pace.tick().await;
            pace.waited(Duration::from_millis(wait));
            if held_up {
                pace.held_up();
            }
            found.push(pace.judge(due, n * bytes, 1 << 30));
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_connection_is_known_after_three_quarters_of_a_second() {
        let found = judged(5 * MIB, 240, false).await;
        assert_eq!(found[..2], [None, None]);
        assert!(found[2].is_some_and(|rate| rate.abs_diff(20 * MIB) < MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_line_a_busy_gateway_and_a_slow_disk_are_no_slow_connection() {
        assert_eq!(judged(40 * MIB, 240, false).await[2], None);
        assert_eq!(judged(5 * MIB, 20, false).await[2], None);
        assert_eq!(judged(5 * MIB, 240, true).await[2], None);
        // Silence is another matter, and has limits of its own.
        assert_eq!(judged(0, 240, false).await[2], None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_comes_late_measures_nothing() {
        let mut pace = Pace::begin();
        for n in 1..=8 {
            let due = pace.tick().await;
            tokio::time::advance(Duration::from_millis(100)).await;
            pace.waited(Duration::from_millis(340));
            assert_eq!(pace.judge(due, n * MIB, 1 << 30), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_little_that_is_left_is_not_worth_it() {
        let mut pace = Pace::begin();
        for n in 1..=6 {
            let due = pace.tick().await;
            pace.waited(Duration::from_millis(240));
            assert_eq!(pace.judge(due, n * MIB, 18 * MIB), None);
        }
    }
}
