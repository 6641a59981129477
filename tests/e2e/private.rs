//! Private images: cached, and still shown only to those whom upstream shows them.

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::image::{DOCKER_MANIFEST, Image, MIB, sha256};
use crate::upstream::{HUB, PARTNER};
use crate::world::World;

const ALICE: (&str, &str) = ("alice", "open sesame");
const BOB: (&str, &str) = ("bob", "let me in");

#[test]
fn a_cached_private_image_is_refused_to_the_next_client_until_it_logs_in_itself() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let name = world.publish(HUB, "acme/secret:1", &image);
    world
        .upstream
        .make_private(HUB, "acme/secret", &["alice", "bob"]);
    let gateway = world.gateway("");

    let first = Docker::start(world.machine(&gateway));
    first.login(None, ALICE.0, ALICE.1).ok();
    first.pull(&name.full).ok();
    assert_eq!(first.id(&name.full), image.id);

    world.upstream.seen().forget();
    let second = Docker::start(world.machine(&gateway));
    let refusal = second.pull(&name.full).fails();
    assert!(refusal.contains("denied"), "{refusal}");
    let by_digest = name.at(&image.manifest.digest);
    second.pull(&by_digest).fails();

    second.login(None, BOB.0, BOB.1).ok();
    second.pull(&name.full).ok();
    assert_eq!(second.id(&name.full), image.id);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn the_wrong_user_gets_nothing_from_the_cache() {
    let world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(PARTNER, "team/secret:1", &image);
    world
        .upstream
        .make_private(PARTNER, "team/secret", &["alice"]);
    let gateway = world.gateway("");

    let alice = Docker::start(world.machine(&gateway));
    alice.login(Some(PARTNER), ALICE.0, ALICE.1).ok();
    alice.pull(&name.full).ok();
    assert_eq!(alice.id(&name.full), image.id);

    let bob = Docker::start(world.machine(&gateway));
    bob.login(Some(PARTNER), BOB.0, BOB.1).ok();
    bob.pull(&name.full).fails();
    bob.pull(&name.at(&image.manifest.digest)).fails();
    Podman::on(world.machine(&gateway)).pull(&name.full).fails();
}

#[test]
fn a_login_with_a_wrong_password_fails_as_it_does_without_the_gateway() {
    let world = World::new();
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    docker.login(None, "alice", "wrong").fails();
    docker.login(Some(PARTNER), "alice", "wrong").fails();
    docker.login(None, ALICE.0, ALICE.1).ok();
    docker.login(Some(PARTNER), ALICE.0, ALICE.1).ok();
}

#[test]
fn ctr_and_skopeo_bring_their_credentials_through() {
    let world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(HUB, "acme/secret:1", &image);
    world.upstream.make_private(HUB, "acme/secret", &["alice"]);
    let gateway = world.gateway("");

    let containerd = Containerd::start(world.machine(&gateway));
    containerd.pull(&name.full).fails();
    containerd.pull_as(&name.full, ALICE.0, ALICE.1).ok();
    assert!(containerd.images().contains(&image.manifest.digest));

    world.upstream.seen().forget();
    let skopeo = Skopeo::on(world.machine(&gateway));
    skopeo.copy(&name.full, "refused").fails();
    let login = format!("{}:{}", ALICE.0, ALICE.1);
    skopeo
        .copy_with(&name.full, "copy", &["--src-creds", &login])
        .ok();
    assert_holds(&skopeo.folder("copy"), &image);
    let seen = world.upstream.seen();
    assert_eq!(seen.blob_downloads(), 0, "{seen}");
}

#[test]
fn with_upstream_gone_a_private_image_goes_only_to_the_caller_who_had_it() {
    let mut world = World::new();
    let image = Image::docker(&[MIB]);
    let name = world.publish(PARTNER, "team/secret:1", &image);
    let gateway = world.gateway("");
    let alice = Docker::start(world.machine(&gateway));
    alice.login(Some(PARTNER), ALICE.0, ALICE.1).ok();
    alice.pull(&name.full).ok();

    world.upstream.go_away();
    Skopeo::on(world.machine(&gateway))
        .copy(&name.full, "stranger")
        .fails();
    // Without a challenge no container client sends credentials; curl does.
    let machine = world.machine(&gateway);
    let ca = gateway.ca().display().to_string();
    let url = format!("https://{PARTNER}/v2/team/secret/manifests/1");
    let accept = format!("Accept: {DOCKER_MANIFEST}");
    let get = |login: &str| {
        let options = ["-f", "--cacert", &ca, "-H", &accept, "-u", login, &url];
        machine.curl(&options)
    };
    let manifest = get(&format!("{}:{}", ALICE.0, ALICE.1)).ok();
    assert_eq!(sha256(manifest.as_bytes()), image.manifest.digest);
    get("alice:guessed").fails();
    get(&format!("{}:{}", BOB.0, BOB.1)).fails();
}

#[test]
fn no_password_is_in_any_log_or_metric() {
    let world = World::new();
    let image = Image::docker(&[4096]);
    let name = world.publish(HUB, "acme/secret:1", &image);
    world.upstream.make_private(HUB, "acme/secret", &["alice"]);
    let gateway = world.gateway("[log]\nlevel = \"debug\"");
    let docker = Docker::start(world.machine(&gateway));
    docker.login(None, ALICE.0, ALICE.1).ok();
    docker.login(Some(PARTNER), ALICE.0, ALICE.1).ok();
    docker.pull(&name.full).ok();

    let told = gateway.logged() + &gateway.metrics();
    // The password as it is, in a form, and in "alice:open sesame" as base64.
    let mut secrets = vec![
        ALICE.1.to_owned(),
        "open+sesame".into(),
        "YWxpY2U6b3Blbi".into(),
    ];
    let tokens = world.upstream.issued_tokens();
    assert!(!tokens.is_empty());
    secrets.extend(tokens);
    for secret in secrets {
        let line = told.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret:?} was told");
    }
}
