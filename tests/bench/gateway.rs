//! What a gateway costs: CPU seconds of its process a unit of work, beside wall time and memory.
//!
//! The real binary stands between clients and an origin that both live in this process, so that
//! what they burn is not counted. Each work has a gateway of its own, with an empty cache, for each
//! run; a figure is the median of the runs. `scripts/bench` builds all of it and runs it.
//!
//! With `--peers` the same is done with what people have today, in the same run, with the same origin,
//! clients and bytes. A peer's work that takes too long or goes wrong is told and left out; of the
//! gateway's own none may.
//!
//! The clients offer what container clients (Go) do on a machine with AES in hardware: TLS 1.3,
//! AES-128-GCM first, X25519, no resumption. A work checks that it measured what it names: every
//! byte is compared with the origin's, and what is called a hit has asked the origin nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark fails loudly, and prints"
)]

#[allow(unused_imports, reason = "what only tests use")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "what only the other benchmark uses")]
mod client;
mod far;
mod growth;
mod meter;
#[allow(dead_code, reason = "what only the other benchmark uses")]
mod origin;
mod peer;
mod requests;
mod rest;
#[allow(dead_code, reason = "what only the other benchmark uses")]
mod scale;
mod streams;
mod table;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt as _;

use self::{origin::Origin, peer::Kind, scale::Scale, table::Table};

/// Where a work finds what it needs, and where its figures go.
pub struct Bench {
    origin: Origin,
    scale: Scale,
    /// Whom the works are measured on now.
    kind: Kind,
    table: Table,
}

/// What is measured, in the table's order.
const WORKS: &[&str] = &[
    "manifest",
    "warm",
    "cold",
    "first-byte",
    "crowd",
    "connection",
    "unseen",
    "tunnel",
    "idle",
    "many",
    "far",
    "wide",
    "growth",
];

/// Those of them that take minutes: only when they are asked for.
const LONG: &[&str] = &["many", "far", "wide", "growth"];

#[tokio::main]
async fn main() {
    let args = Args::parse(std::env::args().skip(1));
    let args = args.unwrap_or_else(|wrong| {
        eprintln!("bench: {wrong}");
        std::process::exit(2);
    });
    let scale = if args.quick {
        Scale::quick()
    } else {
        Scale::full()
    };
    let runs = args.runs.unwrap_or(scale.runs);
    let origin = Origin::start(&scale).await;
    let mut bench = Bench {
        origin,
        scale,
        kind: Kind::Pierhead,
        table: Table::default(),
    };
    for run in 1..=runs {
        for work in WORKS {
            if !args.wants(work) {
                continue;
            }
            // One after the other, so that all find the machine in the same mood.
            for kind in args.kinds.iter().filter(|kind| kind.does(work)) {
                bench.kind = *kind;
                let started = Instant::now();
                let how = bench.within_limit(work).await;
                let seconds = started.elapsed().as_secs_f64();
                let name = kind.name();
                eprintln!("run {run} of {runs}: {name} {work}, {seconds:.1} s{how}");
            }
        }
    }
    println!("{}", bench.table);
}

// === impl Bench ===

impl Bench {
    /// Does a work, and says how that went where it did not go well.
    async fn within_limit(&mut self, name: &str) -> String {
        let (kind, limit) = (self.kind, self.scale.limit);
        if LONG.contains(&name) {
            self.work(name).await;
            return String::new();
        }
        let done = AssertUnwindSafe(self.work(name)).catch_unwind();
        match tokio::time::timeout(limit, done).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(panic)) if kind == Kind::Pierhead => std::panic::resume_unwind(panic),
            Ok(Err(_)) => ": it went wrong, as said above, and is left out".into(),
            Err(_) => {
                let told = format!(": no end after {limit:?}; it is left out");
                assert!(kind != Kind::Pierhead, "{name}{told}");
                told
            }
        }
    }

    async fn work(&mut self, name: &str) {
        match name {
            "manifest" => self.manifest().await,
            "warm" => self.warm().await,
            "cold" => self.cold().await,
            "first-byte" => self.first_byte().await,
            "crowd" => self.crowd().await,
            "connection" => self.connection().await,
            "unseen" => self.unseen().await,
            "tunnel" => self.tunnel().await,
            "idle" => self.idle().await,
            "many" => self.many().await,
            "far" => self.far().await,
            "wide" => self.wide().await,
            "growth" => self.growth().await,
            other => unreachable!("{other} is not among the works"),
        }
    }
}

#[derive(Debug, Default)]
struct Args {
    quick: bool,
    runs: Option<usize>,
    /// Empty: all.
    only: Vec<String>,
    /// Whom to measure.
    kinds: Vec<Kind>,
}

// === impl Args ===

impl Args {
    fn wants(&self, work: &str) -> bool {
        match self.only.is_empty() {
            true => !LONG.contains(&work),
            false => self.only.iter().any(|only| only == work),
        }
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            kinds: vec![Kind::Pierhead],
            ..Self::default()
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--quick" => parsed.quick = true,
                "--peers" => parsed.kinds = Kind::ALL.to_vec(),
                "--runs" => {
                    let runs = args.next().and_then(|runs| runs.parse().ok());
                    parsed.runs = Some(runs.filter(|runs| *runs > 0).ok_or("--runs NUMBER")?);
                }
                "--only" => {
                    let work = args.next().unwrap_or_default();
                    if !WORKS.contains(&work.as_str()) {
                        return Err(format!("--only takes one of {}", WORKS.join(", ")));
                    }
                    parsed.only.push(work);
                }
                other => {
                    return Err(format!(
                        "{other}? [--quick] [--peers] [--runs N] [--only WORK]..."
                    ));
                }
            }
        }
        Ok(parsed)
    }
}
