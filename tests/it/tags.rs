//! Tags: fresh by the clock, by `Accept`, and stale only while upstream fails.

use crate::support::{
    Fault, Gate, Gateway, Manifest, On, Reply, Repo, Setup, Upstream, image, within,
};

/// Tags are never answered without asking upstream.
fn always_asking(up: &Upstream) -> Setup {
    Gateway::before(up).text("cache", "tag_ttl", "0s")
}

async fn upstream_with_app() -> (Upstream, Repo) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    (up, repo)
}

async fn accepting(gateway: &Gateway, repo: &Repo, tag: &str, accept: &[&str]) -> Reply {
    let client = gateway.client();
    let mut ask = client.get(&repo.manifest_url(tag));
    for line in accept {
        ask = ask.header("accept", line);
    }
    ask.send().await
}

/// Asserts an answer out of date, marked as one.
async fn assert_stale(reply: Reply, digest: &str) {
    let warning = reply.header("warning").to_owned();
    let status = reply.cache_status().to_owned();
    reply.verified(digest).await;
    assert!(warning.starts_with("110 "), "Warning: {warning:?}");
    assert!(status.contains("stale"), "Cache-Status: {status:?}");
}

#[tokio::test]
async fn a_tag_costs_one_head_a_pull_when_it_is_never_to_be_believed() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 1, &[1000]);
    let gateway = always_asking(&up).start().await;
    gateway.client().pull(&image).await;
    let (heads, gets, all) = (up.manifest_heads(), up.manifest_gets(), up.requests());
    gateway.client().pull(&image).await;
    assert_eq!(up.manifest_heads(), heads + 1);
    assert_eq!(
        up.manifest_gets(),
        gets,
        "a GET counts against the limits of Docker Hub"
    );
    assert_eq!(up.requests(), all + 1, "{:?}", &up.seen()[all..]);
}

#[tokio::test]
async fn a_tag_that_moved_is_fetched_once() {
    let (up, repo) = upstream_with_app().await;
    let old = repo.image("latest", 2, &[1000]);
    let gateway = always_asking(&up).start().await;
    gateway.client().pull(&old).await;
    let gets = up.manifest_gets();

    let new = repo.image("latest", 3, &[2000]);
    for _ in 0..2 {
        gateway.client().pull(&new).await;
        assert_eq!(
            gateway.client().manifest(&repo, "latest").await,
            new.manifest.digest
        );
    }
    assert_eq!(up.manifest_gets(), gets + 1);
    // The old one is still there for who knows its digest.
    gateway.client().pull_digest(&old).await;
}

#[tokio::test]
async fn within_its_ttl_a_tag_costs_nothing_and_may_be_behind() {
    let (up, repo) = upstream_with_app().await;
    let old = repo.image("latest", 4, &[1000]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    gateway.client().manifest(&repo, "latest").await;
    repo.image("latest", 5, &[1000]);
    let before = up.manifest_heads() + up.manifest_gets();
    assert_eq!(
        gateway.client().resolve(&repo, "latest").await,
        old.manifest.digest
    );
    assert_eq!(
        gateway.client().manifest(&repo, "latest").await,
        old.manifest.digest
    );
    assert_eq!(up.manifest_heads() + up.manifest_gets(), before);
}

#[tokio::test]
async fn the_ttl_of_a_tag_goes_by_its_longest_pattern() {
    let (up, repo) = upstream_with_app().await;
    repo.image("v1.2", 6, &[10]);
    repo.image("v1.2-rc", 7, &[10]);
    repo.image("latest", 8, &[10]);
    let ttl = r#"tag_ttl = { "v*" = "1h", "v*-rc" = "0s", "*" = "0s" }"#;
    let gateway = Gateway::before(&up)
        .registry("registry.test", ttl)
        .start()
        .await;
    for tag in ["v1.2", "v1.2-rc", "latest"] {
        gateway.client().manifest(&repo, tag).await;
    }
    for (tag, heads) in [("v1.2", 0), ("v1.2-rc", 1), ("latest", 1)] {
        let before = up.manifest_heads();
        gateway.client().manifest(&repo, tag).await;
        assert_eq!(up.manifest_heads() - before, heads, "{tag}");
    }
}

#[tokio::test]
async fn accept_in_several_lines_is_one_list() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 9, &[10]);
    let gateway = always_asking(&up).start().await;
    // The one that counts is the first, and a proxy that keeps the last line loses it.
    let accept = [image::OCI_MANIFEST, image::DOCKER_LIST, "application/json"];
    for _ in 0..2 {
        let reply = accepting(&gateway, &repo, "latest", &accept).await;
        reply.verified(&image.manifest.digest).await;
    }
}

