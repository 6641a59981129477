//! The fuzz targets without a fuzzer: every file of the corpus, and what chance makes of it.
//!
//! With coverage, on a machine that has cargo-fuzz: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir
//! tests/fuzz route tests/fuzz/corpus/route`. What it finds worth keeping goes into the corpus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

mod targets;

use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The corpus of a target; at least one file.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no corpus of {name}");
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn every_target_takes_its_corpus() {
    for (name, target) in targets::ALL {
        for data in corpus(name) {
            target(&data);
        }
    }
}

/// `PIERHEAD_FUZZ_SEED` and `PIERHEAD_FUZZ_SECONDS` (a target) choose what is tried, and how long.
#[test]
fn every_target_takes_what_chance_makes_of_its_corpus() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seed = number("PIERHEAD_FUZZ_SEED").unwrap_or(1);
    let seconds = number("PIERHEAD_FUZZ_SECONDS").unwrap_or(1);
    let only = std::env::var("PIERHEAD_FUZZ_TARGET").unwrap_or_default();
    for (name, target) in targets::ALL {
        if !name.contains(&only) {
            continue;
        }
        let mut pool = corpus(name);
        let mut chance = Chance(seed);
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut tries = 0u64;
        while Instant::now() < until {
            let mut data = pool[chance.below(pool.len())].clone();
            for _ in 0..=chance.below(6) {
                chance.change(&mut data, &pool);
            }
            let outcome = std::panic::catch_unwind(|| target(&data));
            assert!(
                outcome.is_ok(),
                "{name}, seed {seed}, try {tries}: {data:?}"
            );
            tries += 1;
            if pool.len() < 400 && chance.below(8) == 0 {
                pool.push(data);
            }
        }
        eprintln!("{name}: {tries} tries, PIERHEAD_FUZZ_SEED={seed}");
    }
}

struct Chance(u64);

// === impl Chance ===

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ (self.0 >> 29);
        mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One change: a byte, a piece out, a piece twice, a piece of another one, or a telling piece.
    fn change(&mut self, data: &mut Vec<u8>, pool: &[Vec<u8>]) {
        const TELLING: [&[u8]; 18] = [
            b"..",
            b"/",
            b"//",
            b"%2f",
            b"\0",
            b"\"",
            b"\\",
            b",",
            b";",
            b"=",
            b"-",
            b"bytes=",
            b"18446744073709551616",
            b"0",
            b"\xff",
            b"sha256:",
            b"[",
            b"{",
        ];
        let at = self.below(data.len() + 1);
        let len = self.below(data.len() - at + 1).min(32);
        match self.below(7) {
            0 if at < data.len() => data[at] ^= 1 << self.below(8),
            1 => drop(data.drain(at..at + len)),
            2 => {
                let piece = data[at..at + len].to_vec();
                data.splice(at..at, piece);
            }
            3 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len() + 1);
                let most = self.below(other.len() - from + 1).min(64);
                data.splice(at..at, other[from..from + most].iter().copied());
            }
            4 => {
                let piece = TELLING[self.below(TELLING.len())];
                data.splice(at..at, piece.iter().copied());
            }
            5 => data.insert(at, self.next() as u8),
            _ => data.truncate(at),
        }
        data.truncate(64 << 10);
    }
}
