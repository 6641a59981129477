//! What the cache knows about its files, in one embedded database.
//!
//! The files are the truth about bytes; the index is the truth about everything else: sizes and last
//! use, which tag stood for which digest and when that was confirmed, which repository an upstream has
//! shown a digest in, and when a grant was last proven. One thread writes, in batches; reads are
//! snapshots. An index that is damaged, found so at the start or at any time later, is set aside and
//! made anew from the files.

mod db;
mod heard;
pub mod images;
mod memory;
pub mod pins;
mod tags;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{ReadableDatabase, ReadableTable};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

pub use self::db::Unreadable;
use self::db::{Db, GRANTS, LRU, MEMBERS, Mended, OBJECTS, USED, WALKED, meta};
use self::heard::Heard;
use self::memory::Memory;
use self::pins::Pins;
pub use self::tags::{IMPORTED, TagRecord, accept_hash, tag_key, tag_prefix};
use self::writer::{Ack, Op, Writer};
use super::ledger::{Held, Ledger};
use crate::store::Key;

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// Microseconds since the epoch.
    pub last_use: u64,
    /// The media type a manifest was served with; empty for blobs.
    pub media_type: String,
}

/// The index of one cache directory.
#[derive(Debug)]
pub struct Index {
    db: Arc<Db>,
    writer: mpsc::Sender<Op>,
    touched: Arc<Mutex<HashMap<Vec<u8>, u64>>>,
    recent: Arc<Recent>,
    heard: Heard,
    /// The latest use there ever was, in microseconds since the epoch.
    latest: AtomicU64,
    ledger: Arc<Ledger>,
    /// The files have to be walked: there was no usable index.
    rebuild: watch::Sender<bool>,
    pins: Arc<Pins>,
}

/// What has to be known before anything is asked.
struct Facts {
    /// Every file was known once.
    walked: bool,
    /// Bytes of all objects, on disk.
    used: u64,
    /// The latest use, in microseconds since the epoch.
    latest: u64,
    pins: BTreeSet<String>,
}

/// What hits ask for.
#[derive(Debug)]
struct Recent {
    /// By [`tag_key`]; `None` for what is not in the table.
    tags: Memory<String, Option<Arc<TagRecord>>>,
    members: Memory<Vec<u8>, bool>,
    /// By [`tag_prefix`], the tags that stand for nothing any more whatever the table says of them, with
    /// how many changes say so that are not written yet.
    untagged: Mutex<HashMap<String, usize>>,
}

/// The index could not take a change; the cache goes on, a little more forgetful.
#[derive(Debug, thiserror::Error)]
#[error("the cache index could not be written: {0}")]
pub struct IndexError(String);

// === impl Index ===

