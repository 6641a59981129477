//! Tags: how long they are believed, and what is served when upstream cannot be asked.

use std::time::{Duration, Instant};

use http::Method;

use crate::clients::{Docker, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::process::wait_for;
use crate::upstream::HUB;
use crate::world::World;

#[test]
fn a_moved_tag_is_noticed_by_dockerd_after_tag_ttl_and_only_the_new_layer_is_fetched() {
    let world = World::new();
    let old = Image::docker(&[2 * MIB, 4096]);
    let new = old.extended(MIB);
    let name = world.publish(HUB, "acme/app:latest", &old);
    let gateway = world.gateway("[cache]\ntag_ttl = \"2s\"");
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), old.id);

    world.publish(HUB, "acme/app:latest", &new);
    world.upstream.seen().forget();
    wait_for("the new image", Duration::from_secs(60), || {
        docker.pull(&name.full).ok();
        (docker.id(&name.full) == new.id).then_some(())
    });
    let seen = world.upstream.seen();
    for layer in &old.layers {
        assert_eq!(seen.sent(&layer.digest), 0, "{seen}");
    }
    let added = new.layers.last().expect("a layer");
    assert_eq!(seen.sent(&added.digest), added.bytes.len() as u64);
    assert!(
        seen.manifest_requests(&Method::HEAD, &name.tag) >= 1,
        "a HEAD asks whether it moved: {seen}"
    );
    let gets =
        seen.count(|entry| entry.method == Method::GET && entry.path.contains("/manifests/"));
    assert_eq!(gets, 1, "one GET, because it moved: {seen}");
}

#[test]
fn a_tag_within_its_ttl_is_answered_without_asking() {
    let world = World::new();
    let old = Image::docker(&[4096]);
    let name = world.publish(HUB, "acme/app:v1.0.0", &old);
    let gateway = world.gateway("");
    let skopeo = Skopeo::on(world.machine(&gateway));
    assert_eq!(skopeo.digest(&name.full).ok(), old.manifest.digest);

    world.publish(HUB, "acme/app:v1.0.0", &Image::docker(&[4096]));
    world.upstream.seen().forget();
    assert_eq!(skopeo.digest(&name.full).ok(), old.manifest.digest);
    let seen = world.upstream.seen();
    let asked = seen.count(|entry| entry.path.contains("/manifests/"));
    assert_eq!(asked, 0, "{seen}");
}

#[test]
fn a_ttl_of_zero_asks_every_time_with_a_head_and_fetches_nothing_that_has_not_moved() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("[cache]\ntag_ttl = \"0s\"");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.digest(&name.full).ok();
    world.upstream.seen().forget();
    assert_eq!(skopeo.digest(&name.full).ok(), image.manifest.digest);
    let seen = world.upstream.seen();
    assert_eq!(seen.manifest_requests(&Method::HEAD, "1"), 1, "{seen}");
    assert_eq!(seen.manifest_requests(&Method::GET, "1"), 0, "{seen}");
}

#[test]
fn a_rate_limited_docker_hub_still_gives_what_is_cached() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("[cache]\ntag_ttl = \"0s\"");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "cold").ok();

    world.upstream.rate_limit(true);
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);

    // What was never cached gets the answer as it is.
    let unknown = world.publish(HUB, "acme/unknown:1", &Image::docker(&[4096]));
    let complaint = docker.pull(&unknown.full).fails();
    assert!(
        complaint.to_lowercase().contains("toomanyrequests"),
        "{complaint}"
    );
}

#[test]
fn an_upstream_that_goes_away_and_comes_back_is_asked_again() {
    let mut world = World::new();
    let old = Image::docker(&[4096]);
    let name = world.publish(HUB, "acme/app:1", &old);
    let gateway = world.gateway("[cache]\ntag_ttl = \"0s\"");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "cold").ok();

    world.upstream.go_away();
    skopeo.copy(&name.full, "stale").ok();
    assert_holds(&skopeo.folder("stale"), &old);

    let new = Image::docker(&[8192]);
    world.publish(HUB, "acme/app:1", &new);
    world.upstream.come_back();
    wait_for("the new image", Duration::from_secs(30), || {
        let now = skopeo.digest(&name.full).ok();
        (now == new.manifest.digest).then_some(())
    });
}

#[test]
fn an_upstream_that_hangs_holds_a_cached_pull_up_for_seconds_only() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("[cache]\ntag_ttl = \"0s\"\nrevalidate_timeout = \"1s\"");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "cold").ok();

    world.upstream.hang(true);
    let docker = Docker::start(world.machine(&gateway));
    let start = Instant::now();
    docker.pull(&name.full).ok();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(docker.id(&name.full), image.id);
}
