//! Cold, warm and offline, with every client.

use std::thread;

use http::Method;

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::image::{Image, Index, Kind, MIB, native};
use crate::upstream::{GHCR, HUB, PARTNER};
use crate::world::World;

#[test]
fn dockerd_pulls_cold_then_warm_without_a_blob_request_then_with_upstream_gone() {
    let mut world = World::new();
    let image = Image::docker(&[2 * MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1.2", &image);
    let gateway = world.gateway("");

    let cold = Docker::start(world.machine(&gateway));
    cold.pull(&name.full).ok();
    assert_eq!(cold.id(&name.full), image.id);
    assert_fetched_once(&world, &image);

    world.upstream.seen().forget();
    let warm = Docker::start(world.machine(&gateway));
    warm.pull(&name.full).ok();
    assert_eq!(warm.id(&name.full), image.id);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");
    let manifests = seen.manifest_requests(&Method::GET, &name.tag);
    assert_eq!(manifests, 0, "the tag is fresh: {seen}");

    world.upstream.go_away();
    let offline = Docker::start(world.machine(&gateway));
    offline.pull(&name.full).ok();
    assert_eq!(offline.id(&name.full), image.id);
}

#[test]
fn an_official_image_of_docker_hub_needs_no_prefix() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    world.publish(HUB, "library/tiny:latest", &image);
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    docker.pull("tiny").ok();
    assert_eq!(docker.id("tiny:latest"), image.id);
}

#[test]
fn an_image_of_forty_layers_arrives_whole_and_each_blob_left_upstream_once() {
    let world = World::new();
    let image = Image::docker(&[48 << 10; 40]);
    let name = world.publish(GHCR, "acme/many:1", &image);
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
    assert_fetched_once(&world, &image);

    world.upstream.seen().forget();
    let warm = Docker::start(world.machine(&gateway));
    warm.pull(&name.full).ok();
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");
}

#[test]
fn a_multi_arch_image_gives_each_platform_its_own_and_all_of_it_offline() {
    let mut world = World::new();
    let foreign = if native() == "arm64" {
        "amd64"
    } else {
        "arm64"
    };
    let index = Index::build(Kind::Docker, &[native(), foreign], &[MIB, 4096]);
    let name = world.publish_index(HUB, "acme/wide:1", &index);
    let gateway = world.gateway("");

    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), index.images[0].id);
    docker.remove(&name.full);
    let platform = format!("linux/{foreign}");
    docker.pull_platform(&name.full, &platform).ok();
    assert_eq!(docker.id(&name.full), index.images[1].id);
    for image in &index.images {
        assert_fetched_once(&world, image);
    }

    world.upstream.go_away();
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy_with(&name.full, "all", &["--all"]).ok();
    for image in &index.images {
        for blob in image.blobs() {
            let hex = blob.digest.trim_start_matches("sha256:");
            let bytes = std::fs::read(skopeo.folder("all").join(hex)).expect("a blob");
            assert_eq!(bytes, blob.bytes);
        }
    }
}

#[test]
fn an_oci_index_is_pulled_by_dockerd_ctr_and_skopeo_alike() {
    let world = World::new();
    let index = Index::build(Kind::Oci, &[native()], &[MIB]);
    let name = world.publish_index(GHCR, "acme/oci:1", &index);
    let gateway = world.gateway("");

    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), index.images[0].id);
    let containerd = Containerd::start(world.machine(&gateway));
    containerd.pull(&name.full).ok();
    assert!(containerd.images().contains(&index.list.digest));
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "one").ok();
    assert_holds(&skopeo.folder("one"), &index.images[0]);
    assert_fetched_once(&world, &index.images[0]);
}

