//! The file a push is copied to while it passes, before anybody has named its digest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Spool};
use crate::oci::digest::{Algorithm, Hasher};

/// Bytes of an upload, hashed as sha256. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    file: Arc<File>,
    path: PathBuf,
    hasher: Hasher,
    written: u64,
}

// === impl Upload ===

impl Upload {
    pub(super) fn create(path: PathBuf, algorithm: Algorithm) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        Ok(Self {
            file: Arc::new(file),
            path,
            hasher: Hasher::new(algorithm),
            written: 0,
        })
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes and hashes. Blocking.
    pub fn append(&mut self, chunk: &Bytes) -> io::Result<()> {
        self.file.write_all_at(chunk, self.written)?;
        self.hasher.update(chunk);
        self.written += chunk.len() as u64;
        Ok(())
    }

    /// Becomes the spool of `key`, to be verified and committed like a download. It keeps the file that
    /// it has: a download of the same may be writing to its own.
    /// Blocking where the key's algorithm is not the one that was hashed with: the file is read anew.
    pub fn named(mut self, key: &Key) -> io::Result<Spool> {
        let (file, hasher) = (self.file.clone(), self.hasher.clone());
        let known = hasher.algorithm() == key.digest.algorithm();
        let mut spool = match known {
            true => Spool::taken_over(file, self.path.clone(), key, hasher, self.written),
            false => {
                let hasher = Hasher::new(key.digest.algorithm());
                Spool::taken_over(file, self.path.clone(), key, hasher, 0)
            }
        };
        spool.hash_until(self.written)?;
        // The spool's from here on.
        self.path.clear();
        Ok(spool)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Named by then, or in nobody's interest.
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
