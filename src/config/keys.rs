//! Every key of the configuration, with an example: what errors suggest, what the environment may
//! set, and what the documentation is checked against.

use strsim::normalized_damerau_levenshtein as similarity;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `cache.max_size`; keys of `[[registry]]` and `[[policy.rule]]` stand below `registry` and
    /// `policy.rule`.
    pub path: &'static str,
    pub kind: Kind,
    /// A value as it stands in the file.
    pub example: &'static str,
}

/// How an environment variable's text becomes the key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// As TOML where it is a number or a truth value, else as text.
    Value,
    /// As a TOML array, else split at commas.
    List,
    /// As a TOML table or array of tables.
    Table,
    /// [`Kind::Text`] that no error repeats.
    Secret,
}

/// All keys, in the order of the README's example.
pub const KEYS: &[Key] = &[
    key("builtin_registries", Kind::Value, "true"),
    key("watch_config", Kind::Value, "false"),
    key("listen.proxy", Kind::List, "[\"127.0.0.1:3128\"]"),
    key("listen.proxy_tls", Kind::List, "[\"0.0.0.0:3130\"]"),
    key("listen.names", Kind::List, "[\"gateway.corp.example\"]"),
    key("listen.tls_certificate", Kind::Text, "\"gateway.crt\""),
    key("listen.tls_key", Kind::Text, "\"gateway.key\""),
    key("listen.admin", Kind::Text, "\"127.0.0.1:3129\""),
    key("admin.users_file", Kind::Text, "\"\""),
    key("ca.dir", Kind::Text, "\"ca\""),
    key("ca.certificate", Kind::Text, "\"company-ca.crt\""),
    key("ca.key", Kind::Text, "\"company-ca.key\""),
    key("ca.name_constraints", Kind::Value, "true"),
    key("cache.dir", Kind::Text, "\"cache\""),
    key("cache.max_size", Kind::Value, "\"50GiB\""),
    key("cache.min_free", Kind::Value, "\"1GiB\""),
    key("cache.tag_ttl", Kind::Value, "\"1m\""),
    key("cache.revalidate_timeout", Kind::Value, "\"3s\""),
    key("cache.offline_for", Kind::Value, "\"7d\""),
    key("cache.shared.url", Kind::Text, "\"s3://bucket/prefix\""),
    key(
        "cache.shared.endpoint",
        Kind::Text,
        "\"https://s3.example\"",
    ),
    key("cache.shared.region", Kind::Text, "\"eu-central-1\""),
    key("upstream.ca_file", Kind::Text, "\"corporate-roots.pem\""),
    key("upstream.proxy", Kind::Secret, "\"http://parent:8080\""),
    key("upstream.no_proxy", Kind::List, "[\"registry.corp\"]"),
    key("upstream.allow_private", Kind::List, "[\"10.0.0.0/8\"]"),
    key(
        "upstream.resolve",
        Kind::Table,
        "{ \"registry.corp\" = \"10.1.2.3:443\" }",
    ),
    key("upstream.parallel", Kind::Value, "4"),
    key("upstream.lookahead", Kind::Value, "true"),
    key("policy.default", Kind::Text, "\"deny\""),
    key("policy.users_file", Kind::Text, "\"htpasswd\""),
    key(
        "policy.rule",
        Kind::Table,
        "[{ action = \"tunnel\", hosts = [\"packages.example\"] }]",
    ),
    key("policy.rule.action", Kind::Text, "\"tunnel\""),
    key("policy.rule.hosts", Kind::List, "[\"packages.example\"]"),
    key("policy.rule.ports", Kind::List, "[443]"),
    key("policy.rule.clients", Kind::List, "[\"10.0.0.0/8\"]"),
    key("policy.rule.users", Kind::List, "[\"ci\"]"),
    key("limits.client_headers", Kind::Value, "\"10s\""),
    key("limits.client_idle", Kind::Value, "\"5m\""),
    key("limits.upstream_connect", Kind::Value, "\"10s\""),
    key("limits.upstream_idle", Kind::Value, "\"30s\""),
    key("limits.drain", Kind::Value, "\"30s\""),
    key("limits.connections_per_client", Kind::Value, "2000"),
    key("limits.manifest_size", Kind::Value, "\"4MiB\""),
    key("log.format", Kind::Text, "\"text\""),
    key("log.level", Kind::Text, "\"info\""),
    key("log.otlp", Kind::Text, "\"http://collector:4318\""),
    key("registry", Kind::Table, "[{ host = \"registry.example\" }]"),
    key("registry.host", Kind::Text, "\"registry.example\""),
    key("registry.ports", Kind::List, "[443]"),
    key("registry.auth", Kind::Text, "\"client\""),
    key("registry.username", Kind::Text, "\"robot\""),
    key("registry.password_file", Kind::Text, "\"robot-password\""),
    key("registry.password_env", Kind::Text, "\"ROBOT_PASSWORD\""),
    key(
        "registry.docker_config",
        Kind::Text,
        "\"/root/.docker/config.json\"",
    ),
    key("registry.push", Kind::Text, "\"deny\""),
    key(
        "registry.tag_ttl",
        Kind::Table,
        "{ \"latest\" = \"1m\", \"*\" = \"10m\" }",
    ),
    key("registry.repositories", Kind::List, "[\"team/*\"]"),
    key(
        "registry.deny_repositories",
        Kind::List,
        "[\"team/secret*\"]",
    ),
    key("registry.enabled", Kind::Value, "true"),
    key("registry.url", Kind::Text, "\"https://mirror.example\""),
    key(
        "registry.token_hosts",
        Kind::List,
        "[\"auth.example\", \"gitlab.example/jwt/auth\"]",
    ),
    key("registry.ca_file", Kind::Text, "\"partner-root.pem\""),
    key("registry.client_certificate", Kind::Text, "\"gateway.crt\""),
    key("registry.client_key", Kind::Text, "\"gateway.key\""),
    key("prefetch", Kind::Table, "[{ images = [\"alpine\"] }]"),
    key(
        "prefetch.images",
        Kind::List,
        "[\"alpine\", \"ghcr.io/org/app:1\"]",
    ),
    key("prefetch.platforms", Kind::List, "[\"linux/amd64\"]"),
    key("prefetch.interval", Kind::Value, "\"1h\""),
];

