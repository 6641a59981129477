//! `/setup/CLIENT`, run as its users run it, on machines with an `/etc` of their own; then the client pulls.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::clients::{Containerd, Docker, Podman, Skopeo, assert_holds};
use crate::gateway::Gateway;
use crate::image::Image;
use crate::machine::{Machine, Trust};
use crate::process::{Finished, run};
use crate::upstream::{HUB, PARTNER};
use crate::world::{Name, World};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn docker_is_set_up_by_one_line_and_taken_back_to_the_byte() {
    let world = World::new();
    let (hub, partner) = published(&world);
    let gateway = world.gateway("");
    let client = Client::of(&world);
    let before = client.files();

    let dry = client.sh(&gateway, "docker", "--dry-run").ok();
    assert!(dry.contains("would write /usr/local/share/ca-certificates/pierhead-docker.crt"));
    assert!(dry.contains("would write /etc/docker/certs.d/registry.partner.example/pierhead.crt"));
    assert!(dry.contains("would write /etc/systemd/system/docker.service.d/pierhead.conf"));
    assert!(dry.contains("would run: update-ca-certificates"));
    assert_same(&before, &client.files());

    let first = client.sh(&gateway, "docker", "").ok();
    let fingerprint = fingerprint(gateway.ca());
    assert!(
        first.contains(&format!("CA sha256 {fingerprint}")),
        "{first}"
    );
    assert!(first.contains("Done."), "{first}");
    let docker = Docker::start(client.service("docker"));
    for (name, image) in [&hub, &partner] {
        if name.full.starts_with(PARTNER) {
            docker.login(Some(PARTNER), "alice", "open sesame").ok();
        }
        docker.pull(&name.full).ok();
        assert_eq!(docker.id(&name.full), image.id);
    }
    drop(docker);
    // dockerd keeps a key there that is its own.
    let _ = std::fs::remove_file(client.dir.join("etc/docker/key.json"));

    let set = client.files();
    let second = client.sh(&gateway, "docker", "").ok();
    assert!(second.contains("nothing was changed"), "{second}");
    assert!(!second.contains("running:"), "{second}");
    assert_same(&set, &client.files());

    let undone = client.sh(&gateway, "docker", "--undo").ok();
    assert!(undone.contains("Done."), "{undone}");
    assert_same(&before, &client.files());
    let again = client.sh(&gateway, "docker", "--undo").ok();
    assert!(again.contains("Nothing to take back."), "{again}");
}

#[test]
fn docker_logs_in_to_a_proxy_in_tls_and_the_login_is_for_root_alone() {
    let world = World::new();
    let (hub, _) = published(&world);
    let users = world.folder("users").join("htpasswd");
    let mut command = Command::new("htpasswd");
    command.args(["-B", "-b", "-c"]).arg(&users);
    command.args(["ci", "p@ss:w%rd/ü"]);
    run(command, LIMIT).ok();
    let gateway = world.gateway(&format!(
        "[listen]\nproxy_tls = [\"127.0.0.1:0\"]\n[policy]\nusers_file = \"{}\"\n",
        users.display()
    ));
    let client = Client::of(&world);
    let before = client.files();
    let banner = gateway.logged();
    let tls = banner
        .split_whitespace()
        .find(|word| word.starts_with("https://"));
    let tls = tls.expect("a proxy in TLS");

    // Whoever trusts the CA already can ask in TLS; the script is open to all, as the CA is.
    let ca = gateway.ca().display();
    let fetch = format!("curl -fsSL --cacert {ca} {tls}/setup/docker");
    let line =
        format!("{fetch} | PIERHEAD_NO_PROXY=r.corp PIERHEAD_PROXY_LOGIN='ci:p@ss:w%rd/ü' sh");
    let said = client.shell(&line).ok();
    assert!(
        !said.contains("w%rd"),
        "the password stays off the terminal: {said}"
    );
    let secret = client
        .dir
        .join("etc/systemd/system/docker.service.d/pierhead.env");
    let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let conf = std::fs::read_to_string(secret.with_extension("conf")).unwrap();
    assert!(conf.contains("\nEnvironment=NO_PROXY=r.corp\n"), "{conf}");

    let docker = Docker::start(client.service("docker"));
    docker.pull(&hub.0.full).ok();
    assert_eq!(docker.id(&hub.0.full), hub.1.id);
    drop(docker);
    // dockerd keeps a key there that is its own.
    let _ = std::fs::remove_file(client.dir.join("etc/docker/key.json"));

    let set = client.files();
    // The login and what goes without the proxy are kept where none are given.
    client.shell(&format!("{fetch} | sh")).ok();
    assert_same(&set, &client.files());
    client.shell(&format!("{fetch} | sh -s -- --undo")).ok();
    assert_same(&before, &client.files());
}

