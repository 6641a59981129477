//! Nobody sees what upstream would not show them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;

use crate::support::{
    Client, Fault, Gate, Gateway, Image, On, Reply, Upstream, pull::ACCEPT_ALL, shim::Shim,
    upstream::Registry,
};

const LAYER: usize = 200_000;

/// A registry with passwords, and an image in it that alice and carol may pull and bob may not.
pub(crate) async fn private() -> (Upstream, Registry, Image) {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").basic();
    let registry = registry.user("alice", "a-secret").user("bob", "b-secret");
    let registry = registry.user("carol", "c-secret");
    let image = registry
        .private_repo("team/app", &["alice", "carol"])
        .image("v1", 1, &[LAYER, 9]);
    (up, registry, image)
}

fn assert_refused(reply: &Reply) {
    let status = reply.status;
    assert!(matches!(status, 401 | 403 | 404), "{status}: not refused");
}

/// Asserts that this client gets nothing of the image by any way.
async fn assert_sees_nothing(client: &Client, image: &Image) {
    assert_refused(&client.ask_manifest(&image.repo, &image.tag).await);
    assert_refused(
        &client
            .ask_manifest(&image.repo, &image.manifest.digest)
            .await,
    );
    let mut head = client.head(&image.by_tag());
    for line in ACCEPT_ALL {
        head = head.header("accept", line);
    }
    assert_refused(&head.send().await);
    for blob in image.blobs() {
        let url = image.repo.blob_url(&blob.digest);
        assert_refused(&client.get(&url).send().await);
        assert_refused(&client.head(&url).send().await);
        assert_refused(&client.get(&url).header("range", "bytes=0-0").send().await);
    }
}

#[tokio::test]
async fn a_private_image_is_refused_to_the_next_caller() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&image).await;

    assert_sees_nothing(&gateway.client(), &image).await;
    assert_sees_nothing(&gateway.client().basic("bob", "b-secret"), &image).await;
    assert_sees_nothing(&gateway.client().basic("alice", "b-secret"), &image).await;
    assert_sees_nothing(&gateway.client().basic("alice", ""), &image).await;
    assert_sees_nothing(&gateway.client().bearer("a-secret"), &image).await;
    alice.pull(&image).await;
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len());
    }
}

#[tokio::test]
async fn a_caller_without_credentials_is_told_how_to_log_in() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up).start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    for url in [
        image.by_tag(),
        image.by_digest(),
        "https://registry.test/v2/".to_owned(),
    ] {
        let reply = gateway.client().get(&url).send().await;
        assert_eq!(reply.status, 401, "{url}");
        let challenge = reply.header("www-authenticate");
        assert!(challenge.starts_with("Basic"), "{url}: {challenge:?}");
    }
}

#[tokio::test]
async fn a_second_login_costs_one_head_and_no_download() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let before = up.requests();
    gateway
        .client()
        .basic("carol", "c-secret")
        .pull(&image)
        .await;
    let seen = up.seen();
    let asked = &seen[before..];
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].method, Method::HEAD);
    gateway
        .client()
        .basic("carol", "c-secret")
        .pull(&image)
        .await;
    assert_eq!(up.requests(), before + 1, "the grant is remembered");
}

#[tokio::test]
async fn a_second_login_may_begin_with_a_blob() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up).start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let before = up.requests();
    let carol = gateway.client().basic("carol", "c-secret");
    let layer = &image.layers[0];
    for _ in 0..2 {
        let reply = carol.get(&image.repo.blob_url(&layer.digest)).send().await;
        reply.verified(&layer.digest).await;
    }
    assert!(up.requests() <= before + 2, "{:?}", &up.seen()[before..]);
    assert!(
        up.bytes_sent(&layer.digest) <= LAYER + 1,
        "it was downloaded again"
    );
}

