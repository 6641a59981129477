//! What a container client does: CONNECT, TLS that trusts the gateway's CA alone, requests, and a
//! body read at the test's pace.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Reply, secrets::Secrets, wire, within};

/// A client with a proxy. Each request opens a connection of its own, as dockerd does.
#[derive(Clone)]
pub struct Client {
    proxy: SocketAddr,
    roots: Arc<RootCertStore>,
    sni: Option<String>,
    authorization: Option<String>,
    proxy_authorization: Option<String>,
    h2: bool,
    blind: bool,
    window: Option<u32>,
    address: Option<IpAddr>,
    secrets: Secrets,
}

/// A request in the making.
pub struct Ask<'a> {
    client: &'a Client,
    request: http::request::Builder,
    uri: Uri,
    body: Bytes,
}

/// An intercepted connection that takes several requests.
pub struct Session {
    sender: Sender,
    connection: AbortHandle,
}

enum Sender {
    H1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    H2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

// === impl Client ===

impl Client {
    /// A client of this proxy, trusting this CA.
    pub fn new(proxy: SocketAddr, ca_pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots
                .add(certificate.expect("PEM"))
                .expect("a CA certificate");
        }
        Self {
            proxy,
            roots: Arc::new(roots),
            sni: None,
            authorization: None,
            proxy_authorization: None,
            h2: false,
            blind: false,
            window: None,
            address: None,
            secrets: Secrets::default(),
        }
    }

    /// Tells this list of every password and token it sends.
    pub fn telling(mut self, secrets: &Secrets) -> Self {
        self.secrets = secrets.clone();
        self
    }

    /// Sends a user and a password with every request.
    pub fn basic(mut self, user: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        self.secrets.login(user, password);
        self.authorization = Some(format!("Basic {pair}"));
        self
    }

    /// Tells the proxy a user and a password.
    pub fn proxy_user(mut self, user: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        self.secrets.login(user, password);
        self.proxy_authorization = Some(format!("Basic {pair}"));
        self
    }

    /// Sends a token with every request.
    pub fn bearer(mut self, token: &str) -> Self {
        self.secrets.add(token);
        self.authorization = Some(format!("Bearer {token}"));
        self
    }

    /// Speaks HTTP/2 inside TLS.
    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Asks for another name in TLS than it connects to, and does not look at the certificate.
    pub fn sni(mut self, name: &str) -> Self {
        self.sni = Some(name.to_owned());
        self.blind()
    }

    /// Does not look at certificates.
    pub fn blind(mut self) -> Self {
        self.blind = true;
        self
    }

    /// Has a receive buffer of this many bytes, so that what it does not read stays unsent.
    pub fn window(mut self, bytes: u32) -> Self {
        self.window = Some(bytes);
        self
    }

    /// Comes from this address.
    pub fn from(mut self, address: &str) -> Self {
        self.address = Some(address.parse().expect("an address"));
        self
    }

    pub fn get(&self, url: &str) -> Ask<'_> {
        self.ask(Method::GET, url)
    }

    pub fn head(&self, url: &str) -> Ask<'_> {
        self.ask(Method::HEAD, url)
    }

    pub fn ask(&self, method: Method, url: &str) -> Ask<'_> {
        let uri: Uri = url.parse().expect("a URL");
        let mut request = Request::builder().method(method);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(proxy) = &self.proxy_authorization
            && uri.scheme_str() == Some("http")
        {
            request = request.header(header::PROXY_AUTHORIZATION, proxy);
        }
        Ask {
            client: self,
            request,
            uri,
            body: Bytes::new(),
        }
    }

    /// CONNECT and TLS to `authority` (`host:port`).
    pub async fn tls(&self, authority: &str) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let socket = self.connect(authority).await;
        let host = authority.rsplit_once(':').expect("host:port").0;
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(self.sni.as_deref().unwrap_or(host).to_owned());
        let connector = TlsConnector::from(Arc::new(self.tls_config()));
        within(20, connector.connect(name.expect("a name"), socket)).await
    }

    /// An intercepted connection to `authority` (`host:port`).
    pub async fn session(&self, authority: &str) -> Session {
        let stream = self.tls(authority).await;
        let stream = stream.unwrap_or_else(|error| panic!("TLS to {authority}: {error}"));
        self.session_over(stream).await
    }

    /// The same over TLS that stands already.
    pub async fn session_over<S>(&self, stream: TlsStream<S>) -> Session
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if self.h2 {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "ALPN");
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .expect("HTTP/2");
            let connection = tokio::spawn(connection).abort_handle();
            return Session {
                sender: Sender::H2(sender),
                connection,
            };
        }
        Session::h1(stream).await
    }

    /// CONNECT, which must be let through.
    pub async fn connect(&self, authority: &str) -> TcpStream {
        let (answer, socket) = self.try_connect(authority).await;
        assert_eq!(answer.status, 200, "CONNECT {authority}: {}", answer.text());
        socket
    }

    /// CONNECT, and what was answered.
    pub async fn try_connect(&self, authority: &str) -> (wire::Raw, TcpStream) {
        let mut socket = self.socket().await;
        let proxy = self.proxy_authorization.as_ref();
        let proxy = proxy.map(|sent| format!("Proxy-Authorization: {sent}\r\n"));
        let proxy = proxy.unwrap_or_default();
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{proxy}\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes())
            .await
            .expect("it reads");
        let raw = wire::answer(&mut socket).await;
        (raw, socket)
    }

    async fn socket(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(window) = self.window {
            socket.set_recv_buffer_size(window).expect("a size");
        }
        if let Some(address) = self.address {
            socket.bind((address, 0).into()).expect("ours");
        }
        within(10, socket.connect(self.proxy))
            .await
            .expect("the proxy listens")
    }

    /// TLS with something that is not reached by this client's proxy, or within a connection
    /// that is there already.
    pub async fn tls_over<S>(&self, stream: S, host: &str) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(self.tls_config()));
        within(20, connector.connect(name, stream)).await
    }

    fn tls_config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(super::authority::provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's versions");
        let mut config = if self.blind {
            let any = Arc::new(blind::Anyone);
            builder
                .dangerous()
                .with_custom_certificate_verifier(any)
                .with_no_client_auth()
        } else {
            builder
                .with_root_certificates(Arc::clone(&self.roots))
                .with_no_client_auth()
        };
        let protocol = if self.h2 { "h2" } else { "http/1.1" };
        config.alpn_protocols = vec![protocol.into()];
        config
    }
}

