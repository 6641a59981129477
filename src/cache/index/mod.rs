//! What the cache knows about its files, in one embedded database.
//!
//! The files are the truth about bytes; the index is the truth about everything else: sizes and last
//! use, which tag stood for which digest and when that was confirmed, which repository an upstream has
//! shown a digest in, and when a grant was last proven. One thread writes, in batches; reads are
//! snapshots. An index that cannot be opened is set aside and rebuilt from the files.

mod db;
pub mod images;
mod memory;
pub mod pins;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Error, ReadableDatabase, ReadableTable};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::db::{
    Db, GRANTS, LRU, MEMBERS, OBJECTS, TAGS, USED, WALKED, create, in_memory, is_broken, read_meta,
};
use self::memory::Memory;
use self::pins::Pins;
use self::writer::{Ack, Op, Writer};
use crate::oci::digest::{Algorithm, Digest};
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

/// What a tag stood for when an upstream last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: String,
    pub media_type: String,
    /// Bytes of the manifest.
    pub size: u64,
    /// Seconds since the epoch of the upstream's last word.
    pub confirmed: u64,
}

/// The index of one cache directory.
#[derive(Debug)]
pub struct Index {
    db: Arc<Db>,
    path: Option<PathBuf>,
    writer: mpsc::Sender<Op>,
    touched: Arc<Mutex<HashMap<Vec<u8>, u64>>>,
    recent: Arc<Recent>,
    used_at_open: u64,
    /// The files have to be walked: there was no usable index.
    rebuild: bool,
    pins: Pins,
}

/// What hits ask for.
#[derive(Debug)]
struct Recent {
    /// By [`tag_key`]; `None` for what is not in the table.
    tags: Memory<String, Option<Arc<TagRecord>>>,
    members: Memory<Vec<u8>, bool>,
}

/// The index could not take a change; the cache goes on, a little more forgetful.
#[derive(Debug, thiserror::Error)]
#[error("the cache index could not be written: {0}")]
pub struct IndexError(String);

// === impl Index ===

