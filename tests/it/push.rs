//! Pushes: refused in the words of the specification, with the way to allow them; or in the cache at once.

use hyper::Method;

use crate::access::private;
use crate::robot::{Asks, PASSWORD, gateway_as, robots};
use crate::support::{Blob, Client, Fault, Gateway, Image, On, Repo, Upstream, content, image};

async fn assert_push_refused(client: &Client, image: &Image) {
    let digest = &image.layers[0].digest;
    let upload = image.repo.url("blobs/uploads/");
    let cases = [
        (Method::POST, upload.clone()),
        (Method::POST, format!("{upload}?digest={digest}")),
        (Method::POST, format!("{upload}?mount={digest}&from=other")),
        (Method::PATCH, format!("{upload}some-session")),
        (Method::PUT, format!("{upload}some-session?digest={digest}")),
        (Method::PUT, image.repo.manifest_url("latest")),
        (Method::PUT, image.by_digest()),
        (Method::DELETE, image.by_digest()),
        (Method::DELETE, image.repo.blob_url(digest)),
    ];
    for (method, url) in cases {
        let reply = client
            .ask(method.clone(), &url)
            .body("some bytes")
            .send()
            .await;
        assert_eq!(reply.status, 403, "{method} {url}");
        let (code, message) = reply.oci_error().await;
        assert_eq!(code, "DENIED", "{method} {url}");
        assert!(
            message.contains("push"),
            "it does not say how to allow it: {message}"
        );
    }
}

#[tokio::test]
async fn a_push_is_denied_and_nothing_of_it_goes_upstream() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 1, &[100]);
    let gateway = Gateway::before(&up).start().await;
    assert_push_refused(&gateway.client(), &image).await;
    assert_push_refused(&gateway.client().h2(), &image).await;
    let methods: Vec<_> = up.seen().into_iter().map(|one| one.method).collect();
    let reading = |method: &Method| *method == Method::GET || *method == Method::HEAD;
    assert!(methods.iter().all(reading), "{methods:?}");
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn a_large_upload_is_denied_without_being_read_to_its_end() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 2, &[100]);
    let gateway = Gateway::before(&up).start().await;
    let body = content::noise(3, 8 * 1024 * 1024);
    let url = image.repo.url("blobs/uploads/");
    let client = gateway.client();
    let sent = client.ask(Method::POST, &url).body(body).try_send().await;
    // The refusal may come while the client still sends, and some then only see the end.
    if let Ok(reply) = sent {
        assert_eq!(reply.status, 403);
    }
    gateway.client().pull(&image).await;
}

const ALLOW: &str = "push = \"allow\"";

/// A registry that takes pushes, with a repository in it.
async fn open_to_pushes() -> (Upstream, Repo, Gateway) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).registry("registry.test", ALLOW);
    let gateway = gateway.start().await;
    (up, repo, gateway)
}

fn uploads(status: u16, location: &str) -> Fault {
    Fault::Status(status, vec![("location", location.to_owned())], "")
}

#[tokio::test]
async fn an_upload_that_upstream_leads_to_the_host_it_was_told_is_the_registrys_all_the_same() {
    let up = Upstream::start().await;
    let url = format!("{ALLOW}\nurl = \"https://inner.test\"");
    up.registry("inner.test");
    let gateway = Gateway::before(&up).registry("registry.test", &url);
    let gateway = gateway.start().await;
    let blob = Blob::noise(5, 3000);
    // As docker-registry writes it, who goes by `Forwarded`.
    let next = "https://registry.test/v2/app/blobs/uploads/1?state=x";
    up.fault(On::any("/blobs/uploads/"), uploads(202, next));
    let client = gateway.client();
    let begun = client.ask(Method::POST, "https://registry.test/v2/app/blobs/uploads/");
    let begun = begun.send().await;
    assert_eq!(begun.header("location"), "/v2/app/blobs/uploads/1?state=x");
    up.fault(On::any("/blobs/uploads/1"), uploads(201, ""));
    let digest = &blob.digest;
    let url = format!("https://registry.test/v2/app/blobs/uploads/1?state=x&digest={digest}");
    let done = client.ask(Method::PUT, &url).body(blob.bytes.clone());
    assert_eq!(done.send().await.status, 201);
    up.stop().await;
    let url = format!("https://registry.test/v2/app/blobs/{digest}");
    client.get(&url).send().await.verified(digest).await;
}

