//! The CA: pierhead's own, made at the first start and limited to the configured registries, or
//! one that the company gives.

mod describe;
mod file;
mod own;

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, Issuer, KeyIdMethod, KeyPair, PublicKeyData, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use self::file::Paths;
use self::own::{create, issue};
use super::certificate::read_key;
use super::constraints::{NameConstraints, Subtrees};
use super::error::CaError;
use super::notice::{Notice, Scope};
use super::{CaConfig, der};

/// A CA that is ready to sign.
pub struct Authority {
    key: KeyPair,
    /// The subject, as DER: leaves carry these bytes as their issuer.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    subject: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    constraints: Option<Subtrees>,
    /// The certificates to serve after a leaf.
    chain: Vec<CertificateDer<'static>>,
    anchor: Anchor,
    certificate_path: PathBuf,
    key_path: PathBuf,
    own: bool,
}

/// The certificate that clients are to trust.
struct Anchor {
    subject: String,
    pem: String,
    fingerprint: String,
}

// === impl Authority ===

impl Authority {
    /// The CA as configured. Makes pierhead's own if there is none, and issues its certificate
    /// again where it is missing or is limited to other hosts than `names`; the key stays.
    /// A given CA is only read.
    pub fn open_or_create(
        config: &CaConfig,
        names: &NameConstraints,
    ) -> Result<(Self, Vec<Notice>), CaError> {
        let paths = Paths::new(config)?;
        if paths.given {
            return Self::open(config);
        }
        let wanted = config
            .name_constraints
            .then(|| Subtrees::new(names))
            .transpose()
            .map_err(|name| CaError::Constraint { name })?;

        let mut done = Vec::new();
        match (paths.certificate_exists()?, paths.key_exists()?) {
            (true, _) => {}
            (false, true) => {
                issue(&read_key(&paths.key)?, wanted.as_ref(), &paths.certificate)?;
                done.push(Notice::Restored {
                    certificate: paths.certificate.clone(),
                });
            }
            (false, false) => {
                create(config, &paths, wanted.as_ref())?;
                done.push(Notice::Created {
                    certificate: paths.certificate.clone(),
                    key: paths.key.clone(),
                });
            }
        }

        let (mut authority, mut notices) = Self::open(config)?;
        if authority.own && authority.constraints != wanted {
            let scope = scope(authority.constraints.as_ref(), wanted.as_ref());
            issue(&authority.key, wanted.as_ref(), &paths.certificate)?;
            (authority, notices) = Self::open(config)?;
            done.push(Notice::Reissued {
                certificate: paths.certificate,
                scope,
            });
        }
        done.append(&mut notices);
        Ok((authority, done))
    }

    /// The CA as it is on disk, for `ca show`. Writes nothing.
    pub fn open(config: &CaConfig) -> Result<(Self, Vec<Notice>), CaError> {
        let paths = Paths::new(config)?;
        if !paths.given {
            match (paths.certificate_exists()?, paths.key_exists()?) {
                (true, true) => {}
                (true, false) => {
                    return Err(CaError::KeyMissing {
                        certificate: paths.certificate,
                        key: paths.key,
                    });
                }
                (false, true) => {
                    return Err(CaError::CertificateMissing {
                        certificate: paths.certificate,
                        key: paths.key,
                    });
                }
                (false, false) => {
                    return Err(CaError::Absent {
                        dir: config.dir.clone(),
                    });
                }
            }
        }
        let authority = Self::load(&paths)?;
        let notices = authority.notices(&paths, OffsetDateTime::now_utc())?;
        Ok((authority, notices))
    }

    /// Issues the certificate again: same key and subject, the constraints it has, ten more years.
    /// Clients that trust the old one keep working until that ends.
    pub fn renew(self) -> Result<Self, CaError> {
        if !self.own {
            return Err(CaError::NotOurs {
                path: self.certificate_path,
            });
        }
        issue(&self.key, self.constraints.as_ref(), &self.certificate_path)?;
        Self::load(&Paths {
            certificate: self.certificate_path,
            key: self.key_path,
            given: false,
        })
    }

    /// Whether clients and leaves would not know the two apart.
    pub fn is(&self, other: &Self) -> bool {
        self.anchor.pem == other.anchor.pem && self.chain == other.chain
    }

    /// SHA-256 of the certificate that clients trust, as `openssl x509 -fingerprint` prints it:
    /// `AA:BB:…`.
    pub fn fingerprint(&self) -> &str {
        &self.anchor.fingerprint
    }

    /// The certificate that clients are to trust, PEM. Of a given chain that is the last one: the
    /// root if the file has it.
    pub fn certificate_pem(&self) -> &str {
        &self.anchor.pem
    }

    /// The file with the certificate, or with the chain of a given CA.
    pub fn path(&self) -> &Path {
        &self.certificate_path
    }

    /// When the first certificate of the chain ends. No leaf lives longer.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The subject of the issuing certificate, for a person.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether pierhead made this CA.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Signs a certificate for `public`. The issuer, the authority key identifier and the serial
    /// number of `params` are filled in.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        public: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, CaError> {
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = self.key_id.is_some();

        let mut stand_in = CertificateParams::default();
        stand_in.key_identifier_method =
            KeyIdMethod::PreSpecified(self.key_id.clone().unwrap_or_default());
        let issuer = Issuer::from_params(&stand_in, Unsigned(&self.key));
        let unsigned = params.signed_by(public, &issuer)?;
        let signed = der::sign_under(unsigned.der(), &self.name, |tbs| self.key.sign(tbs))
            // rcgen wrote it a moment ago.
            .ok_or(rcgen::Error::CouldNotParseCertificate)??;
        Ok(signed.into())
    }

    /// The certificates to serve after a leaf: none for a CA that clients trust directly.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("subject", &self.subject)
            .field("fingerprint", &self.anchor.fingerprint)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

// === impl Paths ===

// === impl Unsigned ===

/// Names a key's algorithm and leaves the signature to [`der::sign_under`].
struct Unsigned<'a>(&'a KeyPair);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

// === helpers ===

fn scope(old: Option<&Subtrees>, new: Option<&Subtrees>) -> Scope {
    match (old, new) {
        (Some(old), Some(new)) => Scope::Changed {
            added: new.beyond(old),
            removed: old.beyond(new),
        },
        (None, _) => Scope::Limited,
        (Some(_), None) => Scope::Unlimited,
    }
}

/// Positive and 16 bytes long (RFC 5280 4.1.2.2 allows 20). rcgen's own default is a hash of the
/// public key, which all leaves share.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Certificates begin this long ago, for clients whose clocks are behind.
pub(super) const BACKDATE: Duration = Duration::HOUR;

#[cfg(test)]
mod tests;
