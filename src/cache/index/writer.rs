//! The one that writes: whatever waits becomes one transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Durability, Error, ReadableTable, WriteTransaction};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::db::{Db, GRANTS, LRU, MEMBERS, META, OBJECTS, TAGS, USED, WALKED};
use super::{IndexError, ObjectInfo, TagRecord, lock, on_disk};
use crate::store::Key;

/// A change of the index.
#[derive(Debug)]
pub(super) enum Op {
    Insert(Key, ObjectInfo, Ack),
    Remove(Vec<Key>, Ack),
    Tag(String, Option<TagRecord>),
    Member(Vec<u8>, u64),
    Grant([u8; 32], Option<u64>),
    /// All records of a tag, whatever `Accept` they answer.
    Untag(String),
    Walked(Ack),
    /// Tags and grants older than this.
    Prune(u64),
    Flush(Ack),
}

/// Who waits for a change to be on disk.
pub(super) type Ack = Option<oneshot::Sender<Result<(), IndexError>>>;

// === impl Writer ===

pub(super) struct Writer {
    pub(super) db: Arc<Db>,
    pub(super) ops: mpsc::Receiver<Op>,
    pub(super) touched: Arc<Mutex<HashMap<Vec<u8>, u64>>>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while self.ops.blocking_recv_many(&mut batch, 512) > 0 {
            let touched = std::mem::take(&mut *lock(&self.touched));
            let result = self.write(&batch, touched);
            if let Err(e) = &result {
                warn!(error = %e, "the cache index could not be written");
                self.db.reopen();
            }
            for op in batch.drain(..) {
                if let Op::Insert(_, _, Some(ack))
                | Op::Remove(_, Some(ack))
                | Op::Walked(Some(ack))
                | Op::Flush(Some(ack)) = op
                {
                    let answer = match &result {
                        Ok(()) => Ok(()),
                        Err(e) => Err(IndexError(e.to_string())),
                    };
                    let _ = ack.send(answer);
                }
            }
        }
    }

    fn write(&self, batch: &[Op], touched: HashMap<Vec<u8>, u64>) -> Result<(), Error> {
        let open = self.db.open.read().unwrap_or_else(PoisonError::into_inner);
        let db = open.as_ref().ok_or(Error::DatabaseClosed)?;
        let mut txn = db.begin_write()?;
        // A crash must not cost a walk of the whole index at the next start.
        txn.set_quick_repair(true);
        // Last uses alone may be lost: they are a guess at the future anyway.
        let durable = batch.iter().any(|op| !matches!(op, Op::Flush(_)));
        if !durable {
            txn.set_durability(Durability::None)?;
        }
        apply(&txn, batch, touched)?;
        txn.commit()?;
        Ok(())
    }
}

pub(super) fn apply(
    txn: &WriteTransaction,
    batch: &[Op],
    touched: HashMap<Vec<u8>, u64>,
) -> Result<(), Error> {
    let mut objects = txn.open_table(OBJECTS)?;
    let mut lru = txn.open_table(LRU)?;
    let mut tags = txn.open_table(TAGS)?;
    let mut members = txn.open_table(MEMBERS)?;
    let mut grants = txn.open_table(GRANTS)?;
    let mut meta = txn.open_table(META)?;
    let mut used = meta.get(USED)?.map_or(0, |v| v.value());
    let before = used;

    for (key, at) in touched {
        let Some((size, old, media)) = objects.get(key.as_slice())?.map(|v| {
            let (size, old, media) = v.value();
            (size, old, media.to_owned())
        }) else {
            continue;
        };
        lru.remove((old, key.as_slice()))?;
        lru.insert((at, key.as_slice()), ())?;
        objects.insert(key.as_slice(), (size, at, media.as_str()))?;
    }
    for op in batch {
        match op {
            Op::Insert(key, info, _) => {
                let key = key.to_bytes();
                let old = objects
                    .insert(
                        key.as_slice(),
                        (info.size, info.last_use, info.media_type.as_str()),
                    )?
                    .map(|v| (v.value().0, v.value().1));
                if let Some((size, at)) = old {
                    lru.remove((at, key.as_slice()))?;
                    used = used.saturating_sub(on_disk(size));
                }
                lru.insert((info.last_use, key.as_slice()), ())?;
                used += on_disk(info.size);
            }
            Op::Remove(keys, _) => {
                for key in keys {
                    let key = key.to_bytes();
                    let old = objects
                        .remove(key.as_slice())?
                        .map(|v| (v.value().0, v.value().1));
                    if let Some((size, at)) = old {
                        lru.remove((at, key.as_slice()))?;
                        used = used.saturating_sub(on_disk(size));
                    }
                    // What upstream has shown stays true, but without the bytes nobody asks.
                    let mut end = key.clone();
                    end.push(u8::MAX);
                    members.retain_in(key.as_slice()..end.as_slice(), |_, _| false)?;
                }
            }
            Op::Tag(key, Some(record)) => {
                tags.insert(
                    key.as_str(),
                    (
                        record.digest.as_str(),
                        record.media_type.as_str(),
                        record.size,
                        record.confirmed,
                    ),
                )?;
            }
            Op::Tag(key, None) => {
                tags.remove(key.as_str())?;
            }
            Op::Member(member, at) => {
                members.insert(member.as_slice(), at)?;
            }
            Op::Grant(grant, Some(at)) => {
                grants.insert(grant.as_slice(), at)?;
            }
            Op::Grant(grant, None) => {
                grants.remove(grant.as_slice())?;
            }
            Op::Untag(prefix) => {
                // The prefix ends in a line feed; what follows it is below the next character.
                let end = format!("{}\u{b}", prefix.trim_end_matches('\n'));
                tags.retain_in(prefix.as_str()..end.as_str(), |_, _| false)?;
            }
            Op::Walked(_) => {
                meta.insert(WALKED, 1)?;
            }
            Op::Prune(oldest) => {
                tags.retain(|_, (_, _, _, confirmed)| confirmed >= *oldest)?;
                grants.retain(|_, at| at >= *oldest)?;
            }
            Op::Flush(_) => {}
        }
    }
    if used != before {
        meta.insert(USED, used)?;
    }
    Ok(())
}
