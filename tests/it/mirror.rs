//! `GET /v2/…` on the proxy port: the gateway as a registry.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::Value;

use crate::support::{
    Gateway, Image, Reply, Upstream, client::direct, pull::ACCEPT_ALL, upstream::Registry,
};

const LAYER: usize = 200_000;
const HUB: &str = "registry-1.docker.io";

/// GET in origin form.
async fn get(gateway: &Gateway, path: &str) -> Reply {
    ask(gateway, Method::GET, path, &[]).await
}

async fn ask(gateway: &Gateway, method: Method, path: &str, more: &[(&str, &str)]) -> Reply {
    let accept = ACCEPT_ALL.join(", ");
    let mut headers = vec![("accept", accept.as_str())];
    headers.extend(more);
    direct(gateway.proxy, method, path, &headers).await
}

/// How a client writes the paths of one repository.
#[derive(Clone, Debug)]
struct Way {
    name: String,
    query: String,
}

impl Way {
    fn ns(name: &str, host: &str) -> Self {
        Self {
            name: name.into(),
            query: format!("?ns={host}"),
        }
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            query: String::new(),
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}{}", self.name, self.query)
    }

    /// A whole pull, with this `Authorization` where there is one.
    async fn pull(&self, gateway: &Gateway, image: &Image, login: Option<&str>) {
        let more: Vec<_> = login.map(|it| ("authorization", it)).into_iter().collect();
        let path = self.path(&format!("manifests/{}", image.tag));
        let head = ask(gateway, Method::HEAD, &path, &more).await;
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.header("docker-content-digest"), image.manifest.digest);
        let path = self.path(&format!("manifests/{}", image.manifest.digest));
        let reply = ask(gateway, Method::GET, &path, &more).await;
        reply.verified(&image.manifest.digest).await;
        for blob in image.blobs() {
            let path = self.path(&format!("blobs/{}", blob.digest));
            let reply = ask(gateway, Method::GET, &path, &more).await;
            reply.verified(&blob.digest).await;
        }
    }
}

/// Docker Hub with tokens, and its gateway.
async fn hub() -> (Upstream, Registry) {
    let up = Upstream::start().await;
    let hub = up
        .registry(HUB)
        .bearer("auth.docker.io")
        .user("alice", "a-secret");
    (up, hub)
}

async fn before(up: &Upstream) -> Gateway {
    Gateway::before(up)
        .no_registry(HUB)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await
}

fn realm(reply: &Reply) -> String {
    let challenge = reply.header("www-authenticate");
    let rest = challenge.strip_prefix("Bearer realm=\"");
    let realm = rest.and_then(|rest| rest.split('"').next());
    let realm = realm.unwrap_or_else(|| panic!("no Bearer challenge: {challenge:?}"));
    realm.to_owned()
}

/// The path of a realm that leads to this gateway.
fn own_path<'a>(gateway: &Gateway, realm: &'a str) -> &'a str {
    let own = format!("http://{}", gateway.proxy);
    let path = realm.strip_prefix(&own);
    path.unwrap_or_else(|| panic!("{realm} is not at {own}"))
}

