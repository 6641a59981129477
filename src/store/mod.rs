//! Bytes at rest: content-addressed files, and the spool a download is written to.
//!
//! Layout under the cache directory:
//!
//! ```text
//! lock                         held (flock) by the one process that uses the directory
//! blobs/sha256/ab/<hex>        verified blobs
//! manifests/sha256/ab/<hex>    verified manifests
//! partial/blobs-sha256-<hex>   downloads: in progress, or broken off and worth resuming
//! partial/….prefix             how many bytes of that download count, while it has bytes beyond a gap
//! partial/….done               an object of that name was put in place, and the index may not know it
//! ```
//!
//! A file appears under `blobs/` or `manifests/` only after it verified and was synced, by `rename(2)`
//! from `partial/`. The mark is made before and goes after the index knows the object, so that the next
//! start finds what a crash kept from the index without walking the tree.

mod key;
mod spool;
mod upload;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

pub use self::key::{Key, Kind};
pub use self::spool::{Committed, Mismatch, Spool};
use self::spool::{PREFIX, cut_to_prefix, prefix_path};
pub use self::upload::Upload;
use crate::oci::digest::{Algorithm, Digest, Hasher};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the cache directory cannot be used: {path}: {source}{}", mend(source))]
    Io {
        /// What of it could not be made or opened.
        path: PathBuf,
        source: io::Error,
    },
    #[error("the cache directory {path} is in use by another pierhead{}; give each its own cache.dir", process(*.holder))]
    Locked {
        path: PathBuf,
        /// Its process, where it said so and can be seen from here.
        holder: Option<u32>,
    },
}

/// The files of one cache directory, held by one process.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    _lock: File,
}

/// A file in `partial/` found at start.
#[derive(Debug)]
pub struct Partial {
    pub key: Key,
    pub left: Left,
}

/// What a process left of an object when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// So many bytes of a download.
    Broken(u64),
    /// It was marked, and it is there: the index may not know it.
    Placed,
    /// It was marked, and it is not there: the index may know it all the same.
    TakenOut,
}

/// A file on its way out; removed when dropped. Blocking, and for a large file not briefly.
#[derive(Debug)]
pub struct Trash(PathBuf);

// === impl Trash ===

