//! One download that many clients follow.
//!
//! The leader is a task of its own, never a client: it writes the spool, and every client, the first
//! included, reads the spool's file behind it. Nobody holds another up, and a client that goes away
//! changes nothing.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tracing::{debug, info, warn};

use super::origin::{Backoff, FetchError, Fetched, Gone, Origin};
use super::space::Reservation;
use super::{Cache, reader::Reader};
use crate::oci::digest::Digest;
use crate::store::{Key, Mismatch, Spool};
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
    /// A download that [`Flight::run`] has yet to begin.
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

    fn source(&self, turn: usize) -> (Arc<dyn Origin>, usize) {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        (sources[turn % sources.len()].clone(), sources.len())
    }

    /// Downloads, verifies, commits. Owned by a task of its own.
    pub(super) async fn run(self: Arc<Self>, cache: Arc<Cache>) {
        cache.metrics.downloads_active.inc();
        cache.metrics.live.ring();
        let _end = EndInAnyCase {
            flight: self.clone(),
            cache: cache.clone(),
        };
        let resumed = cache.space.unpark(&self.digest);
        let store = cache.store.clone();
        let key = Key::blob(&self.digest);
        let opened = blocking(move || store.spool(&key)).await;
        let mut room = match cache.space.reserve(0).await {
            Ok(room) => room,
            Err(e) => {
                self.fail(&cache, Failure::NoRoom(e.to_string()));
                return;
            }
        };
        let result = match opened {
            Err(e) => Err((Failure::NoRoom(e.to_string()), None)),
            Ok(spool) if room.grow(spool.written()).await.is_err() => Err((
                Failure::NoRoom("not even for what an earlier try left".into()),
                Some(spool),
            )),
            Ok(spool) => {
                room.wrote(spool.written());
                self.state
                    .send_modify(|state| state.found = spool.written());
                if resumed && spool.written() > 0 {
                    info!(digest = %self.digest, at = spool.written(), "resuming a broken download");
                }
                self.download(spool, &mut room, &cache).await
            }
        };
        match result {
            Ok(spool) => self.commit(spool, room, &cache).await,
            Err((failure, spool)) => {
                match spool {
                    Some(spool)
                        if spool.written() > 0
                            && !matches!(failure, Failure::Mismatch(_) | Failure::NoRoom(_)) =>
                    {
                        cache.space.park(self.digest.clone(), room, spool.written());
                    }
                    Some(spool) => spool.discard(),
                    None => {}
                }
                self.fail(&cache, failure);
            }
        }
    }

    /// Fetches until the whole blob is in the spool and verified.
    async fn download(
        &self,
        mut spool: Spool,
        room: &mut Reservation,
        cache: &Cache,
    ) -> Result<Spool, (Failure, Option<Spool>)> {
        let mut patience = Backoff::new(BEFORE_THE_HEAD);
        let mut turn = 0;
        let mut refused = 0;
        loop {
            let offset = spool.written();
            let (source, sources) = self.source(turn);
            let failure = match source.fetch(offset).await {
                Ok(fetched) => {
                    if !self.state.borrow().headed {
                        patience = Backoff::new(AFTER_THE_HEAD);
                    }
                    match self.receive(fetched, spool, room, cache).await {
                        Received::Whole(done) => match done.verify() {
                            Ok(()) => return Ok(done),
                            Err(mismatch) => {
                                return Err((Failure::Mismatch(mismatch), Some(done)));
                            }
                        },
                        Received::Broken(kept, gone) => {
                            if kept.written() > offset {
                                patience.progress();
                                refused = 0;
                            }
                            spool = kept;
                            FetchError::Gone(gone)
                        }
                        Received::NoRoom(kept, why) => {
                            return Err((Failure::NoRoom(why), kept));
                        }
                        Received::TooLong(kept, total) => {
                            // None of it can be right, so none of it is kept.
                            if let Some(kept) = kept {
                                kept.discard();
                            }
                            let message =
                                format!("upstream sent more than the {total} bytes it announced");
                            let gone = Gone {
                                message,
                                timeout: false,
                                retry: false,
                            };
                            return Err((Failure::Gone(gone), None));
                        }
                    }
                }
                Err(FetchError::PastTheEnd { total }) => {
                    // All bytes are here already, or none of them belong.
                    if total.is_none_or(|total| total == offset) && spool.verify().is_ok() {
                        self.head_is(&spool, Some(offset));
                        return Ok(spool);
                    }
                    if self.state.borrow().headed || offset == 0 {
                        return Err((
                            Failure::Gone(Gone {
                                message: format!("upstream has no byte {offset} of it any more"),
                                timeout: false,
                                retry: false,
                            }),
                            Some(spool),
                        ));
                    }
                    if let Err(e) = spool.restart() {
                        return Err((Failure::NoRoom(e.to_string()), Some(spool)));
                    }
                    continue;
                }
                Err(error) => error,
            };
            if !failure.may_pass() {
                // Another follower's credentials, or the gateway's own, may still be good; but the
                // answer to the first question is the first caller's own.
                turn += 1;
                refused += 1;
                if !self.state.borrow().headed || refused >= sources {
                    return Err((failure.into(), Some(spool)));
                }
                continue;
            }
            let Some(wait) = patience.wait() else {
                return Err((failure.into(), Some(spool)));
            };
            debug!(digest = %self.digest, at = spool.written(), ?wait, why = %failure, "trying again");
            cache.metrics.resumes.inc();
            tokio::time::sleep(wait.max(retry_after(&failure))).await;
        }
    }

    /// Writes one answer's body to the spool.
    async fn receive(
        &self,
        fetched: Fetched,
        mut spool: Spool,
        room: &mut Reservation,
        cache: &Cache,
    ) -> Received {
        let Fetched {
            start,
            total,
            mut body,
        } = fetched;
        let known = self.state.borrow().total;
        if let (Some(known), Some(total)) = (known, total)
            && known != total
        {
            return Received::Broken(
                spool,
                broken(format!("upstream said {known} bytes first and {total} now")),
            );
        }
        if start > spool.written() {
            return Received::Broken(spool, broken("upstream left bytes out".into()));
        }
        let total = total.or(known);
        if total.is_some_and(|total| total < spool.written()) && !self.state.borrow().headed {
            // What an earlier try left is longer than the blob: it is none of it.
            if let Err(e) = spool.restart() {
                return Received::NoRoom(Some(spool), e.to_string());
            }
            if start > 0 {
                return Received::Broken(spool, broken("what was left is none of it".into()));
            }
        }
        if let Err(e) = room
            .grow(total.unwrap_or(spool.written() + UNKNOWN_STEP))
            .await
        {
            return Received::NoRoom(Some(spool), e.to_string());
        }
        room.wrote(spool.written());
        self.head_is(&spool, total);

        let mut skip = spool.written() - start;
        let mut arrived = spool.written();
        let mut queue: Vec<Bytes> = Vec::new();
        let mut queued = 0;
        let mut ended: Option<Result<(), Gone>> = None;
        let mut idle = Some(spool);
        let mut writing = None;
        loop {
            if !queue.is_empty()
                && let Some(mut spool) = idle.take()
            {
                let chunks = std::mem::take(&mut queue);
                queued = 0;
                writing = Some(tokio::task::spawn_blocking(move || {
                    let result = spool.append(&chunks);
                    (spool, result)
                }));
            }
            if let (Some(spool), Some(end)) = (idle.take_if(|_| ended.is_some()), ended.take()) {
                return match end {
                    Err(gone) => Received::Broken(spool, gone),
                    Ok(()) if total.is_some_and(|total| spool.written() < total) => {
                        Received::Broken(spool, broken("upstream closed before the end".into()))
                    }
                    Ok(()) => Received::Whole(spool),
                };
            }
            tokio::select! {
                biased;
                done = joined(&mut writing) => {
                    writing = None;
                    match done {
                        Ok((spool, Ok(()))) => {
                            room.wrote(spool.written());
                            self.state.send_modify(|state| state.written = spool.written());
                            idle = Some(spool);
                        }
                        Ok((spool, Err(e))) => return Received::NoRoom(Some(spool), e.to_string()),
                        Err(e) => return Received::NoRoom(None, e.to_string()),
                    }
                }
                frame = body.frame(), if ended.is_none() && queued < QUEUE => match frame {
                    None => ended = Some(Ok(())),
                    Some(Err(e)) => ended = Some(Err(broken(e.to_string()))),
                    Some(Ok(frame)) => {
                        let Ok(mut data) = frame.into_data() else { continue };
                        cache.metrics.received(data.len() as u64);
                        let drop = skip.min(data.len() as u64);
                        skip -= drop;
                        // `drop` is at most the chunk's own length.
                        let data = data.split_off(usize::try_from(drop).unwrap_or(data.len()));
                        if data.is_empty() {
                            continue;
                        }
                        arrived += data.len() as u64;
                        if let Some(total) = total && arrived > total {
                            let spool = settled(idle.take(), writing.take()).await;
                            return Received::TooLong(spool, total);
                        }
                        if total.is_none() && arrived > room.bytes()
                            && let Err(e) = room.grow(arrived + UNKNOWN_STEP).await {
                            let spool = settled(idle.take(), writing.take()).await;
                            return Received::NoRoom(spool, e.to_string());
                        }
                        queued += data.len();
                        queue.push(data);
                    }
                },
            }
        }
    }

    /// Tells followers that there is something to follow.
    fn head_is(&self, spool: &Spool, total: Option<u64>) {
        self.file.get_or_init(|| spool.file());
        self.state.send_modify(|state| {
            state.headed = true;
            state.total = total;
            state.written = spool.written();
        });
    }

    async fn commit(&self, spool: Spool, room: Reservation, cache: &Cache) {
        let size = spool.written();
        // The bytes are the blob's, so upstream has shown it in the repository it was asked through.
        cache.index.set_member(self.member.clone()).await;
        // Who has the last byte may find the blob here after a crash, and its membership with it.
        let _ = cache.index.flush().await;
        // Followers may have the rest now; the disk's own business need not hold them up.
        self.state.send_modify(|state| {
            state.total = Some(size);
            state.written = size;
            state.end = Some(End::Verified);
        });
        let key = Key::blob(&self.digest);
        if let Err(e) = cache.keep(spool, &key, room, String::new()).await {
            warn!(digest = %self.digest, error = %e, "a verified blob could not be kept");
        }
        cache.end_flight(&self.digest);
        cache.metrics.download_ended("verified");
        debug!(digest = %self.digest, size, "downloaded");
    }

    fn fail(&self, cache: &Cache, failure: Failure) {
        match &failure {
            Failure::Mismatch(mismatch) => {
                warn!(
                    digest = %mismatch.expected, received = %mismatch.actual, size = mismatch.size,
                    "upstream sent other bytes than the digest says; dropped"
                );
                cache.metrics.download_ended("mismatch");
            }
            Failure::NoRoom(why) => {
                warn!(digest = %self.digest, %why, "the cache cannot hold a blob; it passes through");
                cache.metrics.download_ended("no_room");
            }
            Failure::Gone(gone) => {
                warn!(digest = %self.digest, error = %gone, "a download ended early");
                cache.metrics.download_ended("broken");
            }
            Failure::Answer(answer) => {
                debug!(digest = %self.digest, status = %answer.status(), "upstream refused a blob");
                cache.metrics.download_ended("refused");
            }
        }
        // First out of the map, so that whoever is told may begin anew.
        cache.end_flight(&self.digest);
        self.state
            .send_modify(|state| state.end = Some(End::Failed(failure)));
    }
}