/// `Bearer …` from the gateway's own token service.
async fn bearer(gateway: &Gateway, login: Option<&str>) -> String {
    let ping = get(gateway, "/v2/").await;
    assert_eq!(ping.status, 401);
    let realm = realm(&ping);
    let path = format!("{}?service=pierhead", own_path(gateway, &realm));
    let more: Vec<_> = login.map(|it| ("authorization", it)).into_iter().collect();
    let reply = ask(gateway, Method::GET, &path, &more).await;
    assert_eq!(reply.status, 200, "{path}");
    let body: Value = serde_json::from_str(&reply.text().await).unwrap();
    format!("Bearer {}", body["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_registry_is_meant_by_ns_by_the_images_name_or_is_docker_hub() {
    let (up, hub) = hub().await;
    let app = hub.repo("acme/app").image("v1", 51, &[LAYER]);
    let official = hub.repo("library/tiny").image("v1", 52, &[10]);
    let other = up.repo("registry.test", "org/app").image("v1", 53, &[20]);
    let gateway = before(&up).await;
    for (way, image) in [
        (Way::ns("acme/app", "docker.io"), &app),
        (Way::ns("acme/app", HUB), &app),
        (Way::named("docker.io/acme/app"), &app),
        (Way::named("acme/app"), &app),
        (Way::named("tiny"), &official),
        (Way::named("library/tiny"), &official),
        (Way::named("docker.io/tiny"), &official),
        (Way::ns("org/app", "registry.test"), &other),
        (Way::ns("org/app", "registry.test%3A443"), &other),
        (Way::named("registry.test/org/app"), &other),
    ] {
        way.pull(&gateway, image, None).await;
    }
    for image in [&app, &official, &other] {
        for blob in image.blobs() {
            assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "one cache");
        }
    }
    for seen in up.seen() {
        assert!(!seen.query.contains("ns="), "{seen:?}");
    }
}

#[tokio::test]
async fn an_unknown_registry_is_a_404_that_names_it_and_nothing_is_dialled() {
    let (up, _) = hub().await;
    let trap = Upstream::start().await;
    let gateway = Gateway::before(&up)
        .no_registry(HUB)
        .resolve("unknown.test", trap.addr())
        .start()
        .await;
    let port = trap.addr().port();
    for (path, name) in [
        (
            "/v2/a/manifests/v1?ns=unknown.test".to_owned(),
            "unknown.test",
        ),
        ("/v2/unknown.test/a/manifests/v1".to_owned(), "unknown.test"),
        ("/v2/?ns=unknown.test".to_owned(), "unknown.test"),
        (
            format!("/v2/a/manifests/v1?ns=127.0.0.1:{port}"),
            "127.0.0.1",
        ),
        (format!("/v2/127.0.0.1:{port}/a/manifests/v1"), "127.0.0.1"),
        ("/v2/localhost/a/manifests/v1".to_owned(), "localhost"),
        (
            "/v2/a/manifests/v1?ns=169.254.169.254".to_owned(),
            "169.254",
        ),
        (
            "/v2/a/manifests/v1?ns=docker.io@unknown.test".to_owned(),
            "unknown",
        ),
        ("/v2/a/manifests/v1?ns=".to_owned(), ""),
    ] {
        let reply = get(&gateway, &path).await;
        assert_eq!(reply.status, 404, "{path}");
        let (_, message) = reply.oci_error().await;
        assert!(message.contains(name), "{path}: {message}");
    }
    assert_eq!(trap.connections(), 0, "it was dialled");
    assert_eq!(up.connections(), 0, "it was dialled");
}

#[tokio::test]
async fn a_rule_that_denies_the_registrys_host_denies_it_here_as_well() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "org/app").image("v1", 54, &[10]);
    let rule = "[[policy.rule]]\naction = \"deny\"\nhosts = [\"registry.test\"]";
    let gateway = Gateway::before(&up).more(rule).start().await;
    for way in [
        Way::ns("org/app", "registry.test"),
        Way::named("registry.test/org/app"),
    ] {
        let reply = get(&gateway, &way.path("manifests/v1")).await;
        assert_eq!(reply.status, 403, "{way:?}");
        let (code, _) = reply.oci_error().await;
        assert_eq!(code, "DENIED");
        let path = way.path(&format!("blobs/{}", image.layers[0].digest));
        assert_eq!(get(&gateway, &path).await.status, 403);
    }
    let line = gateway.log.access(|line| line.is("status", "403")).await;
    assert!(line.field("rule").contains("policy.rule 1"), "{line:?}");
    assert_eq!(up.connections(), 0);
}

#[tokio::test]
async fn a_private_image_is_for_logins_alone() {
    let (up, hub) = hub().await;
    let image = hub
        .private_repo("acme/secret", &["alice"])
        .image("v1", 55, &[LAYER]);
    let gateway = before(&up).await;
    let login = format!("Basic {}", STANDARD.encode("alice:a-secret"));
    let way = Way::named("docker.io/acme/secret");

    let hers = bearer(&gateway, Some(&login)).await;
    way.pull(&gateway, &image, Some(&hers)).await;
    way.pull(&gateway, &image, Some(&login)).await;

    let anybodys = bearer(&gateway, None).await;
    let wrong = format!("Basic {}", STANDARD.encode("alice:guessed"));
    let wrong_token = bearer(&gateway, Some(&wrong)).await;
    let mut paths = vec![way.path("manifests/v1")];
    paths.push(way.path(&format!("manifests/{}", image.manifest.digest)));
    for blob in image.blobs() {
        paths.push(way.path(&format!("blobs/{}", blob.digest)));
    }
    for stranger in [None, Some(&anybodys), Some(&wrong), Some(&wrong_token)] {
        let more: Vec<_> = stranger
            .map(|it| ("authorization", it.as_str()))
            .into_iter()
            .collect();
        for path in &paths {
            for method in [Method::GET, Method::HEAD] {
                let reply = ask(&gateway, method, path, &more).await;
                assert_eq!(reply.status, 401, "{path}");
                own_path(&gateway, &realm(&reply));
            }
        }
    }
    for blob in image.blobs() {
        assert!(up.bytes_sent(&blob.digest) <= blob.len() + 1);
    }
    let told = gateway.log.text() + &gateway.metrics().await;
    for secret in ["a-secret", "guessed", &hers[7..], &login[6..]] {
        assert!(!told.contains(secret), "{secret} was told");
    }
}

