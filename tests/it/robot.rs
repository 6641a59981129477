//! `auth = "gateway"`: one robot account, and clients that have none.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use tempfile::TempDir;

use crate::support::{
    Fault, Gate, Gateway, Image, On, Setup, Upstream, client::direct, upstream::Registry, within,
};

const HOST: &str = "registry.test";
pub(crate) const PASSWORD: &str = "r0b0t-pass";
const LAYER: usize = 200_000;

/// How the upstream of a test asks who is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asks {
    Basic,
    Bearer,
}

/// A registry with a robot account, and an image in it that the robot alone may pull.
pub(crate) async fn robots(asks: Asks) -> (Upstream, Registry, Image) {
    let up = Upstream::start().await;
    let registry = up.registry(HOST).user("robot", PASSWORD);
    let registry = match asks {
        Asks::Basic => registry.basic(),
        Asks::Bearer => registry.bearer("auth.test"),
    };
    let repo = registry.private_repo("team/app", &["robot"]);
    let image = repo.image("v1", 31, &[LAYER, 9, 500]);
    (up, registry, image)
}

/// A gateway that has the robot's password in a file.
pub(crate) async fn gateway(up: &Upstream, auth: &str, password: &str) -> Gateway {
    gateway_as(Gateway::before(up), auth, password).await
}

pub(crate) async fn gateway_as(setup: Setup, auth: &str, password: &str) -> Gateway {
    let home = home();
    std::fs::write(home.path().join("robot-password"), format!("{password}\n")).unwrap();
    let login = "username = \"robot\"\npassword_file = \"robot-password\"";
    setup
        .registry(HOST, &format!("auth = {auth:?}\n{login}"))
        .text("cache", "tag_ttl", "0s")
        .text("log", "level", "debug")
        .start_in(home)
        .await
}

fn home() -> Arc<TempDir> {
    let home = tempfile::Builder::new().prefix("pierhead-it-").tempdir();
    Arc::new(home.expect("a temporary directory"))
}

fn tokens_fetched(up: &Upstream) -> usize {
    up.count(Method::GET, "/token")
}

#[tokio::test]
async fn anonymous_clients_pull_a_private_image_cold_warm_and_with_upstream_away() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, _, image) = robots(asks).await;
        let gateway = gateway(&up, "gateway", PASSWORD).await;
        gateway.client().pull(&image).await;
        let blobs = up.blob_gets();
        gateway.client().pull(&image).await;
        assert_eq!(up.blob_gets(), blobs, "{asks:?}: warm");
        for blob in image.blobs() {
            assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "{asks:?}");
        }
        up.stop().await;
        gateway.client().pull(&image).await;
    }
}

#[tokio::test]
async fn the_ping_is_answered_at_once_so_that_clients_send_no_login() {
    let (up, _, _) = robots(Asks::Bearer).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    for url in ["https://registry.test/v2/", "https://registry.test/v2"] {
        let reply = gateway.client().get(url).send().await;
        assert_eq!(reply.status, 200, "{url}");
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            "registry/2.0"
        );
    }
    assert_eq!(up.requests(), 0, "it was asked upstream");
}

#[tokio::test]
async fn the_callers_own_authorization_never_travels_upstream() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, registry, image) = robots(asks).await;
        let _ = registry.user("alice", "a-secret");
        let gateway = gateway(&up, "gateway", PASSWORD).await;
        let alice = gateway.client().basic("alice", "a-secret");
        let stranger = gateway.client().bearer("a-token-of-another-registry");
        alice.pull(&image).await;
        stranger.pull(&image).await;
        for client in [&alice, &stranger] {
            let tags = client.get(&image.repo.url("tags/list")).send().await;
            assert_eq!(tags.status, 200, "{asks:?}: the robot sees the tags");
            let ping = client.get("https://registry.test/v2/").send().await;
            assert_eq!(ping.status, 200);
        }
        let robot = STANDARD.encode(format!("robot:{PASSWORD}"));
        for seen in up.seen() {
            let sent = seen.header("authorization");
            let own = sent.is_empty()
                || sent == format!("Basic {robot}")
                || (sent.starts_with("Bearer token-") && sent.ends_with("-robot"));
            assert!(own, "{asks:?}: {sent} with {}", seen.path);
        }
    }
}

