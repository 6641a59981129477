use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::Roots;
use super::super::test_support::{Scratch, leaves};
use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// `leaf.pem` for `host`, and what `openssl verify` says about it.
fn verify(scratch: &Scratch, leaves: &Leaves, host: &str, how: &str) -> (bool, String) {
    let leaf = leaves.mint(&[parse(host).unwrap()], now()).unwrap();
    scratch.write("leaf.pem", &super::super::certificate::pem(&leaf.der));
    scratch.openssl(&format!(
        "verify -x509_strict -purpose sslserver {how} leaf.pem"
    ))
}

#[test]
fn openssl_accepts_leaves_inside_the_constraints_and_no_others() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["amazonaws.com", "ghcr.io"], &[]).0);
    let how = "-CAfile ca/ca.crt";
    for host in ["ghcr.io", "GHCR.IO.", "1.dkr.ecr.eu-west-1.amazonaws.com"] {
        let (ok, text) = verify(&scratch, &leaves, host, how);
        assert!(ok, "{host}: {text}");
    }
    for host in [
        "bank.example",
        "notghcr.io",
        "ghcr.io.example",
        "10.0.0.1",
        "2001:db8::1",
    ] {
        let (ok, text) = verify(&scratch, &leaves, host, how);
        assert!(!ok && text.contains("subtree violation"), "{host}: {text}");
    }
}

#[test]
fn openssl_accepts_the_configured_addresses_and_no_others() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &["10.0.0.1", "2001:db8::1"]).0);
    for (host, bare) in [("10.0.0.1", "10.0.0.1"), ("[2001:db8::1]", "2001:db8::1")] {
        let how = format!("-CAfile ca/ca.crt -verify_ip {bare}");
        let (ok, text) = verify(&scratch, &leaves, host, &how);
        assert!(ok, "{host}: {text}");
    }
    for host in ["10.0.0.2", "2001:db8::2", "bank.example"] {
        let (ok, text) = verify(&scratch, &leaves, host, "-CAfile ca/ca.crt");
        assert!(!ok && text.contains("subtree violation"), "{host}: {text}");
    }
}

#[test]
fn with_addresses_only_no_name_is_signed_for() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&[], &["10.0.0.1"]).0);
    let how = "-CAfile ca/ca.crt";
    assert!(verify(&scratch, &leaves, "10.0.0.1", how).0);
    assert!(!verify(&scratch, &leaves, "bank.example", how).0);
}

#[test]
fn a_client_with_the_old_certificate_still_trusts_the_old_hosts() {
    let scratch = Scratch::new();
    scratch.open(&["ghcr.io"], &[]);
    std::fs::copy(scratch.path("ca/ca.crt"), scratch.path("old.crt")).unwrap();
    let leaves = leaves(scratch.open(&["ghcr.io", "quay.io"], &[]).0);
    assert!(verify(&scratch, &leaves, "ghcr.io", "-CAfile old.crt").0);
    assert!(!verify(&scratch, &leaves, "quay.io", "-CAfile old.crt").0);
    assert!(verify(&scratch, &leaves, "quay.io", "-CAfile ca/ca.crt").0);
}

#[test]
fn leaves_of_a_company_verify_up_to_its_root_with_the_chain_that_is_served() {
    let p384 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
    let rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
    for (key, traditional) in [(p384, false), (p384, true), (rsa, false), (rsa, true)] {
        let scratch = Scratch::new();
        scratch.company(rsa, key);
        let mut key = "ca.key";
        if traditional {
            // SEC1 and PKCS#1.
            scratch.openssl_ok("pkey -in ca.key -traditional -out old-style.key");
            key = "old-style.key";
        }
        let chain = scratch.read("ca.crt") + &scratch.read("root.crt");
        scratch.write("chain.crt", &chain);
        let config = scratch.given("chain.crt", key);
        let (authority, _) = Authority::open_or_create(&config, &Default::default()).unwrap();
        let served: String = authority
            .chain()
            .iter()
            .map(|der| super::super::certificate::pem(der))
            .collect();
        assert_eq!(served, scratch.read("ca.crt"), "without the root");
        scratch.write("served.pem", &served);

        let leaves = leaves(authority);
        let how = "-CAfile root.crt -untrusted served.pem";
        let host = format!("{how} -verify_hostname ghcr.io");
        let (ok, text) = verify(&scratch, &leaves, "ghcr.io", &host);
        assert!(ok, "{key}: {text}");
        assert!(!verify(&scratch, &leaves, "ghcr.io", "-CAfile root.crt").0);
    }
}

