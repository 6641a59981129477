//! A tag of two kinds: the rarer one is found among many `Accept` headers of the other.

use crate::support::{Gateway, Manifest, Upstream, image};

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
