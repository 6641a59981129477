//! The record of every request and of every blob byte that left.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use http::{Method, Request, StatusCode, header};

/// What arrived, in order of answers.
#[derive(Default)]
pub struct Log {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    sent: HashMap<String, u64>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    pub host: String,
    pub method: Method,
    pub path: String,
    pub range: Option<String>,
    /// The scheme of the credentials, never they themselves.
    pub scheme: Option<String>,
    pub status: StatusCode,
}

// === impl Log ===

impl Log {
    /// Starts anew.
    pub fn forget(&self) {
        *self.inner.lock().expect("no panic holds it") = Inner::default();
    }

    pub fn count(&self, wanted: impl Fn(&Entry) -> bool) -> usize {
        self.entries().iter().filter(|entry| wanted(entry)).count()
    }

    /// Requests for blobs, of any method and host, the CDN's included.
    pub fn blob_requests(&self) -> usize {
        self.count(|entry| entry.path.contains("/blobs/"))
    }

    /// GETs of blobs that were answered with bytes.
    pub fn blob_downloads(&self) -> usize {
        self.count(|entry| {
            entry.path.contains("/blobs/")
                && entry.method == Method::GET
                && entry.status.is_success()
        })
    }

    /// Requests of one method for a manifest, by tag or digest.
    pub fn manifest_requests(&self, method: &Method, reference: &str) -> usize {
        let end = format!("/manifests/{reference}");
        self.count(|entry| entry.method == *method && entry.path.ends_with(&end))
    }

    /// How many bytes of a blob were sent, over all requests.
    pub fn sent(&self, digest: &str) -> u64 {
        let inner = self.inner.lock().expect("no panic holds it");
        inner.sent.get(digest).copied().unwrap_or(0)
    }

    pub fn entries(&self) -> Vec<Entry> {
        let inner = self.inner.lock().expect("no panic holds it");
        inner.entries.clone()
    }

    pub(super) fn add(&self, mut entry: Entry, status: StatusCode) {
        entry.status = status;
        let mut inner = self.inner.lock().expect("no panic holds it");
        inner.entries.push(entry);
    }

    pub(super) fn add_sent(&self, digest: &str, bytes: usize) {
        let mut inner = self.inner.lock().expect("no panic holds it");
        *inner.sent.entry(digest.to_owned()).or_default() += bytes as u64;
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries();
        for entry in &entries[entries.len().saturating_sub(80)..] {
            writeln!(
                f,
                "{} {} {}{} range {:?} credentials {:?}",
                entry.status.as_u16(),
                entry.method,
                entry.host,
                entry.path,
                entry.range,
                entry.scheme
            )?;
        }
        Ok(())
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn of<B>(host: &str, request: &Request<B>) -> Self {
        let text = |name| {
            let value = request.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let scheme = text(header::AUTHORIZATION).and_then(|credentials| {
            let (scheme, _) = credentials.split_once(' ')?;
            Some(scheme.to_owned())
        });
        Self {
            host: host.to_owned(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            range: text(header::RANGE),
            scheme,
            status: StatusCode::PROCESSING,
        }
    }
}