#[test]
fn containerd_is_set_up_and_ctr_pulls() {
    let world = World::new();
    let (hub, partner) = published(&world);
    let gateway = world.gateway("");
    let client = Client::of(&world);
    let before = client.files();
    let said = client.sh(&gateway, "containerd", "").ok();
    let mut proxy = said
        .split("HTTPS_PROXY=")
        .last()
        .unwrap()
        .split_whitespace();
    assert_eq!(proxy.next(), Some(gateway.proxy()), "for ctr: {said}");

    // ctr asks by itself, with what the service is given.
    let containerd = Containerd::start(client.service("containerd"));
    containerd.pull(&hub.0.full).ok();
    containerd
        .pull_as(&partner.0.full, "alice", "open sesame")
        .ok();
    let images = containerd.images();
    assert!(images.contains(&hub.1.manifest.digest), "{images}");
    assert!(images.contains(&partner.1.manifest.digest), "{images}");
    drop(containerd);

    client.sh(&gateway, "containerd", "--undo").ok();
    assert_same(&before, &client.files());
}

#[test]
fn podman_skopeo_and_buildah_are_set_up_together() {
    let world = World::new();
    let (hub, partner) = published(&world);
    let gateway = world.gateway("");
    let client = Client::of(&world);
    let before = client.files();
    client.sh(&gateway, "podman", "").ok();

    let podman = Podman::on(client.service("none"));
    podman.pull(&hub.0.full).ok();
    podman
        .pull_with(&partner.0.full, &["--creds", "alice:open sesame"])
        .ok();
    let exported = vec![("HTTPS_PROXY".to_owned(), gateway.proxy().to_owned())];
    Podman::on(client.machine.with(exported.clone()))
        .build_pull(&hub.0.full)
        .ok();
    let skopeo = Skopeo::on(client.machine.with(exported));
    skopeo.copy(&hub.0.full, "copied").ok();
    assert_holds(&skopeo.folder("copied"), &hub.1);

    client.sh(&gateway, "podman", "--undo").ok();
    assert_same(&before, &client.files());
}

#[test]
fn what_a_person_changed_since_is_left_and_named() {
    let world = World::new();
    let gateway = world.gateway("");
    let client = Client::of(&world);
    client.sh(&gateway, "docker", "").ok();
    let conf = client
        .dir
        .join("etc/systemd/system/docker.service.d/pierhead.conf");
    let mut text = std::fs::read_to_string(&conf).unwrap();
    text.push_str("Environment=NO_PROXY=registry.corp\n");
    std::fs::write(&conf, &text).unwrap();
    let named = "/etc/systemd/system/docker.service.d/pierhead.conf was changed by hand";

    let again = client.sh(&gateway, "docker", "").ok();
    assert!(again.contains(named), "{again}");
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), text);
    let undone = client.sh(&gateway, "docker", "--undo").ok();
    assert!(undone.contains(named), "{undone}");
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), text);
    let anchor = client.dir.join("anchors/pierhead-docker.crt");
    assert!(!anchor.exists(), "all the rest is gone");

    // And a file that was never ours is nobody's to overwrite.
    std::fs::write(&conf, "[Service]\nEnvironment=HTTPS_PROXY=http://other:1\n").unwrap();
    let refused = client.sh(&gateway, "docker", "").fails();
    assert!(refused.contains("not from pierhead"), "{refused}");
}

