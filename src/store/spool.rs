//! The file a download is written to, hashed on the way.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Store};
use crate::oci::digest::{Digest, Hasher};

/// A download's file. Dropped without [`Spool::commit`] or [`Spool::discard`], the bytes stay in
/// `partial/` for the next try to resume.
///
/// Bytes may be put in any order; they are hashed, and count as [`Spool::written`], in the blob's own.
/// As long as there are bytes beyond a gap, a small file beside it says how many count: who opens the
/// spool after a crash cuts it there.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    path: PathBuf,
    key: Key,
    hasher: Hasher,
    written: u64,
    /// Parts beyond a gap: the offset of each, and where it ends.
    ahead: BTreeMap<u64, u64>,
    prefix: Option<File>,
}

/// An object that is in place but whose mark in `partial/` still says that the index may not know it.
#[derive(Debug)]
#[must_use = "settle it once the index knows the object"]
pub struct Committed {
    mark: PathBuf,
}

/// The bytes that arrived are not the ones that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("asked for {expected}, received {actual} ({size} bytes)")]
pub struct Mismatch {
    pub expected: Digest,
    pub actual: Digest,
    pub size: u64,
}

// === impl Spool ===

impl Spool {
    pub(super) fn open(path: PathBuf, key: &Key) -> io::Result<Self> {
        cut_to_prefix(&path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let hasher = Hasher::new(key.digest.algorithm());
        let mut spool = Self::taken_over(Arc::new(file), path, key, hasher, 0);
        let length = spool.file.metadata()?.len();
        spool.hash_until(length)?;
        Ok(spool)
    }

    pub(super) fn taken_over(
        file: Arc<File>,
        path: PathBuf,
        key: &Key,
        hasher: Hasher,
        written: u64,
    ) -> Self {
        Self {
            file,
            path,
            key: key.clone(),
            hasher,
            written,
            ahead: BTreeMap::new(),
            prefix: None,
        }
    }

    /// The file, for those who follow the download; bytes below [`Spool::written`] are final.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Bytes from the blob's first on that are here without a gap, and hashed.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that are here at all.
    pub fn held(&self) -> u64 {
        let ahead = self.ahead.iter().map(|(start, end)| end - start);
        self.written + ahead.sum::<u64>()
    }

    /// The gap before some bytes is closed, and they wait to be hashed.
    pub fn is_behind(&self) -> bool {
        let first = self.ahead.first_key_value();
        first.is_some_and(|(start, _)| *start <= self.written)
    }

    /// Writes `chunks` in order behind what is here. Blocking. After an error the spool still holds
    /// exactly [`Spool::written`] good bytes.
    pub fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.put(self.written, chunk)?;
        }
        Ok(())
    }

    /// Writes each chunk at its offset, then goes on hashing for a while; see [`Spool::is_behind`].
    /// Blocking.
    pub fn take(&mut self, chunks: &[(u64, Bytes)]) -> io::Result<()> {
        for (at, chunk) in chunks {
            self.put(*at, chunk)?;
        }
        self.catch_up()?;
        self.note_prefix()
    }

    /// Drops what is beyond the first gap. Blocking.
    pub fn drop_ahead(&mut self) -> io::Result<()> {
        if self.prefix.is_some() {
            self.file.set_len(self.written)?;
            self.ahead.clear();
            self.forget_prefix();
        }
        Ok(())
    }

    /// Begins anew, for an upstream whose bytes do not continue the ones here.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.forget_prefix();
        self.ahead.clear();
        self.hasher = Hasher::new(self.key.digest.algorithm());
        self.written = 0;
        Ok(())
    }

    /// Compares what was written with the digest that was asked for.
    pub fn verify(&self) -> Result<(), Mismatch> {
        let actual = self.hasher.clone().finish();
        if actual == self.key.digest {
            return Ok(());
        }
        Err(Mismatch {
            expected: self.key.digest.clone(),
            actual,
            size: self.written,
        })
    }

    /// Puts the verified file in place, durably. Blocking. What cannot be put there is discarded, and
    /// with it what may have been in its place; the mark stays then, for the index may know of that.
    pub fn commit(mut self, store: &Store) -> io::Result<Committed> {
        let mark = store.mark_path(&self.key);
        match self.put_in_place(store) {
            Ok(()) => Ok(Committed { mark }),
            Err(e) => {
                self.discard();
                Err(e)
            }
        }
    }

    /// Drops the bytes.
    pub fn discard(mut self) {
        // What cannot be removed now is found at the next start.
        let _ = fs::remove_file(&self.path);
        self.forget_prefix();
    }

    fn put(&mut self, at: u64, chunk: &Bytes) -> io::Result<()> {
        // Two connections may bring the same bytes; those that count already are not touched again.
        let known = usize::try_from(self.written.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(chunk) = chunk.get(known..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        let at = at.max(self.written);
        if at == self.written {
            self.file.write_all_at(chunk, at)?;
            self.hasher.update(chunk);
            self.written += chunk.len() as u64;
            return Ok(());
        }
        if self.prefix.is_none() {
            self.prefix = Some(File::create(prefix_path(&self.path))?);
            self.note_prefix()?;
        }
        self.file.write_all_at(chunk, at)?;
        self.note_ahead(at, at + chunk.len() as u64);
        Ok(())
    }

    /// Remembers that `start..end` is here, as one with what it touches.
    fn note_ahead(&mut self, mut start: u64, mut end: u64) {
        let touching = self.ahead.range(..=end).rev();
        let touching: Vec<u64> = touching
            .take_while(|(_, its_end)| **its_end >= start)
            .map(|(its_start, _)| *its_start)
            .collect();
        for key in touching {
            let its_end = self.ahead.remove(&key).unwrap_or(end);
            (start, end) = (start.min(key), end.max(its_end));
        }
        self.ahead.insert(start, end);
    }

    /// Hashes what the closing of a gap has made part of the whole, [`CATCH_UP`] bytes at most: others
    /// wait to be written.
    fn catch_up(&mut self) -> io::Result<()> {
        let most = self.written + CATCH_UP;
        while let Some((&start, &end)) = self.ahead.first_key_value() {
            if start > self.written || self.written >= most {
                break;
            }
            let until = end.min(most);
            self.hash_until(until)?;
            if self.written < until {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            self.ahead.remove(&start);
            if self.written < end {
                self.ahead.insert(self.written, end);
            }
        }
        Ok(())
    }

    /// Hashes from the file what is there, up to `end`.
    pub(super) fn hash_until(&mut self, end: u64) -> io::Result<()> {
        if self.written >= end {
            return Ok(());
        }
        let mut chunk = vec![0; usize::try_from(end - self.written).map_or(READ, |n| n.min(READ))];
        while self.written < end {
            let want =
                usize::try_from(end - self.written).map_or(chunk.len(), |n| n.min(chunk.len()));
            let n = self.file.read_at(&mut chunk[..want], self.written)?;
            if n == 0 {
                break;
            }
            self.hasher.update(&chunk[..n]);
            self.written += n as u64;
        }
        Ok(())
    }

    /// After the bytes themselves, so that a process that is killed in between has said too little.
    fn note_prefix(&self) -> io::Result<()> {
        match &self.prefix {
            Some(prefix) => prefix.write_all_at(&self.written.to_le_bytes(), 0),
            None => Ok(()),
        }
    }

    fn forget_prefix(&mut self) {
        if self.prefix.take().is_some() {
            let _ = fs::remove_file(prefix_path(&self.path));
        }
    }

    fn put_in_place(&mut self, store: &Store) -> io::Result<()> {
        self.drop_ahead()?;
        self.file.sync_data()?;
        let target = store.path(&self.key);
        let shard = target.parent().unwrap_or(Path::new("."));
        if !shard.exists() {
            fs::create_dir_all(shard)?;
            // The folder's own name must outlive a power cut, too.
            for above in shard.ancestors().skip(1).take(2) {
                File::open(above)?.sync_all()?;
            }
        }
        // First, because what was in its place is lost with the rename.
        let shard = File::open(shard)?;
        store.mark(&self.key)?;
        fs::rename(&self.path, &target)?;
        let synced = shard.sync_all();
        if synced.is_err() {
            // Nobody will know of it, so it must not be there.
            let _ = fs::remove_file(&target);
        }
        synced
    }
}

// === impl Committed ===

impl Committed {
    /// Takes the mark away; to be called after the index knows the object.
    pub fn settle(self) {
        let _ = fs::remove_file(&self.mark);
    }
}

/// Cuts a spool that a dead process left with gaps to the bytes that count. Blocking.
pub(super) fn cut_to_prefix(path: &Path) -> io::Result<()> {
    let beside = prefix_path(path);
    let said = match fs::read(&beside) {
        Ok(said) => said,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    // It says nothing before there is a gap.
    let counts = said.try_into().map_or(u64::MAX, u64::from_le_bytes);
    match OpenOptions::new().write(true).open(path) {
        Ok(file) if file.metadata()?.len() > counts => file.set_len(counts)?,
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    fs::remove_file(&beside)
}

pub(super) fn prefix_path(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(PREFIX);
    beside.into()
}

/// What the name of the file that says how many bytes of a spool count ends in.
pub(super) const PREFIX: &str = ".prefix";
/// Bytes that are hashed from the file at a time.
const READ: usize = 256 << 10;
const CATCH_UP: u64 = 16 << 20;
