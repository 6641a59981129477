//! The configuration read anew: what a running gateway takes, what it refuses, and what goes on.

use hyper::Method;

use crate::support::{
    Blob, Client, Fault, Gate, Gateway, On, Repo, Setup, Upstream, eventually, wire,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

async fn status(client: &Client, url: &str) -> u16 {
    client.get(url).send().await.status
}

/// A metric without labels, or with these.
async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let metrics = gateway.metrics().await;
    let start = format!("pierhead_{name} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
    line.parse().unwrap()
}

/// A registry with one blob, and a gateway before it that knows no registry but the well-known.
pub async fn unknown() -> (Upstream, Repo, Blob, Gateway) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 64 * KIB);
    let gateway = Gateway::before(&up)
        .no_registry("registry.test")
        .start()
        .await;
    (up, repo, blob, gateway)
}

pub fn known(setup: Setup) -> Setup {
    setup.registry("registry.test", "")
}

#[tokio::test]
async fn a_registry_that_is_added_is_answered_with_a_leaf_of_the_ca_that_was_issued_for_it() {
    let (_up, repo, blob, mut gateway) = unknown().await;
    let (answer, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(answer.status, 403);
    let old = gateway.client();

    let line = gateway.reload_as(known).await;
    assert!(line.contains("registry registry.test: added"), "{line}");
    let new = Client::new(gateway.proxy, &gateway.ca_now());
    let reply = new.get(&repo.blob_url(&blob.digest)).send().await;
    reply.verified(&blob.digest).await;
    // Who has the old certificate needs the new one for this host, and the log says so.
    assert!(old.tls("registry.test:443").await.is_err());
    let told = gateway.log.line("need the new file for these").await;
    assert!(told.contains("registry.test"), "{told}");
    let told = gateway.log.line("has the fingerprint sha256").await;
    let banner = gateway.out.text();
    let before = banner.split("sha256 ").nth(1).unwrap();
    let before = before.split_whitespace().next().unwrap();
    assert!(told.contains(&format!("had {before}")), "{told}");
    let served = crate::support::client::plain(gateway.proxy, "/ca.crt").await;
    assert_eq!(served.text().await, gateway.ca_now());
}

#[tokio::test]
async fn a_registry_that_is_removed_is_refused_on_a_connection_that_stands() {
    for h2 in [false, true] {
        let up = Upstream::start().await;
        let repo = up.repo("registry.test", "app");
        let blob = repo.blob(1, 64 * KIB);
        let url = repo.blob_url(&blob.digest);
        let mut gateway = Gateway::before(&up).start().await;
        let client = match h2 {
            true => gateway.client().h2(),
            false => gateway.client(),
        };
        let mut session = client.session("registry.test:443").await;
        let reply = client.get(&url).send_on(&mut session).await;
        reply.verified(&blob.digest).await;

        let line = gateway
            .reload_as(|setup| setup.no_registry("registry.test"))
            .await;
        assert!(line.contains("registry registry.test: removed"), "{line}");
        let reply = client.get(&url).send_on(&mut session).await;
        assert_eq!(reply.status, 403, "h2: {h2}");
        let (code, _) = reply.oci_error().await;
        assert_eq!(code, "DENIED");
        // And the connection ends, so that the next one is told by the CONNECT.
        eventually("the connection ends", || session.is_closed()).await;
        let (answer, _) = gateway.client().try_connect("registry.test:443").await;
        assert_eq!(answer.status, 403);
    }
}

#[tokio::test]
async fn a_rule_that_denies_or_tunnels_holds_for_the_next_request_on_a_connection_that_stands() {
    for (action, expected) in [("deny", 403), ("tunnel", 421)] {
        let up = Upstream::start().await;
        let repo = up.repo("registry.test", "app");
        let blob = repo.blob(1, 64 * KIB);
        let url = repo.blob_url(&blob.digest);
        let mut gateway = Gateway::before(&up).start().await;
        let client = gateway.client();
        let mut session = client.session("registry.test:443").await;
        let reply = client.get(&url).send_on(&mut session).await;
        reply.verified(&blob.digest).await;
        let line = gateway
            .reload_as(|setup| {
                setup.more(&format!(
                    "[[policy.rule]]\naction = \"{action}\"\nhosts = [\"registry.test\"]"
                ))
            })
            .await;
        assert!(line.contains("policy.rule"), "{line}");
        let reply = client.get(&url).send_on(&mut session).await;
        assert_eq!(reply.status, expected, "{action}");
        let line = gateway
            .log
            .access(|line| line.is("status", &expected.to_string()))
            .await;
        assert!(line.is("rule", "policy.rule 1"), "{line:?}");
    }
}

#[tokio::test]
async fn pulls_that_run_are_not_disturbed() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 4 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(2 * MIB as u64, gate.clone()),
    );
    let mut gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut pulls = Vec::new();
    for at in 0..20 {
        let client = match at % 2 {
            0 => gateway.client(),
            _ => gateway.client().h2(),
        };
        let mut reply = client.get(&url).send().await;
        assert_eq!(reply.read(MIB).await, blob.bytes[..MIB]);
        pulls.push(reply);
    }
    gate.arrived(1).await;
    // Everything that can be swapped is, and in the end the registry itself is gone.
    for change in 0..5 {
        gateway
            .reload_as(|setup| {
                setup
                    .set("limits", "upstream_connect", &(20 + change).to_string())
                    .set("limits", "client_idle", &(200 + change).to_string())
                    .set("cache", "tag_ttl", &change.to_string())
            })
            .await;
    }
    gateway
        .reload_as(|setup| {
            setup
                .no_registry("registry.test")
                .set("upstream", "allow_private", "[]")
        })
        .await;
    gate.open();
    for reply in pulls {
        assert_eq!(reply.bytes().await, blob.bytes[MIB..]);
    }
    assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_where_it_is_bad() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 64 * KIB);
    let url = repo.blob_url(&blob.digest);
    let gateway = Gateway::before(&up).start().await;
    assert_eq!(metric(&gateway, "config_last_reload_success").await, 1.0);
    let since = metric(&gateway, "config_last_reload_timestamp_seconds").await;
    assert!(since > 1e9, "{since}");
    let ca = gateway.ca_now();
    let good = std::fs::read_to_string(gateway.config_file()).unwrap();
    let lines = good.lines().count();
    let users = format!("{good}[policy]\nusers_file = \"nowhere\"\n");
    for (refused, (bad, words)) in [
        (
            format!("{good}[[registry]]\nhost = \"b.test\"\nauth = \"maybe\"\n"),
            vec![format!("line {}", lines + 3), "registry.auth".to_owned()],
        ),
        (
            format!("{good}[cache\n"),
            vec![format!("line {}", lines + 1)],
        ),
        // Right as such, but what it names is not there.
        (users, vec!["nowhere".to_owned()]),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(gateway.config_file(), bad).unwrap();
        let line = gateway.hangup().await;
        assert!(line.contains("was not taken"), "{line}");
        for word in words {
            assert!(line.contains(&word), "no {word} in {line}");
        }
        let name = "config_reloads_total{result=\"refused\"}";
        assert_eq!(metric(&gateway, name).await, refused as f64 + 1.0);
        assert_eq!(metric(&gateway, "config_last_reload_success").await, 0.0);
        assert_eq!(status(&gateway.client(), &url).await, 200);
        assert_eq!(gateway.ca_now(), ca, "no new certificate");
    }
    std::fs::remove_file(gateway.config_file()).unwrap();
    let line = gateway.hangup().await;
    assert!(line.contains("cannot read"), "{line}");
    std::fs::write(gateway.config_file(), good).unwrap();
    let line = gateway.hangup().await;
    assert!(line.contains("was read anew"), "{line}");
    assert_eq!(metric(&gateway, "config_last_reload_success").await, 1.0);
    assert_eq!(
        metric(&gateway, "config_reloads_total{result=\"taken\"}").await,
        1.0
    );
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_stays_whole() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 64 * KIB);
    let mut gateway = Gateway::before(&up).start().await;
    let fingerprint = gateway.ca_now();
    gateway
        .reload_as(|setup| {
            setup
                .set("listen", "proxy_tls", "[\"127.0.0.1:0\"]")
                .set("listen", "names", "[\"other.test\"]")
                .text("ca", "dir", "other-ca")
                .text("cache", "dir", "other-cache")
                .text("log", "format", "text")
                .set("", "watch_config", "true")
                .set("limits", "drain", "7")
        })
        .await;
    let told = gateway.log.line("need a restart").await;
    for key in [
        "listen.proxy_tls",
        "listen.names",
        "ca.dir",
        "cache.dir",
        "log.format",
        "watch_config",
    ] {
        assert!(told.contains(key), "no {key} in {told}");
    }
    assert!(!told.contains("limits.drain"), "{told}");
    let line = gateway.log.line("was read anew").await;
    assert!(line.contains("limits.drain"), "{line}");
    assert!(!line.contains("ca.dir"), "{line}");
    let home = gateway.home();
    for made in ["other-ca", "other-cache"] {
        assert!(!home.path().join(made).exists(), "{made}");
    }
    assert_eq!(gateway.ca_now(), fingerprint);
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    reply.verified(&blob.digest).await;
    // Still in JSON.
    gateway.log.access(|line| line.is("status", "200")).await;
}

