//! How many cases ran, by class and by state.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::case::{Case, State, seed};

pub struct Table {
    began: Instant,
    counts: BTreeMap<&'static str, BTreeMap<State, usize>>,
    requests: usize,
    slowest: (Duration, String),
    wrong: Vec<String>,
}

// === impl Table ===

impl Table {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            counts: BTreeMap::new(),
            requests: 0,
            slowest: (Duration::ZERO, String::new()),
            wrong: Vec::new(),
        }
    }

    pub fn ran(&mut self, case: &Case) {
        let states = self.counts.entry(case.trouble.class).or_default();
        *states.entry(case.state).or_default() += 1;
    }

    pub fn asked(&mut self, case: &Case, took: Duration) {
        self.requests += 1;
        if took > self.slowest.0 {
            self.slowest = (took, case.to_string());
        }
    }

    pub fn wrong(&mut self, case: &Case, phase: &str, why: &str) {
        let wrong = format!("{case} ({phase}): {why}");
        // At once, too: a run that is ended early has still found something.
        eprintln!("{wrong}");
        self.wrong.push(wrong);
    }

    /// Prints what ran, and fails the test where something was wrong.
    pub fn conclude(&self) {
        let states = [
            State::Cold,
            State::Following,
            State::Warm,
            State::Revalidating,
            State::Offline,
        ];
        let heads = states.map(|state| format!("{state:?}").to_lowercase());
        eprintln!(
            "{:<28} {:>12} {:>12} {:>12} {:>12} {:>12}",
            "fault", heads[0], heads[1], heads[2], heads[3], heads[4]
        );
        let mut all = 0;
        for (class, counts) in &self.counts {
            let count = states.map(|state| counts.get(&state).copied().unwrap_or(0));
            all += count.iter().sum::<usize>();
            eprintln!(
                "{class:<28} {:>12} {:>12} {:>12} {:>12} {:>12}",
                count[0], count[1], count[2], count[3], count[4]
            );
        }
        let (slowest, whose) = &self.slowest;
        eprintln!(
            "{all} cases, {} requests while things went wrong, in {:.0?}; the slowest took {slowest:.1?} ({whose}); PIERHEAD_MATRIX_SEED={}",
            self.requests,
            self.began.elapsed(),
            seed(),
        );
        let shown = self.wrong.iter().take(80).map(|one| format!("\n  {one}"));
        let shown: String = shown.collect();
        assert!(
            self.wrong.is_empty(),
            "{} wrong; one alone: PIERHEAD_MATRIX_SEED={} PIERHEAD_MATRIX_CASE=NAME{shown}",
            self.wrong.len(),
            seed(),
        );
    }
}
