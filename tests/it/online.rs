//! `pierhead check HOST --online`: the registry is asked, and what it says is told.

use tempfile::TempDir;

use crate::support::{Fault, Gateway, On, Upstream, gateway, upstream::Registry};

const HOST: &str = "registry.test";
const PASSWORD: &str = "r0b0t-pass";

/// What it says of [`HOST`] with this password in its file, and its exit code.
async fn asked(up: &Upstream, auth: &str, password: &str) -> (String, Option<i32>) {
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("pw"), password).unwrap();
    let login = match auth {
        "client" => String::new(),
        _ => "\nusername = \"robot\"\npassword_file = \"pw\"".to_owned(),
    };
    let setup = Gateway::before(up).registry(HOST, &format!("auth = {auth:?}{login}"));
    let config = setup.write(&home);
    let args = [
        "check",
        HOST,
        "--online",
        "--config",
        config.to_str().unwrap(),
    ];
    let output = gateway::run(&args, home.path()).await;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        !said.contains(PASSWORD) && !said.contains("guessed-pass"),
        "{said}"
    );
    (said, output.status.code())
}

async fn registry(basic: bool) -> (Upstream, Registry) {
    let up = Upstream::start().await;
    let registry = up.registry(HOST).user("robot", PASSWORD);
    let registry = match basic {
        true => registry.basic(),
        false => registry.bearer("auth.test"),
    };
    registry.private_repo("team/app", &["robot"]);
    (up, registry)
}

#[tokio::test]
async fn a_good_login_is_told_as_accepted() {
    for basic in [true, false] {
        let (up, _) = registry(basic).await;
        let (said, code) = asked(&up, "gateway", PASSWORD).await;
        assert_eq!(code, Some(0), "{said}");
        let challenge = match basic {
            true => "Basic",
            false => "tokens from https://auth.test/token",
        };
        for words in ["asks who is there", challenge, "robot is accepted"] {
            assert!(said.contains(words), "no {words:?} in:\n{said}");
        }
    }
}

#[tokio::test]
async fn a_refused_login_is_shown_as_such_and_the_command_fails() {
    for basic in [true, false] {
        let (up, _) = registry(basic).await;
        let (said, code) = asked(&up, "client-or-gateway", "guessed-pass").await;
        assert_eq!(code, Some(1), "{said}");
        let words = "refused the gateway's own login";
        assert!(said.contains("FAILED") && said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_registry_that_wants_no_login_and_one_that_wants_the_callers_are_well() {
    let up = Upstream::start().await;
    up.repo(HOST, "app");
    let (said, code) = asked(&up, "client", "").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("asks for no login"), "{said}");

    let (up, _) = registry(true).await;
    let (said, code) = asked(&up, "client", "").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("callers need a login of their own"), "{said}");
}

#[tokio::test]
async fn what_is_no_registry_and_what_does_not_answer_is_said() {
    let up = Upstream::start().await;
    up.repo(HOST, "app");
    up.fault(
        On::get("/v2/"),
        Fault::Status(404, Vec::new(), "nothing here"),
    );
    let (said, code) = asked(&up, "client", "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("404") && said.contains("no registry"),
        "{said}"
    );

    up.stop().await;
    let (said, code) = asked(&up, "client", "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ping         FAILED"), "{said}");
}

#[tokio::test]
async fn a_host_that_is_no_registry_here_is_not_asked() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let home = TempDir::new().unwrap();
    let config = Gateway::before(&up).write(&home);
    let config = config.to_str().unwrap();
    let args = ["check", "pages.test", "--online", "--config", config];
    let output = gateway::run(&args, home.path()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("nothing to ask"), "{said}");
    assert_eq!(up.requests(), 0);
    let output = gateway::run(&["check", "--online", "--config", config], home.path()).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
