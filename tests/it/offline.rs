//! Who is served what while upstream is away.

use crate::{
    access::private,
    support::{Fault, Gateway, On, Upstream, image, upstream::Registry},
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
    let line = gateway
        .log
        .access(|line| line.is("reference", "/v2/") && line.is("status", "200"))
        .await;
    assert!(line.is("outcome", "relay"), "it is no hit: {line:?}");
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

#[tokio::test]
async fn an_outsiders_404_does_not_take_a_tag_from_those_who_may_have_it() {
    let (up, _, image) = private().await;
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&image).await;
    let before = up.seen().len();
    // As registries that do not tell strangers what they hold.
    let hidden = || Fault::Status(404, vec![], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#);
    up.fault(On::any("/v2/team/").always(), hidden());
    for outsider in [gateway.client(), gateway.client().basic("bob", "b-secret")] {
        let reply = outsider.ask_manifest(&image.repo, &image.tag).await;
        assert_eq!(reply.status, 404);
        reply.text().await;
        let mut head = outsider.head(&image.by_tag());
        for line in crate::support::pull::ACCEPT_ALL {
            head = head.header("accept", line);
        }
        assert_eq!(head.send().await.status, 404);
    }
    assert!(up.requests() > before, "nobody was asked");
    up.mend();
    up.stop().await;
    alice.pull(&image).await;
    let reply = alice.ask_manifest(&image.repo, &image.tag).await;
    assert!(
        reply.header("warning").starts_with("110 "),
        "{:?}",
        reply.headers
    );
}

async fn public() -> (Upstream, Registry, image::Image) {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry.repo("library/app").image("latest", 9, &[LAYER]);
    (up, registry, image)
}

#[tokio::test]
async fn a_token_service_that_fails_takes_nothing_from_everybody() {
    for fault in [
        Fault::Status(503, vec![], "busy"),
        Fault::Status(500, vec![], ""),
        Fault::TooMany(1),
        Fault::HangUp,
        Fault::Html,
        Fault::CutAfter(1),
        Fault::Truncate(9),
    ] {
        let (up, registry, image) = public().await;
        let gateway = Gateway::before(&up)
            .text("cache", "tag_ttl", "0s")
            .start()
            .await;
        let anyone = gateway
            .client()
            .bearer(&registry.token(None, "library/app"));
        anyone.pull(&image).await;
        up.expire_tokens();
        let what = format!("{fault:?}");
        up.fault(On::any("/token").always(), fault);
        // Whose token has ended may be told so; who has none could not get one.
        let reply = anyone.ask_manifest(&image.repo, &image.tag).await;
        assert!(
            matches!(reply.status, 200 | 401),
            "{what}: {}",
            reply.status
        );
        let reply = gateway.client().ask_manifest(&image.repo, &image.tag).await;
        assert_eq!(reply.status, 200, "{what}");
        up.stop().await;
        gateway.client().pull(&image).await;
    }
}

#[tokio::test]
async fn a_token_service_that_failed_once_is_asked_again() {
    for fault in [
        Fault::Status(503, vec![], "busy"),
        Fault::TooMany(1),
        Fault::HangUp,
    ] {
        let (up, registry, image) = public().await;
        let gateway = Gateway::before(&up)
            .text("cache", "tag_ttl", "0s")
            .start()
            .await;
        let pull = || {
            gateway
                .client()
                .bearer(&registry.token(None, "library/app"))
        };
        up.fault(On::any("/token").always(), fault);
        pull().pull(&image).await;
        assert!(up.count(hyper::Method::GET, "/token") > 0, "nobody asked");
        up.mend();
        pull().pull(&image).await;
        up.stop().await;
        gateway.client().pull(&image).await;
    }
}

#[tokio::test]
async fn accept_headers_at_random_do_not_make_a_stale_tag_go() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("latest", 10, &[10]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    gateway.client().pull(&image).await;
    let mut session = gateway.client().session("registry.test:443").await;
    let client = gateway.client();
    for i in 0..150 {
        let accept = format!("application/x-{i}, {}", image::OCI_MANIFEST);
        let ask = client.get(&image.by_tag()).header("accept", &accept);
        let reply = ask.send_on(&mut session).await;
        reply.verified(&image.manifest.digest).await;
    }
    up.stop().await;
    gateway.client().pull(&image).await;
    let other = client.get(&image.by_tag()).header("accept", "*/*");
    let other = other.send().await;
    other.verified(&image.manifest.digest).await;
}
