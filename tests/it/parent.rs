//! Behind a parent proxy: everything goes through it, nothing tells its password, and gateways chain.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Fault, Gate, Gateway, On, Setup, Upstream, echo::Peer, gateway::run, parent::Parent, wire,
    within,
};

const MIB: usize = 1024 * 1024;
const USER: &str = "branch";
const PASSWORD: &str = "s3cret-of-the-parent";
const EVERYTHING: &str = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*\"]";
const SOME: &str = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\", \"pages.test\"]";

/// A parent that knows the registry and wants its login.
async fn parent(up: &Upstream) -> Parent {
    let parent = Parent::start(up.ca()).await.login(USER, PASSWORD);
    parent.knows("registry.test", up.addr())
}

/// A gateway that resolves nothing but the parent, whose address is as private as can be.
fn behind(up: &Upstream, scheme: &str, parent: &Parent) -> Setup {
    let port = parent.addr.port();
    let url = format!("{scheme}://{USER}:{PASSWORD}@parent.test:{port}");
    Gateway::alone()
        .trusting(up.ca_pem())
        .registry("registry.test", "")
        .resolve("parent.test", parent.addr)
        .set("upstream", "allow_private", "[]")
        .text("upstream", "proxy", &url)
}

fn keeps_the_secret(gateway: &Gateway) {
    let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for shown in [gateway.out.text(), gateway.log.text()] {
        assert!(!shown.contains(PASSWORD), "{shown}");
        assert!(!shown.contains(&pair), "{shown}");
    }
}

#[tokio::test]
async fn a_pull_goes_through_an_http_an_https_and_a_socks_parent() {
    for (scheme, how, tls) in [
        ("http", "CONNECT", false),
        ("https", "CONNECT", true),
        ("socks5", "SOCKS", false),
    ] {
        let up = Upstream::start().await;
        let image = up
            .repo("registry.test", "app")
            .image("latest", 1, &[MIB, 10]);
        let parent = parent(&up).await;
        let setup = behind(&up, scheme, &parent).text("log", "level", "trace");
        let gateway = setup.start().await;
        gateway.client().pull(&image).await;
        let asked = parent.asked();
        assert!(!asked.is_empty());
        assert!(
            up.connections() <= asked.len(),
            "{scheme}: some went around"
        );
        for one in &asked {
            assert_eq!((one.how.as_str(), one.tls), (how, tls), "{scheme}");
            assert_eq!(one.target, "registry.test:443", "{scheme}");
        }
        let before = up.requests();
        gateway.client().pull(&image).await;
        assert_eq!(up.requests(), before, "{scheme}: the second pull is cached");
        let place = format!("parent  {scheme}://parent.test:{}", parent.addr.port());
        assert!(gateway.out.text().contains(&place), "{scheme}");
        keeps_the_secret(&gateway);
    }
}

#[tokio::test]
async fn plain_http_goes_through_in_absolute_form_and_by_socks() {
    for (scheme, how) in [("http", "GET"), ("https", "GET"), ("socks5", "SOCKS")] {
        let up = Upstream::start().await;
        let blob = up.repo("registry.test", "app").blob(1, 100_000);
        up.page("pages.test", "/hello", "text/plain", b"hello");
        let parent = parent(&up).await.knows("pages.test", up.addr());
        let gateway = behind(&up, scheme, &parent).more(EVERYTHING);
        let gateway = gateway.no_registry("registry.test").start().await;
        let client = gateway.client();
        let page = client.get("http://pages.test/hello").send().await;
        assert_eq!(page.text().await, "hello", "{scheme}");
        let url = format!("http://registry.test/v2/app/blobs/{}", blob.digest);
        client.get(&url).send().await.verified(&blob.digest).await;
        let asked = parent.asked();
        assert!(asked.iter().all(|one| one.how == how), "{asked:?}");
        if how == "GET" {
            assert_eq!(asked[0].target, "http://pages.test/hello");
        }
        for seen in up.seen() {
            assert!(!seen.headers.contains_key("proxy-authorization"));
        }
        keeps_the_secret(&gateway);
    }
}

#[tokio::test]
async fn a_registry_in_plain_http_is_cached_through_a_parent() {
    let up = Upstream::start().await;
    let blob = up.repo("registry.test", "app").blob(2, 100_000);
    let parent = parent(&up).await;
    let gateway = behind(&up, "http", &parent).start().await;
    let url = format!("http://registry.test/v2/app/blobs/{}", blob.digest);
    for _ in 0..2 {
        let reply = gateway.client().get(&url).send().await;
        reply.verified(&blob.digest).await;
    }
    assert_eq!(up.blob_gets(), 1);
    assert_eq!(parent.asked()[0].target, url);
}

