//! The configuration file, the environment over it, and the exit codes.

use std::process::{Output, Stdio};

use crate::support::{Gateway, gateway};

async fn check(toml: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    std::fs::write(&file, toml).unwrap();
    gateway::run(&["check", "--config", file.to_str().unwrap()], dir.path()).await
}

async fn serve(toml: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    std::fs::write(&file, toml).unwrap();
    gateway::run(&["serve", "--config", file.to_str().unwrap()], dir.path()).await
}

/// Asserts exit code 78 from both commands, with each of `words` in what they say.
async fn assert_refused(toml: &str, words: &[&str]) {
    for output in [check(toml).await, serve(toml).await] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{toml}\n{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in:\n{said}");
        }
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    let toml = "builtin_registries = true\n\n[cache]\nmax_sise = \"1GiB\"\n";
    assert_refused(toml, &["max_sise", "line 4", "max_size"]).await;
    assert_refused("[cahce]\n", &["cahce", "line 1", "cache"]).await;
    let toml = "[[registry]]\nhost = \"r.test\"\nprots = [443]\n";
    assert_refused(toml, &["prots", "line 3", "ports"]).await;
    let toml = "[[policy.rule]]\naction = \"deny\"\nhots = [\"r.test\"]\n";
    assert_refused(toml, &["hots", "line 3", "hosts"]).await;
}

#[tokio::test]
async fn a_value_that_is_none_is_named_with_its_key() {
    assert_refused("[cache]\nmax_size = \"lots\"\n", &["max_size", "lots"]).await;
    assert_refused("[cache]\ntag_ttl = \"1 fortnight\"\n", &["tag_ttl"]).await;
    assert_refused("[listen]\nproxy = [\"nowhere\"]\n", &["proxy", "nowhere"]).await;
    assert_refused("[policy]\ndefault = \"maybe\"\n", &["default", "maybe"]).await;
    assert_refused("[[registry]]\nhost = \"no host\"\n", &["host", "no host"]).await;
    assert_refused("[[registry]]\nports = [443]\n", &["host"]).await;
    assert_refused(
        "[upstream]\nallow_private = [\"10.0.0.0/99\"]\n",
        &["allow_private"],
    )
    .await;
    assert_refused("[cache\n", &["line 1"]).await;
    assert_refused("[cache]\ndir = \"\"\n", &["line 2", "cache.dir"]).await;
    assert_refused("[ca]\ndir = \"\"\n", &["line 2", "ca.dir"]).await;
}