#[tokio::test]
async fn the_robots_login_is_for_images_and_for_nothing_else_on_their_host() {
    let (up, _, _) = robots(Asks::Basic).await;
    let wants = vec![("www-authenticate", "Basic realm=\"users\"".to_owned())];
    let asks = Fault::Status(401, wants, "");
    up.fault(On::any("/service/").always(), asks);
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    let url = "https://registry.test/service/rest/users";
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let reply = gateway.client().ask(method, url).send().await;
        let status = reply.status;
        assert_eq!(status, 401, "{}", reply.text().await);
    }
    let asked = up.seen().into_iter();
    let asked: Vec<_> = asked.filter(|one| one.path.contains("/service/")).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        asked
            .iter()
            .all(|one| !one.headers.contains_key("authorization")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn many_cold_requests_fetch_one_token() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let sizes: Vec<usize> = (1..=12).map(|n| 1000 * n).collect();
    let wide = image.repo.image("wide", 32, &sizes);
    let gate = Gate::new();
    up.fault(On::get("/token"), Fault::Late(gate.clone()));
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    let asking = wide.layers.iter().map(|layer| {
        let (client, url) = (gateway.client(), wide.repo.blob_url(&layer.digest));
        let digest = layer.digest.clone();
        tokio::spawn(async move { client.get(&url).send().await.verified(&digest).await })
    });
    let asking: Vec<_> = asking.collect();
    // The first ones were told to get a token; who comes later knows already.
    let refused = |one: &crate::support::upstream::Seen| one.status == Some(401);
    up.until(|all| all.iter().any(refused)).await;
    gate.open();
    for one in asking {
        within(30, one).await.unwrap();
    }
    gateway.client().pull(&wide).await;
    assert_eq!(tokens_fetched(&up), 1);
}

#[tokio::test]
async fn a_token_that_ended_upstream_is_renewed() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    let client = gateway.client();
    client.manifest(&image.repo, "v1").await;
    assert_eq!(tokens_fetched(&up), 1);
    up.expire_tokens();
    client.pull(&image).await;
    assert_eq!(tokens_fetched(&up), 2, "one for all that was left to do");
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_download_is_renewed() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let layer = &image.layers[0];
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    // A token is good for one request, and the download takes three.
    up.tokens_last(1);
    for cut in [50_000, 60_000] {
        up.fault(On::get(&layer.digest).after(1), Fault::CutAfter(cut));
    }
    let reply = gateway
        .client()
        .get(&image.repo.blob_url(&layer.digest))
        .send()
        .await;
    reply.verified(&layer.digest).await;
    assert!(tokens_fetched(&up) >= 2, "{:?}", up.seen());
    let sent = up.bytes_sent(&layer.digest);
    assert!(sent < LAYER + LAYER / 2, "{sent}: it began again");
}

#[tokio::test]
async fn a_changed_password_file_counts_without_a_restart() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, registry, image) = robots(asks).await;
        let gateway = gateway(&up, "gateway", "an-old-pass").await;
        let reply = gateway.client().ask_manifest(&image.repo, "v1").await;
        assert_eq!(reply.status, 403, "{asks:?}");
        let file = gateway.home().path().join("robot-password");
        std::fs::write(&file, PASSWORD).unwrap();
        gateway.client().pull(&image).await;

        // The other way round: the password changes upstream first.
        let _ = registry.user("robot", "a-new-pass");
        up.expire_tokens();
        let next = image.repo.image("v2", 33, &[700]);
        let reply = gateway.client().ask_manifest(&next.repo, "v2").await;
        assert_eq!(reply.status, 403, "{asks:?}");
        std::fs::write(&file, "a-new-pass\n").unwrap();
        gateway.client().pull(&next).await;
    }
}

#[tokio::test]
async fn a_refused_robot_is_told_as_such_and_no_password_is() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, _, image) = robots(asks).await;
        let gateway = gateway(&up, "gateway", "wr0ng-pass").await;
        let mut told = String::new();
        let blob = image.repo.blob_url(&image.layers[0].digest);
        for url in [image.by_tag(), image.by_digest(), blob] {
            let reply = gateway.client().get(&url).send().await;
            assert_eq!(reply.status, 403, "{asks:?}: {url}");
            let (code, message) = reply.oci_error().await;
            assert_eq!(code, "DENIED", "{asks:?}: {url}: {message}");
            assert!(message.contains(HOST), "{asks:?}: {url}: {message}");
            assert!(message.contains("login"), "{asks:?}: {url}: {message}");
            told += &message;
        }
        let line = gateway.log.line("refused the gateway's own login").await;
        assert!(line.contains(HOST), "{line}");
        let metrics = gateway.metrics().await;
        let count = metrics
            .lines()
            .find(|line| line.starts_with("pierhead_logins_refused_total{"))
            .unwrap_or_else(|| panic!("no such metric in\n{metrics}"));
        assert!(count.contains(HOST) && !count.ends_with(" 0"), "{count}");
        told += &gateway.log.text();
        told += &metrics;
        let encoded = STANDARD.encode("robot:wr0ng-pass");
        for secret in ["wr0ng-pass", &encoded] {
            assert!(!told.contains(secret), "{asks:?}: {secret} was told");
        }
    }
}

