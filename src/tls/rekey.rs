//! A new key in the place of one that others may have.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::authority::Authority;
use super::constraints::NameConstraints;
use super::error::CaError;
use super::{CaConfig, Notice};

/// Where the pair that was replaced is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

// === impl Authority ===

impl Authority {
    /// Puts a new CA in the place of this one, which is kept aside: a new key, and so a new subject and a new
    /// `ca.crt`, which every client needs. Cut off in between it leaves one of the two; never half of each.
    pub fn replace(
        self,
        config: &CaConfig,
        names: &NameConstraints,
    ) -> Result<(Self, Vec<Notice>, Aside), CaError> {
        if !self.is_own() {
            return Err(CaError::NotOurs {
                path: self.path().to_owned(),
            });
        }
        // The subject's last word is the beginning of the key's hash.
        let mark = self
            .subject()
            .rsplit(' ')
            .next()
            .unwrap_or("old")
            .to_owned();
        let aside = Aside {
            certificate: config.dir.join(format!("ca-{mark}.crt")),
            key: config.dir.join(format!("ca-{mark}.key")),
        };
        let (certificate, key) = (self.path().to_owned(), config.dir.join("ca.key"));
        drop(self);
        keep(&certificate, &aside.certificate)?;
        keep(&key, &aside.key)?;
        // A start that finds a key alone issues its certificate again: the old CA goes on. One that finds
        // neither makes a new one.
        for path in [&certificate, &key] {
            fs::remove_file(path).map_err(|source| CaError::io("remove", path, source))?;
        }
        let (authority, notices) = Self::open_or_create(config, names)?;
        Ok((authority, notices, aside))
    }
}

/// With the mode it has, and on the disk before the original goes.
fn keep(from: &Path, to: &Path) -> Result<(), CaError> {
    let written = fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
    written.map_err(|source| CaError::io("write", to, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_is_another_ca_and_the_old_one_is_kept_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = CaConfig {
            dir: dir.path().to_owned(),
            certificate: None,
            key: None,
            name_constraints: true,
        };
        let names = NameConstraints {
            dns: vec!["registry.example".to_owned()],
            ips: Vec::new(),
        };
        let (old, _) = Authority::open_or_create(&config, &names).unwrap();
        let fingerprint = old.fingerprint().to_owned();
        let (subject, pem) = (old.subject().to_owned(), old.certificate_pem().to_owned());
        let key = fs::read(dir.path().join("ca.key")).unwrap();
        let (new, notices, aside) = old.replace(&config, &names).unwrap();
        assert_ne!(new.fingerprint(), fingerprint);
        assert_ne!(new.subject(), subject);
        assert!(
            matches!(notices[..], [Notice::Created { .. }]),
            "{notices:?}"
        );
        assert_eq!(fs::read_to_string(&aside.certificate).unwrap(), pem);
        assert_eq!(fs::read(&aside.key).unwrap(), key);
        let mode = fs::metadata(&aside.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (again, notices) = Authority::open_or_create(&config, &names).unwrap();
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(again.fingerprint(), new.fingerprint());
    }
}
