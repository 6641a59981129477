//! One download that many clients follow: what they see of it.
//!
//! The leader ([`super::download`]) is a task of its own, never a client: it writes the spool, and every
//! client, the first included, reads behind it: from the spool's file, or what came last from memory.
//! Nobody holds another up, and a client that goes away changes nothing.

use std::fs::File;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode};

use super::fresh::Fresh;
use super::origin::{FetchError, Gone, Origin};
use super::reader::Reader;
use super::sync::{AtomicUsize, MODEL, Mutex, Ordering, watch};
use crate::oci::digest::Digest;
use crate::store::{Mismatch, Spool};
use crate::telemetry::metrics::Metrics;

/// A download under way, as its followers see it.
#[derive(Debug)]
pub struct Flight {
    digest: Digest,
    /// The membership that upstream proves by answering: this blob in the repository it is asked
    /// through.
    member: Vec<u8>,
    /// Ways to go on, in the order to try them; the first one began it.
    sources: Mutex<Vec<Arc<dyn Origin>>>,
    file: OnceLock<Arc<File>>,
    fresh: Arc<Fresh>,
    state: watch::Sender<State>,
    since: (SystemTime, Instant),
    /// How many read along.
    followers: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// A reader that follows: counted as long as this lives.
#[derive(Debug)]
pub(super) struct Follower {
    count: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// A download under way, for a person who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadView {
    pub digest: Digest,
    /// The registry's configured name.
    pub registry: String,
    pub repository: String,
    /// Bytes of the whole, where upstream says so.
    pub total: Option<u64>,
    /// Bytes that are on disk.
    pub written: u64,
    /// Bytes a second since it began, without what an earlier try had left.
    pub speed: u64,
    /// Clients that read along at this moment.
    pub followers: usize,
    pub since: SystemTime,
}

/// How far it has come.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Upstream has answered with bytes.
    pub headed: bool,
    /// Bytes of the whole, where upstream says so.
    pub total: Option<u64>,
    /// Bytes in the file.
    pub written: u64,
    /// Bytes that followers may have: those in the file, and the first few before that.
    pub(super) shown: u64,
    /// Bytes of them that an earlier try had left.
    pub found: u64,
    pub end: Option<End>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub enum End {
    Verified,
    Failed(Failure),
}

/// Why it ended without the blob.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("upstream answered {}", .0.status())]
    Answer(Arc<Response<Bytes>>),
    #[error("{0}")]
    Gone(Gone),
    #[error("upstream sent other bytes than the digest says: {0}")]
    Mismatch(Mismatch),
    /// The disk does not take it. Upstream is well: a follower goes on from there by itself.
    #[error("the cache cannot hold it: {0}")]
    NoRoom(String),
}

// === impl Flight ===

