//! The CA's files: written whole or not at all, a key only where none is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Puts a secret at `path`, mode 0600. [`io::ErrorKind::AlreadyExists`] if something is there: it
/// is never overwritten, whoever wrote it and however late.
pub(super) fn create_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let temp = Temp::write(path, content, 0o600)?;
    // A rename would replace a key that another process made a moment ago; a link does not.
    match fs::hard_link(&temp.path, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Some file systems have no links. There a crash may leave half a key, which the next
        // start reports and does not use.
        Err(_) => write_new(path, content, 0o600)?,
    }
    drop(temp);
    sync_parent(path)
}

/// Puts `content` at `path`, mode 0644, in place of what is there. Readers see one or the other.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temp = Temp::write(path, content, 0o644)?;
    fs::rename(&temp.path, path)?;
    temp.keep();
    sync_parent(path)
}

/// The mode bits of `path`, links followed.
pub(super) fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A file beside its destination that goes away unless kept.
struct Temp {
    path: PathBuf,
    kept: bool,
}

impl Temp {
    fn write(destination: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = destination.file_name().unwrap_or_default();
        let name = format!(".{}.{:016x}", name.display(), u64::from_be_bytes(random));
        // Guarded before the write, so that half a file goes away too.
        let temp = Self {
            path: destination.with_file_name(name),
            kept: false,
        };
        write_new(&temp.path, content, mode)?;
        Ok(temp)
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing to be done about a failure: the name is random and never read again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_mode_0600_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        create_secret(&path, b"first").unwrap();
        assert_eq!(mode(&path).unwrap(), 0o600);

        let error = create_secret(&path, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_replaced_file_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        replace(&path, b"first").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
