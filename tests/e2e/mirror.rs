//! Clients without a proxy setting: the gateway as a registry, and as a mirror of registries.

use std::path::{Path, PathBuf};

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::pulls::assert_fetched_once;
use crate::upstream::{GHCR, HUB, PARTNER};
use crate::world::{Name, World};

const ALICE: (&str, &str) = ("alice", "open sesame");

/// `127.0.0.1:PORT`, as part of an image's name.
fn address(gateway: &Gateway) -> &str {
    gateway.proxy().trim_start_matches("http://")
}

/// The image as it is called at the gateway.
fn renamed(gateway: &Gateway, name: &Name) -> String {
    format!("{}/{}", address(gateway), name.full)
}

/// A `hosts.toml` for these registries (or `_default`), with the gateway before them.
fn hosts(world: &World, gateway: &Gateway, names: &[&str]) -> PathBuf {
    let dir = world.folder("h");
    let proxy = gateway.proxy();
    for name in names {
        let folder = dir.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let server = match *name {
            "_default" => String::new(),
            name => format!("server = \"https://{name}\"\n"),
        };
        let text =
            format!("{server}[host.\"{proxy}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(folder.join("hosts.toml"), text).expect("a file");
    }
    dir
}

fn assert_no_blob_request(world: &World) {
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_requests(), 0, "{seen}");
}

#[test]
fn dockerd_pulls_from_docker_hub_by_registry_mirrors_cold_warm_and_with_upstream_gone() {
    let mut world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let name = world.publish(HUB, "acme/app:1", &image);
    let official = Image::docker(&[4096, 17]);
    world.publish(HUB, "library/tiny:latest", &official);
    let gateway = world.gateway("");
    let config = format!(r#"{{"registry-mirrors": ["{}"]}}"#, gateway.proxy());
    let docker = || Docker::start_with(world.plain_machine(), &config);

    let cold = docker();
    cold.pull(&name.full).ok();
    assert_eq!(cold.id(&name.full), image.id);
    cold.pull("tiny").ok();
    assert_eq!(cold.id("tiny:latest"), official.id);
    assert_fetched_once(&world, &image);

    world.upstream.seen().forget();
    let warm = docker();
    warm.pull(&name.full).ok();
    warm.pull(&name.at(&image.manifest.digest)).ok();
    assert_eq!(warm.id(&name.full), image.id);
    assert_no_blob_request(&world);

    let offline = docker();
    world.upstream.go_away();
    offline.pull(&name.full).ok();
    assert_eq!(offline.id(&name.full), image.id);
}

#[test]
fn dockerd_podman_and_skopeo_pull_a_renamed_image() {
    let world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let name = world.publish(GHCR, "acme/app:1", &image);
    let gateway = world.gateway("");
    let renamed = renamed(&gateway, &name);

    let docker = Docker::start(world.plain_machine());
    docker.pull(&renamed).ok();
    assert_eq!(docker.id(&renamed), image.id);
    assert_fetched_once(&world, &image);

    world.upstream.seen().forget();
    let podman = Podman::on(world.plain_machine());
    podman.pull_with(&renamed, &["--tls-verify=false"]).ok();
    let skopeo = Skopeo::on(world.plain_machine());
    let plain = ["--src-tls-verify=false"];
    skopeo.copy_with(&renamed, "copy", &plain).ok();
    assert_holds(&skopeo.folder("copy"), &image);
    // What came so is the same for who has a proxy setting.
    let proxied = Docker::start(world.machine(&gateway));
    proxied.pull(&name.full).ok();
    assert_eq!(proxied.id(&name.full), image.id);
    assert_no_blob_request(&world);
}

#[test]
fn a_renamed_image_of_a_partner_needs_no_builtin_registry() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let name = world.publish(PARTNER, "team/app:1", &image);
    let mut robot = String::from("builtin_registries = false\n");
    robot += &login(&world.folder("pw"), PARTNER, "gateway");
    // The robot's entry takes the place of the one these tests have for the partner.
    let mut config = world.config("");
    config.remove("registry");
    crate::gateway::merge(&mut config, robot.parse().expect("TOML"));
    let gateway = Gateway::start(&world.folder("g"), config).keeping(&world.upstream.secrets());
    let renamed = renamed(&gateway, &name);
    let docker = Docker::start(world.plain_machine());
    docker.pull(&renamed).ok();
    assert_eq!(docker.id(&renamed), image.id);
    let skopeo = Skopeo::on(world.plain_machine());
    let plain = ["--src-tls-verify=false"];
    skopeo.copy_with(&renamed, "copy", &plain).ok();
}

