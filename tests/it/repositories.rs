//! `repositories`, `deny_repositories` and `enabled`: what of a registry is open here.

use hyper::Method;

use crate::support::{Gateway, Upstream, client::direct};

const HOST: &str = "registry.test";
const SOME: &str = "repositories = [\"team/*\"]\ndeny_repositories = [\"team/secret\"]";

#[tokio::test]
async fn only_the_allowed_repositories_are_open_and_of_those_not_the_denied() {
    let up = Upstream::start().await;
    let open = up.repo(HOST, "team/app").image("v1", 3, &[10]);
    let secret = up.repo(HOST, "team/secret").image("v1", 4, &[10]);
    let other = up.repo(HOST, "other/app").image("v1", 5, &[10]);
    let gateway = Gateway::before(&up).registry(HOST, SOME).start().await;
    let client = gateway.client();
    client.pull(&open).await;
    let before = up.requests();
    for (image, rule) in [(&secret, "deny_repositories"), (&other, "repositories")] {
        for url in [
            image.by_tag(),
            image.by_digest(),
            image.repo.blob_url(&image.layers[0].digest),
            image.repo.url("tags/list"),
        ] {
            let reply = client.get(&url).send().await;
            assert_eq!(reply.status, 403, "{url}");
            let (code, message) = reply.oci_error().await;
            assert_eq!(code, "DENIED", "{url}");
            assert!(message.contains(rule), "{url}: {message}");
        }
        let path = format!("/v2/{HOST}/{}/manifests/v1", image.repo.name);
        let reply = direct(gateway.proxy, Method::GET, &path, &[]).await;
        assert_eq!(reply.status, 403, "{path}");
    }
    assert_eq!(up.requests(), before, "{:?}", up.seen());
}

#[tokio::test]
async fn no_other_spelling_of_a_path_leads_round_the_list() {
    let up = Upstream::start().await;
    up.repo(HOST, "team/secret").image("v1", 4, &[10]);
    let gateway = Gateway::before(&up).registry(HOST, SOME).start().await;
    for path in [
        "/v2/team/secret/manifests//v1",
        "/v2/team/secret/tags//list",
        "/v2/team/secret/tags/list/",
        "/v2/team/secret/manifests/v1/",
        "/v2//_catalog",
        "/v2/_catalog/",
        "/api/docker/some/v2/team/secret/manifests/v1",
        "/api/docker/some/v2/%5fcatalog",
    ] {
        let url = format!("https://{HOST}{path}");
        let reply = gateway.client().get(&url).send().await;
        assert!(matches!(reply.status, 400 | 403), "{path}");
    }
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
}

#[tokio::test]
async fn nothing_is_mounted_out_of_a_repository_that_is_not_open() {
    let up = Upstream::start().await;
    up.repo(HOST, "team/app");
    let secret = up.repo(HOST, "team/secret").image("v1", 4, &[10]);
    let rules = format!("push = \"allow\"\n{SOME}");
    let gateway = Gateway::before(&up).registry(HOST, &rules).start().await;
    let digest = &secret.layers[0].digest;
    for from in [
        "from=team/secret",
        "from=other/app",
        "from=team%2Fsecret",
        "fr%6fm=team/secret",
    ] {
        let url = format!("https://{HOST}/v2/team/app/blobs/uploads/?mount={digest}&{from}");
        let reply = gateway.client().ask(Method::POST, &url).send().await;
        assert_eq!(reply.status, 403, "{from}");
        assert_eq!(reply.oci_error().await.0, "DENIED", "{from}");
    }
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
    // From wherever the registry has it: that may be one of those. The blob is sent instead.
    for from in ["", "&from=", "&fr%6fm="] {
        let url = format!("https://{HOST}/v2/team/app/blobs/uploads/?mount={digest}{from}&a=b");
        gateway.client().ask(Method::POST, &url).send().await;
        let seen = up.seen().pop().unwrap();
        assert_eq!(seen.query, "a=b", "{from}");
    }
}

#[tokio::test]
async fn a_registry_that_is_switched_off_serves_what_is_cached_and_is_never_asked() {
    let up = Upstream::start().await;
    let repo = up.repo(HOST, "team/app");
    let image = repo.image("v1", 3, &[10, 200_000]);
    let later = repo.image("v2", 4, &[10]);
    let gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    let before = up.requests();
    let gateway = gateway
        .restart_as(|setup| {
            let setup = setup.registry(HOST, "enabled = false");
            setup.text("cache", "tag_ttl", "0s")
        })
        .await;
    let client = gateway.client();
    let ping = client.get(&format!("https://{HOST}/v2/")).send().await;
    assert_eq!(ping.status, 200);
    client.pull(&image).await;
    let reply = client.ask_manifest(&later.repo, "v2").await;
    assert!(reply.status >= 400, "{}", reply.status);
    let (_, message) = reply.oci_error().await;
    assert!(message.contains("enabled = false"), "{message}");
    assert_eq!(up.requests(), before, "{:?}", up.seen());
}