#[tokio::test]
async fn another_accept_gets_another_answer() {
    let (up, repo) = upstream_with_app().await;
    let oci = repo.image("both", 10, &[10]);
    let docker = Manifest::image(image::DOCKER_MANIFEST, &oci.config, &oci.layers);
    repo.tag("both", &[&oci.manifest, &docker]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    for _ in 0..2 {
        let reply = accepting(&gateway, &repo, "both", &[image::DOCKER_MANIFEST]).await;
        assert_eq!(reply.header("content-type"), image::DOCKER_MANIFEST);
        reply.verified(&docker.digest).await;
        let reply = accepting(&gateway, &repo, "both", &[image::OCI_MANIFEST]).await;
        assert_eq!(reply.header("content-type"), image::OCI_MANIFEST);
        reply.verified(&oci.manifest.digest).await;
    }
}

#[tokio::test]
async fn a_404_for_one_accept_is_none_for_another() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 11, &[10]);
    let gateway = always_asking(&up).start().await;
    let reply = accepting(&gateway, &repo, "latest", &[image::DOCKER_LIST]).await;
    assert_eq!(reply.status, 404);
    let reply = accepting(&gateway, &repo, "latest", &[image::OCI_MANIFEST]).await;
    reply.verified(&image.manifest.digest).await;
    let reply = accepting(&gateway, &repo, "latest", &[image::DOCKER_LIST]).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_404_is_remembered_for_seconds() {
    let (up, repo) = upstream_with_app().await;
    let gateway = always_asking(&up).start().await;
    let nobodys = format!("sha256:{}", "0".repeat(64));
    for reference in ["nowhere", &nobodys] {
        let ask = || async { gateway.client().ask_manifest(&repo, reference).await };
        let reply = ask().await;
        assert_eq!(reply.status, 404);
        let text = reply.text().await;
        assert!(text.contains("UNKNOWN"), "{text}");
        let asked = up.requests();
        for _ in 0..3 {
            assert_eq!(ask().await.status, 404);
        }
        assert_eq!(up.requests(), asked, "{reference}");
    }
}

#[tokio::test]
async fn a_tag_that_was_deleted_upstream_is_gone() {
    let (up, repo) = upstream_with_app().await;
    repo.image("latest", 12, &[10]);
    let gateway = always_asking(&up).start().await;
    gateway.client().manifest(&repo, "latest").await;
    repo.untag("latest");
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    assert_eq!(reply.status, 404, "a 404 is an answer, not a failure");
}

#[tokio::test]
async fn a_tag_that_was_deleted_upstream_does_not_come_back_when_upstream_goes() {
    let (up, repo) = upstream_with_app().await;
    repo.image("latest", 15, &[10]);
    let gateway = always_asking(&up).start().await;
    let narrow = [image::OCI_MANIFEST];
    let wide = [image::OCI_MANIFEST, image::DOCKER_MANIFEST];
    for accept in [&narrow[..], &wide[..]] {
        let reply = accepting(&gateway, &repo, "latest", accept).await;
        assert_eq!(reply.status, 200);
    }
    repo.untag("latest");
    let gone = accepting(&gateway, &repo, "latest", &narrow).await;
    assert_eq!(gone.status, 404);
    up.stop().await;
    let later = accepting(&gateway, &repo, "latest", &wide).await;
    assert!(later.status >= 500, "{}", later.status);
}

#[tokio::test]
async fn a_head_that_upstream_answers_without_a_digest_is_answered_from_the_manifest() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 16, &[10]);
    let gateway = always_asking(&up).start().await;
    let says = |status, headers: &[(&'static str, &str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Fault::Status(status, headers.collect(), "")
    };
    let nameless = [
        ("content-type", image::OCI_MANIFEST),
        ("content-length", "9"),
    ];
    for head in [says(200, &nameless), says(405, &[]), says(200, &nameless)] {
        up.fault(On::head("/manifests/latest"), head);
        let client = gateway.client();
        let asked = client
            .head(&image.by_tag())
            .header("accept", image::OCI_MANIFEST);
        let reply = asked.send().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("docker-content-digest"), image.manifest.digest);
        let size = image.manifest.bytes.len().to_string();
        assert_eq!(reply.header("content-length"), size);
    }
}

