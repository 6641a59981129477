//! dockerd, started by hand, and the command line that talks to it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::machine::Machine;
use crate::process::{Daemon, Finished, PULL_LIMIT, START_LIMIT, run};

/// A Docker host. Dropped, daemon, containers and mounts are gone.
pub struct Docker {
    daemon: Mutex<Daemon>,
    machine: Machine,
    socket: PathBuf,
    cli: String,
}

// === impl Docker ===

impl Docker {
    /// Starts dockerd on a machine and waits until it answers.
    pub fn start(machine: Machine) -> Self {
        Self::start_with(machine, "{}")
    }

    /// The same with this `daemon.json`.
    pub fn start_with(machine: Machine, config: &str) -> Self {
        let dir = machine.path().to_owned();
        let socket = dir.join("s");
        let mut command = machine.daemon("dockerd");
        command
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .arg("--data-root")
            .arg(dir.join("d"))
            .arg("--exec-root")
            .arg(dir.join("e"))
            .arg("--pidfile")
            .arg(dir.join("p"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--storage-driver", "vfs"]);
        std::fs::write(dir.join("daemon.json"), config).expect("a file");
        let mut daemon = Daemon::start("dockerd", command, &dir.join("dockerd.log"));
        daemon.wait_ready(|log| {
            let listening = log.contains("API listen on") && UnixStream::connect(&socket).is_ok();
            listening.then_some(())
        });
        let mut docker = Self {
            daemon: Mutex::new(daemon),
            machine,
            socket,
            cli: String::new(),
        };
        docker.cli = docker.find_cli();
        docker
    }

    pub fn pull(&self, name: &str) -> Finished {
        self.docker(&["pull", name])
    }

    pub fn pull_platform(&self, name: &str, platform: &str) -> Finished {
        self.docker(&["pull", "--platform", platform, name])
    }

    /// Loads a file.
    pub fn load(&self, file: &Path) -> Finished {
        self.docker(&["load", "--quiet", "--input", &file.display().to_string()])
    }

    /// The configuration's digest of an image that is here.
    pub fn id(&self, name: &str) -> String {
        let id = self.docker(&["image", "inspect", "--format", "{{.Id}}", name]);
        id.ok().trim().to_owned()
    }

    pub fn remove(&self, name: &str) {
        self.docker(&["image", "rm", "--force", name]).ok();
    }

    /// Logs in to a registry, or to Docker Hub.
    pub fn login(&self, host: Option<&str>, user: &str, password: &str) -> Finished {
        let mut arguments = vec!["login", "--username", user, "--password", password];
        arguments.extend(host);
        self.docker(&arguments)
    }

    /// What the daemon has logged.
    pub fn logged(&self) -> String {
        self.daemon.lock().expect("no panic holds it").logged()
    }

    /// `kill -9` of the daemon, whatever it is doing.
    pub fn kill(&self) {
        self.daemon.lock().expect("no panic holds it").kill();
    }

    pub fn docker(&self, arguments: &[&str]) -> Finished {
        run(self.command(&self.cli, arguments), PULL_LIMIT)
    }

    fn command(&self, cli: &str, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(cli);
        // The command line itself needs no network: the daemon does everything.
        command
            .env_remove("HTTPS_PROXY")
            .env("DOCKER_CONFIG", self.machine.path().join("home"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments);
        command
    }

    /// Debian's, else the first in the path: whichever this daemon talks to.
    fn find_cli(&self) -> String {
        for cli in ["/usr/bin/docker", "docker"] {
            if run(self.command(cli, &["version"]), START_LIMIT).succeeded() {
                return cli.to_owned();
            }
        }
        panic!("no docker command that talks to dockerd");
    }
}