#[test]
fn ctr_pulls_cold_then_warm_without_a_blob_request_then_with_upstream_gone() {
    let mut world = World::new();
    let image = Image::oci(&[MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("");
    let pull = |world: &World| {
        let containerd = Containerd::start(world.machine(&gateway));
        containerd.pull(&name.full).ok();
        assert!(containerd.images().contains(&image.manifest.digest));
    };
    cold_warm_offline(&mut world, &image, pull);
}

#[test]
fn podman_pulls_cold_then_warm_without_a_blob_request_then_with_upstream_gone() {
    let mut world = World::new();
    let image = Image::oci(&[MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("");
    let pull = |world: &World| {
        let podman = Podman::on(world.machine(&gateway));
        let id = podman.pull(&name.full).ok();
        assert_eq!(format!("sha256:{}", id.trim()), image.id);
    };
    cold_warm_offline(&mut world, &image, pull);
}

#[test]
fn skopeo_copies_cold_then_warm_without_a_blob_request_then_with_upstream_gone() {
    let mut world = World::new();
    let image = Image::docker(&[MIB, MIB, 4096]);
    let name = world.publish(GHCR, "acme/app:1", &image);
    let gateway = world.gateway("");
    let pull = |world: &World| {
        let skopeo = Skopeo::on(world.machine(&gateway));
        skopeo.copy(&name.full, "copy").ok();
        assert_holds(&skopeo.folder("copy"), &image);
    };
    cold_warm_offline(&mut world, &image, pull);
}

#[test]
fn what_one_kind_of_client_pulled_is_warm_for_the_others() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(HUB, "acme/shared:1", &image);
    let gateway = world.gateway("");
    Skopeo::on(world.machine(&gateway))
        .copy(&name.full, "copy")
        .ok();
    world.upstream.seen().forget();

    Docker::start(world.machine(&gateway)).pull(&name.full).ok();
    Containerd::start(world.machine(&gateway))
        .pull(&name.full)
        .ok();
    Podman::on(world.machine(&gateway)).pull(&name.full).ok();
    Podman::on(world.machine(&gateway))
        .build_pull(&name.full)
        .ok();
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");
}

#[test]
fn two_dockerds_at_once_on_a_cold_image_cost_upstream_each_blob_once() {
    let world = World::new();
    let image = Image::docker(&[6 * MIB, 3 * MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/rush:1", &image);
    let gateway = world.gateway("");
    let hosts = [(); 2].map(|()| Docker::start(world.machine(&gateway)));
    thread::scope(|scope| {
        let pulls = hosts
            .each_ref()
            .map(|docker| scope.spawn(|| docker.pull(&name.full)));
        for pull in pulls {
            pull.join().expect("a pull to end").ok();
        }
    });
    for docker in &hosts {
        assert_eq!(docker.id(&name.full), image.id);
    }
    assert_fetched_once(&world, &image);
}

#[test]
fn an_image_pulled_by_digest_needs_no_tag() {
    let mut world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(HUB, "acme/pinned:1", &image);
    let gateway = world.gateway("");
    let pinned = name.at(&image.manifest.digest);
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&pinned).ok();
    world.upstream.go_away();
    let offline = Docker::start(world.machine(&gateway));
    offline.pull(&pinned).ok();
    assert_eq!(offline.id(&pinned), image.id);
}

#[test]
fn a_layer_cached_from_one_registry_is_not_downloaded_again_from_another() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let hub = world.publish(HUB, "acme/app:1", &image);
    let ghcr = world.publish(GHCR, "acme/mirror:1", &image);
    let gateway = world.gateway("");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&hub.full, "one").ok();
    world.upstream.seen().forget();
    skopeo.copy(&ghcr.full, "two").ok();
    assert_holds(&skopeo.folder("two"), &image);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn a_registry_that_sends_blobs_itself_works_like_one_with_a_cdn() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let name = world.publish(PARTNER, "team/app:1", &image);
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    docker.login(Some(PARTNER), "alice", "open sesame").ok();
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
    assert_fetched_once(&world, &image);
}

fn cold_warm_offline(world: &mut World, image: &Image, pull: impl Fn(&World)) {
    pull(world);
    assert_fetched_once(world, image);

    world.upstream.seen().forget();
    pull(world);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");

    world.upstream.go_away();
    pull(world);
}

/// Every byte of every blob left upstream exactly once, by one request or in several ranges.
#[track_caller]
pub fn assert_fetched_once(world: &World, image: &Image) {
    let seen = world.upstream.seen();
    for blob in image.blobs() {
        let sent = seen.sent(&blob.digest);
        assert_eq!(sent, blob.bytes.len() as u64, "of {}: {seen}", blob.digest);
    }
}
