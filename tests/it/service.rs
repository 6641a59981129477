//! Under a service manager: what it is told, and the sockets it passes.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::support::{Setup, client::plain, gateway, within};

/// The process that takes the shell's place has its number; the sockets become the third and fourth
/// descriptor, as sd_listen_fds(3) has it, and the banner joins the log.
const PASS: &str = r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 4<&1 </dev/null >&2"#;

/// A service manager with one service.
struct Manager {
    home: TempDir,
    told: UnixDatagram,
    child: Option<Child>,
}

// === impl Manager ===

impl Manager {
    fn start(environment: &[(&str, &str)], sockets: Option<[&TcpListener; 2]>) -> Self {
        Self::start_to(Stdio::null(), environment, sockets)
    }

    /// The same with a place for the banner.
    fn start_to(
        out: Stdio,
        environment: &[(&str, &str)],
        sockets: Option<[&TcpListener; 2]>,
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("notify");
        let told = UnixDatagram::bind(&socket).unwrap();
        let config = Setup::default().write(&home);
        let binary = gateway::command();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", if sockets.is_some() { PASS } else { PLAIN }]);
        command.arg(binary.get_program());
        for (name, value) in binary.get_envs() {
            assert!(value.is_none(), "{name:?} is only taken away");
            command.env_remove(name);
        }
        command
            .args(["serve", "--config"])
            .arg(config)
            .current_dir(home.path())
            .env("NOTIFY_SOCKET", &socket)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::piped());
        if let Some([first, second]) = sockets {
            let given =
                |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
            command.stdin(given(first)).stdout(given(second));
        }
        let child = command.spawn().expect("a shell");
        Self {
            home,
            told,
            child: Some(child),
        }
    }

    /// Waits until it is told this; what comes before is passed over.
    async fn hears(&self, line: &str) -> String {
        let heard = async {
            let mut message = [0; 4096];
            loop {
                let length = self.told.recv(&mut message).await.unwrap();
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                if text.lines().any(|one| one == line) {
                    return text;
                }
            }
        };
        within(30, heard).await
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id();
        let sent = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status();
        assert!(sent.unwrap().success());
    }

    async fn ended(&mut self) -> Output {
        let child = self.child.take().unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output());
        within(30, output).await.unwrap().unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_manager_is_told_of_the_start_the_life_and_the_end() {
    let mut manager = Manager::start(&[("WATCHDOG_USEC", "200000")], None);
    manager.hears("READY=1").await;
    // More than the one at the start.
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    manager.signal("TERM");
    let last = manager.hears("STOPPING=1").await;
    // limits.drain, 30 s, and what the index takes: a manager with less patience must not kill it.
    assert!(last.contains("EXTEND_TIMEOUT_USEC=40000000"), "{last}");
    assert!(manager.ended().await.status.success());
    assert!(manager.home.path().join("cache").is_dir());
}

#[tokio::test]
async fn a_banner_that_nobody_takes_holds_nothing_up() {
    let (_stuck, mut pipe) = std::io::pipe().unwrap();
    let room = rustix::pipe::fcntl_getpipe_size(&pipe).unwrap();
    pipe.write_all(&vec![b'.'; room]).unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full");
    for out in [Stdio::from(pipe), Stdio::from(full.unwrap())] {
        let mut manager = Manager::start_to(out, &[], None);
        manager.hears("READY=1").await;
        manager.signal("TERM");
        assert!(manager.ended().await.status.success());
    }
}

#[tokio::test]
async fn without_a_watchdog_nobody_is_told_of_the_life() {
    let mut manager = Manager::start(&[], None);
    manager.hears("READY=1").await;
    manager.signal("TERM");
    manager.hears("STOPPING=1").await;
    assert!(manager.ended().await.status.success());
    let mut message = [0; 64];
    let more = manager.told.try_recv(&mut message);
    assert!(more.is_err(), "{}", String::from_utf8_lossy(&message));
}

#[tokio::test]
async fn sockets_of_the_manager_take_the_place_of_the_addresses() {
    let (proxy, admin) = (bound(), bound());
    let environment = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "proxy:admin")];
    // A client that came before the gateway is served, too.
    let early = tokio::spawn(plain(address(&proxy), "/healthz"));
    let mut manager = Manager::start(&environment, Some([&proxy, &admin]));
    manager.hears("READY=1").await;
    assert_eq!(early.await.unwrap().status, 200);
    let metrics = plain(address(&admin), "/metrics").await;
    assert_eq!(metrics.status, 200);
    let metrics = plain(address(&proxy), "/metrics").await;
    assert_eq!(metrics.status, 404, "the proxy's socket is no admin's");
    manager.signal("TERM");
    let output = manager.ended().await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in [
        format!("proxy   http://{}", address(&proxy)),
        format!("admin   http://{}", address(&admin)),
    ] {
        assert!(said.contains(&line), "no {line:?} in:\n{said}");
    }
    assert_eq!(said.matches("http://127.0.0.1:0").count(), 0, "{said}");
}

#[tokio::test]
async fn a_socket_of_the_proxy_in_tls_speaks_tls() {
    let (proxy, secure) = (bound(), bound());
    let environment = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "proxy:proxy_tls")];
    let mut manager = Manager::start(&environment, Some([&proxy, &secure]));
    manager.hears("READY=1").await;
    manager.signal("TERM");
    let output = manager.ended().await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = format!("proxy   https://{}", address(&secure));
    assert!(said.contains(&line), "no {line:?} in:\n{said}");
}

#[tokio::test]
async fn sockets_that_nobody_would_answer_are_refused_by_name() {
    let (first, second) = (bound(), bound());
    for (names, word) in [("proxy:web", "\"web\""), ("admin:admin", "\"admin\"")] {
        let environment = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", names)];
        let mut manager = Manager::start(&environment, Some([&first, &second]));
        let output = manager.ended().await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(word), "no {word} in:\n{said}");
    }
}

#[tokio::test]
async fn sockets_for_another_process_are_left_alone() {
    let environment = [("LISTEN_FDS", "2"), ("LISTEN_PID", "1")];
    let mut manager = Manager::start(&environment, None);
    manager.hears("READY=1").await;
    manager.signal("TERM");
    assert!(manager.ended().await.status.success());
}

const PLAIN: &str = r#"exec "$0" "$@""#;

fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}
