//! Who is served what while upstream is away.

use crate::{
    access::private,
    support::{Gateway, Upstream},
};

const LAYER: usize = 200_000;

#[tokio::test]
async fn while_upstream_is_away_the_public_is_served_to_anyone() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry.repo("library/app").image("latest", 8, &[LAYER]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let ping = gateway
        .client()
        .get("https://registry.test/v2/")
        .send()
        .await;
    assert_eq!(ping.status, 401);
    gateway
        .client()
        .bearer(&registry.token(None, "library/app"))
        .pull(&image)
        .await;

    up.stop().await;
    let ping = gateway
        .client()
        .get("https://registry.test/v2/")
        .send()
        .await;
    assert_eq!(ping.status, 200, "dockerd asks for no token then");
    gateway.client().pull(&image).await;
    gateway.client().bearer("some-old-token").pull(&image).await;
}

#[tokio::test]
async fn while_upstream_is_away_the_private_is_served_to_who_was_let_in_before() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    up.stop().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let strangers = [
        gateway.client(),
        gateway.client().basic("bob", "b-secret"),
        gateway.client().basic("carol", "c-secret"),
        gateway.client().basic("alice", "wrong"),
    ];
    for stranger in strangers {
        let urls = [
            image.by_tag(),
            image.by_digest(),
            image.repo.blob_url(&image.layers[0].digest),
        ];
        for url in urls {
            let reply = stranger.get(&url).send().await;
            assert!(reply.status >= 400, "{url}: {}", reply.status);
        }
    }
}
