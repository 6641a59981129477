//! Default deny, by name, by port, by client and by address.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::{Fault, Gateway, On, Setup, Upstream, echo::Peer, wire};

const TUNNEL_ALL: &str = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*\"]";

async fn assert_denied(gateway: &Gateway, authority: &str, rule: &str) {
    let (answer, _) = gateway.client().try_connect(authority).await;
    let text = answer.text();
    assert_eq!(answer.status, 403, "{authority}: {text}");
    assert!(text.contains("pierhead"), "{authority}: {text}");
    assert!(
        text.contains(rule),
        "{authority}: it names another rule than {rule}: {text}"
    );
}

/// Nobody came to `listener`, not even into its queue.
async fn assert_nobody_came(listener: &TcpListener) {
    let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "somebody connected");
}

#[tokio::test]
async fn what_nobody_allowed_is_denied_by_the_default() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let gateway = Gateway::before(&up).start().await;
    assert_denied(&gateway, "pages.test:443", "policy.default").await;
    assert_eq!(up.connections(), 0, "a packet left");
    let line = gateway
        .log
        .access(|line| line.is("outcome", "denied"))
        .await;
    assert!(line.field("rule").contains("policy.default"), "{line:?}");
}

#[tokio::test]
async fn a_rule_that_denies_is_named() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let deny = "[[policy.rule]]\naction = \"deny\"\nhosts = [\"*.test\"]";
    let gateway = Gateway::before(&up).more(deny).start().await;
    assert_denied(&gateway, "registry.test:443", "policy.rule 1").await;
    assert_eq!(up.connections(), 0, "a packet left");
}

#[tokio::test]
async fn the_first_rule_that_matches_wins() {
    let mut peer = Peer::echo().await;
    let rules = r#"
        [[policy.rule]]
        action = "tunnel"
        hosts = ["good.peer.test"]
        [[policy.rule]]
        action = "deny"
        hosts = ["*.peer.test"]
        [[policy.rule]]
        action = "tunnel"
        hosts = ["*"]
    "#;
    let setup = Gateway::alone().more(rules);
    let setup = setup
        .resolve("good.peer.test", peer.addr)
        .resolve("bad.peer.test", peer.addr);
    let gateway = setup.start().await;
    drop(gateway.client().connect("good.peer.test:443").await);
    peer.next().await;
    assert_denied(&gateway, "bad.peer.test:443", "policy.rule 2").await;
}

#[tokio::test]
async fn a_port_that_is_not_listed_is_denied() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let peer = Peer::echo().await;
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]\nports = [8443]";
    let gateway = Gateway::before(&up)
        .resolve("peer.test", peer.addr)
        .more(rule)
        .start()
        .await;
    drop(gateway.client().connect("peer.test:8443").await);
    for authority in [
        "peer.test:443",
        "peer.test:22",
        "registry.test:22",
        "registry.test:80",
    ] {
        assert_denied(&gateway, authority, "").await;
    }
    assert_eq!(up.connections(), 0, "a packet left");
}

#[tokio::test]
async fn a_rule_for_other_clients_is_none_for_this_one() {
    let mut peer = Peer::echo().await;
    let rules = r#"
        [[policy.rule]]
        action = "tunnel"
        hosts = ["theirs.test"]
        clients = ["10.0.0.0/8"]
        [[policy.rule]]
        action = "tunnel"
        hosts = ["ours.test"]
        clients = ["10.0.0.0/8", "127.0.0.0/8"]
    "#;
    let setup = Gateway::alone().more(rules);
    let setup = setup
        .resolve("theirs.test", peer.addr)
        .resolve("ours.test", peer.addr);
    let gateway = setup.start().await;
    drop(gateway.client().connect("ours.test:443").await);
    peer.next().await;
    assert_denied(&gateway, "theirs.test:443", "policy.default").await;
}

