//! Behind a company's proxy: a real squid that wants a password stands between two gateways.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::clients::Docker;
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::process::{Daemon, run, wait_for};
use crate::upstream::{GHCR, HUB};
use crate::world::World;

const USER: &str = "branch";
const PASSWORD: &str = "p@ss:w/rd";
const IN_A_URL: &str = "p%40ss%3Aw%2Frd";

#[test]
fn docker_pulls_through_a_gateway_a_squid_with_a_password_and_another_gateway() {
    let world = World::new();
    let image = Image::docker(&[2 * MIB, 4096]);
    let hub = world.publish(HUB, "library/app:1", &image);
    let other = Image::docker(&[MIB]);
    let ghcr = world.publish(GHCR, "team/app:1", &other);
    let outer = world.gateway("");
    let squid = Squid::start(&outer);
    let mut inner = world.gateway(&behind(&outer, &squid, IN_A_URL));

    let docker = Docker::start(world.machine(&inner));
    docker.pull(&hub.full).ok();
    assert_eq!(docker.id(&hub.full), image.id);
    docker.pull(&ghcr.full).ok();
    assert_eq!(docker.id(&ghcr.full), other.id);

    // Squid writes its line when a tunnel ends.
    inner.kill();
    for host in [HUB, GHCR] {
        let line = format!("CONNECT {host}:443 {USER} 200");
        let passed = || squid.passed().contains(&line).then_some(());
        wait_for(&line, SOON, passed);
    }
    assert!(!inner.logged().contains(PASSWORD));
    assert!(!inner.logged().contains(IN_A_URL));
}

#[test]
fn a_wrong_password_for_squid_is_told_and_not_shown() {
    let world = World::new();
    let outer = world.gateway("");
    let squid = Squid::start(&outer);
    let inner = world.gateway(&behind(&outer, &squid, "wrong-guess"));
    let machine = world.machine(&inner);
    let (ca, url) = (
        inner.ca().display().to_string(),
        format!("https://{GHCR}/v2/team/app/manifests/1"),
    );
    let told = machine.curl(&["--cacert", &ca, &url]).ok();
    let place = format!("the parent proxy http://127.0.0.1:{}", squid.port);
    assert!(told.contains(&place) && told.contains("407"), "{told}");
    assert!(!told.contains("wrong-guess"), "{told}");
    assert!(!inner.logged().contains("wrong-guess"));
}

/// What a gateway's configuration says otherwise: it trusts the outer gateway alone, so that nothing
/// that went around it would pass.
fn behind(outer: &Gateway, squid: &Squid, password: &str) -> String {
    format!(
        "[upstream]\nproxy = \"http://{USER}:{password}@127.0.0.1:{}\"\nallow_private = []\nca_file = {:?}\n",
        squid.port,
        outer.ca()
    )
}

/// A squid that knows no name and sends everything to a gateway.
struct Squid {
    _daemon: Daemon,
    folder: TempDir,
    port: u16,
}

// === impl Squid ===

impl Squid {
    fn start(outer: &Gateway) -> Self {
        // It gives its rights up, and then must still reach its folder.
        let folder = tempfile::Builder::new().prefix("squid").tempdir_in("/tmp");
        let folder = folder.expect("a temporary folder");
        let dir = folder.path();
        let users = dir.join("users");
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.arg("-cbB").arg(&users).args([USER, PASSWORD]);
        run(htpasswd, SOON).ok();
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("a bound address").port()
        };
        let next = outer.proxy().rsplit(':').next().expect("a port");
        let config = dir.join("squid.conf");
        std::fs::write(&config, configuration(dir, port, next)).expect("a file");
        let mut chown = Command::new("chown");
        chown.args(["-R", "proxy:proxy"]).arg(dir);
        run(chown, SOON).ok();
        let mut command = Command::new("squid");
        command.args(["-N", "-d1", "-f"]).arg(&config);
        let mut daemon = Daemon::start("squid", command, &dir.join("output.log"));
        daemon.wait_ready(|_| TcpStream::connect(("127.0.0.1", port)).ok());
        Self {
            _daemon: daemon,
            folder,
            port,
        }
    }

    /// A line for each request: method, target, user.
    fn passed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

fn configuration(dir: &Path, port: u16, next: &str) -> String {
    let dir = dir.display();
    format!(
        "http_port 127.0.0.1:{port}\n\
         visible_hostname squid.test\n\
         auth_param basic program /usr/lib/squid/basic_ncsa_auth {dir}/users\n\
         auth_param basic children 2\n\
         acl known proxy_auth REQUIRED\n\
         http_access allow known\n\
         http_access deny all\n\
         cache_peer 127.0.0.1 parent {next} 0 no-query no-digest default\n\
         never_direct allow all\n\
         cache deny all\n\
         pinger_enable off\n\
         pid_filename {dir}/squid.pid\n\
         cache_log {dir}/cache.log\n\
         logformat brief %rm %ru %un %>Hs\n\
         access_log stdio:{dir}/access.log brief\n\
         buffered_logs off\n\
         coredump_dir {dir}\n\
         shutdown_lifetime 0 seconds\n"
    )
}

const SOON: Duration = Duration::from_secs(30);
