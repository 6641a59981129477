//! The socket: connections, the fault script, and bodies that come out as it says.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    Seen, Shared, World,
    bent::{Bend, Bent},
    world::{Answer, Asked},
};
use crate::support::{
    authority::TestCa,
    content::noise,
    fault::{Armed, Fault, Shake},
};

/// How a connection came.
#[derive(Clone, Copy)]
struct Peer {
    scheme: &'static str,
    /// It showed a certificate.
    certified: bool,
    /// It should have, to be answered by a registry.
    wanting: bool,
}

/// What TLS is done with.
struct Handshakes {
    good: Arc<rustls::ServerConfig>,
    /// For who is to see a wrong name.
    other_name: Arc<rustls::ServerConfig>,
    /// Certificates of clients are asked for.
    asks: bool,
}

/// Serves until told to stop, then cuts what is left. With `clients`, registries answer only those
/// who showed a certificate of that CA.
pub(super) async fn accept(
    listener: TcpListener,
    ca: Arc<TestCa>,
    clients: Option<Arc<TestCa>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let tls = Arc::new(Handshakes {
        good: ca.server_for(clients.as_deref()),
        other_name: ca.server_named("other.test"),
        asks: clients.is_some(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let tls = Arc::clone(&tls);
                connections.spawn(connection(socket, tls, Arc::clone(&shared)));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(socket: TcpStream, tls: Arc<Handshakes>, shared: Arc<Shared>) {
    // As real ones do; without it, every answer in two writes costs 40 ms.
    let _ = socket.set_nodelay(true);
    let mut first = [0];
    // Nothing is lost by giving up on a connection here: the peer has gone.
    let Ok(1) = socket.peek(&mut first).await else {
        return;
    };
    let Ok(raw) = std::os::fd::AsFd::as_fd(&socket).try_clone_to_owned() else {
        return;
    };
    let raw = Arc::new(socket2::Socket::from(raw));
    let asks = tls.asks;
    if first[0] != 0x16 {
        let peer = Peer {
            scheme: "http",
            certified: false,
            wanting: asks,
        };
        http(socket, peer, raw, shared).await;
        return;
    }
    let Ok(start) = LazyConfigAcceptor::new(Default::default(), socket).await else {
        return;
    };
    let hello = start.client_hello();
    let name = hello.server_name().unwrap_or_default().to_owned();
    let shake = shared.shakes().get(&name).copied();
    let config = match shake {
        None => Arc::clone(&tls.good),
        Some(Shake::Close) => return,
        Some(Shake::Garbage) => {
            let _ = raw.send(b"220 mail.test ESMTP\r\n");
            return;
        }
        Some(Shake::Stranger) => TestCa::new("a stranger").server(),
        Some(Shake::OtherName) => Arc::clone(&tls.other_name),
    };
    let Ok(stream) = start.into_stream(config).await else {
        return;
    };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    let peer = Peer {
        scheme: "https",
        certified,
        wanting: asks && !certified,
    };
    let line = shared.lines().entry(name).or_default().clone();
    tokio::select! {
        () = http(stream, peer, raw, shared) => {}
        () = line.cancelled() => {}
    }
}

async fn http<S>(stream: S, peer: Peer, raw: Arc<socket2::Socket>, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bend = Arc::new(Mutex::new(None));
    let stream = Bent::new(stream, Arc::clone(&bend));
    let service = service_fn(move |request| {
        let (raw, bend, shared) = (Arc::clone(&raw), Arc::clone(&bend), Arc::clone(&shared));
        answer(request, peer, raw, bend, shared)
    });
    // Errors here are the faults of the script, or a peer that went away.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    peer: Peer,
    raw: Arc<socket2::Socket>,
    bend: Arc<Mutex<Option<Bend>>>,
    shared: Arc<Shared>,
) -> io::Result<Response<Scripted>> {
    let (mut parts, body) = request.into_parts();
    let host = parts
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let host = host
        .rsplit_once(':')
        .map_or(host.as_str(), |(name, _)| name)
        .to_owned();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let sent = Arc::new(AtomicUsize::new(0));
    let seen = Seen {
        method: parts.method.clone(),
        host: host.clone(),
        path: path.clone(),
        query: query.clone(),
        headers: parts.headers.clone(),
        certified: peer.certified,
        status: None,
        sent: Arc::clone(&sent),
    };
    for name in ["authorization", "proxy-authorization"] {
        let sent = parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        if let Some(sent) = sent {
            shared.world().secrets.authorization(sent);
        }
    }
    let index = shared.record(seen);
    let fault = Armed::take(&mut shared.faults(), &parts, &host);
    // Uploads are read to their end, so that a client that sends one gets its answer.
    let _ = body.collect().await;

    match &fault {
        Some(Fault::HangUp) => return Err(io::Error::other("hung up by the script")),
        Some(Fault::Silence(gate)) => {
            gate.pass().await;
            return Err(io::Error::other("silent by the script"));
        }
        Some(Fault::Late(gate)) => gate.pass().await,
        Some(Fault::CutWire(bytes)) => {
            *bend.lock().expect("no panic under this lock") = Some(Bend::Cut(*bytes));
        }
        Some(Fault::Raw(bytes)) => {
            *bend.lock().expect("no panic under this lock") = Some(Bend::Instead(bytes.clone()));
        }
        Some(Fault::IgnoreRange) => drop(parts.headers.remove("range")),
        Some(Fault::OtherRange) => {
            let other = "bytes=3-1002".parse().expect("a header value");
            parts.headers.insert("range", other);
        }
        _ => {}
    }
    let wanting = peer.wanting && shared.world().registries.contains_key(&host);
    let answer = match scripted(&fault) {
        Some(answer) => answer,
        None if wanting => Answer::new(400, "text/html", "No required SSL certificate was sent"),
        None => shared.world().answer(&Asked {
            method: &parts.method,
            host: &host,
            path: &path,
            query: &query,
            headers: &parts.headers,
            scheme: peer.scheme,
        }),
    };
    shared.answered(index, answer.status);
    Ok(respond(
        answer,
        fault,
        parts.method == Method::HEAD,
        raw,
        sent,
    ))
}

/// The answers that do not depend on what was asked.
fn scripted(fault: &Option<Fault>) -> Option<Answer> {
    let (status, headers, body) = match fault.clone()? {
        Fault::Status(status, headers, body) => (status, headers, body),
        Fault::TooMany(seconds) => (
            429,
            vec![
                ("content-type", "application/json".to_owned()),
                ("retry-after", seconds.to_string()),
            ],
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
        ),
        Fault::Page(content_type) => (200, vec![("content-type", content_type.to_owned())], PAGE),
        Fault::Endless(range) => (206, vec![("content-range", range.to_owned())], ""),
        Fault::Html => (
            200,
            vec![("content-type", "text/html; charset=utf-8".to_owned())],
            PAGE,
        ),
        _ => return None,
    };
    Some(Answer {
        status,
        headers,
        body: Bytes::from_static(body.as_bytes()),
    })
}

const PAGE: &str =
    "<!DOCTYPE html><html><body><h1>Please log in to the guest network</h1></body></html>";

/// Makes the response of an answer, bent by what the script says about bodies.
fn respond(
    mut answer: Answer,
    fault: Option<Fault>,
    head: bool,
    raw: Arc<socket2::Socket>,
    sent: Arc<AtomicUsize>,
) -> Response<Scripted> {
    let mut announce = Some(answer.body.len() as u64);
    match &fault {
        Some(Fault::Truncate(len)) => {
            answer.body.truncate(*len as usize);
            announce = Some(answer.body.len() as u64);
        }
        Some(Fault::Page(_) | Fault::Endless(_)) => announce = None,
        Some(Fault::LengthOf(len)) => announce = Some(*len),
        Some(Fault::Overlong(more)) => {
            let mut long = answer.body.to_vec();
            long.resize(long.len() + *more as usize, b'+');
            answer.body = long.into();
            announce = None;
        }
        Some(Fault::Corrupt(at)) => {
            let mut wrong = answer.body.to_vec();
            if let Some(byte) = wrong.get_mut(*at as usize) {
                *byte ^= 0xFF;
            }
            answer.body = wrong.into();
        }
        Some(Fault::ContentType(other)) => {
            answer.headers.retain(|(name, _)| *name != "content-type");
            answer.headers.push(("content-type", (*other).to_owned()));
        }
        _ => {}
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    if let Some(len) = announce {
        response = response.header("content-length", len);
    }
    let body = if head { Bytes::new() } else { answer.body };
    response
        .body(Scripted::new(body, fault, raw, sent))
        .expect("headers that the test wrote")
}

// === impl Shared ===

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            world: Mutex::default(),
            faults: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            accepted: AtomicUsize::new(0),
            shakes: Mutex::default(),
            lines: Mutex::default(),
        }
    }

    pub(super) fn shakes(&self) -> MutexGuard<'_, HashMap<String, Shake>> {
        self.shakes.lock().expect("no panic under this lock")
    }

    pub(super) fn lines(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.lines.lock().expect("no panic under this lock")
    }

    pub(in crate::support) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic under this lock")
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.faults.lock().expect("no panic under this lock")
    }

    fn record(&self, seen: Seen) -> usize {
        let mut index = 0;
        self.seen.send_modify(|all| {
            index = all.len();
            all.push(seen);
        });
        index
    }

    fn answered(&self, index: usize, status: u16) {
        self.seen
            .send_modify(|all| all[index].status = Some(status));
    }
}

