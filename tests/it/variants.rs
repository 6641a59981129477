//! Manifests of several kinds: a tag of two, and bytes that are called by two names.

use hyper::Method;

use crate::support::{Fault, Gateway, Manifest, On, Upstream, image};

#[tokio::test]
async fn the_rarer_kind_of_a_tag_is_found_among_many_accepts() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let oci = repo.image("latest", 11, &[10]);
    let docker = Manifest::image(image::DOCKER_MANIFEST, &oci.config, &oci.layers);
    repo.tag("latest", &[&oci.manifest, &docker]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let client = gateway.client();
    let ask = |accept: String| client.get(&oci.by_tag()).header("accept", &accept);
    let reply = ask(image::DOCKER_MANIFEST.to_owned()).send().await;
    reply.verified(&docker.digest).await;
    let mut session = client.session("registry.test:443").await;
    for i in 0..400 {
        let accept = format!("application/x-{i}, {}", image::OCI_MANIFEST);
        let reply = ask(accept).send_on(&mut session).await;
        reply.verified(&oci.manifest.digest).await;
    }
    up.stop().await;
    for i in 0..8 {
        let accept = format!("application/y-{i}, {}", image::DOCKER_MANIFEST);
        ask(accept).send().await.verified(&docker.digest).await;
    }
}

#[tokio::test]
async fn a_manifest_is_of_the_kind_it_says_whatever_another_registry_calls_it() {
    let up = Upstream::start().await;
    let (repo, other) = (
        up.repo("registry.test", "app"),
        up.repo("other.test", "app"),
    );
    let image = repo.image("v1", 21, &[10]);
    let misnamed = Manifest {
        media_type: image::DOCKER_LIST.to_owned(),
        ..image.manifest.clone()
    };
    other.tag("v1", &[&misnamed]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    for repo in [&other, &repo] {
        for reference in [&misnamed.digest, "v1"] {
            let reply = client.ask_manifest(repo, reference).await;
            assert_eq!(reply.header("content-type"), image::OCI_MANIFEST);
            reply.verified(&misnamed.digest).await;
        }
    }
    let gateway = gateway.restart().await;
    let reply = gateway.client().ask_manifest(&repo, "v1").await;
    assert_eq!(reply.header("content-type"), image::OCI_MANIFEST);
}

/// Whoever may push somewhere may push these bytes there.
#[tokio::test]
async fn a_manifest_is_of_the_kind_it_says_whatever_a_push_calls_it() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 22, &[10]);
    let gateway = Gateway::before(&up).registry("registry.test", "push = \"allow\"");
    let gateway = gateway.start().await;
    let client = gateway.client();
    let took = Fault::Status(201, vec![], "");
    up.fault(On::any("/mine/manifests/"), took);
    let push = client.ask(Method::PUT, "https://registry.test/v2/mine/manifests/v1");
    let push = push.header("content-type", image::DOCKER_LIST);
    let push = push.body(image.manifest.bytes.clone()).send().await;
    assert_eq!(push.status, 201);
    for reference in [&image.manifest.digest, "v1"] {
        let reply = client.ask_manifest(&repo, reference).await;
        assert_eq!(reply.header("content-type"), image::OCI_MANIFEST);
        reply.verified(&image.manifest.digest).await;
    }
}
