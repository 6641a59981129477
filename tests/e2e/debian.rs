//! The package on a minimal Debian with its own systemd as the first process: installed, pulled through,
//! upgraded under requests, removed, purged.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clients::{Skopeo, assert_holds};
use crate::image::Image;
use crate::machine::{Machine, Trust};
use crate::process::{Daemon, Finished, run, wait_for};
use crate::upstream::HUB;
use crate::world::World;

const BINARY: &str = env!("CARGO_BIN_EXE_pierhead");
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
/// Long: a package is unpacked, and a daemon reload waits for its turn on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);
const PROXY: &str = "127.0.0.1:3128";
const ADMIN: &str = "127.0.0.1:3129";

/// Mounts what a container engine mounts, and lets systemd take the shell's place as process 1.
const BOOT: &str = r#"
    root="$1"
    mount -t overlay -o "lowerdir=$BASE,upperdir=$2,workdir=$3" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --rbind -o ro /sys "$root/sys"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    cd "$root"
    mkdir outside
    pivot_root . outside
    umount -l /outside
    rmdir /outside
    exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --show-status=no
"#;

#[test]
fn the_package_installs_serves_upgrades_and_purges() {
    if !in_a_network_of_its_own("debian::the_package_installs_serves_upgrades_and_purges") {
        return;
    }
    let mut world = World::new();
    let package = package(&world);
    lintian(&package);
    let debian = Debian::boot(&world);
    let before = debian.files();

    debian.install(&package);
    assert_eq!(debian.state("pierhead"), "active");
    assert_eq!(
        debian
            .sh("stat -c %U:%a /var/lib/pierhead/ca/ca.key")
            .ok()
            .trim(),
        "pierhead:600"
    );
    assert_eq!(
        debian
            .sh("systemctl is-enabled pierhead pierhead.socket")
            .stdout,
        "enabled\ndisabled\n"
    );
    debian.sh("test -s /usr/share/man/man1/pierhead.1.gz && test -s /usr/share/bash-completion/completions/pierhead").ok();

    // The file's change is taken by a reload, as systemd asks for one.
    let config = config(&world);
    debian.write("etc/pierhead/pierhead.toml", &config);
    std::fs::copy(
        world.path().join("upstream.pem"),
        debian.root("etc/pierhead/roots.pem"),
    )
    .unwrap();
    debian.sh("systemctl reload pierhead").ok();
    wait_for("the reload", LIMIT, || {
        let metrics = get(ADMIN, "/metrics").ok()?;
        let taken = "pierhead_config_reloads_total{result=\"taken\"} 1";
        metrics.contains(taken).then_some(())
    });

    let image = Image::docker(&[300_000, 4096]);
    let name = world.publish(HUB, "library/app:1", &image);
    let ca = world.path().join("ca.crt");
    std::fs::write(&ca, http("/ca.crt").expect("the CA")).unwrap();
    let pull = |to: &str| {
        let trust = Trust::Everywhere(ca.clone());
        let machine = Machine::new(world.folder("m"), &format!("http://{PROXY}"), trust);
        let skopeo = Skopeo::on(machine);
        skopeo.copy(&name.full, to).ok();
        assert_holds(&skopeo.folder(to), &image);
    };
    pull("first");
    clients_are_set_up_with_a_real_systemctl(&debian);

    // From here on systemd listens, and whoever asks during an upgrade waits and is answered.
    debian.sh("systemctl stop pierhead && systemctl enable --now pierhead.socket && systemctl start pierhead").ok();
    let newer = newer(&world, &package);
    let done = AtomicBool::new(false);
    let first = debian.pid("pierhead");
    let (answered, failed) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut count = (0, Vec::new());
            let deadline = Instant::now() + LIMIT; // should the upgrade panic
            while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                match http("/healthz") {
                    Ok(body) if body.contains("ok") => count.0 += 1,
                    other => count.1.push(format!("{other:?}")),
                }
            }
            count
        });
        debian.install(&newer);
        wait_for("the new process", LIMIT, || {
            (debian.state("pierhead") == "active").then_some(())
        });
        done.store(true, Ordering::Relaxed);
        asking.join().expect("no panic")
    });
    assert_ne!(debian.pid("pierhead"), first, "restarted");
    assert!(
        answered > 0 && failed.is_empty(),
        "{answered} answered; {failed:?}"
    );
    let kept = std::fs::read_to_string(debian.root("etc/pierhead/pierhead.toml")).unwrap();
    assert_eq!(kept, config, "what an administrator wrote stays");
    assert_eq!(
        http("/ca.crt").unwrap(),
        std::fs::read_to_string(&ca).unwrap()
    );
    // Out of the cache that was there before, with nobody upstream.
    world.upstream.go_away();
    let skopeo = Skopeo::on(Machine::new(
        world.folder("m"),
        &format!("http://{PROXY}"),
        Trust::Everywhere(ca.clone()),
    ));
    skopeo.copy(&name.full, "again").ok();
    assert_holds(&skopeo.folder("again"), &image);

    debian.sh("dpkg --remove pierhead").ok();
    assert!(TcpStream::connect(PROXY).is_err(), "nobody listens");
    debian
        .sh("test -s /var/lib/pierhead/ca/ca.key && test -s /etc/pierhead/pierhead.toml")
        .ok();
    // What the test put there beside the package.
    debian.sh("rm /etc/pierhead/roots.pem").ok();
    debian.sh("dpkg --purge pierhead").ok();
    let left: Vec<PathBuf> = debian.files().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_unit_asks_for_little() {
    let unit = Path::new(SOURCES).join("scripts/package/systemd/pierhead.service");
    let mut command = Command::new("systemd-analyze");
    // A threshold of 1.1, in tenths. What remains is that a proxy has a network.
    command
        .args(["security", "--offline=true", "--threshold=11", "--no-pager"])
        .arg(unit);
    run(command, LIMIT).ok();
}