#[tokio::test]
async fn a_host_that_was_denied_is_allowed_and_the_default_changes() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let mut gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let url = "http://pages.test/";
    assert_eq!(status(&client, url).await, 403);
    gateway
        .reload_as(|setup| {
            setup.more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]")
        })
        .await;
    assert_eq!(status(&client, url).await, 200);
    let (answer, _) = client.try_connect("elsewhere.test:443").await;
    assert_eq!(answer.status, 403);
    gateway
        .reload_as(|setup| {
            setup
                .text("policy", "default", "tunnel")
                .set("", "builtin_registries", "false")
        })
        .await;
    let (answer, _) = client.try_connect("elsewhere.test:443").await;
    assert_ne!(answer.status, 403, "{}", answer.text());
}

#[tokio::test]
async fn proxy_users_come_change_and_go() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 64 * KIB);
    let url = repo.blob_url(&blob.digest);
    let mut gateway = Gateway::before(&up).start().await;
    let anybody = gateway.client();
    let mut stands = anybody.session("registry.test:443").await;
    let reply = anybody.get(&url).send_on(&mut stands).await;
    reply.verified(&blob.digest).await;

    let file = gateway.home().path().join("htpasswd");
    let hashed = |user: &str| format!("{user}:{}\n", bcrypt::hash("right", 4).unwrap());
    std::fs::write(&file, hashed("ci")).unwrap();
    let path = file.to_str().unwrap().to_owned();
    gateway
        .reload_as(|setup| setup.text("policy", "users_file", &path))
        .await;
    let (answer, _) = anybody.try_connect("registry.test:443").await;
    assert_eq!(answer.status, 407);
    let reply = anybody.get(&url).send_on(&mut stands).await;
    assert_eq!(reply.status, 403, "on the connection that stands");
    let ci = gateway.client().proxy_user("ci", "right");
    let mut session = ci.session("registry.test:443").await;
    let reply = ci.get(&url).send_on(&mut session).await;
    reply.verified(&blob.digest).await;

    // The same file with other users, without waiting for anybody to look.
    std::fs::write(&file, hashed("dev")).unwrap();
    let line = gateway.hangup().await;
    assert!(line.contains("was read anew"), "{line}");
    let (answer, _) = ci.try_connect("registry.test:443").await;
    assert_eq!(answer.status, 407);
    let reply = ci.get(&url).send_on(&mut session).await;
    assert_eq!(reply.status, 403, "a user who is none any more");
    gateway
        .client()
        .proxy_user("dev", "right")
        .connect("registry.test:443")
        .await;
    gateway
        .reload_as(|setup| setup.text("policy", "users_file", ""))
        .await;
    anybody.connect("registry.test:443").await;
}