#[tokio::test]
async fn no_password_or_token_of_the_robot_is_in_a_log_a_metric_or_a_file() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    gateway.client().pull(&image).await;
    let told = gateway.log.text() + &gateway.metrics().await;
    let encoded = STANDARD.encode(format!("robot:{PASSWORD}"));
    for secret in [PASSWORD, &encoded, "token-1-robot"] {
        assert!(!told.contains(secret), "{secret} was told");
        for (path, _) in gateway.cache_files() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let mut parts = bytes.windows(secret.len());
            let found = parts.any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
    }
}

#[tokio::test]
async fn a_password_file_that_is_missing_is_told_without_asking_upstream() {
    let (up, _, image) = robots(Asks::Basic).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    std::fs::remove_file(gateway.home().path().join("robot-password")).unwrap();
    let reply = gateway.client().ask_manifest(&image.repo, "v1").await;
    assert_eq!(reply.status, 403);
    let (code, message) = reply.oci_error().await;
    assert_eq!((code.as_str(), message.contains(HOST)), ("DENIED", true));
    gateway.log.line("robot-password").await;
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn a_password_file_that_is_missing_is_told_at_the_start_and_stops_nothing() {
    let up = Upstream::start().await;
    let login = "auth = \"gateway\"\nusername = \"robot\"\npassword_file = \"/nowhere/robot\"";
    let gateway = Gateway::before(&up).registry(HOST, login).start().await;
    let told = gateway.log.line("registry.password_file (entry ").await;
    assert!(told.contains("/nowhere/robot cannot be read"), "{told}");
}

#[tokio::test]
async fn without_a_username_the_gateway_fetches_anonymous_tokens() {
    let (up, registry, private) = robots(Asks::Bearer).await;
    let public = registry.repo("library/app").image("v1", 34, &[LAYER]);
    let gateway = Gateway::before(&up)
        .registry(HOST, "auth = \"gateway\"")
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    gateway.client().pull(&public).await;
    let asked: Vec<_> = up.seen();
    let mut tokens = asked.iter().filter(|one| one.path == "/token");
    assert!(tokens.all(|one| one.header("authorization").is_empty()));
    assert_eq!(tokens_fetched(&up), 1);

    let reply = gateway.client().ask_manifest(&private.repo, "v1").await;
    assert_eq!(reply.status, 403);
    let (code, message) = reply.oci_error().await;
    assert_eq!(code, "DENIED");
    assert!(
        message.contains(HOST) && message.contains("username"),
        "{message}"
    );
}

#[tokio::test]
async fn a_docker_config_holds_the_robots_login_too() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, _, image) = robots(asks).await;
        let home = home();
        let auth = STANDARD.encode(format!("robot:{PASSWORD}"));
        let config = serde_json::json!({ "auths": { HOST: { "auth": auth } } });
        std::fs::write(home.path().join("config.json"), config.to_string()).unwrap();
        let gateway = Gateway::before(&up)
            .registry(HOST, "auth = \"gateway\"\ndocker_config = \"config.json\"")
            .start_in(home)
            .await;
        gateway.client().pull(&image).await;
        assert!(!gateway.log.text().contains(&auth));
    }
}

#[tokio::test]
async fn a_token_service_that_is_away_stops_nothing_that_is_cached() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    gateway.client().pull(&image).await;
    up.fault(
        On::any("/token").always(),
        Fault::Status(503, vec![], "away"),
    );
    up.expire_tokens();
    gateway.client().pull(&image).await;
    let gateway = gateway.restart().await;
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn the_mirror_gives_the_robots_image_to_anonymous_clients_as_well() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let gateway = gateway(&up, "gateway", PASSWORD).await;
    for path in [
        format!("/v2/team/app/manifests/{}?ns={HOST}", image.manifest.digest),
        format!("/v2/{HOST}/team/app/manifests/{}", image.manifest.digest),
    ] {
        let reply = direct(gateway.proxy, Method::GET, &path, &[]).await;
        reply.verified(&image.manifest.digest).await;
    }
}
