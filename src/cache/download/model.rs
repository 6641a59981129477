//! The leader of a download and those who follow it, in many of the orders in which they may run
//! (feature `model`).
//!
//! Leader, spool, flight and readers are the real ones, on a real file. A registry that a test scripts
//! stands for upstream, and a flag for the index.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

use super::leader::Leader;
use crate::cache::flight::{Failure, Flight};
use crate::cache::flights::Download;
use crate::cache::origin::{FetchError, Fetched, Gone, Origin, Part};
use crate::cache::space::Bounds;
use crate::cache::{Cache, CacheConfig};
use crate::oci::digest::{Algorithm, Digest};
use crate::store::Key;
use crate::telemetry::metrics::Metrics;

/// What upstream does, each time that it is asked for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Well,
    /// Breaks off half-way, and has the rest when it is asked again.
    Stumbles,
    /// Breaks off half-way, for good.
    Breaks,
    /// Sends another last byte.
    Lies,
    /// Breaks off half-way as the disk is full; well where a follower asks for the rest.
    FillsTheDisk,
}

#[derive(Debug)]
struct Upstream {
    blob: Bytes,
    does: Does,
    /// Looked at wherever it may be another task's turn.
    turn: Arc<shuttle::sync::atomic::AtomicBool>,
}

/// What the tasks of one try share.
struct World {
    cache: Arc<Cache>,
    blob: Bytes,
    digest: Digest,
    /// What upstream does, one for each download; well after that.
    script: &'static [Does],
    begun: shuttle::sync::Mutex<usize>,
    /// The index knows the blob.
    landed: shuttle::sync::atomic::AtomicBool,
    _dir: tempfile::TempDir,
}

/// What one client got, and whether as all of it.
#[derive(Debug)]
struct Got {
    bytes: Vec<u8>,
    complete: bool,
}

impl Origin for Upstream {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        let total = self.blob.len();
        let start = part.start as usize;
        let end = part.end.map_or(total, |end| end as usize);
        let (blob, does, turn) = (self.blob.clone(), self.does, self.turn.clone());
        let chunks = stream::unfold(start, move |at| {
            let (blob, turn) = (blob.clone(), turn.clone());
            async move {
                turn.load(Ordering::SeqCst);
                if at >= end {
                    return None;
                }
                if start == 0 && at >= total / 2 && !matches!(does, Does::Well | Does::Lies) {
                    let broken = std::io::Error::other("it broke off");
                    return Some((Err(broken), end));
                }
                let next = (at + CHUNK).min(end);
                let mut chunk = blob.slice(at..next);
                if next == total && does == Does::Lies {
                    chunk = chunk.iter().map(|byte| byte ^ 1).collect();
                }
                Some((Ok(Frame::data(chunk)), next))
            }
        });
        let fetched = match (does, start) {
            // It is asked again for the rest, where it gave up for good.
            (Does::Breaks | Does::FillsTheDisk, 1..) => {
                Err(Gone::for_good("upstream is gone").into())
            }
            _ => Ok(Fetched {
                start: part.start,
                total: Some(total as u64),
                body: StreamBody::new(chunks).boxed_unsync(),
            }),
        };
        async move {
            self.turn.load(Ordering::SeqCst);
            fetched
        }
        .boxed()
    }

    fn registry(&self) -> &str {
        "r.test"
    }

    fn repository(&self) -> &str {
        "app"
    }
}

// === impl World ===

impl World {
    fn new(len: usize, script: &'static [Does]) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = CacheConfig {
            dir: dir.path().to_owned(),
            bounds: Bounds {
                max_size: 1 << 30,
                min_free: 0,
            },
            parallel: 1,
        };
        let blob: Bytes = (0..len).map(|n| (n % 251) as u8).collect();
        Arc::new(Self {
            cache: Cache::open(&config, Arc::new(Metrics::new())).unwrap(),
            digest: Digest::of(Algorithm::Sha256, &blob),
            blob,
            script,
            begun: shuttle::sync::Mutex::new(0),
            landed: shuttle::sync::atomic::AtomicBool::new(false),
            _dir: dir,
        })
    }

    fn upstream(&self, does: Does) -> Arc<dyn Origin> {
        Arc::new(Upstream {
            blob: self.blob.clone(),
            does,
            turn: Arc::default(),
        })
    }

    /// What [`Cache::download`] and [`Cache::run_download`] do, without an index.
    fn download(self: &Arc<Self>) -> Download {
        let mut begins = None;
        let is_here = || self.landed.load(Ordering::SeqCst);
        let download = self.cache.flights.join(&self.digest, is_here, || {
            let mut begun = self.begun.lock().unwrap();
            let does = self.script.get(*begun).copied().unwrap_or(Does::Well);
            *begun += 1;
            begins = Some(does);
            let upstream = self.upstream(does);
            Flight::new(
                self.digest.clone(),
                vec![],
                upstream,
                self.cache.metrics.clone(),
            )
        });
        if let (Some(does), Download::Begun(flight)) = (begins, &download) {
            drop(spawn(self.clone().lead(flight.clone(), does)));
        }
        download
    }

    async fn lead(self: Arc<Self>, flight: Arc<Flight>, does: Does) {
        let cache = &self.cache;
        let mut room = cache.space.reservation();
        let spool = cache.store.spool(&Key::blob(&self.digest)).unwrap();
        let first = Leader::first_lane(&flight, 0);
        let led = Leader::new(&flight, cache, &mut room, spool, first);
        match led.fetch().await {
            Ok(spool) => {
                flight.verified(spool.written());
                self.landed.store(true, Ordering::SeqCst);
                flight.forget_fresh();
                cache.end_flight(&self.digest);
            }
            Err((failure, spool)) => {
                if let Some(spool) = spool {
                    spool.discard();
                }
                let failure = match does {
                    Does::FillsTheDisk => Failure::NoRoom("the disk is full".into()),
                    _ => failure,
                };
                cache.fail(&flight, failure);
            }
        }
    }

    /// One client, who wants `start..end`. `None` where the blob was here before it asked.
    async fn pull(self: Arc<Self>, start: usize, end: usize) -> Option<Got> {
        let flight = match self.download() {
            Download::Begun(flight) | Download::UnderWay(flight) => flight,
            Download::Landed => return None,
        };
        let mut got = Got {
            bytes: Vec::new(),
            complete: false,
        };
        if flight.head().await.is_err() {
            return Some(got);
        }
        let own = self.upstream(Does::Well);
        let reader = flight.follow(start as u64, Some(end as u64), own);
        let mut body = reader.expect("there is a file").into_body();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => got.bytes.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(_)) => return Some(got),
                None => break,
            }
        }
        got.complete = true;
        Some(got)
    }
}

