//! Blobs: signed links that end, and answers that go wrong when told to.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

use super::registry::{CDN, Site};
use super::{Body, Shared, full, oci_error, plain};
use crate::image::sha256;

const CHUNK: usize = 32 << 10;

/// What goes wrong with a blob.
#[derive(Clone)]
pub enum Fault {
    /// One byte is another.
    Corrupt,
    /// The same, in the first answer alone.
    CorruptOnce,
    /// The first `times` answers are this status and nothing else.
    Refuse { status: u16, times: u32 },
    /// The first `times` answers break off after so many bytes, and every link made so far ends.
    Cut { after: u64, times: u32 },
    /// Each answer stops after so many bytes until the fault is taken away.
    Gate { after: u64 },
}

/// The state of the CDN.
#[derive(Default)]
pub struct Cdn {
    inner: Mutex<Inner>,
    changed: Changed,
}

#[derive(Default)]
struct Inner {
    faults: HashMap<String, Fault>,
    held: HashMap<String, usize>,
    /// Links of earlier generations have expired.
    generation: u64,
}

struct Changed(watch::Sender<u64>);

impl Default for Changed {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

// === impl Cdn ===

impl Cdn {
    pub fn set(&self, digest: &str, fault: Option<Fault>) {
        let mut inner = self.inner.lock().expect("no panic holds it");
        match fault {
            Some(fault) => inner.faults.insert(digest.to_owned(), fault),
            None => inner.faults.remove(digest),
        };
        drop(inner);
        self.changed.0.send_modify(|count| *count += 1);
    }

    pub fn held(&self, digest: &str) -> usize {
        let inner = self.inner.lock().expect("no panic holds it");
        inner.held.get(digest).copied().unwrap_or(0)
    }

    fn link(&self, path: &str) -> String {
        let inner = self.inner.lock().expect("no panic holds it");
        let signature = sign(path, inner.generation);
        format!(
            "https://{CDN}{path}?expires={}&signature={signature}",
            inner.generation
        )
    }

    fn verify(&self, path: &str, query: &str) -> bool {
        let inner = self.inner.lock().expect("no panic holds it");
        let signature = sign(path, inner.generation);
        query == format!("expires={}&signature={signature}", inner.generation)
    }

    /// The fault for a new answer; a cut counts itself down.
    fn strike(&self, digest: &str) -> Option<Fault> {
        let mut inner = self.inner.lock().expect("no panic holds it");
        let fault = inner.faults.get(digest).cloned();
        if let Some(Fault::CorruptOnce) = fault {
            inner.faults.remove(digest);
        }
        if let Some(Fault::Cut { after, times }) = fault {
            inner.generation += 1;
            let left = times - 1;
            if left == 0 {
                inner.faults.remove(digest);
            } else {
                let fault = Fault::Cut { after, times: left };
                inner.faults.insert(digest.to_owned(), fault);
            }
        }
        fault
    }

    /// The status to refuse this answer with; counts itself down.
    fn refuses(&self, digest: &str) -> Option<StatusCode> {
        let mut inner = self.inner.lock().expect("no panic holds it");
        let Some(Fault::Refuse { status, times }) = inner.faults.get_mut(digest) else {
            return None;
        };
        let status = StatusCode::from_u16(*status).expect("a status");
        *times -= 1;
        if *times == 0 {
            inner.faults.remove(digest);
        }
        Some(status)
    }

    async fn pass_gate(&self, digest: &str) {
        let mut changed = self.changed.0.subscribe();
        let _held = Held::at(self, digest);
        let open = |cdn: &Self| {
            let inner = cdn.inner.lock().expect("no panic holds it");
            !matches!(inner.faults.get(digest), Some(Fault::Gate { .. }))
        };
        let _ = changed.wait_for(|_| open(self)).await;
    }
}

/// Counts an answer at a gate, for as long as it waits.
struct Held<'a> {
    cdn: &'a Cdn,
    digest: &'a str,
}

impl<'a> Held<'a> {
    fn at(cdn: &'a Cdn, digest: &'a str) -> Self {
        let mut inner = cdn.inner.lock().expect("no panic holds it");
        *inner.held.entry(digest.to_owned()).or_default() += 1;
        Self { cdn, digest }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut inner = self.cdn.inner.lock().expect("no panic holds it");
        if let Some(held) = inner.held.get_mut(self.digest) {
            *held -= 1;
        }
    }
}

