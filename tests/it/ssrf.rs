//! Nothing that upstream or a client says leads the gateway, or a credential, where it must not go.

use std::time::Duration;

use hyper::Method;
use tokio::net::TcpListener;

use crate::support::{Fault, Gateway, On, Setup, Upstream, client::direct, within};

/// Sockets that nobody may come to, and every spelling of where they are.
struct Traps {
    listeners: [TcpListener; 2],
    places: Vec<String>,
}

// === impl Traps ===

impl Traps {
    async fn set() -> Self {
        // Of 127.0.0.0/8 only 127.0.0.1 is allowed, and that only by its name.
        let other = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let unspecified = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        let any = unspecified.local_addr().unwrap().port();
        let places = [
            format!("127.0.0.2:{port}"),
            format!("2130706434:{port}"),
            format!("0x7f000002:{port}"),
            format!("0177.0.0.2:{port}"),
            format!("127.2:{port}"),
            format!("127.0.0.2.:{port}"),
            format!("[::ffff:127.0.0.2]:{port}"),
            format!("[::ffff:7f00:2]:{port}"),
            format!("[64:ff9b::7f00:2]:{port}"),
            format!("[2002:7f00:2::]:{port}"),
            format!("trap.test:{port}"),
            format!("trap.test.:{port}"),
            format!("TRAP.test:{port}"),
            format!("user:pw@127.0.0.2:{port}"),
            format!("registry.test@127.0.0.2:{port}"),
            format!("0.0.0.0:{any}"),
            format!("[::]:{any}"),
            format!("[::1]:{any}"),
            "169.254.169.254".to_owned(),
            "[fd00:ec2::254]".to_owned(),
            "[fe80::1]".to_owned(),
        ];
        Self {
            listeners: [other, unspecified],
            places: places.into(),
        }
    }

    fn before(&self, up: &Upstream) -> Setup {
        let trap = self.listeners[0].local_addr().unwrap();
        Gateway::before(up)
            .set("upstream", "allow_private", r#"["127.0.0.1/32"]"#)
            .resolve("trap.test", trap)
            .text("limits", "upstream_connect", "5s")
    }

    async fn assert_untouched(&self) {
        for listener in &self.listeners {
            let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
            assert!(accepted.is_err(), "somebody connected");
        }
    }
}

#[tokio::test]
async fn no_redirect_of_a_blob_or_a_manifest_leads_to_a_private_address_in_any_spelling() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 1000);
    let traps = Traps::set().await;
    let gateway = traps.before(&up).start().await;
    for place in &traps.places {
        for scheme in ["https", "http", ""] {
            let to = match scheme {
                "" => format!("//{place}/x"),
                scheme => format!("{scheme}://{place}/x"),
            };
            let headers = vec![("location", to.clone())];
            up.fault(On::any("/v2/").always(), Fault::Status(307, headers, ""));
            for url in [repo.blob_url(&blob.digest), repo.manifest_url("latest")] {
                let reply = within(60, gateway.client().get(&url).send()).await;
                let told = matches!(reply.status, 403 | 500..);
                assert!(told, "{to} of {url}: {}", reply.status);
                reply.oci_error().await;
            }
            up.mend();
        }
    }
    traps.assert_untouched().await;
}

#[tokio::test]
async fn no_challenge_makes_the_gateway_fetch_a_token_from_a_private_address() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let traps = Traps::set().await;
    let home = tempfile::tempdir().unwrap();
    let password = home.path().join("password");
    std::fs::write(&password, "r-secret").unwrap();
    let file = format!("password_file = {password:?}");
    let robot = format!("auth = \"gateway\"\nusername = \"robot\"\n{file}");
    let setup = traps.before(&up).registry("registry.test", &robot);
    let gateway = setup.start().await;
    let digest = crate::support::content::sha256(b"wanted");
    for (number, place) in traps.places.iter().enumerate() {
        for scheme in ["https", "http"] {
            // How a repository wants to be asked is remembered.
            let repo = up.repo("registry.test", &format!("{scheme}/app-{number}"));
            let challenge = format!(r#"Bearer realm="{scheme}://{place}/token",service="x""#);
            let headers = vec![("www-authenticate", challenge)];
            up.fault(On::any("/v2/").always(), Fault::Status(401, headers, ""));
            let url = repo.blob_url(&digest);
            let reply = within(60, gateway.client().get(&url).send()).await;
            assert!(
                matches!(reply.status, 403 | 500..),
                "{place}: {}",
                reply.status
            );
            reply.oci_error().await;
            up.mend();
        }
    }
    traps.assert_untouched().await;
}

