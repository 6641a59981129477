//! pierhead's own CA: a key that is made once, and the certificate that is issued for it, again where
//! its constraints change.

use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::super::certificate::read_key;
use super::super::constraints::Subtrees;
use super::super::error::CaError;
use super::super::{CaConfig, files};
use super::file::Paths;
use super::{BACKDATE, serial};

/// The key first: a start that ends between the two issues the certificate from it next time.
pub(super) fn create(
    config: &CaConfig,
    paths: &Paths,
    limits: Option<&Subtrees>,
) -> Result<(), CaError> {
    std::fs::create_dir_all(&config.dir)
        .map_err(|source| CaError::io("create", &config.dir, source))?;
    let key = KeyPair::generate()?;
    match files::create_secret(&paths.key, key.serialize_pem().as_bytes()) {
        Ok(()) => issue(&key, limits, &paths.certificate),
        // Another process was first; its key is the CA's, and both issue for it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            issue(&read_key(&paths.key)?, limits, &paths.certificate)
        }
        Err(source) => Err(CaError::io("write", &paths.key, source)),
    }
}

/// Writes `key`'s self-signed certificate, in place of an old one.
pub(super) fn issue(key: &KeyPair, limits: Option<&Subtrees>, path: &Path) -> Result<(), CaError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, own_name(key));
    params.serial_number = Some(serial()?);
    params.not_before = now - BACKDATE;
    params.not_after = now + LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = limits.map(Subtrees::to_rcgen);
    let certificate = params.self_signed(key)?;
    files::replace(path, certificate.pem().as_bytes())
        .map_err(|source| CaError::io("write", path, source))
}

/// The common name follows from the key, so that a certificate issued again has the same subject
/// even if the old one is lost, and that two gateways' CAs never share one.
pub(super) fn own_name(key: &KeyPair) -> String {
    let hash = Sha256::digest(key.public_key_raw());
    let hex: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("pierhead CA {hex}")
}

/// How long pierhead's own CA lives.
const LIFE: Duration = Duration::days(3650);
