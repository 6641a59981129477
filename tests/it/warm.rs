//! `[[prefetch]]`: images that are here before anybody asks.

use hyper::Method;

use crate::support::{
    Gateway, Image, Manifest, Repo, Upstream, eventually, image::OCI_INDEX, within,
};

const LAYER: usize = 200_000;

fn prefetch(lines: &str) -> String {
    format!("[[prefetch]]\n{lines}\n")
}

/// Waits until the gateway says that it has pulled `digest`.
async fn prefetched(gateway: &Gateway, digest: &str) {
    let said = |line: &str| line.contains("prefetched") && line.contains(digest);
    assert!(within(30, gateway.log.until(said)).await, "it ended");
}

#[tokio::test]
async fn a_prefetched_tag_is_warm_before_anybody_asks() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry.repo("library/app").image("v1", 71, &[LAYER, 10]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .more(&prefetch("images = [\"registry.test/library/app:v1\"]"))
        .start()
        .await;
    prefetched(&gateway, &image.manifest.digest).await;
    let asked = up.requests();
    let token = registry.token(None, "library/app");
    gateway.client().pull(&image).await;
    assert_eq!(up.requests(), asked, "upstream was asked again");
    // Another client takes other kinds too, and so has an `Accept` of its own.
    let client = gateway.client();
    let ask = client.get(&image.by_tag());
    let ask = ask.header("accept", crate::support::image::OCI_MANIFEST);
    let reply = ask.header("accept", "application/x-other").send().await;
    reply.verified(&image.manifest.digest).await;
    assert_eq!(up.requests(), asked, "upstream was asked again");
    // Who comes with a token of its own is let in by what is public.
    gateway.client().bearer(&token).pull(&image).await;
    let metrics = gateway.metrics().await;
    let success = "pierhead_prefetch_last_success_timestamp_seconds{entry=\"1\"}";
    assert!(metrics.contains(success), "{metrics}");
}

#[tokio::test]
async fn a_prefetched_tag_that_moved_is_fetched_again() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let first = repo.image("latest", 72, &[LAYER]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .more(&prefetch(
            "images = [\"registry.test/app\"]\ninterval = \"1s\"",
        ))
        .start()
        .await;
    prefetched(&gateway, &first.manifest.digest).await;
    let second = repo.image("latest", 73, &[LAYER]);
    prefetched(&gateway, &second.manifest.digest).await;
    let gets = up.blob_gets();
    gateway.client().pull(&second).await;
    assert_eq!(up.blob_gets(), gets);
    assert_eq!(up.count(Method::GET, &first.layers[0].digest), 1);
}

/// An index of two images.
fn two_platforms(repo: &Repo) -> (Image, Image, Manifest) {
    let (amd64, arm64) = (
        repo.image("amd64", 74, &[LAYER]),
        repo.image("arm64", 75, &[LAYER]),
    );
    let index = Manifest::index(OCI_INDEX, &[&amd64.manifest, &arm64.manifest]);
    repo.tag("both", &[&index]);
    (amd64, arm64, index)
}

#[tokio::test]
async fn one_platform_is_fetched_where_one_is_named_and_all_where_none_is() {
    let up = Upstream::start().await;
    let (amd64, arm64, index) = two_platforms(&up.repo("registry.test", "app"));
    let images = "images = [\"registry.test/app:both\"]\n";
    let only = format!("{images}platforms = [\"linux/arm64\"]");
    let gateway = Gateway::before(&up).more(&prefetch(&only)).start().await;
    prefetched(&gateway, &index.digest).await;
    assert_eq!(up.count(Method::GET, &arm64.layers[0].digest), 1);
    assert_eq!(up.count(Method::GET, &amd64.layers[0].digest), 0);
    drop(gateway);

    let gateway = Gateway::before(&up).more(&prefetch(images)).start().await;
    prefetched(&gateway, &index.digest).await;
    assert_eq!(up.count(Method::GET, &arm64.layers[0].digest), 2);
    assert_eq!(up.count(Method::GET, &amd64.layers[0].digest), 1);
}

#[tokio::test]
async fn what_cannot_be_prefetched_is_told_once_and_counted() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    repo.image("latest", 76, &[10]);
    let gateway = Gateway::before(&up)
        .more(&prefetch(
            "images = [\"elsewhere.test/app\", \"registry.test/app:gone\"]\ninterval = \"1s\"",
        ))
        .start()
        .await;
    up.until(|seen| {
        let gone = |one: &&crate::support::upstream::Seen| one.path.ends_with("/manifests/gone");
        seen.iter().filter(gone).count() >= 3
    })
    .await;
    let told = |what: &str| {
        let text = gateway.log.text();
        text.lines().filter(|line| line.contains(what)).count()
    };
    eventually("it is told", || told("app:gone") > 0).await;
    let mend = "elsewhere.test is no registry that is cached here; [[registry]] host =";
    assert_eq!(told(mend), 1, "{}", gateway.log.text());
    assert_eq!(told("registry.test/app:gone"), 1, "{}", gateway.log.text());
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("pierhead_prefetch_failures_total{entry=\"1\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_kept_warm_changes_with_a_reload() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (one, two) = (repo.image("one", 81, &[10]), repo.image("two", 82, &[10]));
    let every = |tag: &str| {
        prefetch(&format!(
            "images = [\"registry.test/app:{tag}\"]\ninterval = \"1s\""
        ))
    };
    let asked = |tag: &'static str| {
        let path = format!("/manifests/{tag}");
        move |seen: &[crate::support::upstream::Seen]| {
            seen.iter().filter(|one| one.path.ends_with(&path)).count()
        }
    };
    let mut gateway = Gateway::before(&up).more(&every("one")).start().await;
    prefetched(&gateway, &one.manifest.digest).await;
    // The first entry stays where it is, and goes on; the second comes.
    let line = gateway.reload_as(|setup| setup.more(&every("two"))).await;
    assert!(line.contains("prefetch"), "{line}");
    prefetched(&gateway, &two.manifest.digest).await;
    let (one, two) = (asked("one"), asked("two"));
    let so_far = one(&up.seen());
    up.until(|seen| one(seen) > so_far).await;
    let metrics = gateway.metrics().await;
    let success = "pierhead_prefetch_last_success_timestamp_seconds";
    assert!(
        metrics.contains(&format!("{success}{{entry=\"2\"}}")),
        "{metrics}"
    );

    // What is taken out is asked for no more: the other one has its turns meanwhile.
    gateway
        .reload_as(|setup| setup.no_more().more(&every("two")))
        .await;
    let now = two(&up.seen());
    up.until(|seen| two(seen) > now).await;
    let before = up.seen();
    up.until(|seen| two(seen) > two(&before) + 1).await;
    assert_eq!(one(&up.seen()), one(&before));
    let metrics = gateway.metrics().await;
    assert!(
        !metrics.contains(&format!("{success}{{entry=\"2\"}}")),
        "{metrics}"
    );
}