/// 307 to a link that ends.
pub fn redirect(shared: &Shared, site: &Site, repository: &str, digest: &str) -> Response<Body> {
    let path = format!("/{}/{repository}/blobs/{digest}", site.folder);
    let mut response = plain(StatusCode::TEMPORARY_REDIRECT, "");
    let link = HeaderValue::try_from(shared.cdn.link(&path)).expect("a header value");
    response.headers_mut().insert(header::LOCATION, link);
    response
}

/// The CDN's host. Like S3 it takes a signature or credentials, never both.
pub async fn answer(
    shared: &Arc<Shared>,
    request: &Request<hyper::body::Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    if request.headers().contains_key(header::AUTHORIZATION) {
        return plain(StatusCode::BAD_REQUEST, "InvalidArgument: two mechanisms");
    }
    if !shared.cdn.verify(path, request.uri().query().unwrap_or("")) {
        return plain(StatusCode::FORBIDDEN, "Request has expired");
    }
    let Some((rest, digest)) = path.rsplit_once("/blobs/") else {
        return plain(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let (folder, repository) = rest
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((rest, ""));
    blob(shared, folder, repository, digest, request).await
}

/// The bytes, or the part of them that `Range` asks for.
pub async fn blob<B>(
    shared: &Arc<Shared>,
    folder: &str,
    repository: &str,
    digest: &str,
    request: &Request<B>,
) -> Response<Body> {
    let path = format!("/v2/{folder}/{repository}/blobs/{digest}");
    let stored = shared
        .store
        .send(Method::GET, &path, HeaderMap::new(), Vec::new())
        .await;
    if !stored.status().is_success() {
        return oci_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob");
    }
    if let Some(status) = shared.cdn.refuses(digest) {
        return plain(status, "SlowDown");
    }
    let bytes = stored.into_body();
    let total = bytes.len();
    let range = request.headers().get(header::RANGE);
    let range = range.and_then(|value| parse_range(value.to_str().ok()?, total));

    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| {
        headers.insert(name, HeaderValue::try_from(value).expect("a header value"));
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::ETAG, format!("\"{digest}\""));
    let (status, range) = match range {
        None => (StatusCode::OK, 0..total),
        Some(range) => {
            let last = range.end - 1;
            set(
                header::CONTENT_RANGE,
                format!("bytes {}-{last}/{total}", range.start),
            );
            (StatusCode::PARTIAL_CONTENT, range)
        }
    };
    set(header::CONTENT_LENGTH, range.len().to_string());
    let body = if request.method() == Method::HEAD {
        full("")
    } else {
        sending(shared.clone(), digest.to_owned(), bytes, range)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn sending(shared: Arc<Shared>, digest: String, bytes: Bytes, range: Range<usize>) -> Body {
    let fault = shared.cdn.strike(&digest);
    let middle = bytes.len() / 2;
    let start = range.start;
    let frames = stream::unfold(range, move |rest| {
        let (shared, digest, bytes, fault) =
            (shared.clone(), digest.clone(), bytes.clone(), fault.clone());
        async move {
            if rest.is_empty() {
                return None;
            }
            let done = (rest.start - start) as u64;
            let mut end = rest.end.min(rest.start + CHUNK);
            match fault {
                Some(Fault::Cut { after, .. }) if done >= after => {
                    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                    return Some((Err(broken), rest.end..rest.end));
                }
                Some(Fault::Gate { after }) if done >= after => shared.cdn.pass_gate(&digest).await,
                Some(Fault::Cut { after, .. } | Fault::Gate { after }) => {
                    end = end.min(rest.start + (after - done) as usize);
                }
                Some(Fault::Corrupt | Fault::CorruptOnce | Fault::Refuse { .. }) | None => {}
            }
            let mut chunk = bytes.slice(rest.start..end);
            if matches!(fault, Some(Fault::Corrupt | Fault::CorruptOnce))
                && (rest.start..end).contains(&middle)
            {
                let mut wrong = chunk.to_vec();
                wrong[middle - rest.start] ^= 1;
                chunk = wrong.into();
            }
            shared.seen.add_sent(&digest, chunk.len());
            Some((Ok(Frame::data(chunk)), end..rest.end))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn sign(path: &str, generation: u64) -> String {
    sha256(format!("a secret {path} {generation}").as_bytes()).replace("sha256:", "")
}

fn parse_range(value: &str, total: usize) -> Option<Range<usize>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = first.parse().ok()?;
    let end = last
        .parse()
        .map_or(total, |last: usize| total.min(last + 1));
    (start < end).then_some(start..end)
}