/// The key itself, or the one whose table the path lies in (`upstream.resolve` for one of its
/// hosts).
pub fn key_of(path: &str) -> Option<&'static Key> {
    let holds = |key: &&Key| {
        path.strip_prefix(key.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    KEYS.iter().filter(holds).max_by_key(|key| key.path.len())
}

/// The keys that an environment variable may set: those of the entries of `[[registry]]` and
/// `[[policy.rule]]` have no name of their own.
pub fn overridable() -> impl Iterator<Item = &'static Key> {
    let of_an_entry = ["registry.", "policy.rule.", "prefetch."];
    KEYS.iter()
        .filter(move |key| !of_an_entry.iter().any(|entry| key.path.starts_with(entry)))
}

/// What to say about an unknown key.
pub fn hint(path: &str) -> String {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings = children(section);
    // A neighbour is likelier meant than a key of the same name under another heading.
    let near = siblings
        .iter()
        .map(|sibling| (similarity(sibling, name), join(section, sibling)))
        .filter(|(score, _)| *score >= 0.5)
        .map(|(score, path)| (score + 0.35, path));
    // Of equals the last one wins here, and the first one of the table is the likelier.
    let elsewhere = KEYS
        .iter()
        .rev()
        .map(|key| (similarity(leaf(key.path), name), key.path.to_owned()))
        .filter(|(score, _)| *score >= 0.75);
    match near.chain(elsewhere).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, near)) => format!("the nearest is `{near}`"),
        None => {
            let likest = siblings
                .iter()
                .map(|sibling| (similarity(sibling, name), sibling))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let nearest = likest.map_or_else(String::new, |(_, sibling)| join(section, sibling));
            format!(
                "the nearest is `{nearest}`; here may stand {}",
                siblings.join(", ")
            )
        }
    }
}