impl Index {
    /// Opens `index.redb` in `dir`, or sets a damaged one aside and starts anew. Blocking. Never
    /// fails: where no file can be written the index lives in memory until the next start.
    pub fn open(dir: &Path, ledger: Arc<Ledger>) -> Self {
        let (db, salvaged) = Db::open(dir.join("index.redb"));
        let mut anew = salvaged.is_some();
        let mut facts = Facts::of(&db);
        // What these run into is mended before anybody relies on them: what is pinned must not go.
        for _ in 0..MOST_MENDINGS {
            let Some(trouble) = db.suspicion() else { break };
            anew |= matches!(db.mend(&trouble), Mended::Anew(_));
            facts = Facts::of(&db);
        }
        let db = Arc::new(db);
        let rebuild = watch::Sender::new(anew || !facts.walked);
        let pins = Arc::new(Pins::new(facts.pins));
        ledger.index_knows(facts.used);
        ledger.index_takes(db.bytes());
        let touched = Arc::new(Mutex::new(HashMap::new()));
        let recent = Arc::new(Recent {
            tags: Memory::new(MOST_RECENT_TAGS),
            members: Memory::new(MOST_RECENT_MEMBERS),
            untagged: Mutex::default(),
        });
        let (writer, ops) = mpsc::channel(4096);
        db.written_by(writer.downgrade());
        let thread = Writer {
            db: db.clone(),
            ops,
            touched: touched.clone(),
            recent: recent.clone(),
            ledger: ledger.clone(),
            pins: pins.clone(),
            rebuild: rebuild.clone(),
            unwritten: Vec::new(),
        };
        if let Err(e) = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || thread.run())
        {
            error!(error = %e, "no thread for the cache index; nothing will be remembered");
        }
        Self {
            db,
            writer,
            touched,
            recent,
            heard: Heard::default(),
            latest: AtomicU64::new(facts.latest),
            ledger,
            rebuild,
            pins,
        }
    }

    /// Whether the objects have to be found by walking the files.
    pub fn wants_rebuild(&self) -> bool {
        *self.rebuild.borrow()
    }

    /// Waits until the objects have to be found by walking the files.
    pub async fn rebuild_wanted(&self) {
        // The sender is a part of this.
        let _ = self.rebuild.subscribe().wait_for(|wanted| *wanted).await;
    }

    /// Answers, when asked, whether it was lost (again) since this call.
    pub fn lost_again(&self) -> impl FnMut() -> bool + use<> {
        let mut rebuild = self.rebuild.subscribe();
        rebuild.borrow_and_update();
        move || rebuild.has_changed().unwrap_or(false)
    }

    /// Where its bytes and its objects' are counted.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Why what is kept on disk cannot be read at this time, so that no list of it is the whole of it.
    pub fn trouble(&self) -> Option<String> {
        self.db.trouble()
    }

    /// What is known of `key`; `None` also where nothing can be read.
    pub fn object(&self, key: &Key) -> Option<ObjectInfo> {
        self.look(key).ok().flatten()
    }

    /// What is known of `key`.
    pub fn look(&self, key: &Key) -> Result<Option<ObjectInfo>, Unreadable> {
        self.db.try_read(|db| {
            let table = db.begin_read()?.open_table(OBJECTS)?;
            let value = table.get(key.to_bytes().as_slice())?;
            Ok(value.map(|value| {
                let (size, last_use, media_type) = value.value();
                ObjectInfo {
                    size,
                    last_use,
                    media_type: media_type.to_owned(),
                }
            }))
        })
    }

    /// Makes an object known whose bytes the ledger held until now. Answers once it is on disk; after an
    /// error it is written when that is possible again.
    pub async fn insert(
        &self,
        key: Key,
        size: u64,
        media_type: String,
        held: u64,
    ) -> Result<(), IndexError> {
        let info = ObjectInfo {
            size,
            last_use: self.use_now(),
            media_type,
        };
        self.acked(|ack| Op::Insert(key, info, held, ack)).await
    }

    /// Makes a found object known that was last used then, in microseconds since the epoch; written
    /// with the next batch. Changes nothing about one that is known with this size.
    pub async fn adopt(&self, key: Key, size: u64, last_use: u64) {
        let info = ObjectInfo {
            size,
            last_use,
            media_type: String::new(),
        };
        self.send(Op::Adopt(key, info)).await;
    }

    /// Notes that every file is known from here on.
    pub async fn walked(&self) -> Result<(), IndexError> {
        self.acked(Op::Walked).await
    }

    /// Forgets tags and grants that were last confirmed before `oldest`, in seconds since the epoch.
    pub async fn prune(&self, oldest: u64) {
        self.send(Op::Prune(oldest)).await;
    }

    /// Forgets objects whose files are on their way out. Their bytes are counted as long as the answer
    /// lives.
    pub async fn remove(&self, keys: Vec<Key>) -> Result<Held, IndexError> {
        let (ack, done) = oneshot::channel();
        self.send(Op::Remove(keys, Some(ack))).await;
        done.await.unwrap_or_else(|_| Err(IndexError::stopped()))
    }

    /// Notes a use; written with the next batch.
    pub fn touch(&self, key: &Key) {
        lock(&self.touched).insert(key.to_bytes(), self.use_now());
    }

    /// A moment later than every use before it, whatever became of the clock: what is used last goes
    /// last.
    fn use_now(&self) -> u64 {
        let now = now_micros();
        let later = |latest: u64| Some(now.max(latest.saturating_add(1)));
        let before = self
            .latest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        now.max(before.unwrap_or_default().saturating_add(1))
    }

    /// Everything sent before this is written when it answers.
    pub async fn flush(&self) -> Result<(), IndexError> {
        self.acked(Op::Flush).await
    }

    /// Up to `limit` objects, least recently used first, for which `wanted` holds.
    pub fn coldest(&self, limit: usize, mut wanted: impl FnMut(&Key) -> bool) -> Vec<(Key, u64)> {
        let listed = self.db.read(|db| {
            let read = db.begin_read()?;
            let lru = read.open_table(LRU)?;
            let objects = read.open_table(OBJECTS)?;
            let mut found = Vec::new();
            for entry in lru.iter()? {
                let (at, ()) = {
                    let (k, v) = entry?;
                    (k.value().1.to_vec(), v.value())
                };
                let Some(key) = Key::from_bytes(&at) else {
                    continue;
                };
                if !wanted(&key) {
                    continue;
                }
                let size = objects
                    .get(at.as_slice())?
                    .map_or(0, |value| value.value().0);
                found.push((key, size));
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Whether an upstream has shown this member; see `access`.
    pub fn member(&self, member: &[u8]) -> bool {
        let read = || {
            self.db
                .read(|db| Ok(db.begin_read()?.open_table(MEMBERS)?.get(member)?.is_some()))
        };
        let found = self.recent.members.get_or_read(member, read);
        found.unwrap_or(false)
    }

    pub async fn set_member(&self, member: Vec<u8>) {
        self.recent.members.set(member.clone(), true);
        self.send(Op::Member(member, Some(now_seconds()))).await;
    }

    /// Upstream has taken this member out.
    pub async fn forget_member(&self, member: Vec<u8>) {
        self.recent.members.set(member.clone(), false);
        self.send(Op::Member(member, None)).await;
    }

    /// When the grant was last proven, in seconds since the epoch.
    pub fn grant(&self, grant: &[u8; 32]) -> Result<Option<u64>, Unreadable> {
        self.db.try_read(|db| {
            let table = db.begin_read()?.open_table(GRANTS)?;
            Ok(table.get(grant.as_slice())?.map(|value| value.value()))
        })
    }

    /// Remembers or (`None`) revokes a grant.
    pub async fn set_grant(&self, grant: [u8; 32], at: Option<u64>) {
        self.send(Op::Grant(grant, at)).await;
    }

    async fn acked(&self, op: impl FnOnce(Ack) -> Op) -> Result<(), IndexError> {
        let (ack, done) = oneshot::channel();
        self.send(op(Some(ack))).await;
        done.await.unwrap_or_else(|_| Err(IndexError::stopped()))
    }

    async fn send(&self, op: Op) {
        // The writer ends only with the process; there is nobody to tell.
        let _ = self.writer.send(op).await;
    }
}

// === impl IndexError ===

impl IndexError {
    fn stopped() -> Self {
        Self("its writer has stopped".into())
    }
}

/// Seconds since the epoch.
pub fn now_seconds() -> u64 {
    now_micros() / 1_000_000
}

/// What a file of `size` bytes takes on disk: whole blocks.
pub fn on_disk(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Microseconds since the epoch.
pub fn now_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Facts ===

impl Facts {
    fn of(db: &Db) -> Self {
        let latest = db.read(|db| {
            let lru = db.begin_read()?.open_table(LRU)?;
            Ok(lru.last()?.map_or(0, |(name, _)| name.value().0))
        });
        Self {
            walked: db.read(|db| meta(db, WALKED)).flatten().is_some(),
            used: db.read(|db| meta(db, USED)).flatten().unwrap_or(0),
            latest: latest.unwrap_or(0),
            pins: db.read(images::pinned_names).unwrap_or_else(|| {
                error!("what is pinned cannot be read");
                BTreeSet::new()
            }),
        }
    }
}

// === impl Recent ===

impl Recent {
    fn untag(&self, tag_prefix: &str) {
        *lock(&self.untagged)
            .entry(tag_prefix.to_owned())
            .or_default() += 1;
        self.tags.set_all(|key| key.starts_with(tag_prefix), &None);
    }

    fn is_untagged(&self, tag_key: &str) -> bool {
        let untagged = lock(&self.untagged);
        let name = tag_key.rfind('\n').map(|at| &tag_key[..=at]);
        !untagged.is_empty() && name.is_some_and(|name| untagged.contains_key(name))
    }

    /// `batch` is in the tables.
    fn written(&self, batch: &[Op]) {
        for op in batch {
            match op {
                Op::Tag(key, _) => self.tags.forget(key.as_str()),
                Op::Untag(tag_prefix) => {
                    let mut untagged = lock(&self.untagged);
                    match untagged.get_mut(tag_prefix.as_str()) {
                        Some(times @ 2..) => *times -= 1,
                        _ => drop(untagged.remove(tag_prefix.as_str())),
                    }
                    drop(untagged);
                    self.tags.forget_all();
                }
                Op::Prune(_) => self.tags.forget_all(),
                Op::Member(member, _) => self.members.forget(member.as_slice()),
                Op::Remove(..) => self.members.forget_all(),
                _ => {}
            }
        }
    }

    /// `batch` could not be written. What takes something back is written as soon as that is possible, and
    /// counts until then.
    fn given_up(&self, batch: &[Op]) {
        for op in batch {
            match op {
                Op::Tag(key, Some(_)) => self.tags.lost(key.as_str()),
                Op::Member(member, Some(_)) => self.members.forget(member.as_slice()),
                _ => {}
            }
        }
    }

    /// The tables are others.
    fn forget_all(&self) {
        self.tags.forget_all();
        self.members.forget_all();
    }
}

/// Some hundred bytes each.
const MOST_RECENT_TAGS: usize = 20_000;
const MOST_RECENT_MEMBERS: usize = 50_000;
const BLOCK: u64 = 4096;
const MOST_MENDINGS: usize = 4;
const MOST_LOOKED_AT: usize = 4096;

#[cfg(test)]
mod tests;
