//! Which file is read, and what of the environment comes over it.

use super::*;

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
    let text = bad(
        "PIERHEAD_REGISTRY",
        "[{ host = \"a\", password_env = \"u\" }]",
    );
    assert!(
        text.starts_with(
            "environment variable PIERHEAD_REGISTRY: `registry.password_file (entry 1)`"
        ),
        "{text}"
    );
    let text = bad("PIERHEAD_REGISTRY", "[{ hosst = \"a\" }]");
    assert!(
        text.contains("unknown key `registry.hosst`; the nearest is `registry.host`"),
        "{text}"
    );
    let text = bad("PIERHEAD_LISTEN__PROXY", "");
    assert!(text.starts_with("environment variable PIERHEAD_LISTEN__PROXY: `listen.proxy`: pierhead would listen nowhere"), "{text}");
    for (variable, key) in [
        ("PIERHEAD_CACHE__DIR", "cache.dir"),
        ("PIERHEAD_CA__DIR", "ca.dir"),
    ] {
        let text = bad(variable, "");
        let expected = format!("environment variable {variable}: `{key}`: an empty path");
        assert!(text.starts_with(&expected), "{text}");
    }
}