#[tokio::test]
async fn a_private_address_is_refused_however_it_is_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let setup = Gateway::alone().set("upstream", "allow_private", "[]");
    let setup = setup.more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*\"]");
    let gateway = setup.text("policy", "default", "tunnel").start().await;
    let hosts = [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.1.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[fd00:ec2::254]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
    ];
    for host in hosts {
        let (answer, _) = gateway
            .client()
            .try_connect(&format!("{host}:{port}"))
            .await;
        let text = answer.text();
        assert!(
            matches!(answer.status, 403 | 502),
            "{host}: {} {text}",
            answer.status
        );
        assert!(text.contains("pierhead"), "{host}: {text}");
    }
    assert_nobody_came(&listener).await;
}

#[tokio::test]
async fn an_address_that_is_listed_may_be_dialled() {
    let mut peer = Peer::echo().await;
    let setup = Gateway::alone().set("upstream", "allow_private", r#"["127.0.0.1/32"]"#);
    let gateway = setup.text("policy", "default", "tunnel").start().await;
    drop(gateway.client().connect(&peer.addr.to_string()).await);
    peer.next().await;
    let (answer, _) = gateway
        .client()
        .try_connect(&format!("127.0.0.2:{}", peer.addr.port()))
        .await;
    assert!(matches!(answer.status, 403 | 502), "{}", answer.text());
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 1000);
    let trap = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let trap_addr = trap.local_addr().unwrap();
    let setup = Gateway::before(&up).set("upstream", "allow_private", r#"["127.0.0.1/32"]"#);
    let gateway = setup.start().await;
    let places = [
        format!("https://{trap_addr}/secret"),
        format!("http://{trap_addr}/secret"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://[::ffff:10.0.0.1]/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ];
    for place in places {
        let headers = vec![("location", place.clone())];
        up.fault(On::get("/blobs/").always(), Fault::Status(307, headers, ""));
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        assert!(
            reply.status >= 500 || reply.status == 403,
            "{place}: {}",
            reply.status
        );
        reply.oci_error().await;
        up.mend();
    }
    assert_nobody_came(&trap).await;
}

#[tokio::test]
async fn a_redirect_that_never_ends_does() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(2, 1000);
    let gateway = Gateway::before(&up).start().await;
    let headers = vec![("location", repo.blob_url(&blob.digest))];
    up.fault(On::get("/blobs/").always(), Fault::Status(307, headers, ""));
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    assert!(reply.status >= 500, "{}", reply.status);
    reply.oci_error().await;
    assert!(up.requests() < 200, "{} requests", up.requests());
}

#[tokio::test]
async fn a_built_in_registry_is_let_in_until_they_are_switched_off() {
    let up = Upstream::start().await;
    let start = |setup: Setup| setup.resolve("ghcr.io", up.addr()).start();
    let gateway = start(Gateway::alone().trusting(up.ca_pem())).await;
    drop(gateway.client().connect("ghcr.io:443").await);
    let without = Gateway::alone().set("", "builtin_registries", "false");
    let gateway = start(without).await;
    assert_denied(&gateway, "ghcr.io:443", "policy.default").await;
}

#[tokio::test]
async fn a_denied_http_request_is_403_too() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let gateway = Gateway::before(&up).start().await;
    let reply = gateway.client().get("http://pages.test/").send().await;
    assert_eq!(reply.status, 403);
    let text = reply.text().await;
    assert!(text.contains("policy.default"), "{text}");
    assert_eq!(up.connections(), 0, "a packet left");
}

#[tokio::test]
async fn names_that_are_no_hosts_are_400() {
    let gateway = Gateway::alone().more(TUNNEL_ALL).start().await;
    for authority in [
        "ho st:443",
        "host_",
        "-:443",
        "host:99999",
        "a..b:443",
        ":443",
        "host:0x1",
    ] {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = wire::exchange(gateway.proxy, head.as_bytes()).await;
        let status = wire::Raw::parse(&answer).map(|raw| raw.status);
        assert!(matches!(status, Some(400 | 403)), "{authority}: {status:?}");
    }
}
