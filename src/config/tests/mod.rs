//! What a configuration comes to.

mod addresses;
mod refused;
mod sources;

use crate::policy::{AuthMode, Fallback, Push, RuleAction};

use super::*;

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pierhead.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), vars(env))
}

fn load(text: &str) -> Config {
    load_with(text, &[]).unwrap()
}

fn vars(env: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let env: Vec<_> = env
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    env.into_iter()
}

/// The message without the directory of the file.
fn message(text: &str) -> String {
    message_of(load_with(text, &[]))
}

fn message_of(result: Result<Config, ConfigError>) -> String {
    let text = result.unwrap_err().to_string();
    match text.find("pierhead.toml, line") {
        Some(at) => text[at..].to_owned(),
        None => text,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Something under every heading.
const EXAMPLE: &str = r#"
builtin_registries = true
watch_config = true

[listen]
proxy     = ["127.0.0.1:3128"]
proxy_tls = ["0.0.0.0:3130"]
names     = ["Gateway.corp", "10.0.0.1"]
tls_certificate = "gateway.crt"
tls_key   = "gateway.key"
admin     = "127.0.0.1:3129"

[ca]
dir = "ca"
certificate = "company.crt"
key = "company.key"
name_constraints = true

[cache]
dir         = "cache"
max_size    = "50GiB"
min_free    = "1GiB"
tag_ttl     = "1m"
revalidate_timeout = "3s"
offline_for = "7d"

[cache.shared]

[upstream]
ca_file       = "corporate-roots.pem"
allow_private = ["10.1.0.0/16"]
resolve       = { "Registry.corp" = "10.1.2.3:443", "b.corp:5000" = "10.1.2.4" }
parallel      = 4
lookahead     = true

[policy]
default = "deny"
users_file = "htpasswd"
[[policy.rule]]
action  = "tunnel"
hosts   = ["packages.corp.example", "*.intranet.example"]
ports   = [443]
clients = ["10.0.0.0/8"]
users   = ["ci"]

[limits]
client_headers   = "11s"
client_idle      = "6m"
upstream_connect = "12s"
upstream_idle    = "31s"
drain            = "32s"
connections_per_client = 2001
manifest_size    = "5MiB"

[log]
format = "json"
level  = "debug"

[[registry]]
host     = "registry.partner.example"
ports    = [443]
auth     = "client"
push     = "deny"
tag_ttl  = { "latest" = "1m", "v*.*.*" = "30d", "*" = "10m" }
repositories = ["team/*"]
deny_repositories = ["team/secret"]
enabled  = false
url      = "https://elsewhere.example"
"#;

#[test]
fn every_key_of_the_contracts_example_arrives() {
    let config = load(EXAMPLE);
    assert!(config.builtin_registries);
    assert!(config.file.unwrap().ends_with("pierhead.toml"));
    assert_eq!(config.listen.proxy, ["127.0.0.1:3128".parse().unwrap()]);
    assert_eq!(config.listen.proxy_tls, ["0.0.0.0:3130".parse().unwrap()]);
    let names: Vec<&str> = config
        .listen
        .names
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["gateway.corp", "10.0.0.1"]);
    let tls = Some(("gateway.crt".into(), "gateway.key".into()));
    assert_eq!(config.listen.tls, tls);
    assert_eq!(config.listen.admin, Some("127.0.0.1:3129".parse().unwrap()));

    assert_eq!(config.ca.dir, Path::new("ca"));
    assert_eq!(config.ca.certificate, Some("company.crt".into()));
    assert_eq!(config.ca.key, Some("company.key".into()));
    assert!(config.ca.name_constraints);

    assert_eq!(config.cache.dir, Path::new("cache"));
    assert_eq!(config.cache.max_size, 50 << 30);
    assert_eq!(config.cache.min_free, 1 << 30);
    assert_eq!(config.cache.tag_ttl, seconds(60));
    assert_eq!(config.cache.revalidate_timeout, seconds(3));
    assert_eq!(config.cache.offline_for, seconds(7 * 86400));

    assert_eq!(config.upstream.ca_file, Some("corporate-roots.pem".into()));
    assert_eq!(
        config.upstream.allow_private,
        ["10.1.0.0/16".parse().unwrap()]
    );
    let fixed = &config.upstream.resolve;
    assert_eq!(
        fixed["registry.corp"],
        ("10.1.2.3".parse().unwrap(), Some(443))
    );
    assert_eq!(fixed["b.corp:5000"], ("10.1.2.4".parse().unwrap(), None));

    assert_eq!(config.policy.default, Fallback::Deny);
    let rule = &config.policy.rules[0];
    assert_eq!(rule.action, RuleAction::Tunnel);
    assert!(rule.hosts[1].matches("a.intranet.example"));
    assert_eq!(rule.ports, [443]);
    assert_eq!(rule.clients, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(rule.users, ["ci"]);
    assert_eq!(config.users_file, Some("htpasswd".into()));

    assert_eq!(config.limits.client_headers, seconds(11));
    assert_eq!(config.limits.client_idle, seconds(360));
    assert_eq!(config.limits.upstream_connect, seconds(12));
    assert_eq!(config.limits.upstream_idle, seconds(31));
    assert_eq!(config.limits.drain, seconds(32));
    assert_eq!(config.limits.connections_per_client, 2001);
    assert_eq!(config.limits.manifest_size, 5 << 20);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level.as_str(), "debug");

    let registry = &config.registries[0];
    assert_eq!(registry.host.as_str(), "registry.partner.example");
    assert_eq!(registry.ports, [443]);
    assert_eq!(registry.auth, AuthMode::Client);
    assert_eq!(registry.push, Push::Deny);
    assert_eq!(
        registry.tag_ttl.for_tag("v1.2.3", Duration::ZERO),
        seconds(30 * 86400)
    );
    assert_eq!(
        registry.tag_ttl.for_tag("edge", Duration::ZERO),
        seconds(600)
    );
    let allowed = registry.repositories.as_ref().unwrap();
    assert_eq!(allowed.first_match("team/a/b"), Some("team/*"));
    assert_eq!(
        registry.deny_repositories.first_match("team/secret"),
        Some("team/secret")
    );
    assert!(!registry.enabled);
    assert_eq!(
        registry.url.as_ref().unwrap().host(),
        Some("elsewhere.example")
    );

    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn an_empty_file_is_the_defaults_of_the_contract() {
    let config = load("");
    assert!(config.builtin_registries);
    assert_eq!(config.listen.proxy, ["127.0.0.1:3128".parse().unwrap()]);
    assert_eq!(config.listen.admin, Some("127.0.0.1:3129".parse().unwrap()));
    assert_eq!(config.ca.dir, Path::new("ca"));
    assert_eq!((config.ca.certificate, config.ca.key), (None, None));
    assert!(config.ca.name_constraints);
    assert_eq!(config.cache.dir, Path::new("cache"));
    assert_eq!(
        (config.cache.max_size, config.cache.min_free),
        (50 << 30, 1 << 30)
    );
    assert_eq!(config.cache.tag_ttl, seconds(60));
    assert_eq!(config.cache.revalidate_timeout, seconds(3));
    assert_eq!(config.cache.offline_for, seconds(7 * 86400));
    assert_eq!(config.upstream.ca_file, None);
    assert!(config.upstream.allow_private.is_empty() && config.upstream.resolve.is_empty());
    assert_eq!(
        (config.upstream.parallel, config.upstream.lookahead),
        (4, true)
    );
    assert_eq!(config.policy.default, Fallback::Deny);
    assert!(config.policy.rules.is_empty() && config.registries.is_empty());
    assert_eq!(config.limits.client_headers, seconds(10));
    assert_eq!(config.limits.client_idle, seconds(300));
    assert_eq!(config.limits.upstream_connect, seconds(10));
    assert_eq!(config.limits.upstream_idle, seconds(30));
    assert_eq!(config.limits.drain, seconds(30));
    assert_eq!(config.limits.connections_per_client, 2000);
    assert_eq!(config.limits.manifest_size, 4 << 20);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, LogLevel::Info);
    assert!(config.warnings.is_empty());
}

#[test]
fn an_entry_that_says_only_its_host_is_enabled_and_unrestricted() {
    let config = load("[[registry]]\nhost = \"a.example\"");
    let entry = &config.registries[0];
    assert!(entry.enabled && entry.ports.is_empty() && entry.url.is_none());
    assert!(entry.repositories.is_none() && entry.deny_repositories.is_empty());
}

#[test]
fn the_admin_listener_can_be_turned_off() {
    assert_eq!(load("listen.admin = \"\"").listen.admin, None);
}

#[test]
fn a_parent_proxy_is_http_https_or_socks_with_or_without_a_login() {
    for url in [
        "http://parent",
        "http://parent:8080/",
        "https://user:p%40ss@parent.example:8443",
        "socks5://user:pass@10.0.0.1:1080",
        "http://[fd00::1]:3128",
    ] {
        let config = load(&format!("[upstream]\nproxy = {url:?}"));
        assert_eq!(config.upstream.parent.unwrap().url.reveal(), url);
    }
    assert!(load("[upstream]\nproxy = \"\"").upstream.parent.is_none());
}

// === warnings ===

#[test]
fn a_key_without_effect_is_a_warning_only_when_it_is_set() {
    let warnings = load("cache.shared.region = \"x\"").warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("`cache.shared.region` is set"),
        "{warnings:?}"
    );
    assert_eq!(
        load("upstream.no_proxy = [\"a\"]").warnings,
        ["`upstream.no_proxy` is set, but there is no `upstream.proxy`"]
    );
}

#[test]
fn a_fixed_address_that_the_guard_refuses_is_a_warning() {
    let text = "[upstream]\nresolve = { \"registry.corp\" = \"10.1.2.3:443\" }";
    let warnings = load(text).warnings;
    assert!(
        warnings[0].starts_with("`upstream.resolve` sends registry.corp where it may not go: 10.1.2.3 is a private address"),
        "{warnings:?}"
    );
    assert!(
        load(&format!("{text}\nallow_private = [\"10.0.0.0/8\"]"))
            .warnings
            .is_empty()
    );
}
