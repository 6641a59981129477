//! Pulls: cold and warm, by tag and by digest, and what the answers look like.

use hyper::Method;

use crate::support::{Blob, Gateway, Manifest, Upstream, gateway, image, pull::ACCEPT_ALL};

#[tokio::test]
async fn a_cold_pull_is_right_and_a_warm_one_asks_upstream_for_nothing() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "team/app")
        .image("latest", 1, &[70_000, 300_000, 1]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;

    gateway.client().pull(&image).await;
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
    }
    let cold = up.requests();
    gateway.client().pull(&image).await;
    assert_eq!(
        up.requests(),
        cold,
        "the second pull went upstream: {:?}",
        &up.seen()[cold..]
    );
}

#[tokio::test]
async fn a_manifest_asked_for_by_digest_is_asked_for_upstream_once() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 2, &[1000]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let client = gateway.client();

    client.manifest(&image.repo, &image.manifest.digest).await;
    let cold = up.requests();
    client.manifest(&image.repo, &image.manifest.digest).await;
    let head = client.head(&image.by_digest()).send().await;
    assert_eq!(head.status, 200);
    assert_eq!(up.requests(), cold);
}

#[tokio::test]
async fn a_pull_is_the_same_over_http_2() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 3, &[400_000, 20]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().h2();

    client.pull(&image).await;
    let cold = up.blob_gets();
    client.pull(&image).await;
    assert_eq!(up.blob_gets(), cold);
}

#[tokio::test]
async fn an_h2_connection_carries_many_requests() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 4, &[10, 20_000, 30, 90_000]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().h2();
    let mut session = client.session("registry.test:443").await;
    for blob in image.blobs() {
        let url = image.repo.blob_url(&blob.digest);
        client
            .get(&url)
            .send_on(&mut session)
            .await
            .verified(&blob.digest)
            .await;
    }
}

#[tokio::test]
async fn an_http_1_connection_carries_many_requests() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 5, &[10, 20_000, 30]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let mut session = client.session("registry.test:443").await;
    for _ in 0..2 {
        for blob in image.blobs() {
            let url = image.repo.blob_url(&blob.digest);
            client
                .get(&url)
                .send_on(&mut session)
                .await
                .verified(&blob.digest)
                .await;
        }
    }
}

#[tokio::test]
async fn a_sha512_digest_is_as_good_as_a_sha256_one() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = Blob::of_sha512(crate::support::content::noise(6, 100_000));
    repo.put(&blob);
    let gateway = Gateway::before(&up).start().await;
    for _ in 0..2 {
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        reply.verified(&blob.digest).await;
    }
    assert_eq!(up.blob_gets(), 1);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = Blob::of(Vec::new());
    repo.put(&blob);
    let gateway = Gateway::before(&up).start().await;
    for _ in 0..2 {
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        assert_eq!(reply.header("content-length"), "0");
        reply.verified(&blob.digest).await;
    }
}

#[tokio::test]
async fn an_index_and_the_images_in_it_are_pulled() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "multi");
    let (amd, arm) = (repo.image("amd", 7, &[5000]), repo.image("arm", 8, &[6000]));
    let index = Manifest::index(image::OCI_INDEX, &[&amd.manifest, &arm.manifest]);
    repo.tag("latest", &[&index]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    for _ in 0..2 {
        assert_eq!(client.resolve(&repo, "latest").await, index.digest);
        client.manifest(&repo, &index.digest).await;
        client.pull_digest(&amd).await;
        client.pull_digest(&arm).await;
    }
    assert_eq!(up.count(Method::GET, &arm.layers[0].digest), 1);
}

#[tokio::test]
async fn answers_carry_what_clients_look_at() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 9, &[1234]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let layer = &image.layers[0];
    for _ in 0..2 {
        let manifest = client.ask_manifest(&image.repo, "latest").await;
        assert_eq!(manifest.header("content-type"), image::OCI_MANIFEST);
        assert_eq!(
            manifest.header("docker-content-digest"),
            image.manifest.digest
        );
        let len = image.manifest.bytes.len().to_string();
        assert_eq!(manifest.header("content-length"), len);
        manifest.verified(&image.manifest.digest).await;

        let blob = client.get(&image.repo.blob_url(&layer.digest)).send().await;
        assert_eq!(blob.header("content-length"), "1234");
        assert_eq!(blob.header("docker-content-digest"), layer.digest);
        blob.verified(&layer.digest).await;
    }
    let warm = client.get(&image.repo.blob_url(&layer.digest)).send().await;
    let status = warm.cache_status().to_owned();
    assert!(
        status.starts_with("pierhead; hit"),
        "Cache-Status: {status:?}"
    );
}

