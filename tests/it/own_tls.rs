//! What one registry has of its own: roots, a certificate of the gateway's, a token service elsewhere.

use std::sync::Arc;

use hyper::Method;
use tempfile::TempDir;

use crate::support::{Gateway, Upstream, authority::TestCa, gateway};

const HOST: &str = "registry.test";

fn home() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary directory"))
}

#[tokio::test]
async fn a_registry_that_asks_for_a_certificate_is_shown_the_gateways_and_its_cdn_is_not() {
    let clients = TestCa::new("clients of the partner");
    let up = Upstream::start_for_clients_of(clients.clone()).await;
    let registry = up.registry(HOST).bearer("auth.test").cdn("cdn.test");
    let image = registry.repo("team/app").image("v1", 3, &[200_000]);
    let home = home();
    let (certificate, key) = clients.server_files("gateway.corp.test");
    std::fs::write(home.path().join("own.crt"), certificate).unwrap();
    std::fs::write(home.path().join("own.key"), key).unwrap();
    let lines = "auth = \"gateway\"\ntoken_hosts = [\"auth.test\"]\nclient_certificate = \"own.crt\"\nclient_key = \"own.key\"";
    let setup = Gateway::before(&up).registry(HOST, lines);
    let gateway = setup.start_in(home).await;
    gateway.client().pull(&image).await;

    let seen = up.seen();
    let at = |host: &'static str| seen.iter().filter(move |one| one.host == host);
    for host in [HOST, "auth.test"] {
        assert!(
            at(host).count() > 0 && at(host).all(|one| one.certified),
            "{host}"
        );
    }
    assert!(at("cdn.test").count() > 0 && at("cdn.test").all(|one| !one.certified));
}

#[tokio::test]
async fn without_a_certificate_the_registrys_refusal_reaches_the_client() {
    let up = Upstream::start_for_clients_of(TestCa::new("clients of the partner")).await;
    let image = up.repo(HOST, "team/app").image("v1", 3, &[9]);
    let gateway = Gateway::before(&up).start().await;
    let reply = gateway.client().get(&image.by_tag()).send().await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn a_registrys_own_ca_file_counts_for_it_alone() {
    let up = Upstream::start().await;
    let image = up.repo(HOST, "team/app").image("v1", 3, &[9]);
    let other = up.repo("other.test", "team/app").image("v1", 3, &[9]);
    let home = home();
    std::fs::write(home.path().join("partner.pem"), up.ca_pem()).unwrap();
    let nobody = TestCa::new("somebody else");
    let setup = Gateway::before(&up).trusting(&nobody.pem);
    let setup = setup.registry(HOST, "ca_file = \"partner.pem\"");
    let gateway = setup.start_in(home).await;
    let client = gateway.client();
    client.pull(&image).await;
    let reply = client.get(&other.by_tag()).send().await;
    assert_eq!(reply.status, 502);
    let said = reply.text().await;
    assert!(said.contains("ca_file of the [[registry]]"), "{said}");
}

#[tokio::test]
async fn a_registrys_tls_files_are_read_again_by_a_reload() {
    let up = Upstream::start().await;
    let image = up.repo(HOST, "team/app").image("v1", 3, &[9]);
    let home = home();
    let file = home.path().join("partner.pem");
    std::fs::write(&file, &TestCa::new("somebody else").pem).unwrap();
    let setup = Gateway::before(&up).trusting(&TestCa::new("nobody").pem);
    let setup = setup.registry(HOST, "ca_file = \"partner.pem\"");
    let gateway = setup.start_in(home).await;
    let client = gateway.client();
    assert_eq!(client.get(&image.by_tag()).send().await.status, 502);
    std::fs::write(&file, up.ca_pem()).unwrap();
    gateway.hangup().await;
    client.pull(&image).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    for (lines, said) in [
        (
            "ca_file = \"missing.pem\"",
            "ca_file of [[registry]] registry.test: cannot read missing.pem",
        ),
        (
            "client_certificate = \"missing.crt\"\nclient_key = \"missing.key\"",
            "client_certificate of [[registry]] registry.test: cannot read missing.crt",
        ),
        (
            "client_certificate = \"missing.crt\"\nclient_key = \"missing.key\"",
            "put it there, or say where it is",
        ),
        (
            "client_key = \"missing.key\"",
            "say client_certificate as well",
        ),
    ] {
        let home = home();
        Gateway::alone().registry(HOST, lines).write(&home);
        let output = gateway::run(&["serve"], home.path()).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{lines}: {told}");
        assert!(told.contains(said), "{lines}: {told}");
    }
}

#[tokio::test]
async fn check_says_what_a_registry_has_of_its_own() {
    let home = home();
    let ca = TestCa::new("partner");
    let (certificate, key) = ca.server_files("gateway.corp.test");
    for (file, text) in [
        ("own.crt", &certificate),
        ("own.key", &key),
        ("roots.pem", &ca.pem),
    ] {
        std::fs::write(home.path().join(file), text).unwrap();
    }
    let lines = "ca_file = \"roots.pem\"\nclient_certificate = \"own.crt\"\nclient_key = \"own.key\"\ntoken_hosts = [\"auth.partner.test:8443\"]";
    Gateway::alone().registry(HOST, lines).write(&home);
    let output = gateway::run(&["check", HOST], home.path()).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for said in [
        "roots.pem, beside the others",
        "own.crt, if the registry asks",
        "auth.partner.test",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let output = gateway::run(&["check", "auth.partner.test:8443"], home.path()).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("token service: relayed"), "{told}");
}

#[tokio::test]
async fn a_token_host_needs_no_rule_of_its_own_and_only_its_path_is_open() {
    let up = Upstream::start().await;
    let registry = up
        .registry(HOST)
        .bearer("gitlab.test")
        .user("alice", "a-secret");
    registry.private_repo("team/app", &["alice"]);
    up.page(
        "gitlab.test",
        "/users/sign_in",
        "text/html",
        b"<h1>Sign in</h1>",
    );
    let setup = Gateway::before(&up).registry(HOST, "token_hosts = [\"gitlab.test/token\"]");
    let gateway = setup.start().await;
    let client = gateway.client();
    let token = client
        .get("https://gitlab.test/token?service=registry.test&scope=repository:team/app:pull")
        .header("authorization", "Basic YWxpY2U6YS1zZWNyZXQ=");
    assert_eq!(token.send().await.status, 200);
    let page = client.get("https://gitlab.test/users/sign_in").send().await;
    assert_eq!(page.status, 403);
    let said = page.text().await;
    assert!(said.contains("/token"), "{said}");
    assert_eq!(up.count(Method::GET, "/users/sign_in"), 0);
}