#[tokio::test]
async fn a_token_opens_what_it_was_given_for_and_nothing_else() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry
        .private_repo("team/app", &["alice"])
        .image("v1", 2, &[LAYER]);
    let other = registry
        .private_repo("team/other", &["alice"])
        .image("v1", 3, &[10]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    let client = |user, repo| gateway.client().bearer(&registry.token(user, repo));
    client(Some("alice"), "team/app").pull(&image).await;

    assert_sees_nothing(&gateway.client(), &image).await;
    assert_sees_nothing(&client(None, "team/app"), &image).await;
    assert_sees_nothing(&client(Some("bob"), "team/app"), &image).await;
    assert_sees_nothing(&client(Some("alice"), "team/other"), &image).await;
    client(Some("alice"), "team/other").pull(&other).await;
    // Another token of hers, and no byte is downloaded for it.
    client(Some("alice"), "team/app").pull(&image).await;
    assert!(up.bytes_sent(&image.layers[0].digest) <= LAYER + 1);
}

#[tokio::test]
async fn what_is_public_is_served_to_anyone_with_a_token_of_their_own() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .bearer("auth.test")
        .user("alice", "a-secret");
    let image = registry.repo("library/app").image("latest", 4, &[LAYER]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    for user in [Some("alice"), None, None] {
        let client = gateway
            .client()
            .bearer(&registry.token(user, "library/app"));
        client.pull(&image).await;
        assert_eq!(up.bytes_sent(&image.layers[0].digest), LAYER);
    }
}

#[tokio::test]
async fn a_blob_is_served_in_the_repositories_that_hold_it_and_in_no_other() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test");
    let (a, b, c) = (registry.repo("a"), registry.repo("b"), registry.repo("c"));
    let blob = a.blob(5, LAYER);
    b.blob(6, 10);
    c.put(&blob);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    client
        .get(&a.blob_url(&blob.digest))
        .send()
        .await
        .verified(&blob.digest)
        .await;

    assert_eq!(
        client.get(&b.blob_url(&blob.digest)).send().await.status,
        404
    );
    assert_eq!(
        client.head(&b.blob_url(&blob.digest)).send().await.status,
        404
    );
    let part = client
        .get(&b.blob_url(&blob.digest))
        .header("range", "bytes=0-9");
    assert_eq!(part.send().await.status, 404);
    for _ in 0..2 {
        let reply = client.get(&c.blob_url(&blob.digest)).send().await;
        reply.verified(&blob.digest).await;
    }
    assert!(
        up.bytes_sent(&blob.digest) <= LAYER + 1,
        "it was downloaded again"
    );
}

#[tokio::test]
async fn a_manifest_is_served_in_the_repositories_that_hold_it_and_in_no_other() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test");
    let image = registry.repo("a").image("latest", 7, &[10]);
    let other = registry.repo("b");
    let gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    let reply = gateway
        .client()
        .ask_manifest(&other, &image.manifest.digest)
        .await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_private_blob_that_a_public_repository_holds_too_is_served_there() {
    let (up, registry, image) = private().await;
    let shared = registry.private_repo("team/shared", &["alice", "bob"]);
    shared.put(&image.layers[0]);
    let gateway = Gateway::before(&up).start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let bob = gateway.client().basic("bob", "b-secret");
    let digest = &image.layers[0].digest;
    bob.get(&shared.blob_url(digest))
        .send()
        .await
        .verified(digest)
        .await;
    assert_sees_nothing(&bob, &image).await;
    assert!(
        up.bytes_sent(digest) <= LAYER + 1,
        "it was downloaded again"
    );
}

#[tokio::test]
async fn a_registry_of_the_same_name_elsewhere_is_another_registry() {
    let (up, _, image) = private().await;
    let open = up.repo("open.test", "team/app");
    let gateway = Gateway::before(&up).start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let digest = &image.layers[0].digest;
    assert_eq!(
        gateway
            .client()
            .get(&open.blob_url(digest))
            .send()
            .await
            .status,
        404
    );
    let reply = gateway
        .client()
        .ask_manifest(&open, &image.manifest.digest)
        .await;
    assert_eq!(reply.status, 404);
}

/// A blob whose first download stalls in the middle, until the gate opens.
fn stalled(up: &Upstream, digest: &str) -> Gate {
    let gate = Gate::new();
    up.fault(On::get(digest), Fault::StallAt(100_000, gate.clone()));
    gate
}

