//! The one that writes: whatever waits becomes one transaction.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use redb::{Durability, Error, ReadableTable, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::db::{
    CHILDREN, Db, GRANTS, LEARNT, LRU, MEMBERS, META, Mended, OBJECTS, PARENTS, PINS, REFERRERS,
    RELEASED, STANDING, SUBJECTS, Salvaged, TAGS, Trouble, USED, WALKED, meta,
};
use super::images::{Child, after};
use super::pins::Pins;
use super::tags::one_too_many;
use super::{IndexError, ObjectInfo, Recent, TagRecord, lock, on_disk};
use crate::cache::ledger::{Held, Ledger, Moved};
use crate::store::Key;

/// A change of the index.
#[derive(Debug)]
pub(super) enum Op {
    /// An object whose bytes the ledger held until now.
    Insert(Key, ObjectInfo, u64, Ack),
    /// An object that was found on disk.
    Adopt(Key, ObjectInfo),
    /// Objects whose files are on their way out: their bytes are held from here on.
    Remove(Vec<Key>, RemoveAck),
    Tag(String, Option<TagRecord>),
    Member(Vec<u8>, Option<u64>),
    Grant([u8; 32], Option<u64>),
    /// All records of a tag, whatever `Accept` they answer.
    Untag(String),
    Walked(Ack),
    /// What a manifest refers to, and the manifest that it is about.
    Children(Key, Vec<Child>, Option<Key>),
    Learnt(Ack),
    /// A pin by its name, and whether it was imported.
    Pin(String, Option<bool>, Ack),
    /// Of a repository: the objects that anybody may have while upstream is away.
    Release(Vec<u8>, Vec<Vec<u8>>, Ack),
    Standing(Vec<u8>, Option<u64>),
    /// Tags and grants older than this.
    Prune(u64),
    Flush(Ack),
}

/// Who waits for a change to be on disk.
pub(super) type Ack = Option<oneshot::Sender<Result<(), IndexError>>>;

/// Who waits for a removal, and takes over what the removed objects take on disk.
pub(super) type RemoveAck = Option<oneshot::Sender<Result<Held, IndexError>>>;

pub(super) struct Writer {
    pub(super) db: Arc<Db>,
    pub(super) ops: mpsc::Receiver<Op>,
    pub(super) touched: Arc<Mutex<HashMap<Vec<u8>, u64>>>,
    pub(super) recent: Arc<Recent>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) pins: Arc<Pins>,
    pub(super) rebuild: watch::Sender<bool>,
    /// Changes of what there is that could not be written yet: they come first the next time.
    pub(super) unwritten: Vec<Op>,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub(super) struct Applied {
    moved: Moved,
    /// By removal, in their order: bytes on disk.
    removed: Vec<u64>,
    /// A variant of a tag went that nobody had asked to go.
    dropped: bool,
    walked: bool,
}

// === impl Writer ===