#[tokio::test]
async fn a_pushed_tag_is_served_while_upstream_is_away_and_a_deleted_one_is_asked_for() {
    let (up, repo, gateway) = open_to_pushes().await;
    let image = repo.image("v1", 6, &[100]);
    let client = gateway.client();
    let url = repo.manifest_url("pushed");
    up.fault(On::any("/manifests/pushed"), uploads(201, ""));
    let bytes = image.manifest.bytes.clone();
    let push = client.ask(Method::PUT, &url).body(bytes);
    let push = push.header("content-type", image::OCI_MANIFEST);
    assert_eq!(push.send().await.status, 201);
    up.stop().await;
    let pulled = client.ask_manifest(&repo, "pushed").await;
    pulled.verified(&image.manifest.digest).await;
    up.start_again().await;

    for gone in [image.by_digest(), url] {
        client.ask_manifest(&repo, "v1").await.bytes().await;
        up.fault(On::any("/manifests/"), uploads(202, ""));
        let deleted = client.ask(Method::DELETE, &gone).send().await;
        assert_eq!(deleted.status, 202);
        // Upstream never had it.
        assert_eq!(client.ask_manifest(&repo, "pushed").await.status, 404);
    }
}

#[tokio::test]
async fn what_was_deleted_through_the_gateway_is_not_served_by_its_digest_either() {
    let (up, repo, gateway) = open_to_pushes().await;
    let image = repo.image("v1", 16, &[100]);
    let client = gateway.client();
    client.pull(&image).await;
    let layer = &image.layers[0].digest;
    for (what, url) in [
        (layer, repo.blob_url(layer)),
        (&image.manifest.digest, image.by_digest()),
    ] {
        up.fault(On::any(what), uploads(202, ""));
        let deleted = client.ask(Method::DELETE, &url).send().await;
        assert_eq!(deleted.status, 202);
        up.fault(On::any(what).always(), uploads(404, ""));
        assert_eq!(client.get(&url).send().await.status, 404, "{url}");
        assert_eq!(client.head(&url).send().await.status, 404, "{url}");
    }
}

#[tokio::test]
async fn who_pushes_is_told_what_upstream_has_now_and_not_what_it_had() {
    let (up, repo, gateway) = open_to_pushes().await;
    let image = repo.image("v1", 17, &[100]);
    let client = gateway.client();
    client.pull(&image).await;
    let layer = &image.layers[0].digest;
    let url = repo.blob_url(layer);
    assert_eq!(client.head(&url).send().await.status, 200);
    up.fault(On::head(layer), uploads(404, ""));
    assert_eq!(client.head(&url).send().await.status, 404);
    up.stop().await;
    assert_eq!(client.head(&url).send().await.status, 200);
    client.pull(&image).await;
}

#[tokio::test]
async fn a_manifest_that_is_too_large_is_refused_as_the_clients() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).registry("registry.test", ALLOW).text(
        "limits",
        "manifest_size",
        "1KiB",
    );
    let gateway = gateway.start().await;
    let client = gateway.client();
    let push = client.ask(Method::PUT, &repo.manifest_url("large"));
    let push = push.body(vec![b' '; 2000]);
    let push = push.header("content-type", image::OCI_MANIFEST);
    let refused = push.send().await;
    assert_eq!(refused.status, 413);
    let (_, message) = refused.oci_error().await;
    assert!(message.contains("limits.manifest_size"), "{message}");
}

#[tokio::test]
async fn what_is_pushed_by_its_sha512_is_served_while_upstream_is_away() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).registry("registry.test", ALLOW);
    let gateway = gateway.start().await;
    let client = gateway.client();
    let [at_once, in_parts, other] =
        [7, 8, 9].map(|seed| Blob::of_sha512(content::noise(seed, 300_000)));
    let begin = repo.url("blobs/uploads/");

    up.fault(On::any("/blobs/uploads/"), uploads(201, ""));
    let url = format!("{begin}?digest={}", at_once.digest);
    let push = client.ask(Method::POST, &url).body(at_once.bytes.clone());
    assert_eq!(push.send().await.status, 201);

    let next = "/v2/app/blobs/uploads/1";
    up.fault(On::any(next).times(2), uploads(202, next));
    up.fault(On::any(next).times(2), uploads(201, ""));
    up.fault(On::any("/blobs/uploads/").times(2), uploads(202, next));
    let url = repo.url("blobs/uploads/1");
    let begun = client.ask(Method::POST, &begin).send().await;
    assert_eq!(begun.status, 202);
    let half = in_parts.len() / 2;
    for part in [in_parts.bytes.slice(..half), in_parts.bytes.slice(half..)] {
        let part = client.ask(Method::PATCH, &url).body(part).send().await;
        assert_eq!(part.status, 202);
    }
    let last = format!("{url}?digest={}", in_parts.digest);
    assert_eq!(client.ask(Method::PUT, &last).send().await.status, 201);

    // Upstream takes whatever comes for what it is said to be.
    let begun = client.ask(Method::POST, &begin).send().await;
    assert_eq!(begun.status, 202);
    let last = format!("{url}?digest={}", other.digest);
    let push = client.ask(Method::PUT, &last).body("something else");
    assert_eq!(push.send().await.status, 201);

    up.stop().await;
    for blob in [&at_once, &in_parts] {
        let reply = client.get(&repo.blob_url(&blob.digest)).send().await;
        reply.verified(&blob.digest).await;
    }
    let reply = client.get(&repo.blob_url(&other.digest)).send().await;
    assert!(reply.status >= 500, "{}", reply.status);
}