// === impl Follower ===

impl Follower {
    fn new(count: &Arc<AtomicUsize>, metrics: &Arc<Metrics>) -> Self {
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

/// Followers must hear of the end even of a download that panicked.
struct EndInAnyCase {
    flight: Arc<Flight>,
    cache: Arc<Cache>,
}

impl Drop for EndInAnyCase {
    fn drop(&mut self) {
        if self.flight.state.borrow().end.is_none() {
            let gone = broken("the download failed inside the gateway".into());
            self.flight.fail(&self.cache, Failure::Gone(gone));
        }
    }
}

// === impl Failure ===

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Answer(answer) => Self::Answer(answer),
            FetchError::Gone(gone) => Self::Gone(gone),
            FetchError::PastTheEnd { .. } => {
                Self::Gone(broken("upstream has no such bytes".into()))
            }
        }
    }
}

type Writing = JoinHandle<(Spool, io::Result<()>)>;

/// The spool, wherever it is.
async fn settled(idle: Option<Spool>, writing: Option<Writing>) -> Option<Spool> {
    match (idle, writing) {
        (Some(spool), _) => Some(spool),
        (None, Some(writing)) => writing.await.ok().map(|(spool, _)| spool),
        (None, None) => None,
    }
}

enum Received {
    /// More bytes than upstream itself had announced.
    TooLong(Option<Spool>, u64),
    Whole(Spool),
    Broken(Spool, Gone),
    NoRoom(Option<Spool>, String),
}

fn broken(message: String) -> Gone {
    Gone {
        message,
        timeout: false,
        retry: true,
    }
}

/// How long upstream asks to be left alone, within reason (RFC 9110 section 10.2.3, seconds only).
pub(super) fn retry_after(error: &FetchError) -> Duration {
    let FetchError::Answer(answer) = error else {
        return Duration::ZERO;
    };
    answer
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(Duration::ZERO, |seconds| {
            Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER)
        })
}

/// The write under way, or nothing ever.
async fn joined<T>(writing: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Tries before upstream has answered once: a client is waiting for its first byte.
const BEFORE_THE_HEAD: u32 = 2;
/// Tries in a row without a byte, once there is something worth finishing: about half a minute.
const AFTER_THE_HEAD: u32 = 10;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Bytes that wait while the disk is busy.
const QUEUE: usize = 1 << 20;
/// Room that is reserved at a time for a blob of unknown size.
const UNKNOWN_STEP: u64 = 16 << 20;
const MOST_SOURCES: usize = 8;
