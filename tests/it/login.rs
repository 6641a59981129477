//! `auth = "client-or-gateway"`: the caller's own login where it has one, else the gateway's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::Value;

use crate::{
    robot::{Asks, gateway, robots},
    support::{Client, Gateway, Image, Reply, Upstream},
};

const MODE: &str = "client-or-gateway";
const PASSWORD: &str = "r0b0t-pass";
const LAYER: usize = 200_000;

/// A gateway with a robot, the robot's image, and one of alice's own.
async fn both(asks: Asks) -> (Upstream, Gateway, Image, Image) {
    let (up, registry, shared) = robots(asks).await;
    let registry = registry.user("alice", "a-secret").user("bob", "b-secret");
    let repo = registry.private_repo("alice/own", &["alice"]);
    let own = repo.image("v1", 41, &[LAYER, 10]);
    let gateway = gateway(&up, MODE, PASSWORD).await;
    (up, gateway, shared, own)
}

fn alice(gateway: &Gateway) -> Client {
    gateway.client().basic("alice", "a-secret")
}

async fn assert_sees_nothing(client: &Client, image: &Image) {
    let refused = |reply: &Reply, what: &str| {
        let status = reply.status;
        assert!(matches!(status, 401 | 403 | 404), "{what}: {status}");
    };
    for reference in [&image.tag, &image.manifest.digest] {
        let reply = client.ask_manifest(&image.repo, reference).await;
        refused(&reply, reference);
    }
    for blob in image.blobs() {
        let url = image.repo.blob_url(&blob.digest);
        refused(&client.get(&url).send().await, &url);
        refused(&client.head(&url).send().await, &url);
    }
}

/// The realm of a Bearer challenge of the gateway's own.
fn realm(reply: &Reply) -> String {
    let challenge = reply.header("www-authenticate");
    let rest = challenge.strip_prefix("Bearer realm=\"");
    let realm = rest.and_then(|rest| rest.split('"').next());
    let realm = realm.unwrap_or_else(|| panic!("no Bearer challenge: {challenge:?}"));
    assert!(realm.ends_with("/pierhead/token"), "{realm}");
    realm.to_owned()
}

async fn token(client: &Client, realm: &str) -> String {
    let reply = client
        .get(&format!("{realm}?service=pierhead"))
        .send()
        .await;
    assert_eq!(reply.status, 200, "the token");
    let body: Value = serde_json::from_str(&reply.text().await).unwrap();
    assert!(body["expires_in"].as_u64().is_some_and(|it| it >= 60));
    body["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_caller_without_a_login_gets_what_the_robot_may_see() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, gateway, shared, own) = both(asks).await;
        gateway.client().pull(&shared).await;
        let blobs = up.blob_gets();
        gateway.client().pull(&shared).await;
        assert_eq!(up.blob_gets(), blobs, "{asks:?}: warm");
        assert_sees_nothing(&gateway.client(), &own).await;
        up.stop().await;
        gateway.client().pull(&shared).await;
    }
}

#[tokio::test]
async fn a_login_gets_its_own_repository_and_nobody_else_gets_it_from_the_cache() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, gateway, shared, own) = both(asks).await;
        alice(&gateway).pull(&own).await;
        assert_sees_nothing(&gateway.client(), &own).await;
        assert_sees_nothing(&gateway.client().basic("bob", "b-secret"), &own).await;
        assert_sees_nothing(&gateway.client().basic("alice", "guessed"), &own).await;
        assert_sees_nothing(&gateway.client().bearer("pierhead_00"), &own).await;
        alice(&gateway).pull(&own).await;
        for blob in own.blobs() {
            assert!(up.bytes_sent(&blob.digest) <= blob.len() + 1, "{asks:?}");
        }
        // With a login of her own she is nobody else: not the robot either.
        gateway.client().pull(&shared).await;
        assert_sees_nothing(&alice(&gateway), &shared).await;
    }
}

