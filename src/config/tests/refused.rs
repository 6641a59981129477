//! What is wrong with a file is told by its line, its key, and what would be right.

use super::*;

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
            "line 2: unknown key `log.zzzzzzzzzzzz`; the nearest is `log.otlp`; here may stand format, level, otlp",
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
            "[cache]\n\ndir = \"\"",
            [
                "line 3: `cache.dir`: an empty path",
                "say for example dir = \"cache\"",
            ],
        ),
        (
            "[ca]\ndir = \"\"",
            [
                "line 2: `ca.dir`: an empty path",
                "say for example dir = \"ca\"",
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

#[test]
fn a_login_has_a_name_and_one_place_for_its_password() {
    let entry = |more: &str| format!("[[registry]]\nhost = \"a\"\nauth = \"gateway\"\n{more}");
    let good = entry("username = \"robot\"\npassword_file = \"f\"");
    assert_eq!(load(&good).logins.len(), 1);
    assert_eq!(load(&entry("docker_config = \"c.json\"")).logins.len(), 1);
    assert!(load(&entry("")).logins.is_empty());
    let nobody = load(&entry("username = \"robot\""));
    assert!(nobody.logins.is_empty());
    assert!(nobody.warnings[0].contains("asked as anybody"));
    for (more, key) in [
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
