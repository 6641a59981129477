//! The container image and the Kubernetes manifests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::clients::{Skopeo, assert_holds};
use crate::debian::in_a_network_of_its_own;
use crate::image::Image;
use crate::machine::{Machine, Trust};
use crate::process::{Finished, run, wait_for};
use crate::upstream::HUB;
use crate::world::World;

const BINARY: &str = env!("CARGO_BIN_EXE_pierhead");
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const LIMIT: Duration = Duration::from_secs(120);
const PROXY: &str = "http://127.0.0.1:3128";
/// `scripts/test` makes it.
const PYTHON: &str = "target/tools/kubernetes-validate-1.37.0/bin";

#[test]
fn the_image_serves_as_nobody_on_a_read_only_root_and_keeps_its_ca() {
    if !in_a_network_of_its_own(
        "container::the_image_serves_as_nobody_on_a_read_only_root_and_keeps_its_ca",
    ) {
        return;
    }
    let world = World::new();
    let engine = Engine::new(&world);
    engine.build_base();
    let mut command = Command::new(Path::new(SOURCES).join("scripts/package/container/build"));
    command.args([
        "--binary",
        BINARY,
        "--base",
        "localhost/base",
        "--tag",
        "localhost/pierhead:test",
        "--",
    ]);
    command.args(engine.storage());
    run(command, LIMIT).ok();

    let shipped = Path::new(SOURCES).join("scripts/package/container/pierhead.toml");
    let mut config: toml::Table = std::fs::read_to_string(shipped).unwrap().parse().unwrap();
    let mut tests = world.config("[upstream]\nca_file = \"/etc/pierhead/roots.pem\"\n");
    config.insert(
        "upstream".to_owned(),
        tests.remove("upstream").expect("a table"),
    );
    let settings = world.path().join("pierhead.toml");
    std::fs::write(&settings, toml::to_string(&config).unwrap()).unwrap();
    let mounted = |file: &Path, name: &str| format!("{}:/etc/pierhead/{name}:ro", file.display());

    engine
        .podman(&[
            "run",
            "--detach",
            "--name",
            "gateway",
            "--network",
            "host",
            "--read-only",
            "--cap-drop",
            "all",
        ])
        .args([
            "--volume",
            "ca:/var/lib/pierhead",
            "--volume",
            "cache:/var/cache/pierhead",
        ])
        .arg("--volume")
        .arg(mounted(&settings, "pierhead.toml"))
        .arg("--volume")
        .arg(mounted(&world.path().join("upstream.pem"), "roots.pem"))
        // No more than a sandbox allows that tests may run in.
        .args([
            "--ulimit",
            "nofile=8192:8192",
            "--ulimit",
            "nproc=4096:4096",
        ])
        .arg("localhost/pierhead:test")
        .ok();
    let ca = engine.ca();
    let file = world.path().join("ca.crt");
    std::fs::write(&file, &ca).unwrap();
    let user = engine.podman(&["top", "gateway", "user", "capeff"]).ok();
    assert!(user.contains("65532") && user.contains("none"), "{user}");
    engine.podman(&["healthcheck", "run", "gateway"]).ok();

    let image = Image::docker(&[300_000, 4096]);
    let name = world.publish(HUB, "library/app:1", &image);
    let skopeo = Skopeo::on(Machine::new(
        world.folder("m"),
        PROXY,
        Trust::Everywhere(file),
    ));
    skopeo.copy(&name.full, "copied").ok();
    assert_holds(&skopeo.folder("copied"), &image);

    engine.podman(&["restart", "--time", "40", "gateway"]).ok();
    assert_eq!(engine.ca(), ca, "the volume keeps it");
    engine.podman(&["stop", "--time", "40", "gateway"]).ok();
    let code = engine
        .podman(&["inspect", "--format", "{{.State.ExitCode}}", "gateway"])
        .ok();
    assert_eq!(code.trim(), "0", "SIGTERM is an orderly end");
    engine
        .podman(&["rm", "--force", "--volumes", "gateway"])
        .ok();
}

