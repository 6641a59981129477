//! The database file: opened, mended or set aside when it is damaged, opened anew after an error.
//!
//! Nothing that a file holds stops the gateway. The database trusts its pages and may panic over
//! damaged ones, so every use of it is guarded: a panic is damage, and damage means a new file, which
//! takes over what the old one still tells about pins and tags. Objects are found again by their files;
//! whatever speaks of access is not taken over, but proven anew.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Error, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::TagRecord;
use super::tags::tag_record;
use super::writer::{Op, apply};
use crate::store::is_full;

/// The database, which an I/O error closes for good: it is opened anew then.
#[derive(Debug)]
pub(super) struct Db {
    open: RwLock<Option<Database>>,
    /// `None`: it lives in memory.
    path: Option<PathBuf>,
    /// Why it does.
    shut_out: Option<String>,
    /// What a reader ran into, for the writer to mend.
    suspect: Mutex<Option<Trouble>>,
    suspected: AtomicBool,
    /// Times it was damaged by its own word, though its pages are what they were.
    strikes: AtomicU32,
    writer: OnceLock<mpsc::WeakSender<Op>>,
    /// Whether nothing can be written to it, as on a full disk.
    #[cfg(test)]
    pub(super) is_full: AtomicBool,
}

/// What went wrong with the database.
#[derive(Debug)]
pub(super) enum Trouble {
    Redb(Error),
    /// It did not expect to find what it found.
    Panic(String),
}

/// Nothing can be read at this time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the cache index cannot be read")]
pub struct Unreadable;

/// What a damaged index still told.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub pins: HashMap<String, bool>,
    pub tags: Vec<(String, TagRecord)>,
}

/// What mending came to.
#[derive(Debug)]
pub(super) enum Mended {
    /// It is what it was.
    Opened,
    /// It is a new one.
    Anew(Salvaged),
    /// Not yet.
    Not,
}

// === impl Db ===

impl Db {
    /// Opens or makes the file. Never fails: where no file can be written it lives in memory. Answers
    /// what a damaged one told, too.
    pub(super) fn open(path: PathBuf) -> (Self, Option<Salvaged>) {
        let (made, salvaged) = match create(&path) {
            Ok(db) => (Ok(db), None),
            Err(trouble) if trouble.is_damage() => {
                let (made, salvaged) = renew(&path, &trouble);
                (made, Some(salvaged))
            }
            Err(trouble) => (Err(trouble), Some(Salvaged::default())),
        };
        let (db, path, shut_out) = match made {
            Ok(db) => (db, Some(path), None),
            Err(trouble) => {
                let why = format!("{}: {trouble}; {}", path.display(), trouble.mend());
                (in_memory(&trouble), None, Some(why))
            }
        };
        let opened = Self {
            open: RwLock::new(Some(db)),
            path,
            shut_out,
            suspect: Mutex::default(),
            suspected: AtomicBool::new(false),
            strikes: AtomicU32::new(0),
            writer: OnceLock::new(),
            #[cfg(test)]
            is_full: AtomicBool::default(),
        };
        (opened, salvaged)
    }

    /// Whom to wake when something is wrong.
    pub(super) fn written_by(&self, writer: mpsc::WeakSender<Op>) {
        let _ = self.writer.set(writer);
    }

