//! Upstreams whose answers cannot be: each ends, soon, and no client takes it for the blob.

use hyper::Method;

use crate::support::{Blob, Fault, Gateway, On, Repo, Setup, Upstream, eventually, within};

const MIB: u64 = 1024 * 1024;

async fn blob(seed: u64) -> (Upstream, Repo, Blob) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(seed, 1_000_000);
    (up, repo, blob)
}

#[tokio::test]
async fn a_416_to_a_question_without_a_range_is_an_error_soon() {
    let cases = [None, Some("bytes */0"), Some("bytes */1000000")];
    for (seed, range) in (1..).zip(cases) {
        let (up, repo, blob) = blob(seed).await;
        let headers = range.map(|range| ("content-range", range.to_owned()));
        let headers: Vec<_> = headers.into_iter().collect();
        up.fault(
            On::get(&blob.digest).always(),
            Fault::Status(416, headers, ""),
        );
        let gateway = Gateway::before(&up).start().await;
        let url = repo.blob_url(&blob.digest);
        let client = gateway.client();
        let reply = within(30, client.get(&url).send()).await;
        assert!(reply.status >= 400, "{range:?}: {}", reply.status);
        reply.oci_error().await;
        let asked = up.count(Method::GET, &blob.digest);
        assert!(asked <= 10, "{range:?}: {asked} requests");
        // It gets well, and so does the blob.
        up.mend();
        let reply = client.get(&url).send().await;
        reply.verified(&blob.digest).await;
    }
}

/// `range` with a body that never ends: the client is not told that this is the blob, and the cache
/// holds no more than it may.
async fn assert_bounded(seed: u64, range: &'static str, setup: impl FnOnce(Setup) -> Setup) {
    let (up, repo, blob) = blob(seed).await;
    up.fault(On::get(&blob.digest).always(), Fault::Endless(range));
    let setup = setup(Gateway::before(&up).text("cache", "max_size", "16MiB"));
    let gateway = setup.start().await;
    let url = repo.blob_url(&blob.digest);
    let client = gateway.client();
    for part in [None, Some("bytes=0-49"), Some("bytes=50-")] {
        let mut ask = client.get(&url);
        if let Some(part) = part {
            ask = ask.header("range", part);
        }
        // No answer at all says so, too.
        let Ok(reply) = within(60, ask.try_send()).await else {
            continue;
        };
        let status = reply.status;
        let rest = within(60, reply.rest()).await;
        // A part cannot be verified by itself; it may be what upstream sent, and no longer.
        let told =
            status >= 400 || !rest.whole || (status == 206 && rest.bytes.len() <= MIB as usize);
        assert!(told, "{part:?}: {status}, {} bytes", rest.bytes.len());
        let held = gateway.cached_bytes();
        assert!(held <= 16 * MIB, "{held} bytes are in the cache");
    }
    let sent = up.bytes_sent(&blob.digest) as u64;
    assert!(sent <= 128 * MIB, "{sent} bytes were read of it");
    up.mend();
    client.get(&url).send().await.verified(&blob.digest).await;
    eventually("the cache is within its bounds", || {
        gateway.cached_bytes() <= 16 * MIB
    })
    .await;
}

#[tokio::test]
async fn a_part_that_is_longer_than_the_small_whole_ends() {
    assert_bounded(11, "bytes 0-99/100", |setup| setup).await;
}

#[tokio::test]
async fn a_part_that_is_longer_than_the_large_whole_ends() {
    assert_bounded(12, "bytes 0-899999/900000", |setup| setup).await;
}

#[tokio::test]
async fn a_part_that_is_longer_than_it_says_ends() {
    assert_bounded(13, "bytes 0-99/1000000", |setup| setup).await;
}

#[tokio::test]
async fn a_part_that_is_longer_than_the_whole_ends_when_it_passes_through_too() {
    for (seed, range) in [(14, "bytes 0-99/100"), (15, "bytes 0-899999/900000")] {
        assert_bounded(seed, range, |setup| {
            setup.text("cache", "min_free", "900TiB")
        })
        .await;
    }
}

#[tokio::test]
async fn a_success_without_content_and_a_redirect_to_nowhere_are_errors() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 21, &[100_000]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let layer = repo.blob_url(&image.layers[0].digest);
    for status in [204, 205, 302, 304] {
        up.fault(On::any("/v2/").always(), Fault::Status(status, vec![], ""));
        for url in [&layer, &image.by_digest(), &image.by_tag()] {
            let reply = within(30, client.head(url).send()).await;
            assert!(
                reply.status >= 500,
                "HEAD {url}, {status}: {}",
                reply.status
            );
            let reply = within(30, client.get(url).send()).await;
            assert!(reply.status >= 500, "{url}, {status}: {}", reply.status);
            reply.oci_error().await;
        }
        up.mend();
    }
    for fault in [Fault::Html, Fault::Page("application/json")] {
        up.fault(On::any("/v2/").always(), fault);
        for url in [&layer, &image.by_digest(), &image.by_tag()] {
            let reply = within(30, client.head(url).send()).await;
            assert!(reply.status >= 500, "HEAD {url}: {}", reply.status);
        }
        up.mend();
    }
    client.pull(&image).await;
}

#[tokio::test]
async fn a_blob_hosts_refusal_is_not_the_registrys_and_its_links_are_asked_for_anew() {
    let up = Upstream::start().await;
    let repo = up.registry("registry.test").cdn("cdn.test").repo("app");
    let blob = repo.blob(22, 100_000);
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let expired = || Fault::Status(403, vec![], "<Error>Request has expired</Error>");
    up.fault(On::any(&blob.digest).at("cdn.test").always(), expired());
    let reply = within(30, gateway.client().get(&url).send()).await;
    assert_eq!(reply.status, 502);
    reply.oci_error().await;
    up.mend();
    up.fault(On::any(&blob.digest).at("cdn.test"), expired());
    let reply = gateway.client().get(&url).send().await;
    reply.verified(&blob.digest).await;
}