impl Flight {
    /// A download that has yet to begin.
    pub(super) fn new(
        digest: Digest,
        member: Vec<u8>,
        source: Arc<dyn Origin>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            digest,
            member,
            sources: Mutex::new(vec![source]),
            file: OnceLock::new(),
            fresh: Arc::default(),
            state: watch::Sender::new(State::default()),
            since: (SystemTime::now(), Instant::now()),
            followers: Arc::default(),
            metrics,
        })
    }

    /// What upstream proves by answering; see [`Cache::download`].
    pub fn proves(&self, member: &[u8]) -> bool {
        self.member == member
    }

    /// Offers another way to go on, should the first one's credentials end.
    pub fn offer(&self, source: Arc<dyn Origin>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() < MOST_SOURCES {
            sources.push(source);
        }
    }

    /// How far it is.
    pub fn view(&self) -> DownloadView {
        let (source, _) = self.source(0);
        let state = self.state.borrow();
        let (since, began) = self.since;
        let fetched = state.written.saturating_sub(state.found) as f64;
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        DownloadView {
            digest: self.digest.clone(),
            registry: source.registry().to_owned(),
            repository: source.repository().to_owned(),
            total: state.total,
            written: state.written,
            speed: (fetched / seconds) as u64,
            followers: self.followers.load(Ordering::Relaxed),
            since,
        }
    }

    /// Waits for upstream's answer: the size, where it is known.
    pub async fn head(&self) -> Result<Option<u64>, Failure> {
        let state = self.wait(|state| state.headed || state.end.is_some()).await;
        match state.end {
            Some(End::Failed(failure)) if !state.headed => Err(failure),
            _ => Ok(state.total),
        }
    }

    /// The bytes are complete and right; only the disk is still putting them in place.
    pub fn is_verified(&self) -> bool {
        matches!(self.state.borrow().end, Some(End::Verified))
    }

    /// Waits for the end.
    pub async fn finished(&self) -> Result<(), Failure> {
        match self.wait(|state| state.end.is_some()).await.end {
            Some(End::Failed(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    /// The file that grows; there once [`Flight::head`] answered well.
    pub fn file(&self) -> Option<Arc<File>> {
        self.file.get().cloned()
    }

    /// Follows from `start` up to `end` (exclusive; the blob's own end where `None`). `own` is the
    /// follower's own way upstream, should the disk give up.
    pub fn follow(
        self: &Arc<Self>,
        start: u64,
        end: Option<u64>,
        own: Arc<dyn Origin>,
    ) -> Option<Reader> {
        Some(Reader::following(
            self.digest.clone(),
            self.file()?,
            self.fresh.clone(),
            self.state.subscribe(),
            start,
            end,
            own,
            Follower::new(&self.followers, &self.metrics),
        ))
    }

    async fn wait(&self, until: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so the channel cannot close meanwhile.
        match state.wait_for(until).await {
            Ok(state) => state.clone(),
            Err(_) => State::default(),
        }
    }

    /// The way to try in turn `turn`, and how many there are.
    pub(super) fn source(&self, turn: usize) -> (Arc<dyn Origin>, usize) {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        (sources[turn % sources.len()].clone(), sources.len())
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The membership that upstream proves by answering.
    pub(super) fn member(&self) -> &[u8] {
        &self.member
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_headed(&self) -> bool {
        self.state.borrow().headed
    }

    /// Tells followers that there is something to follow.
    pub(super) fn head_is(&self, spool: &Spool, total: Option<u64>) {
        self.file.get_or_init(|| spool.file());
        self.state.send_modify(|state| {
            state.headed = true;
            state.total = total;
            state.written = spool.written();
            state.shown = state.written;
        });
    }

    /// Keeps bytes for followers, who read them from memory once the file has them, and the first few,
    /// which somebody waits for, at once; answers whether these are some of those. They go on where the
    /// last ones ended.
    pub(super) fn came(&self, at: u64, bytes: Bytes) -> bool {
        let end = at + bytes.len() as u64;
        self.fresh.push(at, bytes);
        let awaited = at < AT_ONCE;
        if awaited {
            self.state.send_modify(|state| state.shown = end);
        }
        awaited
    }

    /// The file has the first `written` bytes.
    pub(super) fn wrote(&self, written: u64) {
        self.state.send_if_modified(|state| {
            state.written = written;
            let more = written > state.shown;
            state.shown = state.shown.max(written);
            more
        });
        // Not before: who does not find it there looks into the file.
        self.fresh.written(written);
    }

    /// All is in the file, and nobody needs more of it in memory.
    pub(super) fn forget_fresh(&self) {
        self.fresh.clear();
    }

    /// An earlier try had left that many bytes.
    pub(super) fn found(&self, bytes: u64) {
        self.state.send_modify(|state| state.found = bytes);
    }

    /// Upstream says anew how large the whole is, or that it does not know.
    pub(super) fn total_is(&self, total: Option<u64>) {
        self.state.send_modify(|state| state.total = total);
    }

    /// All `size` bytes are in the file, and they are the blob's.
    pub(super) fn verified(&self, size: u64) {
        self.state.send_modify(|state| {
            state.total = Some(size);
            state.written = size;
            state.shown = size;
            state.end = Some(End::Verified);
        });
    }

    pub(super) fn failed(&self, failure: Failure) {
        self.state
            .send_modify(|state| state.end = Some(End::Failed(failure)));
    }

    /// Whether followers have heard of the end.
    pub(super) fn has_ended(&self) -> bool {
        self.state.borrow().end.is_some()
    }
}

// === impl Follower ===

impl Follower {
    pub(super) fn new(count: &Arc<AtomicUsize>, metrics: &Arc<Metrics>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        metrics.followers.inc();
        Self {
            count: count.clone(),
            metrics: metrics.clone(),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.metrics.followers.dec();
    }
}

// === impl Failure ===

impl Failure {
    /// Whether it would have ended so for whoever asks: upstream is not well, or lies.
    pub fn is_everybodys(&self) -> bool {
        match self {
            Self::Answer(answer) => {
                answer.status().is_server_error()
                    || answer.status() == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Gone(_) | Self::Mismatch(_) => true,
            Self::NoRoom(_) => false,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Answer(answer) => Self::Answer(answer),
            FetchError::Gone(gone) => Self::Gone(gone),
            FetchError::PastTheEnd { .. } => Self::Gone(Gone::broken("upstream has no such bytes")),
        }
    }
}

const MOST_SOURCES: usize = 8;
/// Bytes of a blob that do not wait for the disk. Not all of them: followers who are woken for each piece
/// keep a busy gateway from reading the next one.
const AT_ONCE: u64 = if MODEL { 24 << 10 } else { 256 << 10 };