// === impl Ask ===

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it, over a connection of its own: through CONNECT for `https`, in absolute form for
    /// `http`.
    pub async fn send(self) -> Reply {
        let url = self.uri.to_string();
        let sent = self.try_send().await;
        sent.unwrap_or_else(|error| panic!("{url}: {error:?}"))
    }

    /// Sends it, and returns an error when there is no answer.
    pub async fn try_send(self) -> Result<Reply, hyper::Error> {
        let host = self.uri.host().expect("a host").to_owned();
        let mut session = if self.uri.scheme_str() == Some("https") {
            let port = self.uri.port_u16().unwrap_or(443);
            self.client.session(&format!("{host}:{port}")).await
        } else {
            Session::h1(self.client.socket().await).await
        };
        let mut reply = self.try_send_on(&mut session).await?;
        reply.session = Some(session);
        Ok(reply)
    }

    /// Sends it over a connection that is open already.
    pub async fn send_on(self, session: &mut Session) -> Reply {
        self.try_send_on(session).await.expect("an answer")
    }

    /// The same, and an error when there is no answer.
    pub async fn try_send_on(self, session: &mut Session) -> Result<Reply, hyper::Error> {
        let mut request = self.request;
        let through_tls = self.uri.scheme_str() == Some("https");
        let authority = self.uri.authority().expect("an authority").to_string();
        let path = self.uri.path_and_query().expect("a path").clone();
        let h1 = matches!(session.sender, Sender::H1(_));
        let has_host = request
            .headers_ref()
            .is_some_and(|all| all.contains_key(header::HOST));
        if h1 && !has_host {
            request = request.header(header::HOST, &authority);
        }
        let uri = if h1 && through_tls {
            Uri::from(path)
        } else {
            self.uri
        };
        let request = request
            .uri(uri)
            .body(Full::new(self.body))
            .expect("a request");
        let response = match &mut session.sender {
            Sender::H1(sender) => {
                let sent = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                within(120, sent).await?
            }
            Sender::H2(sender) => {
                let sent = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                within(120, sent).await?
            }
        };
        Ok(Reply::new(response))
    }
}

// === impl Session ===

impl Session {
    pub async fn h1<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        let connection = tokio::spawn(connection).abort_handle();
        Self {
            sender: Sender::H1(sender),
            connection,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A GET in origin form, with no proxy in between.
pub async fn plain(addr: SocketAddr, path: &str) -> Reply {
    direct(addr, Method::GET, path, &[]).await
}

/// A request in origin form with these headers, with no proxy in between.
pub async fn direct(addr: SocketAddr, method: Method, path: &str, with: &[(&str, &str)]) -> Reply {
    let socket = within(10, TcpStream::connect(addr))
        .await
        .expect("it listens");
    let mut session = Session::h1(socket).await;
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::HOST, addr.to_string());
    for (name, value) in with {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).expect("a request");
    let Sender::H1(sender) = &mut session.sender else {
        unreachable!("made by h1")
    };
    let response = within(60, sender.send_request(request))
        .await
        .expect("an answer");
    let mut reply = Reply::new(response);
    reply.session = Some(session);
    reply
}

mod blind {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    /// Takes any certificate.
    #[derive(Debug)]
    pub(super) struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            super::super::authority::provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
