//! The CA: pierhead's own, made at the first start and limited to the configured registries, or
//! one that the company gives (PRODUCT.md sections 2, 3 and 5).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::certificate::{
    check_is_ca, fingerprint, is_self_issued, key_id, links, parse, pem, read_certificates,
    read_key,
};
use super::constraints::{NameConstraints, Subtrees};
use super::error::CaError;
use super::notice::{Notice, Scope};
use super::{CaConfig, der, files};

/// How long pierhead's own CA lives.
const LIFE: Duration = Duration::days(3650);
/// Certificates begin this long ago, for clients whose clocks are behind.
pub(super) const BACKDATE: Duration = Duration::HOUR;
/// An end nearer than this is a [`Notice`].
const EXPIRY_NOTICE: Duration = Duration::days(30);

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

    /// What `ca show` prints: several lines, the last one ended.
    pub fn describe(&self) -> String {
        let mut rows = vec![("subject", self.subject.clone())];
        if self.anchor.subject != self.subject {
            rows.push(("clients trust", self.anchor.subject.clone()));
        }
        rows.push(("sha256", self.anchor.fingerprint.clone()));
        rows.push((
            "valid",
            format!("{} to {}", self.not_before.date(), self.not_after.date()),
        ));
        rows.push(("certificate", self.certificate_path.display().to_string()));
        rows.push(("key", self.key_path.display().to_string()));
        match &self.constraints {
            Some(constraints) => rows.extend(constraints.lines()),
            None => rows.push(("permitted", "any host (no name constraints)".to_owned())),
        }
        rows.iter()
            .map(|(label, value)| wrap(label, value))
            .collect()
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

    fn load(paths: &Paths) -> Result<Self, CaError> {
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

    fn notices(&self, paths: &Paths, now: OffsetDateTime) -> Result<Vec<Notice>, CaError> {
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

struct Paths {
    certificate: PathBuf,
    key: PathBuf,
    given: bool,
}

impl Paths {
    fn new(config: &CaConfig) -> Result<Self, CaError> {
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

    fn certificate_exists(&self) -> Result<bool, CaError> {
        exists(&self.certificate)
    }

    fn key_exists(&self) -> Result<bool, CaError> {
        exists(&self.key)
    }
}

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists()
        .map_err(|source| CaError::io("examine", path, source))
}

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

// === helpers: pierhead's own CA ===

/// The key first: a start that ends between the two issues the certificate from it next time.
fn create(config: &CaConfig, paths: &Paths, limits: Option<&Subtrees>) -> Result<(), CaError> {
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
fn issue(key: &KeyPair, limits: Option<&Subtrees>, path: &Path) -> Result<(), CaError> {
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
fn own_name(key: &KeyPair) -> String {
    let hash = Sha256::digest(key.public_key_raw());
    let hex: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("pierhead CA {hex}")
}

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

// === helpers: for people ===

/// `label  value`, broken between items so that lines stay within 80 columns where they can.
fn wrap(label: &str, value: &str) -> String {
    const INDENT: usize = 15;
    const WIDTH: usize = 80;
    let mut out = format!("{label:INDENT$}");
    let mut column = INDENT;
    for (index, item) in value.split_inclusive(", ").enumerate() {
        if index > 0 && column + item.trim_end().len() > WIDTH {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&" ".repeat(INDENT));
            column = INDENT;
        }
        out.push_str(item);
        column += item.len();
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::test_support::{Scratch, mode, names};
    use super::*;

    fn reopen(scratch: &Scratch) -> (Authority, Vec<Notice>) {
        Authority::open(&scratch.config()).unwrap()
    }

    fn fail(config: &CaConfig) -> CaError {
        Authority::open_or_create(config, &names(&["ghcr.io"], &[])).unwrap_err()
    }

    #[test]
    fn the_first_start_makes_a_ca_and_the_second_uses_it() {
        let scratch = Scratch::new();
        let (first, notices) = scratch.open(&["ghcr.io"], &[]);
        assert!(matches!(notices[..], [Notice::Created { .. }]));
        assert_eq!(mode(&scratch.path("ca/ca.key")), 0o600);
        assert!(first.is_own());
        assert!(first.subject().starts_with("CN=pierhead CA "));

        let (second, notices) = scratch.open(&["ghcr.io"], &[]);
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.certificate_pem(), scratch.read("ca/ca.crt"));
    }

    #[test]
    fn the_certificate_is_what_openssl_takes_for_a_limited_ca() {
        let scratch = Scratch::new();
        let (authority, _) = scratch.open(&["docker.io", "ghcr.io"], &[]);
        let text = scratch.openssl_ok("x509 -in ca/ca.crt -noout -text -fingerprint -sha256");
        for expected in [
            "CA:TRUE, pathlen:0",
            "Certificate Sign, CRL Sign",
            "X509v3 Name Constraints: critical",
            "DNS:docker.io",
            "IP:0.0.0.0/0.0.0.0",
            "IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0",
            "id-ecPublicKey",
            "Subject Key Identifier",
            authority.fingerprint(),
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        scratch.openssl_ok("verify -x509_strict -CAfile ca/ca.crt ca/ca.crt");
    }

    #[test]
    fn the_key_is_never_overwritten() {
        let scratch = Scratch::new();
        scratch.open(&["ghcr.io"], &[]);
        let key = scratch.read("ca/ca.key");
        fs::remove_file(scratch.path("ca/ca.crt")).unwrap();
        let (restored, notices) = scratch.open(&["ghcr.io", "quay.io"], &[]);
        assert!(matches!(notices[..], [Notice::Restored { .. }]));
        restored.renew().unwrap();
        scratch.open(&[], &["10.0.0.1"]);
        assert_eq!(scratch.read("ca/ca.key"), key);
    }

    #[test]
    fn of_two_first_starts_at_once_one_makes_the_key_and_both_use_it() {
        let scratch = Scratch::new();
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| scratch.open(&["ghcr.io"], &[]).0))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let key = read_key(&scratch.path("ca/ca.key")).unwrap();
        for authority in opened {
            assert_eq!(authority.key.public_key_raw(), key.public_key_raw());
        }
        let files = fs::read_dir(scratch.path("ca")).unwrap().count();
        assert_eq!(files, 2, "no leftovers");
    }

    #[test]
    fn a_lone_key_gets_its_certificate_back_under_the_same_subject() {
        let scratch = Scratch::new();
        let (old, _) = scratch.open(&["ghcr.io"], &[]);
        fs::remove_file(scratch.path("ca/ca.crt")).unwrap();
        assert!(matches!(
            Authority::open(&scratch.config()),
            Err(CaError::CertificateMissing { .. })
        ));
        let (new, _) = scratch.open(&["ghcr.io"], &[]);
        assert_eq!(old.name, new.name);
        assert_eq!(old.key_id, new.key_id);
    }

    #[test]
    fn a_lone_certificate_is_an_error_that_says_what_to_do() {
        let scratch = Scratch::new();
        scratch.open(&["ghcr.io"], &[]);
        fs::remove_file(scratch.path("ca/ca.key")).unwrap();
        let error = fail(&scratch.config());
        assert!(matches!(error, CaError::KeyMissing { .. }));
        assert!(error.to_string().contains("backup"), "{error}");
        assert!(!scratch.path("ca/ca.key").exists());
    }

    #[test]
    fn showing_a_ca_that_is_not_there_makes_none() {
        let scratch = Scratch::new();
        assert!(matches!(
            Authority::open(&scratch.config()),
            Err(CaError::Absent { .. })
        ));
        assert!(!scratch.path("ca").exists());
    }

    #[test]
    fn a_registry_added_issues_the_certificate_again_and_names_it() {
        let scratch = Scratch::new();
        let (old, _) = scratch.open(&["docker.io", "ghcr.io"], &[]);
        let (new, notices) = scratch.open(&["auth.docker.io", "docker.io", "quay.io"], &[]);
        let [Notice::Reissued { scope, .. }] = &notices[..] else {
            panic!("{notices:?}");
        };
        assert_eq!(
            *scope,
            Scope::Changed {
                added: vec!["quay.io".to_owned()],
                removed: vec!["ghcr.io".to_owned()],
            }
        );
        assert!(notices[0].is_warning());
        assert!(
            notices[0]
                .to_string()
                .contains("quay.io: clients keep working")
        );
        assert_ne!(old.fingerprint(), new.fingerprint());
        assert_eq!(old.name, new.name);
        assert!(
            scratch
                .open(&["auth.docker.io", "docker.io", "quay.io"], &[])
                .1
                .is_empty()
        );
    }

    #[test]
    fn constraints_can_be_switched_off_and_on_again() {
        let scratch = Scratch::new();
        let limits = names(&["ghcr.io"], &["10.0.0.1"]);
        let on = scratch.config();
        let off = CaConfig {
            name_constraints: false,
            ..scratch.config()
        };
        Authority::open_or_create(&on, &limits).unwrap();
        for (config, expected) in [(&off, Scope::Unlimited), (&on, Scope::Limited)] {
            let (_, notices) = Authority::open_or_create(config, &limits).unwrap();
            assert!(matches!(&notices[..], [Notice::Reissued { scope, .. }] if *scope == expected));
            assert!(
                Authority::open_or_create(config, &limits)
                    .unwrap()
                    .1
                    .is_empty()
            );
        }
    }

    #[test]
    fn renewal_keeps_the_key_the_subject_and_the_constraints() {
        let scratch = Scratch::new();
        let (old, _) = scratch.open(&["ghcr.io"], &["10.0.0.1", "2001:db8::1"]);
        let key = scratch.read("ca/ca.key");
        let (name, constraints) = (old.name.clone(), old.constraints.clone());
        let fingerprint = old.fingerprint().to_owned();
        let new = old.renew().unwrap();
        assert_eq!(scratch.read("ca/ca.key"), key);
        assert_eq!(new.name, name);
        assert_eq!(new.constraints, constraints);
        assert_ne!(new.fingerprint(), fingerprint);
        assert_eq!(reopen(&scratch).0.fingerprint(), new.fingerprint());
    }

    #[test]
    fn a_key_that_others_can_read_and_a_ca_near_its_end_are_noticed() {
        let scratch = Scratch::new();
        let (authority, _) = scratch.open(&["ghcr.io"], &[]);
        let key = scratch.path("ca/ca.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let (_, notices) = reopen(&scratch);
        assert_eq!(
            notices,
            [Notice::KeyMode {
                key: key.clone(),
                mode: 0o640
            }]
        );
        assert!(notices[0].to_string().contains("chmod 600"));

        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let paths = Paths::new(&scratch.config()).unwrap();
        for (left, expected) in [(31, None), (29, Some(false)), (0, Some(true))] {
            let now = authority.not_after() - Duration::days(left);
            let ended = authority.notices(&paths, now).unwrap().pop().map(|notice| {
                assert!(notice.to_string().contains("pierhead ca renew"));
                matches!(notice, Notice::Expires { ended: true, .. })
            });
            assert_eq!(ended, expected, "{left} days left");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let scratch = Scratch::new();
        scratch.open(&["ghcr.io"], &[]);
        let other = KeyPair::generate().unwrap().serialize_pem();
        scratch.write("ca/ca.key", &other);
        let error = fail(&scratch.config());
        assert!(matches!(error, CaError::Mismatch { .. }));
        assert!(!error.to_string().contains("PRIVATE"));
    }

    #[test]
    fn a_given_ca_needs_both_files_and_both_in_order() {
        let scratch = Scratch::new();
        scratch.company(
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "-algorithm ED25519",
        );
        scratch.openssl_ok("pkcs8 -topk8 -in root.key -passout pass:x -out encrypted.key");
        scratch.openssl_ok("req -new -x509 -key root.key -subj /CN=server -addext basicConstraints=CA:false -out server.crt");
        scratch.write("empty", "nothing\n");

        let half = CaConfig {
            key: None,
            ..scratch.given("ca.crt", "ca.key")
        };
        assert!(matches!(
            fail(&half),
            CaError::HalfGiven { missing: "key", .. }
        ));
        let given = |certificate, key| fail(&scratch.given(certificate, key)).to_string();
        for (certificate, key, expected) in [
            ("ca.crt", "ca.key", "not supported"),
            ("ca.crt", "root.key", "not the key of"),
            ("root.crt", "encrypted.key", "encrypted"),
            ("root.crt", "empty", "not a usable key"),
            ("empty", "root.key", "holds none"),
            ("missing", "root.key", "cannot read"),
            ("server.crt", "root.key", "not marked as a CA"),
        ] {
            let error = given(certificate, key);
            assert!(error.contains(expected), "{certificate} {key}: {error}");
        }
    }

    #[test]
    fn a_given_ca_is_never_written_and_its_topmost_certificate_is_what_clients_trust() {
        let scratch = Scratch::new();
        let p256 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        scratch.company(p256, p256);
        // The chain in any order after the issuing certificate, and a stranger in it.
        let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap();
        let chain = [
            scratch.read("ca.crt"),
            stranger.cert.pem(),
            scratch.read("root.crt"),
        ]
        .concat();
        scratch.write("chain.crt", &chain);
        let config = scratch.given("chain.crt", "ca.key");
        let (authority, notices) =
            Authority::open_or_create(&config, &names(&["ghcr.io"], &[])).unwrap();
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(scratch.read("chain.crt"), chain);
        assert_eq!(authority.chain().len(), 1);
        assert!(authority.subject().contains("Corp-Issuing-7"));
        let text = scratch.openssl_ok("x509 -in root.crt -noout -fingerprint -sha256");
        assert!(text.contains(authority.fingerprint()));
        assert_eq!(authority.certificate_pem(), scratch.read("root.crt"));
        assert!(authority.describe().contains("Corp Root"));
        assert!(matches!(authority.renew(), Err(CaError::NotOurs { .. })));
    }

    #[test]
    fn a_ca_that_someone_put_into_the_directory_is_used_and_left_as_it_is() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("ca")).unwrap();
        scratch.openssl_ok(
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=theirs -keyout ca/ca.key -out ca/ca.crt",
        );
        fs::set_permissions(scratch.path("ca/ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let before = scratch.read("ca/ca.crt");
        let (authority, notices) = scratch.open(&["ghcr.io"], &[]);
        assert!(
            matches!(notices[..], [Notice::Foreign { .. }, ..]),
            "{notices:?}"
        );
        assert!(!authority.is_own());
        assert_eq!(scratch.read("ca/ca.crt"), before);
    }

    #[test]
    fn the_description_wraps_and_debug_shows_no_key() {
        let scratch = Scratch::new();
        let hosts: Vec<_> = (0..20)
            .map(|n| format!("registry-{n:02}.example"))
            .collect();
        let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
        let (authority, _) = scratch.open(&hosts, &["2001:db8::1"]);
        let text = authority.describe();
        assert!(
            text.contains("registry-19.example, 2001:db8::1\n"),
            "{text}"
        );
        assert!(text.contains(authority.fingerprint()));
        let constraints = text
            .lines()
            .skip_while(|line| !line.starts_with("permitted"));
        assert!(constraints.clone().count() > 4);
        assert!(constraints.clone().all(|line| line.len() <= 80), "{text}");
        assert!(!format!("{authority:?}").contains("key"));
    }
}
