//! A client's computer: a home, a proxy setting, one trusted CA, and no name that resolves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Finished, run};

/// Mounted over the computer's own in the namespace; then the command takes the shell's place.
///
/// Names must not resolve: Go clients skip verification for registries whose names are on loopback.
const ENTER: &str = r#"
    if [ -e "$MACHINE/anchors" ]; then
        mount --bind "$MACHINE/etc" /etc
        mount --bind "$MACHINE/anchors" /usr/local/share/ca-certificates
        # The computer's own service manager is none of the machine's.
        if [ -e /run/systemd ]; then mount -t tmpfs tmpfs /run/systemd; fi
    else
        for file in hosts resolv.conf nsswitch.conf; do
            if [ -e "/etc/$file" ]; then mount --bind "$MACHINE/etc/$file" "/etc/$file"; fi
        done
        if [ -e "$MACHINE/etc/docker" ]; then mount --bind "$MACHINE/etc/docker" /etc/docker; fi
    fi
    exec "$0" "$@"
"#;

/// The environment commands and daemons of one client share.
pub struct Machine {
    dir: PathBuf,
    environment: Vec<(String, String)>,
    trust: Trust,
}

/// How a client comes to trust the gateway.
#[derive(Clone)]
pub enum Trust {
    /// `/etc/docker/certs.d/HOST/ca.crt` alone; dockerd only.
    CertsD { host: String, ca: PathBuf },
    /// `SSL_CERT_FILE`, and no other root.
    Everywhere(PathBuf),
    /// As whoever sets the machine up arranges it: a copy of `/etc` and of the administrator's roots that
    /// is its own, and no variable that says otherwise.
    OfItsOwn,
}

// === impl Machine ===

impl Machine {
    pub fn new(dir: PathBuf, proxy: &str, trust: Trust) -> Self {
        let etc = dir.join("etc");
        for folder in ["home", "run", "no-certs"] {
            std::fs::create_dir(dir.join(folder)).expect("a folder");
        }
        match trust {
            Trust::OfItsOwn => {
                copy("/etc", &etc);
                // What other programs do with new roots, Java's for one, is not what we test.
                let _ = std::fs::remove_dir_all(etc.join("ca-certificates/update.d"));
                copy("/usr/local/share/ca-certificates", &dir.join("anchors"));
            }
            _ => std::fs::create_dir(&etc).expect("a folder"),
        }
        for (file, content) in [
            ("hosts", "127.0.0.1 localhost\n"),
            ("resolv.conf", "nameserver 127.0.0.254\n"),
            (
                "nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files\n",
            ),
        ] {
            // A copy may be a link that leads out of the machine.
            let _ = std::fs::remove_file(etc.join(file));
            std::fs::write(etc.join(file), content).expect("a file");
        }
        if let Trust::CertsD { host, ca } = &trust {
            let folder = etc.join("docker/certs.d").join(host);
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::copy(ca, folder.join("ca.crt")).expect("a CA certificate");
            std::fs::create_dir_all("/etc/docker").expect("a place to mount");
        }
        let environment = match proxy {
            "" => Vec::new(),
            proxy => vec![("HTTPS_PROXY".to_owned(), proxy.to_owned())],
        };
        Self {
            dir,
            environment,
            trust,
        }
    }

    /// The same machine for a process that is started with this environment.
    pub fn with(&self, environment: Vec<(String, String)>) -> Self {
        Self {
            dir: self.dir.clone(),
            environment,
            trust: self.trust.clone(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A command that runs on this machine.
    pub fn command(&self, program: &str) -> Command {
        self.enter(&[], program)
    }

    /// A daemon that runs on it: in a PID namespace, so that its children and mounts end with it.
    pub fn daemon(&self, program: &str) -> Command {
        self.enter(
            &["--pid", "--fork", "--kill-child", "--mount-proc"],
            program,
        )
    }

    /// `curl` on this machine, with a limit of its own.
    pub fn curl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("curl");
        command.args(["-sS", "--max-time", "60"]).args(arguments);
        run(command, Duration::from_secs(70))
    }

    fn enter(&self, options: &[&str], program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .args(options)
            .args(["--", "sh", "-ec", ENTER, program])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("MACHINE", &self.dir)
            .env("HOME", self.dir.join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .env("TMPDIR", &self.dir)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.dir);
        if !matches!(self.trust, Trust::OfItsOwn) {
            // Go reads the folder as well as the file.
            command.env("SSL_CERT_DIR", self.dir.join("no-certs"));
        }
        match &self.trust {
            Trust::OfItsOwn => &mut command,
            Trust::CertsD { .. } => command.env("SSL_CERT_FILE", "/dev/null"),
            Trust::Everywhere(ca) => command.env("SSL_CERT_FILE", ca),
        };
        command
    }
}

fn copy(from: &str, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-a", from]).arg(to);
    run(command, Duration::from_secs(60)).ok();
}
