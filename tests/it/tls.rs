//! TLS towards the client: names that must agree, leaves, and the CA; and towards upstream.

use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::extensions::GeneralName;

use crate::support::{Client, Gateway, Upstream, authority::TestCa, gateway};

#[tokio::test]
async fn another_name_in_the_host_header_is_421() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    up.registry("other.test");
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let ask = client
        .get("https://registry.test/v2/")
        .header("host", "other.test");
    assert_eq!(ask.send().await.status, 421);
    let same = client
        .get("https://registry.test/v2/")
        .header("host", "Registry.Test:443");
    assert_eq!(same.send().await.status, 200);

    let h2 = client.h2();
    let mut session = h2.session("registry.test:443").await;
    let reply = h2.get("https://other.test/v2/").send_on(&mut session).await;
    assert_eq!(reply.status, 421);
    assert!(
        up.seen().iter().all(|one| one.host != "other.test"),
        "it was asked"
    );
}

#[tokio::test]
async fn another_name_in_the_handshake_is_421() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    up.registry("other.test");
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().sni("other.test");
    assert_eq!(
        client.get("https://registry.test/v2/").send().await.status,
        421
    );
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn a_pattern_has_a_leaf_for_each_name_it_matches() {
    let up = Upstream::start().await;
    up.registry("1234.dkr.ecr.eu.cloud.test");
    let setup = Gateway::before(&up).no_registry("1234.dkr.ecr.eu.cloud.test");
    let gateway = setup.registry("*.dkr.ecr.*.cloud.test", "").start().await;
    let reply = gateway
        .client()
        .get("https://1234.dkr.ecr.eu.cloud.test/v2/")
        .send()
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_configured_address_has_a_leaf_of_its_own() {
    let up = Upstream::start().await;
    up.registry("127.0.0.1");
    let port = up.addr().port();
    let setup = Gateway::before(&up).registry("127.0.0.1", &format!("ports = [{port}]"));
    let gateway = setup.start().await;
    let reply = gateway
        .client()
        .get(&format!("https://127.0.0.1:{port}/v2/"))
        .send()
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn the_ca_may_sign_for_the_registries_and_for_nobody_else() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let der = CertificateDer::from_pem_slice(gateway.ca_pem.as_bytes()).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(ca.is_ca());
    let constraints = ca
        .name_constraints()
        .unwrap()
        .expect("name constraints")
        .value;
    let permitted = constraints
        .permitted_subtrees
        .as_ref()
        .expect("permitted names");
    let names: Vec<_> = permitted
        .iter()
        .filter_map(|subtree| match &subtree.base {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    for name in ["registry.test", "ghcr.io", "auth.docker.io"] {
        let covers = |subtree: &&str| {
            let subtree = subtree.trim_start_matches('.');
            name == subtree || name.ends_with(&format!(".{subtree}"))
        };
        assert!(names.iter().any(covers), "{name} is not among {names:?}");
    }
    assert!(
        !names.iter().any(|name| name.trim_matches('.').is_empty()),
        "{names:?}"
    );
    assert!(
        !names
            .iter()
            .any(|name| ["com", "io", "test"].contains(name)),
        "{names:?}"
    );
}

#[tokio::test]
async fn the_ca_is_made_once_and_its_key_is_the_owners_alone() {
    let gateway = Gateway::alone().start().await;
    let first = gateway.ca_pem.clone();
    let key = gateway.ca_dir().join("ca.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key_before = std::fs::read(&key).unwrap();
    let gateway = gateway.restart().await;
    assert_eq!(gateway.ca_pem, first);
    assert_eq!(
        std::fs::read(gateway.ca_dir().join("ca.key")).unwrap(),
        key_before
    );
}

#[tokio::test]
async fn a_registry_added_later_is_in_a_new_certificate_of_the_same_key() {
    let up = Upstream::start().await;
    up.registry("first.test");
    let gateway = Gateway::before(&up).start().await;
    let old = gateway.ca_pem.clone();
    let key = std::fs::read(gateway.ca_dir().join("ca.key")).unwrap();
    up.registry("second.example");
    let addr = up.addr();
    let gateway = gateway.restart_as(|setup| {
        setup
            .registry("second.example", "")
            .resolve("second.example", addr)
    });
    let gateway = gateway.await;
    assert_ne!(gateway.ca_pem, old);
    assert_eq!(std::fs::read(gateway.ca_dir().join("ca.key")).unwrap(), key);
    let reply = gateway
        .client()
        .get("https://second.example/v2/")
        .send()
        .await;
    assert_eq!(reply.status, 200);
    // Who trusts the old one still reaches what that allowed.
    let client = Client::new(gateway.proxy, &old);
    assert_eq!(
        client.get("https://first.test/v2/").send().await.status,
        200
    );
}

#[tokio::test]
async fn the_companys_ca_is_used_when_it_is_given() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let company = TestCa::new("company CA");
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&certificate, &company.pem).unwrap();
    std::fs::write(&key, &company.key_pem).unwrap();
    let setup = Gateway::before(&up)
        .text("ca", "certificate", certificate.to_str().unwrap())
        .text("ca", "key", key.to_str().unwrap());
    let gateway = setup.start().await;
    let client = Client::new(gateway.proxy, &company.pem);
    assert_eq!(
        client.get("https://registry.test/v2/").send().await.status,
        200
    );
}

#[tokio::test]
async fn the_leaf_is_not_signed_with_the_cas_own_key_as_its_key() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let stream = gateway.client().tls("registry.test:443").await.unwrap();
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let ca = CertificateDer::from_pem_slice(gateway.ca_pem.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&ca).unwrap();
    assert_ne!(leaf.public_key().raw, ca.public_key().raw);
    assert!(!leaf.is_ca());
}

#[tokio::test]
async fn an_upstream_that_does_not_verify_is_502_with_the_reason() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 10);
    let stranger = TestCa::new("a stranger");
    let gateway = Gateway::before(&up).trusting(&stranger.pem).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    assert_eq!(reply.status, 502);
    let (_, message) = reply.oci_error().await;
    assert!(message.to_lowercase().contains("certificate"), "{message}");
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn ca_show_prints_the_fingerprint_of_the_banner() {
    let gateway = Gateway::alone().start().await;
    let file = gateway.home().path().join("pierhead.toml");
    let args = ["ca", "show", "--config", file.to_str().unwrap()];
    let output = gateway::run(&args, gateway.home().path()).await;
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let banner = gateway.out.text();
    let line = banner
        .lines()
        .find(|line| line.trim_start().starts_with("CA "))
        .unwrap();
    let fingerprint = line.split_whitespace().last().unwrap();
    assert!(
        shown.contains(fingerprint),
        "{fingerprint} is not in {shown}"
    );
}

