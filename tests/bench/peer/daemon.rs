//! Somebody else's server, in a folder of its own under `TMPDIR`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::origin::{HOST, Origin};

/// Where a server keeps everything; it goes with the server.
pub struct Folder(TempDir);

/// A server that answers.
pub struct Daemon {
    child: Child,
    _folder: Folder,
}

// === impl Folder ===

impl Folder {
    /// Open to whom a server becomes when it was started by root.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a folder in TMPDIR");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("it is ours");
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text, for a configuration.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("it can be written");
        self.text(name)
    }

    /// The files of a peer that is the registry to its clients, in TLS: its certificate, the key, and the
    /// roots that it trusts the origin by.
    pub fn front(&self, origin: &Origin) -> [String; 3] {
        let (certificate, key) = origin.ca.server_files(HOST);
        [
            self.write("front.crt", &certificate),
            self.write("front.key", &key),
            self.write("origin.crt", &origin.ca.pem),
        ]
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }
}

// === impl Daemon ===

impl Daemon {
    /// Starts it and waits until it takes connections at `addr`.
    pub async fn start(mut command: Command, folder: Folder, addr: SocketAddr) -> Self {
        let log = fs::File::create(folder.path("output.log")).expect("it can be written");
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let mut daemon = Self {
            child,
            _folder: folder,
        };
        let started = Instant::now();
        while TcpStream::connect(addr).await.is_err() {
            let ended = daemon.child.try_wait().expect("it is our child");
            if ended.is_some() || started.elapsed() > PATIENCE {
                panic!("{name} does not listen: {ended:?}\n{}", daemon.said());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        daemon
    }

    fn said(&self) -> String {
        fs::read_to_string(self._folder.path("output.log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not the last word: a master that is killed leaves its workers behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if asked.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// A port that nobody has now.
pub fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket")
}

/// Runs a tool to its end, which must be a good one.
pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

const PATIENCE: Duration = Duration::from_secs(20);
