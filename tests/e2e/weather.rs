//! What breaks on the way: connections, bytes, and the gateway itself.

use std::thread;
use std::time::Duration;

use crate::clients::{Containerd, Docker, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::process::wait_for;
use crate::pulls::assert_fetched_once;
use crate::upstream::{Fault, HUB, OTHER};
use crate::world::World;

#[test]
fn a_blob_cut_twice_and_its_links_expired_is_resumed_where_it_stopped() {
    let world = World::new();
    let image = Image::docker(&[4 * MIB]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let layer = &image.layers[0];
    let cut = Fault::Cut {
        after: MIB as u64,
        times: 2,
    };
    world.upstream.break_blob(&layer.digest, Some(cut));
    let gateway = world.gateway("[upstream]\nparallel = 1");

    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "copy").ok();
    assert_holds(&skopeo.folder("copy"), &image);
    let seen = world.upstream.seen();
    let resumed = seen.count(|entry| {
        entry.path.ends_with(&layer.digest) && entry.range.is_some() && entry.status == 206
    });
    assert!(resumed >= 1, "{seen}");
    // What the socket had not taken when it broke is sent twice, the rest is not.
    let sent = seen.sent(&layer.digest);
    let whole = layer.bytes.len() as u64;
    assert!(sent < whole + whole / 2, "{sent} bytes sent: {seen}");
}

#[test]
fn a_corrupt_blob_reaches_no_client_and_leaves_nothing_behind() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let layer = &image.layers[0];
    world
        .upstream
        .break_blob(&layer.digest, Some(Fault::Corrupt));
    let gateway = world.gateway("");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "corrupt").fails();
    // The client may be gone before the line is written.
    wait_for("the log names the digest", Duration::from_secs(20), || {
        gateway.logged().contains(&layer.digest).then_some(())
    });

    world.upstream.break_blob(&layer.digest, None);
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn dockerd_and_ctr_at_once_notice_nothing_of_a_blob_host_that_refuses_and_breaks_now_and_then() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, MIB, MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let faults = [
        Fault::Cut {
            after: MIB as u64,
            times: 1,
        },
        Fault::Refuse {
            status: 503,
            times: 1,
        },
        Fault::Refuse {
            status: 429,
            times: 1,
        },
        // A link that has expired when it is followed.
        Fault::Refuse {
            status: 403,
            times: 1,
        },
    ];
    for (layer, fault) in image.layers.iter().zip(faults) {
        world.upstream.break_blob(&layer.digest, Some(fault));
    }
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    let containerd = Containerd::start(world.machine(&gateway));
    thread::scope(|scope| {
        let pull = scope.spawn(|| docker.pull(&name.full));
        containerd.pull(&name.full).ok();
        pull.join().expect("a pull to end").ok();
    });
    assert_eq!(docker.id(&name.full), image.id);
    assert!(containerd.images().contains(&image.manifest.digest));
}

#[test]
fn a_blob_that_is_corrupt_once_costs_dockerd_a_try_at_most() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    let layer = &image.layers[0];
    world
        .upstream
        .break_blob(&layer.digest, Some(Fault::CorruptOnce));
    // It may try again by itself.
    if !docker.pull(&name.full).succeeded() {
        docker.pull(&name.full).ok();
    }
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn a_client_that_goes_away_does_not_stop_the_download() {
    let world = World::new();
    let image = Image::docker(&[4 * MIB]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let layer = &image.layers[0];
    let gate = Fault::Gate { after: MIB as u64 };
    world.upstream.break_blob(&layer.digest, Some(gate));
    let gateway = world.gateway("");
    let leaving = Docker::start(world.machine(&gateway));
    thread::scope(|scope| {
        let pull = scope.spawn(|| leaving.pull(&name.full));
        wait_for("the gate", Duration::from_secs(30), || {
            (world.upstream.held(&layer.digest) > 0).then_some(())
        });
        leaving.kill();
        pull.join().expect("a pull to end").fails();
    });
    world.upstream.break_blob(&layer.digest, None);
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
    assert_fetched_once(&world, &image);
}

#[test]
fn killed_in_the_middle_of_a_pull_the_gateway_starts_again_and_the_pull_succeeds() {
    let world = World::new();
    let image = Image::docker(&[4 * MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let layer = &image.layers[0];
    let gate = Fault::Gate { after: MIB as u64 };
    world.upstream.break_blob(&layer.digest, Some(gate));
    let mut gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    thread::scope(|scope| {
        let pull = scope.spawn(|| docker.pull(&name.full));
        wait_for("the gate", Duration::from_secs(30), || {
            (world.upstream.held(&layer.digest) > 0).then_some(())
        });
        gateway.restart("");
        world.upstream.break_blob(&layer.digest, None);
        let first = pull.join().expect("a pull to end");
        if !first.succeeded() {
            docker.pull(&name.full).ok();
        }
    });
    assert_eq!(docker.id(&name.full), image.id);

    world.upstream.seen().forget();
    let warm = Docker::start(world.machine(&gateway));
    warm.pull(&name.full).ok();
    assert_eq!(warm.id(&name.full), image.id);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");
}

#[test]
fn what_was_complete_before_kill_9_is_served_after_it_without_upstream() {
    let mut world = World::new();
    let image = Image::docker(&[MIB, MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let mut gateway = world.gateway("");
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "cold").ok();

    gateway.restart("");
    world.upstream.go_away();
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn sigterm_lets_a_download_in_progress_finish() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB]);
    world.publish(OTHER, "team/app:1", &image);
    let layer = &image.layers[0];
    let gate = Fault::Gate { after: MIB as u64 };
    world.upstream.break_blob(&layer.digest, Some(gate));
    let mut gateway = world.gateway(&format!("[[registry]]\nhost = \"{OTHER}\""));
    let machine = world.machine(&gateway);
    let ca = gateway.ca().display().to_string();
    let to = machine.path().join("blob").display().to_string();
    let url = format!("https://{OTHER}/v2/team/app/blobs/{}", layer.digest);
    thread::scope(|scope| {
        let download = scope.spawn(|| machine.curl(&["-f", "--cacert", &ca, "-o", &to, &url]));
        wait_for("the gate", Duration::from_secs(30), || {
            (world.upstream.held(&layer.digest) > 0).then_some(())
        });
        gateway.terminate();
        world.upstream.break_blob(&layer.digest, None);
        download.join().expect("a download to end").ok();
    });
    assert!(gateway.wait_end(), "it ends with 0");
    assert!(std::fs::read(&to).expect("a blob") == layer.bytes);
}