/// What was granted when the download began counts no more than what upstream says last.
#[tokio::test]
async fn a_download_that_lands_does_not_give_back_what_upstream_took_away_meanwhile() {
    let (up, registry, image) = private().await;
    let layer = &image.layers[0];
    let gate = stalled(&up, &layer.digest);
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    let hers = alice.get(&image.repo.blob_url(&layer.digest)).send().await;
    gate.arrived(1).await;
    let _ = registry.private_repo("team/app", &["carol"]);
    assert_refused(&alice.get(&image.by_digest()).send().await);
    gate.open();
    hers.verified(&layer.digest).await;
    // Before anything is asked that upstream would refuse once more.
    assert_refused(&alice.get(&image.repo.blob_url(&layer.digest)).send().await);
    assert_sees_nothing(&alice, &image).await;
    gateway
        .client()
        .basic("carol", "c-secret")
        .pull(&image)
        .await;
    assert_sees_nothing(&alice, &image).await;
}

/// She is refused in the middle of it, and it goes on in another's name.
#[tokio::test]
async fn a_download_that_ends_in_anothers_name_grants_nothing_to_who_began_it() {
    let (up, registry, image) = private().await;
    let layer = &image.layers[0];
    let url = image.repo.blob_url(&layer.digest);
    let gate = stalled(&up, &layer.digest);
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    let hers = alice.get(&url).send().await;
    gate.arrived(1).await;
    let carol = gateway.client().basic("carol", "c-secret");
    let follows = carol.get(&url).send().await;
    assert_eq!(follows.status, 200);
    let _ = registry.private_repo("team/app", &["carol"]);
    up.cut("registry.test");
    follows.verified(&layer.digest).await;
    hers.verified(&layer.digest).await;
    assert_refused(&alice.get(&url).send().await);
    assert_sees_nothing(&alice, &image).await;
}

/// As it is when she asks for anything else.
#[tokio::test]
async fn whom_upstream_refuses_in_the_middle_of_a_download_has_no_older_grant_either() {
    let (up, registry, image) = private().await;
    let layer = &image.layers[0];
    let url = image.repo.blob_url(&layer.digest);
    let gate = stalled(&up, &layer.digest);
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.manifest(&image.repo, &image.manifest.digest).await;
    let hers = alice.get(&url).send().await;
    gate.arrived(1).await;
    let _ = registry.private_repo("team/app", &["carol"]);
    up.cut("registry.test");
    assert!(!hers.rest().await.whole, "nobody could go on with it");
    let carol = gateway.client().basic("carol", "c-secret");
    let reply = carol.get(&url).send().await;
    reply.verified(&layer.digest).await;
    for url in [url, image.by_digest()] {
        assert_refused(&alice.get(&url).send().await);
    }
    up.stop().await;
    assert_eq!(alice.get(&image.by_digest()).send().await.status, 502);
}

/// It took a day, and upstream has let her in again meanwhile.
#[tokio::test]
async fn a_download_that_lands_makes_no_grant_older_than_it_is() {
    let (up, _, image) = private().await;
    let layer = &image.layers[0];
    let gate = stalled(&up, &layer.digest);
    let shim = Shim::compile();
    let gateway = shim.beneath(Gateway::before(&up)).start().await;
    let alice = gateway.client().basic("alice", "a-secret").blind();
    let url = image.repo.blob_url(&layer.digest);
    let hers = alice.get(&url).send().await;
    gate.arrived(1).await;
    shim.set_clock(1);
    alice.manifest(&image.repo, &image.manifest.digest).await;
    let asked = up.requests();
    gate.open();
    hers.verified(&layer.digest).await;
    for url in [url, image.by_digest()] {
        assert_eq!(alice.get(&url).send().await.status, 200, "{url}");
    }
    assert_eq!(up.requests(), asked, "{:?}", &up.seen()[asked..]);
}