#[tokio::test]
async fn a_registrys_own_keys_change() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .basic()
        .user("robot", "hush-hush");
    let repo = registry.private_repo("team/app", &["robot"]);
    let blob = repo.blob(1, 64 * KIB);
    let url = repo.blob_url(&blob.digest);
    let mut gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    assert_eq!(status(&client, &url).await, 401);

    let password = gateway.home().path().join("robot");
    std::fs::write(&password, "hush-hush").unwrap();
    let login = format!("auth = \"gateway\"\nusername = \"robot\"\npassword_file = {password:?}");
    let line = gateway
        .reload_as(|setup| setup.registry("registry.test", &login))
        .await;
    assert!(
        line.contains("registry registry.test: auth, login"),
        "{line}"
    );
    assert!(!gateway.log.text().contains("hush-hush"));
    let reply = client.get(&url).send().await;
    reply.verified(&blob.digest).await;

    let push = async || {
        let ask = client.ask(Method::POST, &repo.url("blobs/uploads/"));
        let reply = ask.send().await;
        let status = reply.status;
        (status, reply.text().await)
    };
    let (status_before, text) = push().await;
    assert_eq!(status_before, 403);
    assert!(text.contains("pushing to"), "{text}");
    gateway
        .reload_as(|setup| setup.registry("registry.test", "push = \"allow\""))
        .await;
    assert!(!push().await.1.contains("pushing to"));

    gateway
        .reload_as(|setup| setup.registry("registry.test", "deny_repositories = [\"team/*\"]"))
        .await;
    assert_eq!(status(&client, &url).await, 403);
    let fresh = repo.blob(2, 64 * KIB);
    gateway
        .reload_as(|setup| {
            setup
                .no_registry("registry.test")
                .registry("registry.test", &login)
                .registry("registry.test", "enabled = false")
        })
        .await;
    assert_eq!(status(&client, &url).await, 200, "from the cache");
    let before = up.requests();
    assert!(status(&client, &repo.blob_url(&fresh.digest)).await >= 500);
    assert_eq!(up.requests(), before, "never asked");
}