#[tokio::test]
async fn a_404_without_words_says_what_is_not_known() {
    let (up, repo) = upstream_with_app().await;
    let gateway = always_asking(&up).start().await;
    let nobodys = format!("sha256:{}", "0".repeat(64));
    for (path, code) in [
        (format!("blobs/{nobodys}"), "BLOB_UNKNOWN"),
        (format!("manifests/{nobodys}"), "MANIFEST_UNKNOWN"),
        ("tags/list".to_owned(), "NAME_UNKNOWN"),
    ] {
        up.fault(On::get(&path), Fault::Status(404, Vec::new(), "<html>"));
        let reply = gateway.client().get(&repo.url(&path)).send().await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.oci_error().await.0, code, "{path}");
    }
}

#[tokio::test]
async fn an_upstream_too_slow_to_confirm_a_tag_is_treated_as_away() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 13, &[10]);
    let setup = always_asking(&up).text("cache", "revalidate_timeout", "300ms");
    let gateway = setup.start().await;
    gateway.client().pull(&image).await;
    let gate = Gate::new();
    up.fault(On::any("/manifests/").always(), Fault::Late(gate.clone()));
    let asking = async { gateway.client().ask_manifest(&repo, "latest").await };
    assert_stale(within(20, asking).await, &image.manifest.digest).await;
    gate.open();
    up.mend();
}

#[tokio::test]
async fn what_is_cached_is_served_while_upstream_fails() {
    let faults = [
        Fault::Status(500, vec![], "oops"),
        Fault::Status(503, vec![], "<html>maintenance</html>"),
        Fault::TooMany(600),
        Fault::Html,
        Fault::HangUp,
    ];
    for fault in faults {
        let (up, repo) = upstream_with_app().await;
        let image = repo.image("latest", 14, &[10]);
        let gateway = always_asking(&up).start().await;
        gateway.client().pull(&image).await;
        up.fault(On::any("/v2/").always(), fault.clone());
        let reply = gateway.client().ask_manifest(&repo, "latest").await;
        assert_eq!(reply.status, 200, "{fault:?}");
        assert_stale(reply, &image.manifest.digest).await;
        gateway.client().pull(&image).await;
        gateway.log.access(|line| line.is("outcome", "stale")).await;
    }
}

#[tokio::test]
async fn what_is_cached_is_served_while_upstream_is_away_and_fresh_when_it_is_back() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 15, &[100_000, 10]);
    let setup = always_asking(&up).text("limits", "upstream_connect", "1s");
    let gateway = setup.start().await;
    gateway.client().pull(&image).await;
    up.stop().await;
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    assert_stale(reply, &image.manifest.digest).await;
    gateway.client().pull(&image).await;

    up.start_again().await;
    let new = repo.image("latest", 16, &[10]);
    // It may remember for a little that upstream was away; it must find out that it no longer is.
    let found = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        while gateway.client().resolve(&repo, "latest").await != new.manifest.digest {
            ticks.tick().await;
        }
    };
    within(60, found).await;
    gateway.client().pull(&new).await;
}

/// A HEAD said so, and then nothing of it could be had.
#[tokio::test]
async fn a_tag_that_moved_out_of_reach_is_served_as_it_was() {
    let (up, repo) = upstream_with_app().await;
    let old = repo.image("latest", 30, &[1000]);
    let setup = always_asking(&up).text("limits", "upstream_connect", "1s");
    let gateway = setup.start().await;
    let client = gateway.client();
    client.pull(&old).await;
    let new = repo.image("latest", 31, &[2000]);
    up.fault(On::get("/manifests/").always(), Fault::CutAfter(10));
    assert_eq!(client.resolve(&repo, "latest").await, new.manifest.digest);
    for _ in 0..2 {
        let reply = client.ask_manifest(&repo, "latest").await;
        assert_stale(reply, &old.manifest.digest).await;
    }
    up.stop().await;
    client.pull(&old).await;
    let reply = client.ask_manifest(&repo, "latest").await;
    assert_stale(reply, &old.manifest.digest).await;

    up.mend();
    up.start_again().await;
    let moved = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        while client.resolve(&repo, "latest").await != new.manifest.digest {
            ticks.tick().await;
        }
    };
    within(60, moved).await;
    // By its digest, as most clients fetch it after the HEAD.
    client.pull_digest(&new).await;
    up.stop().await;
    client.pull(&new).await;
    let reply = client.ask_manifest(&repo, "latest").await;
    assert_stale(reply, &new.manifest.digest).await;
}