/// A unit called docker gets its drop-in by the script, and is restarted with it; and back.
fn clients_are_set_up_with_a_real_systemctl(debian: &Debian) {
    debian.write(
        "etc/systemd/system/docker.service",
        "[Service]\nExecStart=/usr/bin/dockerd infinity\n",
    );
    debian.sh("cp /usr/bin/sleep /usr/bin/dockerd && systemctl daemon-reload && systemctl start docker").ok();
    debian.write("setup.sh", &http("/setup/docker").expect("a script"));
    let first = debian.pid("docker");
    let said = debian.sh("sh /setup.sh").ok();
    assert!(said.contains("running: systemctl restart docker"), "{said}");
    assert_ne!(debian.pid("docker"), first);
    let environment = |pid: &str| {
        debian
            .sh(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"))
            .ok()
    };
    let has = environment(&debian.pid("docker"));
    assert!(
        has.contains(&format!("HTTPS_PROXY=http://{PROXY}\n")),
        "{has}"
    );
    debian.sh("sh /setup.sh --undo").ok();
    assert!(!environment(&debian.pid("docker")).contains("HTTPS_PROXY"));
    debian.sh("systemctl stop docker && rm /setup.sh /usr/bin/dockerd /etc/systemd/system/docker.service").ok();
}

/// A machine with systemd, over a root that `scripts/test` has made.
struct Debian {
    root: PathBuf,
    pid: String,
    _first: Daemon,
}

impl Debian {
    fn boot(world: &World) -> Self {
        let base = Path::new(SOURCES).join("target/debian-root");
        assert!(
            base.join("usr").is_dir(),
            "scripts/test makes {}",
            base.display()
        );
        let dir = world.folder("debian");
        let [root, upper, work] = ["root", "upper", "work"].map(|name| dir.join(name));
        for folder in [&root, &upper, &work] {
            std::fs::create_dir(folder).unwrap();
        }
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
            ])
            .args(["--fork", "--kill-child", "--", "sh", "-ec", BOOT, "boot"])
            .args([&root, &upper, &work])
            .env("BASE", base);
        let first = Daemon::start("systemd", command, &dir.join("boot.log"));
        let children = format!("/proc/{0}/task/{0}/children", first.pid());
        let pid = wait_for("the first process", LIMIT, || {
            let child = std::fs::read_to_string(&children).ok()?.trim().to_owned();
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim() == "systemd").then_some(child)
        });
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let debian = Self {
            root,
            pid,
            _first: first,
        };
        wait_for("systemd to be up", LIMIT, || {
            let state = debian.sh("systemctl is-system-running").stdout;
            ["running", "degraded"]
                .contains(&state.trim())
                .then_some(())
        });
        debian
    }

    fn sh(&self, line: &str) -> Finished {
        let mut command = Command::new("nsenter");
        command.args([
            "--target", &self.pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup",
        ]);
        command
            .args(["--root", "--wd", "--", "sh", "-c", line])
            .env_clear();
        command
            .env("PATH", "/usr/sbin:/usr/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(command, LIMIT)
    }

    #[track_caller]
    fn install(&self, package: &Path) {
        std::fs::copy(package, self.root("package.deb")).unwrap();
        let installed = self.sh("dpkg --force-confold --install /package.deb");
        if !installed.succeeded() || self.state("pierhead") != "active" {
            let journal = self
                .sh("journalctl --no-pager -u pierhead; systemctl status pierhead")
                .stdout;
            panic!("{installed}\n{journal}");
        }
        std::fs::remove_file(self.root("package.deb")).unwrap();
    }

    fn state(&self, unit: &str) -> String {
        self.sh(&format!("systemctl is-active {unit}"))
            .stdout
            .trim()
            .to_owned()
    }

    fn pid(&self, unit: &str) -> String {
        self.sh(&format!("systemctl show --value --property MainPID {unit}"))
            .ok()
            .trim()
            .to_owned()
    }

    fn root(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.root(path), text).unwrap();
    }

    /// All that there is, but for what Debian's own tools keep of what went on.
    fn files(&self) -> BTreeSet<PathBuf> {
        let found = self.sh(
            "find / -xdev \\( -path /var/lib/dpkg -o -path /var/log -o -path /tmp -o -path /var/tmp \
             -o -path /var/lib/systemd -o -path /var/cache/ldconfig -o -path /var/cache/debconf \\) -prune -o -print",
        );
        let lines = found.ok();
        // adduser keeps copies of the files that it changes.
        let theirs = |line: &&str| line.starts_with("/etc/") && line.ends_with('-');
        lines
            .lines()
            .filter(|line| !theirs(line))
            .map(PathBuf::from)
            .collect()
    }
}

