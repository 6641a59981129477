//! The program under test, started as its users start it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use toml::{Table, Value};

use crate::process::{Daemon, Finished, PULL_LIMIT, run, wait_for};
use crate::secrets::{self, Secrets, Told};

const BINARY: &str = env!("CARGO_BIN_EXE_pierhead");

/// A running gateway with a folder of its own for CA, cache and logs. Dropping it kills it, and fails
/// the test if it told a secret.
pub struct Gateway {
    daemon: Daemon,
    dir: PathBuf,
    config: Table,
    wrapper: Option<String>,
    banner: Banner,
    starts: u32,
    /// What it must keep to itself.
    secrets: Vec<Secrets>,
    /// What it showed before it ended.
    shown: Vec<Told>,
}

/// What `serve` tells a person, and a script.
struct Banner {
    proxy: String,
    admin: String,
    ca: PathBuf,
}

// === impl Gateway ===

impl Gateway {
    /// Starts with `config` in the folder `dir`.
    pub fn start(dir: &Path, config: Table) -> Self {
        Self::start_wrapped(dir, config, None)
    }

    /// The same after `prelude`, a line of shell in a mount namespace of the gateway's own.
    pub fn start_after(dir: &Path, config: Table, prelude: String) -> Self {
        Self::start_wrapped(dir, config, Some(prelude))
    }

    /// It knows this, and has to keep it to itself.
    pub fn keeping(mut self, secrets: &Secrets) -> Self {
        self.secrets.push(secrets.clone());
        self
    }

    /// What its configuration and its clients told it.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets[0]
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.look();
        self.daemon.kill();
    }

    /// SIGTERM, and waits until it takes no request any more.
    pub fn terminate(&mut self) {
        self.look();
        self.daemon.terminate();
        wait_for("the drain to begin", Duration::from_secs(20), || {
            self.logged().contains("draining").then_some(())
        });
    }

    /// Waits for the end after [`Self::terminate`]; true if it is a clean one.
    pub fn wait_end(&mut self) -> bool {
        self.daemon.wait_end(Duration::from_secs(40))
    }

    /// Starts again on the ports it had, with what `changes` says otherwise.
    pub fn restart(&mut self, changes: &str) {
        self.kill();
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        let ports = format!(
            "[listen]\nproxy = [\"{}\"]\nadmin = \"{}\"\n",
            address(&self.banner.proxy),
            address(&self.banner.admin)
        );
        merge(&mut self.config, ports.parse().expect("TOML"));
        merge(&mut self.config, changes.parse().expect("TOML"));
        self.starts += 1;
        (self.daemon, self.banner) = launch(
            &self.dir,
            &self.config,
            self.wrapper.as_deref(),
            self.starts,
        );
    }

    /// `http://127.0.0.1:PORT`, for `HTTPS_PROXY`.
    pub fn proxy(&self) -> &str {
        &self.banner.proxy
    }

    pub fn ca(&self) -> &Path {
        &self.banner.ca
    }

    /// `http://ADDRESS:PORT` of the admin listener.
    pub fn admin(&self) -> &str {
        &self.banner.admin
    }

    /// Writes its configuration anew with `changes` (TOML), and does not tell it.
    pub fn rewrite(&self, changes: &str) {
        let mut config = self.config.clone();
        merge(&mut config, changes.parse().expect("TOML"));
        write(&self.dir, &config);
    }

    /// SIGHUP, and returns at once.
    pub fn hangup(&self) {
        self.daemon.signal("HUP");
    }

    /// A command in the gateway's own network.
    pub fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.daemon.pid().to_string()])
            .arg(program);
        command
    }

    /// Runs another command of the program by this gateway's configuration.
    pub fn command(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .current_dir(&self.dir)
            .args(args)
            .args(["--config", "pierhead.toml"]);
        run(command, PULL_LIMIT)
    }

    /// The folder everything of it is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder the cache is in.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// The bytes free in a file system, seen from the gateway's own mount namespace.
    pub fn free_in(&self, folder: &Path) -> u64 {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--target", &self.daemon.pid().to_string()])
            .args(["stat", "--file-system", "--format", "%a %S"])
            .arg(folder);
        let numbers = run(command, Duration::from_secs(15)).ok();
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(|number| number.parse().expect("a number"))
            .collect();
        numbers.iter().product()
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        let mut command = Command::new("curl");
        command
            .env_clear()
            .args(["-fsS", "--noproxy", "*", "--max-time", "10"])
            .arg(format!("{}/metrics", self.banner.admin));
        run(command, Duration::from_secs(15)).ok()
    }

    pub fn logged(&self) -> String {
        self.daemon.logged()
    }

    fn start_wrapped(dir: &Path, config: Table, wrapper: Option<String>) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let (daemon, banner) = launch(dir, &config, wrapper.as_deref(), 1);
        let secrets = Secrets::default();
        secrets.configuration(&toml::to_string(&config).expect("a table is TOML"), dir);
        Self {
            daemon,
            dir: dir.to_owned(),
            config,
            wrapper,
            banner,
            starts: 1,
            secrets: vec![secrets],
            shown: Vec::new(),
        }
    }

    /// Keeps what it shows now, and has told so far, for the search at the end.
    fn look(&mut self) {
        let admin = self.banner.admin.trim_start_matches("http://");
        let admin = admin.trim_end_matches('/').parse().expect("an address");
        self.shown.extend(secrets::shown(self.daemon.pid(), admin));
        self.shown.push(Told {
            place: "banner and log".into(),
            text: self.daemon.logged(),
        });
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.kill();
        let mut told = std::mem::take(&mut self.shown);
        told.push(Told {
            place: "banner and log".into(),
            text: self.daemon.logged(),
        });
        told.extend(secrets::written(&self.cache()));
        let found = self.secrets.iter().flat_map(|list| list.found_in(&told));
        let found: Vec<_> = found.collect();
        assert!(found.is_empty(), "secrets were told:\n{}", found.join("\n"));
    }
}

