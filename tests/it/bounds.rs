//! `max_size` holds at every moment, whoever writes, reads, removes and pins meanwhile.
//!
//! The cache room is used as a command uses it; somebody looks at the disk all the time. What happens
//! follows from a seed that is printed when the test fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pierhead::cache::space::Bounds;
use pierhead::cache::{Cache, CacheConfig};
use pierhead::telemetry::metrics::Metrics;

use crate::support::Blob;
use crate::support::shim::files;

const MIB: u64 = 1 << 20;
/// Before a number of bytes is believed to be too large.
const LOOKS: usize = 30;

async fn open(dir: &Path, max_size: u64) -> Arc<Cache> {
    let bounds = Bounds {
        max_size,
        min_free: 0,
    };
    let config = CacheConfig {
        dir: dir.to_owned(),
        bounds,
        parallel: 4,
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    cache.settle().await;
    cache
}

/// The same number for the same seed.
fn dice(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % n
}

/// One of those who use the cache: brings, reads and looks again, and holds open what it reads.
async fn use_it(cache: Arc<Cache>, mut seed: u64, blobs: Arc<Vec<Blob>>) -> u64 {
    let mut held = None;
    let mut kept = 0;
    for _ in 0..60 {
        let blob = &blobs[dice(&mut seed, blobs.len() as u64) as usize];
        let digest = blob.digest.parse().unwrap();
        match dice(&mut seed, 5) {
            0..3 => {
                let size = blob.len() as u64;
                let put = cache.put_blob(&digest, size, &blob.bytes[..]).await;
                kept += u64::from(put.is_ok());
            }
            3 => {
                let Some(object) = cache.blob(&digest).await else {
                    continue;
                };
                held = Some((object, blob.clone()));
            }
            _ => {
                // Whatever went meanwhile, what is held is whole.
                let Some((object, blob)) = held.take() else {
                    continue;
                };
                let mut bytes = vec![0; blob.len()];
                let read =
                    std::os::unix::fs::FileExt::read_exact_at(&*object.file(), &mut bytes, 0);
                read.unwrap();
                assert!(bytes == blob.bytes, "other bytes under {}", blob.digest);
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_never_holds_more_than_max_size() {
    for seed in 1..=4u64 {
        eprintln!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let max_size = (2 + seed) * MIB;
        let cache = open(dir.path(), max_size).await;
        let mut sizes = seed;
        let blobs =
            (0..40).map(|n| Blob::noise(seed * 100 + n, dice(&mut sizes, 400_000) as usize));
        let blobs: Arc<Vec<Blob>> = Arc::new(blobs.collect());
        let bound = Arc::new(AtomicU64::new(max_size));
        let done = Arc::new(AtomicBool::new(false));
        let watcher = std::thread::spawn({
            let (dir, bound, done) = (dir.path().to_owned(), bound.clone(), done.clone());
            move || {
                let mut most = 0;
                while !done.load(Ordering::SeqCst) {
                    let allowed = bound.load(Ordering::SeqCst);
                    // A list takes its time: what goes and comes meanwhile may both be in it. What is over
                    // the bound stays over it, however often one looks.
                    let again = || files(&dir).values().sum::<u64>();
                    let mut taken = again();
                    for _ in 0..LOOKS {
                        if taken <= allowed {
                            break;
                        }
                        taken = taken.min(again());
                    }
                    most = most.max(taken);
                    let allowed = allowed.max(bound.load(Ordering::SeqCst));
                    assert!(
                        taken <= allowed,
                        "{taken} bytes on disk, {allowed} are allowed"
                    );
                }
                most
            }
        });
        let users: Vec<_> = (0..6)
            .map(|n| tokio::spawn(use_it(cache.clone(), seed * 10 + n, blobs.clone())))
            .collect();
        let mut kept = 0;
        for user in users {
            kept += user.await.unwrap();
        }
        // Lowered under what is there.
        let lower = Bounds {
            max_size: MIB,
            min_free: 0,
        };
        cache.keep_within(lower).await;
        bound.store(MIB, Ordering::SeqCst);
        let held = files(dir.path()).values().sum::<u64>();
        assert!(held <= MIB, "{held} bytes after the bound was lowered");
        tokio::time::timeout(Duration::from_secs(60), use_it(cache.clone(), seed, blobs))
            .await
            .unwrap();
        done.store(true, Ordering::SeqCst);
        let most = watcher.join().unwrap();
        assert!(
            kept > 40 && most > max_size / 2,
            "{kept} kept, {most} at most"
        );
        // Nothing leaked into the ledger, nor out of it.
        let counted = cache.used_of().0;
        let small = 12 << 10;
        let taken = files(dir.path())
            .iter()
            .filter(|(name, _)| *name != "lock")
            .map(|(_, size)| size)
            .sum::<u64>();
        assert_eq!(counted, taken + small);
    }
}
