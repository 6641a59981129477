//! The database file: opened, set aside when it is broken, opened anew after an error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Error, ReadableDatabase, TableDefinition};
use tracing::{error, warn};

use super::writer::apply;

/// The database, which an I/O error closes for good: it is opened anew then.
#[derive(Debug)]
pub(super) struct Db {
    pub(super) open: RwLock<Option<Database>>,
    pub(super) path: Option<PathBuf>,
}

// === impl Db ===

impl Db {
    pub(super) fn read<T>(&self, look: impl FnOnce(&Database) -> Result<T, Error>) -> Option<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        look(open.as_ref()?).ok()
    }

    /// After an error nothing more can be written through the old handle.
    pub(super) fn reopen(&self) {
        let Some(path) = &self.path else { return };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The old handle holds the file's lock.
        *open = None;
        match create(path) {
            Ok(db) => *open = Some(db),
            Err(e) => warn!(error = %e, "the cache index cannot be opened again yet"),
        }
    }
}

pub(super) fn create(path: &Path) -> Result<Database, Error> {
    let db = Builder::new().set_cache_size(CACHE).create(path)?;
    make_tables(&db)?;
    restrict(path);
    Ok(db)
}

pub(super) fn in_memory(why: &Error) -> (Database, Option<PathBuf>, bool) {
    error!(error = %why, "the cache index cannot be kept on disk; until the next start it lives in memory");
    let db = Builder::new()
        .create_with_backend(InMemoryBackend::new())
        // An empty database in memory asks nothing of the machine but memory.
        .unwrap_or_else(|e| panic!("an index in memory: {e}"));
    if let Err(e) = make_tables(&db) {
        error!(error = %e, "the index in memory has no tables");
    }
    (db, None, true)
}

fn make_tables(db: &Database) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    // As with every other change: a crash right after the start must not cost a walk of all of it.
    txn.set_quick_repair(true);
    apply(&txn, &[], HashMap::new())?;
    txn.commit()?;
    Ok(())
}

/// Whether the file is no database any more. A disk that is full, or a file somebody holds, is no
/// reason to set an index aside.
pub(super) fn is_broken(error: &Error) -> bool {
    match error {
        Error::Corrupted(_) | Error::UpgradeRequired(_) | Error::RepairAborted => true,
        Error::Io(e) => matches!(
            e.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // The index names private repositories; the directory's own mode is the first wall.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
}

pub(super) fn read_meta(db: &Database, name: &str) -> Option<u64> {
    meta(db, name).ok()?
}

pub(super) fn meta(db: &Database, name: &str) -> Result<Option<u64>, Error> {
    let table = db.begin_read()?.open_table(META)?;
    Ok(table.get(name)?.map(|value| value.value()))
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