#[test]
fn a_registry_that_left_the_gateway_leaves_the_client_with_the_next_run() {
    let world = World::new();
    let mut gateway = world.gateway("[[registry]]\nhost = \"leaving.example\"");
    let client = Client::of(&world);
    client.sh(&gateway, "docker", "").ok();
    let folder = client.dir.join("etc/docker/certs.d/leaving.example");
    assert!(folder.join("pierhead.crt").is_file());
    let mut config = world.config("");
    config.insert(
        "ca".into(),
        toml::Value::Table(toml::Table::from_iter([(
            "dir".to_owned(),
            toml::Value::String(gateway.ca().parent().unwrap().display().to_string()),
        )])),
    );
    gateway.kill();
    let gateway = Gateway::start(&world.folder("g"), config);
    client.sh(&gateway, "docker", "").ok();
    assert!(!folder.exists(), "taken away with its folder");
    assert!(
        client
            .dir
            .join("etc/docker/certs.d/ghcr.io/pierhead.crt")
            .is_file()
    );
}

/// Each kind of system, with no other shell and tools than busybox has: what is written where, and who is
/// asked to read it.
#[test]
fn every_systems_store_is_found_and_a_shell_of_busybox_is_enough() {
    let world = World::new();
    let gateway = world.gateway("");
    for (store, reader) in [
        ("usr/local/share/ca-certificates", "update-ca-certificates"), // Debian, Alpine
        ("etc/pki/ca-trust/source/anchors", "update-ca-trust"),        // Fedora, RHEL
        ("etc/pki/trust/anchors", "update-ca-certificates"),           // SUSE
        (
            "etc/ca-certificates/trust-source/anchors",
            "update-ca-trust",
        ), // Arch
    ] {
        let system = System::new(&world, store, reader);
        let script = system.fetch(&gateway, "docker");
        let refused = system.run(&script, "").fails();
        assert!(refused.contains("no Docker"), "{refused}");
        system.program("dockerd", "");
        let before = files(&system.root);
        let dry = system.run(&script, "--dry-run").ok();
        assert!(dry.contains(&format!("would run: {reader}")), "{dry}");
        assert_same(&before, &files(&system.root));

        let said = system.run(&script, "").ok();
        assert!(said.contains("systemd does not run here"), "{said}");
        assert!(
            said.contains(&format!("HTTPS_PROXY={}", gateway.proxy())),
            "{said}"
        );
        let bundle = std::fs::read_to_string(system.root.join("bundle.pem")).unwrap();
        assert!(bundle.contains(std::fs::read_to_string(gateway.ca()).unwrap().trim()));
        let set = files(&system.root);
        system.run(&script, "").ok();
        assert_same(&set, &files(&system.root));
        system.run(&script, "--undo").ok();
        std::fs::remove_file(system.root.join("bundle.pem")).unwrap();
        assert_same(&before, &files(&system.root));
    }
}

/// What update-ca-trust of Fedora and RHEL asks, p11-kit, over the folder that the script writes to.
#[test]
fn fedoras_own_reader_takes_the_ca_from_the_file_that_is_written() {
    let world = World::new();
    let gateway = world.gateway("");
    let system = System::new(&world, "etc/pki/ca-trust/source/anchors", "update-ca-trust");
    system.program("dockerd", "");
    let script = system.fetch(&gateway, "docker");
    system.run(&script, "").ok();
    let bundle = world.path().join("extracted.pem");
    let read = r#"
        modules=/usr/share/p11-kit/modules
        mount -t tmpfs tmpfs $modules
        printf "module: p11-kit-trust.so\ntrust-policy: yes\nx-init-reserved: paths='%s'\n" "$1" > $modules/trust.module
        trust extract --format=pem-bundle --filter=ca-anchors --purpose=server-auth --overwrite "$2"
    "#;
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        read,
        "sh",
    ]);
    command
        .arg(system.root.join("etc/pki/ca-trust/source"))
        .arg(&bundle);
    run(command, LIMIT).ok();
    let bundle = std::fs::read_to_string(bundle).unwrap();
    let ca = std::fs::read_to_string(gateway.ca()).unwrap();
    assert!(bundle.contains(ca.trim()), "{bundle}");
}

#[test]
fn a_store_nobody_could_read_is_refused_before_anything_is_written() {
    let world = World::new();
    let gateway = world.gateway("");
    let system = System::new(
        &world,
        "usr/local/share/ca-certificates",
        "update-ca-certificates",
    );
    system.program("dockerd", "");
    std::fs::remove_file(system.root.join("bin/update-ca-certificates")).unwrap();
    let script = system.fetch(&gateway, "docker");
    let before = files(&system.root);
    let refused = system.run(&script, "").fails();
    assert!(
        refused.contains("Install the package ca-certificates"),
        "{refused}"
    );
    assert_same(&before, &files(&system.root));
}