/// A body that a task feeds, a chunk at a time, as the script says.
struct Scripted {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    end: Option<(io::Error, u8)>,
}

// === impl Scripted ===

impl Scripted {
    fn new(
        body: Bytes,
        fault: Option<Fault>,
        raw: Arc<socket2::Socket>,
        sent: Arc<AtomicUsize>,
    ) -> Self {
        let (tx, chunks) = mpsc::channel(1);
        tokio::spawn(feed(body, fault, raw, sent, tx));
        Self { chunks, end: None }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.end.is_none() {
            match std::task::ready!(self.chunks.poll_recv(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                // hyper throws away what it has not written when a body fails, so it gets a few
                // turns to write first.
                Some(Err(error)) => self.end = Some((error, 8)),
            }
        }
        match self.end.take() {
            Some((error, 0)) => Poll::Ready(Some(Err(error))),
            waiting => {
                self.end = waiting.map(|(error, turns)| (error, turns - 1));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

async fn feed(
    body: Bytes,
    fault: Option<Fault>,
    raw: Arc<socket2::Socket>,
    sent: Arc<AtomicUsize>,
    tx: mpsc::Sender<io::Result<Bytes>>,
) {
    let stop = match &fault {
        // An answer shorter than that, such as a refusal, is none of the fault's business.
        Some(Fault::StallAt(n, _)) if *n as usize >= body.len() => {
            send(body, &sent, &tx).await;
            return;
        }
        Some(Fault::CutAfter(n) | Fault::ResetAfter(n) | Fault::StallAt(n, _)) => {
            (*n as usize).min(body.len())
        }
        _ => body.len(),
    };
    if let Some(Fault::Trickle(apart)) = fault {
        let mut ticks = tokio::time::interval(apart);
        for at in 0..body.len() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = tx.closed() => return,
            }
            if !send(body.slice(at..=at), &sent, &tx).await {
                return;
            }
        }
        return;
    }
    if let Some(Fault::Paced(rate)) = fault {
        let mut due = tokio::time::Instant::now();
        for piece in body.chunks(16 * 1024) {
            due += std::time::Duration::from_secs_f64(piece.len() as f64 / rate as f64);
            tokio::time::sleep_until(due).await;
            if !send(body.slice_ref(piece), &sent, &tx).await {
                return;
            }
        }
        return;
    }
    if !send(body.slice(..stop), &sent, &tx).await {
        return;
    }
    match fault {
        Some(Fault::Endless(_)) => while send(noise(7, 256 * 1024), &sent, &tx).await {},
        Some(Fault::CutAfter(_)) => {
            let _ = tx.send(Err(io::Error::other("cut by the script"))).await;
        }
        Some(Fault::ResetAfter(_)) => {
            let _ = raw.set_linger(Some(std::time::Duration::ZERO));
            let _ = tx.send(Err(io::Error::other("reset by the script"))).await;
        }
        Some(Fault::StallAt(_, gate)) => {
            tokio::select! {
                () = gate.pass() => { send(body.slice(stop..), &sent, &tx).await; }
                () = tx.closed() => {}
            }
        }
        _ => {}
    }
}

/// Sends in pieces; `false` when the peer has gone.
async fn send(bytes: Bytes, sent: &AtomicUsize, tx: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(16 * 1024));
        let len = chunk.len();
        if tx.send(Ok(chunk)).await.is_err() {
            return false;
        }
        sent.fetch_add(len, Ordering::SeqCst);
    }
    true
}