    /// Looks something up; `None` also when that is not possible.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Database) -> Result<T, Error>) -> Option<T> {
        self.try_read(look).ok()
    }

    pub(super) fn try_read<T>(
        &self,
        look: impl FnOnce(&Database) -> Result<T, Error>,
    ) -> Result<T, Unreadable> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(db) = open.as_ref() else {
            return Err(Unreadable);
        };
        let found = guarded(|| look(db));
        drop(open);
        found.map_err(|trouble| {
            self.suspect(trouble);
            Unreadable
        })
    }

    /// Why what is kept on disk cannot be read at this time.
    pub(super) fn trouble(&self) -> Option<String> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            return Some("it cannot be opened again yet".to_owned());
        }
        drop(open);
        let suspect = self.suspect.lock().unwrap_or_else(PoisonError::into_inner);
        let suspect = suspect.as_ref().map(Trouble::to_string);
        suspect.or_else(|| self.shut_out.clone())
    }

    /// Changes something. Whatever goes wrong, [`Db::mend`] comes next.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&Database) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        #[cfg(test)]
        if self.is_full.load(Ordering::Relaxed) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(Trouble::Redb(full.into()));
        }
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let db = open.as_ref().ok_or(Error::DatabaseClosed);
        let db = db.map_err(Trouble::Redb)?;
        guarded(|| change(db))
    }

    /// What a reader ran into since it was last asked.
    pub(super) fn suspicion(&self) -> Option<Trouble> {
        if !self.suspected.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut suspect = self.suspect.lock().unwrap_or_else(PoisonError::into_inner);
        suspect.take()
    }

    /// Opens it anew, and checks every page where it seems damaged. What is damaged is set aside.
    pub(super) fn mend(&self, trouble: &Trouble) -> Mended {
        let Some(path) = &self.path else {
            return Mended::Not;
        };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The old handle holds the file's lock.
        if let Some(old) = open.take() {
            let _ = guarded(|| {
                drop(old);
                Ok(())
            });
        }
        let again = match trouble.is_damage() {
            _ if !path.exists() => Err(Trouble::Panic("its file is gone".to_owned())),
            true if self.strikes.fetch_add(1, Ordering::Relaxed) < MOST_STRIKES => checked(path),
            true => Err(Trouble::Panic(format!("{trouble}, again"))),
            false => create(path),
        };
        let damage = match again {
            Ok(db) => {
                *open = Some(db);
                return Mended::Opened;
            }
            Err(damage) if damage.is_damage() => damage,
            Err(e) => {
                warn!(error = %e, "the cache index cannot be opened again yet");
                return Mended::Not;
            }
        };
        self.strikes.store(0, Ordering::Relaxed);
        let (made, salvaged) = renew(path, &damage);
        match made {
            Ok(db) => *open = Some(db),
            Err(e) => warn!(error = %e, "no new cache index can be made yet"),
        }
        Mended::Anew(salvaged)
    }

    /// Bytes that it takes on disk.
    pub(super) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let taken = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
        let path = self.path.as_deref();
        path.map_or(0, |path| taken(path) + taken(&aside(path)))
    }

    /// Removes what was set aside.
    pub(super) fn clear_aside(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(aside(path));
        }
    }

    /// Whether it has a file.
    #[cfg(test)]
    pub(super) fn is_on_disk(&self) -> bool {
        self.path.is_some()
    }

    fn suspect(&self, trouble: Trouble) {
        let mut suspect = self.suspect.lock().unwrap_or_else(PoisonError::into_inner);
        if suspect.is_none() {
            warn!(error = %trouble, "the cache index could not be read");
            *suspect = Some(trouble);
        }
        drop(suspect);
        self.suspected.store(true, Ordering::Release);
        if let Some(writer) = self.writer.get().and_then(mpsc::WeakSender::upgrade) {
            // Where its queue is full it is awake.
            let _ = writer.try_send(Op::Flush(None));
        }
    }
}

// === impl Trouble ===

impl Trouble {
    /// Whether the file is no database any more. A disk that is full, or a file somebody holds, is no
    /// reason to set an index aside.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Panic(_) => true,
            Self::Redb(error) => match error {
                Error::Corrupted(_)
                | Error::UpgradeRequired(_)
                | Error::RepairAborted
                | Error::TableTypeMismatch { .. }
                | Error::TypeDefinitionChanged { .. }
                | Error::TableIsMultimap(_)
                | Error::TableDoesNotExist(_) => true,
                Error::Io(e) => matches!(
                    e.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ),
                _ => false,
            },
        }
    }

    /// What to do where it keeps the index from having a file.
    fn mend(&self) -> &'static str {
        match self {
            Self::Redb(Error::Io(e)) if is_full(e) => {
                "make room on its file system, and start the gateway again"
            }
            _ => "the user that the gateway runs as has to be able to read and write it",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb(error) => error.fmt(f),
            Self::Panic(why) => write!(f, "the database gave up: {why}"),
        }
    }
}

/// Runs something that may panic over what a file holds.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Trouble::Redb),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Trouble::Panic(text.unwrap_or("no word").to_owned()))
        }
    }
}

fn create(path: &Path) -> Result<Database, Trouble> {
    guarded(|| {
        let db = Builder::new().set_cache_size(CACHE).create(path)?;
        ready(path, db)
    })
}

/// Opens a file whose every page is what it says.
fn checked(path: &Path) -> Result<Database, Trouble> {
    guarded(|| {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE);
        builder.set_check_integrity_on_open(true);
        ready(path, builder.open(path)?)
    })
}

fn ready(path: &Path, db: Database) -> Result<Database, Error> {
    // On a full disk nothing can be made, and what is there can be read.
    if !has_tables(&db)? {
        make_tables(&db)?;
    }
    restrict(path);
    Ok(db)
}

/// Sets a damaged file aside and makes a new one, with what the old one tells.
fn renew(path: &Path, why: &Trouble) -> (Result<Database, Trouble>, Salvaged) {
    let aside = aside(path);
    warn!(error = %why, "the cache index is damaged; it is set aside and made anew from the files");
    let salvaged = match std::fs::rename(path, &aside) {
        Ok(()) => salvage(&aside),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Salvaged::default(),
        Err(e) => return (Err(Trouble::Redb(e.into())), Salvaged::default()),
    };
    let (pins, tags) = (salvaged.pins.len(), salvaged.tags.len());
    if pins + tags > 0 {
        info!(pins, tags, "what the damaged index still told is kept");
    }
    let made = create(path).and_then(|db| {
        let ops = salvaged.ops();
        guarded(|| {
            let txn = db.begin_write()?;
            apply(&txn, &ops, &HashMap::new())?;
            txn.commit()?;
            Ok(())
        })?;
        Ok(db)
    });
    (made, salvaged)
}

