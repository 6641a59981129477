//! A place to run commands in.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, Image, Manifest, Repo, Setup, gateway, image, within};

/// Bytes of a layer.
pub const LAYER: usize = 300_000;

/// A place to run commands in, by a configuration of its own.
pub struct Desk {
    pub home: Arc<TempDir>,
    pub config: String,
    env: Vec<(&'static str, String)>,
}

/// What a command left.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

// === impl Desk ===

impl Desk {
    /// One whose gateway does not run yet.
    pub fn ashore(setup: &Setup) -> Self {
        let home = tempfile::Builder::new().prefix("pierhead-it-").tempdir();
        let home = Arc::new(home.unwrap());
        let config = setup.write(&home);
        Self::of(home, &config)
    }

    pub fn at(gateway: &Gateway) -> Self {
        Self::of(gateway.home(), &gateway.config_file())
    }

    pub fn of(home: Arc<TempDir>, config: &Path) -> Self {
        let config = config.to_str().unwrap().to_owned();
        let env = Vec::new();
        Self { home, config, env }
    }

    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs `pierhead` with these words, and `--config` behind them.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let with_config = [args, &["--config", &self.config]].concat();
        self.run_bare(&with_config).await
    }

    pub async fn run_bare(&self, args: &[&str]) -> Ran {
        let mut command = tokio::process::Command::from(gateway::command());
        command
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within(60, command.output()).await.unwrap();
        output.into()
    }

    /// The JSON that a command prints, which must succeed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&ran.ok()).unwrap()
    }
}

// === impl Ran ===

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out
    }

    /// The complaint, which must come with this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self.err
    }
}

pub fn name(image: &Image) -> String {
    format!("{}/{}:{}", image.repo.host, image.repo.name, image.tag)
}

/// An index of two platforms under a tag.
pub fn two_platforms(repo: &Repo, seed: u64) -> (Image, Image, Manifest) {
    let (amd64, arm64) = (
        repo.image("amd64", seed, &[LAYER, 10]),
        repo.image("arm64", seed + 1, &[LAYER, 11]),
    );
    let index = Manifest::index(image::OCI_INDEX, &[&amd64.manifest, &arm64.manifest]);
    repo.tag("both", &[&index]);
    (amd64, arm64, index)
}