impl Index {
    /// Opens `index.redb` in `dir`, or sets a broken one aside and starts anew. Blocking. Never
    /// fails: where no file can be written the index lives in memory until the next start.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("index.redb");
        let existed = path.exists();
        let (db, path, broken) = match create(&path) {
            Ok(db) => (db, Some(path), false),
            Err(e) if existed && is_broken(&e) => {
                let aside = path.with_extension("redb.broken");
                warn!(error = %e, aside = %aside.display(), "the cache index is unreadable; it is set aside and rebuilt from the files");
                match std::fs::rename(&path, &aside)
                    .map_err(Error::from)
                    .and_then(|()| create(&path))
                {
                    Ok(db) => (db, Some(path), true),
                    Err(e) => in_memory(&e),
                }
            }
            Err(e) => in_memory(&e),
        };
        let used_at_open = read_meta(&db, USED).unwrap_or(0);
        let rebuild = broken || read_meta(&db, WALKED).is_none();
        let pins = images::pinned_names(&db).unwrap_or_else(|e| {
            error!(error = %e, "what is pinned cannot be read; until the next start nothing is");
            Default::default()
        });
        let db = Arc::new(Db {
            open: RwLock::new(Some(db)),
            path: path.clone(),
        });
        let touched = Arc::new(Mutex::new(HashMap::new()));
        let recent = Arc::new(Recent {
            tags: Memory::new(MOST_RECENT_TAGS),
            members: Memory::new(MOST_RECENT_MEMBERS),
        });
        let (writer, ops) = mpsc::channel(4096);
        let thread = Writer {
            db: db.clone(),
            ops,
            touched: touched.clone(),
            recent: recent.clone(),
        };
        if let Err(e) = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || thread.run())
        {
            error!(error = %e, "no thread for the cache index; nothing will be remembered");
        }
        Self {
            db,
            path,
            writer,
            touched,
            recent,
            used_at_open,
            rebuild,
            pins: Pins::new(pins),
        }
    }

    /// Whether the objects have to be found by walking the files.
    pub fn wants_rebuild(&self) -> bool {
        self.rebuild
    }

    /// Bytes of all objects, as of the last commit before this start.
    pub fn used_at_open(&self) -> u64 {
        self.used_at_open
    }

    /// Bytes the index itself takes on disk.
    pub fn file_size(&self) -> u64 {
        self.path
            .as_ref()
            .and_then(|path| std::fs::metadata(path).ok())
            .map_or(0, |meta| meta.len())
    }

    /// What is known of `key`.
    pub fn object(&self, key: &Key) -> Option<ObjectInfo> {
        self.db.read(|db| {
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
        })?
    }

    /// Makes an object known, durably. Answers once it is on disk.
    pub async fn insert(&self, key: Key, size: u64, media_type: String) -> Result<(), IndexError> {
        let info = ObjectInfo {
            size,
            last_use: now_micros(),
            media_type,
        };
        self.acked(|ack| Op::Insert(key, info, ack)).await
    }

    /// Makes a found object known; written with the next batch.
    pub async fn adopt(&self, key: Key, size: u64) {
        let info = ObjectInfo {
            size,
            last_use: now_micros(),
            media_type: String::new(),
        };
        self.send(Op::Insert(key, info, None)).await;
    }

    /// Notes that every file is known from here on.
    pub async fn walked(&self) -> Result<(), IndexError> {
        self.acked(Op::Walked).await
    }

    /// Forgets tags and grants that were last confirmed before `oldest`, in seconds since the epoch.
    pub async fn prune(&self, oldest: u64) {
        self.send(Op::Prune(oldest)).await;
    }

    /// Forgets objects whose files are gone.
    pub async fn remove(&self, keys: Vec<Key>) -> Result<(), IndexError> {
        self.acked(|ack| Op::Remove(keys, ack)).await
    }

    /// Notes a use; written with the next batch.
    pub fn touch(&self, key: &Key) {
        lock(&self.touched).insert(key.to_bytes(), now_micros());
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

    /// The record of `tag_key`, see [`tag_key`].
    pub fn tag(&self, tag_key: &str) -> Option<Arc<TagRecord>> {
        let read = || {
            self.db.read(|db| {
                let table = db.begin_read()?.open_table(TAGS)?;
                let found = table.get(tag_key)?;
                Ok(found.map(|value| Arc::new(tag_record(value.value()))))
            })
        };
        self.recent.tags.get_or_read(tag_key, read)?
    }

    /// Records of one tag that are `wanted`, whatever `Accept` they answer.
    pub fn tag_variants(
        &self,
        tag_prefix: &str,
        wanted: impl Fn(&TagRecord) -> bool,
    ) -> Vec<TagRecord> {
        let listed = self.db.read(|db| {
            let table = db.begin_read()?.open_table(TAGS)?;
            let mut found = Vec::new();
            for entry in table.range(tag_prefix..)?.take(MOST_LOOKED_AT) {
                let (key, value) = entry?;
                if !key.value().starts_with(tag_prefix) {
                    break;
                }
                let record = tag_record(value.value());
                if wanted(&record) {
                    found.push(record);
                }
                if found.len() == MOST_VARIANTS {
                    break;
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Remembers or (`None`) forgets a tag.
    pub async fn set_tag(&self, tag_key: String, record: Option<TagRecord>) {
        if let Some(record) = &record {
            self.protect_tag(&tag_key, &record.digest);
        }
        let known = record.clone().map(Arc::new);
        self.recent.tags.set(tag_key.clone(), known);
        self.send(Op::Tag(tag_key, record)).await;
    }

    /// Forgets what a tag stood for, whatever `Accept` asked: it was pushed anew.
    pub async fn untag(&self, tag_prefix: String) {
        self.recent.tags.forget_all();
        self.send(Op::Untag(tag_prefix)).await;
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
        self.send(Op::Member(member, now_seconds())).await;
    }

    /// When the grant was last proven, in seconds since the epoch.
    pub fn grant(&self, grant: &[u8; 32]) -> Option<u64> {
        self.db.read(|db| {
            let table = db.begin_read()?.open_table(GRANTS)?;
            Ok(table.get(grant.as_slice())?.map(|value| value.value()))
        })?
    }

    /// Remembers or (`None`) revokes a grant.
    pub async fn set_grant(&self, grant: [u8; 32], at: Option<u64>) {
        self.send(Op::Grant(grant, at)).await;
    }

    async fn acked(&self, op: impl FnOnce(Ack) -> Op) -> Result<(), IndexError> {
        let (ack, done) = oneshot::channel();
        self.send(op(Some(ack))).await;
        done.await
            .unwrap_or_else(|_| Err(IndexError("its writer has stopped".into())))
    }

    async fn send(&self, op: Op) {
        // The writer ends only with the process; there is nobody to tell.
        let _ = self.writer.send(op).await;
    }
}

/// The key under which a tag's answer to one kind of `Accept` is remembered, see [`accept_hash`].
pub fn tag_key(origin: &str, repository: &str, tag: &str, accept_hash: &str) -> String {
    let mut key = tag_prefix(origin, repository, tag);
    key.push_str(accept_hash);
    key
}

/// A client's `Accept` may be of any length; what it is known by here is not.
pub fn accept_hash(accept: &str) -> String {
    Digest::of(Algorithm::Sha256, accept.as_bytes()).hex()[..32].to_owned()
}

/// What all of a tag's keys begin with.
pub fn tag_prefix(origin: &str, repository: &str, tag: &str) -> String {
    // Room for an `accept_hash`, too.
    let length = origin.len() + repository.len() + tag.len() + 40;
    let mut prefix = String::with_capacity(length);
    for part in [origin, repository, tag] {
        prefix.push_str(part);
        prefix.push('\n');
    }
    prefix
}

/// Seconds since the epoch.
pub fn now_seconds() -> u64 {
    now_micros() / 1_000_000
}

/// What a file of `size` bytes takes on disk: whole blocks.
pub fn on_disk(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

fn tag_record((digest, media_type, size, confirmed): (&str, &str, u64, u64)) -> TagRecord {
    TagRecord {
        digest: digest.to_owned(),
        media_type: media_type.to_owned(),
        size,
        confirmed,
    }
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

// === impl Recent ===

impl Recent {
    /// `batch` is in the tables, or was to be.
    fn written(&self, batch: &[Op]) {
        for op in batch {
            match op {
                Op::Tag(key, _) => self.tags.forget(key.as_str()),
                Op::Untag(_) | Op::Prune(_) => self.tags.forget_all(),
                Op::Member(member, _) => self.members.forget(member.as_slice()),
                Op::Remove(..) => self.members.forget_all(),
                _ => {}
            }
        }
    }
}

/// Some hundred bytes each.
const MOST_RECENT_TAGS: usize = 20_000;
const MOST_RECENT_MEMBERS: usize = 50_000;
const BLOCK: u64 = 4096;
const MOST_VARIANTS: usize = 64;
const MOST_LOOKED_AT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::blob(&Digest::of(Algorithm::Sha256, name.as_bytes()))
    }

    #[tokio::test]
    async fn the_least_recently_used_object_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path());
        for name in ["a", "b", "c"] {
            index.insert(key(name), 10, String::new()).await.unwrap();
        }
        index.touch(&key("a"));
        index.flush().await.unwrap();
        let order: Vec<Key> = index
            .coldest(9, |_| true)
            .into_iter()
            .map(|x| x.0)
            .collect();
        assert_eq!(order, [key("b"), key("c"), key("a")]);
    }

    #[tokio::test]
    async fn what_is_used_survives_a_new_start() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path());
        index.insert(key("a"), 5000, String::new()).await.unwrap();
        index.insert(key("b"), 1, String::new()).await.unwrap();
        index.remove(vec![key("b")]).await.unwrap();
        drop(index);
        // The writer's thread lets go of the file when its channel closes.
        let index = loop {
            let again = Index::open(dir.path());
            if again.path.is_some() {
                break again;
            }
            std::thread::yield_now();
        };
        assert_eq!(index.used_at_open(), 8192);
    }

    #[tokio::test]
    async fn a_torn_index_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("index.redb"), b"torn").unwrap();
        let index = Index::open(dir.path());
        assert!(index.wants_rebuild());
        assert!(dir.path().join("index.redb.broken").exists());
        index.insert(key("a"), 1, "x".into()).await.unwrap();
        assert_eq!(index.object(&key("a")).unwrap().media_type, "x");
    }
}
