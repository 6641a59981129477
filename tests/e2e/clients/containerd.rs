//! containerd and `ctr`, which speaks HTTP itself.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::Machine;
use crate::process::{Daemon, Finished, PULL_LIMIT, run};

/// A containerd of its own; what one has pulled no other knows.
pub struct Containerd {
    _daemon: Daemon,
    machine: Machine,
    socket: PathBuf,
}

// === impl Containerd ===

impl Containerd {
    pub fn start(machine: Machine) -> Self {
        let dir = machine.path().to_owned();
        let socket = dir.join("c");
        let config = dir.join("containerd.toml");
        let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        std::fs::write(&config, text).expect("a file");
        let mut command = machine.daemon("containerd");
        command
            .arg("--config")
            .arg(config)
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--address")
            .arg(&socket);
        let mut daemon = Daemon::start("containerd", command, &dir.join("containerd.log"));
        daemon.wait_ready(|log| {
            let up = log.contains("successfully booted") && UnixStream::connect(&socket).is_ok();
            up.then_some(())
        });
        Self {
            _daemon: daemon,
            machine,
            socket,
        }
    }

    pub fn pull(&self, name: &str) -> Finished {
        let mut command = self.ctr();
        command.args(["images", "pull", "--snapshotter", "native", name]);
        run(command, PULL_LIMIT)
    }

    /// Pulls by the `hosts.toml` files of a folder, with a login where there is one.
    pub fn pull_by(&self, hosts: &Path, name: &str, login: Option<&str>) -> Finished {
        let mut command = self.ctr();
        command.args(["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
        command.arg(hosts);
        if let Some(login) = login {
            command.args(["--user", login]);
        }
        command.arg(name);
        run(command, PULL_LIMIT)
    }

    pub fn pull_as(&self, name: &str, user: &str, password: &str) -> Finished {
        let mut command = self.ctr();
        command
            .args(["images", "pull", "--snapshotter", "native", "--user"])
            .arg(format!("{user}:{password}"))
            .arg(name);
        run(command, PULL_LIMIT)
    }

    /// `ctr images ls`: names with their digests.
    pub fn images(&self) -> String {
        let mut command = self.ctr();
        command.args(["images", "ls"]);
        run(command, PULL_LIMIT).ok()
    }

    fn ctr(&self) -> Command {
        let mut command = self.machine.command("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}