impl Writer {
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while self.ops.blocking_recv_many(&mut batch, 512) > 0 {
            if let Some(trouble) = self.db.suspicion() {
                self.mend(&trouble);
            }
            drop(batch.splice(0..0, self.unwritten.drain(..)));
            let touched = std::mem::take(&mut *lock(&self.touched));
            let written = self.write(&batch, &touched).or_else(|trouble| {
                warn!(error = %trouble, "the cache index could not be written");
                match self.mend(&trouble) {
                    // All changes say what shall be, so twice is as good as once.
                    true => self.write(&batch, &touched),
                    false => Err(trouble),
                }
            });
            match written {
                Ok(applied) => {
                    self.recent.written(&batch);
                    self.settle(&mut batch, applied);
                }
                Err(trouble) => {
                    self.recent.given_up(&batch);
                    self.give_up(&mut batch, &trouble);
                }
            }
            self.ledger.index_takes(self.db.bytes());
        }
    }

    fn write(&self, batch: &[Op], touched: &HashMap<Vec<u8>, u64>) -> Result<Applied, Trouble> {
        self.db.write(|db| {
            let mut txn = db.begin_write()?;
            // A crash must not cost a walk of the whole index at the next start.
            txn.set_quick_repair(true);
            // Last uses alone may be lost: they are a guess at the future anyway.
            let durable = batch.iter().any(|op| !matches!(op, Op::Flush(_)));
            if !durable {
                txn.set_durability(Durability::None)?;
            }
            let applied = apply(&txn, batch, touched)?;
            txn.commit()?;
            Ok(applied)
        })
    }

    /// Says whether it can be written again.
    fn mend(&self, trouble: &Trouble) -> bool {
        let opened = match self.db.mend(trouble) {
            Mended::Opened => true,
            Mended::Anew(salvaged) => {
                self.ledger.index_lost();
                self.recent.forget_all();
                self.keep_pins(&salvaged);
                self.rebuild.send_replace(true);
                true
            }
            Mended::Not => false,
        };
        // The last commit may have been lost, or not.
        if let Some(known) = self.db.read(|db| meta(db, USED)) {
            self.ledger.index_knows(known.unwrap_or(0));
        }
        opened
    }

    /// What is pinned is known in memory better than by what a damaged file told.
    fn keep_pins(&self, salvaged: &Salvaged) {
        let missing: Vec<Op> = self
            .pins
            .names()
            .into_iter()
            .filter(|name| !salvaged.pins.contains_key(name))
            .map(|name| Op::Pin(name, Some(false), None))
            .collect();
        if !missing.is_empty()
            && let Err(trouble) = self.write(&missing, &HashMap::new())
        {
            warn!(error = %trouble, "some pins could not be written");
        }
    }

    fn settle(&self, batch: &mut Vec<Op>, applied: Applied) {
        self.ledger.committed(applied.moved);
        if applied.dropped {
            self.recent.tags.forget_all();
        }
        if applied.walked {
            self.ledger.all_found();
            self.db.clear_aside();
            self.rebuild.send_replace(false);
        }
        let mut removed = applied.removed.into_iter();
        for op in batch.drain(..) {
            match op {
                Op::Remove(_, ack) => {
                    let held = self.ledger.held(removed.next().unwrap_or(0));
                    if let Some(ack) = ack {
                        // Where nobody waits any more the bytes are given back here.
                        let _ = ack.send(Ok(held));
                    }
                }
                Op::Insert(_, _, _, Some(ack))
                | Op::Walked(Some(ack))
                | Op::Learnt(Some(ack))
                | Op::Pin(_, _, Some(ack))
                | Op::Release(_, _, Some(ack))
                | Op::Flush(Some(ack)) => {
                    let _ = ack.send(Ok(()));
                }
                _ => {}
            }
        }
    }

    fn give_up(&mut self, batch: &mut Vec<Op>, trouble: &Trouble) {
        let why = || IndexError(trouble.to_string());
        for op in batch.drain(..) {
            match op {
                Op::Insert(key, info, held, ack) => {
                    self.unwritten.push(Op::Insert(key, info, held, None));
                    if let Some(ack) = ack {
                        let _ = ack.send(Err(why()));
                    }
                }
                // What counts no more must not come back with the next start.
                op @ (Op::Adopt(..)
                | Op::Member(_, None)
                | Op::Grant(_, None)
                | Op::Standing(_, None)
                | Op::Untag(..)
                | Op::Tag(_, None)) => self.unwritten.push(op),
                Op::Remove(keys, ack) => {
                    self.unwritten.push(Op::Remove(keys, None));
                    if let Some(ack) = ack {
                        let _ = ack.send(Err(why()));
                    }
                }
                Op::Walked(Some(ack))
                | Op::Learnt(Some(ack))
                | Op::Pin(_, _, Some(ack))
                | Op::Release(_, _, Some(ack))
                | Op::Flush(Some(ack)) => {
                    let _ = ack.send(Err(why()));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn apply(
    txn: &WriteTransaction,
    batch: &[Op],
    touched: &HashMap<Vec<u8>, u64>,
) -> Result<Applied, Error> {
    let mut objects = txn.open_table(OBJECTS)?;
    let mut lru = txn.open_table(LRU)?;
    let mut tags = txn.open_table(TAGS)?;
    let mut members = txn.open_table(MEMBERS)?;
    let mut grants = txn.open_table(GRANTS)?;
    let mut children = txn.open_table(CHILDREN)?;
    let mut parents = txn.open_table(PARENTS)?;
    let mut subjects = txn.open_table(SUBJECTS)?;
    let mut referrers = txn.open_table(REFERRERS)?;
    let mut pins = txn.open_table(PINS)?;
    let mut released = txn.open_table(RELEASED)?;
    let mut standing = txn.open_table(STANDING)?;
    let mut meta = txn.open_table(META)?;
    let mut used = meta.get(USED)?.map_or(0, |v| v.value());
    let before = used;
    let mut applied = Applied::default();

    for (key, at) in touched {
        let Some((size, old, media)) = objects.get(key.as_slice())?.map(|v| {
            let (size, old, media) = v.value();
            (size, old, media.to_owned())
        }) else {
            continue;
        };
        lru.remove((old, key.as_slice()))?;
        lru.insert((*at, key.as_slice()), ())?;
        objects.insert(key.as_slice(), (size, *at, media.as_str()))?;
    }
    for op in batch {
        match op {
            Op::Insert(key, info, _, _) | Op::Adopt(key, info) => {
                let key = key.to_bytes();
                let old = objects.get(key.as_slice())?.map(|v| {
                    let (size, at, media) = v.value();
                    (size, at, media.to_owned())
                });
                let mut media = info.media_type.as_str();
                match op {
                    Op::Insert(_, _, held, _) => applied.moved.from_held += held,
                    _ => {
                        // Somebody else was faster, and knows more.
                        if old.as_ref().is_some_and(|(size, _, _)| *size == info.size) {
                            continue;
                        }
                        applied.moved.found += on_disk(info.size);
                        media = old.as_ref().map_or("", |(_, _, media)| media.as_str());
                    }
                }
                if let Some((size, at, _)) = &old {
                    lru.remove((*at, key.as_slice()))?;
                    used = used.saturating_sub(on_disk(*size));
                }
                objects.insert(key.as_slice(), (info.size, info.last_use, media))?;
                lru.insert((info.last_use, key.as_slice()), ())?;
                used = used.saturating_add(on_disk(info.size));
            }
            Op::Remove(keys, _) => {
                let mut gone = 0u64;
                for key in keys {
                    let key = key.to_bytes();
                    let old = objects
                        .remove(key.as_slice())?
                        .map(|v| (v.value().0, v.value().1));
                    if let Some((size, at)) = old {
                        lru.remove((at, key.as_slice()))?;
                        used = used.saturating_sub(on_disk(size));
                        gone = gone.saturating_add(on_disk(size));
                    }
                    // What upstream has shown stays true, but without the bytes nobody asks. Of what is not
                    // known it may be what a download says that is about to make it known.
                    if old.is_some() {
                        let mut end = key.clone();
                        end.push(u8::MAX);
                        members.retain_in(key.as_slice()..end.as_slice(), |_, _| false)?;
                    }
                    let known = children.remove(key.as_slice())?;
                    let known = known.map(|value| Child::read_all(value.value()));
                    for child in known.unwrap_or_default() {
                        parents.remove([child.key.to_bytes(), key.clone()].concat().as_slice())?;
                    }
                    let subject = subjects.remove(key.as_slice())?;
                    if let Some(subject) = subject.map(|value| value.value().to_vec()) {
                        referrers.remove([subject, key].concat().as_slice())?;
                    }
                }
                applied.moved.to_held = applied.moved.to_held.saturating_add(gone);
                applied.removed.push(gone);
            }
            Op::Tag(key, Some(record)) => {
                let record = (
                    record.digest.as_str(),
                    record.media_type.as_str(),
                    record.size,
                    record.confirmed,
                );
                let is_new = tags.insert(key.as_str(), record)?.is_none();
                if is_new && let Some(gone) = one_too_many(&tags, key)? {
                    tags.remove(gone.as_str())?;
                    applied.dropped = true;
                }
            }
            Op::Tag(key, None) => {
                tags.remove(key.as_str())?;
            }
            Op::Member(member, Some(at)) => {
                members.insert(member.as_slice(), at)?;
            }
            Op::Member(member, None) => {
                members.remove(member.as_slice())?;
            }
            Op::Grant(grant, Some(at)) => {
                grants.insert(grant.as_slice(), at)?;
            }
            Op::Grant(grant, None) => {
                grants.remove(grant.as_slice())?;
            }
            Op::Untag(prefix) => {
                tags.retain_in(prefix.as_str()..after(prefix).as_str(), |_, _| false)?;
            }
            Op::Walked(_) => {
                meta.insert(WALKED, 1)?;
                applied.walked = true;
            }
            Op::Prune(oldest) => {
                let pinned = names_of(&pins)?;
                tags.retain(|key, (_, _, _, confirmed)| {
                    let name = key.rfind('\n').map_or(key, |at| &key[..=at]);
                    confirmed >= *oldest || pinned.contains(name)
                })?;
                grants.retain(|_, at| at >= *oldest)?;
                standing.retain(|key, at| at >= *oldest || is_of_a_pinned(key, &pinned))?;
            }
            Op::Children(key, list, subject) => {
                let key = key.to_bytes();
                if let Some(subject) = subject {
                    let subject = subject.to_bytes();
                    subjects.insert(key.as_slice(), subject.as_slice())?;
                    referrers.insert([subject, key.clone()].concat().as_slice(), ())?;
                }
                let mut bytes = Vec::new();
                for child in list {
                    child.write(&mut bytes);
                    parents.insert([child.key.to_bytes(), key.clone()].concat().as_slice(), ())?;
                }
                children.insert(key.as_slice(), bytes.as_slice())?;
            }
            Op::Learnt(_) => {
                meta.insert(LEARNT, 1)?;
            }
            Op::Pin(name, Some(imported), _) => {
                pins.insert(name.as_str(), u64::from(*imported))?;
            }
            Op::Pin(name, None, _) => {
                pins.remove(name.as_str())?;
            }
            Op::Release(repository, keys, _) => {
                // A key begins with a letter, so all are below this.
                let end = [repository.as_slice(), &[u8::MAX]].concat();
                released.retain_in(repository.as_slice()..end.as_slice(), |_, _| false)?;
                for key in keys {
                    released.insert([repository.as_slice(), key].concat().as_slice(), ())?;
                }
            }
            Op::Standing(name, Some(at)) => {
                standing.insert(name.as_slice(), at)?;
            }
            Op::Standing(name, None) => {
                standing.remove(name.as_slice())?;
            }
            Op::Flush(_) => {}
        }
    }
    if used != before {
        meta.insert(USED, used)?;
    }
    applied.moved.known = used;
    Ok(applied)
}

fn names_of(pins: &impl ReadableTable<&'static str, u64>) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in pins.iter()? {
        names.insert(entry?.0.value().to_owned());
    }
    Ok(names)
}

/// Whether a grant's name is of a repository in which something is pinned.
fn is_of_a_pinned(name: &[u8], pinned: &BTreeSet<String>) -> bool {
    let repository = name.len().checked_sub(GRANT).map(|at| &name[..at]);
    let Some(Ok(prefix)) = repository.map(std::str::from_utf8) else {
        return false;
    };
    let next = pinned.range(prefix.to_owned()..).next();
    next.is_some_and(|name| name.starts_with(prefix))
}

/// Bytes of a grant's key.
const GRANT: usize = 32;
