//! One download, many followers, each at its own pace.

use hyper::Method;

use crate::support::{Blob, Fault, Gate, Gateway, On, Repo, Upstream, within};

const MIB: usize = 1024 * 1024;

/// A blob whose first download stalls after `stall` bytes, until the gate opens.
async fn stalled(seed: u64, len: usize, stall: usize) -> (Upstream, Repo, Blob, Gate) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(seed, len);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(stall as u64, gate.clone()),
    );
    (up, repo, blob, gate)
}

#[tokio::test]
async fn two_clients_share_one_download_while_it_runs() {
    let (up, repo, blob, gate) = stalled(1, 4 * MIB, 2 * MIB).await;
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);

    let mut first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let mut second = gateway.client().get(&url).send().await;
    assert_eq!(second.header("content-length"), blob.len().to_string());
    // The second gets what has come so far, from the file that still grows.
    assert_eq!(second.read(MIB).await, blob.bytes[..MIB]);
    assert_eq!(first.read(MIB).await, blob.bytes[..MIB]);
    gate.open();
    assert_eq!(first.bytes().await, blob.bytes[MIB..]);
    assert_eq!(second.bytes().await, blob.bytes[MIB..]);
    assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
}

#[tokio::test]
async fn a_follower_is_called_one_in_the_log() {
    let (up, repo, blob, gate) = stalled(2, MIB, MIB / 2).await;
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let second = gateway.client().get(&url).send().await;
    gate.open();
    first.verified(&blob.digest).await;
    second.verified(&blob.digest).await;
    gateway.log.access(|line| line.is("outcome", "miss")).await;
    gateway
        .log
        .access(|line| line.is("outcome", "follow"))
        .await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_download() {
    let (up, repo, blob, gate) = stalled(3, 4 * MIB, 2 * MIB).await;
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut first = gateway.client().get(&url).send().await;
    first.read(1000).await;
    gate.arrived(1).await;
    drop(first);
    gate.open();
    let digest = blob.digest.clone();
    up.until(move |seen| {
        let mut gets = seen.iter().filter(|one| one.path.contains(&digest));
        gets.any(|one| one.status == Some(200))
    })
    .await;
    gateway
        .client()
        .get(&url)
        .send()
        .await
        .verified(&blob.digest)
        .await;
    assert_eq!(up.count(Method::GET, &blob.digest), 1);
    assert_eq!(up.bytes_sent(&blob.digest), blob.len());
}

#[tokio::test]
async fn nobody_gets_the_last_bytes_of_a_blob_that_turns_out_wrong() {
    let (up, repo, blob, gate) = stalled(4, 2 * MIB, MIB).await;
    // Right until its last byte, and whole by its length.
    let mut wrong = blob.bytes.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    repo.put_as(&blob.digest, wrong.into());
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);

    let first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let second = gateway.client().get(&url).send().await;
    gate.open();
    for reply in [first, second] {
        let rest = reply.rest().await;
        assert!(!rest.whole, "the client was told that this is the blob");
        assert!(rest.bytes.len() < blob.len(), "it got every byte");
    }
}

#[tokio::test]
async fn the_last_byte_waits_for_the_digest() {
    let (up, repo, blob, gate) = stalled(5, MIB, MIB - 1).await;
    let gateway = Gateway::before(&up).start().await;
    let mut client = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    gate.arrived(1).await;
    client.read(MIB / 4).await;
    gate.open();
    assert_eq!(client.bytes().await, blob.bytes[MIB / 4..]);
}

#[tokio::test]
async fn a_slow_client_holds_no_other_up() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(6, 24 * MIB);
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);

    let slow = gateway.client().window(16 * 1024);
    let mut slow = slow.get(&url).send().await;
    slow.read(100).await;
    // It reads no more for now, and the others are done before it.
    let quick = gateway.client().get(&url).send().await;
    within(60, quick.verified(&blob.digest)).await;
    let next = gateway.client().get(&url).send().await;
    within(60, next.verified(&blob.digest)).await;
    assert_eq!(up.bytes_sent(&blob.digest), blob.len());
    assert_eq!(slow.bytes().await, blob.bytes[100..]);
}

