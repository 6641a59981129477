//! A cache, and an origin that does what a test says.

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

use crate::cache::flight::Flight;
use crate::cache::index::on_disk;
use crate::cache::origin::{FetchError, Fetched, Origin, Part};
use crate::cache::space::Bounds;
use crate::cache::{Cache, CacheConfig, Download};
use crate::oci::digest::{Algorithm, Digest};
use crate::telemetry::metrics::Metrics;

/// What the origin does about its `n`th request, counted from zero.
type Script = dyn Fn(usize, Part) -> Does + Send + Sync;

#[derive(Clone, Debug)]
pub enum Does {
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
    /// Something else altogether, of whatever length.
    Page,
    /// Speaks of another length.
    Total(u64),
    Status(u16),
    /// Is never heard of again.
    Silent,
    Corrupt,
    Panics,
}

/// A registry whose connections are slow, each by itself.
pub struct Slow {
    pub bytes: Bytes,
    /// Bytes a second for each connection.
    rate: u64,
    script: Box<Script>,
    asked: Mutex<Vec<Part>>,
    sent: AtomicU64,
    open: Arc<AtomicUsize>,
    pub most_open: AtomicUsize,
}

pub struct World {
    pub cache: Arc<Cache>,
    pub origin: Arc<Slow>,
    pub digest: Digest,
    pub dir: TempDir,
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
            Does::Whole | Does::Page => (0..len, len),
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
            total: (!matches!(does, Does::Page)).then_some(total),
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
                if matches!(does, Does::Corrupt | Does::Page) {
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

    pub fn asked(&self) -> Vec<Part> {
        self.asked.lock().unwrap().clone()
    }
}

/// The origin behind a reference of its own, as the cache holds it.
#[derive(Debug)]
pub struct Way(pub Arc<Slow>);

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
    pub fn new(
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

    pub fn begin(&self) -> Arc<Flight> {
        let way = Arc::new(Way(self.origin.clone()));
        self.under_way(self.cache.download(&self.digest, vec![1], way))
    }

    pub fn under_way(&self, download: Download) -> Arc<Flight> {
        match download {
            Download::Begun(flight) | Download::UnderWay(flight) => flight,
            Download::Landed => panic!("{} is here already", self.digest),
        }
    }

    /// One client's pull of everything; the bytes that it got, and whether it was told that they are all.
    pub async fn follow(&self, flight: &Arc<Flight>) -> Result<Vec<u8>, String> {
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
    pub async fn pulled(&self) -> Duration {
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

    pub async fn settled(&self) {
        while self.cache.flights_under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the ledger says is what the directory holds, and no connection is left open.
    pub fn check_books(&self) {
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

    pub fn sent(&self) -> u64 {
        self.origin.sent.load(Ordering::Relaxed)
    }
}

pub fn open(dir: &Path) -> Arc<Cache> {
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

pub fn noise(len: u64) -> Bytes {
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

/// Bytes that an origin sends at a time.
pub const CHUNK: u64 = 64 << 10;