#[test]
fn a_leaf_names_its_host_begins_an_hour_back_and_ends_in_two_weeks() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &[]).0);
    let now = now();
    let leaf = leaves.mint(&[parse("ghcr.io").unwrap()], now).unwrap();
    assert_eq!(now - leaf.not_before, Duration::HOUR);
    assert_eq!(leaf.not_after - now, Duration::days(14));
    scratch.write("leaf.pem", &super::super::certificate::pem(&leaf.der));
    let text = scratch.openssl_ok("x509 -in leaf.pem -noout -text");
    for expected in [
        "Subject: CN = ghcr.io",
        "DNS:ghcr.io",
        "TLS Web Server Authentication",
        "Digital Signature",
        "Authority Key Identifier",
        "CA:FALSE",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let again = leaves.mint(&[parse("ghcr.io").unwrap()], now).unwrap();
    assert_ne!(leaf.der, again.der, "serial numbers differ");
}

#[test]
fn a_name_too_long_for_a_common_name_is_in_the_alternative_name() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["example"], &[]).0);
    let host = format!("{}.{}.example", "a".repeat(40), "b".repeat(40));
    let how = format!("-CAfile ca/ca.crt -verify_hostname {host}");
    let (ok, text) = verify(&scratch, &leaves, &host, &how);
    assert!(ok, "{text}");
}

#[test]
fn a_leaf_never_outlives_the_ca_and_after_its_end_there_is_none() {
    let scratch = Scratch::new();
    let (authority, _) = scratch.open(&["ghcr.io"], &[]);
    let end = authority.not_after();
    let leaves = leaves(authority);
    let name = parse("ghcr.io").unwrap();
    let leaf = leaves
        .mint(std::slice::from_ref(&name), end - Duration::DAY)
        .unwrap();
    assert_eq!(leaf.not_after, end);
    assert!(
        matches!(leaves.mint(std::slice::from_ref(&name), end), Err(LeafError::CaEnded(at)) if at == end)
    );
}

#[test]
fn a_leaf_is_minted_once_and_again_after_two_thirds_of_its_life() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &[]).0);
    let start = now();
    let at = |after: Duration| leaves.server_config_at("ghcr.io", start + after).unwrap();
    let first = at(Duration::ZERO);
    assert!(Arc::ptr_eq(&first, &at(Duration::days(9))));
    assert!(Arc::ptr_eq(
        &first,
        &leaves.server_config_at("GHCR.io.", start).unwrap()
    ));
    assert_eq!(leaves.minted(), 1);
    assert!(!Arc::ptr_eq(&first, &at(Duration::days(10))));
    assert_eq!(leaves.minted(), 2);
    // The clock was ahead and is set right.
    at(Duration::ZERO);
    assert_eq!(leaves.minted(), 3);
}

#[test]
fn what_is_no_host_gets_no_leaf() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &[]).0);
    for host in [
        "",
        ".",
        "*.ghcr.io",
        "a b",
        "gh/cr",
        "[ghcr.io]",
        "[::1",
        "ghcr.io:443",
        "fe80::1%eth0",
    ] {
        let result = leaves.server_config(host);
        assert!(matches!(result, Err(LeafError::NotAHost(_))), "{host}");
    }
    assert_eq!(leaves.minted(), 0);
}

