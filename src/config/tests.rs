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

/// PRODUCT.md section 2, without what this version refuses.
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

// === which file ===

#[test]
fn a_named_file_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere.toml");
    let named = Config::load(Some(&path), vars(&[]));
    let text = named.unwrap_err().to_string();
    assert!(
        text.starts_with("cannot read ") && text.contains("nowhere.toml"),
        "{text}"
    );
    let path = path.to_str().unwrap();
    assert!(Config::load(None, vars(&[("PIERHEAD_CONFIG", path)])).is_err());
}

#[test]
fn the_first_of_the_usual_files_that_exists_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    let usual = [first.as_path(), second.as_path()];
    let load = || Config::load_from(None, &usual, vars(&[])).unwrap();
    assert_eq!(load().file, None);
    std::fs::write(&second, "cache.max_size = 2").unwrap();
    assert_eq!(load().cache.max_size, 2);
    std::fs::write(&first, "cache.max_size = 1").unwrap();
    assert_eq!(load().cache.max_size, 1);
    assert_eq!(load().file, Some(first.clone()));
}

#[test]
fn the_command_line_names_the_file_before_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    std::fs::write(&path, "cache.max_size = 1").unwrap();
    let env = [("PIERHEAD_CONFIG", "/nowhere/at/all.toml")];
    assert_eq!(
        Config::load(Some(&path), vars(&env))
            .unwrap()
            .cache
            .max_size,
        1
    );
    let env = [("PIERHEAD_CONFIG", path.to_str().unwrap())];
    assert_eq!(Config::load(None, vars(&env)).unwrap().cache.max_size, 1);
}

// === the environment ===

#[test]
fn the_environment_comes_over_the_file() {
    let text = "[cache]\nmax_size = 1\nmin_free = 2";
    let env = [
        ("PIERHEAD_CACHE__MAX_SIZE", "3GiB"),
        ("PIERHEAD_LISTEN__PROXY", "127.0.0.1:0,[::1]:0"),
        ("PIERHEAD_LISTEN__ADMIN", ""),
        ("PIERHEAD_LIMITS__DRAIN", "5"),
        ("PIERHEAD_REGISTRY", "[{ host = \"a.example\" }]"),
        (
            "PIERHEAD_UPSTREAM__RESOLVE",
            "{ \"a.example\" = \"192.0.2.1\" }",
        ),
    ];
    let config = load_with(text, &env).unwrap();
    assert_eq!((config.cache.max_size, config.cache.min_free), (3 << 30, 2));
    assert_eq!(config.listen.proxy.len(), 2);
    assert_eq!(config.listen.admin, None);
    assert_eq!(config.limits.drain, seconds(5));
    assert_eq!(config.registries.len(), 1);
    assert!(config.upstream.resolve.contains_key("a.example"));
}

#[test]
fn every_key_that_has_a_variable_takes_its_example_from_it() {
    for key in keys::overridable() {
        let text = key.example;
        // A text's quotes belong to TOML, not to the variable.
        let text = text
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .unwrap_or(text);
        let variable = env::variable_of(key);
        match load_with(
            "ca = { certificate = \"c\", key = \"k\" }\nlisten = { tls_certificate = \"c\", tls_key = \"k\" }",
            &[(&variable, text)],
        ) {
            Ok(_) | Err(ConfigError::NotYet { .. }) => {}
            Err(error) => panic!("{variable}={text}: {error}"),
        }
    }
}

#[test]
fn a_bad_variable_is_named() {
    let bad = |name, value| message_of(load_with("", &[(name, value)]));
    assert_eq!(
        bad("PIERHEAD_CACHE__MAX_SIZE", "5 potatoes"),
        "environment variable PIERHEAD_CACHE__MAX_SIZE: `cache.max_size`: \"5 potatoes\" is not a size; say for example \"50GiB\" or \"10MB\", or a number of bytes"
    );
    let text = bad("PIERHEAD_REGISTRY", "[{ host = \"a\", username = \"u\" }]");
    assert!(
        text.starts_with("environment variable PIERHEAD_REGISTRY: `registry.username (entry 1)`"),
        "{text}"
    );
    let text = bad("PIERHEAD_REGISTRY", "[{ hosst = \"a\" }]");
    assert!(
        text.contains("unknown key `registry.hosst`; the nearest is `registry.host`"),
        "{text}"
    );
    let text = bad("PIERHEAD_LISTEN__PROXY", "");
    assert!(text.starts_with("environment variable PIERHEAD_LISTEN__PROXY: `listen.proxy`: pierhead would listen nowhere"), "{text}");
}