#[tokio::test]
async fn what_came_through_the_proxy_is_a_hit_here() {
    let (up, hub) = hub().await;
    let image = hub.repo("acme/app").image("v1", 56, &[LAYER]);
    let gateway = before(&up).await;
    let token = hub.token(None, "acme/app");
    gateway.client().bearer(&token).pull(&image).await;
    let layer = &image.layers[0];
    let way = Way::named("acme/app");
    let blobs = up.blob_gets();
    let path = way.path(&format!("blobs/{}", layer.digest));
    let reply = get(&gateway, &path).await;
    // Collapsed: its download has just been read to the end, and is being written down.
    let told = ["pierhead; hit", "pierhead; fwd=miss; collapsed"];
    assert!(
        told.contains(&reply.cache_status()),
        "{}",
        reply.cache_status()
    );
    reply.verified(&layer.digest).await;
    way.pull(&gateway, &image, None).await;
    assert_eq!(up.blob_gets(), blobs);

    // And the other way round.
    let next = hub.repo("acme/next").image("v1", 57, &[LAYER]);
    Way::named("acme/next").pull(&gateway, &next, None).await;
    let token = hub.token(None, "acme/next");
    gateway.client().bearer(&token).pull(&next).await;
    for blob in next.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len());
    }
}

#[tokio::test]
async fn a_private_image_that_came_through_the_proxy_is_none_here() {
    let (up, hub) = hub().await;
    let repo = hub.private_repo("acme/secret", &["alice"]);
    let image = repo.image("v1", 58, &[LAYER]);
    let gateway = before(&up).await;
    let token = hub.token(Some("alice"), "acme/secret");
    gateway.client().bearer(&token).pull(&image).await;
    let way = Way::named("acme/secret");
    let path = way.path(&format!("blobs/{}", image.layers[0].digest));
    assert_eq!(get(&gateway, &path).await.status, 401);
    assert_eq!(get(&gateway, &way.path("manifests/v1")).await.status, 401);
}

#[tokio::test]
async fn with_upstream_away_the_mirror_still_serves_what_is_public() {
    let (up, hub) = hub().await;
    let image = hub.repo("acme/app").image("v1", 59, &[LAYER]);
    let gateway = Gateway::before(&up)
        .no_registry(HUB)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let way = Way::ns("acme/app", "docker.io");
    way.pull(&gateway, &image, None).await;
    up.stop().await;
    way.pull(&gateway, &image, None).await;
    let token = bearer(&gateway, None).await;
    Way::named("acme/app")
        .pull(&gateway, &image, Some(&token))
        .await;
}

#[tokio::test]
async fn the_front_door_does_not_hang_on_docker_hub() {
    // Clients ping /v2/ before they pull HOST/…, whatever the gateway says to Docker Hub.
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "org/app").image("v1", 60, &[10]);
    for setup in [
        Gateway::before(&up).set("", "builtin_registries", "false"),
        Gateway::before(&up)
            .more("[[policy.rule]]\naction = \"deny\"\nhosts = [\"registry-1.docker.io\"]"),
        Gateway::before(&up).registry(HUB, "auth = \"gateway\""),
    ] {
        let gateway = setup.start().await;
        let token = bearer(&gateway, None).await;
        let more = [("authorization", token.as_str())];
        let ping = ask(&gateway, Method::GET, "/v2/", &more).await;
        assert_eq!(ping.status, 200);
        let way = Way::named("registry.test/org/app");
        way.pull(&gateway, &image, Some(&token)).await;
    }
}

#[tokio::test]
async fn a_push_is_refused_in_words() {
    let up = Upstream::start().await;
    let _ = up.repo("registry.test", "org/app");
    let gateway = Gateway::before(&up).start().await;
    let path = "/v2/registry.test/org/app/blobs/uploads/";
    let reply = ask(&gateway, Method::POST, path, &[]).await;
    assert_eq!(reply.status, 403);
    let (code, message) = reply.oci_error().await;
    assert_eq!(code, "DENIED");
    assert!(message.contains("push"), "{message}");
}

#[tokio::test]
async fn a_mount_names_the_repository_it_reads_as_its_registry_does() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 41, &[100]);
    let gateway = Gateway::before(&up).registry("registry.test", "push = \"allow\"");
    let gateway = gateway.start().await;
    let digest = &image.layers[0].digest;
    for from in ["registry.test/app", "registry.test%2Fapp", "app"] {
        let path = format!("/v2/registry.test/other/blobs/uploads/?mount={digest}&from={from}");
        ask(&gateway, Method::POST, &path, &[]).await;
        let seen = up
            .seen()
            .into_iter()
            .rfind(|one| one.method == Method::POST);
        let query = seen.map(|seen| seen.query);
        assert_eq!(query, Some(format!("mount={digest}&from=app")), "{from}");
    }
}