/// One byte each way. What the client negotiated, and whether the session was a resumed one.
async fn talk(
    connector: &TlsConnector,
    server: Arc<ServerConfig>,
    host: &str,
) -> std::io::Result<(Vec<u8>, bool, CertificateDer<'static>)> {
    let (client_end, server_end) = tokio::io::duplex(16 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(server_end).await?;
        let byte = stream.read_u8().await?;
        stream.write_all(&[byte]).await?;
        stream.shutdown().await
    };
    let ask = async {
        let name = parse(host).unwrap();
        let mut stream = connector.connect(name, client_end).await?;
        stream.write_all(b"x").await?;
        // To the end, so that the ticket is read as well.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"x");
        let session = stream.get_ref().1;
        let alpn = session.alpn_protocol().unwrap_or_default().to_vec();
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let leaf = session.peer_certificates().unwrap()[0].clone();
        Ok((alpn, resumed, leaf))
    };
    let (_, asked) = tokio::join!(serve, ask);
    asked
}

#[tokio::test]
async fn rustls_shakes_hands_in_both_versions_and_resumes() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &["10.0.0.1"]).0);
    let (roots, _) = Roots::load(Some(&scratch.path("ca/ca.crt"))).unwrap();
    let base = roots.client_config().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(scratch.path("ca/ca.crt")).unwrap();
    roots.add(ca).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        for host in ["ghcr.io", "10.0.0.1"] {
            for resumed in [false, true] {
                let server = leaves.server_config(host).unwrap();
                let (alpn, was, _) = talk(&connector, server, host).await.unwrap();
                assert_eq!(alpn, b"h2", "the gateway's order counts");
                assert_eq!(was, resumed, "{host} {version:?}");
            }
        }
    }

    // The upstream side's configuration trusts the same CA, and offers no protocol.
    let connector = TlsConnector::from(Arc::new(base));
    let server = leaves.server_config("ghcr.io").unwrap();
    let (alpn, ..) = talk(&connector, server, "ghcr.io").await.unwrap();
    assert_eq!(alpn, b"");
}

#[tokio::test]
async fn rustls_too_refuses_a_host_outside_the_constraints() {
    let scratch = Scratch::new();
    let leaves = leaves(scratch.open(&["ghcr.io"], &[]).0);
    let (roots, _) = Roots::load(Some(&scratch.path("ca/ca.crt"))).unwrap();
    let config = roots.client_config().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    for host in ["bank.example", "10.0.0.1"] {
        let server = leaves.server_config(host).unwrap();
        let error = talk(&connector, server, host).await.unwrap_err();
        assert!(error.to_string().contains("NameConstraint"), "{error}");
    }
}

#[tokio::test]
async fn the_leaf_is_the_hosts_whatever_sni_says_and_its_key_is_not_the_cas() {
    let scratch = Scratch::new();
    let (authority, _) = scratch.open(&["ghcr.io", "quay.io"], &[]);
    let ca = authority.certificate_pem().to_owned();
    let leaves = leaves(authority);
    let (roots, _) = Roots::load(Some(&scratch.path("ca/ca.crt"))).unwrap();
    let config = roots.client_config().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let server = leaves.server_config("ghcr.io").unwrap();
    let error = talk(&connector, server, "quay.io").await.unwrap_err();
    assert!(error.to_string().contains("ghcr.io"), "{error}");

    let spki = |der: &[u8]| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        parsed.public_key().raw.to_vec()
    };
    let mut keys = vec![spki(
        &CertificateDer::from_pem_slice(ca.as_bytes()).unwrap(),
    )];
    for host in ["ghcr.io", "quay.io"] {
        let server = leaves.server_config(host).unwrap();
        let (_, _, leaf) = talk(&connector, server, host).await.unwrap();
        keys.push(spki(&leaf));
    }
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[1], keys[2], "one key for all leaves");
}
