//! Too little room: a cache that evicts, and a disk that is full.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::clients::{Docker, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::upstream::HUB;
use crate::world::{Name, World};

/// What index and directories may take beside the blobs.
const INDEX: u64 = 4 * MIB as u64;

#[test]
fn the_least_recently_used_image_makes_room_under_max_size() {
    let world = World::new();
    let images = [(); 3].map(|()| Image::docker(&[4 * MIB]));
    let names: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(number, image)| world.publish(HUB, &format!("acme/app{number}:1"), image))
        .collect();
    let gateway = world.gateway("[cache]\nmax_size = \"10MiB\"");
    let skopeo = Skopeo::on(world.machine(&gateway));
    for (name, image) in names.iter().zip(&images) {
        skopeo
            .copy(&name.full, &name.repository.replace('/', "-"))
            .ok();
        assert_holds(&skopeo.folder(&name.repository.replace('/', "-")), image);
        let held = disk_usage(&gateway.cache());
        assert!(held <= 10 * MIB as u64 + INDEX, "{held} bytes on disk");
    }

    world.upstream.seen().forget();
    skopeo.copy(&names[2].full, "newest").ok();
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "the newest is still here: {seen}");
    skopeo.copy(&names[0].full, "oldest").ok();
    assert_holds(&skopeo.folder("oldest"), &images[0]);
    let layer = &images[0].layers[0];
    assert!(seen.sent(&layer.digest) > 0, "the oldest had gone: {seen}");
}

#[test]
fn an_image_larger_than_the_whole_cache_is_pulled_all_the_same() {
    let world = World::new();
    let image = Image::docker(&[6 * MIB, MIB]);
    let name = world.publish(HUB, "acme/large:1", &image);
    let gateway = world.gateway("[cache]\nmax_size = \"4MiB\"");
    let docker = Docker::start(world.machine(&gateway));
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
    let held = disk_usage(&gateway.cache());
    assert!(held <= 4 * MIB as u64 + INDEX, "{held} bytes on disk");
}

#[test]
fn with_the_cache_on_a_small_tmpfs_pulls_go_on_when_it_is_full() {
    let world = World::new();
    let images = [(); 3].map(|()| Image::docker(&[5 * MIB, MIB]));
    let folder = world.folder("g");
    let cache = folder.join("cache");
    std::fs::create_dir(&cache).expect("a folder");
    let mount = format!("mount -t tmpfs -o size=9m tmpfs '{}'", cache.display());
    // Nothing kept free, and a limit far above what there is: the disk itself says no.
    let config = world.config("[cache]\nmin_free = \"0\"\nmax_size = \"1GiB\"");
    let gateway = Gateway::start_after(&folder, config, mount);

    let docker = Docker::start(world.machine(&gateway));
    for (number, image) in images.iter().enumerate() {
        let name = world.publish(HUB, &format!("acme/app{number}:1"), image);
        docker.pull(&name.full).ok();
        assert_eq!(docker.id(&name.full), image.id);
        if number == 0 {
            assert_cached(&world, &gateway, &name, image);
        }
    }
}

#[test]
fn min_free_of_a_small_tmpfs_holds() {
    let world = World::new();
    let images = [(); 3].map(|()| Image::docker(&[4 * MIB]));
    let folder = world.folder("g");
    let cache = folder.join("cache");
    std::fs::create_dir(&cache).expect("a folder");
    let mount = format!("mount -t tmpfs -o size=16m tmpfs '{}'", cache.display());
    let config = world.config("[cache]\nmin_free = \"6MiB\"");
    let gateway = Gateway::start_after(&folder, config, mount);

    let skopeo = Skopeo::on(world.machine(&gateway));
    for (number, image) in images.iter().enumerate() {
        let name = world.publish(HUB, &format!("acme/app{number}:1"), image);
        let to = format!("copy{number}");
        skopeo.copy(&name.full, &to).ok();
        assert_holds(&skopeo.folder(&to), image);
        let free = gateway.free_in(&cache);
        assert!(free >= 6 * MIB as u64, "{free} bytes free");
        assert_cached(&world, &gateway, &name, image);
    }
}

/// What there is room for is not fetched a second time.
#[track_caller]
fn assert_cached(world: &World, gateway: &Gateway, name: &Name, image: &Image) {
    world.upstream.seen().forget();
    let skopeo = Skopeo::on(world.machine(gateway));
    skopeo.copy(&name.full, "again").ok();
    assert_holds(&skopeo.folder("again"), image);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

/// The bytes a folder takes on its disk.
fn disk_usage(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => disk_usage(&path),
                Ok(meta) => meta.blocks() * 512,
                // Evicted meanwhile.
                Err(_) => 0,
            }
        })
        .sum()
}
