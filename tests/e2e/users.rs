//! Proxy users, as real clients send them: in the proxy's URL, plain and in TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::clients::{Docker, Skopeo};
use crate::gateway::Gateway;
use crate::image::Image;
use crate::machine::{Machine, Trust};
use crate::process::run;
use crate::upstream::HUB;
use crate::world::World;

const PASSWORD: &str = "pass%word";
/// As it stands in a URL.
const ESCAPED: &str = "pass%25word";

#[test]
fn docker_and_skopeo_pull_as_a_proxy_user_and_not_without() {
    let world = World::new();
    let image = Image::docker(&[300_000, 4096]);
    let name = world.publish(HUB, "library/app:1", &image);
    let gateway = asking(&world);
    let plain = gateway.proxy().to_owned();
    let tls = tls_proxy(&gateway);
    let machine = |proxy: &str, user: &str| {
        let proxy = proxy.replacen("://", &format!("://{user}"), 1);
        let trust = Trust::Everywhere(gateway.ca().to_owned());
        Machine::new(world.folder("m"), &proxy, trust)
    };
    let ci = format!("ci:{ESCAPED}@");
    gateway.secrets().login("ci", PASSWORD);

    let nobody = Skopeo::on(machine(&plain, ""));
    let refusal = nobody.copy(&name.full, "a").fails();
    assert!(refusal.contains("Proxy Auth"), "{refusal}");
    let wrong = Skopeo::on(machine(&plain, "ci:wrong@"));
    wrong.copy(&name.full, "a").fails();
    assert_eq!(checks(&gateway, "right"), 0);

    for proxy in [&plain, &tls] {
        Skopeo::on(machine(proxy, &ci)).copy(&name.full, "a").ok();
        let docker = Docker::start(machine(proxy, &ci));
        docker.pull(&name.full).ok();
        assert_eq!(docker.id(&name.full), image.id);
    }
    assert_eq!(checks(&gateway, "right"), 1, "for all their connections");
    let log = gateway.logged();
    assert!(log.contains("\"user\":\"ci\""), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains(ESCAPED));
}

/// A gateway, plain and in TLS, whose one user `htpasswd` made.
fn asking(world: &World) -> Gateway {
    let file = world.folder("users").join("htpasswd");
    htpasswd(&file);
    world.gateway(&format!(
        "[listen]\nproxy_tls = [\"127.0.0.1:0\"]\n[policy]\nusers_file = \"{}\"\n",
        file.display()
    ))
}

fn htpasswd(file: &Path) {
    let mut command = Command::new("htpasswd");
    command.args(["-B", "-b", "-c"]).arg(file);
    command.args(["ci", PASSWORD]);
    run(command, Duration::from_secs(20)).ok();
}

fn tls_proxy(gateway: &Gateway) -> String {
    let banner = gateway.logged();
    let mut words = banner.split_whitespace();
    let url = words.find(|word| word.starts_with("https://"));
    url.expect("a line about the proxy in TLS").to_owned()
}

fn checks(gateway: &Gateway, result: &str) -> u32 {
    let start = format!("pierhead_password_checks_total{{result=\"{result}\"}} ");
    let metrics = gateway.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().expect("a number"))
}
