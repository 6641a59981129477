//! Tokens that end: in the middle of a blob that a client waits for, and before it was asked for.

use std::thread;
use std::time::Duration;

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::mirror::login;
use crate::process::wait_for;
use crate::upstream::{Fault, GHCR, HUB};
use crate::world::{Name, World};

const ALICE: (&str, &str) = ("alice", "open sesame");
/// So that every byte of a layer comes over one connection.
const ONE: &str = "[upstream]\nparallel = 1\n";
const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_robots_token_ends_in_mid_blob_and_dockerd_does_not_notice() {
    let mut world = World::new();
    let (image, name) = held_image(&world, GHCR, "acme/secret:1");
    world.upstream.make_private(GHCR, "acme/secret", &["alice"]);
    let robot = login(&world.folder("pw"), GHCR, "gateway");
    let gateway = world.gateway(&format!("{ONE}{robot}"));
    let docker = Docker::start(world.machine(&gateway));
    in_mid_blob(&mut world, &docker, &image, &name, tokens_end);
    assert_undisturbed(&world, &docker, &image);
}

#[test]
fn the_callers_token_for_a_public_image_ends_in_mid_blob_and_dockerd_does_not_notice() {
    let mut world = World::new();
    let (image, name) = held_image(&world, HUB, "library/app:1");
    let gateway = world.gateway(ONE);
    let docker = Docker::start(world.machine(&gateway));
    in_mid_blob(&mut world, &docker, &image, &name, tokens_end);
    assert_undisturbed(&world, &docker, &image);
}

#[test]
fn the_callers_own_token_ends_in_mid_blob_and_what_had_come_is_not_fetched_again() {
    let mut world = World::new();
    let (image, name) = held_image(&world, HUB, "acme/secret:1");
    world.upstream.make_private(HUB, "acme/secret", &["alice"]);
    let gateway = world.gateway(ONE);
    // dockerd tries it five times with the token that has ended, for more than a minute.
    let skopeo = Skopeo::on(world.machine(&gateway));
    let login = format!("{}:{}", ALICE.0, ALICE.1);
    let copy = |to: &str| skopeo.copy_with(&name.full, to, &["--src-creds", &login]);
    thread::scope(|scope| {
        let first = scope.spawn(|| copy("first"));
        wait_until_held(&world, &image);
        tokens_end(&mut world);
        let_go(&world, &image);
        // Nobody but the client can renew it, and the client does so at the next pull at the latest.
        first.join().expect("a pull to end");
    });
    copy("second").ok();
    assert_holds(&skopeo.folder("second"), &image);
    assert_fetched_in_parts(&world, &image);
}

#[test]
fn a_token_that_ended_before_its_blob_was_asked_for_stops_no_public_pull() {
    let world = World::new();
    let gateway = world.gateway("[upstream]\nlookahead = false");
    let pull = |number: u32, pull: &dyn Fn(&str)| {
        // A first layer that waits, and a token that ends meanwhile: the rest is asked for with it.
        let sizes: Vec<usize> = (0..10)
            .map(|n| 100_000 + 10 * number as usize + n)
            .collect();
        let image = Image::docker(&sizes);
        let name = world.publish(HUB, &format!("library/late{number}:1"), &image);
        let held: Vec<_> = image.blobs().map(|blob| blob.digest.clone()).collect();
        for digest in &held {
            world
                .upstream
                .break_blob(digest, Some(Fault::Gate { after: 1 }));
        }
        let upstream = &world.upstream;
        thread::scope(|scope| {
            let ending = scope.spawn(|| {
                wait_for("a blob to wait for", SOON, || {
                    held.iter()
                        .any(|digest| upstream.held(digest) > 0)
                        .then_some(())
                });
                upstream.expire_tokens();
                for digest in &held {
                    upstream.break_blob(digest, None);
                }
            });
            pull(&name.full);
            ending.join().expect("tokens that ended");
        });
    };
    let docker = Docker::start(world.machine(&gateway));
    pull(1, &|name| drop(docker.pull(name).ok()));
    let containerd = Containerd::start(world.machine(&gateway));
    pull(2, &|name| drop(containerd.pull(name).ok()));
    let podman = Podman::on(world.machine(&gateway));
    pull(3, &|name| drop(podman.pull(name).ok()));
    let skopeo = Skopeo::on(world.machine(&gateway));
    pull(4, &|name| drop(skopeo.copy(name, "copy").ok()));
}

/// Pulls with dockerd, and does `meanwhile` while upstream is in the middle of every layer.
fn in_mid_blob(
    world: &mut World,
    docker: &Docker,
    image: &Image,
    name: &Name,
    meanwhile: impl FnOnce(&mut World),
) {
    thread::scope(|scope| {
        let pull = scope.spawn(|| docker.pull(&name.full));
        wait_until_held(world, image);
        meanwhile(world);
        let_go(world, image);
        pull.join().expect("a pull to end").ok();
    });
    assert_eq!(docker.id(&name.full), image.id);
}

/// The tokens end, and so does every connection.
fn tokens_end(world: &mut World) {
    world.upstream.go_away();
    world.upstream.expire_tokens();
    world.upstream.come_back();
}

/// An image of two layers, each of which upstream sends half.
fn held_image(world: &World, host: &str, reference: &str) -> (Image, Name) {
    let image = Image::docker(&[4 * MIB, 3 * MIB]);
    let name = world.publish(host, reference, &image);
    for layer in &image.layers {
        let gate = Fault::Gate { after: MIB as u64 };
        world.upstream.break_blob(&layer.digest, Some(gate));
    }
    (image, name)
}

fn wait_until_held(world: &World, image: &Image) {
    wait_for("every layer to be in the middle", SOON, || {
        let held = |digest: &str| world.upstream.held(digest) > 0;
        image
            .layers
            .iter()
            .all(|layer| held(&layer.digest))
            .then_some(())
    });
}

fn let_go(world: &World, image: &Image) {
    for layer in &image.layers {
        world.upstream.break_blob(&layer.digest, None);
    }
}

/// dockerd saw nothing of it, and upstream sent each layer once.
fn assert_undisturbed(world: &World, docker: &Docker, image: &Image) {
    let logged = docker.logged();
    for word in ["Download failed", "retrying"] {
        let line = logged.lines().find(|line| line.contains(word));
        assert_eq!(line, None);
    }
    assert_fetched_in_parts(world, image);
}

/// Upstream was asked once for the whole of each layer, and otherwise for the rest of it.
fn assert_fetched_in_parts(world: &World, image: &Image) {
    let seen = world.upstream.seen();
    for layer in &image.layers {
        let wholes = seen.count(|entry| {
            entry.path.ends_with(&layer.digest) && entry.range.is_none() && entry.status == 200
        });
        assert_eq!(wholes, 1, "of {}: {seen}", layer.digest);
        // What the sockets held when they broke is sent twice.
        let sent = seen.sent(&layer.digest);
        let whole = layer.bytes.len() as u64;
        assert!(sent <= whole + MIB as u64, "{sent} of {whole}: {seen}");
    }
}
