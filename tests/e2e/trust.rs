//! Certificates, as Go's verification judges them.

use crate::clients::Docker;
use crate::gateway::serve_refused;
use crate::image::Image;
use crate::machine::Trust;
use crate::upstream::{OTHER, PARTNER};
use crate::world::World;

#[test]
fn certs_d_alone_is_enough_for_a_registry_that_is_not_docker_hub() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let name = world.publish(PARTNER, "team/app:1", &image);
    let gateway = world.gateway("");
    let trust = Trust::CertsD {
        host: PARTNER.to_owned(),
        ca: gateway.ca().to_owned(),
    };
    let docker = Docker::start(world.machine_trusting(&gateway, trust));
    docker.login(Some(PARTNER), "alice", "open sesame").ok();
    docker.pull(&name.full).ok();
    assert_eq!(docker.id(&name.full), image.id);
}

#[test]
fn a_client_without_the_ca_refuses_the_gateway() {
    let world = World::new();
    let name = world.publish(OTHER, "team/app:1", &Image::docker(&[4096]));
    let gateway = world.gateway(&format!("[[registry]]\nhost = \"{OTHER}\""));
    let trust = Trust::Everywhere("/dev/null".into());
    let docker = Docker::start(world.machine_trusting(&gateway, trust));
    let refusal = docker.pull(&name.full).fails();
    assert!(refusal.contains("x509"), "{refusal}");
}

#[test]
fn a_registry_added_later_is_refused_under_the_old_ca_and_accepted_under_the_renewed_one() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let name = world.publish(OTHER, "team/app:1", &image);
    let mut gateway = world.gateway("");
    let old = world.path().join("old-ca.crt");
    std::fs::copy(gateway.ca(), &old).expect("the CA certificate");

    gateway.restart(&format!("[[registry]]\nhost = \"{OTHER}\""));
    let strict = Docker::start(world.machine_trusting(&gateway, Trust::Everywhere(old)));
    let refusal = strict.pull(&name.full).fails();
    assert!(refusal.contains("not authorized to sign"), "{refusal}");

    let current = Docker::start(world.machine(&gateway));
    current.pull(&name.full).ok();
    assert_eq!(current.id(&name.full), image.id);
}

#[test]
fn the_ca_key_is_for_its_owner_only_and_survives_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let mut gateway = world.gateway("");
    let key = gateway.ca().with_extension("key");
    let mode = std::fs::metadata(&key).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read = || {
        (
            std::fs::read(&key).expect("a key"),
            std::fs::read(gateway.ca()).expect("a CA"),
        )
    };
    let before = read();
    gateway.restart("");
    let read = || {
        (
            std::fs::read(&key).expect("a key"),
            std::fs::read(gateway.ca()).expect("a CA"),
        )
    };
    assert!(before == read(), "neither key nor certificate changed");
}

#[test]
fn a_configuration_with_an_unknown_key_ends_with_a_word_about_it() {
    let world = World::new();
    let config = world.config("[cache]\nmax_sise = \"1GiB\"");
    let refused = serve_refused(&world.folder("g"), &config);
    assert_eq!(refused.code(), Some(78), "{refused}");
    let complaint = refused.fails();
    assert!(complaint.contains("max_sise"), "{complaint}");
    assert!(complaint.contains("max_size"), "{complaint}");
}
