//! The registry that everything comes from: HTTP/1.1 in TLS, documents in memory, as fast as it goes.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    scale::Scale,
    support::{authority::TestCa, content},
};

/// The host that is the registry, at port 443.
pub const HOST: &str = "registry.example";

/// A registry with one image and some blobs.
pub struct Origin {
    pub addr: SocketAddr,
    pub ca: Arc<TestCa>,
    shared: Arc<Shared>,
    noise: Bytes,
    pub manifest: Document,
    pub warm: Document,
    pub cold: Document,
    pub crowd: Document,
    pub firsts: Vec<Document>,
}

/// What a path leads to.
#[derive(Clone)]
pub struct Document {
    pub path: String,
    media_type: &'static str,
    digest: String,
    pub bytes: Bytes,
}

/// An image, for clients that pull all of it.
#[derive(Clone)]
pub struct Image {
    pub manifest: Document,
    pub config: Document,
    pub layers: Vec<Document>,
}

/// How far away the registry is.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// There and back.
    pub latency: Duration,
    /// Bytes a second that each connection brings.
    pub rate: u64,
}

#[derive(Default)]
struct Shared {
    documents: Mutex<HashMap<String, Document>>,
    distance: Mutex<Option<Distance>>,
    /// Bytes of bodies.
    sent: AtomicU64,
    asked: Mutex<Vec<(Method, String)>>,
    /// Ends every connection after one answer.
    closes: AtomicBool,
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYERS: usize = 12;

// === impl Origin ===

impl Origin {
    /// Listens on a free port.
    pub async fn start(scale: &Scale) -> Self {
        let noise = content::noise(5, scale.largest());
        let blob = |from: usize, len: usize| Document::blob("app", noise.slice(from..from + len));
        let first = |n: usize| blob(n * scale.first, scale.first);
        let warm = blob(0, scale.warm);
        let cold = blob(0, scale.cold);
        let crowd = blob(0, scale.crowd);
        let firsts: Vec<_> = (0..scale.firsts).map(first).collect();
        // Their bytes are real ones, for a gateway that looks ahead.
        let layers: Vec<_> = (1..=LAYERS).map(|n| blob(n * 4096, 4096)).collect();
        let manifest = Document::manifest("app", &layers[0], &layers[1..]);

        let by_digest = Document {
            path: format!("/v2/team/app/manifests/{}", manifest.digest),
            ..manifest.clone()
        };
        let all = [&manifest, &by_digest, &warm, &cold, &crowd];
        let all = all.into_iter().chain(&firsts).chain(&layers).cloned();
        let shared = Arc::new(Shared {
            documents: Mutex::new(all.map(|one| (one.path.clone(), one)).collect()),
            ..Shared::default()
        });
        let ca = TestCa::new("origin CA");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let acceptor = TlsAcceptor::from(ca.server());
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, acceptor.clone(), Arc::clone(&serving)));
            }
        });
        Self {
            addr,
            ca,
            shared,
            noise,
            manifest,
            warm,
            cold,
            crowd,
            firsts,
        }
    }

    /// The manifest by what it is and not by its tag.
    pub fn manifest_by_digest(&self) -> Document {
        let path = format!("/v2/team/app/manifests/{}", self.manifest.digest);
        Document {
            path,
            ..self.manifest.clone()
        }
    }

    /// How often this was asked for in this way since the last [`forget`](Self::forget).
    pub fn asked(&self, method: &Method, document: &Document) -> usize {
        let asked = self.shared.asked.lock().expect("no panic under this lock");
        let same = |(by, path): &&(Method, String)| by == method && *path == document.path;
        asked.iter().filter(same).count()
    }

    /// How many requests there were since the last [`forget`](Self::forget).
    pub fn asked_in_all(&self) -> usize {
        let asked = self.shared.asked.lock().expect("no panic under this lock");
        asked.len()
    }

    /// Bytes of bodies that were sent since the last [`forget`](Self::forget).
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Moves it far away, or back.
    pub fn is_at(&self, distance: Option<Distance>) {
        *self.shared.distance() = distance;
    }

    /// Publishes an image of `count` layers of `len` bytes each.
    pub fn image(&self, name: &str, count: usize, len: usize) -> Image {
        // Each begins elsewhere in the same noise, so they share it and have digests of their own.
        let layer = |n: usize| Document::blob(name, self.noise.slice(n * 4096..n * 4096 + len));
        let layers: Vec<_> = (1..=count).map(layer).collect();
        let config = Document::blob(name, self.noise.slice(..2048));
        let manifest = Document::manifest(name, &config, &layers);
        for one in layers.iter().chain([&config, &manifest]) {
            self.publish(one.clone());
        }
        Image {
            manifest,
            config,
            layers,
        }
    }

    /// Makes `document` an answer.
    pub fn publish(&self, document: Document) {
        let mut documents = self.shared.documents.lock().expect("no panic holds it");
        documents.insert(document.path.clone(), document);
    }

    /// Counts from zero.
    pub fn forget(&self) {
        self.shared.sent.store(0, Ordering::Relaxed);
        let mut asked = self.shared.asked.lock().expect("no panic under this lock");
        asked.clear();
    }

    /// Whether connections end after one answer, so that whoever comes again must shake hands.
    pub fn close_after_each(&self, closes: bool) {
        self.shared.closes.store(closes, Ordering::Relaxed);
    }
}

