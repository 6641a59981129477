//! The CA's two files: where they are, and what they say.

use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use super::super::certificate::{
    check_is_ca, fingerprint, is_self_issued, key_id, links, parse, pem, read_certificates,
    read_key,
};
use super::super::constraints::Subtrees;
use super::super::error::CaError;
use super::super::notice::Notice;
use super::super::{CaConfig, files};
use super::own::own_name;
use super::{Anchor, Authority};

/// Where the configured CA is.
pub(super) struct Paths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The company gives it: it is only read.
    pub(super) given: bool,
}

// === impl Paths ===

impl Paths {
    pub(super) fn new(config: &CaConfig) -> Result<Self, CaError> {
        match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => Ok(Self {
                certificate: certificate.clone(),
                key: key.clone(),
                given: true,
            }),
            (None, None) => Ok(Self {
                certificate: config.dir.join("ca.crt"),
                key: config.dir.join("ca.key"),
                given: false,
            }),
            (Some(_), None) => Err(CaError::HalfGiven {
                given: "certificate",
                missing: "key",
            }),
            (None, Some(_)) => Err(CaError::HalfGiven {
                given: "key",
                missing: "certificate",
            }),
        }
    }

    pub(super) fn certificate_exists(&self) -> Result<bool, CaError> {
        exists(&self.certificate)
    }

    pub(super) fn key_exists(&self) -> Result<bool, CaError> {
        exists(&self.key)
    }
}

// === impl Authority ===

impl Authority {
    pub(super) fn load(paths: &Paths) -> Result<Self, CaError> {
        Self::read(paths).map_err(|e| match paths.given {
            true => e.given("ca.certificate", "ca.key", &paths.key),
            false => e,
        })
    }

    fn read(paths: &Paths) -> Result<Self, CaError> {
        let key = read_key(&paths.key)?;
        let bad = |reason: String| CaError::Certificate {
            path: paths.certificate.clone(),
            reason,
        };
        let ders = read_certificates(&paths.certificate)?;
        let parsed = ders
            .iter()
            .map(|der| parse(der).map_err(bad))
            .collect::<Result<Vec<_>, _>>()?;
        let issuing = &parsed[0];

        if issuing.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(CaError::Mismatch {
                certificate: paths.certificate.clone(),
                key: paths.key.clone(),
            });
        }
        check_is_ca(issuing).map_err(|reason| CaError::NotACa {
            path: paths.certificate.clone(),
            reason,
        })?;

        let links = links(&parsed);
        // `links` starts with the issuing certificate, so that it is never empty.
        let last = links[links.len() - 1];
        let chain = links
            .iter()
            .filter(|index| !is_self_issued(&parsed[**index]))
            .map(|index| ders[*index].clone())
            .collect();
        let not_after = links
            .iter()
            .map(|index| parsed[*index].validity().not_after.to_datetime())
            .fold(
                issuing.validity().not_after.to_datetime(),
                OffsetDateTime::min,
            );
        let common_name = issuing
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok());
        let own = !paths.given
            && is_self_issued(issuing)
            && issuing.subject().iter_attributes().count() == 1
            && common_name == Some(&own_name(&key));

        Ok(Self {
            name: issuing.subject().as_raw().to_vec(),
            key_id: key_id(issuing),
            subject: issuing.subject().to_string(),
            not_before: issuing.validity().not_before.to_datetime(),
            not_after,
            constraints: Subtrees::read(issuing).map_err(bad)?,
            chain,
            anchor: Anchor {
                subject: parsed[last].subject().to_string(),
                pem: pem(&ders[last]),
                fingerprint: fingerprint(&ders[last]),
            },
            certificate_path: paths.certificate.clone(),
            key_path: paths.key.clone(),
            own,
            key,
        })
    }

    pub(super) fn notices(
        &self,
        paths: &Paths,
        now: OffsetDateTime,
    ) -> Result<Vec<Notice>, CaError> {
        let mut notices = Vec::new();
        if !self.own && !paths.given {
            notices.push(Notice::Foreign {
                certificate: self.certificate_path.clone(),
            });
        }
        let mode = files::mode(&self.key_path)
            .map_err(|source| CaError::io("examine", &self.key_path, source))?;
        if mode & 0o077 != 0 {
            notices.push(Notice::KeyMode {
                key: self.key_path.clone(),
                mode,
            });
        }
        if now < self.not_before {
            notices.push(Notice::NotYet {
                certificate: self.certificate_path.clone(),
                at: self.not_before,
            });
        }
        if self.not_after - now < EXPIRY_NOTICE {
            notices.push(Notice::Expires {
                certificate: self.certificate_path.clone(),
                at: self.not_after,
                ended: self.not_after <= now,
                own: self.own,
            });
        }
        Ok(notices)
    }
}

// === helpers ===

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists()
        .map_err(|source| CaError::io("examine", path, source))
}

/// An end nearer than this is a [`Notice`].
const EXPIRY_NOTICE: Duration = Duration::days(30);
