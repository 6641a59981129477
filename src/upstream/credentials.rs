//! The gateway's own names and passwords: where they are kept, read again when they change.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    password: String,
}

/// Where a registry's login is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginSource {
    PasswordFile {
        username: String,
        file: PathBuf,
    },
    PasswordEnv {
        username: String,
        variable: String,
    },
    /// A Docker `config.json`: its `auths`, `credHelpers` and `credsStore`, asked for `host`.
    DockerConfig {
        file: PathBuf,
        host: String,
    },
}

/// A registry's login, as it is by now.
pub struct Credentials {
    source: LoginSource,
    /// By the host it is for, where a Docker configuration is asked for more than one.
    held: Mutex<HashMap<String, Held>>,
}

/// A login that cannot be read. Names places, never secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the password file {file} cannot be read: {why}")]
    File { file: PathBuf, why: String },
    #[error("{file} may not be read by this user")]
    NotOurs { file: PathBuf },
    #[error("the password file {file} is empty")]
    Empty { file: PathBuf },
    #[error("the environment variable {0} (password_env) is not set")]
    Env(String),
    #[error("{file}: {why}")]
    DockerConfig { file: PathBuf, why: String },
    #[error("docker-credential-{helper}: {why}")]
    Helper { helper: String, why: String },
}

struct Held {
    login: Arc<Login>,
    /// The file's state when it was read.
    modified: Option<SystemTime>,
    read: Instant,
}

// === impl Login ===