#[tokio::test]
async fn what_cannot_be_printed_is_an_error_but_for_a_reader_that_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str], out: Stdio| {
        let mut command = gateway::command();
        command.args(args).current_dir(dir.path()).stdout(out);
        command.output().unwrap()
    };
    for args in [
        &["--version"][..],
        &["--help"],
        &["check"],
        &["manual", "man"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let output = run(args, full.unwrap().into());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let named = "pierhead: standard output: No space left";
        assert_eq!(said.matches(named).count(), 1, "{args:?}: {said}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(args, writer.into());
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[tokio::test]
async fn what_stops_a_start_is_named_with_its_mend() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let listen = |proxy: &str| format!("[listen]\nproxy = [\"{proxy}\"]\nadmin = \"\"\n");
    // 192.0.2.0/24 is nobody's.
    for (toml, named, mend) in [
        (listen(&taken), taken.clone(), "another program has it"),
        (listen("192.0.2.1:0"), "192.0.2.1:0".to_owned(), "0.0.0.0"),
        (
            listen("127.0.0.1:0") + "[ca]\ndir = \"/proc/no/ca\"\n",
            "/proc/no/ca".to_owned(),
            "[ca] dir has to be",
        ),
    ] {
        let output = serve(&toml).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{toml}");
        assert!(said.contains(&named) && said.contains(mend), "{said}");
    }
}

#[tokio::test]
async fn an_empty_file_is_a_configuration() {
    let output = check("").await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn check_tells_of_what_is_prefetched_and_who_may_change_something() {
    let toml = "[[prefetch]]\nimages = [\"alpine:3\", \"ghcr.io/org/app\"]\nplatforms = [\"linux/arm64\"]\ninterval = \"2h\"\n";
    let said = String::from_utf8(check(toml).await.stdout).unwrap();
    let line = "docker.io/library/alpine:3, ghcr.io/org/app:latest  every 2h, linux/arm64";
    for word in [
        line,
        "http://127.0.0.1:3129: whoever is on this machine",
        "pierhead doctor",
    ] {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
    let said = String::from_utf8(check("[listen]\nadmin = \"\"\n").await.stdout).unwrap();
    assert!(said.contains("no admin listener"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    std::fs::write(&file, toml).unwrap();
    let args = ["check", "--config", file.to_str().unwrap(), "ghcr.io"];
    let said = gateway::run(&args, dir.path()).await;
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("prefetched   ghcr.io/org/app:latest every 2h"),
        "{said}"
    );
    assert!(!said.contains("alpine"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let output = gateway::run(&["serve", "--config", "nowhere.toml"], dir.path()).await;
    assert!(matches!(output.status.code(), Some(1 | 78)), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("nowhere.toml"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_usage_error_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [&[&str]; 4] = [
        &["serve", "--nonsense"],
        &["nonsense"],
        &["ca", "nonsense"],
        &[],
    ];
    for args in wrong {
        let output = gateway::run(args, dir.path()).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}

#[tokio::test]
async fn help_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["ca", "--help"],
    ] {
        let output = gateway::run(args, dir.path()).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn sizes_and_durations_are_for_people_and_bare_numbers_are_bytes_and_seconds() {
    let toml = r#"
        [cache]
        max_size = 1000000
        min_free = "1.5GiB"
        tag_ttl = 30
        offline_for = "7d"
        [limits]
        client_headers = "10s"
        client_idle = "5m"
        manifest_size = "4MiB"
    "#;
    let output = check(toml).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn the_environment_is_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    std::fs::write(&file, "[cache]\nmax_size = \"1GiB\"\n").unwrap();
    let run = |value: &str| {
        let mut command = gateway::command();
        command
            .args(["check", "--config"])
            .arg(&file)
            .current_dir(dir.path());
        command
            .env("PIERHEAD_CACHE__MAX_SIZE", value)
            .output()
            .unwrap()
    };
    let good = run("2GiB");
    assert!(good.status.success(), "{good:?}");
    let bad = run("lots");
    assert_eq!(bad.status.code(), Some(78));
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(said.contains("PIERHEAD_CACHE__MAX_SIZE"), "{said}");
}

#[tokio::test]
async fn nothing_is_bound_or_made_before_the_configuration_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    std::fs::write(&file, "[limits]\ndrain = \"never\"\n").unwrap();
    let output = gateway::run(&["serve", "--config", file.to_str().unwrap()], dir.path()).await;
    assert_eq!(output.status.code(), Some(78));
    let made: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(made.len(), 1, "{made:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let gateway = Gateway::alone().start().await;
    let taken = gateway.proxy.to_string();
    let toml = format!("[listen]\nproxy = [{taken:?}]\nadmin = \"127.0.0.1:0\"\n");
    let output = serve(&toml).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&taken), "{said}");
}

#[tokio::test]
async fn two_registries_that_share_a_port_are_78_and_both_named() {
    let toml = "[[registry]]\nhost = \"registry.test\"\nports = [443, 5000]\n\n[[registry]]\nhost = \"registry.test\"\nports = [5000]\n";
    let words = ["registry.host (entry 2)", "entry 1", "port 5000"];
    assert_refused(toml, &words).await;
    let hub = "[[registry]]\nhost = \"docker.io\"\n[[registry]]\nhost = \"index.docker.io\"\n";
    let words = ["index.docker.io", "entry 1 (host = \"docker.io\")"];
    assert_refused(hub, &words).await;
}

#[tokio::test]
async fn a_ca_file_that_is_not_there_is_78_and_named() {
    let toml = "[upstream]\nca_file = \"nowhere.pem\"\n";
    assert_refused(toml, &["nowhere.pem"]).await;
}

#[tokio::test]
async fn a_ca_file_without_a_certificate_is_78_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "not PEM\n").unwrap();
    let toml = format!("[upstream]\nca_file = {empty:?}\n");
    assert_refused(&toml, &["empty.pem"]).await;
}

#[tokio::test]
async fn a_host_that_is_none_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pierhead.toml"), "").unwrap();
    for host in [
        "no host",
        "a..b",
        "-",
        "host:99999",
        "http://",
        "a.host:port",
    ] {
        let output = gateway::run(&["check", "--", host], dir.path()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{host}: {output:?}");
        assert!(said.contains("pierhead") && said.contains(host), "{said}");
    }
}

#[tokio::test]
async fn an_option_may_be_written_with_an_equals_sign() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("other=name.toml");
    std::fs::write(&file, "[cache]\nmax_sise = 1\n").unwrap();
    let option = format!("--config={}", file.to_str().unwrap());
    for args in [&["check", &option][..], &["ca", "show", &option]] {
        let output = gateway::run(args, dir.path()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{args:?}: {said}");
        assert!(said.contains("max_sise"), "{args:?}: {said}");
    }
    std::fs::write(&file, "").unwrap();
    let args = ["check", &option, "--client=10.0.0.1", "192.0.2.1"];
    let output = gateway::run(&args, dir.path()).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("10.0.0.1"), "{said}");
}

#[tokio::test]
async fn an_environment_that_is_no_text_is_no_panic() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &[u8], value: &[u8]| {
        let mut command = gateway::command();
        command.args(["check"]).current_dir(dir.path());
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        command.output().unwrap()
    };
    for (name, value) in [
        (&b"OF_SOMEBODY_ELSE"[..], &b"caf\xe9"[..]),
        (b"NAME_\xff\xfe", b"1"),
        (b"NO_PROXY", b"\xff"),
    ] {
        let output = run(name, value);
        assert!(output.status.success(), "{output:?}");
    }
    for (name, value) in [
        (&b"PIERHEAD_CACHE__MAX_SIZE"[..], &b"\xff"[..]),
        (b"PIERHEAD_\xff", b"1"),
    ] {
        let output = run(name, value);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 78)), "{output:?}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let output = run(b"PIERHEAD_CACHE__MAX_SIZE", b"\xff");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[tokio::test]
async fn check_says_how_blobs_come_from_upstream() {
    for (toml, words) in [
        (
            "",
            "up to 4 connections where one is slow; a manifest that passes starts its layers",
        ),
        (
            "[upstream]\nparallel = 1\nlookahead = false",
            "over one connection; a manifest that passes starts no download",
        ),
    ] {
        let output = check(toml).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn what_serve_would_miss_is_78_for_check_with_its_key_its_line_and_the_mend() {
    let login = |place: &str| {
        format!("[[registry]]\nhost = \"registry.test\"\nauth = \"gateway\"\n{place}\n")
    };
    let prefetch = "[[prefetch]]\nimages = [\"alpine:3\", \"quay.exmaple/app:1\"]\n";
    let denied = "[[policy.rule]]\naction = \"deny\"\nhosts = [\"*.docker.io\"]\n[[prefetch]]\nimages = [\"alpine\"]\n";
    for (toml, words) in [
        (
            login("username = \"r\"\npassword_file = \"no-robot\""),
            [
                "line 5: `registry.password_file (entry 1)`",
                "no-robot",
                "the gateway runs as",
            ],
        ),
        (
            login("docker_config = \"no-config.json\""),
            [
                "line 4: `registry.docker_config (entry 1)`",
                "no-config.json",
                "docker login",
            ],
        ),
        (
            prefetch.to_owned(),
            [
                "line 2: `prefetch.images (entry 1)`",
                "quay.exmaple/app:1 cannot",
                "[[registry]] host = \"quay.exmaple\"",
            ],
        ),
        (
            denied.to_owned(),
            [
                "line 5: `prefetch.images (entry 1)`",
                "docker.io/library/alpine:latest",
                "policy.rule 1",
            ],
        ),
    ] {
        let output = check(&toml).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{toml}\n{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in:\n{said}");
        }
    }
    // The gateway's environment is not the one of who checks.
    let output = check(&login("username = \"r\"\npassword_env = \"NO_ROBOT\"")).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in [
        "Note: ",
        "line 5: `registry.password_env (entry 1)`",
        "NO_ROBOT",
        "`pierhead serve`",
    ] {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
    // Nobody asks for this one, and the registry of that one is a pattern's.
    for good in [
        "[[registry]]\nhost = \"registry.test\"\nusername = \"r\"\npassword_file = \"no-robot\"\n",
        "[[registry]]\nhost = \"*.registry.test\"\n[[prefetch]]\nimages = [\"a.registry.test/app\"]\n",
    ] {
        let output = check(good).await;
        assert!(output.status.success(), "{output:?}");
    }
}

#[tokio::test]
async fn what_stops_serve_stops_check() {
    let users = "[admin]\nusers_file = \"no-admins\"\n";
    assert_refused(users, &["no-admins"]).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    std::fs::create_dir(&ca).unwrap();
    std::fs::write(ca.join("ca.crt"), "").unwrap();
    let toml = format!("[listen]\nproxy = [\"127.0.0.1:0\"]\nadmin = \"\"\n[ca]\ndir = {ca:?}\n");
    for output in [check(&toml).await, serve(&toml).await] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("put the key back"), "{said}");
    }
}