/// He may write to his own repository, and what alice pulled he may not see.
#[tokio::test]
async fn an_upload_opens_no_blob_but_the_one_that_upstream_took() {
    let (up, registry, image) = private().await;
    registry.repo("bob/x");
    let gateway = Gateway::before(&up).registry("registry.test", ALLOW);
    let gateway = gateway.start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let secret = &image.layers[0].digest;
    let uploads = "https://registry.test/v2/bob/x/blobs/uploads/";
    let took = crate::push::uploads(201, "/v2/bob/x/blobs/uploads/1");
    up.fault(On::any("/bob/x/blobs/uploads/").always(), took);
    let bob = gateway.client().basic("bob", "b-secret");
    for (query, status) in [
        (format!("?mount={secret}&from=bob/y"), 201),
        (format!("?digest={secret}"), 201),
        (format!("?%64igest=sha256:00&mount={secret}"), 400),
        (format!("?%64igest=sha256:00&digest={secret}"), 400),
    ] {
        let url = format!("{uploads}{query}");
        let reply = bob.ask(Method::POST, &url).body("mine").send().await;
        assert_eq!(reply.status, status, "{query}");
        let url = format!("https://registry.test/v2/bob/x/blobs/{secret}");
        let reply = bob.get(&url).send().await;
        assert_eq!(reply.status, 404, "{query}");
    }
}

#[tokio::test]
async fn a_push_in_the_gateways_name_renews_its_token() {
    let (up, _, image) = robots(Asks::Bearer).await;
    let setup = Gateway::before(&up).registry("registry.test", ALLOW);
    let gateway = gateway_as(setup, "gateway", PASSWORD).await;
    let client = gateway.client();
    let upload = image.repo.url("blobs/uploads/");
    let manifest = image.repo.manifest_url("v2");
    // This upstream takes no pushes from anybody: 405 is for who was let in.
    for _ in 0..2 {
        let start = client.ask(Method::POST, &upload).send().await;
        assert_eq!(start.status, 405);
        let push = client.ask(Method::PUT, &manifest).body("{}").send().await;
        assert_eq!(push.status, 405);
        let delete = client.ask(Method::DELETE, &image.by_digest()).send().await;
        assert_eq!(delete.status, 405);
        up.expire_tokens();
    }
    // What streams cannot be sent twice, and the token that was refused is not sent again.
    let tokens = up.count(Method::GET, "/token");
    let url = "https://registry.test/v2/team/app/blobs/uploads/1";
    for fetched in [0, 1] {
        let part = client.ask(Method::PATCH, url).body("bytes").send().await;
        assert_eq!(part.status, 403);
        assert_eq!(up.count(Method::GET, "/token"), tokens + fetched);
    }
}

#[tokio::test]
async fn a_push_whose_robot_is_refused_says_so_and_counts() {
    for asks in [Asks::Basic, Asks::Bearer] {
        let (up, _, image) = robots(asks).await;
        let setup = Gateway::before(&up).registry("registry.test", ALLOW);
        let gateway = gateway_as(setup, "gateway", "wrong").await;
        let client = gateway.client();
        let url = image.repo.manifest_url("v2");
        let push = client.ask(Method::PUT, &url).body("{}").send().await;
        assert_eq!(push.status, 403);
        let (_, message) = push.oci_error().await;
        assert!(
            message.contains("refused the gateway's own login"),
            "{message}"
        );
        let metrics = gateway.metrics().await;
        let counted = "pierhead_logins_refused_total{registry=\"registry.test\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
    }
}
