//! What upstream once said, under keyed hashes: grants of credentials in repositories, and what is in
//! these.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use hmac::Mac;

use super::super::call::Call;
use super::Access;
use crate::cache::index::now_seconds;
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::upstream::Endpoint;

// === impl Access ===

impl Access {
    /// A key for what is remembered of one caller in one repository.
    pub fn grant_key(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        credential: Option<&[u8]>,
    ) -> [u8; 32] {
        let mut mac = self.mac.clone();
        for part in [endpoint.id.as_bytes(), repo.as_str().as_bytes()] {
            mac.update(part);
            mac.update(b"\n");
        }
        match credential {
            Some(value) => {
                mac.update(b"credential\n");
                mac.update(value);
            }
            None => mac.update(b"anonymous"),
        }
        mac.finalize().into_bytes().into()
    }

    /// The name of one content in one repository, for [`Index::member`]. Keyed, so that the index does
    /// not name private repositories twice.
    pub fn member_key(&self, endpoint: &Endpoint, repo: &RepoName, key: &Key) -> Vec<u8> {
        let mut mac = self.mac.clone();
        mac.update(endpoint.id.as_bytes());
        mac.update(b"\n");
        mac.update(repo.as_str().as_bytes());
        let mut member = key.to_bytes();
        member.extend_from_slice(&mac.finalize().into_bytes()[..16]);
        member
    }

    /// `lasting`: it counts for what is pinned beyond `offline_for`.
    pub(super) async fn set(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        key: [u8; 32],
        at: Option<u64>,
        lasting: bool,
    ) {
        match at {
            Some(at) => {
                let before = self.recent.get(&key);
                self.recent.insert(key, at);
                // One from the future is of a clock that was set back since.
                let age = before.and_then(|before| at.checked_sub(before));
                if age.is_some_and(|age| age < WRITE_AGAIN) {
                    return;
                }
            }
            // Until the index has written it, its old word must not count.
            None => self.recent.insert(key, REVOKED),
        }
        if lasting {
            let (origin, repository) = (&endpoint.id, repo.as_str());
            self.index.set_standing(origin, repository, &key, at).await;
        }
        self.index.set_grant(key, at).await;
    }

    pub(super) fn proven(&self, key: &[u8; 32]) -> Option<u64> {
        let at = match self.recent.get(key) {
            Some(at) => at,
            None => {
                // What cannot be read now is not unknown for good.
                let at = self.index.grant(key).ok()?.unwrap_or(UNKNOWN);
                self.recent.entry(*key).or_insert(at).into_value()
            }
        };
        (at > UNKNOWN).then_some(at)
    }

    pub(super) fn is_member(&self, call: &Call, repo: &RepoName, key: &Key) -> bool {
        self.index
            .member(&self.member_key(&call.endpoint, repo, key))
    }

    pub(super) fn fresh(&self, key: &[u8; 32]) -> bool {
        // Proven in the future: the clock was set back, and upstream decides again.
        self.proven(key)
            .and_then(|proven| now_seconds().checked_sub(proven))
            .is_some_and(|age| age < GRANT_LIFE.as_secs())
    }
}

// === helpers ===

/// Reads or makes the secret that keys the hashes.
pub(super) fn secret(path: &Path) -> io::Result<[u8; 32]> {
    let found = fs::read(path);
    if let Ok(bytes) = &found
        && let Ok(secret) = <[u8; 32]>::try_from(&bytes[..])
    {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    if let Err(e) = found
        && e.kind() != io::ErrorKind::NotFound
    {
        // It may be read the next time, and all that was ever granted hangs on it.
        tracing::warn!(path = %path.display(), error = %e, "the key of the grants cannot be read; upstream is asked anew until the next start");
        return Ok(secret);
    }
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if let Err(e) = written {
        // Good for this run; the next one asks upstream again.
        tracing::warn!(error = %e, "grants will not outlive this process");
    }
    Ok(secret)
}

/// "Minutes": how long an upstream's yes holds while it could be asked again.
pub(super) const GRANT_LIFE: Duration = Duration::from_secs(300);
/// Seconds between two writes of the same grant.
const WRITE_AGAIN: u64 = 30;
pub(super) const REVOKED: u64 = 0;
const UNKNOWN: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

    /// All that was ever granted hangs on it, and the disk may give it back at the next start.
    #[test]
    fn a_key_of_the_grants_that_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.key");
        // Nothing is mapped at its beginning, so that a read of it fails as one of a bad sector does.
        std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
        let unread = fs::read(&path).unwrap_err();
        assert_eq!(unread.raw_os_error(), Some(EIO));
        assert_ne!(secret(&path).unwrap(), secret(&path).unwrap());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_of_the_grants_is_made_where_there_is_none_or_half_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.key");
        let first = secret(&path).unwrap();
        assert_eq!(secret(&path).unwrap(), first);
        fs::write(&path, &first[..16]).unwrap();
        let second = secret(&path).unwrap();
        assert_ne!(second, first);
        assert_eq!(secret(&path).unwrap(), second);
    }
}
