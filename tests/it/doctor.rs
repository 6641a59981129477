//! `pierhead doctor` on client machines with something wrong: a folder is the machine, everything else is
//! real.

use std::path::Path;
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Gateway, Setup, Upstream, authority::TestCa, gateway, within};

const IMAGE: &str = "registry.test/team/app:v1";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// A client machine's files.
struct Machine(TempDir);

/// What the doctor said, and how it ended.
struct Found {
    code: Option<i32>,
    json: Value,
}

// === impl Machine ===

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(self, path: &str, text: &str) -> Self {
        let file = self.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
        self
    }

    /// dockerd has this proxy.
    fn docker(self, proxy: impl std::fmt::Display) -> Self {
        let text = format!("[Service]\nEnvironment=HTTPS_PROXY=http://{proxy}\n");
        self.put("etc/systemd/system/docker.service.d/pierhead.conf", &text)
    }

    /// Everybody has this proxy.
    fn everybody(self, proxy: impl std::fmt::Display) -> Self {
        self.put("etc/environment", &format!("HTTPS_PROXY=http://{proxy}\n"))
    }

    async fn ask(&self, args: &[&str]) -> Found {
        self.ask_at(&[], args).await
    }

    /// The same behind another command, such as one that changes the clock.
    async fn ask_at(&self, before: &[&str], args: &[&str]) -> Found {
        let plain = gateway::command();
        let mut command = match before {
            [] => tokio::process::Command::new(plain.get_program()),
            [first, rest @ ..] => {
                let mut command = tokio::process::Command::new(first);
                command.args(rest).arg(plain.get_program());
                command
            }
        };
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command
            .args(["doctor", "--json", "--root"])
            .arg(self.path())
            .args(args)
            // What runs the tests may trust whom it likes.
            .env_remove("SSL_CERT_FILE")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = within(90, output).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
        Found {
            code: output.status.code(),
            json: serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{wrong}")),
        }
    }
}

// === impl Found ===

