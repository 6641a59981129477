//! Gateways one behind the other: as a parent proxy, and as the address of a registry.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::clients::{Docker, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::process::wait_for;
use crate::upstream::{Fault, GHCR, HUB};
use crate::world::World;

#[test]
fn docker_does_not_notice_that_the_outer_of_two_gateways_is_killed_in_mid_blob_and_returns() {
    let world = World::new();
    let image = Image::docker(&[4 * MIB]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let mut outer = world.gateway("");
    let inner = world.gateway(&format!(
        "[upstream]\nproxy = {:?}\nallow_private = []\nca_file = {:?}\nparallel = 1\n",
        outer.proxy(),
        outer.ca()
    ));
    let docker = Docker::start(world.machine(&inner));
    pull_while_killed(&world, &docker, &name.full, &image, &mut outer);
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn docker_does_not_notice_either_where_the_outer_gateway_is_the_registrys_url() {
    let world = World::new();
    let image = Image::docker(&[4 * MIB]);
    let name = world.publish(GHCR, "acme/app:1", &image);
    let mut outer = world.gateway("");
    let inner = world.gateway(&by_url(&outer, GHCR));
    let docker = Docker::start(world.machine(&inner));
    pull_while_killed(&world, &docker, &name.full, &image, &mut outer);
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn behind_a_url_everybody_still_sees_only_their_own() {
    let world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(GHCR, "acme/secret:1", &image);
    world.upstream.make_private(GHCR, "acme/secret", &["alice"]);
    let outer = world.gateway("");
    let inner = world.gateway(&by_url(&outer, GHCR));

    let stranger = Skopeo::on(world.machine(&inner));
    stranger.copy(&name.full, "refused").fails();
    let alice = Skopeo::on(world.machine(&inner));
    let login = ["--src-creds", "alice:open sesame"];
    alice.copy_with(&name.full, "own", &login).ok();
    assert_holds(&alice.folder("own"), &image);
    // Cached in both by now, and still nobody else's.
    stranger.copy(&name.full, "refused-again").fails();
}

/// A gateway's configuration that asks `host` at another gateway.
fn by_url(outer: &Gateway, host: &str) -> String {
    format!(
        "[[registry]]\nhost = {host:?}\nurl = {:?}\n[upstream]\nparallel = 1\n",
        outer.proxy()
    )
}

/// The bytes of the files in and below `folder`.
fn on_disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .map(|path| {
            if path.is_dir() {
                on_disk(&path)
            } else {
                size(&path)
            }
        })
        .sum()
}

/// A pull whose first layer is held in the middle; the outer gateway dies there, and comes back.
fn pull_while_killed(
    world: &World,
    docker: &Docker,
    name: &str,
    image: &Image,
    outer: &mut Gateway,
) {
    let layer = &image.layers[0];
    let gate = Fault::Gate { after: MIB as u64 };
    world.upstream.break_blob(&layer.digest, Some(gate));
    thread::scope(|scope| {
        let pull = scope.spawn(|| docker.pull(name));
        wait_for(
            "the gate, and bytes behind it",
            Duration::from_secs(30),
            || {
                let held = world.upstream.held(&layer.digest) > 0;
                (held && on_disk(&outer.cache().join("partial")) > 100_000).then_some(())
            },
        );
        outer.restart("");
        world.upstream.break_blob(&layer.digest, None);
        let pulled = pull.join().expect("a pull to end").ok();
        assert!(!pulled.contains("Retrying"), "{pulled}");
    });
    // The outer gateway keeps what it had, and asks for the rest.
    let seen = world.upstream.seen();
    let resumed = seen.count(|entry| entry.path.ends_with(&layer.digest) && entry.range.is_some());
    assert!(resumed >= 1, "{seen}");
    let whole = layer.bytes.len() as u64;
    let sent = seen.sent(&layer.digest);
    assert!(sent < whole + whole / 2, "{sent} of {whole} bytes: {seen}");
}