/// Tries `one` in many orders: in ones that chance makes, and in ones that are right but for a few turns at
/// the worst moment.
fn tried(one: impl Fn() + Send + Sync + Copy + 'static) {
    // Timers are made, though nobody waits for one.
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _within = tokio.enter();
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        config.max_steps = shuttle::MaxSteps::FailAfter(10_000_000);
        shuttle::Runner::new(scheduler, config).run(one);
    };
    let tries = std::env::var("MODEL_TRIES").map_or(TRIES, |tries| tries.parse().unwrap());
    run(Box::new(RandomScheduler::new(tries)));
    run(Box::new(PctScheduler::new(3, tries)));
}

fn clients(world: &Arc<World>, wants: &[(usize, usize)]) -> Vec<Option<Got>> {
    let pulls: Vec<JoinHandle<Option<Got>>> = wants
        .iter()
        .map(|(start, end)| spawn(world.clone().pull(*start, *end)))
        .collect();
    block_on(async {
        let mut all = Vec::new();
        for pull in pulls {
            all.push(pull.await.unwrap());
        }
        all
    })
}

#[test]
fn everybody_has_every_byte_in_order_of_one_download() {
    tried(|| all_of_one_download(&[]));
}

#[test]
fn a_resumed_download_is_one_download() {
    tried(|| all_of_one_download(&[Does::Stumbles]));
}

fn all_of_one_download(does: &'static [Does]) {
    let world = World::new(LEN, does);
    let wants = [(0, LEN), (0, LEN), (LEN / 3, LEN), (1, LEN / 2)];
    for (got, (start, end)) in clients(&world, &wants).into_iter().zip(wants) {
        if let Some(got) = got {
            assert!(got.complete);
            assert!(got.bytes == world.blob[start..end], "other bytes");
        }
    }
    assert_eq!(*world.begun.lock().unwrap(), 1);
}

#[test]
fn nobody_takes_a_lie_for_complete() {
    tried(|| {
        let world = World::new(LEN, &[Does::Lies, Does::Lies, Does::Lies]);
        let wants = [(0, LEN), (0, LEN), (LEN / 3, LEN)];
        for got in clients(&world, &wants) {
            let got = got.expect("nothing ever lands");
            assert!(!got.complete);
        }
        assert_eq!(world.cache.flights_under_way(), 0);
    });
}

#[test]
fn who_asks_after_a_failure_begins_anew_and_has_it() {
    tried(|| {
        let world = World::new(LEN, &[Does::Breaks]);
        let wants = [(0, LEN), (0, LEN)];
        for got in clients(&world, &wants).into_iter().flatten() {
            assert_eq!(got.complete, got.bytes.len() == LEN);
            assert!(got.bytes == world.blob[..got.bytes.len()], "other bytes");
        }
        let again = clients(&world, &[(0, LEN)]).remove(0);
        assert!(again.is_none_or(|got| got.complete && got.bytes == world.blob));
        assert!(*world.begun.lock().unwrap() <= 2);
    });
}

#[test]
fn a_full_disk_costs_nobody_a_byte() {
    tried(|| {
        let world = World::new(LEN, &[Does::FillsTheDisk]);
        let wants = [(0, LEN), (0, LEN), (LEN / 3, LEN)];
        for (got, (start, end)) in clients(&world, &wants).into_iter().zip(wants) {
            // One who came before upstream's answer is told of the failure instead.
            let Some(got) = got else { continue };
            assert!(got.complete, "it ended after {} bytes", got.bytes.len());
            assert!(got.bytes == world.blob[start..end], "other bytes");
        }
    });
}

/// Bytes of the blob: in more pieces than followers find in memory, so that they read the file too.
const LEN: usize = 64 << 10;
const CHUNK: usize = 4 << 10;
/// Orders of each kind, unless `MODEL_TRIES` says how many.
const TRIES: usize = 300;