impl Found {
    fn step(&self, name: &str) -> &Value {
        let steps = self.json["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 10, "{steps:#?}");
        steps.iter().find(|step| step["name"] == name).unwrap()
    }

    /// This step failed, for this reason, and its mend says this.
    #[track_caller]
    fn fails(&self, name: &str, found: &str, mend: &str) {
        let step = self.step(name);
        assert_eq!(step["state"], "failed", "{:#}", self.json);
        let text = |field: &str| step[field].as_str().unwrap().to_owned();
        assert!(text("found").contains(found), "no {found:?} in {step:#}");
        assert!(text("mend").contains(mend), "no {mend:?} in {step:#}");
        assert_eq!(self.code, Some(1));
        assert_eq!(self.json["well"], false);
    }

    /// All before this one went well, and none after it was tried.
    #[track_caller]
    fn stops_at(&self, name: &str) {
        let mut after = false;
        for step in self.json["steps"].as_array().unwrap() {
            let state = step["state"].as_str().unwrap();
            match (step["name"] == name, after) {
                (true, _) => after = true,
                (false, true) => assert_eq!(state, "skipped", "{step:#}"),
                (false, false) => assert_eq!(state, "ok", "{step:#}"),
            }
        }
    }
}

/// A gateway before a registry with an image and a token service.
async fn world() -> (Upstream, Gateway) {
    let up = Upstream::start().await;
    let (setup, _) = configured(&up);
    (up, setup.start().await)
}

fn configured(up: &Upstream) -> (Setup, crate::support::Image) {
    let registry = up.registry("registry.test").bearer("auth.test");
    let image = registry.repo("team/app").image("v1", 7, &[100]);
    (Gateway::before(up).registry("auth.test", ""), image)
}

#[tokio::test]
async fn a_machine_that_is_set_up_is_well_from_its_settings_to_a_manifest() {
    let (_up, gateway) = world().await;
    let machine = Machine::new().docker(gateway.proxy).put(
        "etc/docker/certs.d/registry.test/pierhead.crt",
        &gateway.ca_pem,
    );
    let found = machine.ask(&[IMAGE]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    for step in found.json["steps"].as_array().unwrap() {
        assert_eq!(step["state"], "ok", "{:#}", found.json);
    }
    let trust = found.step("trust")["found"].as_str().unwrap();
    assert_eq!(trust, "docker: /etc/docker/certs.d/registry.test");
    let settings = found.step("settings")["found"].as_str().unwrap();
    assert!(
        settings.contains("/docker.service.d/pierhead.conf"),
        "{settings}"
    );
    assert!(found.step("token")["found"] == "from auth.test");
    // For people it says the same.
    let root = machine.path().to_str().unwrap();
    let told = gateway::run(&["doctor", "--root", root, IMAGE], machine.path()).await;
    assert_eq!(told.status.code(), Some(0));
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(
        text.lines().filter(|line| line.starts_with("ok ")).count(),
        10,
        "{text}"
    );
}

#[tokio::test]
async fn without_settings_or_with_some_that_pass_the_gateway_by_it_says_how_to_set_up() {
    let nothing = Machine::new().ask(&[IMAGE]).await;
    nothing.fails(
        "settings",
        "no client of this machine has a proxy",
        "/setup/docker | sh",
    );
    nothing.stops_at("settings");
    let podman = Machine::new()
        .docker("gw:3128")
        .ask(&["--client", "podman"])
        .await;
    podman.fails("settings", "podman has no proxy", "/setup/docker");
    let passed_by = Machine::new().put(
        "etc/environment",
        "HTTPS_PROXY=http://gw:3128\nNO_PROXY=localhost,.test\n",
    );
    let found = passed_by.ask(&[IMAGE]).await;
    found.fails(
        "settings",
        "NO_PROXY of shell says .test",
        "take .test out of NO_PROXY where /etc/environment sets it",
    );
    let found = Machine::new().docker("[gw").ask(&[IMAGE]).await;
    found.fails("settings", "is no address", "http://GATEWAY:3128");
    let usage = gateway::run(&["doctor", "--client", "rkt"], Path::new("/")).await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn a_gateway_that_cannot_be_found_or_reached_or_is_none_is_told_apart() {
    let found = Machine::new()
        .docker("gateway.invalid:3128")
        .ask(&[IMAGE])
        .await;
    found.fails("name", "gateway.invalid does not resolve", "/etc/hosts");
    found.stops_at("name");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let found = Machine::new().docker(address).ask(&[IMAGE]).await;
    found.fails("port", "refused", "does pierhead run");
    found.stops_at("port");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = socket.read(&mut head).await;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome";
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let found = Machine::new().docker(address).ask(&[IMAGE]).await;
    found.fails(
        "gateway",
        "is no pierhead: it answers 200 welcome",
        "by default 3128",
    );
    found.stops_at("gateway");
    let (_up, gateway) = world().await;
    let found = Machine::new().docker(gateway.admin).ask(&[IMAGE]).await;
    found.fails("connect", "421", "The admin port");
}

#[tokio::test]
async fn clocks_that_differ_and_certificates_that_are_not_of_their_time_are_named() {
    let (_up, gateway) = world().await;
    let machine = Machine::new()
        .everybody(gateway.proxy)
        .put(BUNDLE, &gateway.ca_pem);
    // A leaf begins an hour ago, so that this one has not begun.
    let found = machine.ask_at(&["faketime", "-f", "-3h"], &[IMAGE]).await;
    found.fails("clock", "behind the gateway", "timedatectl set-ntp");
    found.fails("trust", "not valid yet", "/ca.crt");
    let found = machine.ask_at(&["faketime", "-f", "+2m"], &[IMAGE]).await;
    assert_eq!(found.step("clock")["state"], "warning", "{:#}", found.json);
    assert_eq!(found.code, Some(0));
    let found = machine.ask_at(&["faketime", "-f", "+11y"], &[IMAGE]).await;
    found.fails("trust", "has a CA that ended on", "/ca.crt");
    let late = found.step("gateway");
    assert_eq!(late["state"], "warning", "{late:#}");
    assert!(
        late["mend"].as_str().unwrap().contains("ca renew"),
        "{late:#}"
    );
}

#[tokio::test]
async fn what_the_gateway_denies_is_told_in_its_own_words() {
    let (_up, gateway) = world().await;
    let machine = Machine::new().docker(gateway.proxy);
    let found = machine.ask(&["other.test/app"]).await;
    found.fails("connect", "403", "pierhead check other.test");
    found.stops_at("connect");

    let users = tempfile::tempdir().unwrap();
    let file = users.path().join("htpasswd");
    let hash = bcrypt::hash("s3cret", 4).unwrap();
    std::fs::write(&file, format!("ci:{hash}\n")).unwrap();
    let up = Upstream::start().await;
    let (setup, _) = configured(&up);
    let asking = setup.text("policy", "users_file", file.to_str().unwrap());
    let gateway = asking.start().await;
    let proxy = gateway.proxy;
    let trusting = |login: &str| {
        Machine::new()
            .everybody(format!("{login}{proxy}"))
            .put(BUNDLE, &gateway.ca_pem)
    };
    let found = trusting("").ask(&[IMAGE]).await;
    found.fails("connect", "407", "USER:PASSWORD@");
    let found = trusting("ci:s3cret@").ask(&[IMAGE]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    assert!(!found.json.to_string().contains("s3cret"));
}

#[tokio::test]
async fn each_client_is_held_against_the_stores_that_it_reads() {
    let (_up, gateway) = world().await;
    let docker = || Machine::new().docker(gateway.proxy);
    let found = docker().ask(&[IMAGE]).await;
    let script = format!("curl -fsSL http://{}/setup/docker | sudo sh", gateway.proxy);
    found.fails("trust", "docker does not trust it", &script);
    found.fails(
        "trust",
        "/etc/docker/certs.d/registry.test does not have the CA",
        &script,
    );
    // What comes after is worth knowing all the same.
    assert_eq!(found.step("manifest")["state"], "ok", "{:#}", found.json);

    let in_store = docker().put(BUNDLE, &gateway.ca_pem).ask(&[IMAGE]).await;
    assert_eq!(in_store.code, Some(0), "{:#}", in_store.json);
    let podman = Machine::new().put(
        "etc/containers/containers.conf.d/pierhead.conf",
        &format!(
            "[engine]\nenv = [\"HTTPS_PROXY=http://{}\"]\n",
            gateway.proxy
        ),
    );
    let podman = podman.put(
        "etc/containers/certs.d/registry.test/ca.crt",
        &gateway.ca_pem,
    );
    let found = podman.ask(&[IMAGE]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    // The shell does not look there.
    let both = podman.everybody(gateway.proxy);
    let found = both.ask(&[IMAGE]).await;
    found.fails("trust", "shell does not trust it", "update-ca-certificates");
    let found = both.ask(&[IMAGE, "--client", "podman"]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);

    let file = both.path().join("own.pem");
    std::fs::write(&file, &gateway.ca_pem).unwrap();
    let unit = format!(
        "[Service]\nEnvironment=HTTPS_PROXY=http://{} SSL_CERT_FILE=/own.pem\n",
        gateway.proxy
    );
    let containerd = both.put("etc/systemd/system/containerd.service", &unit);
    let found = containerd.ask(&[IMAGE, "--client", "containerd"]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    assert_eq!(
        found.step("trust")["found"],
        "containerd: SSL_CERT_FILE /own.pem"
    );
}

#[tokio::test]
async fn docker_hub_needs_the_system_store_whatever_certs_d_has() {
    let up = Upstream::start().await;
    let hub = up.registry("registry-1.docker.io").bearer("auth.docker.io");
    hub.repo("library/alpine").image("latest", 8, &[100]);
    let gateway = Gateway::before(&up)
        .no_registry("registry-1.docker.io")
        .start()
        .await;
    let mut machine = Machine::new().docker(gateway.proxy);
    for host in ["docker.io", "registry-1.docker.io"] {
        let file = format!("etc/docker/certs.d/{host}/pierhead.crt");
        machine = machine.put(&file, &gateway.ca_pem);
    }
    let found = machine.ask(&[]).await;
    found.fails(
        "trust",
        "docker does not trust it",
        "against the system store alone",
    );
    let machine = machine.put(BUNDLE, &gateway.ca_pem);
    let found = machine.ask(&[]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);

    // The same image by a mirror, which needs no certificate at all.
    let mirrors = format!(r#"{{"registry-mirrors": ["http://{}"]}}"#, gateway.proxy);
    let machine = Machine::new().put("etc/docker/daemon.json", &mirrors);
    let found = machine.ask(&[]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    assert_eq!(found.step("manifest")["state"], "ok");
    let found = machine.ask(&["ghcr.io/org/app"]).await;
    found.fails("settings", "for Docker Hub alone", "/setup/docker");
}

#[tokio::test]
async fn a_ca_that_changed_or_ended_is_told_from_one_that_is_not_there() {
    let (_up, gateway) = world().await;
    let machine = |pem: &str| Machine::new().everybody(gateway.proxy).put(BUNDLE, pem);
    // Another gateway's, as after `ca init --new-key`.
    let other = Gateway::alone().start().await;
    let found = machine(&other.ca_pem).ask(&[IMAGE]).await;
    found.fails(
        "trust",
        "the CA of another gateway, or this one's from before",
        "/ca.crt",
    );

    // Of this very key, as ca.crt was before: it has ended, or may speak for other hosts only.
    let key = std::fs::read_to_string(gateway.ca_dir().join("ca.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap();
    let name = |pem: &str| {
        let text = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-subject", "-nameopt", "multiline"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                use std::io::Write;
                child.stdin.take().unwrap().write_all(pem.as_bytes())?;
                child.wait_with_output()
            });
        let text = String::from_utf8(text.unwrap().stdout).unwrap();
        text.trim().rsplit(" = ").next().unwrap().to_owned()
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let dn = &mut params.distinguished_name;
    dn.push(DnType::CommonName, name(&gateway.ca_pem));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let ended = params.clone().self_signed(&key).unwrap().pem();
    let found = machine(&ended).ask(&[IMAGE]).await;
    found.fails("trust", "has a CA that ended on", "/ca.crt");

    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("elsewhere.test".into())],
        excluded_subtrees: Vec::new(),
    });
    let narrow = params.self_signed(&key).unwrap().pem();
    let found = machine(&narrow).ask(&[IMAGE]).await;
    found.fails("trust", "an earlier ca.crt of this gateway", "/ca.crt");
}

#[tokio::test]
async fn after_a_new_key_clients_need_the_new_ca_and_the_doctor_says_so() {
    let (_up, gateway) = world().await;
    let (old, home) = (gateway.ca_pem.clone(), gateway.home());
    let config = gateway.config_file();
    let args = [
        "ca",
        "init",
        "--new-key",
        "--config",
        config.to_str().unwrap(),
    ];
    let made = gateway::run(&args, home.path()).await;
    let told = String::from_utf8(made.stderr).unwrap();
    assert_eq!(made.status.code(), Some(0), "{told}");
    for word in ["restart the gateway", "ca-", "destroy them", "/setup/"] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    let gateway = gateway.restart().await;
    assert_ne!(gateway.ca_pem, old);
    let machine = Machine::new().everybody(gateway.proxy).put(BUNDLE, &old);
    let found = machine.ask(&[IMAGE]).await;
    found.fails("trust", "before it got a new key", "/ca.crt");
    let found = machine.put(BUNDLE, &gateway.ca_pem).ask(&[IMAGE]).await;
    assert_eq!(found.code, Some(0), "{:#}", found.json);
    let kept = std::fs::read_dir(gateway.ca_dir()).unwrap().flatten();
    assert_eq!(kept.count(), 4);
}

#[tokio::test]
async fn what_is_wrong_beyond_the_gateway_is_told_step_by_step() {
    let up = Upstream::start().await;
    let (setup, _) = configured(&up);
    let machine = |gateway: &Gateway| {
        Machine::new()
            .everybody(gateway.proxy)
            .put(BUNDLE, &gateway.ca_pem)
    };
    let stranger = TestCa::new("a stranger");
    let distrusting = setup.clone().trusting(&stranger.pem).start().await;
    let found = machine(&distrusting).ask(&[IMAGE]).await;
    found.fails("registry", "upstream.ca_file", "the gateway's log");
    found.stops_at("registry");

    let no_tokens = setup.clone().no_registry("auth.test").start().await;
    let found = machine(&no_tokens).ask(&[IMAGE]).await;
    found.fails("token", "auth.test: 403", "pierhead check auth.test");
    found.stops_at("token");

    let gateway = setup.start().await;
    let found = machine(&gateway).ask(&["registry.test/team/app:v9"]).await;
    found.fails(
        "manifest",
        "registry.test/team/app:v9: 404",
        "is the image called so?",
    );
    found.stops_at("manifest");

    // A host that is tunnelled works, and is worth a look.
    let tunnel = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"registry.test\", \"auth.test\"]";
    let tunnelling = Gateway::before(&up).more(tunnel).start().await;
    let there = Machine::new()
        .everybody(tunnelling.proxy)
        .put(BUNDLE, up.ca_pem());
    let found = there.ask(&[IMAGE]).await;
    let trust = found.step("trust");
    assert_eq!(trust["state"], "warning", "{:#}", found.json);
    assert!(
        trust["mend"]
            .as_str()
            .unwrap()
            .contains("[[registry]] host = \"registry.test\"")
    );
    assert_eq!(found.code, Some(0), "{:#}", found.json);

    // Upstream is gone, and what is cached is still there: for everybody, as the gateway itself has found.
    let config = gateway.config_file();
    let args = ["pull", IMAGE, "--config", config.to_str().unwrap()];
    let pulled = gateway::run(&args, gateway.home().path()).await;
    assert_eq!(pulled.status.code(), Some(0), "{pulled:?}");
    up.stop().await;
    let found = machine(&gateway).ask(&[IMAGE]).await;
    assert_eq!(
        found.step("registry")["state"],
        "warning",
        "{:#}",
        found.json
    );
    assert_eq!(found.step("manifest")["state"], "ok", "{:#}", found.json);
}