/// The keys and sections directly below `section`, each once.
pub fn children(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS {
        let rest = match section {
            "" => Some(key.path),
            _ => key
                .path
                .strip_prefix(section)
                .and_then(|rest| rest.strip_prefix('.')),
        };
        let name = rest.and_then(|rest| rest.split('.').next());
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

// === helpers ===

const fn key(path: &'static str, kind: Kind, example: &'static str) -> Key {
    Key {
        path,
        kind,
        example,
    }
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn join(section: &str, name: &str) -> String {
    match section {
        "" => name.to_owned(),
        _ => format!("{section}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    #[test]
    fn a_misspelt_key_is_led_to_the_nearest_one() {
        assert_eq!(hint("cache.max_sise"), "the nearest is `cache.max_size`");
        assert_eq!(hint("polcy"), "the nearest is `policy`");
        assert_eq!(hint("registries"), "the nearest is `registry`");
        assert_eq!(hint("max_size"), "the nearest is `cache.max_size`");
        assert_eq!(hint("cache.ca_file"), "the nearest is `upstream.ca_file`");
        assert_eq!(
            hint("log.zzzzzzzzzzzz"),
            "the nearest is `log.otlp`; here may stand format, level, otlp"
        );
    }

    /// serde names the fields it knows when it meets one it does not.
    #[test]
    fn the_table_and_the_file_know_the_same_keys() {
        for (section, text) in [
            ("", "zzz = 1"),
            ("listen", "[listen]\nzzz = 1"),
            ("ca", "[ca]\nzzz = 1"),
            ("cache", "[cache]\nzzz = 1"),
            ("cache.shared", "[cache.shared]\nzzz = 1"),
            ("upstream", "[upstream]\nzzz = 1"),
            ("policy", "[policy]\nzzz = 1"),
            ("policy.rule", "[[policy.rule]]\nzzz = 1"),
            ("limits", "[limits]\nzzz = 1"),
            ("log", "[log]\nzzz = 1"),
            ("registry", "[[registry]]\nzzz = 1"),
            ("prefetch", "[[prefetch]]\nzzz = 1"),
        ] {
            let error = toml::from_str::<File>(text).unwrap_err();
            let message = error.message();
            assert!(message.starts_with("unknown field `zzz`"), "{message}");
            let mut known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
            let mut listed = children(section);
            known.sort_unstable();
            listed.sort_unstable();
            assert_eq!(known, listed, "[{section}]");
        }
    }

    #[test]
    fn every_example_is_a_value_the_file_takes() {
        for key in KEYS {
            let (section, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            let line = format!("{name} = {}\n", key.example);
            let text = match section {
                "" => line,
                "registry" if name != "host" => format!("[[registry]]\nhost = \"a\"\n{line}"),
                "registry" => format!("[[registry]]\n{line}"),
                "prefetch" if name != "images" => {
                    format!("[[prefetch]]\nimages = [\"a\"]\n{line}")
                }
                "prefetch" => format!("[[prefetch]]\n{line}"),
                "policy.rule" => {
                    let rest = [("action", "\"deny\""), ("hosts", "[\"a\"]")];
                    let rest = rest.iter().filter(|(n, _)| *n != name);
                    let rest: String = rest.map(|(n, v)| format!("{n} = {v}\n")).collect();
                    format!("[[policy.rule]]\n{line}{rest}")
                }
                _ => format!("[{section}]\n{line}"),
            };
            assert!(toml::from_str::<File>(&text).is_ok(), "{text}");
        }
    }
}