/// `serve` under a configuration that it is expected to refuse.
pub fn serve_refused(dir: &Path, config: &Table) -> Finished {
    let file = write(dir, config);
    let mut command = Command::new(BINARY);
    command
        .current_dir(dir)
        .args(["serve", "--config"])
        .arg(file);
    run(command, Duration::from_secs(20))
}

/// Lays `changes` over `base`: tables key by key, arrays of tables added, all else replaced.
pub fn merge(base: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (base.get_mut(&key), change) {
            (Some(Value::Table(inner)), Value::Table(change)) => merge(inner, change),
            (Some(Value::Array(inner)), Value::Array(change))
                if change.iter().all(Value::is_table) =>
            {
                inner.extend(change);
            }
            (_, change) => {
                base.insert(key, change);
            }
        }
    }
}

fn launch(dir: &Path, config: &Table, wrapper: Option<&str>, start: u32) -> (Daemon, Banner) {
    let file = write(dir, config);
    let mut command = match wrapper {
        None => Command::new(BINARY),
        Some(prelude) => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
            command.arg(format!("{prelude}\nexec \"$0\" \"$@\""));
            command.arg(BINARY);
            command
        }
    };
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(dir)
        .args(["serve", "--config"])
        .arg(file);
    let log = dir.join(format!("serve-{start}.log"));
    let mut daemon = Daemon::start("pierhead", command, &log);
    let mut banner = daemon.wait_ready(Banner::parse);
    banner.ca = dir.join(banner.ca);
    (daemon, banner)
}

fn write(dir: &Path, config: &Table) -> PathBuf {
    let file = dir.join("pierhead.toml");
    let text = toml::to_string(config).expect("a table is TOML");
    std::fs::write(&file, text).expect("a configuration file");
    file
}

// === impl Banner ===

impl Banner {
    fn parse(output: &str) -> Option<Self> {
        let (banner, _) = output.split_once("\nready")?;
        let value = |name: &str| {
            banner.lines().find_map(|line| {
                let (key, value) = line.trim().split_once(' ')?;
                (key == name).then(|| value.trim().to_owned())
            })
        };
        let ca = value("CA")?;
        let (path, _fingerprint) = ca.split_once("  ")?;
        Some(Self {
            proxy: value("proxy")?,
            admin: value("admin")?,
            ca: PathBuf::from(path),
        })
    }
}
