//! Images across an air gap: what `pierhead export` writes, in the hands of those who are to read it.

use std::path::PathBuf;

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::{Image, Index, Kind, MIB, native};
use crate::upstream::{GHCR, HUB};
use crate::world::{Name, World};

fn foreign() -> &'static str {
    match native() {
        "arm64" => "amd64",
        _ => "arm64",
    }
}

/// A Docker image of one platform on Docker Hub, and an OCI index of two elsewhere.
fn published(world: &World) -> (Image, Name, Index, Name) {
    let image = Image::docker(&[2 * MIB, 4096]);
    let app = world.publish(HUB, "acme/app:1.2", &image);
    // Its first platform is not this machine's: nobody must take the first for the right one.
    let index = Index::build(Kind::Oci, &[foreign(), native()], &[MIB, 4096]);
    let wide = world.publish_index(GHCR, "acme/wide:1", &index);
    (image, app, index, wide)
}

fn exported(gateway: &Gateway, file: &str, args: &[&str]) -> PathBuf {
    let all = [&["export", "-o", file][..], args].concat();
    gateway.command(&all).ok();
    gateway.dir().join(file)
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

#[test]
fn docker_podman_and_skopeo_load_what_is_exported() {
    let world = World::new();
    let (image, app, index, wide) = published(&world);
    let gateway = world.gateway("");
    gateway.command(&["pull", &app.full, &wide.full]).ok();
    let docker = Docker::start(world.plain_machine());
    let podman = Podman::on(world.plain_machine());
    let skopeo = Skopeo::on(world.plain_machine());

    let one = exported(&gateway, "one.tar", &[&app.full]);
    docker.load(&one).ok();
    assert_eq!(docker.id(&app.full), image.id);
    podman.load(&one).ok();
    assert_eq!(podman.id(&app.full), hex(&image.id));
    let archive = format!("oci-archive:{}", one.display());
    skopeo.copy_from(&archive, "one", &[]).ok();
    assert_holds(&skopeo.folder("one"), &image);

    let all = exported(&gateway, "all.tar", &[&wide.full]);
    docker.load(&all).ok();
    assert_eq!(docker.id(&wide.full), index.images[1].id);
    podman.load(&all).ok();
    assert_eq!(podman.id(&wide.full), hex(&index.images[1].id));
    let archive = format!("oci-archive:{}", all.display());
    skopeo.copy_from(&archive, "all", &["--all"]).ok();
    for one in &index.images {
        for blob in one.blobs() {
            let bytes = std::fs::read(skopeo.folder("all").join(hex(&blob.digest)));
            assert_eq!(bytes.expect("a blob"), blob.bytes);
        }
    }
    docker.remove(&wide.full);

    let platform = format!("linux/{}", foreign());
    let other = exported(
        &gateway,
        "other.tar",
        &["--platform", &platform, &wide.full],
    );
    docker.load(&other).ok();
    assert_eq!(docker.id(&wide.full), index.images[0].id);
    let archive = format!("oci-archive:{}", other.display());
    skopeo.copy_from(&archive, "other", &[]).ok();
    assert_holds(&skopeo.folder("other"), &index.images[0]);
}

#[test]
fn a_file_of_several_images_is_loaded_as_several() {
    let world = World::new();
    let (image, app, index, wide) = published(&world);
    let gateway = world.gateway("");
    gateway.command(&["pull", &app.full, &wide.full]).ok();
    let both = exported(&gateway, "both.tar", &[&app.full, &wide.full]);

    let docker = Docker::start(world.plain_machine());
    docker.load(&both).ok();
    assert_eq!(docker.id(&app.full), image.id);
    assert_eq!(docker.id(&wide.full), index.images[1].id);
    let podman = Podman::on(world.plain_machine());
    podman.load(&both).ok();
    assert_eq!(podman.id(&app.full), hex(&image.id));
    assert_eq!(podman.id(&wide.full), hex(&index.images[1].id));
    let skopeo = Skopeo::on(world.plain_machine());
    // In a layout it finds OCI's types alone by their names, and Docker's in Docker's own list.
    let archive = format!("oci-archive:{}:{}", both.display(), wide.full);
    skopeo.copy_from(&archive, "wide", &[]).ok();
    assert_holds(&skopeo.folder("wide"), &index.images[1]);
    let archive = format!("docker-archive:{}:{}", both.display(), app.full);
    skopeo.copy_from(&archive, "app", &[]).ok();
    for blob in image.blobs() {
        let bytes = std::fs::read(skopeo.folder("app").join(hex(&blob.digest)));
        assert_eq!(bytes.expect("a blob"), blob.bytes);
    }
}

#[test]
fn a_gateway_without_upstream_serves_what_was_carried_to_it_by_tag_and_by_digest() {
    let mut world = World::new();
    let (image, app, index, wide) = published(&world);
    let source = world.gateway("");
    source.command(&["pull", &app.full, &wide.full]).ok();
    let by_digest = app.at(&image.manifest.digest);
    let file = exported(&source, "out.tar", &[&app.full, &wide.full, &by_digest]);
    let file = file.display().to_string();
    world.upstream.go_away();

    let island = world.gateway("");
    let said = island.command(&["import", &file]).ok();
    for word in [&app.full, &wide.full, &by_digest, &index.list.digest] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    let docker = Docker::start(world.machine(&island));
    docker.pull(&app.full).ok();
    assert_eq!(docker.id(&app.full), image.id);
    docker.pull(&wide.full).ok();
    assert_eq!(docker.id(&wide.full), index.images[1].id);
    docker.remove(&app.full);
    docker.pull(&by_digest).ok();
    assert_eq!(docker.id(&by_digest), image.id);
    let containerd = Containerd::start(world.machine(&island));
    containerd.pull(&wide.full).ok();
    assert!(containerd.images().contains(&index.list.digest));
    let skopeo = Skopeo::on(world.machine(&island));
    skopeo.copy_with(&wide.full, "all", &["--all"]).ok();
}

#[test]
fn a_gateway_takes_in_what_skopeo_wrote() {
    let mut world = World::new();
    // Of Docker's types skopeo would make another configuration, and so another id.
    let image = Image::oci(&[2 * MIB, 4096]);
    let app = world.publish(GHCR, "acme/app:1.2", &image);
    let gateway = world.gateway("");
    let skopeo = Skopeo::on(world.machine(&gateway));
    let archive = skopeo.folder("app.tar").display().to_string();
    skopeo
        .copy_to(&app.full, &format!("oci-archive:{archive}:{}", app.full))
        .ok();
    world.upstream.go_away();
    let island = world.gateway("");
    island.command(&["import", &archive]).ok();
    let docker = Docker::start(world.machine(&island));
    docker.pull(&app.full).ok();
    // It compresses layers, and leaves the configuration as it is.
    assert_eq!(docker.id(&app.full), image.id);
}
