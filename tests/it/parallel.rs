//! A large blob over a slow line, and many clients of one blob.

use hyper::Method;

use crate::support::{Blob, Fault, Gate, Gateway, On, Repo, Upstream, eventually, within};

const MIB: usize = 1024 * 1024;

/// A blob of which every connection brings a mebibyte a second.
async fn slow(seed: u64) -> (Upstream, Repo, Blob) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(seed, 24 * MIB);
    up.fault(On::get(&blob.digest).always(), Fault::Paced(MIB as u64));
    (up, repo, blob)
}

#[tokio::test]
async fn a_large_blob_comes_over_several_connections_where_one_is_slow() {
    let (up, repo, blob) = slow(1).await;
    let gateway = Gateway::before(&up).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    within(60, reply.verified(&blob.digest)).await;
    gateway
        .metric_becomes("pierhead_download_splits_total 1")
        .await;
    let seen = up.seen();
    let mut parts: Vec<_> = seen
        .iter()
        .filter(|one| one.method == Method::GET && one.path.contains(&blob.digest))
        .map(|one| one.header("range").to_owned())
        .collect();
    assert_eq!(parts[0], "", "the first asks for everything");
    parts.remove(0);
    parts.sort();
    parts.dedup();
    assert!(parts.len() >= 3, "{parts:?}");
    // What was on its way when the first connection met the next part, and no more.
    let sent = up.bytes_sent(&blob.digest);
    assert!(sent < blob.len() + 2 * MIB, "{sent} bytes were sent");
    assert_eq!(gateway.copies_of(&blob.bytes), 1);
}

#[tokio::test]
async fn after_a_kill_amid_several_connections_what_counted_is_not_asked_for_again() {
    let (up, repo, blob) = slow(2).await;
    let mut gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut reply = gateway.client().get(&url).send().await;
    gateway
        .metric_becomes("pierhead_download_splits_total 1")
        .await;
    eventually("bytes beyond a gap are on disk", || {
        let files = gateway.cache_files();
        let mut names = files.iter().map(|(path, _)| path.to_string_lossy());
        names.any(|name| name.ends_with(".prefix"))
    })
    .await;
    reply.read(MIB).await;
    gateway.kill9().await;
    let rest = reply.rest().await;
    assert!(!rest.whole);
    up.mend();

    let before = up.bytes_sent(&blob.digest);
    let gateway = gateway.restart().await;
    for _ in 0..2 {
        let reply = gateway.client().get(&url).send().await;
        within(60, reply.verified(&blob.digest)).await;
    }
    let again = up.bytes_sent(&blob.digest) - before;
    assert!(again <= blob.len() - MIB, "{again} bytes came again");
    eventually("one copy of it is left, and nothing beside it", || {
        let files = gateway.cache_files();
        let partial = |path: &std::path::Path| path.to_string_lossy().contains("/partial/");
        gateway.copies_of(&blob.bytes) == 1 && !files.iter().any(|(path, _)| partial(path))
    })
    .await;
}

#[tokio::test]
async fn one_connection_is_all_where_no_more_are_allowed() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(3, 20 * MIB);
    up.fault(On::get(&blob.digest).always(), Fault::Paced(4 * MIB as u64));
    let gateway = Gateway::before(&up)
        .set("upstream", "parallel", "1")
        .start()
        .await;
    let url = repo.blob_url(&blob.digest);
    let reply = gateway.client().get(&url).send().await;
    within(60, reply.verified(&blob.digest)).await;
    assert_eq!(up.count(Method::GET, &blob.digest), 1);
    assert_eq!(up.bytes_sent(&blob.digest), blob.len());
}

#[tokio::test]
async fn many_clients_of_one_cold_blob_cost_one_download_and_little_memory() {
    const CLIENTS: usize = 60;
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(4, 16 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(2 * MIB as u64, gate.clone()),
    );
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let before = gateway.peak_memory();
    let mut replies = Vec::new();
    for _ in 0..CLIENTS {
        let mut reply = gateway.client().get(&url).send().await;
        reply.read(1000).await;
        replies.push(reply);
    }
    gate.open();
    let readers = replies.into_iter().map(|reply| {
        let expected = blob.bytes.slice(1000..);
        tokio::spawn(async move { assert!(reply.bytes().await == expected) })
    });
    for reader in readers.collect::<Vec<_>>() {
        within(120, reader).await.unwrap();
    }
    assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
    // docs/downloads.md states the bound: a chunk of 256 KiB and what TLS holds of it for each client, and
    // some MiB for the download.
    let grown = gateway.peak_memory() - before;
    let most = CLIENTS * MIB + 48 * MIB;
    assert!(grown < most, "{} MiB for {CLIENTS} clients", grown / MIB);
}