#[tokio::test]
async fn a_tunnel_through_a_parent_loses_no_byte_of_a_target_that_speaks_first() {
    for scheme in ["http", "https", "socks5"] {
        let up = Upstream::start().await;
        let mut peer = Peer::closes_first(b"220 I speak first").await;
        let parent = parent(&up).await.together().knows("peer.test", peer.addr);
        let gateway = behind(&up, scheme, &parent).more(EVERYTHING).start().await;
        let mut socket = gateway.client().connect("peer.test:443").await;
        socket.write_all(b"and I answer").await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(
            wire::rest(&mut socket).await,
            b"220 I speak first",
            "{scheme}"
        );
        assert_eq!(peer.next().await, b"and I answer", "{scheme}");
        assert_eq!(parent.asked()[0].target, "peer.test:443");
    }
}

#[tokio::test]
async fn hosts_and_networks_of_no_proxy_go_around_the_parent() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 3, &[1000]);
    let peer = Peer::echo().await;
    let parent = parent(&up).await;
    let setup = behind(&up, "http", &parent)
        .resolve("registry.test", up.addr())
        .set("upstream", "allow_private", "[\"127.0.0.0/8\"]")
        .set("upstream", "no_proxy", "[\".test\", \"127.0.0.0/8\"]")
        .more(&EVERYTHING.replace(
            "[\"*\"]",
            &format!("[\"127.0.0.1\"]\nports = [{}]", peer.addr.port()),
        ));
    let gateway = setup.start().await;
    gateway.client().pull(&image).await;
    drop(gateway.client().connect(&peer.addr.to_string()).await);
    assert_eq!(parent.asked(), []);
}

#[tokio::test]
async fn an_address_is_judged_by_the_guard_though_the_parent_would_dial_it() {
    let up = Upstream::start().await;
    let parent = parent(&up).await;
    let setup = behind(&up, "http", &parent).more(EVERYTHING);
    let gateway = setup.start().await;
    for target in [
        "169.254.169.254:443",
        "10.0.0.1:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "localhost:443",
        "a.localhost:443",
    ] {
        let (answer, _) = gateway.client().try_connect(target).await;
        assert_eq!(answer.status, 403, "{target}: {}", answer.text());
        assert!(answer.text().contains("allow_private"), "{}", answer.text());
    }
    let reply = gateway.client().get("http://169.254.169.254/").send().await;
    assert_eq!(reply.status, 403);
    assert_eq!(parent.asked(), []);
}

#[tokio::test]
async fn a_parent_that_refuses_is_named_without_its_login() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(4, 1000);
    let stranger = Parent::start(up.ca()).await.login(USER, "another");
    let forbids = Parent::start(up.ca()).await.refuses(403);
    let broken = parent(&up).await.refuses(502);
    for (scheme, parent, says) in [
        ("http", &stranger, "407"),
        ("https", &stranger, "407"),
        ("socks5", &stranger, "credentials not accepted"),
        ("http", &forbids, "403"),
        ("http", &broken, "502"),
        ("socks5", &broken, "general server failure"),
    ] {
        let gateway = behind(&up, scheme, parent).more(SOME);
        let gateway = gateway.text("log", "level", "trace").start().await;
        let (answer, _) = gateway.client().try_connect("peer.test:443").await;
        let text = answer.text();
        assert_eq!(answer.status, 502, "{text}");
        let place = format!(
            "the parent proxy {scheme}://parent.test:{}",
            parent.addr.port()
        );
        assert!(text.contains(&place) && text.contains(says), "{text}");
        if says == "407" {
            gateway.log.line(&place).await;
            // The parent's question is no question to the client.
            let reply = gateway.client().get("http://pages.test/").send().await;
            assert_eq!(reply.status, 502);
            assert!(!reply.headers.contains_key("proxy-authenticate"));
            assert!(reply.text().await.contains("407"));
            let reply = gateway
                .client()
                .get(&repo.blob_url(&blob.digest))
                .send()
                .await;
            assert_eq!(reply.status, 502);
            let (_, message) = reply.oci_error().await;
            assert!(message.contains(&place), "{message}");
            assert!(!message.contains(PASSWORD), "{message}");
        }
        assert!(!text.contains(PASSWORD) && !text.contains(USER), "{text}");
        keeps_the_secret(&gateway);
    }
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn a_parent_that_is_away_is_named_and_what_is_cached_is_served() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 5, &[1000]);
    let parent = parent(&up).await;
    let gateway = behind(&up, "http", &parent).more(SOME);
    let gateway = gateway.text("cache", "tag_ttl", "0s").start().await;
    gateway.client().pull(&image).await;
    let nobody = free_port();
    let url = format!("http://{USER}:{PASSWORD}@parent.test:{nobody}");
    let at = format!("127.0.0.1:{nobody}").parse().unwrap();
    let gateway = gateway
        .restart_as(|setup| {
            setup
                .text("upstream", "proxy", &url)
                .resolve("parent.test", at)
        })
        .await;
    let (answer, _) = gateway.client().try_connect("peer.test:443").await;
    let text = answer.text();
    assert_eq!(answer.status, 502, "{text}");
    assert!(
        text.contains(&format!("the parent proxy http://parent.test:{nobody}: ")),
        "{text}"
    );
    assert!(text.contains("cannot be reached"), "{text}");
    gateway.client().pull(&image).await;
    keeps_the_secret(&gateway);
}

