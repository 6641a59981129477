//! Proxy users: who may use the gateway at all, and who may reach what.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Client, Gateway, Setup, Upstream, client, echo::Peer, gateway, wire, within};

const CI: &str = "ci-password";
const DEV: &str = "dev-password";

fn htpasswd(users: &[(&str, &str)]) -> String {
    let line = |(name, password): &(&str, &str)| {
        format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
    };
    users.iter().map(line).collect()
}

/// A file with the users ci and dev.
fn people() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, htpasswd(&[("ci", CI), ("dev", DEV)])).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (dir, file)
}

fn asking(setup: Setup, file: &str) -> Setup {
    setup.text("policy", "users_file", file)
}

/// How many passwords were checked, with this result.
async fn checks(gateway: &Gateway, result: &str) -> usize {
    let metrics = gateway.metrics().await;
    let start = format!("pierhead_password_checks_total{{result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

fn assert_asked(answer: &wire::Raw, word: &str) {
    assert_eq!(answer.status, 407, "{}", answer.head);
    let head = answer.head.to_lowercase();
    assert!(
        head.contains("proxy-authenticate: basic realm=\"pierhead\""),
        "{head}"
    );
    let text = answer.text();
    for word in [word, "http://USER:PASSWORD@", "htpasswd -B"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[tokio::test]
async fn who_says_nothing_or_something_wrong_is_asked_and_who_is_right_passes() {
    let peer = Peer::echo().await;
    let (_dir, file) = people();
    let setup = asking(Gateway::alone(), &file)
        .resolve("peer.test", peer.addr)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]");
    let gateway = setup.start().await;

    let (answer, _) = gateway.client().try_connect("peer.test:443").await;
    assert_asked(&answer, "none were sent");
    let line = gateway.log.access(|line| line.is("status", "407")).await;
    assert!(line.is("outcome", "denied"), "{line:?}");
    assert!(line.is("rule", "policy.users_file"), "{line:?}");
    assert!(line.is("host", "peer.test"), "{line:?}");

    for (user, password) in [("ci", DEV), ("ci", ""), ("nobody", CI), ("", "")] {
        let client = gateway.client().proxy_user(user, password);
        let (answer, _) = client.try_connect("peer.test:443").await;
        assert_asked(&answer, "is not right");
    }
    let line = gateway.log.access(|line| line.is("user", "ci")).await;
    assert!(line.is("outcome", "denied"), "{line:?}");

    let mut socket = gateway
        .client()
        .proxy_user("ci", CI)
        .connect("peer.test:443")
        .await;
    socket.write_all(b"ping").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(wire::rest(&mut socket).await, b"ping");
    let line = gateway
        .log
        .access(|line| line.is("outcome", "tunnel"))
        .await;
    assert!(line.is("user", "ci"), "{line:?}");

    let log = gateway.log.text();
    for secret in [CI, DEV, "$2", &STANDARD.encode(format!("ci:{CI}"))] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn absolute_form_is_asked_too() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let (_dir, file) = people();
    let setup = asking(Gateway::before(&up), &file)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]");
    let gateway = setup.start().await;
    let get = async |client: Client| client.get("http://pages.test/").send().await;
    let reply = get(gateway.client()).await;
    assert_eq!(reply.status, 407);
    assert_eq!(
        reply.header("proxy-authenticate"),
        "Basic realm=\"pierhead\""
    );
    assert!(reply.text().await.contains("htpasswd -B"));
    // A login of the host behind is none of the proxy.
    let reply = get(gateway.client().basic("ci", CI)).await;
    assert_eq!(reply.status, 407);
    assert_eq!(up.requests(), 0);
    let reply = get(gateway.client().proxy_user("ci", CI)).await;
    assert_eq!(reply.text().await, "hello");
}

#[tokio::test]
async fn what_the_gateway_says_of_itself_is_open() {
    let (_dir, file) = people();
    let gateway = asking(Gateway::alone(), &file).start().await;
    for path in ["/ca.crt", "/healthz", "/readyz"] {
        assert_eq!(
            client::plain(gateway.proxy, path).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn two_users_reach_different_hosts() {
    let up = Upstream::start().await;
    up.page("ci.test", "/", "text/plain", b"for ci");
    up.page("dev.test", "/", "text/plain", b"for dev");
    let rule = |user: &str| {
        format!(
            "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"{user}.test\"]\nusers = [\"{user}\"]"
        )
    };
    let (_dir, file) = people();
    let setup = asking(Gateway::before(&up), &file)
        .more(&rule("ci"))
        .more(&rule("dev"));
    let gateway = setup.start().await;
    for (user, password, other) in [("ci", CI, "dev"), ("dev", DEV, "ci")] {
        let client = gateway.client().proxy_user(user, password);
        let own = client.get(&format!("http://{user}.test/")).send().await;
        assert_eq!(own.text().await, format!("for {user}"));
        let reply = client.get(&format!("http://{other}.test/")).send().await;
        assert_eq!(reply.status, 403);
        assert!(reply.text().await.contains("not for this user"));
        client.connect(&format!("{user}.test:443")).await;
        let (answer, _) = client.try_connect(&format!("{other}.test:443")).await;
        assert_eq!(answer.status, 403);
    }
}

#[tokio::test]
async fn a_rule_may_keep_a_registry_from_a_user() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 1, &[1000]);
    let (_dir, file) = people();
    let setup = asking(Gateway::before(&up), &file)
        .more("[[policy.rule]]\naction = \"deny\"\nhosts = [\"registry.test\"]\nusers = [\"dev\"]");
    let gateway = setup.start().await;
    gateway.client().proxy_user("ci", CI).pull(&image).await;
    let line = gateway
        .log
        .access(|line| line.is("method", "GET") && line.is("outcome", "miss"))
        .await;
    assert!(line.is("user", "ci"), "inside TLS too: {line:?}");
    let dev = gateway.client().proxy_user("dev", DEV);
    let (answer, _) = dev.try_connect("registry.test:443").await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn what_is_for_the_proxy_never_reaches_an_upstream() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let image = up.repo("registry.test", "app").image("v1", 1, &[1000]);
    let (_dir, file) = people();
    let setup = asking(Gateway::before(&up), &file)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]");
    let gateway = setup.start().await;
    let client = gateway.client().proxy_user("ci", CI);
    client.get("http://pages.test/").send().await.text().await;
    let insecure = image.by_tag().replacen("https://", "http://", 1);
    let reply = client.get(&insecure).header("accept", "*/*").send().await;
    assert_eq!(reply.status, 200);
    client.pull(&image).await;
    // A client that repeats it inside the tunnel.
    for path in ["/v2/", "/v2/app/tags/list"] {
        let url = format!("https://registry.test{path}");
        let ask = client.get(&url);
        ask.header("proxy-authorization", "Basic Y2k6Y2ktcGFzc3dvcmQ=")
            .send()
            .await;
    }
    assert!(up.requests() >= 5, "{}", up.requests());
    for seen in up.seen() {
        assert_eq!(seen.header("proxy-authorization"), "", "{}", seen.path);
        assert_eq!(seen.header("authorization"), "", "{}", seen.path);
    }
}

#[tokio::test]
async fn a_password_is_hashed_once_however_many_connections_come() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("v1", 4, &[1000, 2000, 3000, 4000]);
    let (_dir, file) = people();
    let gateway = asking(Gateway::before(&up), &file).start().await;
    let client = gateway.client().proxy_user("ci", CI);
    client.pull(&image).await;
    client.pull(&image).await;
    assert_eq!(checks(&gateway, "right").await, 1);
    let wrong = gateway.client().proxy_user("ci", "wrong");
    for _ in 0..2 {
        let (answer, _) = wrong.try_connect("registry.test:443").await;
        assert_eq!(answer.status, 407);
    }
    assert_eq!(checks(&gateway, "wrong").await, 2);
    assert_eq!(checks(&gateway, "right").await, 1);
}

#[tokio::test]
async fn a_changed_file_counts_and_a_bad_one_leaves_the_users_as_they_were() {
    let peer = Peer::echo().await;
    let (_dir, file) = people();
    let setup = asking(Gateway::alone(), &file)
        .resolve("peer.test", peer.addr)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]");
    let gateway = setup.start().await;
    let status = async |user: &str, password: &str| {
        let client = gateway.client().proxy_user(user, password);
        client.try_connect("peer.test:443").await.0.status
    };
    assert_eq!(status("ci", CI).await, 200);

    std::fs::write(&file, "ci:$apr1$salt$not-bcrypt\n").unwrap();
    let line = gateway.log.line("cannot be used").await;
    assert!(
        line.contains("line 1") && line.contains("htpasswd -B"),
        "{line}"
    );
    assert!(!line.contains("not-bcrypt"), "{line}");
    assert_eq!(status("ci", CI).await, 200);
    assert_eq!(status("dev", DEV).await, 200);

    std::fs::write(&file, htpasswd(&[("ci", "new"), ("more", "m")])).unwrap();
    gateway.log.line("was read again").await;
    assert_eq!(status("ci", "new").await, 200);
    assert_eq!(status("more", "m").await, 200);
    assert_eq!(status("ci", CI).await, 407, "the old password");
    assert_eq!(status("dev", DEV).await, 407, "a user who left");
}