/// The root of an image that does not run, with a Kubernetes that brings containerd inside.
#[test]
fn an_image_of_a_k3s_node_is_set_up_before_it_runs() {
    let world = World::new();
    let gateway = world.gateway("");
    let root = world.folder("image");
    for folder in [
        "usr/local/bin",
        "etc/systemd/system",
        "etc/pki/ca-trust/source/anchors",
    ] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("etc/systemd/system/k3s.service"), "[Service]\n").unwrap();
    let set_up = |option: &str| {
        let url = format!("{}/setup/containerd", gateway.proxy());
        let line = format!("curl -fsSL --noproxy '*' {url} | sh -s -- {option}");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).env("PIERHEAD_ROOT", &root);
        run(command, LIMIT)
    };
    let refused = set_up("").fails();
    assert!(refused.contains("no containerd in "), "{refused}");
    let program = root.join("usr/local/bin/k3s");
    std::fs::write(&program, "").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

    let before = files(&root);
    let said = set_up("").ok();
    assert!(said.contains("update-ca-trust is not in"), "{said}");
    assert!(
        said.contains("k3s reads this when the image starts"),
        "{said}"
    );
    let conf = root.join("etc/systemd/system/k3s.service.d/pierhead.conf");
    let conf = std::fs::read_to_string(conf).unwrap();
    let proxy = format!("Environment=HTTPS_PROXY={}\n", gateway.proxy());
    assert!(
        conf.contains(&proxy) && conf.contains(".cluster.local"),
        "{conf}"
    );
    assert!(
        !root
            .join("etc/systemd/system/containerd.service.d")
            .exists()
    );
    set_up("--undo").ok();
    assert_same(&before, &files(&root));
}