/// Reads out of a damaged file what the files of the cache do not tell, as far as that goes.
fn salvage(path: &Path) -> Salvaged {
    let mut found = Salvaged::default();
    let _ = guarded(|| {
        let db = Builder::new().set_cache_size(CACHE).open(path)?;
        let read = db.begin_read()?;
        let pins = guarded(|| {
            for entry in read.open_table(PINS)?.iter()? {
                let (name, imported) = entry?;
                let imported = imported.value() == 1;
                found.pins.insert(name.value().to_owned(), imported);
            }
            Ok(())
        });
        let tags = guarded(|| {
            for entry in read.open_table(TAGS)?.iter()? {
                let (key, value) = entry?;
                let record = tag_record(value.value());
                found.tags.push((key.value().to_owned(), record));
            }
            Ok(())
        });
        for trouble in [pins, tags].into_iter().filter_map(Result::err) {
            warn!(error = %trouble, "some of the damaged index cannot be read");
        }
        Ok(())
    });
    found
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("redb.broken")
}

fn in_memory(why: &Trouble) -> Database {
    error!(error = %why, "the cache index cannot be kept on disk; until the next start it lives in memory");
    let db = Builder::new()
        .create_with_backend(InMemoryBackend::new())
        // An empty database in memory asks nothing of the machine but memory.
        .unwrap_or_else(|e| panic!("an index in memory: {e}"));
    if let Err(e) = make_tables(&db) {
        error!(error = %e, "the index in memory has no tables");
    }
    db
}

fn has_tables(db: &Database) -> Result<bool, Error> {
    let read = db.begin_read()?;
    let missing = [
        read.open_table(OBJECTS).err(),
        read.open_table(LRU).err(),
        read.open_table(TAGS).err(),
        read.open_table(MEMBERS).err(),
        read.open_table(GRANTS).err(),
        read.open_table(CHILDREN).err(),
        read.open_table(PARENTS).err(),
        read.open_table(PINS).err(),
        read.open_table(RELEASED).err(),
        read.open_table(STANDING).err(),
        read.open_table(SUBJECTS).err(),
        read.open_table(REFERRERS).err(),
        read.open_table(META).err(),
    ];
    match missing.into_iter().flatten().next() {
        None => Ok(true),
        Some(TableError::TableDoesNotExist(_)) => Ok(false),
        Some(other) => Err(other.into()),
    }
}

fn make_tables(db: &Database) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    // As with every other change: a crash right after the start must not cost a walk of all of it.
    txn.set_quick_repair(true);
    apply(&txn, &[], &HashMap::new())?;
    txn.commit()?;
    Ok(())
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // The index names private repositories; the directory's own mode is the first wall.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
}

pub(super) fn meta(db: &Database, name: &str) -> Result<Option<u64>, Error> {
    let table = db.begin_read()?.open_table(META)?;
    Ok(table.get(name)?.map(|value| value.value()))
}

// === impl Salvaged ===

impl Salvaged {
    /// What makes a new index know it.
    pub(super) fn ops(&self) -> Vec<Op> {
        let pins = self.pins.iter();
        let pins = pins.map(|(name, imported)| Op::Pin(name.clone(), Some(*imported), None));
        let tags = self.tags.iter();
        let tags = tags.map(|(key, record)| Op::Tag(key.clone(), Some(record.clone())));
        pins.chain(tags).collect()
    }
}

pub(super) const OBJECTS: TableDefinition<'_, &[u8], (u64, u64, &str)> =
    TableDefinition::new("objects");
pub(super) const LRU: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("lru");
pub(super) const TAGS: TableDefinition<'_, &str, (&str, &str, u64, u64)> =
    TableDefinition::new("tags");
pub(super) const MEMBERS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("members");
pub(super) const GRANTS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("grants");
/// By manifest: what it refers to, see `images::Child`.
pub(super) const CHILDREN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("children");
/// The other way round: the child's key, then the manifest's.
pub(super) const PARENTS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("parents");
/// By manifest: the one that it is about, and the other way round: that one's key, then the manifest's.
pub(super) const SUBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("subjects");
pub(super) const REFERRERS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("referrers");
/// By image; 1 for one that was imported.
pub(super) const PINS: TableDefinition<'_, &str, u64> = TableDefinition::new("pins");
/// By repository and object: what anybody may have while upstream is away.
pub(super) const RELEASED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("released");
/// By repository and grant: when it was last proven.
pub(super) const STANDING: TableDefinition<'_, &[u8], u64> = TableDefinition::new("standing");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const USED: &str = "used";
/// Present once every file on disk was known.
pub(super) const WALKED: &str = "walked";
/// Present once it was known of every manifest what it refers to, its subject included.
pub(super) const LEARNT: &str = "learnt with subjects";
const CACHE: usize = 16 << 20;
/// How often it may seem damaged and prove sound before it is made anew all the same.
const MOST_STRIKES: u32 = 2;
