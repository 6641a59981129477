//! Everything that is not a registry: denial, plain HTTP, `apt-get`, `docker search`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::clients::Docker;
use crate::gateway::Gateway;
use crate::machine::Machine;
use crate::process::{Finished, run};
use crate::upstream::HUB;
use crate::world::World;

#[test]
fn docker_search_works_through_the_gateway() {
    let world = World::new();
    let gateway = world.gateway("");
    let docker = Docker::start(world.machine(&gateway));
    let found = docker.docker(&["search", "anything"]).ok();
    assert!(found.contains("acme/found"), "{found}");
}

#[test]
fn an_unknown_host_is_denied_by_a_rule_that_is_named() {
    let world = World::new();
    let gateway = world.gateway("");
    let machine = world.machine(&gateway);
    let denied = machine.curl(&["-v", "https://elsewhere.example/"]).fails();
    assert!(denied.contains("403"), "{denied}");
    let denied = machine
        .curl(&["-x", gateway.proxy(), "http://elsewhere.example/"])
        .ok();
    assert!(denied.contains("policy.default"), "{denied}");
}

#[test]
fn curl_sees_docker_hub_through_the_gateway_and_its_ca_alone() {
    let world = World::new();
    let gateway = world.gateway("");
    let machine = world.machine(&gateway);
    let ca = gateway.ca().display().to_string();
    let url = format!("https://{HUB}/v2/");
    let answer = machine.curl(&["-i", "--cacert", &ca, &url]).ok();
    assert!(answer.contains("auth.docker.io/token"), "{answer}");
    // A host that is none of the registry's business is not signed for.
    machine
        .curl(&["--cacert", &ca, "https://cdn.example/"])
        .fails();
}

#[test]
fn the_gateway_hands_out_its_ca_and_its_health() {
    let world = World::new();
    let gateway = world.gateway("");
    let direct = |path: &str| {
        let url = format!("{}{path}", gateway.proxy());
        let machine = world.machine(&gateway);
        machine.curl(&["-f", "--noproxy", "*", &url]).ok()
    };
    let ca = std::fs::read_to_string(gateway.ca()).expect("a CA certificate");
    assert_eq!(direct("/ca.crt").trim(), ca.trim());
    assert!(!direct("/healthz").is_empty());
    assert!(!direct("/readyz").is_empty());
}

#[test]
fn apt_get_installs_its_lists_and_a_package_through_the_gateway() {
    let world = World::new();
    let site = Files::serve(&apt_repository(&world));
    let gateway = gateway_to(&world, &site);
    let machine = world.machine(&gateway);
    let apt = apt_folders(&machine);

    apt_get(&machine, &gateway, &apt, &["update"]).ok();
    apt_get(&machine, &gateway, &apt, &["download", "harbour-bell"]).ok();
    let got = std::fs::read(machine.path().join("harbour-bell_1.0_all.deb")).expect("a package");
    let made = std::fs::read(site.folder.join("harbour-bell_1.0_all.deb")).expect("a package");
    assert!(got == made, "the package is the one that was made");
}

#[test]
fn a_plain_http_file_comes_through_untouched() {
    let world = World::new();
    let folder = world.folder("www");
    let content = crate::image::Image::docker(&[300_000]).layers[0]
        .bytes
        .clone();
    std::fs::write(folder.join("file.bin"), &content).expect("a file");
    let site = Files::serve(&folder);
    let gateway = gateway_to(&world, &site);
    let machine = world.machine(&gateway);
    let to = machine.path().join("got").display().to_string();
    let url = "http://packages.example/file.bin";
    machine
        .curl(&["-f", "-o", &to, "-x", gateway.proxy(), url])
        .ok();
    assert!(std::fs::read(&to).expect("a file") == content);
}

fn gateway_to(world: &World, site: &Files) -> Gateway {
    world.gateway(&format!(
        "[upstream.resolve]\n\"packages.example\" = \"127.0.0.1:{}\"\n\
         [[policy.rule]]\naction = \"tunnel\"\nhosts = [\"packages.example\"]\n",
        site.port
    ))
}

/// A folder with one package and the list that names it.
fn apt_repository(world: &World) -> PathBuf {
    let tree = world.folder("deb");
    let repository = world.folder("apt");
    std::fs::create_dir(tree.join("DEBIAN")).expect("a folder");
    let control = "Package: harbour-bell\nVersion: 1.0\nArchitecture: all\n\
                   Maintainer: A Test <test@example.org>\nDescription: rings\n";
    std::fs::write(tree.join("DEBIAN/control"), control).expect("a file");
    let package = repository.join("harbour-bell_1.0_all.deb");
    let mut build = Command::new("dpkg-deb");
    build
        .args(["--root-owner-group", "--build"])
        .arg(tree)
        .arg(&package);
    run(build, Duration::from_secs(30)).ok();
    let bytes = std::fs::read(&package).expect("a package");
    let hash = crate::image::sha256(&bytes);
    let list = format!(
        "{control}Filename: ./harbour-bell_1.0_all.deb\nSize: {}\nSHA256: {}\n\n",
        bytes.len(),
        hash.trim_start_matches("sha256:")
    );
    std::fs::write(repository.join("Packages"), list).expect("a file");
    repository
}

fn apt_folders(machine: &Machine) -> PathBuf {
    let apt = machine.path().join("apt");
    for folder in ["lists/partial", "cache/archives/partial", "parts"] {
        std::fs::create_dir_all(apt.join(folder)).expect("a folder");
    }
    std::fs::write(apt.join("status"), "").expect("a file");
    let source = "deb [trusted=yes] http://packages.example/ ./\n";
    std::fs::write(apt.join("sources.list"), source).expect("a file");
    apt
}

fn apt_get(machine: &Machine, gateway: &Gateway, apt: &Path, arguments: &[&str]) -> Finished {
    let mut command = machine.command("apt-get");
    for (key, value) in [
        ("Dir::Etc::sourcelist", apt.join("sources.list")),
        ("Dir::Etc::sourceparts", apt.join("parts")),
        ("Dir::Etc::parts", apt.join("parts")),
        ("Dir::State::lists", apt.join("lists")),
        ("Dir::State::status", apt.join("status")),
        ("Dir::Cache", apt.join("cache")),
        ("Acquire::http::Proxy", PathBuf::from(gateway.proxy())),
        ("Acquire::Languages", PathBuf::from("none")),
        ("APT::Sandbox::User", PathBuf::from("root")),
    ] {
        command.arg("-o").arg(format!("{key}={}", value.display()));
    }
    // apt takes /etc/apt/apt.conf.d for granted; nothing of it may count here.
    command.env("APT_CONFIG", "/dev/null").args(arguments);
    run(command, Duration::from_secs(60))
}

/// A plain HTTP server for one folder.
struct Files {
    folder: PathBuf,
    port: u16,
    closing: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

// === impl Files ===

impl Files {
    fn serve(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a bound address").port();
        let closing = Arc::new(AtomicBool::new(false));
        let (root, end) = (folder.to_owned(), closing.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let root = root.clone();
                thread::spawn(move || stream.and_then(|stream| Self::answer(&root, stream)));
            }
        });
        Self {
            folder: folder.to_owned(),
            port,
            closing,
            thread: Some(thread),
        }
    }

    /// One request, one answer, and the connection ends.
    fn answer(root: &Path, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let path = first.split(' ').nth(1).unwrap_or("/");
        let (status, body) = match std::fs::read(root.join(path.trim_start_matches(['/', '.']))) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // One more connection, so that the thread looks.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