#[tokio::test]
async fn the_gateway_follows_the_redirect_to_the_cdn_and_takes_no_credentials_there() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .bearer("auth.test")
        .cdn("cdn.test");
    let image = registry.repo("app").image("latest", 10, &[200_000]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().bearer(&registry.token(None, "app"));
    client.pull(&image).await;
    let seen = up.seen();
    let mut at_cdn = seen.iter().filter(|one| one.host == "cdn.test").peekable();
    assert!(at_cdn.peek().is_some(), "nobody went to the CDN");
    assert!(at_cdn.all(|one| one.header("authorization").is_empty()));
}

#[tokio::test]
async fn docker_hub_is_built_in_with_its_token_service() {
    let up = Upstream::start().await;
    let hub = up.registry("registry-1.docker.io").bearer("auth.docker.io");
    let image = hub.repo("library/busybox").image("latest", 11, &[50_000]);
    let setup = Gateway::before(&up).no_registry("registry-1.docker.io");
    let gateway = setup.start().await;
    let client = gateway.client();

    let ping = client.get("https://registry-1.docker.io/v2/").send().await;
    assert_eq!(ping.status, 401);
    let challenge = ping.header("www-authenticate").to_owned();
    assert!(
        challenge.contains("https://auth.docker.io/token"),
        "{challenge}"
    );
    let url = "https://auth.docker.io/token?service=registry-1.docker.io&scope=repository:library/busybox:pull";
    let token: serde_json::Value =
        serde_json::from_str(&client.get(url).send().await.text().await).unwrap();
    let client = client.bearer(token["token"].as_str().unwrap());
    client.pull(&image).await;
    let cold = up.blob_gets();
    client.pull(&image).await;
    assert_eq!(up.blob_gets(), cold);
}

#[tokio::test]
async fn what_is_not_a_manifest_or_a_blob_is_relayed_as_it_is() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 12, &[10]);
    up.page(
        "registry.test",
        "/about.txt",
        "text/plain; charset=x",
        b"hello",
    );
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();

    let tags = client.get(&image.repo.url("tags/list?n=5")).send().await;
    assert_eq!((tags.status, tags.header("x-from")), (200, "upstream"));
    let tags: serde_json::Value = serde_json::from_str(&tags.text().await).unwrap();
    assert_eq!(tags["tags"][0], "v1");
    assert_eq!(up.seen().last().unwrap().query, "n=5");

    let referrers = image
        .repo
        .url(&format!("referrers/{}", image.manifest.digest));
    let referrers = client.get(&referrers).send().await;
    assert_eq!(referrers.header("content-type"), image::OCI_INDEX);

    let page = client.get("https://registry.test/about.txt").send().await;
    assert_eq!(page.header("content-type"), "text/plain; charset=x");
    assert_eq!(page.text().await, "hello");
    let none = client.get("https://registry.test/none").send().await;
    assert_eq!(
        (none.status, none.text().await.as_str()),
        (404, "no such page upstream\n")
    );
}

#[tokio::test]
async fn a_request_leaves_one_access_line() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "team/app")
        .image("latest", 13, &[4321]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let layer = &image.layers[0].digest;
    for outcome in ["miss", "hit"] {
        client
            .get(&image.repo.blob_url(layer))
            .send()
            .await
            .verified(layer)
            .await;
        let line = gateway
            .log
            .access(|line| line.is("reference", layer) && line.is("outcome", outcome));
        let line = line.await;
        assert!(line.is("host", "registry.test"), "{line:?}");
        assert!(line.is("repository", "team/app"), "{line:?}");
        assert!(
            line.is("method", "GET") && line.is("status", "200"),
            "{line:?}"
        );
        assert!(line.is("bytes", "4321"), "{line:?}");
        assert!(line.field("client").starts_with("127.0.0.1"), "{line:?}");
        assert!(!line.field("ms").is_empty(), "{line:?}");
    }
}

#[tokio::test]
async fn the_banner_says_what_a_person_needs() {
    let gateway = Gateway::alone().start().await;
    let banner = gateway.out.text();
    assert!(
        banner.contains("ca.crt") && banner.contains("sha256"),
        "{banner}"
    );
    assert!(
        banner.contains("docker"),
        "it says how to set up a Docker host: {banner}"
    );
    let help = gateway::run(&["--help"], gateway.home().path()).await;
    assert!(help.status.success());
}

#[tokio::test]
async fn clients_that_send_many_accept_lines_are_understood() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 14, &[10]);
    let gateway = Gateway::before(&up).start().await;
    gateway.client().manifest(&image.repo, "latest").await;
    let seen = up.seen();
    let asked = seen
        .iter()
        .find(|one| one.path.ends_with("/manifests/latest"));
    let lines = asked.expect("it was asked").header_lines("accept");
    for media_type in ACCEPT_ALL {
        assert!(lines.contains(media_type), "{media_type} got lost: {lines}");
    }
}
