//! The file a download is written to, hashed on the way.

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
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    path: PathBuf,
    key: Key,
    hasher: Hasher,
    written: u64,
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
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let mut spool = Self {
            file: Arc::new(file),
            path,
            key: key.clone(),
            hasher: Hasher::new(key.digest.algorithm()),
            written: 0,
        };
        let length = spool.file.metadata()?.len();
        let mut chunk = vec![0; 1 << 20];
        while spool.written < length {
            let n = spool.file.read_at(&mut chunk, spool.written)?;
            if n == 0 {
                break;
            }
            spool.hasher.update(&chunk[..n]);
            spool.written += n as u64;
        }
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
        }
    }

    /// The file, for those who follow the download; bytes below [`Spool::written`] are final.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes and hashes `chunks` in order. Blocking. After an error the spool still holds exactly
    /// [`Spool::written`] good bytes.
    pub fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.file.write_all_at(chunk, self.written)?;
            self.hasher.update(chunk);
            self.written += chunk.len() as u64;
        }
        Ok(())
    }

    /// Begins anew, for an upstream whose bytes do not continue the ones here.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
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

    /// Puts the verified file in place, durably; what cannot be put there is discarded. Blocking.
    pub fn commit(self, store: &Store) -> io::Result<Committed> {
        let mark = store.mark_path(&self.key);
        match self.put_in_place(store) {
            Ok(()) => Ok(Committed { mark }),
            Err(e) => {
                let _ = fs::remove_file(&mark);
                self.discard();
                Err(e)
            }
        }
    }

    fn put_in_place(&self, store: &Store) -> io::Result<()> {
        self.file.sync_data()?;
        let target = store.path(&self.key);
        let shard = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(shard)?;
        store.mark(&self.key)?;
        fs::rename(&self.path, &target)?;
        File::open(shard)?.sync_all()
    }

    /// Drops the bytes.
    pub fn discard(self) {
        // What cannot be removed now is found at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

// === impl Committed ===

impl Committed {
    /// Takes the mark away; to be called after the index knows the object.
    pub fn settle(self) {
        let _ = fs::remove_file(&self.mark);
    }
}