#[tokio::test]
async fn a_gateway_that_is_its_own_parent_ends_the_loop() {
    let port = free_port();
    let setup = Gateway::alone()
        .set("listen", "proxy", &format!("[\"127.0.0.1:{port}\"]"))
        .text("upstream", "proxy", &format!("http://127.0.0.1:{port}"))
        .more(EVERYTHING);
    let gateway = setup.start().await;
    let (answer, _) = within(20, gateway.client().try_connect("peer.test:443")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("508"), "{}", answer.text());
    let reply = within(20, gateway.client().get("http://pages.test/").send()).await;
    assert_eq!(reply.status, 508);
}

#[tokio::test]
async fn two_gateways_that_are_each_others_parent_end_the_loop() {
    // The first is told of the second before there is one.
    let meets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let start = |parent: SocketAddr| {
        Gateway::alone()
            .text("upstream", "proxy", &format!("http://{parent}"))
            .more(EVERYTHING)
            .start()
    };
    let first = start(meets.local_addr().unwrap()).await;
    let second = start(first.proxy).await;
    let leads_to = second.proxy;
    tokio::spawn(async move {
        while let Ok((mut from, _)) = meets.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(leads_to).await?;
                tokio::io::copy_bidirectional_with_sizes(&mut from, &mut to, 1 << 16, 1 << 16).await
            });
        }
    });
    let (answer, _) = within(20, first.client().try_connect("peer.test:443")).await;
    assert_eq!(answer.status, 502);
    let reply = within(20, first.client().get("http://pages.test/").send()).await;
    assert_eq!(reply.status, 508);
}

#[tokio::test]
async fn check_names_the_parent_and_who_resolves() {
    let up = Upstream::start().await;
    let parent = parent(&up).await;
    let setup = behind(&up, "http", &parent).set("upstream", "no_proxy", "[\".corp\"]");
    let home = tempfile::tempdir().unwrap();
    let config = setup.write(&home);
    let config = config.to_str().unwrap();
    let output = run(&["check", "--config", config, "registry.test"], home.path()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let place = format!("the parent proxy http://parent.test:{}", parent.addr.port());
    assert!(text.contains(&format!("{place}, but for .corp")), "{text}");
    assert!(text.contains(&format!("resolved by {place}")), "{text}");
    assert!(!text.contains(PASSWORD), "{text}");
}

// === two gateways ===

/// A gateway whose parent is `outer`, whose CA it trusts and nobody else's.
fn inner(outer: &Gateway) -> Setup {
    Gateway::alone()
        .trusting(&outer.ca_pem)
        .registry("registry.test", "")
        .set("upstream", "allow_private", "[]")
        .text("upstream", "proxy", &format!("http://{}", outer.proxy))
}

#[tokio::test]
async fn gateways_chain_and_each_keeps_what_passed() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test");
    let registry = registry.basic().user("alice", "a-secret");
    let image = registry
        .private_repo("app", &["alice"])
        .image("latest", 6, &[MIB, 10]);
    let outer = Gateway::before(&up).start().await;
    let first = inner(&outer).start().await;
    let second = inner(&outer).start().await;
    for gateway in [&first, &second, &first] {
        let client = gateway.client().basic("alice", "a-secret");
        client.pull(&image).await;
    }
    assert_eq!(up.blob_gets(), image.blobs().count(), "once each");
    let layer = image.repo.blob_url(&image.layers[0].digest);
    let stranger = first.client().basic("alice", "guess");
    assert!(stranger.get(&layer).send().await.status >= 400);
}

#[tokio::test]
async fn a_pull_through_two_gateways_survives_the_outer_ones_death() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(7, 4 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(3 * MIB as u64, gate.clone()),
    );
    let mut outer = Gateway::before(&up).start().await;
    let inner = inner(&outer).text("log", "level", "debug").start().await;
    let mut reply = inner
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    gate.arrived(1).await;
    let begin = reply.read(MIB).await;
    assert_eq!(begin, blob.bytes[..MIB]);
    outer.kill9().await;
    inner.log.line("trying again").await;
    let again = format!("[\"{}\"]", outer.proxy);
    let outer = outer
        .restart_as(|setup| setup.set("listen", "proxy", &again))
        .await;
    let rest = within(60, reply.rest()).await;
    assert!(rest.whole, "{}", inner.log.text());
    assert_eq!(rest.bytes, blob.bytes[MIB..]);
    gate.open();
    // Both hold it now, and what the kill left was not fetched again.
    let before = up.blob_gets();
    for gateway in [&outer, &inner] {
        let client = gateway.client();
        let reply = client.get(&repo.blob_url(&blob.digest)).send().await;
        reply.verified(&blob.digest).await;
    }
    assert_eq!(up.blob_gets(), before);
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