#[test]
fn shellcheck_finds_nothing_in_any_script() {
    let world = World::new();
    let gateway = world.gateway("");
    let client = Client::of(&world);
    for name in ["docker", "containerd", "podman", "buildkit"] {
        let file = client.fetched(&gateway, name);
        let mut command = Command::new("shellcheck");
        command
            .args(["--shell", "sh", "--enable", "check-unassigned-uppercase"])
            .arg(file);
        run(command, LIMIT).ok();
    }
    let mut command = Command::new("shellcheck");
    command.args(["--severity", "warning", "scripts/test"]);
    for script in [
        "release",
        "deb/build",
        "deb/postinst",
        "deb/prerm",
        "deb/postrm",
        "container/build",
    ] {
        command.arg(format!("scripts/package/{script}"));
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    run(command, LIMIT).ok();
}

/// A client machine, and what it looks like.
struct Client {
    machine: Machine,
    dir: PathBuf,
}

impl Client {
    fn of(world: &World) -> Self {
        let machine = Machine::new(world.folder("m"), "", Trust::OfItsOwn);
        let dir = machine.path().to_owned();
        // A dockerd of this computer may have left its key; the machine's makes its own.
        let _ = std::fs::remove_file(dir.join("etc/docker/key.json"));
        let client = Self { machine, dir };
        // Its store as this leaves it: what was added by hand before is no change of ours.
        client.shell("update-ca-certificates --fresh").ok();
        client
    }

    fn sh(&self, gateway: &Gateway, client: &str, options: &str) -> Finished {
        let url = format!("{}/setup/{client}", gateway.proxy());
        self.shell(&format!("curl -fsSL {url} | sh -s -- {options}"))
    }

    fn shell(&self, line: &str) -> Finished {
        let mut command = self.machine.command("sh");
        command.args(["-c", line]);
        run(command, LIMIT)
    }

    fn fetched(&self, gateway: &Gateway, client: &str) -> PathBuf {
        let file = self.dir.join(client);
        let url = format!("{}/setup/{client}", gateway.proxy());
        self.machine
            .curl(&["-f", &url, "-o", &file.display().to_string()])
            .ok();
        file
    }

    /// The machine as systemd starts the service on it: with what the drop-ins say.
    fn service(&self, unit: &str) -> Machine {
        let folder = self
            .dir
            .join(format!("etc/systemd/system/{unit}.service.d"));
        let conf = std::fs::read_to_string(folder.join("pierhead.conf")).unwrap_or_default();
        let mut environment = Vec::new();
        for line in conf.lines() {
            if let Some(set) = line.strip_prefix("Environment=") {
                environment.push(set.to_owned());
            } else if let Some(file) = line.strip_prefix("EnvironmentFile=") {
                let file = self.dir.join(file.trim_start_matches('/'));
                let text = std::fs::read_to_string(file).unwrap();
                let lines = text.lines().filter(|line| !line.starts_with('#'));
                environment.extend(lines.map(str::to_owned));
            }
        }
        let pairs = environment
            .iter()
            .map(|set| set.split_once('=').expect("NAME=VALUE"));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.machine.with(pairs.collect())
    }

    /// All that a set-up could touch.
    fn files(&self) -> Files {
        let mut all = files(&self.dir.join("etc"));
        all.extend(files(&self.dir.join("anchors")));
        all
    }
}

/// The root of a system that has busybox, and nothing else but what is put there.
struct System {
    root: PathBuf,
}

impl System {
    fn new(world: &World, store: &str, reader: &str) -> Self {
        let root = world.folder("root");
        for folder in ["bin", "tmp", "etc", "dev", store] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let mut command = Command::new("sh");
        // Every program of its list is a link to it, as on Alpine.
        command.args(["-ec", "cp /bin/busybox bin; cd bin; for name in $(./busybox --list); do [ -e $name ] || ln -s busybox $name; done; mknod -m 666 ../dev/null c 1 3"]);
        command.current_dir(&root);
        run(command, LIMIT).ok();
        let system = Self { root };
        // What the reader does everywhere, in one line.
        system.program(
            reader,
            &format!("cat /{store}/*.crt > /bundle.pem || : > /bundle.pem"),
        );
        system
    }

    fn program(&self, name: &str, line: &str) {
        let file = self.root.join("bin").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{line}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn fetch(&self, gateway: &Gateway, client: &str) -> String {
        let mut command = Command::new("curl");
        command.args([
            "-fsSL",
            "--noproxy",
            "*",
            &format!("{}/setup/{client}", gateway.proxy()),
        ]);
        let script = run(command, LIMIT).ok();
        std::fs::write(self.root.join("tmp/script"), script).unwrap();
        "/tmp/script".to_owned()
    }

    fn run(&self, script: &str, option: &str) -> Finished {
        let words = ["/bin/sh", script, option];
        let given = 3 - usize::from(option.is_empty());
        self.inside(&words[..given])
    }

    fn inside(&self, words: &[&str]) -> Finished {
        let mut command = Command::new("/usr/sbin/chroot");
        command
            .arg(&self.root)
            .args(words)
            .env_clear()
            .env("PATH", "/bin");
        run(command, LIMIT)
    }
}

type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Every file, folder and link below a folder, by mode and content.
fn files(root: &Path) -> Files {
    let mut all = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = std::fs::symlink_metadata(&path).unwrap();
            let content = if about.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .display()
                    .to_string()
                    .into()
            } else if about.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            all.insert(path, (about.permissions().mode(), content));
        }
    }
    all
}

#[track_caller]
fn assert_same(before: &Files, after: &Files) {
    let differ = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let paths: Vec<&PathBuf> = before.keys().chain(after.keys()).filter(differ).collect();
    assert!(paths.is_empty(), "not as before: {paths:?}");
}

/// One public image, and one that asks for a login.
fn published(world: &World) -> ((Name, Image), (Name, Image)) {
    let hub = Image::docker(&[300_000, 4096]);
    let partner = Image::docker(&[200_000]);
    let names = (
        world.publish(HUB, "library/app:1", &hub),
        world.publish(PARTNER, "team/app:1", &partner),
    );
    ((names.0, hub), (names.1, partner))
}

/// As openssl tells it.
fn fingerprint(ca: &Path) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(ca);
    let told = run(command, LIMIT).ok();
    told.trim()
        .split_once('=')
        .expect("NAME=VALUE")
        .1
        .to_owned()
}
