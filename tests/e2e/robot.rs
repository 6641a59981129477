//! The gateway's own login, and clients that have none, or one of their own.

use std::time::Duration;

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::mirror::login;
use crate::process::wait_for;
use crate::upstream::{GHCR, HUB};
use crate::world::World;

const BOB: (&str, &str) = ("bob", "let me in");

#[test]
fn every_anonymous_client_pulls_the_robots_private_image() {
    let mut world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(GHCR, "acme/secret:1", &image);
    world.upstream.make_private(GHCR, "acme/secret", &["alice"]);
    let gateway = world.gateway(&login(&world.folder("pw"), GHCR, "gateway"));

    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);

    world.upstream.seen().forget();
    let containerd = Containerd::start(world.machine(&gateway));
    containerd.pull(&name.full).ok();
    Podman::on(world.machine(&gateway)).pull(&name.full).ok();
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "copy").ok();
    assert_holds(&skopeo.folder("copy"), &image);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");

    world.upstream.go_away();
    let offline = Docker::start(world.machine(&gateway));
    offline.pull(&name.full).ok();
    assert_eq!(offline.id(&name.full), image.id);
}

#[test]
fn with_client_or_gateway_everybody_gets_what_is_theirs() {
    let world = World::new();
    let shared = Image::docker(&[MIB]);
    let robots = world.publish(GHCR, "acme/shared:1", &shared);
    world.upstream.make_private(GHCR, "acme/shared", &["alice"]);
    let own = Image::docker(&[MIB, 99]);
    let bobs = world.publish(GHCR, "bob/own:1", &own);
    world.upstream.make_private(GHCR, "bob/own", &["bob"]);
    let gateway = world.gateway(&login(&world.folder("pw"), GHCR, "client-or-gateway"));

    let bob = Docker::start(world.machine(&gateway));
    let refusal = bob.login(Some(GHCR), BOB.0, "guessed").fails();
    assert!(
        refusal.contains("401") || refusal.contains("unauthorized"),
        "{refusal}"
    );
    bob.login(Some(GHCR), BOB.0, BOB.1).ok();
    bob.pull(&bobs.full).ok();
    assert_eq!(bob.id(&bobs.full), own.id);

    let anybody = Docker::start(world.machine(&gateway));
    anybody.pull(&robots.full).ok();
    assert_eq!(anybody.id(&robots.full), shared.id);
    anybody.pull(&bobs.full).fails();

    let containerd = Containerd::start(world.machine(&gateway));
    containerd.pull(&robots.full).ok();
    containerd.pull(&bobs.full).fails();
    containerd.pull_as(&bobs.full, BOB.0, BOB.1).ok();

    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&robots.full, "shared").ok();
    skopeo.copy(&bobs.full, "refused").fails();
    let creds = format!("{}:{}", BOB.0, BOB.1);
    skopeo
        .copy_with(&bobs.full, "own", &["--src-creds", &creds])
        .ok();
    assert_holds(&skopeo.folder("own"), &own);
    let told = gateway.logged() + &gateway.metrics();
    for secret in ["open sesame", BOB.1, "YWxpY2U6b3Blbi"] {
        assert!(!told.contains(secret), "{secret:?} was told");
    }
}

#[test]
fn with_hubs_token_service_away_every_client_pulls_what_is_cached_and_public() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("");
    let first = Skopeo::on(world.machine(&gateway));
    first.copy(&name.full, "first").ok();

    world.upstream.fail_tokens(true);
    // That the service answers is remembered for seconds: /v2/ is 200 as soon as it is not.
    let machine = world.machine(&gateway);
    let ca = gateway.ca().display().to_string();
    let url = format!("https://{HUB}/v2/");
    wait_for("the gateway to notice", Duration::from_secs(20), || {
        let ping = machine.curl(&["-f", "--cacert", &ca, &url]);
        ping.succeeded().then_some(())
    });
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
    let containerd = Containerd::start(world.machine(&gateway));
    containerd.pull(&name.full).ok();
    Podman::on(world.machine(&gateway)).pull(&name.full).ok();
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "copy").ok();
    assert_holds(&skopeo.folder("copy"), &image);
}