impl Drop for Trash {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

// === impl Store ===

impl Store {
    /// Creates the layout where it is missing and takes the directory's lock.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let err = |path: &Path, source| StoreError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut dirs = fs::DirBuilder::new();
        dirs.recursive(true).mode(0o700);
        for folder in ["blobs", "manifests", "partial"] {
            let path = root.join(folder);
            dirs.create(&path).map_err(|e| err(&path, e))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| err(&path, e))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| StoreError::Locked {
            path: root.to_path_buf(),
            holder: fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        })?;
        // For the message of the one who comes second, and not needed on a full disk; the lock itself is
        // the kernel's, and ends with this process however that ends.
        let _ = lock
            .set_len(0)
            .and_then(|()| (&lock).write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(Self {
            root: root.to_path_buf(),
            _lock: lock,
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a verified object; `None` where there is none.
    pub fn open_object(&self, key: &Key) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path(key)) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// When an object came; `None` where there is none.
    pub fn since(&self, key: &Key) -> io::Result<Option<SystemTime>> {
        match fs::metadata(self.path(key)) {
            Ok(meta) => Ok(Some(meta.modified()?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Hashes an object: its size where the bytes are the digest's, `None` where they are not. Blocking.
    pub fn verify(&self, key: &Key) -> io::Result<Option<u64>> {
        use std::io::Read;
        let Some((mut file, size)) = self.open_object(key)? else {
            return Ok(None);
        };
        let mut hasher = Hasher::new(key.digest.algorithm());
        let mut chunk = vec![0; 1 << 20];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => hasher.update(&chunk[..n]),
            }
        }
        Ok((hasher.finish() == key.digest).then_some(size))
    }

    /// Takes an object out, quickly; its bytes go with the answer. `None` for one that is gone.
    pub fn take_out(&self, key: &Key) -> io::Result<Option<Trash>> {
        self.set_aside(key, &self.path(key))
    }

    /// The same for what is left of a broken download.
    pub fn take_partial(&self, key: &Key) -> io::Result<Option<Trash>> {
        self.set_aside(key, &self.partial_path(key))
    }

    fn set_aside(&self, key: &Key, path: &Path) -> io::Result<Option<Trash>> {
        let mut aside = self.partial_path(key).into_os_string();
        aside.push(TRASH);
        let aside = PathBuf::from(aside);
        match fs::rename(path, &aside) {
            Ok(()) => Ok(Some(Trash(aside))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Marks an object that is about to be taken out of the index, or put in: should the process die
    /// in between, the next start knows.
    pub fn mark(&self, key: &Key) -> io::Result<()> {
        File::create(self.mark_path(key)).map(drop)
    }

    /// Takes away the mark of an object that the index knows by now.
    pub fn settle(&self, key: &Key) -> io::Result<()> {
        gone_is_fine(fs::remove_file(self.mark_path(key)))
    }

    /// Removes what is left of a broken download.
    pub fn remove_partial(&self, key: &Key) -> io::Result<()> {
        let path = self.partial_path(key);
        gone_is_fine(fs::remove_file(&path))?;
        gone_is_fine(fs::remove_file(prefix_path(&path)))
    }

    /// Opens the spool of a download, hashing again what an earlier try left there. Blocking.
    pub fn spool(&self, key: &Key) -> io::Result<Spool> {
        Spool::open(self.partial_path(key), key)
    }

    /// A file for an upload whose digest is not known yet, but for its algorithm. Blocking.
    pub fn upload(&self, algorithm: Algorithm) -> io::Result<Upload> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("upload-{:016x}", u64::from_le_bytes(random));
        Upload::create(self.root.join("partial").join(name), algorithm)
    }

    /// Free bytes of the file system for an unprivileged user.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// What `partial/` holds; downloads with gaps are cut to what counts, and names that are no digests
    /// are removed.
    pub fn partials(&self) -> io::Result<Vec<Partial>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("partial"))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if let Some(spool) = name.strip_suffix(PREFIX) {
                cut_to_prefix(&self.root.join("partial").join(spool))?;
                continue;
            }
            let (name, in_place) = match name.strip_suffix(MARK) {
                Some(name) => (name, true),
                None => (name, false),
            };
            let Some(key) = parse_partial_name(name) else {
                gone_is_fine(fs::remove_file(entry.path()))?;
                continue;
            };
            let left = match (in_place, fs::symlink_metadata(self.path(&key))) {
                (false, _) => match cut_to_prefix(&entry.path()).and_then(|()| entry.metadata()) {
                    Ok(meta) => Left::Broken(meta.len()),
                    Err(_) => {
                        gone_is_fine(fs::remove_file(entry.path()))?;
                        continue;
                    }
                },
                (true, Ok(_)) => Left::Placed,
                (true, Err(e)) if e.kind() == io::ErrorKind::NotFound => Left::TakenOut,
                (true, Err(e)) => return Err(e),
            };
            found.push(Partial { key, left });
        }
        Ok(found)
    }

    /// Calls `each` for every object, in no order, with its size and when it was last read or written;
    /// ends early when it answers `false`. Blocking.
    pub fn walk(&self, mut each: impl FnMut(Key, u64, SystemTime) -> bool) -> io::Result<()> {
        for kind in Kind::ALL {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let top = self.root.join(kind.folder()).join(algorithm.as_str());
                let Ok(shards) = fs::read_dir(top) else {
                    continue;
                };
                for shard in shards {
                    let Ok(files) = fs::read_dir(shard?.path()) else {
                        continue;
                    };
                    for file in files {
                        let file = file?;
                        let name = file.file_name();
                        let Some(digest) = name
                            .to_str()
                            .and_then(|hex| Digest::from_str(&format!("{algorithm}:{hex}")).ok())
                        else {
                            continue;
                        };
                        let meta = match file.metadata() {
                            Ok(meta) => meta,
                            // Taken out meanwhile.
                            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                            Err(e) => return Err(e),
                        };
                        let times = [meta.accessed(), meta.modified()];
                        let used = times.into_iter().filter_map(Result::ok).max();
                        let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
                        if !each(Key { kind, digest }, meta.len(), used) {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, key: &Key) -> PathBuf {
        let hex = key.digest.hex();
        self.root
            .join(key.kind.folder())
            .join(key.digest.algorithm().as_str())
            .join(&hex[..2])
            .join(hex)
    }

    fn mark_path(&self, key: &Key) -> PathBuf {
        let mut path = self.partial_path(key).into_os_string();
        path.push(MARK);
        path.into()
    }

    fn partial_path(&self, key: &Key) -> PathBuf {
        self.root.join("partial").join(format!(
            "{}-{}-{}",
            key.kind.folder(),
            key.digest.algorithm().as_str(),
            key.digest.hex()
        ))
    }
}

/// Whether there is no room, for the file system or for whom it is written as: that passes.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// What a person can do about the directory, where it is plain.
fn mend(error: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
    };
    match error.kind() {
        PermissionDenied => {
            "; it has to belong to the user that the gateway runs as, or cache.dir has to be elsewhere"
        }
        ReadOnlyFilesystem => "; mount it for writing, or say a cache.dir elsewhere",
        AlreadyExists | IsADirectory | NotADirectory => {
            "; something else is in its place: move that away, or say a cache.dir elsewhere"
        }
        _ => "",
    }
}

fn process(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |id| format!(" (process {id})"))
}

const MARK: &str = ".done";
const TRASH: &str = ".trash";

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parse_partial_name(name: &str) -> Option<Key> {
    let (folder, rest) = name.split_once('-')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.folder() == folder)?;
    let (algorithm, hex) = rest.split_once('-')?;
    let digest = Digest::from_str(&format!("{algorithm}:{hex}")).ok()?;
    Some(Key { kind, digest })
}

#[cfg(test)]
mod tests;