#[tokio::test]
async fn a_range_ahead_of_the_download_waits_for_it() {
    let (up, repo, blob, gate) = stalled(7, 4 * MIB, MIB).await;
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let whole = gateway.client().get(&url).send().await;
    gate.arrived(1).await;

    let client = gateway.client();
    let (from, to) = (3 * MIB, 3 * MIB + 99);
    let range = format!("bytes={from}-{to}");
    let ahead = tokio::spawn(async move {
        let reply = client.get(&url).header("range", &range).send().await;
        let range = reply.header("content-range").to_owned();
        (reply.status, range, reply.bytes().await)
    });
    // Behind the download there is no need to wait, but for the last bytes: those follow once the
    // digest is verified.
    let behind = gateway.client();
    let behind = behind
        .get(&repo.blob_url(&blob.digest))
        .header("range", "bytes=10-100009");
    let mut behind = behind.send().await;
    assert_eq!(behind.status, 206);
    assert_eq!(behind.read(50_000).await, blob.bytes[10..50_010]);

    gate.open();
    let (status, range, bytes) = within(30, ahead).await.unwrap();
    assert_eq!((status, bytes), (206, blob.bytes.slice(from..=to)));
    assert_eq!(range, format!("bytes {from}-{to}/{}", blob.len()));
    assert_eq!(behind.bytes().await, blob.bytes[50_010..100_010]);
    whole.verified(&blob.digest).await;
    assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
}

#[tokio::test]
async fn a_head_while_downloading_is_answered_at_once() {
    let (up, repo, blob, gate) = stalled(8, MIB, MIB / 2).await;
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let whole = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let head = gateway.client().head(&url).send().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), blob.len().to_string());
    gate.open();
    whole.verified(&blob.digest).await;
    assert_eq!(up.blob_gets(), 1);
}

#[tokio::test]
async fn eight_cold_pulls_at_once_fetch_each_blob_once() {
    let up = Upstream::start().await;
    let sizes = [300_000, 10, 90_000, 200_000, 5];
    let image = up.repo("registry.test", "app").image("latest", 9, &sizes);
    let gateway = Gateway::before(&up).start().await;
    let pulls = (0..8).map(|i| {
        let client = gateway.client();
        let client = if i % 2 == 0 { client } else { client.h2() };
        let image = image.clone();
        tokio::spawn(async move { client.pull(&image).await })
    });
    let pulls: Vec<_> = pulls.collect();
    for pull in pulls {
        within(60, pull).await.unwrap();
    }
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
    }
    assert!(
        up.manifest_gets() <= 2,
        "{} GETs of one manifest",
        up.manifest_gets()
    );
}

#[tokio::test]
async fn a_range_of_an_absent_blob_starts_one_download_of_it() {
    let (up, repo, blob, gate) = stalled(10, 2 * MIB, MIB).await;
    gate.open();
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let part = gateway.client();
    let part = part
        .get(&url)
        .header("range", "bytes=1500000-1500009")
        .send()
        .await;
    assert_eq!(part.status, 206);
    assert_eq!(part.bytes().await, blob.bytes[1_500_000..1_500_010]);
    gateway
        .client()
        .get(&url)
        .send()
        .await
        .verified(&blob.digest)
        .await;
    assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
}

#[tokio::test]
async fn who_waits_for_a_small_blob_that_fails_waits_as_long_as_the_first_and_no_longer() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(60, 1000);
    up.fault(On::get(&blob.digest).always(), Fault::CutAfter(0));
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let client = gateway.client();
    let asked = (0..4).map(|_| client.get(&url).send());
    for reply in within(100, futures_util::future::join_all(asked)).await {
        assert_eq!(reply.status, 502);
        reply.oci_error().await;
    }
    // One patience, and not one after the other.
    let tries = up.count(Method::GET, &blob.digest);
    assert!(tries <= 14, "{tries} requests");
}