// === what is wrong with a file ===

#[test]
fn a_file_that_is_not_toml_is_told_by_its_line() {
    let text = message("[cache]\ndir = \"a\"\nmax_size = 50GiB\n");
    assert!(
        text.starts_with("pierhead.toml, line 3: this is not TOML: "),
        "{text}"
    );
    let text = message("[cache]\ndir = \"a\"\ndir = \"b\"\n");
    assert!(
        text.starts_with("pierhead.toml, line 3: this is not TOML: duplicate key"),
        "{text}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    for (text, expected) in [
        (
            "[cache]\n\nmax_sise = 1",
            "line 3: unknown key `cache.max_sise`; the nearest is `cache.max_size`",
        ),
        (
            "[polcy]\ndefault = \"deny\"",
            "line 1: unknown key `polcy`; the nearest is `policy`",
        ),
        (
            "max_size = 1",
            "line 1: unknown key `max_size`; the nearest is `cache.max_size`",
        ),
        (
            "cache.tag_tll = 1",
            "line 1: unknown key `cache.tag_tll`; the nearest is `cache.tag_ttl`",
        ),
        (
            "[[registry]]\nhost = \"a\"\n[[registry]]\nhost = \"b\"\npussh = 1",
            "line 5: unknown key `registry.pussh`; the nearest is `registry.push`",
        ),
        (
            "[[policy.rule]]\naction = \"deny\"\nhost = [\"a\"]",
            "line 3: unknown key `policy.rule.host`; the nearest is `policy.rule.hosts`",
        ),
        (
            "[log]\nzzzzzzzzzzzz = 1",
            "line 2: unknown key `log.zzzzzzzzzzzz`; here may stand format, level, otlp",
        ),
    ] {
        assert_eq!(message(text), format!("pierhead.toml, {expected}"));
    }
}

