//! Range and HEAD on blobs that are cached, and on ones that are not there.

use crate::support::{Blob, Gateway, Reply, Repo, Upstream};

const LEN: usize = 500_000;

async fn cached() -> (Upstream, Gateway, Repo, Blob) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, LEN);
    let gateway = Gateway::before(&up).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    reply.verified(&blob.digest).await;
    (up, gateway, repo, blob)
}

async fn range(gateway: &Gateway, repo: &Repo, blob: &Blob, range: &str) -> Reply {
    let client = gateway.client();
    client
        .get(&repo.blob_url(&blob.digest))
        .header("range", range)
        .send()
        .await
}

#[tokio::test]
async fn a_range_of_a_cached_blob_is_cut_from_the_file() {
    let (up, gateway, repo, blob) = cached().await;
    let cold = up.requests();
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=100-", 100, LEN - 1),
        ("bytes=-50", LEN - 50, LEN - 1),
        ("bytes=499999-", LEN - 1, LEN - 1),
        ("bytes=400000-9999999", 400_000, LEN - 1),
        ("bytes=-9999999", 0, LEN - 1),
    ];
    for (asked, from, to) in cases {
        let reply = range(&gateway, &repo, &blob, asked).await;
        assert_eq!(reply.status, 206, "{asked}");
        assert_eq!(
            reply.header("content-range"),
            format!("bytes {from}-{to}/{LEN}"),
            "{asked}"
        );
        assert_eq!(
            reply.header("content-length"),
            (to - from + 1).to_string(),
            "{asked}"
        );
        assert_eq!(reply.bytes().await, blob.bytes[from..=to], "{asked}");
    }
    assert_eq!(up.requests(), cold, "all of it was there");
}

#[tokio::test]
async fn a_range_beyond_the_end_is_416() {
    let (_up, gateway, repo, blob) = cached().await;
    for asked in ["bytes=500000-", "bytes=600000-700000", "bytes=-0"] {
        let reply = range(&gateway, &repo, &blob, asked).await;
        assert_eq!(reply.status, 416, "{asked}");
        assert_eq!(
            reply.header("content-range"),
            format!("bytes */{LEN}"),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn a_range_that_is_none_gives_the_whole() {
    let (_up, gateway, repo, blob) = cached().await;
    for asked in [
        "lines=1-2",
        "bytes=9-3",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "bytes=",
    ] {
        let reply = range(&gateway, &repo, &blob, asked).await;
        assert_eq!(reply.status, 200, "{asked}");
        reply.verified(&blob.digest).await;
    }
}

#[tokio::test]
async fn if_range_with_its_etag_gives_the_part_and_with_another_the_whole() {
    let (_up, gateway, repo, blob) = cached().await;
    let client = gateway.client();
    let url = repo.blob_url(&blob.digest);
    let head = client.head(&url).send().await;
    let etag = head.header("etag").to_owned();
    assert!(etag.contains(&blob.digest), "ETag: {etag:?}");
    let part = client
        .get(&url)
        .header("range", "bytes=5-9")
        .header("if-range", &etag);
    let part = part.send().await;
    assert_eq!(part.status, 206);
    assert_eq!(part.bytes().await, blob.bytes[5..10]);
    let whole = client
        .get(&url)
        .header("range", "bytes=5-9")
        .header("if-range", "\"other\"");
    let whole = whole.send().await;
    whole.verified(&blob.digest).await;
}

#[tokio::test]
async fn a_head_of_a_cached_blob_needs_no_upstream() {
    let (up, gateway, repo, blob) = cached().await;
    let cold = up.requests();
    let head = gateway
        .client()
        .head(&repo.blob_url(&blob.digest))
        .send()
        .await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), LEN.to_string());
    assert_eq!(head.header("docker-content-digest"), blob.digest);
    assert_eq!(head.header("accept-ranges"), "bytes");
    assert!(head.bytes().await.is_empty());
    assert_eq!(up.requests(), cold);
}

#[tokio::test]
async fn a_head_of_a_blob_that_is_upstream_only_downloads_nothing_for_the_client() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(2, LEN);
    let gateway = Gateway::before(&up).start().await;
    let head = gateway
        .client()
        .head(&repo.blob_url(&blob.digest))
        .send()
        .await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), LEN.to_string());
}

#[tokio::test]
async fn a_blob_that_is_nowhere_is_404_and_asked_for_once_in_a_while() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).start().await;
    let nowhere = Blob::noise(3, 10);
    let url = repo.blob_url(&nowhere.digest);
    let reply = gateway.client().get(&url).send().await;
    assert_eq!(reply.status, 404);
    let text = reply.text().await;
    assert!(text.contains("BLOB_UNKNOWN"), "{text}");
    let cold = up.requests();
    for range in ["bytes=0-4", "bytes=0-"] {
        let client = gateway.client();
        let reply = client.get(&url).header("range", range).send().await;
        assert_eq!(reply.status, 404);
    }
    assert_eq!(gateway.client().head(&url).send().await.status, 404);
    assert_eq!(up.requests(), cold, "a 404 is remembered for seconds");
}

#[tokio::test]
async fn what_was_sent_whole_is_logged_as_complete_over_both_protocols() {
    let (_up, gateway, repo, blob) = cached().await;
    let url = repo.blob_url(&blob.digest);
    for (client, part) in [
        (gateway.client(), 1001),
        (gateway.client().h2(), 1002),
        (gateway.client(), LEN),
        (gateway.client().h2(), LEN - 1),
    ] {
        let range = format!("bytes=0-{}", part - 1);
        let reply = client.get(&url).header("range", &range).send().await;
        assert_eq!(reply.bytes().await.len(), part);
        let bytes = part.to_string();
        let line = gateway
            .log
            .access(|line| line.is("outcome", "hit") && line.is("bytes", &bytes))
            .await;
        assert!(line.is("complete", "true"), "{line:?}");
    }
}
