//! Downloads from an origin that does what a test says, on a clock that stands still but for waiting.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::cache::flight::{Failure, Flight};
use crate::cache::index::on_disk;
use crate::cache::origin::{FetchError, Fetched, Origin, Part};
use crate::cache::space::Bounds;
use crate::cache::{Cache, CacheConfig};
use crate::oci::digest::{Algorithm, Digest};
use crate::store::Key;
use crate::telemetry::metrics::Metrics;

const MIB: u64 = 1 << 20;

/// What the origin does about its `n`th request, counted from zero.
type Script = dyn Fn(usize, Part) -> Does + Send + Sync;

#[derive(Clone, Debug)]
enum Does {
    Well,
    /// Breaks off after so many bytes.
    Breaks(u64),
    /// Ends in good order after so many bytes.
    EndsAfter(u64),
    /// Everything, whatever was asked for.
    Whole,
    /// A part that nobody asked for, and says so.
    Other(u64),
    /// From where it was asked on to the blob's end.
    Overlong,
    /// Speaks of another length.
    Total(u64),
    Status(u16),
    /// Is never heard of again.
    Silent,
    Corrupt,
    Panics,
}

/// A registry whose connections are slow, each by itself.
struct Slow {
    bytes: Bytes,
    /// Bytes a second for each connection.
    rate: u64,
    script: Box<Script>,
    asked: Mutex<Vec<Part>>,
    sent: AtomicU64,
    open: Arc<AtomicUsize>,
    most_open: AtomicUsize,
}

struct World {
    cache: Arc<Cache>,
    origin: Arc<Slow>,
    digest: Digest,
    dir: TempDir,
}

// === impl Slow ===

impl std::fmt::Debug for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slow")
    }
}

impl Slow {
    fn answer(self: &Arc<Self>, part: Part, does: Does) -> Result<Fetched, FetchError> {
        let len = self.bytes.len() as u64;
        let all = part.start..part.end.unwrap_or(len);
        let (range, total) = match does {
            Does::Whole => (0..len, len),
            Does::Other(start) => (start..len, len),
            Does::Overlong => (part.start..len, len),
            Does::Total(total) => (all, total),
            Does::Status(status) => {
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
                return Err(FetchError::Answer(Arc::new(answer)));
            }
            _ if part.start >= len => return Err(FetchError::PastTheEnd { total: Some(len) }),
            _ => (all, len),
        };
        Ok(Fetched {
            start: range.start,
            total: Some(total),
            body: self.body(range, does),
        })
    }