// === impl Document ===

impl Document {
    fn blob(name: &str, bytes: Bytes) -> Self {
        Self::named(name, &content::sha256(&bytes), bytes)
    }

    /// A blob that is called `digest`, be that right or not.
    pub fn named(name: &str, digest: &str, bytes: Bytes) -> Self {
        let digest = digest.to_owned();
        Self {
            path: format!("/v2/team/{name}/blobs/{digest}"),
            media_type: "application/octet-stream",
            digest,
            bytes,
        }
    }

    /// Whether it is asked for by a name that may move.
    pub fn is_tag(&self) -> bool {
        self.media_type == MANIFEST_TYPE && !self.path.ends_with(&self.digest)
    }

    /// The tag `latest`.
    fn manifest(name: &str, config: &Self, layers: &[Self]) -> Self {
        let descriptor = |kind: &str, blob: &Self| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": blob.digest,
                "size": blob.bytes.len(),
            })
        };
        let layer = |blob| descriptor("layer.v1.tar+gzip", blob);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("config.v1+json", config),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let bytes = Bytes::from(manifest.to_string());
        Self {
            path: format!("/v2/team/{name}/manifests/latest"),
            media_type: MANIFEST_TYPE,
            digest: content::sha256(&bytes),
            bytes,
        }
    }
}

async fn serve(socket: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    // The hand shakes of TCP and of TLS.
    let latency = |shared: &Shared| shared.distance().map_or(Duration::ZERO, |it| it.latency);
    sleep(latency(&shared) * 2).await;
    let Ok(stream) = acceptor.accept(socket).await else {
        return;
    };
    let service = service_fn(move |request| {
        let answer = shared.answer(&request);
        let latency = latency(&shared);
        async move {
            sleep(latency).await;
            Ok::<_, Infallible>(answer)
        }
    });
    // A client that goes away is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

// === impl Shared ===

impl Shared {
    fn distance(&self) -> std::sync::MutexGuard<'_, Option<Distance>> {
        self.distance.lock().expect("no panic under this lock")
    }

    fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Slices> {
        let path = request.uri().path();
        let mut asked = self.asked.lock().expect("no panic under this lock");
        asked.push((request.method().clone(), path.to_owned()));
        drop(asked);
        let mut answer = Response::builder();
        if self.closes.load(Ordering::Relaxed) {
            answer = answer.header(header::CONNECTION, "close");
        }
        let documents = self.documents.lock().expect("no panic under this lock");
        let found = documents.get(path).cloned();
        drop(documents);
        let Some(document) = found else {
            let status = if path == "/v2/" { 200 } else { 404 };
            let answer = answer.status(status).body(self.slices(Bytes::new()));
            return answer.expect("no header is wrong");
        };
        let len = document.bytes.len();
        let range = request.headers().get(header::RANGE);
        let range = range.and_then(|range| range.to_str().ok());
        let mut bytes = document.bytes.clone();
        if let Some((from, to)) = range.and_then(|range| bounds(range, len)) {
            bytes = bytes.slice(from..=to);
            let range = format!("bytes {from}-{to}/{len}");
            answer = answer.status(206).header(header::CONTENT_RANGE, range);
        }
        answer = answer
            .header(header::CONTENT_TYPE, document.media_type)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, format!("\"{}\"", document.digest))
            .header("docker-content-digest", &document.digest)
            .header(header::CONTENT_LENGTH, bytes.len());
        if request.method() == Method::HEAD {
            bytes.clear();
        }
        let body = self.slices(bytes);
        answer.body(body).expect("no header is wrong")
    }

    fn slices(self: &Arc<Self>, bytes: Bytes) -> Slices {
        let rate = self.distance().map(|distance| distance.rate);
        Slices {
            left: bytes,
            pace: rate.map(|rate| (rate, Box::pin(sleep(Duration::ZERO)))),
            shared: Arc::clone(self),
        }
    }
}

/// First and last byte of a range that lies within `len` bytes.
fn bounds(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, last) = (from.parse().ok()?, len.checked_sub(1)?);
    let to = to.parse().map_or(last, |to: usize| to.min(last));
    (from <= to).then_some((from, to))
}

/// Bytes that go out in pieces, none of them copied.
struct Slices {
    left: Bytes,
    /// Bytes a second, and when the next piece may go.
    pace: Option<(u64, Pin<Box<Sleep>>)>,
    shared: Arc<Shared>,
}

// === impl Slices ===

impl Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let mut len = this.left.len().min(PIECE);
        if let Some((rate, due)) = &mut this.pace {
            ready!(due.as_mut().poll(cx));
            len = len.min(SLOW_PIECE);
            let next = due.deadline().max(Instant::now() - PACE_SLACK)
                + Duration::from_secs_f64(len as f64 / *rate as f64);
            due.set(sleep_until(next));
        }
        this.shared.sent.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(this.left.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

const PIECE: usize = 128 << 10;
const SLOW_PIECE: usize = 32 << 10;
/// How much a body that was held up may catch up with.
const PACE_SLACK: Duration = Duration::from_millis(20);
