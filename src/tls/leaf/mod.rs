//! A certificate for each intercepted host, and the `ServerConfig` that serves it. Minting takes some
//! twenty microseconds, so it is done where the handshake is.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use moka::sync::Cache;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, sign};
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use super::authority::{Authority, BACKDATE};
use super::error::CaError;
use super::provider;

/// How long a leaf lives, unless the CA ends before.
const LIFE: Duration = Duration::days(14);
const MAX_CACHED: u64 = 10_000;
/// X.520's bound for a common name.
const MAX_COMMON_NAME: usize = 64;

/// Mints and keeps leaves. All have one key, made at the start, which is not the CA's.
pub struct Leaves {
    authority: ArcSwap<Authority>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    /// Everything but the certificate.
    template: ServerConfig,
    cache: Cache<ServerName<'static>, Arc<Entry>>,
    minted: Arc<AtomicU64>,
}

/// Why there is no leaf for a host.
#[derive(Debug, Error)]
pub enum LeafError {
    #[error("{0:?} is neither a DNS name nor an IP address")]
    NotAHost(String),
    #[error("the CA ended on {}: renew it (`pierhead ca renew`, or a new one from whoever gave it)", .0.date())]
    CaEnded(OffsetDateTime),
    #[error(transparent)]
    Sign(#[from] CaError),
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A leaf that is served, and until when.
pub(super) struct Entry {
    authority: Arc<Authority>,
    config: Arc<ServerConfig>,
    not_before: OffsetDateTime,
    renew_at: OffsetDateTime,
}

pub(super) struct Leaf {
    pub(super) der: CertificateDer<'static>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

// === impl Leaves ===

// The key is a secret.
impl std::fmt::Debug for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaves")
            .field("minted", &self.minted())
            .finish_non_exhaustive()
    }
}

impl Leaves {
    pub fn new(authority: Arc<Authority>) -> Result<Self, LeafError> {
        let key = KeyPair::generate().map_err(CaError::from)?;
        let signer = sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
            key.serialized_der(),
        )))?;
        Ok(Self {
            authority: ArcSwap::new(authority),
            key,
            signer,
            template: template()?,
            cache: Cache::new(MAX_CACHED),
            minted: Arc::default(),
        })
    }

    /// Who signs.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// From here on `authority` signs, and what another one signed is not served any more.
    pub fn sign_by(&self, authority: Arc<Authority>) {
        self.authority.store(authority);
    }

    /// TLS for `host`, a DNS name or an IP address (IPv6 with or without brackets), with a leaf
    /// that has at least a third of its life before it. It is served whatever SNI says: to compare
    /// SNI with the CONNECT target and to answer 421 is up to the caller.
    pub fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, LeafError> {
        self.server_config_at(host, OffsetDateTime::now_utc())
    }

    /// How many leaves were minted so far.
    pub fn minted(&self) -> u64 {
        self.minted.load(Ordering::Relaxed)
    }

    /// Where they are counted, for who shows it.
    pub fn counter(&self) -> &Arc<AtomicU64> {
        &self.minted
    }

    fn server_config_at(
        &self,
        host: &str,
        now: OffsetDateTime,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        let name = parse(host)?;
        if let Some(entry) = self.cache.get(&name)
            && self.serves(&entry, now)
        {
            return Ok(Arc::clone(&entry.config));
        }
        // Two handshakes may both get here and mint twice; to make one wait would cost more.
        let entry = Arc::new(self.entry(std::slice::from_ref(&name), &self.template, now)?);
        self.cache.insert(name, Arc::clone(&entry));
        Ok(Arc::clone(&entry.config))
    }

    /// A leaf for `names`, served with everything else as in `template`.
    pub(super) fn entry(
        &self,
        names: &[ServerName<'_>],
        template: &ServerConfig,
        now: OffsetDateTime,
    ) -> Result<Entry, LeafError> {
        let authority = self.authority();
        let leaf = self.mint_by(&authority, names, now)?;
        let mut chain = vec![leaf.der];
        chain.extend_from_slice(authority.chain());
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signer));

        let mut config = template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Entry {
            authority,
            config: Arc::new(config),
            not_before: leaf.not_before,
            renew_at: now + (leaf.not_after - now) * 2 / 3,
        })
    }

    /// Whether an entry is still right: in its time, and of who signs now.
    pub(super) fn serves(&self, entry: &Entry, now: OffsetDateTime) -> bool {
        Arc::ptr_eq(&entry.authority, &self.authority.load()) && entry.is_good_at(now)
    }

    #[cfg(test)]
    pub(super) fn mint(
        &self,
        names: &[ServerName<'_>],
        now: OffsetDateTime,
    ) -> Result<Leaf, LeafError> {
        self.mint_by(&self.authority(), names, now)
    }

    /// The first of `names` is the common name.
    fn mint_by(
        &self,
        authority: &Authority,
        names: &[ServerName<'_>],
        now: OffsetDateTime,
    ) -> Result<Leaf, LeafError> {
        let ca_end = authority.not_after();
        if ca_end <= now {
            return Err(LeafError::CaEnded(ca_end));
        }
        let not_before = now - BACKDATE;
        let not_after = ca_end.min(now + LIFE);

        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name(names.first()));
        for name in names {
            params.subject_alt_names.push(match name {
                ServerName::IpAddress(ip) => SanType::IpAddress(IpAddr::from(*ip)),
                other => {
                    SanType::DnsName(other.to_str().as_ref().try_into().map_err(CaError::from)?)
                }
            });
        }
        let der = authority.sign(params, &self.key)?;
        self.minted.fetch_add(1, Ordering::Relaxed);
        Ok(Leaf {
            der,
            not_before,
            not_after,
        })
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Not before its beginning either: a clock that was ahead at start-up and then set right
    /// would leave certificates of the future in the cache.
    fn is_good_at(&self, now: OffsetDateTime) -> bool {
        (self.not_before..self.renew_at).contains(&now)
    }
}

pub(super) fn template() -> Result<ServerConfig, LeafError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        // A placeholder that resolves nothing; each host's own comes with its leaf.
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // One ticketer for all hosts: a session is resumed under the SNI it began with only, no
    // session carries a client's identity, and all leaves have the same key.
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    // Tickets keep the state with the client; a store for each host would be 10 000 of them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

pub(super) fn parse(host: &str) -> Result<ServerName<'static>, LeafError> {
    let bare = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) if inside.contains(':') => inside,
        Some(_) => return Err(LeafError::NotAHost(host.to_owned())),
        None => host.strip_suffix('.').unwrap_or(host),
    };
    ServerName::try_from(bare.to_ascii_lowercase())
        .map_err(|_| LeafError::NotAHost(host.to_owned()))
}

/// The host, where that is a DNS name that fits. OpenSSL holds a common name that looks like a DNS
/// name against the DNS constraints if the certificate has no DNS SAN, and `10.0.0.1` looks like
/// one; clients have long stopped comparing it with anything.
fn common_name(name: Option<&ServerName<'_>>) -> String {
    match name {
        Some(ServerName::DnsName(name)) if name.as_ref().len() <= MAX_COMMON_NAME => {
            name.as_ref().to_owned()
        }
        _ => "pierhead".to_owned(),
    }
}

#[cfg(test)]
mod tests;
