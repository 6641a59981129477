//! What a gateway costs: CPU seconds of its process a unit of work, beside wall time and memory.
//!
//! The real binary stands between clients and an origin that both live in this process, so that
//! what they burn is not counted. Each work has a gateway of its own, with an empty cache, for each
//! run; a figure is the median of the runs. `scripts/bench` builds all of it and runs it.
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

mod client;
mod far;
mod growth;
mod meter;
mod origin;
mod peer;
mod requests;
mod scale;
mod streams;
mod table;

use std::time::Instant;

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
    "far",
    "wide",
    "growth",
];

/// Those of them that take minutes: only when they are asked for.
const LONG: &[&str] = &["far", "wide", "growth"];

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
        for kind in Kind::ALL {
            bench.kind = *kind;
            for work in WORKS {
                if args.wants(work) {
                    let started = Instant::now();
                    bench.work(work).await;
                    let seconds = started.elapsed().as_secs_f64();
                    eprintln!(
                        "run {run} of {runs}: {} {work}, {seconds:.1} s",
                        kind.name()
                    );
                }
            }
        }
    }
    println!("{}", bench.table);
}

// === impl Bench ===

impl Bench {
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
        let mut parsed = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--quick" => parsed.quick = true,
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
                other => return Err(format!("{other}? [--quick] [--runs N] [--only WORK]...")),
            }
        }
        Ok(parsed)
    }
}