#[tokio::test]
async fn while_upstream_is_away_everybody_keeps_what_was_theirs() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, gateway, shared, own) = both(asks).await;
        alice(&gateway).pull(&own).await;
        gateway.client().pull(&shared).await;
        up.stop().await;
        alice(&gateway).pull(&own).await;
        gateway.client().pull(&shared).await;
        for stranger in [gateway.client(), gateway.client().basic("alice", "guessed")] {
            let reply = stranger.ask_manifest(&own.repo, "v1").await;
            assert!(reply.status >= 400, "{asks:?}: {}", reply.status);
            let url = own.repo.blob_url(&own.layers[0].digest);
            let reply = stranger.get(&url).send().await;
            assert!(reply.status >= 400, "{asks:?}: {}", reply.status);
        }
    }
}

#[tokio::test]
async fn a_client_is_asked_for_a_login_and_may_have_none() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (_up, gateway, shared, own) = both(asks).await;
        let ping = gateway
            .client()
            .get("https://registry.test/v2/")
            .send()
            .await;
        assert_eq!(ping.status, 401);
        let realm = realm(&ping);
        assert_eq!(realm, "https://registry.test/pierhead/token");

        let anybodys = token(&gateway.client(), &realm).await;
        let anybody = gateway.client().bearer(&anybodys);
        anybody.pull(&shared).await;
        assert_sees_nothing(&anybody, &own).await;

        let hers = token(&alice(&gateway), &realm).await;
        let client = gateway.client().bearer(&hers);
        let ping = client.get("https://registry.test/v2/").send().await;
        assert_eq!(ping.status, 200, "docker login looks at this");
        client.pull(&own).await;
        assert_sees_nothing(&anybody, &own).await;
        let told = gateway.log.text() + &gateway.metrics().await;
        for secret in ["a-secret", PASSWORD, &hers, &anybodys] {
            assert!(!told.contains(secret), "{secret} was told");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_where_it_was_typed() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (_up, gateway, _, _) = both(asks).await;
        let wrong = gateway.client().basic("alice", "guessed");
        let url = "https://registry.test/pierhead/token?service=pierhead";
        let reply = wrong.get(url).send().await;
        assert_eq!(reply.status, 401, "{asks:?}");
        let (code, _) = reply.oci_error().await;
        assert_eq!(code, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn who_sends_a_login_only_when_refused_is_asked_for_it() {
    // containerd does not ping: it reacts to the answer for the image.
    for asks in [Asks::Basic, Asks::Bearer] {
        let (_up, gateway, _, own) = both(asks).await;
        for url in [own.by_tag(), own.by_digest()] {
            let reply = gateway.client().head(&url).send().await;
            assert_eq!(reply.status, 401, "{asks:?}: {url}");
            realm(&reply);
        }
    }
}

#[tokio::test]
async fn an_oauth_post_is_refused_rather_than_taken_for_nobody() {
    // containerd posts its login in a form first, and falls back to GET when it is told 404 or 405.
    let (_up, gateway, _, _) = both(Asks::Bearer).await;
    let url = "https://registry.test/pierhead/token";
    let client = gateway.client();
    let form = "grant_type=password&service=pierhead&username=alice&password=a-secret";
    let post = client.ask(Method::POST, url).body(form);
    let reply = post.send().await;
    assert!(matches!(reply.status, 404 | 405), "{}", reply.status);
}

#[tokio::test]
async fn what_upstream_takes_from_the_robot_it_takes_from_those_who_came_as_the_robot() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, registry, shared) = robots(asks).await;
        let gateway = gateway(&up, MODE, PASSWORD).await;
        gateway.client().pull(&shared).await;
        // Upstream is there, and says no.
        let _ = registry.private_repo("team/app", &["alice"]);
        let reply = gateway.client().ask_manifest(&shared.repo, "v1").await;
        assert!(
            matches!(reply.status, 401 | 403),
            "{asks:?}: {}",
            reply.status
        );
    }
}

#[tokio::test]
async fn a_login_is_in_no_log_and_no_file() {
    let (_up, gateway, _, own) = both(Asks::Bearer).await;
    alice(&gateway).pull(&own).await;
    let told = gateway.log.text() + &gateway.metrics().await;
    let encoded = STANDARD.encode("alice:a-secret");
    for secret in ["a-secret", &encoded] {
        assert!(!told.contains(secret), "{secret} was told");
        for (path, _) in gateway.cache_files() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let mut parts = bytes.windows(secret.len());
            let found = parts.any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
    }
}