/// True in a process whose network is its own, with nothing but loopback in it. Elsewhere it runs the test
/// there, and answers false when that has passed: what listens on a port that is written in a package
/// can run beside any other program then.
pub fn in_a_network_of_its_own(test: &str) -> bool {
    const INSIDE: &str = "NETWORK_OF_ITS_OWN";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--kill-child",
        "--fork",
        "sh",
        "-ec",
        "ip link set lo up; exec \"$@\"",
        "sh",
    ]);
    command.arg(std::env::current_exe().expect("the name of this program"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "yes");
    let finished = run(command, Duration::from_secs(280));
    assert!(finished.stdout.contains("1 passed"), "{finished}");
    finished.ok();
    false
}

fn package(world: &World) -> PathBuf {
    let folder = world.folder("package");
    let mut command = Command::new(Path::new(SOURCES).join("scripts/package/deb/build"));
    command
        .arg("--binary")
        .arg(BINARY)
        .arg("--output")
        .arg(&folder);
    PathBuf::from(run(command, LIMIT).ok().trim())
}

/// The same with a higher version.
fn newer(world: &World, package: &Path) -> PathBuf {
    let folder = world.folder("newer");
    let [tree, newer] = [folder.join("tree"), folder.join("newer.deb")];
    let mut command = Command::new("dpkg-deb");
    command.arg("--raw-extract").arg(package).arg(&tree);
    run(command, LIMIT).ok();
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("Version: "))
        .expect("a version");
    std::fs::write(&control, text.replace(line, &format!("{line}.1"))).unwrap();
    // And another file of settings, so that dpkg has to ask, or be told, which one is to stay.
    let settings = tree.join("etc/pierhead/pierhead.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}# A newer one.\n")).unwrap();
    let mut command = Command::new("dpkg-deb");
    command
        .args(["-Znone", "--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&newer);
    run(command, LIMIT).ok();
    newer
}

fn lintian(package: &Path) {
    let mut command = Command::new("lintian");
    command
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(package);
    let told = run(command, LIMIT);
    assert!(told.succeeded() && told.stdout.is_empty(), "{told}");
}

fn config(world: &World) -> String {
    let shipped = Path::new(SOURCES).join("scripts/package/deb/pierhead.toml");
    let mut config: toml::Table = std::fs::read_to_string(shipped).unwrap().parse().unwrap();
    let mut tests = world.config("[upstream]\nca_file = \"/etc/pierhead/roots.pem\"\n");
    for key in ["upstream", "registry"] {
        config.insert(key.to_owned(), tests.remove(key).expect("a key"));
    }
    toml::to_string(&config).unwrap()
}

/// The body of an answer of 200 of the proxy port's own.
fn http(path: &str) -> Result<String, String> {
    get(PROXY, path)
}

fn get(address: &str, path: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // An answer to 1.0 ends with the connection, and comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e| e.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}