#[test]
fn kubernetes_takes_the_manifests_and_pierhead_their_configuration() {
    let world = World::new();
    let manifest = Path::new(SOURCES).join("scripts/package/kubernetes/pierhead.yaml");
    valid(&manifest);
    let settings = world.path().join("pierhead.toml");
    std::fs::write(&settings, data(&manifest, "pierhead.toml")).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["check", "--config"]).arg(&settings);
    run(command, LIMIT).ok();

    let gateway = world.gateway("");
    let served = |path: &str| {
        let mut command = Command::new("curl");
        command.args([
            "-fsSL",
            "--noproxy",
            "*",
            &format!("{}/setup/{path}", gateway.proxy()),
        ]);
        run(command, LIMIT).ok()
    };
    for (path, call) in [
        ("kubernetes", "main \"$@\""),
        ("kubernetes?undo", "main --undo \"$@\""),
    ] {
        let file = world.path().join("setup.yaml");
        std::fs::write(&file, served(path)).unwrap();
        valid(&file);
        let script = data(&file, "setup.sh");
        assert!(script.ends_with(&format!("\n{call}\n")), "{path}");
        if path == "kubernetes" {
            assert_eq!(
                script,
                served("containerd"),
                "what any machine with containerd runs"
            );
        }
    }
}

/// buildah and podman with storage of their own.
struct Engine {
    dir: PathBuf,
}

/// A command of podman's, to be completed.
struct Podman(Command);

impl Engine {
    fn new(world: &World) -> Self {
        Self {
            dir: world.folder("engine"),
        }
    }

    fn storage(&self) -> Vec<String> {
        let folder = |name: &str| self.dir.join(name).display().to_string();
        [
            "--root",
            &folder("root"),
            "--runroot",
            &folder("run"),
            "--storage-driver",
            "vfs",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn podman(&self, words: &[&str]) -> Podman {
        let mut command = Command::new("podman");
        // Checks are run by hand: there may be no systemd to run them by timer.
        command.env("DISABLE_HC_SYSTEMD", "true");
        command
            .args(self.storage())
            .args(["--cgroup-manager", "cgroupfs"])
            .args(words);
        Podman(command)
    }

    /// What a base image for programs in Rust brings: the libraries that this one is linked with.
    fn build_base(&self) {
        let script = r#"
            mkdir base
            ldd "$1" | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} base
            mkdir -p base/etc/ssl/certs base/tmp
            shift
            container=$(buildah "$@" from scratch)
            buildah "$@" copy --quiet "$container" base /
            buildah "$@" commit --quiet "$container" localhost/base
        "#;
        let mut command = Command::new("sh");
        command
            .args(["-ec", script, "sh", BINARY])
            .args(self.storage())
            .current_dir(&self.dir);
        run(command, LIMIT).ok();
    }

    /// The gateway's CA, when it answers.
    fn ca(&self) -> String {
        wait_for("the gateway to answer", LIMIT, || {
            let mut command = Command::new("curl");
            command.args([
                "-fsS",
                "--noproxy",
                "*",
                "--max-time",
                "10",
                &format!("{PROXY}/ca.crt"),
            ]);
            let answer = run(command, LIMIT);
            answer.succeeded().then_some(answer.stdout)
        })
    }
}

impl Podman {
    fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(word);
        self
    }

    fn args(mut self, words: impl IntoIterator<Item = &'static str>) -> Self {
        self.0.args(words);
        self
    }

    #[track_caller]
    fn ok(self) -> String {
        run(self.0, LIMIT).ok()
    }
}

/// By the schemas of Kubernetes, which know every field.
#[track_caller]
fn valid(manifest: &Path) {
    python(
        "kubernetes-validate",
        &["--strict".as_ref(), manifest.as_os_str()],
    )
    .ok();
}

/// What a ConfigMap holds under a key.
fn data(manifest: &Path, key: &str) -> String {
    let script = "import sys, yaml\n\
        maps = [one for one in yaml.safe_load_all(open(sys.argv[1])) if one['kind'] == 'ConfigMap']\n\
        sys.stdout.write(maps[0]['data'][sys.argv[2]])";
    python(
        "python",
        &[
            "-c".as_ref(),
            script.as_ref(),
            manifest.as_os_str(),
            key.as_ref(),
        ],
    )
    .ok()
}

fn python(program: &str, words: &[&std::ffi::OsStr]) -> Finished {
    let mut command = Command::new(Path::new(SOURCES).join(PYTHON).join(program));
    command.args(words);
    run(command, LIMIT)
}