#[tokio::test]
async fn a_stale_tag_is_served_no_longer_than_offline_for() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 17, &[10]);
    let gateway = always_asking(&up)
        .text("cache", "offline_for", "0s")
        .start()
        .await;
    gateway.client().pull(&image).await;
    up.stop().await;
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    assert!(reply.status >= 500, "{}", reply.status);
    reply.oci_error().await;
}

#[tokio::test]
async fn a_web_page_is_not_a_manifest() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 18, &[10]);
    let gateway = always_asking(&up).start().await;
    up.fault(On::any("/manifests/").always(), Fault::Html);
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    assert!(reply.status >= 500, "{}", reply.status);
    reply.oci_error().await;
    let by_digest = gateway
        .client()
        .ask_manifest(&repo, &image.manifest.digest)
        .await;
    assert!(by_digest.status >= 500, "{}", by_digest.status);
    up.mend();
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn a_rate_limit_passes_to_the_client_when_nothing_is_cached() {
    let (up, repo) = upstream_with_app().await;
    repo.image("latest", 19, &[10]);
    let gateway = always_asking(&up).start().await;
    up.fault(On::any("/manifests/").always(), Fault::TooMany(17));
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    assert_eq!(reply.status, 429);
    let text = reply.text().await;
    assert!(text.contains("TOOMANYREQUESTS"), "{text}");
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused_and_not_kept() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 20, &[10]);
    let gateway = always_asking(&up).start().await;
    let digest = &image.manifest.digest;
    up.fault(On::get(digest).always(), Fault::Corrupt(20));
    let reply = gateway.client().ask_manifest(&repo, digest).await;
    assert!(reply.status >= 500, "{}", reply.status);
    reply.oci_error().await;
    up.mend();
    gateway.client().manifest(&repo, digest).await;
}

#[tokio::test]
async fn a_manifest_that_is_cut_is_not_passed_on_as_whole() {
    let (up, repo) = upstream_with_app().await;
    let image = repo.image("latest", 21, &[10]);
    let gateway = always_asking(&up).start().await;
    up.fault(On::get("/manifests/"), Fault::CutAfter(50));
    let reply = gateway.client().ask_manifest(&repo, "latest").await;
    if reply.status == 200 {
        reply.verified(&image.manifest.digest).await;
    } else {
        assert!(reply.status >= 500, "{}", reply.status);
        reply.oci_error().await;
    }
    gateway.client().manifest(&repo, "latest").await;
}

#[tokio::test]
async fn a_refusal_that_came_without_words_is_given_some() {
    let (up, registry, image) = crate::access::private().await;
    drop(registry);
    // The answer to a HEAD announces the body that its GET would have.
    let words = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#;
    for (status, code) in [
        (401, "UNAUTHORIZED"),
        (403, "DENIED"),
        (404, "MANIFEST_UNKNOWN"),
        (500, "UNAVAILABLE"),
        (429, "TOOMANYREQUESTS"),
    ] {
        let gateway = always_asking(&up).start().await;
        let alice = gateway.client().basic("alice", "a-secret");
        alice.pull(&image).await;
        let json = vec![("content-type", "application/json".to_owned())];
        up.fault(
            On::head("/manifests/").always(),
            Fault::Status(status, json, words),
        );
        // Nobody has let these in, so nothing stale is theirs.
        let carol = gateway.client().basic("carol", "c-secret");
        for client in [carol.clone(), carol.h2()] {
            let reply = within(20, client.ask_manifest(&image.repo, &image.tag)).await;
            assert_eq!(reply.status, status);
            let (said, message) = reply.oci_error().await;
            // Of a 404 remembered, the words are the gateway's as well.
            assert_eq!(said, code, "{message}");
        }
        up.mend();
    }
}
