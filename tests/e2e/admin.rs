//! The gateway run by a person: changed while it works, looked at from elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::clients::{Docker, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::process::{run, wait_for};
use crate::upstream::{GHCR, HUB};
use crate::world::World;

#[test]
fn dockerd_and_skopeo_pull_while_the_configuration_is_read_again_and_again() {
    let world = World::new();
    let (first, second) = (Image::docker(&[MIB; 12]), Image::oci(&[MIB; 12]));
    let hub = world.publish(HUB, "acme/app:1", &first);
    let ghcr = world.publish(GHCR, "acme/app:1", &second);
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    let skopeo = Skopeo::on(world.machine(&gateway));
    let pulled = AtomicBool::new(false);
    thread::scope(|threads| {
        let (gateway, pulled) = (&gateway, &pulled);
        let reloading = threads.spawn(move || {
            let mut reloads = 0;
            while !pulled.load(Ordering::Relaxed) || reloads < 6 {
                // Another way upstream, another bound, another registry; and a file that is wrong.
                let change = match reloads % 3 {
                    0 => "[limits]\nupstream_connect = \"9s\"\n[[registry]]\nhost = \"new.example\"\n",
                    1 => "[cache]\nmax_size = \"40GiB\"\n",
                    _ => "[cache]\nmax_sizzle = \"1GiB\"\n",
                };
                gateway.rewrite(change);
                gateway.hangup();
                reloads += 1;
                wait_for("the reload", Duration::from_secs(30), || {
                    let told = gateway.logged();
                    let told = told.matches("\"the configuration was ").count();
                    (told >= reloads).then_some(())
                });
            }
        });
        docker.pull(&hub.full).ok();
        skopeo.copy(&ghcr.full, "copied").ok();
        pulled.store(true, Ordering::Relaxed);
        reloading.join().expect("reloads");
    });
    assert_eq!(docker.id(&hub.full), first.id);
    assert_holds(&skopeo.folder("copied"), &second);
    for blob in first.blobs().chain(second.blobs()) {
        let sent = world.upstream.seen().sent(&blob.digest);
        assert_eq!(sent, blob.bytes.len() as u64, "{}", blob.digest);
    }
    let told = gateway.logged();
    assert!(told.contains("max_sizzle"), "the bad file was not refused");
    assert!(told.contains("registry new.example: added"), "{told}");
}

#[test]
fn from_another_machine_the_page_is_read_and_changes_nothing() {
    let world = World::new();
    let config = world.config("[listen]\nadmin = \"0.0.0.0:0\"");
    // A network of its own, in which it has an address that is not loopback.
    let network = "exec unshare --net sh -ec 'ip link set lo up; ip addr add 192.0.2.7/32 dev lo; exec \"$0\" \"$@\"' \"$0\" \"$@\"";
    let gateway = Gateway::start_after(&world.folder("g"), config, network.to_owned());
    let port = gateway.admin().rsplit_once(':').expect("a port").1;
    let ask = |from: &str, path: &str, options: &[&str]| {
        let mut command = gateway.beside("curl");
        command
            .args(["-sS", "--noproxy", "*", "--max-time", "20"])
            .args(["--write-out", "\n%{http_code}"])
            .args(options)
            .arg(format!("http://{from}:{port}{path}"));
        run(command, Duration::from_secs(30)).ok()
    };
    let elsewhere = "192.0.2.7";
    let page = ask(elsewhere, "/", &[]);
    assert!(
        page.ends_with("\n200") && page.contains("Read only"),
        "{page}"
    );
    assert!(
        !page.contains("<form"),
        "a button that does nothing: {page}"
    );
    let name = ["-H", "Host: gateway.corp.example"];
    assert!(ask(elsewhere, "/images", &name).ends_with("\n200"));
    for path in [
        "/api/v1/reload",
        "/actions/reload",
        "/api/v1/cache/verification",
    ] {
        let said = ask(elsewhere, path, &["-X", "POST"]);
        assert!(
            said.ends_with("\n403") && said.contains("users_file"),
            "{path}: {said}"
        );
    }
    let said = ask(elsewhere, "/api/v1/export?image=alpine", &[]);
    assert!(said.ends_with("\n403"), "{said}");
    let said = ask("127.0.0.1", "/api/v1/reload", &["-X", "POST"]);
    assert!(said.ends_with("\n200"), "{said}");
}
