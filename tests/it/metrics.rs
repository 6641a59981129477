//! What the metrics say after real traffic, and that Prometheus itself reads them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use hyper::Method;
use serde_json::Value;

use crate::robot::{self, Asks, robots};
use crate::support::{Blob, Fault, Gate, Gateway, On, Upstream, client, logs::Log, within};

const README: &str = include_str!("../../README.md");
const DASHBOARD: &str = include_str!("../../scripts/grafana/pierhead.json");

/// A gateway that logs in to its registry, keeps images warm, has been through a pull twice, was told of
/// a limit, and has read its configuration anew.
async fn used() -> (Upstream, Gateway) {
    let (up, _, image) = robots(Asks::Basic).await;
    let fields = vec![
        ("ratelimit-limit", "100;w=21600".to_owned()),
        ("ratelimit-remaining", "0;w=21600".to_owned()),
    ];
    up.fault(
        On::get("/manifests/other"),
        Fault::Status(429, fields, "slow down"),
    );
    // The first entry of these can be kept warm, the second cannot.
    let warm = "[[prefetch]]\nimages = [\"registry.test/team/app:v1\"]\n";
    let cold = "[[prefetch]]\nimages = [\"registry.test/team/app:none\"]\n";
    let setup = Gateway::before(&up).more(&format!("{warm}{cold}"));
    let gateway = robot::gateway_as(setup, "gateway", "r0b0t-pass").await;
    gateway
        .metric_becomes("pierhead_prefetch_failures_total{entry=\"2\"} 1")
        .await;
    let pulled = |line: &str| line.contains("prefetched");
    assert!(within(30, gateway.log.until(pulled)).await, "it ended");
    gateway.hangup().await;
    gateway.client().pull(&image).await;
    gateway.client().pull(&image).await;
    let other = "https://registry.test/v2/team/app/manifests/other";
    gateway.client().get(other).send().await;
    (up, gateway)
}

#[tokio::test]
async fn the_binary_exposes_what_the_readme_lists() {
    let (_up, gateway) = used().await;
    let text = gateway.metrics().await;
    let listed: BTreeSet<(&str, &str)> = README
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            let kind = cells.next()?;
            let ours = name.starts_with("pierhead_") || name.starts_with("process_");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            Some((name.strip_suffix(suffix)?, kind)).filter(|_| ours)
        })
        .collect();
    // A family is told of with its first sample, so the traffic has brought about each of them.
    let exposed: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    assert_eq!(listed, exposed);
}

#[tokio::test]
async fn a_follower_is_counted_while_it_follows() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob: Blob = repo.blob(1, 1 << 20);
    let gate = Gate::new();
    up.fault(On::get(&blob.digest), Fault::StallAt(1 << 19, gate.clone()));
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let second = gateway.client().get(&url).send().await;
    assert_eq!(sample(&gateway.metrics().await, "pierhead_followers"), 2.0);
    drop(second);
    gate.open();
    first.verified(&blob.digest).await;
    gateway.log.access(|line| line.is("outcome", "miss")).await;
    let text = gateway.metrics().await;
    assert_eq!(sample(&text, "pierhead_leaves_minted_total"), 1.0);
    assert_eq!(
        sample(
            &text,
            "pierhead_connections_accepted_total{listener=\"proxy\"}"
        ),
        2.0
    );
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() {
    let (_up, gateway) = used().await;
    // What a plain `curl` gets, and who asks for nothing, and who asks for this format.
    for accept in [&[("accept", "*/*")][..], &[], &[("accept", "text/plain")]] {
        let reply = client::direct(gateway.admin, Method::GET, "/metrics", accept).await;
        assert!(reply.header("content-type").starts_with("text/plain"));
        let text = reply.text().await;
        let (clean, said) = promtool(&text);
        assert!(clean, "{accept:?}: {said}\n{text}");
    }
    let (clean, said) = promtool("# TYPE bad_total gauge\nbad_total 1\n");
    assert!(!clean, "promtool complains of nothing at all: {said}");
}

#[tokio::test]
async fn prometheus_scrapes_them_as_openmetrics() {
    let (_up, gateway) = used().await;
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("prometheus.yml");
    let job = format!(
        "scrape_configs:\n- job_name: pierhead\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['{}']\n",
        gateway.admin
    );
    std::fs::write(&config, job).unwrap();
    let mut child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            home.path().join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prometheus, of Debian's package of that name");
    let log = Log::follow(child.stderr.take().unwrap());
    let ready = within(60, log.until(|line| line.contains("Listening on"))).await;
    assert!(ready, "{}", log.text());
    let text = log.text();
    let address = text.lines().find(|line| line.contains("Listening on"));
    let address = address.unwrap().split("address=").nth(1).unwrap();
    let address = address.split(' ').next().unwrap().parse().unwrap();
    let scraped = within(60, async {
        loop {
            let path = "/api/v1/query?query=pierhead_requests_total%7Boutcome%3D%22hit%22%7D";
            let reply = client::plain(address, path).await;
            let answer: Value = serde_json::from_str(&reply.text().await).unwrap_or_default();
            if let Some(found) = answer["data"]["result"].get(0) {
                return found.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(scraped["metric"]["registry"], "registry.test");
    assert_ne!(scraped["value"][1], "0");
}

#[tokio::test]
async fn the_dashboard_asks_only_for_what_there_is() {
    let (_up, gateway) = used().await;
    let text = gateway.metrics().await;
    let types = series(&text);
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut expressions = Vec::new();
    collect(&dashboard, &mut expressions);
    assert!(expressions.len() > 15, "{} expressions", expressions.len());
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named = words.filter(|w| w.starts_with("pierhead_") || w.starts_with("process_"));
        let named: Vec<&str> = named.collect();
        assert!(!named.is_empty(), "{expression} asks for nothing of ours");
        for name in named {
            assert!(types.contains(name), "{name} of {expression} is not there");
        }
    }
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(panel["title"].is_string() && panel["type"].is_string());
        assert!(
            places.insert(panel["gridPos"].to_string()),
            "two panels in one place"
        );
    }
}

/// The names of all series, as an expression would ask for them.
fn series(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, kind) in text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
    {
        let tails: &[&str] = match kind {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        names.extend(tails.iter().map(|tail| format!("{name}{tail}")));
    }
    names
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    value => collect(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn sample(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .parse()
        .unwrap()
}

fn promtool(text: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success() && said.is_empty(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
