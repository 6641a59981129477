//! A cache that grows: a thousand objects, and a thousand times as many.
//!
//! The objects are made through the index's own door. Their files are names of a few real ones: what
//! is measured asks for their names and their lengths, and never hashes them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use pierhead::{
    cache::{
        index::{Index, now_seconds},
        ledger::Ledger,
    },
    oci::digest::{Algorithm, Digest},
    store::{Key, Store},
    telemetry::metrics::Metrics,
};

use crate::{
    Bench,
    client::{Ask, Connection, Trust, intercepted},
    meter::Meter,
    origin::{Document, HOST},
    support::{Gateway, Setup},
};

/// Bytes of each object; on disk they take 4 KiB by the ledger.
const LEN: usize = 1000;
/// Objects that are asked for, evenly over all.
const ASKED: u64 = 500;
const ROUNDS: usize = 10;
/// Objects that go when there is less room from now on; at most half of all.
const EVICTED: u64 = 10_000;
/// Names of one file; file systems allow some ten thousands.
const NAMES: u64 = 50_000;

impl Bench {
    /// Start, hits, evictions and memory over the number of objects.
    pub async fn growth(&mut self) {
        for count in self.scale.growth {
            self.growth_to(*count).await;
        }
    }

    async fn growth_to(&mut self, count: u64) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let cache = home.path().join("cache");
        fill(&cache, count).await;
        let index = fs::metadata(cache.join("index.redb"))
            .expect("the index")
            .len();
        let asked: Vec<Document> = (0..ASKED.min(count))
            .map(|n| document(n * (count / ASKED.min(count))))
            .collect();
        for one in &asked {
            self.origin.publish(one.clone());
        }
        let setup = Setup::default()
            .resolve(HOST, self.origin.addr)
            .registry(HOST, "auth = \"gateway\"")
            .trusting(&self.origin.ca.pem)
            .cache_in(&cache);
        let work = format!("{count} cached objects");

        let (mut gateway, start) = first_answer(setup.clone(), &asked[0]).await;
        self.add(&work, "ms, start to first answer", start);
        self.add(&work, "index bytes an object", index as f64 / count as f64);
        let mut connection = open(&gateway).await;
        // Upstream is asked once whether they are in the repository.
        for one in &asked {
            connection.get(&Ask::new(HOST, one), one).await;
        }
        let meter = Meter::attach();
        let before = meter.settled_cpu().await;
        self.origin.forget();
        for _ in 0..ROUNDS {
            for one in &asked {
                connection.get(&Ask::new(HOST, one), one).await;
            }
        }
        assert_eq!(self.origin.asked_in_all(), 0, "hits that asked the origin");
        let cpu = (meter.settled_cpu().await - before).as_secs_f64();
        let hits = (ROUNDS * asked.len()) as f64;
        self.add(&work, "µs CPU a hit", cpu / hits * 1e6);
        self.add(&work, "RSS MiB", meter.rss() as f64 / 1024.0);

        gateway.kill9().await;
        drop(connection);
        let (mut gateway, again) = first_answer(setup, &asked[0]).await;
        self.add(&work, "ms, start after kill -9", again);
        let meter = Meter::attach();

        // Less room than is taken: the oldest go.
        let going = EVICTED.min(count / 2);
        let bound = (count - going) * 4096 + index;
        let before = meter.settled_cpu().await;
        gateway.rewrite(|setup| setup.set("cache", "max_size", &bound.to_string()));
        gateway.hangup().await;
        let cpu = (meter.settled_cpu().await - before).as_secs_f64();
        let metrics = gateway.metrics().await;
        let evicted: f64 = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pierhead_evictions_total "))
            .and_then(|count| count.parse().ok())
            .expect("a metric");
        assert!(evicted >= going as f64 / 2.0, "{evicted} objects went");
        self.add(&work, "µs CPU an eviction", cpu / evicted * 1e6);
    }
}

/// Starts a gateway; how many milliseconds until a client has `document`.
async fn first_answer(setup: Setup, document: &Document) -> (Gateway, f64) {
    let started = Instant::now();
    let gateway = setup.start().await;
    let mut connection = open(&gateway).await;
    let ask = Ask::new(HOST, document);
    connection.get(&ask, document).await;
    (gateway, started.elapsed().as_secs_f64() * 1e3)
}

async fn open(gateway: &Gateway) -> Connection {
    intercepted(gateway.proxy, HOST, 443, &Trust::only(&gateway.ca_pem)).await
}

/// The `n`th object: what it is called says nothing of its bytes, which are all the same.
fn document(n: u64) -> Document {
    Document::named("growth", named(n).as_str(), Bytes::from_static(&[7; LEN]))
}

fn named(n: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &n.to_le_bytes())
}

/// Makes a cache of `count` objects.
async fn fill(dir: &Path, count: u64) {
    let store = Store::open(dir).expect("a directory");
    let index = Index::open(dir, Ledger::new(Arc::new(Metrics::new())));
    let folder = dir.join("blobs/sha256");
    for shard in 0..=255 {
        fs::create_dir_all(folder.join(format!("{shard:02x}"))).expect("a folder");
    }
    let mut first = PathBuf::new();
    for n in 0..count {
        let digest = named(n);
        let path = folder.join(&digest.hex()[..2]).join(digest.hex());
        if n % NAMES == 0 {
            fs::write(&path, [7u8; LEN]).expect("room for it");
            first = path;
        } else {
            fs::hard_link(&first, &path).expect("one more name");
        }
        index
            .adopt(Key::blob(&digest), LEN as u64, now_seconds())
            .await;
    }
    index.walked().await.expect("an index");
    index.learnt().await.expect("an index");
    index.flush().await.expect("an index");
    drop(store);
    let file = fs::File::open(dir.join("index.redb")).expect("an index");
    drop(index);
    // Its thread lets it go a moment later.
    while file.try_lock().is_err() {
        tokio::task::yield_now().await;
    }
    file.unlock().expect("it was ours");
}
