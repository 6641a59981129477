//! Downloads from an origin that does what a test says, on a clock that stands still but for waiting.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::time::Instant;

use self::world::{CHUNK, Does, Way, World};
use crate::cache::Download;
use crate::cache::flight::Failure;
use crate::cache::origin::{FetchError, Fetched, Origin, Part};
use crate::oci::digest::{Algorithm, Digest};
use crate::store::Key;

/// A way that takes its time to note what it proves.
#[derive(Debug)]
struct Proves {
    way: Way,
    proven: Arc<AtomicBool>,
}

impl Origin for Proves {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        self.way.fetch(part)
    }

    fn proven(&self) -> BoxFuture<'_, ()> {
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.proven.store(true, Ordering::SeqCst);
        }
        .boxed()
    }

    fn registry(&self) -> &str {
        self.way.registry()
    }

    fn repository(&self) -> &str {
        self.way.repository()
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

/// Upstream takes no part for what is missing: nobody knows whether it would show what was left.
#[tokio::test(start_paused = true)]
async fn what_a_broken_download_left_is_shown_only_to_whom_upstream_gives_the_rest() {
    let world = World::new(4 * MIB, 100 * MIB, |n, _| match n {
        0 => Does::Breaks(2 * MIB),
        1 => Does::Status(403),
        2 => Does::Page,
        _ => Does::Well,
    });
    world.begin().finished().await.unwrap_err();
    world.settled().await;
    let flight = world.begin();
    flight.head().await.unwrap();
    let way = Arc::new(Way(world.origin.clone()));
    let mut body = flight.follow(0, None, way).unwrap().into_body();
    let mut got = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        got.extend_from_slice(frame.data_ref().unwrap());
    }
    assert_eq!(world.origin.asked()[2].start, 2 * MIB);
    let left = got.iter().zip(&world.origin.bytes);
    assert_eq!(left.filter(|(got, byte)| got == byte).count(), 0);
    world.settled().await;
    world.pulled().await;
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
    let download = world.cache.download(&world.digest, member.clone(), way);
    let flight = world.under_way(download);
    flight.finished().await.unwrap();
    taking_out.await.unwrap().unwrap();
    world.settled().await;
    assert!(index.member(&member), "where it is from is forgotten");
    assert!(index.object(&key).is_some(), "it is forgotten");
    assert!(world.cache.blob(&world.digest).await.is_some());
    world.check_books();
}

#[tokio::test(start_paused = true)]
async fn who_looked_just_before_a_download_landed_does_not_begin_it_again() {
    let world = World::new(MIB, 100 * MIB, |_, _| Does::Well);
    assert!(world.cache.blob(&world.digest).await.is_none());
    world.pulled().await;
    let way = Arc::new(Way(world.origin.clone()));
    let late = world.cache.download(&world.digest, vec![1], way);
    assert!(matches!(late, Download::Landed), "{late:?}");
    assert_eq!(world.origin.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_upstream_proves_is_noted_before_anybody_has_the_last_byte() {
    let world = World::new(MIB, 100 * MIB, |_, _| Does::Well);
    let way = Proves {
        way: Way(world.origin.clone()),
        proven: Arc::default(),
    };
    let proven = way.proven.clone();
    let download = world.cache.download(&world.digest, vec![1], Arc::new(way));
    let flight = world.under_way(download);
    assert!(!proven.load(Ordering::SeqCst));
    world.follow(&flight).await.unwrap();
    assert!(proven.load(Ordering::SeqCst));
    world.settled().await;
}

/// Its bytes as a process leaves them that dies before they are in place.
fn left(world: &World, bytes: u64) {
    let mut spool = world.cache.store.spool(&Key::blob(&world.digest)).unwrap();
    let bytes = world.origin.bytes.slice(..bytes as usize);
    spool.append(&[bytes]).unwrap();
}

/// Two ask for it at once: the first one begins to judge what was left, and the second comes meanwhile.
/// Whether each of them found it.
async fn two_ask_for_what_was_left(world: &World) -> (bool, bool) {
    world.cache.settle().await;
    let cache = &world.cache;
    let meanwhile = async {
        assert!(cache.has_or_fetches(&world.digest), "it would be fetched");
        assert!(cache.space.unpark(&world.digest).is_none(), "it is resumed");
        assert_eq!(cache.space.drop_parked(&world.digest), 0);
        cache.space.sweep_parked(Duration::ZERO);
        cache.blob(&world.digest).await.is_some()
    };
    // Polled in this order, and the judge is a task of its own, which comes later.
    let first = cache.blob(&world.digest);
    let (first, second) = futures_util::future::join(first, meanwhile).await;
    (first.is_some(), second)
}

#[tokio::test(start_paused = true)]
async fn nobody_fetches_what_a_dead_process_left_complete_while_it_is_judged() {
    let world = World::new(4 * MIB, 100 * MIB, |_, _| Does::Well);
    left(&world, 4 * MIB);
    assert_eq!(two_ask_for_what_was_left(&world).await, (true, true));
    assert_eq!(world.origin.asked(), []);
    assert!(!world.cache.space.was_found(&world.digest), "for ever");
    world.check_books();
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_process_left_in_parts_is_judged_once_and_then_resumed() {
    let world = World::new(4 * MIB, 100 * MIB, |_, _| Does::Well);
    left(&world, 3 * MIB);
    assert_eq!(two_ask_for_what_was_left(&world).await, (false, false));
    world.check_books();
    world.pulled().await;
    assert_eq!(world.origin.asked(), [Part::from(3 * MIB)]);
}

#[tokio::test(start_paused = true)]
async fn what_clients_still_follow_is_not_thrown_out_when_it_has_landed() {
    let world = World::new(4 * MIB, 100 * MIB, |_, _| Does::Well);
    let flight = world.begin();
    flight.head().await.unwrap();
    let way = Arc::new(Way(world.origin.clone()));
    let mut body = flight.follow(0, None, way).unwrap().into_body();
    flight.finished().await.unwrap();
    drop(flight);
    world.settled().await;
    let (key, space) = (Key::blob(&world.digest), &world.cache.space);
    assert!(!space.may_go(&key), "it is among what goes first");
    let gone = space.remove(vec![key.clone()]).await.unwrap();
    assert_eq!(gone.objects, 0, "its bytes stay, and nobody counts them");
    world.check_books();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    assert!(got == world.origin.bytes);
    drop(body);
    let gone = space.remove(vec![key]).await.unwrap();
    assert_eq!(gone.objects, 1, "it is held on to for nobody");
    world.check_books();
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
        if world.cache.blob(&world.digest).await.is_none() {
            world.pulled().await;
        }
    }
}

/// A client that leaves after so many bytes: what it got, if it was told that this is all.
async fn one_of_many(world: &World, leaves: u64) -> Option<Vec<u8>> {
    if world.cache.blob(&world.digest).await.is_some() {
        return None;
    }
    let way = Arc::new(Way(world.origin.clone()));
    let flight = match world.cache.download(&world.digest, vec![1], way.clone()) {
        Download::Begun(flight) | Download::UnderWay(flight) => flight,
        Download::Landed => return None,
    };
    flight.head().await.ok()?;
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

const SEEDS: u64 = 40;
const MIB: u64 = 1 << 20;