impl Login {
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }

    /// Reads an `Authorization: Basic` value (RFC 7617).
    pub fn from_basic(value: &HeaderValue) -> Option<Self> {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self::new(username, password))
    }

    /// The password, for who compares it.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// As an `Authorization: Basic` value.
    pub fn to_basic(&self) -> HeaderValue {
        let text = STANDARD.encode(format!("{}:{}", self.username, self.password));
        // Base64 is always a header value.
        let mut value = HeaderValue::try_from(format!("Basic {text}"))
            .unwrap_or_else(|_| HeaderValue::from_static("Basic"));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

// === impl LoginSource ===

impl LoginSource {
    /// Whether there is a login to be read, as far as can be told without a credential helper.
    pub fn examine(&self) -> Result<(), CredentialError> {
        match self {
            Self::PasswordFile { file, .. } => {
                let password = read_password(file)?;
                match password.is_empty() {
                    true => Err(CredentialError::Empty { file: file.clone() }),
                    false => Ok(()),
                }
            }
            Self::PasswordEnv { variable, .. } => read_variable(variable).map(|_| ()),
            Self::DockerConfig { file, host } => {
                let config = DockerConfig::read(file)?;
                // Which host of a pattern will be asked is not known yet.
                match host.contains('*') || config.names(host) {
                    true => Ok(()),
                    false => Err(CredentialError::DockerConfig {
                        file: file.clone(),
                        why: format!("no login for {host}"),
                    }),
                }
            }
        }
    }
}

// === impl CredentialError ===

impl CredentialError {
    /// Whether another process, of another user or with another environment, may find what is not here.
    pub fn is_of_this_process(&self) -> bool {
        matches!(self, Self::Env(_) | Self::NotOurs { .. })
    }
}

// === impl Credentials ===

impl Credentials {
    pub fn new(source: LoginSource) -> Arc<Self> {
        Arc::new(Self {
            source,
            held: Mutex::default(),
        })
    }

    /// Where it is kept.
    pub fn source(&self) -> &LoginSource {
        &self.source
    }

    /// The login for `host` as it is now: a file is read again when it changed, a helper asked every few
    /// minutes.
    pub async fn login(&self, host: &str) -> Result<Arc<Login>, CredentialError> {
        let host = match &self.source {
            // A pattern stands for whichever host of it was asked.
            LoginSource::DockerConfig { host: own, .. } if !own.contains('*') => own,
            LoginSource::DockerConfig { .. } => host,
            _ => "",
        };
        let modified = match &self.source {
            LoginSource::PasswordFile { file, .. } | LoginSource::DockerConfig { file, .. } => {
                std::fs::metadata(file)
                    .and_then(|meta| meta.modified())
                    .ok()
            }
            LoginSource::PasswordEnv { .. } => None,
        };
        {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(held) = held.get(host)
                && held.modified == modified
                && held.read.elapsed() < ASK_AGAIN
            {
                return Ok(held.login.clone());
            }
        }
        let login = Arc::new(self.read(host).await?);
        let read = Held {
            login: login.clone(),
            modified,
            read: Instant::now(),
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(host.to_owned(), read);
        Ok(login)
    }

    /// It was refused: a helper may know another one by now, and is asked at once, though not more often
    /// than every few seconds.
    pub fn forget(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, held| held.read.elapsed() < NOT_BEFORE);
    }

    async fn read(&self, host: &str) -> Result<Login, CredentialError> {
        match &self.source {
            LoginSource::PasswordFile { username, file } => {
                Ok(Login::new(username, read_password(file)?))
            }
            LoginSource::PasswordEnv { username, variable } => {
                Ok(Login::new(username, read_variable(variable)?))
            }
            LoginSource::DockerConfig { file, .. } => {
                let found = DockerConfig::read(file)?.login(host).await?;
                found.ok_or_else(|| CredentialError::DockerConfig {
                    file: file.clone(),
                    why: format!("no login for {host}"),
                })
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.source).finish()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

// === impl DockerConfig ===

impl DockerConfig {
    fn read(file: &Path) -> Result<Self, CredentialError> {
        let err = |why: String| CredentialError::DockerConfig {
            file: file.to_owned(),
            why,
        };
        let text = read(file, err)?;
        // A parse error may quote the file: only its place is told.
        serde_json::from_str(&text)
            .map_err(|e| err(format!("no Docker config.json, line {}", e.line())))
    }

    /// Whether a login for `host` stands here, or a helper is named that may have it.
    fn names(&self, host: &str) -> bool {
        docker_names(host).iter().any(|name| {
            let entry = self.auths.get(name);
            self.helpers.contains_key(name)
                || entry.is_some_and(|entry| self.store.is_some() || entry.login().is_some())
        })
    }

    async fn login(&self, host: &str) -> Result<Option<Login>, CredentialError> {
        let names = docker_names(host);
        for name in &names {
            if let Some(helper) = self.helpers.get(name) {
                return ask_helper(helper, name).await.map(Some);
            }
        }
        for name in &names {
            let entry = self.auths.get(name);
            if let Some(login) = entry.and_then(DockerAuth::login) {
                return Ok(Some(login));
            }
            if let (Some(_), Some(store)) = (entry, &self.store) {
                return ask_helper(store, name).await.map(Some);
            }
        }
        Ok(None)
    }
}

// === impl DockerAuth ===

impl DockerAuth {
    /// Both ways of writing it that Docker reads; an identity token is no login.
    fn login(&self) -> Option<Login> {
        let encoded = self.auth.as_deref().filter(|auth| !auth.is_empty());
        match (encoded, &self.username, &self.password) {
            (Some(auth), ..) => decode(auth),
            (None, Some(username), Some(password)) => Some(Login::new(username, password)),
            _ => None,
        }
    }
}

fn read(
    file: &Path,
    failed: impl FnOnce(String) -> CredentialError,
) -> Result<String, CredentialError> {
    std::fs::read_to_string(file).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => CredentialError::NotOurs {
            file: file.to_owned(),
        },
        _ => failed(e.to_string()),
    })
}

fn read_password(file: &Path) -> Result<String, CredentialError> {
    let text = read(file, |why| CredentialError::File {
        file: file.to_owned(),
        why,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_variable(variable: &str) -> Result<String, CredentialError> {
    std::env::var(variable).map_err(|_| CredentialError::Env(variable.to_owned()))
}

/// The names under which Docker keeps a host's login.
fn docker_names(host: &str) -> Vec<String> {
    if matches!(
        host,
        "docker.io" | "registry-1.docker.io" | "index.docker.io"
    ) {
        let names = [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
        ];
        return names.map(str::to_owned).into();
    }
    let addresses = ["", "/", "/v1/", "/v2/"].map(|path| format!("https://{host}{path}"));
    [host.to_owned()].into_iter().chain(addresses).collect()
}

fn decode(auth: &str) -> Option<Login> {
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Login::new(username, password.trim_end_matches('\0')))
}

/// Runs `docker-credential-HELPER get` with the name on its standard input.
async fn ask_helper(helper: &str, name: &str) -> Result<Login, CredentialError> {
    let err = |why: String| CredentialError::Helper {
        helper: helper.to_owned(),
        why,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !helper.chars().all(plain) {
        return Err(err("that is no helper's name".into()));
    }
    let asked = async {
        let mut child = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(name.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIME, asked)
        .await
        .map_err(|_| err(format!("no answer within {HELPER_TIME:?}")))?
        .map_err(|e| err(e.to_string()))?;
    if !output.status.success() {
        return Err(err(format!("it knows no login for {name}")));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| err("its answer is no login".into()))?;
    Ok(Login::new(answer.username, answer.secret))
}

/// A helper's secret, and a variable's, are asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// A login that was refused is not read again sooner than this.
const NOT_BEFORE: Duration = Duration::from_secs(2);
const HELPER_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_goes_both_ways_and_debug_shows_no_password() {
        let login = Login::new("robot", "s3cret:with colon");
        assert_eq!(Login::from_basic(&login.to_basic()), Some(login.clone()));
        assert!(!format!("{login:?} {:?}", login.to_basic()).contains("s3cret"));
    }

    #[tokio::test]
    async fn a_changed_password_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "one\n").unwrap();
        let credentials = Credentials::new(LoginSource::PasswordFile {
            username: "robot".into(),
            file: file.clone(),
        });
        assert_eq!(
            credentials
                .login("registry.example")
                .await
                .unwrap()
                .password(),
            "one"
        );
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::write(&file, "two").unwrap();
        std::fs::File::open(&file)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert_eq!(
            credentials
                .login("registry.example")
                .await
                .unwrap()
                .password(),
            "two"
        );
    }

    #[tokio::test]
    async fn a_docker_config_is_asked_for_the_host_that_a_pattern_stood_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let auths = r#"{"auths":{"a.example":{"username":"a","password":"1"},"https://b.example/v2/":{"auth":"YjoyMg=="}}}"#;
        std::fs::write(&file, auths).unwrap();
        let credentials = Credentials::new(LoginSource::DockerConfig {
            file,
            host: "*.example".into(),
        });
        let login = |host| credentials.login(host);
        assert_eq!(*login("a.example").await.unwrap(), Login::new("a", "1"));
        assert_eq!(*login("b.example").await.unwrap(), Login::new("b", "22"));
        assert!(login("c.example").await.is_err());
    }

    #[tokio::test]
    async fn a_docker_config_gives_docker_hubs_login_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let auth = STANDARD.encode("me:token");
        std::fs::write(
            &file,
            format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#),
        )
        .unwrap();
        let credentials = Credentials::new(LoginSource::DockerConfig {
            file,
            host: "docker.io".into(),
        });
        assert_eq!(
            *credentials.login("registry.example").await.unwrap(),
            Login::new("me", "token")
        );
    }
}