#[tokio::test]
async fn no_namespace_of_the_mirror_leads_to_a_private_address() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let traps = Traps::set().await;
    let gateway = traps.before(&up).start().await;
    for place in &traps.places {
        let place = place.replace('@', "%40");
        for path in [
            format!("/v2/app/manifests/latest?ns={place}"),
            format!("/v2/{place}/app/manifests/latest"),
        ] {
            let reply = direct(gateway.proxy, Method::GET, &path, &[]).await;
            assert!(reply.status >= 400, "{path}: {}", reply.status);
        }
    }
    traps.assert_untouched().await;
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn no_credential_follows_a_redirect_to_another_host_port_or_scheme() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .basic()
        .user("alice", "a-secret");
    let repo = registry.repo("app");
    up.page("other.test", "/other", "text/plain", b"hello");
    let setup = Gateway::before(&up)
        .resolve("registry.test:8443", up.addr())
        .resolve("registry.test:80", up.addr());
    let gateway = setup.start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    let places = [
        ("https://other.test/elsewhere", false),
        ("https://registry.test:8443/elsewhere", false),
        ("http://registry.test/elsewhere", false),
        ("http://registry.test:443/elsewhere", false),
        ("https://registry.test.other.test/elsewhere", false),
        // The same place in other words.
        ("https://REGISTRY.test:443/elsewhere", true),
        ("/elsewhere", true),
    ];
    for (place, may) in places {
        let before = up.requests();
        let headers = vec![("location", place.to_owned())];
        up.fault(On::any("/v2/").always(), Fault::Status(307, headers, ""));
        for rest in ["blobs/", "manifests/"] {
            let digest = crate::support::content::sha256(place.as_bytes());
            let url = repo.url(&format!("{rest}{digest}"));
            let _ = within(60, alice.get(&url).send()).await.rest().await;
        }
        up.mend();
        let seen = up.seen().split_off(before);
        let mut elsewhere = seen.iter().filter(|one| one.path == "/elsewhere");
        let told = elsewhere.any(|one| !one.header("authorization").is_empty());
        assert_eq!(told, may, "{place}: {seen:?}");
        let asked = seen.iter().filter(|one| one.path.starts_with("/v2/"));
        assert!(asked.clone().count() > 0, "nobody asked");
        assert!(
            asked
                .clone()
                .any(|one| !one.header("authorization").is_empty())
        );
    }
}

#[tokio::test]
async fn a_login_is_not_sent_in_plain_http_for_a_registry_in_tls() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(3, 1000);
    up.page(
        "auth.test",
        "/plain",
        "application/json",
        br#"{"token":"x"}"#,
    );
    let home = tempfile::tempdir().unwrap();
    let password = home.path().join("password");
    std::fs::write(&password, "r-secret").unwrap();
    let robot = format!("auth = \"gateway\"\nusername = \"robot\"\npassword_file = {password:?}");
    let gateway = Gateway::before(&up)
        .registry("registry.test", &robot)
        .start()
        .await;
    let challenge = r#"Bearer realm="http://auth.test/plain",service="x""#.to_owned();
    let headers = vec![("www-authenticate", challenge)];
    up.fault(On::any("/v2/").times(4), Fault::Status(401, headers, ""));
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    assert!(reply.status >= 400, "{}", reply.status);
    let seen = up.seen();
    let told = seen.iter().filter(|one| one.path == "/plain");
    assert!(
        told.clone()
            .all(|one| one.header("authorization").is_empty()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn another_name_in_the_handshake_of_h2_is_421() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().h2().sni("other.test");
    assert_eq!(
        client.get("https://registry.test/v2/").send().await.status,
        421
    );
    assert_eq!(up.requests(), 0);
}
