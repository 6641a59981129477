//! Complete objects that are being read: opened once, shared, and never evicted meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::store::{Key, Store, Trash};

/// A complete object, open for reading. As long as one clone lives it is not evicted.
#[derive(Clone, Debug)]
pub struct Object {
    file: Arc<File>,
    size: u64,
    key: Key,
    all: Arc<OpenObjects>,
}

/// Who is open now.
#[derive(Debug, Default)]
pub struct OpenObjects {
    open: Mutex<HashMap<Key, Weak<File>>>,
    /// What could not be read to its end, and was not looked at since.
    suspect: Mutex<HashSet<Key>>,
}

// === impl Object ===

impl Object {
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Notes that it could not be read: whoever asks next does not get it as it is.
    pub fn suspect(&self) {
        let mut suspect = self.all.suspects();
        // All of a disk may have failed; what is one of very many is noted when it is asked for again.
        if suspect.len() < MOST_SUSPECTS {
            suspect.insert(self.key.clone());
        }
    }
}

// === impl OpenObjects ===

impl OpenObjects {
    /// Opens `key`, or shares the file of somebody who has it open. Blocking, though briefly.
    pub fn open(self: &Arc<Self>, store: &Store, key: &Key) -> io::Result<Option<Object>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(key).and_then(Weak::upgrade) {
            let size = file.metadata()?.len();
            return Ok(Some(self.object(file, size, key)));
        }
        // Under the lock, so that an eviction sees either no file or an open one.
        let Some((file, size)) = store.open_object(key)? else {
            return Ok(None);
        };
        let file = Arc::new(file);
        note(&mut open, key, &file);
        Ok(Some(self.object(file, size, key)))
    }

    /// Knows of a file that was just put in place and that some read already.
    pub fn adopt(&self, key: &Key, file: &Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut open, key, file);
    }

    /// Whether `key` could not be read lately; asked once, it is no longer so.
    pub fn was_suspect(&self, key: &Key) -> bool {
        self.suspects().remove(key)
    }

    fn object(self: &Arc<Self>, file: Arc<File>, size: u64, key: &Key) -> Object {
        Object {
            file,
            size,
            key: key.clone(),
            all: self.clone(),
        }
    }

    fn suspects(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.suspect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_open(&self, key: &Key) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(key).is_some_and(|file| file.strong_count() > 0)
    }

    /// Takes the file of `key` out of the store unless somebody reads it. Blocking, though briefly: the
    /// file itself goes when the answer is dropped.
    pub fn remove(&self, store: &Store, key: &Key) -> io::Result<Removal> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(key).is_some_and(|file| file.strong_count() > 0) {
            return Ok(Removal::InUse);
        }
        open.remove(key);
        take_out(store, key)
    }

    /// The same even if somebody reads it: who does reads on, and nobody else opens it any more.
    pub fn remove_at_once(&self, store: &Store, key: &Key) -> io::Result<Removal> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(key);
        take_out(store, key)
    }
}

fn note(open: &mut HashMap<Key, Weak<File>>, key: &Key, file: &Arc<File>) {
    if open.len() >= SWEEP_AT && open.len().is_power_of_two() {
        open.retain(|_, file| file.strong_count() > 0);
    }
    open.insert(key.clone(), Arc::downgrade(file));
}

/// What became of a removal.
#[derive(Debug)]
pub enum Removal {
    InUse,
    /// To be dropped where blocking is no harm.
    Gone(Trash),
    WasGone,
}

fn take_out(store: &Store, key: &Key) -> io::Result<Removal> {
    Ok(match store.take_out(key)? {
        Some(trash) => Removal::Gone(trash),
        None => Removal::WasGone,
    })
}

const SWEEP_AT: usize = 1024;
const MOST_SUSPECTS: usize = 10_000;
