//! Pushes go through, and what upstream accepted is in the cache at once.

use crate::clients::{Docker, Podman, Skopeo, assert_holds};
use crate::image::{Image, MIB};
use crate::upstream::{HUB, OTHER};
use crate::world::World;

/// What nobody but its own user may read or write: Debian's docker-registry, in plain HTTP.
const HOUSE: &str = "registry.house.example";
const ROBOT: (&str, &str) = ("robot", "open the gate");

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

    let copy = format!("{OTHER}/team/copy:1");
    first.push("image", &copy, &[]).ok();

    world.upstream.seen().forget();
    let second = Skopeo::on(world.machine(&gateway));
    second.copy(&copy, "back").ok();
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
fn what_is_pushed_in_the_gateways_name_by_proxy_and_by_mirror_outlives_the_registry() {
    let world = World::new();
    let images = [&[MIB, 1][..], &[MIB, 2], &[MIB, 3], &[4096]].map(Image::docker);
    let house = world.house(ROBOT.0, ROBOT.1);
    let password = world.folder("pw").join("password");
    std::fs::write(&password, ROBOT.1).expect("a file");
    let gateway = world.gateway(&format!(
        "[[registry]]\nhost = {HOUSE:?}\nurl = {:?}\nauth = \"gateway\"\npush = \"allow\"\n\
         username = {:?}\npassword_file = {password:?}\n",
        house.url(),
        ROBOT.0
    ));
    let mirror = format!("{}/{HOUSE}", gateway.proxy().trim_start_matches("http://"));

    let skopeo = Skopeo::on(world.machine(&gateway));
    let docker = Docker::start(world.machine(&gateway));
    for (n, image) in images.iter().enumerate() {
        let source = world.publish(HUB, &format!("acme/app:{n}"), image);
        skopeo.copy(&source.full, &format!("{n}")).ok();
        docker.pull(&source.full).ok();
    }
    let (by_docker, by_skopeo) = (format!("{HOUSE}/team/a:1"), format!("{HOUSE}/team/b:1"));
    docker.docker(&["tag", "acme/app:0", &by_docker]).ok();
    docker.docker(&["push", &by_docker]).ok();
    skopeo.push("1", &by_skopeo, &[]).ok();
    // By the other door, in the words of who has no proxy setting.
    let by_mirror = format!("{mirror}/team/c:1");
    docker.docker(&["tag", "acme/app:2", &by_mirror]).ok();
    docker.docker(&["push", &by_mirror]).ok();
    let gone = format!("{mirror}/team/d:1");
    skopeo.push("3", &gone, &["--dest-tls-verify=false"]).ok();
    skopeo.delete(&format!("{HOUSE}/team/d:1")).ok();

    drop(house);
    let podman = Podman::on(world.machine(&gateway));
    podman.pull(&by_docker).ok();
    assert_eq!(format!("sha256:{}", podman.id(&by_docker)), images[0].id);
    let other = Skopeo::on(world.machine(&gateway));
    other.copy(&by_skopeo, "b").ok();
    assert_holds(&other.folder("b"), &images[1]);
    let plain = Docker::start(world.plain_machine());
    plain.pull(&by_mirror).ok();
    assert_eq!(plain.id(&by_mirror), images[2].id);
    plain.pull(&gone).fails();
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