#[test]
fn containerd_pulls_by_hosts_toml_of_a_registry_and_of_all() {
    let mut world = World::new();
    let image = Image::docker(&[MIB, 4096]);
    let hub = world.publish(HUB, "acme/app:1", &image);
    let other = Image::docker(&[MIB, 77]);
    let ghcr = world.publish(GHCR, "acme/app:1", &other);
    let gateway = world.gateway("");
    for names in [&["docker.io", "ghcr.io"][..], &["_default"]] {
        let hosts = hosts(&world, &gateway, names);
        let containerd = Containerd::start(world.plain_machine());
        containerd.pull_by(&hosts, &hub.full, None).ok();
        containerd.pull_by(&hosts, &ghcr.full, None).ok();
        let images = containerd.images();
        for image in [&image, &other] {
            assert!(images.contains(&image.manifest.digest), "{names:?}");
        }
        if names != ["_default"] {
            assert_fetched_once(&world, &image);
            world.upstream.seen().forget();
        }
    }
    assert_no_blob_request(&world);

    world.upstream.go_away();
    let hosts = hosts(&world, &gateway, &["_default"]);
    let offline = Containerd::start(world.plain_machine());
    offline.pull_by(&hosts, &hub.full, None).ok();
    assert!(offline.images().contains(&image.manifest.digest));
}

#[test]
fn a_private_image_needs_a_login_at_the_mirror() {
    let world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(GHCR, "acme/secret:1", &image);
    world.upstream.make_private(GHCR, "acme/secret", &["alice"]);
    let gateway = world.gateway("");
    let renamed = renamed(&gateway, &name);
    let login = format!("{}:{}", ALICE.0, ALICE.1);

    let skopeo = Skopeo::on(world.plain_machine());
    let plain = "--src-tls-verify=false";
    let options = [plain, "--src-creds", &login];
    skopeo.copy_with(&renamed, "hers", &options).ok();
    assert_holds(&skopeo.folder("hers"), &image);
    skopeo.copy_with(&renamed, "nobodys", &[plain]).fails();
    let wrong = [plain, "--src-creds", "alice:guessed"];
    skopeo.copy_with(&renamed, "wrong", &wrong).fails();

    let docker = Docker::start(world.plain_machine());
    docker.pull(&renamed).fails();
    docker.login(Some(address(&gateway)), ALICE.0, ALICE.1).ok();
    docker.pull(&renamed).ok();
    assert_eq!(docker.id(&renamed), image.id);

    let hosts = hosts(&world, &gateway, &["ghcr.io"]);
    let containerd = Containerd::start(world.plain_machine());
    containerd.pull_by(&hosts, &name.full, None).fails();
    containerd.pull_by(&hosts, &name.full, Some(&login)).ok();
}

/// A `[[registry]]` with alice as the robot.
pub(crate) fn login(dir: &Path, host: &str, auth: &str) -> String {
    let file = dir.join("password");
    std::fs::write(&file, format!("{}\n", ALICE.1)).expect("a file");
    format!(
        "[[registry]]\nhost = {host:?}\nauth = {auth:?}\nusername = {:?}\npassword_file = {file:?}\n",
        ALICE.0
    )
}
