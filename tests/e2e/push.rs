//! Pushes go through, and what upstream accepted is in the cache at once.

use std::time::Duration;

use crate::clients::{Docker, Podman, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::process::run;
use crate::upstream::{HUB, OTHER};
use crate::world::World;

const ALLOW: &str = r#"
    [[registry]]
    host = "registry.other.example"
    push = "allow"
"#;

#[test]
fn what_skopeo_pushes_another_client_pulls_without_a_blob_request_upstream() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let source = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway(ALLOW);
    let first = Skopeo::on(world.machine(&gateway));
    first.copy(&source.full, "image").ok();

    let mut push = world.machine(&gateway).command("skopeo");
    push.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
        .arg(format!("dir:{}", first.folder("image").display()))
        .arg(format!("docker://{OTHER}/team/copy:1"));
    run(push, Duration::from_secs(60)).ok();

    world.upstream.seen().forget();
    let second = Skopeo::on(world.machine(&gateway));
    second.copy(&format!("{OTHER}/team/copy:1"), "back").ok();
    assert_holds(&second.folder("back"), &image);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn what_docker_pushes_podman_and_another_docker_pull() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let source = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway(ALLOW);
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&source.full).ok();
    let by_docker = format!("{OTHER}/team/docker:1");
    docker.docker(&["tag", &source.full, &by_docker]).ok();
    docker.docker(&["push", &by_docker]).ok();
    world.upstream.seen().forget();
    let podman = Podman::on(world.machine(&gateway));
    podman.pull(&by_docker).ok();
    let other = Docker::start(world.machine(&gateway));
    other.pull(&by_docker).ok();
    assert_eq!(other.id(&by_docker), image.id);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn what_podman_pushes_docker_pulls() {
    let world = World::new();
    let image = Image::docker(&[MIB]);
    let source = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway(ALLOW);
    let podman = Podman::on(world.machine(&gateway));
    podman.pull(&source.full).ok();
    let by_podman = format!("{OTHER}/team/podman:1");
    podman.push(&source.full, &by_podman).ok();
    world.upstream.seen().forget();
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&by_podman).ok();
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn a_push_that_is_not_allowed_says_how_it_would_be() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let source = world.publish(HUB, "acme/app:1", &image);
    let gateway = world.gateway(&ALLOW.replace("allow", "deny"));
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&source.full).ok();
    let target = format!("{OTHER}/team/docker:1");
    docker.docker(&["tag", &source.full, &target]).ok();
    let refusal = docker.docker(&["push", &target]).fails();
    assert!(
        refusal.contains("push = \"allow\"") || refusal.contains("denied"),
        "{refusal}"
    );
}
