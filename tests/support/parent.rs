//! A parent proxy: CONNECT, absolute form and SOCKS5, plain or in TLS, all on one socket.

#![expect(clippy::disallowed_methods, reason = "a test's parent may be slow")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::authority::TestCa;

/// A proxy that knows where the hosts of the test are, and nobody else does.
#[derive(Clone)]
pub struct Parent {
    shared: Arc<Shared>,
    pub addr: SocketAddr,
}

/// What it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT`, `SOCKS`, or the method of a request in absolute form.
    pub how: String,
    /// `host:port`, or the URL in absolute form.
    pub target: String,
    pub tls: bool,
    /// The head; empty for SOCKS.
    pub head: String,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Clone, Default)]
struct Script {
    hosts: HashMap<String, SocketAddr>,
    login: Option<(String, String)>,
    refusal: Option<u16>,
    together: bool,
}

// === impl Parent ===

impl Parent {
    /// Starts one; `ca` gives it a certificate for any name.
    pub async fn start(ca: &Arc<TestCa>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let (serving, tls) = (Arc::clone(&shared), TlsAcceptor::from(ca.server()));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(connection(socket, tls.clone(), Arc::clone(&serving)));
            }
        });
        Self { shared, addr }
    }

    /// Knows where `host` is, whatever port is asked for.
    pub fn knows(self, host: &str, addr: SocketAddr) -> Self {
        self.script().hosts.insert(host.to_owned(), addr);
        self
    }

    /// Wants a user and a password.
    pub fn login(self, user: &str, password: &str) -> Self {
        self.script().login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Answers everything with this status; SOCKS with a general failure.
    pub fn refuses(self, status: u16) -> Self {
        self.script().refusal = Some(status);
        self
    }

    /// Sends the target's first bytes in one write with its own answer.
    pub fn together(self) -> Self {
        self.script().together = true;
        self
    }

    /// What it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic here").clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.shared.script.lock().expect("no panic here")
    }
}

async fn connection(socket: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut first = [0];
    let Ok(1) = socket.peek(&mut first).await else {
        return;
    };
    let script = shared.script.lock().expect("no panic here").clone();
    // A peer that goes away ends it, and there is nobody to tell.
    let _ = match first[0] {
        5 => socks(socket, &script, &shared).await,
        0x16 => match tls.accept(socket).await {
            Ok(stream) => http(stream, true, &script, &shared).await,
            Err(error) => Err(error),
        },
        _ => http(socket, false, &script, &shared).await,
    };
}

async fn http<S>(mut near: S, tls: bool, script: &Script, shared: &Shared) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (how, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    shared.asked.lock().expect("no panic here").push(Asked {
        how: how.clone(),
        target: target.clone(),
        tls,
        head: head.clone(),
    });
    let login = script.login.as_ref().map(|(user, password)| {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        format!("proxy-authorization: basic {pair}").to_lowercase()
    });
    let welcome = login.is_none_or(|login| head.to_lowercase().contains(&login));
    let status = if welcome { script.refusal } else { Some(407) };
    if let Some(status) = status {
        let answer = format!(
            "HTTP/1.1 {status} No\r\nProxy-Authenticate: Basic realm=\"parent\"\r\nContent-Length: 3\r\n\r\nno\n"
        );
        near.write_all(answer.as_bytes()).await?;
        return near.shutdown().await;
    }
    let place = target.strip_prefix("http://").unwrap_or(&target);
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let host = authority.split(':').next().unwrap_or_default();
    let Some(addr) = script.hosts.get(host) else {
        let answer = "HTTP/1.1 502 Unknown\r\nContent-Length: 0\r\n\r\n";
        near.write_all(answer.as_bytes()).await?;
        return near.shutdown().await;
    };
    let mut far = TcpStream::connect(addr).await?;
    if how == "CONNECT" {
        lead(near, far, b"HTTP/1.1 200 Connected\r\n\r\n", script).await
    } else {
        // One request a connection, and what is for the proxy does not pass it.
        let fields: Vec<&str> = head
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("proxy-"))
            .collect();
        let head = format!(
            "{how} {path} HTTP/1.1\r\nConnection: close\r\n{}\r\n\r\n",
            fields.join("\r\n")
        );
        far.write_all(head.as_bytes()).await?;
        copy_bidirectional(&mut near, &mut far).await.map(drop)
    }
}

/// RFC 1928 and RFC 1929, as far as a client with a name to connect to goes.
async fn socks(mut near: TcpStream, script: &Script, shared: &Shared) -> std::io::Result<()> {
    let mut start = [0; 2];
    near.read_exact(&mut start).await?;
    let mut methods = vec![0; usize::from(start[1])];
    near.read_exact(&mut methods).await?;
    let wanted = if script.login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        return near.write_all(&[5, 0xFF]).await;
    }
    near.write_all(&[5, wanted]).await?;
    if let Some((user, password)) = &script.login {
        near.read_u8().await?;
        let given = (short(&mut near).await?, short(&mut near).await?);
        let right = given == (user.clone(), password.clone());
        near.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            return near.shutdown().await;
        }
    }
    let mut ask = [0; 4];
    near.read_exact(&mut ask).await?;
    assert_eq!(ask, [5, 1, 0, 3], "CONNECT to a name");
    let host = short(&mut near).await?;
    let port = near.read_u16().await?;
    shared.asked.lock().expect("no panic here").push(Asked {
        how: "SOCKS".to_owned(),
        target: format!("{host}:{port}"),
        tls: false,
        head: String::new(),
    });
    let known = script.hosts.get(&host).filter(|_| script.refusal.is_none());
    let Some(addr) = known else {
        near.write_all(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        return near.shutdown().await;
    };
    let far = TcpStream::connect(addr).await?;
    lead(near, far, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0], script).await
}

async fn lead<S>(
    mut near: S,
    mut far: TcpStream,
    answer: &[u8],
    script: &Script,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = answer.to_vec();
    if script.together {
        let mut first = vec![0; 1024];
        let n = far.read(&mut first).await?;
        answer.extend_from_slice(&first[..n]);
    }
    near.write_all(&answer).await?;
    near.flush().await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}

async fn short(from: &mut TcpStream) -> std::io::Result<String> {
    let mut text = vec![0; usize::from(from.read_u8().await?)];
    from.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
