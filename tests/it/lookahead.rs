//! A manifest that passes starts its layers' download.

use hyper::Method;

use crate::support::{
    Fault, Gate, Gateway, Image, Manifest, On, Setup, Upstream, eventually, image,
};

const SIZES: [usize; 3] = [200_000, 10, 90_000];

async fn upstream() -> (Upstream, Image) {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 1, &SIZES);
    (up, image)
}

fn looking(up: &Upstream) -> Setup {
    Gateway::before(up).set("upstream", "lookahead", "true")
}

async fn all_cached(gateway: &Gateway, image: &Image) {
    for blob in image.blobs() {
        eventually("a blob is in the cache that nobody asked for", || {
            gateway.copies_of(&blob.bytes) == 1
        })
        .await;
    }
    gateway.metric_becomes("pierhead_downloads_active 0").await;
}

#[tokio::test]
async fn the_layers_of_a_manifest_are_there_before_they_are_asked_for() {
    let (up, image) = upstream().await;
    let gateway = looking(&up).start().await;
    let reply = gateway.client().get(&image.by_tag()).send().await;
    assert_eq!(reply.status, 200);
    all_cached(&gateway, &image).await;
    let gets = up.blob_gets();
    gateway.client().pull(&image).await;
    assert_eq!(up.blob_gets(), gets, "a blob was asked for again");
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
    }
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("pierhead_lookahead_downloads_total 4\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_index_starts_nothing_and_the_image_chosen_of_it_its_own() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (one, other) = (repo.image("one", 2, &SIZES), repo.image("other", 3, &SIZES));
    let index = Manifest::index(image::OCI_INDEX, &[&one.manifest, &other.manifest]);
    repo.tag("both", &[&index]);
    let gateway = looking(&up).start().await;
    let client = gateway.client();
    client.get(&repo.manifest_url("both")).send().await;
    client.get(&one.by_digest()).send().await;
    all_cached(&gateway, &one).await;
    for blob in other.blobs() {
        assert_eq!(up.count(Method::GET, &blob.digest), 0);
    }
}

#[tokio::test]
async fn a_head_starts_nothing_nor_does_a_gateway_that_is_told_not_to() {
    let (up, image) = upstream().await;
    let gateway = looking(&up).start().await;
    let head = gateway.client().head(&image.by_tag()).send().await;
    assert_eq!(head.status, 200);
    let not_ahead = Gateway::before(&up)
        .set("upstream", "lookahead", "false")
        .start()
        .await;
    let reply = not_ahead.client().get(&image.by_tag()).send().await;
    assert_eq!(reply.status, 200);
    // A pull of something else is an end to wait for.
    let next = up.repo("registry.test", "next").image("latest", 4, &SIZES);
    for gateway in [&gateway, &not_ahead] {
        gateway.client().pull(&next).await;
    }
    for blob in image.blobs() {
        assert_eq!(up.count(Method::GET, &blob.digest), 0, "{}", blob.digest);
    }
}

#[tokio::test]
async fn it_is_in_the_callers_name_and_opens_the_door_for_nobody_else() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .bearer("auth.test")
        .user("alice", "a-secret");
    let image = registry
        .private_repo("app", &["alice"])
        .image("latest", 5, &SIZES);
    let gateway = looking(&up).start().await;
    let alice = gateway.client();
    let alice = alice.bearer(&registry.token(Some("alice"), "app"));
    let reply = alice.get(&image.by_tag()).send().await;
    assert_eq!(reply.status, 200);
    all_cached(&gateway, &image).await;
    let seen = up.seen();
    let mut blobs = seen.iter().filter(|one| one.path.contains("/blobs/"));
    assert!(blobs.all(|one| one.header("authorization").starts_with("Bearer token-")));
    let layer = image.repo.blob_url(&image.layers[0].digest);
    let stranger = gateway.client();
    let stranger = stranger.bearer(&registry.token(None, "app"));
    assert_eq!(stranger.get(&layer).send().await.status, 401);
}

#[tokio::test]
async fn what_a_client_asks_for_waits_for_nothing_that_is_fetched_ahead() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let many = repo.image("many", 6, &[50_000; 40]);
    let gate = Gate::new();
    up.fault(On::get("/blobs/").always(), Fault::Late(gate.clone()));
    let gateway = looking(&up).start().await;
    gateway.client().get(&many.by_tag()).send().await;
    // As many as may are under way, and none of them comes on.
    gate.arrived(8).await;
    up.mend();
    let last = many.layers.last().unwrap();
    let reply = gateway
        .client()
        .get(&repo.blob_url(&last.digest))
        .send()
        .await;
    reply.verified(&last.digest).await;
    let begun = up.seen();
    let begun = begun.iter().filter(|one| one.path.contains("/blobs/"));
    assert_eq!(begun.count(), 9, "eight at a time, and the client's own");
    gate.open();
    all_cached(&gateway, &many).await;
}

#[tokio::test]
async fn a_refusal_ends_it_and_the_client_hears_its_own() {
    let (up, image) = upstream().await;
    up.fault(
        On::get("/blobs/").always(),
        Fault::Status(403, vec![], "no blobs today"),
    );
    let gateway = looking(&up).start().await;
    gateway.client().get(&image.by_tag()).send().await;
    gateway.metric_becomes("pierhead_downloads_active 0").await;
    let layer = image.repo.blob_url(&image.layers[0].digest);
    assert_eq!(gateway.client().get(&layer).send().await.status, 403);
    up.mend();
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn an_image_that_the_cache_cannot_hold_is_not_fetched_ahead() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 7, &[3 << 20, 3 << 20]);
    let gateway = looking(&up).text("cache", "max_size", "8MiB").start().await;
    gateway.client().get(&image.by_tag()).send().await;
    gateway.client().pull(&image).await;
    let metrics = gateway.metrics().await;
    // The configuration is small; a layer would be more than a client's share.
    assert!(
        metrics.contains("pierhead_lookahead_downloads_total 1\n"),
        "{metrics}"
    );
}