#[tokio::test]
async fn a_registry_that_was_lost_is_found_at_its_new_url() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 64 * KIB);
    let mut gateway = Gateway::before(&up)
        .resolve("lost.test", ([127, 0, 0, 1], 1).into())
        .registry("lost.test", "")
        .start()
        .await;
    let client = gateway.client();
    let url = format!("https://lost.test/v2/app/blobs/{}", blob.digest);
    assert_eq!(status(&client, &url).await, 502);
    gateway
        .reload_as(|setup| setup.registry("lost.test", "url = \"https://registry.test\""))
        .await;
    let reply = client.get(&url).send().await;
    reply.verified(&blob.digest).await;
    assert!(up.seen().iter().all(|seen| seen.host == repo.host));
}

#[tokio::test]
async fn tags_and_manifests_go_by_the_new_numbers() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("1", 1, &[KIB]);
    let mut gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "1h")
        .start()
        .await;
    let client = gateway.client();
    client.pull(&image).await;
    let asked = up.manifest_heads();
    client.resolve(&repo, "1").await;
    assert_eq!(up.manifest_heads(), asked);
    gateway
        .reload_as(|setup| setup.text("cache", "tag_ttl", "0s"))
        .await;
    client.resolve(&repo, "1").await;
    assert_eq!(up.manifest_heads(), asked + 1);

    let other = repo.image("2", 2, &[KIB]);
    gateway
        .reload_as(|setup| setup.set("limits", "manifest_size", "16"))
        .await;
    assert_eq!(client.ask_manifest(&repo, "2").await.status, 502);
    gateway
        .reload_as(|setup| setup.text("limits", "manifest_size", "1MiB"))
        .await;
    client.pull(&other).await;
}