/// A signed address that has expired is refused by whoever holds the bytes, and not by the registry.
#[tokio::test]
async fn what_a_redirect_leads_to_takes_no_grant_away() {
    let (up, registry, image) = private().await;
    let registry = registry.cdn("cdn.test");
    let other = registry.private_repo("team/other", &["alice"]);
    let theirs = other.image("v1", 5, &[10]);
    let layer = &image.layers[0];
    other.put(layer);
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&image).await;
    alice.pull(&theirs).await;
    let url = other.blob_url(&layer.digest);
    // So that the redirect is what answers for it.
    let no_heads = On::head("/team/other/blobs/").always();
    up.fault(no_heads, Fault::Status(405, vec![], ""));
    for status in [401, 403] {
        let expired = Fault::Status(status, vec![], "<Error>Request has expired</Error>");
        up.fault(On::get(&layer.digest).at("cdn.test"), expired);
        let reply = alice.get(&url).send().await;
        assert_eq!(reply.status, 502, "{status}");
        let asked = up.requests();
        alice.pull_digest(&theirs).await;
        assert_eq!(up.requests(), asked, "{:?}", &up.seen()[asked..]);
    }
    alice.get(&url).send().await.verified(&layer.digest).await;
    up.stop().await;
    alice.pull(&theirs).await;
}

/// As skopeo and dockerd come for the blobs of a large image, who do not renew their token for each.
#[tokio::test]
async fn a_token_that_has_ended_opens_what_is_cached_and_public_and_nothing_else() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry.repo("library/app").image("latest", 6, &[LAYER]);
    let layer = &image.layers[0];
    let public = registry.repo("library/again");
    let hidden = registry.private_repo("team/app", &["alice"]);
    public.put(layer).put_manifest(&image.manifest);
    hidden.put(layer).put_manifest(&image.manifest);
    let gateway = Gateway::before(&up).start().await;
    let bearer = |user, repo: &str| gateway.client().bearer(&registry.token(user, repo));
    bearer(None, "library/app").pull(&image).await;
    let (anyone, alice) = (
        bearer(None, "library/again"),
        bearer(Some("alice"), "team/app"),
    );
    up.expire_tokens();
    for (client, repo) in [(&anyone, &public), (&alice, &hidden)] {
        // Nobody has asked for anything of these repositories yet.
        let reply = client.get(&repo.blob_url(&layer.digest)).send().await;
        match repo.name.as_str() {
            "library/again" => drop(reply.verified(&layer.digest).await),
            _ => assert_refused(&reply),
        }
    }
    let gets = up.seen().into_iter();
    let gets = gets.filter(|one| one.method == Method::GET && one.path.contains(&layer.digest));
    assert!(
        up.bytes_sent(&layer.digest) <= LAYER + 1,
        "{:?}",
        gets.collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_token_that_has_ended_does_not_stop_what_is_public_and_too_large_to_be_kept() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let repo = registry.repo("library/app");
    let large = repo.blob(7, 6 << 20);
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "3MiB")
        .start()
        .await;
    let token = registry.token(None, "library/app");
    up.expire_tokens();
    let client = gateway.client().bearer(&token);
    let reply = client.get(&repo.blob_url(&large.digest)).send().await;
    reply.verified(&large.digest).await;
}

#[tokio::test]
async fn secrets_are_in_no_log_and_no_file() {
    let (up, registry, image) = private().await;
    let gateway = Gateway::before(&up)
        .text("log", "level", "debug")
        .start()
        .await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let bearer = registry.token(Some("alice"), "team/app");
    let _ = gateway
        .client()
        .bearer(&bearer)
        .get(&image.by_tag())
        .send()
        .await;
    let _ = gateway
        .client()
        .basic("alice", "wr0ng-secret")
        .get(&image.by_tag())
        .send()
        .await;
    let metrics = gateway.metrics().await;

    let encoded = STANDARD.encode("alice:a-secret");
    let wrong = STANDARD.encode("alice:wr0ng-secret");
    let secrets = ["a-secret", "wr0ng-secret", &encoded, &wrong, &bearer];
    let log = gateway.log.text();
    for secret in secrets {
        assert!(!log.contains(secret), "in the log");
        assert!(!metrics.contains(secret), "in the metrics");
        for (path, _) in gateway.cache_files() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let found = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "in {}", path.display());
        }
    }
}