    fn body(self: &Arc<Self>, range: Range<u64>, does: Does) -> crate::wire::body::Body {
        let now_open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(now_open, Ordering::Relaxed);
        let closes = Closes(self.open.clone());
        let origin = self.clone();
        let begun = range.start;
        let chunks = stream::unfold(Some(range), move |left| {
            let (origin, does) = (origin.clone(), does.clone());
            let _held = &closes;
            async move {
                let mut left = left?;
                let gone = left.start - begun;
                match does {
                    Does::Breaks(after) if gone >= after => {
                        return Some((Err(std::io::Error::other("it broke")), None));
                    }
                    Does::EndsAfter(after) if gone >= after => return None,
                    _ => {}
                }
                if left.is_empty() {
                    return None;
                }
                let end = (left.start + CHUNK).min(left.end);
                let bytes = left.start as usize..end as usize;
                let mut chunk = origin.bytes.slice(bytes);
                if matches!(does, Does::Corrupt) {
                    chunk = chunk.iter().map(|byte| byte ^ 1).collect();
                }
                let nanos = chunk.len() as u64 * 1_000_000_000 / origin.rate;
                tokio::time::sleep(Duration::from_nanos(nanos)).await;
                origin.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                left.start = end;
                Some((Ok(Frame::data(chunk)), Some(left)))
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    }

    fn asked(&self) -> Vec<Part> {
        self.asked.lock().unwrap().clone()
    }
}

/// The origin behind a reference of its own, as the cache holds it.
#[derive(Debug)]
struct Way(Arc<Slow>);

impl Origin for Way {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        async move {
            let n = {
                let mut asked = self.0.asked.lock().unwrap();
                asked.push(part);
                asked.len() - 1
            };
            let does = (self.0.script)(n, part);
            // There and back, and once more to where a redirect leads.
            tokio::time::sleep(Duration::from_millis(100)).await;
            match does {
                Does::Silent => std::future::pending().await,
                Does::Panics => panic!("the test wants it"),
                does => self.0.answer(part, does),
            }
        }
        .boxed()
    }

    fn registry(&self) -> &str {
        "slow.test"
    }

    fn repository(&self) -> &str {
        "app"
    }
}

struct Closes(Arc<AtomicUsize>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl World ===

impl World {
    fn new(
        len: u64,
        rate: u64,
        script: impl Fn(usize, Part) -> Does + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = noise(len);
        Self {
            cache: open(dir.path()),
            digest: Digest::of(Algorithm::Sha256, &bytes),
            origin: Arc::new(Slow {
                bytes,
                rate,
                script: Box::new(script),
                asked: Mutex::default(),
                sent: AtomicU64::new(0),
                open: Arc::default(),
                most_open: AtomicUsize::new(0),
            }),
            dir,
        }
    }

    fn begin(&self) -> Arc<Flight> {
        let way = Arc::new(Way(self.origin.clone()));
        self.cache.download(&self.digest, vec![1], way).0
    }

    /// One client's pull of everything; the bytes that it got, and whether it was told that they are all.
    async fn follow(&self, flight: &Arc<Flight>) -> Result<Vec<u8>, String> {
        flight.head().await.map_err(|e| e.to_string())?;
        let way = Arc::new(Way(self.origin.clone()));
        let reader = flight.follow(0, None, way).expect("it has a file");
        let mut body = reader.into_body();
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            got.extend_from_slice(&frame.map_err(|e| e.to_string())?.into_data().unwrap());
        }
        Ok(got)
    }

    /// A client's pull that must go well; how long it took.
    async fn pulled(&self) -> Duration {
        let began = Instant::now();
        let flight = self.begin();
        let got = self.follow(&flight).await.unwrap();
        assert!(got == self.origin.bytes, "other bytes than the origin's");
        let took = began.elapsed();
        self.settled().await;
        assert!(self.cache.blob(&self.digest).await.is_some());
        self.check_books();
        took
    }

    async fn settled(&self) {
        while self.cache.flights_under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the ledger says is what the directory holds, and no connection is left open.
    fn check_books(&self) {
        let (mut held, mut beside) = (0, Vec::new());
        for folder in ["blobs", "manifests", "partial"] {
            walk(&self.dir.path().join(folder), &mut |path, len| {
                held += on_disk(len);
                if folder == "partial" && path.extension().is_some() {
                    beside.push(path.to_owned());
                }
            });
        }
        assert_eq!(beside, [""; 0].map(Path::new), "marks are left");
        let space = &self.cache.space;
        assert_eq!(space.used() - space.overhead(), held, "the ledger");
        assert_eq!(self.origin.open.load(Ordering::Relaxed), 0, "connections");
    }

    fn sent(&self) -> u64 {
        self.origin.sent.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_gets_company_and_each_byte_comes_once() {
    let world = World::new(96 * MIB, 8 * MIB, |_, _| Does::Well);
    let took = world.pulled().await;
    // Twelve seconds by itself; three for four, and a little until that is known.
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    assert_eq!(world.origin.most_open.load(Ordering::Relaxed), 4);
    let asked = world.origin.asked();
    assert_eq!(asked[0], Part::from(0));
    // What was on its way when the first connection had met the next part.
    let twice = world.sent() - 96 * MIB;
    assert!(twice <= CHUNK, "{twice} bytes came twice");
    let mut parts: Vec<_> = asked[1..]
        .iter()
        .map(|part| (part.start, part.end))
        .collect();
    parts.sort_unstable();
    for pair in parts.windows(2) {
        assert_eq!(pair[0].1, Some(pair[1].0), "parts overlap, or leave a gap");
    }
    assert_eq!(world.cache.metrics.splits.get(), 1);
    assert_eq!(world.cache.metrics.resumes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_hands_on_what_it_reads_all_the_while() {
    let world = World::new(96 * MIB, 8 * MIB, |_, _| Does::Well);
    let flight = world.begin();
    flight.head().await.unwrap();
    let way = Arc::new(Way(world.origin.clone()));
    let mut body = flight.follow(0, None, way).unwrap().into_body();
    let mut got = 0;
    let mut waits = Duration::ZERO;
    let mut since = Instant::now();
    while let Some(frame) = body.frame().await {
        got += frame.unwrap().into_data().unwrap().len();
        waits = waits.max(since.elapsed());
        since = Instant::now();
    }
    assert_eq!(got, world.origin.bytes.len());
    assert!(waits < Duration::from_millis(1_500), "{waits:?} of silence");
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_fast_line_is_asked_once() {
    let world = World::new(96 * MIB, 80 * MIB, |_, _| Does::Well);
    world.pulled().await;
    assert_eq!(world.origin.asked(), [Part::from(0)]);
    assert_eq!(world.sent(), 96 * MIB);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_keeps_to_one_connection() {
    let world = World::new(40 * MIB, 8 * MIB, |_, _| Does::Well);
    world.begin().finished().await.unwrap();
    assert_eq!(world.origin.asked(), [Part::from(0)]);
    world.settled().await;
    world.check_books();
}

#[tokio::test(start_paused = true)]
async fn one_connection_is_what_it_was_told_to_use() {
    let world = World::new(40 * MIB, 8 * MIB, |_, _| Does::Well);
    world.cache.download_over(1);
    world.pulled().await;
    assert_eq!(world.origin.asked(), [Part::from(0)]);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_gives_no_parts_is_read_on_as_a_whole() {
    let world = World::new(48 * MIB, 8 * MIB, |_, part| match part.end {
        Some(_) => Does::Whole,
        None => Does::Well,
    });
    let took = world.pulled().await;
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert!(world.origin.asked().len() <= 4);
}

#[tokio::test(start_paused = true)]
async fn parts_that_go_wrong_are_resumed_or_taken_over() {
    type Script = Box<dyn Fn(usize, Part) -> Does + Send + Sync>;
    let cases: Vec<(&str, Script)> = vec![
        ("another part", Box::new(|_, _| Does::Other(7))),
        ("more than was asked for", Box::new(|_, _| Does::Overlong)),
        ("another length", Box::new(|_, _| Does::Total(48 * MIB - 1))),
        ("too many requests", Box::new(|_, _| Does::Status(429))),
        ("refused", Box::new(|_, _| Does::Status(403))),
        (
            "a server error now and then",
            Box::new(|n, _| match n % 2 {
                0 => Does::Status(503),
                _ => Does::Well,
            }),
        ),
        (
            "silence",
            Box::new(|n, _| match n {
                1 => Does::Silent,
                _ => Does::Well,
            }),
        ),
        ("breaks", Box::new(|_, _| Does::Breaks(MIB))),
        ("short", Box::new(|_, _| Does::EndsAfter(MIB))),
        (
            "nothing",
            Box::new(|n, _| match n % 3 {
                0 => Does::Breaks(0),
                _ => Does::Well,
            }),
        ),
    ];
    for (name, script) in cases {
        let world = World::new(48 * MIB, 8 * MIB, move |n, part| match part.end {
            Some(_) => script(n, part),
            None => Does::Well,
        });
        let took = world.pulled().await;
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_that_breaks_resumes_its_own_part_alone() {
    let world = World::new(64 * MIB, 8 * MIB, |n, part| match (n, part.end) {
        (0, None) => Does::Breaks(9 * MIB),
        _ => Does::Well,
    });
    let took = world.pulled().await;
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(world.sent() <= 64 * MIB + 2 * CHUNK, "{}", world.sent());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_part_is_found_out_and_leaves_nothing() {
    let world = World::new(48 * MIB, 8 * MIB, |n, _| match n {
        2 => Does::Corrupt,
        _ => Does::Well,
    });
    let flight = world.begin();
    assert!(
        world.follow(&flight).await.is_err(),
        "it was told all is well"
    );
    world.settled().await;
    assert!(matches!(flight.finished().await, Err(Failure::Mismatch(_))));
    assert!(world.cache.blob(&world.digest).await.is_none());
    world.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_download_that_fails_over_several_connections_keeps_what_counts() {
    let dead = Arc::new(AtomicUsize::new(0));
    let sees = dead.clone();
    let world = World::new(64 * MIB, 8 * MIB, move |_, _| {
        match sees.load(Ordering::Relaxed) {
            0 => Does::Well,
            _ => Does::Status(410),
        }
    });
    let flight = world.begin();
    let following = world.follow(&flight);
    let ends = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        dead.store(1, Ordering::Relaxed);
    };
    let (got, ()) = tokio::join!(following, ends);
    assert!(got.is_err());
    world.settled().await;
    world.check_books();
    dead.store(0, Ordering::Relaxed);
    let before = world.sent();
    world.pulled().await;
    let again = world.sent() - before;
    assert!(again < 56 * MIB, "{again} bytes came again");
}

#[tokio::test(start_paused = true)]
async fn whoever_follows_a_download_that_panics_hears_of_it() {
    for panics in [0, 2] {
        let world = World::new(48 * MIB, 8 * MIB, move |n, _| match n {
            n if n == panics => Does::Panics,
            _ => Does::Well,
        });
        let flight = world.begin();
        let followed = tokio::time::timeout(Duration::from_secs(60), world.follow(&flight));
        assert!(followed.await.expect("nobody waits for ever").is_err());
        world.settled().await;
        // The disk's thread may still have been writing.
        let gone = async {
            while std::fs::read_dir(world.dir.path().join("partial"))
                .unwrap()
                .count()
                > 0
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("nothing is left");
        world.check_books();
        // The next one begins anew, and finds no harm done.
        world.pulled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_beside_the_first_are_bounded_over_all_downloads() {
    let world = World::new(48 * MIB, 8 * MIB, |_, _| Does::Well);
    let taken: Vec<_> = std::iter::from_fn(|| world.cache.one_more_connection()).collect();
    assert!(taken.len() >= 8);
    world.pulled().await;
    assert_eq!(world.origin.asked(), [Part::from(0)]);
}

/// Its file goes long before the index hears of it: with that of many others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_anew_while_it_is_taken_out_stays_known() {
    let world = World::new(10, MIB, |_, _| Does::Well);
    world.pulled().await;
    let key = Key::blob(&world.digest);
    let others = (0..20_000u32).map(|n| Digest::of(Algorithm::Sha256, &n.to_le_bytes()));
    let others = others.map(|digest| Key::blob(&digest));
    let chosen = std::iter::once(key.clone()).chain(others).collect();
    let (space, index) = (world.cache.space.clone(), world.cache.index().clone());
    let taking_out = tokio::spawn(async move { space.remove(chosen).await });
    while world.cache.store.since(&key).unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(index.object(&key).is_some(), "the index was faster");
    let member = [key.to_bytes(), b"here".to_vec()].concat();
    let way = Arc::new(Way(world.origin.clone()));
    let (flight, _) = world.cache.download(&world.digest, member.clone(), way);
    flight.finished().await.unwrap();
    taking_out.await.unwrap().unwrap();
    world.settled().await;
    assert!(index.member(&member), "where it is from is forgotten");
    assert!(index.object(&key).is_some(), "it is forgotten");
    assert!(world.cache.blob(&world.digest).await.is_some());
    world.check_books();
}

fn open(dir: &Path) -> Arc<Cache> {
    let config = CacheConfig {
        dir: dir.to_owned(),
        bounds: Bounds {
            max_size: 1 << 30,
            min_free: 0,
        },
        parallel: 4,
    };
    Cache::open(&config, Arc::new(Metrics::new())).unwrap()
}

fn noise(len: u64) -> Bytes {
    let mut state = len | 1;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes.into()
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path, u64)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.metadata().unwrap() {
            meta if meta.is_dir() => walk(&entry.path(), each),
            meta => each(&entry.path(), meta.len()),
        }
    }
}

/// Everything that can go wrong does, in an order that the seed decides: cancelled clients, faults,
/// panics, several downloads of one blob after another.
#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_nobody_waits_for_ever_and_the_books_are_right() {
    for seed in 0..SEEDS {
        let dice = Dice(seed);
        let len = [10, 100_000, 3 * MIB, 24 * MIB][dice.of("length", 4) as usize];
        let rate = [1, 4, 16, 100][dice.of("rate", 4) as usize] * MIB;
        let heals = Arc::new(AtomicUsize::new(0));
        let (healed, panicked) = (heals.clone(), Arc::new(AtomicUsize::new(0)));
        let panics = panicked.clone();
        let world = World::new(len, rate, move |n, part| {
            if healed.load(Ordering::Relaxed) > 0 {
                return Does::Well;
            }
            let n = n as u64;
            let at = dice.of(&format!("at {n}"), len.min(3 * MIB));
            match dice.of(&format!("does {n}"), 24) {
                0 => Does::Breaks(at),
                1 => Does::EndsAfter(at),
                2 => Does::Whole,
                3 if part.start > 0 => Does::Other(at.min(part.start)),
                4 => Does::Overlong,
                5 => Does::Total(len + 1),
                6 => Does::Status(503),
                7 => Does::Status(403),
                8 => Does::Corrupt,
                9 => {
                    panics.fetch_add(1, Ordering::Relaxed);
                    Does::Panics
                }
                10 => Does::Status(416),
                _ => Does::Well,
            }
        });
        for round in 0..3 {
            let clients = 1 + dice.of(&format!("clients {round}"), 4);
            let pulls = (0..clients).map(|client| {
                let leaves = dice.of(&format!("leaves {round} {client}"), 2 * len);
                one_of_many(&world, leaves)
            });
            for (client, got) in futures_util::future::join_all(pulls)
                .await
                .iter()
                .enumerate()
            {
                let right = got.as_ref().is_none_or(|got| *got == world.origin.bytes);
                assert!(
                    right,
                    "seed {seed}: client {client} was told that wrong bytes are all"
                );
            }
            world.settled().await;
            if panicked.load(Ordering::Relaxed) == 0 {
                world.check_books();
            }
        }
        heals.store(1, Ordering::Relaxed);
        world.pulled().await;
    }
}

/// A client that leaves after so many bytes: what it got, if it was told that this is all.
async fn one_of_many(world: &World, leaves: u64) -> Option<Vec<u8>> {
    if world.cache.blob(&world.digest).await.is_some() {
        return None;
    }
    let flight = world.begin();
    flight.head().await.ok()?;
    let way = Arc::new(Way(world.origin.clone()));
    let mut body = flight.follow(0, None, way)?.into_body();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(&frame.ok()?.into_data().ok()?);
        if got.len() as u64 > leaves {
            return None;
        }
    }
    Some(got)
}

/// Throws the same for the same seed and name.
#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn of(self, name: &str, sides: u64) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.0, name).hash(&mut hasher);
        hasher.finish() % sides.max(1)
    }
}

const CHUNK: u64 = 64 << 10;
const SEEDS: u64 = 40;