#[tokio::test]
async fn the_cache_shrinks_to_its_new_bound() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let mut gateway = Gateway::before(&up).start().await;
    for seed in 1..=4 {
        let blob = repo.blob(seed, MIB);
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        reply.verified(&blob.digest).await;
    }
    eventually("all are kept", || gateway.cached_bytes() >= 4 * MIB as u64).await;
    gateway
        .reload_as(|setup| setup.text("cache", "max_size", "3MiB"))
        .await;
    eventually("some went", || gateway.cached_bytes() <= 3 * MIB as u64).await;
    let most = metric(&gateway, "cache_max_bytes").await;
    assert_eq!(most, 3.0 * MIB as f64);
}

#[tokio::test]
async fn the_way_upstream_changes() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let urls: Vec<(String, Blob)> = (1..=2)
        .map(|seed| repo.blob(seed, KIB))
        .map(|blob| (repo.blob_url(&blob.digest), blob))
        .collect();
    let stranger = Upstream::start().await;
    let mut gateway = Gateway::before(&up)
        .set("upstream", "allow_private", "[]")
        .resolve("registry.test", ([127, 0, 0, 1], 1).into())
        .trusting(stranger.ca_pem())
        .start()
        .await;
    let client = gateway.client();
    let (url, blob) = &urls[0];
    let reply = client.get(url).send().await;
    assert!(reply.text().await.contains("upstream.allow_private"));
    let line = gateway
        .reload_as(|setup| setup.set("upstream", "allow_private", "[\"127.0.0.0/8\"]"))
        .await;
    assert!(line.contains("upstream.allow_private"), "{line}");
    assert_eq!(status(&client, url).await, 502, "nobody is there");
    let right = up.addr();
    gateway
        .reload_as(|setup| setup.resolve("registry.test", right))
        .await;
    let reply = client.get(url).send().await;
    assert_eq!(reply.status, 502);
    assert!(reply.text().await.contains("TLS"), "it is not trusted");
    // The same file by name, with another root in it.
    let pem = up.ca_pem().to_owned();
    gateway.reload_as(|setup| setup.trusting(&pem)).await;
    let reply = client.get(url).send().await;
    reply.verified(&blob.digest).await;
    // A parent proxy that is not there.
    gateway
        .reload_as(|setup| setup.text("upstream", "proxy", "http://127.0.0.1:1"))
        .await;
    let reply = client.get(&urls[1].0).send().await;
    assert_eq!(reply.status, 502);
    assert!(reply.text().await.contains("parent proxy"));
}

#[tokio::test]
async fn limits_hold_for_new_connections() {
    let mut gateway = Gateway::alone().start().await;
    let first = crate::support::client::plain(gateway.proxy, "/healthz").await;
    assert_eq!(first.status, 200);
    gateway
        .reload_as(|setup| setup.set("limits", "connections_per_client", "1"))
        .await;
    let answer = wire::exchange(gateway.proxy, b"").await;
    assert!(answer.starts_with(b"HTTP/1.1 429"), "{answer:?}");
    assert!(!first.is_closed(), "who is in may stay");
}

#[tokio::test]
async fn the_log_says_more_and_less() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, KIB);
    let url = repo.blob_url(&blob.digest);
    let mut gateway = Gateway::before(&up)
        .text("log", "level", "warn")
        .start()
        .await;
    let client = gateway.client();
    let get = async || client.get(&url).send().await.verified(&blob.digest).await;
    get().await;
    gateway
        .reload_as(|setup| setup.text("log", "level", "info"))
        .await;
    get().await;
    // The second one's; the first was not told, and would have come before.
    let line = gateway.log.access(|line| line.is("status", "200")).await;
    assert!(line.is("outcome", "hit"), "{line:?}");
    gateway.rewrite(|setup| setup.text("log", "level", "error"));
    gateway.ask_to_reload();
    gateway
        .metric_becomes("pierhead_config_reloads_total{result=\"taken\"} 2")
        .await;
    get().await;
    gateway.terminate().await;
    assert_eq!(gateway.log.accesses().len(), 1);
}