#[tokio::test]
async fn bytes_sent_with_an_unasked_connect_do_no_harm() {
    let (_dir, file) = people();
    let gateway = asking(Gateway::alone(), &file).start().await;
    let mut socket = tokio::net::TcpStream::connect(gateway.proxy).await.unwrap();
    let head = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\nGET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = within(20, socket.read_to_end(&mut all)).await;
    let all = String::from_utf8(all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_stops_the_start_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("htpasswd"), "# us\nci:{SHA}hunter2\n").unwrap();
    let config = dir.path().join("pierhead.toml");
    for (file, words) in [
        ("htpasswd", &["htpasswd, line 2", "htpasswd -B"][..]),
        (
            "nowhere",
            &["policy.users_file: ", "nowhere", "htpasswd -B -c"],
        ),
    ] {
        std::fs::write(&config, format!("[policy]\nusers_file = \"{file}\"\n")).unwrap();
        for command in ["check", "serve"] {
            let args = [command, "--config", "pierhead.toml"];
            let output = gateway::run(&args, dir.path()).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{said}");
            for word in words {
                assert!(said.contains(word), "no {word:?} in {said}");
            }
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

#[tokio::test]
async fn check_explains_for_a_user() {
    let (dir, _) = people();
    let config = "[policy]\nusers_file = \"htpasswd\"\n[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"127.0.0.1\"]\nusers = [\"ci\", \"ghost\"]\n";
    std::fs::write(dir.path().join("pierhead.toml"), config).unwrap();
    let check = async |more: &[&str]| {
        let mut args = vec!["check", "--config", "pierhead.toml", "127.0.0.1"];
        args.extend(more);
        let output = gateway::run(&args, dir.path()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = check(&["--user", "ci"]).await;
    assert!(text.contains("tunnel") && text.contains("ci\n"), "{text}");
    assert!(text.contains("the user ghost"), "{text}");
    let text = check(&["--user", "dev"]).await;
    assert!(text.contains("not for this user"), "{text}");
    let text = check(&["--user", "stranger"]).await;
    assert!(text.contains("no such user"), "{text}");
    let text = check(&[]).await;
    assert!(text.contains("407"), "{text}");
}