#[test]
fn a_bad_value_is_named_with_its_line_and_what_would_be_right() {
    for (text, parts) in [
        (
            "[cache]\nmax_size = \"lots\"",
            [
                "line 2: `cache.max_size`: \"lots\" is not a size",
                "\"50GiB\"",
            ],
        ),
        (
            "[cache]\nmax_size = -1",
            [
                "line 2: `cache.max_size`: invalid value",
                "say for example max_size = \"50GiB\"",
            ],
        ),
        (
            "[cache]\nmax_size = 1.5",
            [
                "line 2: `cache.max_size`: invalid type",
                "a number of bytes",
            ],
        ),
        (
            "[cache]\ntag_ttl = \"soon\"",
            [
                "line 2: `cache.tag_ttl`: \"soon\" is not a duration",
                "\"10m\"",
            ],
        ),
        (
            "[cache]\nrevalidate_timeout = \"0s\"",
            [
                "line 2: `cache.revalidate_timeout`: no time at all",
                "say \"1s\"",
            ],
        ),
        (
            "[ca]\nname_constraints = \"yes\"",
            [
                "line 2: `ca.name_constraints`: invalid type",
                "name_constraints = true",
            ],
        ),
        (
            "[listen]\nproxy = \"127.0.0.1:1\"",
            [
                "line 2: `listen.proxy`: invalid type",
                "proxy = [\"127.0.0.1:3128\"]",
            ],
        ),
        (
            "[listen]\nproxy = [\n\"127.0.0.1:1\",\n\":3128\"]",
            ["line 4: `listen.proxy`: \":3128\"", "\"0.0.0.0:3128\""],
        ),
        (
            "[listen]\nadmin = \"localhost:1\"",
            ["line 2: `listen.admin`:", "say \"127.0.0.1:1\""],
        ),
        (
            "[listen]\nproxy = []",
            [
                "line 2: `listen.proxy`: pierhead would listen nowhere",
                "say for example",
            ],
        ),
        (
            "[upstream]\nallow_private = [\"10/8\"]",
            [
                "line 2: `upstream.allow_private`: \"10/8\" is not a network",
                "\"10.0.0.0/8\"",
            ],
        ),
        (
            "[upstream]\nresolve = { a = \"b\" }",
            [
                "line 2: `upstream.resolve.a`: \"b\" is not an address",
                "\"10.1.2.3:443\"",
            ],
        ),
        (
            "[upstream]\nresolve = { \"a/b\" = \"10.0.0.1\" }",
            [
                "line 2: `upstream.resolve`: \"a/b\" is not a host name",
                "resolve = {",
            ],
        ),
        (
            "[policy]\ndefault = \"allow\"",
            [
                "line 2: `policy.default`: unknown variant `allow`, expected `deny` or `tunnel`",
                "default = \"deny\"",
            ],
        ),
        (
            "[[policy.rule]]\naction = \"deny\"\nhosts = []",
            [
                "line 3: `policy.rule.hosts (entry 1)`: a rule without hosts",
                "[\"*\"]",
            ],
        ),
        (
            "[[policy.rule]]\naction = \"deny\"",
            [
                "line 1: `policy.rule (entry 1)`: missing field `hosts`",
                "say for example",
            ],
        ),
        (
            "[[policy.rule]]\naction = \"deny\"\nhosts = [\"a:80\"]",
            [
                "line 3: `policy.rule.hosts (entry 1)`: \"a:80\" has a port",
                "`ports`",
            ],
        ),
        (
            "[[policy.rule]]\naction = \"deny\"\nhosts = [\"a\"]\nclients = []",
            [
                "line 4: `policy.rule.clients (entry 1)`: an empty list",
                "leave the key out",
            ],
        ),
        (
            "[[policy.rule]]\naction = \"deny\"\nhosts = [\"a\"]\nports = [0]",
            [
                "line 4: `policy.rule.ports (entry 1)`: invalid value",
                "ports = [443]",
            ],
        ),
        (
            "[limits]\nclient_idle = 0",
            ["line 2: `limits.client_idle`: no time at all", "say \"1s\""],
        ),
        (
            "[limits]\nconnections_per_client = 0",
            [
                "line 2: `limits.connections_per_client`: invalid value",
                "= 2000",
            ],
        ),
        (
            "[limits]\nmanifest_size = 0",
            ["line 2: `limits.manifest_size`: no manifest", "\"4MiB\""],
        ),
        (
            "[log]\nlevel = \"loud\"",
            ["line 2: `log.level`: unknown variant `loud`", "`info`"],
        ),
        (
            "[[registry]]\nhost = \"a\"\n[[registry]]\nports = [443]",
            [
                "line 3: `registry (entry 2)`: missing field `host`",
                "host = ",
            ],
        ),
        (
            "[[registry]]\nports = [443]",
            [
                "line 1: `registry (entry 1)`: missing field `host`",
                "host = ",
            ],
        ),
        (
            "[[registry]]\nhost = \"https://a\"",
            [
                "line 2: `registry.host (entry 1)`: \"https://a\" has a scheme",
                "host = \"registry.example\"",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\nports = [70000]",
            [
                "line 3: `registry.ports (entry 1)`: invalid value",
                "ports = [443]",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\nports = []",
            [
                "line 3: `registry.ports (entry 1)`: an empty list",
                "leave the key out",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\nauth = \"none\"",
            [
                "line 3: `registry.auth (entry 1)`: unknown variant `none`",
                "`client-or-gateway`",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\ntag_ttl = \"1m\"",
            [
                "line 3: `registry.tag_ttl (entry 1)`: invalid type",
                "tag_ttl = { \"latest\" = \"1m\"",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\ntag_ttl = { latest = \"x\" }",
            [
                "line 3: `registry.tag_ttl.latest (entry 1)`: \"x\" is not a duration",
                "\"10m\"",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\nrepositories = [\"[\"]",
            [
                "line 3: `registry.repositories (entry 1)`: \"[\" is not a pattern",
                "repositories = [\"team/*\"]",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\n[[registry]]\nhost = \"a\"",
            [
                "line 4: `registry.host (entry 2)`: a on port 443 is what entry 1 (host = \"a\") speaks of already",
                "make them one",
            ],
        ),
        (
            "[[registry]]\nhost = \"a\"\nports = [1, 2]\n[[registry]]\nhost = \"b\"\n[[registry]]\nhost = \"a\"\nports = [3, 2]",
            [
                "line 7: `registry.host (entry 3)`: a on port 2 is what entry 1 (host = \"a\") speaks of already",
                "`ports` of its own",
            ],
        ),
        (
            "[ca]\ncertificate = \"c\"",
            ["line 2: `ca.certificate`: say `ca.key` as well", ""],
        ),
        (
            "[ca]\nkey = \"c\"",
            ["line 2: `ca.key`: say `ca.certificate` as well", ""],
        ),
    ] {
        let message = message(text);
        let expected = format!("pierhead.toml, {}", parts[0]);
        assert!(message.starts_with(&expected), "\n{message}\n{expected}");
        assert!(message.contains(parts[1]), "\n{message}\n{}", parts[1]);
    }
}

#[test]
fn what_this_version_cannot_keep_is_refused_by_its_line() {
    let message = message("[cache.shared]\nurl = \"s3://b/hunter2\"");
    let expected = "pierhead.toml, line 2: `cache.shared.url`: ";
    assert!(message.starts_with(expected), "\n{message}\n{expected}");
    assert!(
        message.ends_with("is not in this version of pierhead yet; leave the key out"),
        "{message}"
    );
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_rule_for_users_needs_a_file_of_users() {
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"a\"]\nusers = [\"ci\"]";
    for text in [rule, &format!("policy.users_file = \"\"\n{rule}")] {
        let message = message(text);
        assert!(
            message.contains("`policy.rule.users (entry 1)`"),
            "{message}"
        );
        assert!(
            message.contains("`policy.users_file` is not set"),
            "{message}"
        );
    }
    let config = load(&format!("policy.users_file = \"htpasswd\"\n{rule}"));
    assert_eq!(config.policy.rules[0].users, ["ci"]);
    let nobody = rule.replace("\"ci\"", "");
    let message = message(&format!("policy.users_file = \"htpasswd\"\n{nobody}"));
    assert!(message.contains("names no user"), "{message}");
}

#[test]
fn no_error_repeats_a_secret() {
    for text in [
        "[upstream]\nproxy = \"http://u:hunter2@p",
        "[upstream]\nproxy = \"http://u:hunter2@p:1/path\"",
        "[upstream]\nproxy = \"http://u:hun@hunter2@p:1\"",
        "[upstream]\nproxy = \"ftp://u:hunter2@p:1\"",
        "[upstream]\nproxy = [\"http://u:hunter2@p\"]",
        "[[registry]]\nhost = \"a\"\npassword = \"hunter2\"",
        "[[registry]]\nhost = \"a\"\nurl = \"https://u:hunter2@a.example\"",
    ] {
        let error = load_with(text, &[]).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(
                !shown.contains("hunter2") && !shown.contains("42424242"),
                "{shown}"
            );
        }
    }
    let file: File = toml::from_str("upstream.proxy = \"http://u:hunter2@p\"").unwrap();
    assert!(!format!("{file:?}").contains("hunter2"));
}

// === the gateway's own logins ===

#[test]
fn a_login_has_a_name_and_one_place_for_its_password() {
    let entry = |more: &str| format!("[[registry]]\nhost = \"a\"\nauth = \"gateway\"\n{more}");
    let good = entry("username = \"robot\"\npassword_file = \"f\"");
    assert_eq!(load(&good).logins.len(), 1);
    assert_eq!(load(&entry("docker_config = \"c.json\"")).logins.len(), 1);
    assert!(load(&entry("")).logins.is_empty());
    for (more, key) in [
        ("username = \"robot\"", "registry.username (entry 1)"),
        ("password_env = \"P\"", "registry.password_file (entry 1)"),
        (
            "username = \"r\"\npassword_file = \"f\"\npassword_env = \"P\"",
            "registry.password_env (entry 1)",
        ),
        (
            "username = \"r\"\ndocker_config = \"c\"",
            "registry.docker_config (entry 1)",
        ),
    ] {
        let message = message(&entry(more));
        assert!(message.contains(&format!("`{key}`: ")), "{message}");
    }
}

// === the parent proxy ===

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

#[test]
fn what_is_no_parent_proxy_is_refused_by_its_line() {
    for (text, part) in [
        ("proxy = \"parent:8080\"", "must begin with http://"),
        ("proxy = \"http://u:p#x@parent:8080\"", "%40"),
        ("proxy = \"http://parent:0\"", "its port is none"),
        ("proxy = \"http://parent:8080/x\"", "must end with the host"),
        ("no_proxy = [\"*.corp\"]", "\".corp\""),
        ("no_proxy = [\"a:443\"]", "is no host, suffix or network"),
    ] {
        let message = message(&format!("[upstream]\n{text}"));
        assert!(
            message.starts_with("pierhead.toml, line 2: `upstream."),
            "{message}"
        );
        assert!(message.contains(part), "\n{message}\n{part}");
    }
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