#[tokio::test]
async fn a_manifest_too_says_why_upstream_is_not_trusted() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    repo.image("latest", 2, &[10]);
    let stranger = TestCa::new("a stranger");
    let gateway = Gateway::before(&up).trusting(&stranger.pem).start().await;
    for url in [repo.manifest_url("latest"), repo.url("tags/list")] {
        let reply = gateway.client().get(&url).send().await;
        assert_eq!(reply.status, 502, "{url}");
        let (_, message) = reply.oci_error().await;
        assert!(message.contains("registry.test"), "{url}: {message}");
        let mends = message.contains("upstream.ca_file") || message.contains("certificate");
        assert!(mends, "{url}: {message}");
    }
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn ca_renew_says_which_hosts_were_added() {
    let gateway = Gateway::alone().registry("first.test", "").start().await;
    let key = std::fs::read(gateway.ca_dir().join("ca.key")).unwrap();
    let home = gateway.home();
    let file = Gateway::alone()
        .registry("first.test", "")
        .registry("second.example", "")
        .write(&home);
    let args = ["ca", "renew", "--config", file.to_str().unwrap()];
    let output = gateway::run(&args, home.path()).await;
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("second.example"), "{told}");
    assert!(!told.contains("first.test"), "{told}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("second.example"), "{shown}");
    assert_eq!(std::fs::read(gateway.ca_dir().join("ca.key")).unwrap(), key);
}
