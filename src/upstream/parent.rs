//! The parent proxy: which targets it leads to, and what is said to it so that it does.
//!
//! `CONNECT` is spoken by hyper's own client and not by hyper-util's `Tunnel`, which tells no status
//! and drops what the target sends right behind the parent's answer.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use tracing::{debug, warn};

use super::connection::Connection;
use super::dial::DialError;
use crate::policy::{Host, Target};
use crate::wire::headers;
use crate::wire::socket::Socket;

/// A parent proxy, and the targets that go around it.
#[derive(Debug)]
pub struct Parent {
    target: Target,
    scheme: &'static str,
    tongue: Tongue,
    /// Its address and login; its `Debug` shows no login.
    intercept: Intercept,
    /// Knows `no_proxy`.
    routes: Matcher,
    via: HeaderValue,
    /// When its trouble was last told.
    told: Mutex<Option<Instant>>,
}

/// What it is that a parent speaks.
enum Tongue {
    Http,
    Https(TlsConnector, ServerName<'static>),
    Socks,
}

/// Why a parent does not lead to a target. To be read after its name and a colon.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    #[error("{0}")]
    Away(Box<DialError>),
    #[error("TLS failed: {0}; a private CA belongs into upstream.ca_file")]
    Tls(io::Error),
    #[error("it does not accept the login of upstream.proxy, or wants one (407)")]
    Login,
    #[error("it refuses to connect to {target}: {status}")]
    Refused { target: Target, status: StatusCode },
    /// A SOCKS server's answer, which has no status.
    #[error("it does not connect to {target}: {why}")]
    Socks { target: Target, why: String },
    #[error("it broke off before {target} was connected: {why}")]
    Broke { target: Target, why: String },
    #[error("it did not connect to {target} within {limit:?}")]
    Late { target: String, limit: Duration },
}

/// An `upstream.proxy` that is none.
#[derive(Debug, thiserror::Error)]
#[error("upstream.proxy is no address of a proxy")]
pub struct NoParent;

// === impl Parent ===

impl Parent {
    /// `url` is `http://`, `https://` or `socks5://`, with a login if the parent wants one; the
    /// entries of `no_proxy` are as in the `NO_PROXY` of curl. `via` is what this gateway signs with.
    pub fn new(
        url: &str,
        no_proxy: &[String],
        tls: &rustls::ClientConfig,
        via: HeaderValue,
    ) -> Result<Self, NoParent> {
        let anywhere = Uri::from_static("http://anywhere.invalid/");
        let always = Matcher::builder().all(url.to_owned()).build();
        let intercept = always.intercept(&anywhere).ok_or(NoParent)?;
        let host: Host = intercept
            .uri()
            .host()
            .and_then(|host| host.parse().ok())
            .ok_or(NoParent)?;
        let (scheme, default, tongue) = match intercept.uri().scheme_str() {
            Some("http") => ("http", 80, Tongue::Http),
            Some("https") => {
                let name = ServerName::try_from(host.to_string()).map_err(|_| NoParent)?;
                let tls = TlsConnector::from(Arc::new(tls.clone()));
                ("https", 443, Tongue::Https(tls, name))
            }
            // Names are resolved by the parent in both.
            Some("socks5" | "socks5h") => ("socks5", 1080, Tongue::Socks),
            _ => return Err(NoParent),
        };
        let port = intercept.uri().port_u16().unwrap_or(default);
        let routes = Matcher::builder()
            .all(url.to_owned())
            .no(no_proxy.join(","))
            .build();
        Ok(Self {
            target: Target::new(host, port),
            scheme,
            tongue,
            intercept,
            routes,
            via,
            told: Mutex::new(None),
        })
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its address as a person knows it, without the login.
    pub fn place(&self) -> String {
        format!("{}://{}", self.scheme, self.target)
    }

    /// Whether the way to `host` leads through it.
    pub fn leads_to(&self, host: &Host) -> bool {
        let authority = Target::new(host.clone(), 80).to_string();
        let uri = format!("http://{authority}/").parse::<Uri>();
        uri.is_ok_and(|uri| self.routes.intercept(&uri).is_some())
    }

    /// Whether it takes plain HTTP in absolute form.
    pub fn forwards(&self) -> bool {
        !matches!(self.tongue, Tongue::Socks)
    }

    /// The `Proxy-Authorization` it wants to see, if any.
    pub fn login(&self) -> Option<&HeaderValue> {
        self.intercept.basic_auth()
    }

    /// Makes `socket`, which is connected to the parent, one for requests in absolute form.
    pub async fn forward(&self, socket: TcpStream) -> Result<Connection, ParentError> {
        Ok(Connection::forwarding(self.greet(socket).await?))
    }

    /// Makes `socket`, which is connected to the parent, a connection to `target`. `passed` is the
    /// head of the request on whose behalf: its `Via` goes along, so that a loop of gateways ends.
    pub async fn lead(
        &self,
        socket: TcpStream,
        target: &Target,
        passed: &HeaderMap,
    ) -> Result<Connection, ParentError> {
        match self.tongue {
            Tongue::Socks => self.socks(socket, target).await,
            _ => {
                let link = self.greet(socket).await?;
                self.connect(link, target, passed).await
            }
        }
    }

    /// The error of a connection that did not come about. What is the parent's own trouble, and so
    /// everybody's, goes to the log, once in a while.
    pub fn failed(&self, why: ParentError) -> DialError {
        let parent = self.place();
        let told = || {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let lately = told.is_some_and(|at| at.elapsed() < TELL_AGAIN);
            if !lately {
                *told = Some(Instant::now());
            }
            lately
        };
        if why.is_its_own() && !told() {
            warn!("the parent proxy {parent}: {why}");
        } else {
            debug!("the parent proxy {parent}: {why}");
        }
        DialError::Parent { parent, why }
    }

    async fn greet(&self, socket: TcpStream) -> Result<Socket, ParentError> {
        let Tongue::Https(tls, name) = &self.tongue else {
            return Ok(Socket::Plain(socket));
        };
        let stream = tls.connect(name.clone(), socket).await;
        Ok(Socket::Tls(Box::new(
            stream.map_err(ParentError::Tls)?.into(),
        )))
    }

    async fn connect(
        &self,
        link: Socket,
        target: &Target,
        passed: &HeaderMap,
    ) -> Result<Connection, ParentError> {
        let broke = |why: &dyn std::error::Error| ParentError::Broke {
            target: target.clone(),
            why: why.to_string(),
        };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .handshake(TokioIo::new(link))
            .await
            .map_err(|e| broke(&e))?;
        // It ends with the sender, or with the upgrade.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        let authority = target.to_string();
        *request.uri_mut() = authority.parse().map_err(|e| broke(&e))?;
        let fields = request.headers_mut();
        let host = HeaderValue::try_from(authority).map_err(|e| broke(&e))?;
        fields.insert(header::HOST, host);
        for hop in passed.get_all(header::VIA) {
            fields.append(header::VIA, hop.clone());
        }
        headers::add_via(fields, &self.via);
        if let Some(login) = self.login() {
            fields.insert(header::PROXY_AUTHORIZATION, login.clone());
        }
        let response = sender.send_request(request).await.map_err(|e| broke(&e))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(ParentError::Login),
            status => {
                return Err(ParentError::Refused {
                    target: target.clone(),
                    status,
                });
            }
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| broke(&e))?;
        // The handshake was made over exactly this type.
        let parts = upgraded
            .downcast::<TokioIo<Socket>>()
            .map_err(|_| broke(&io::Error::other("it is no tunnel")))?;
        Ok(Connection::new(parts.io.into_inner(), parts.read_buf))
    }

    async fn socks(&self, socket: TcpStream, target: &Target) -> Result<Connection, ParentError> {
        let failed = |why: String| ParentError::Socks {
            target: target.clone(),
            why,
        };
        let given = Given(Some(TokioIo::new(Sip(socket))));
        let mut socks = SocksV5::new(self.intercept.uri().clone(), given);
        if let Some((username, password)) = self.intercept.raw_auth() {
            socks = socks.with_auth(username.to_owned(), password.to_owned());
        }
        let destination = target.to_string().parse::<Uri>();
        let destination = destination.map_err(|e| failed(e.to_string()))?;
        match socks.call(destination).await {
            Ok(sip) => Ok(sip.into_inner().0.into()),
            Err(e) => Err(failed(
                e.to_string().trim_start_matches("SOCKS error: ").to_owned(),
            )),
        }
    }
}

impl std::fmt::Debug for Tongue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "Http",
            Self::Https(..) => "Https",
            Self::Socks => "Socks",
        })
    }
}

impl ParentError {
    /// Whether the same may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) | Self::Broke { .. } | Self::Socks { .. } | Self::Late { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Tls(_) | Self::Login => false,
        }
    }

    /// Whether it is about the parent, whatever the target.
    fn is_its_own(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Tls(_) | Self::Login)
    }
}

/// A socket that is read byte by byte: the SOCKS handshake reads ahead and forgets what it read, and
/// a target may speak first.
struct Sip(TcpStream);

impl AsyncRead for Sip {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sip {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A connector whose one connection is there already: only the dialer dials.
struct Given(Option<TokioIo<Sip>>);

impl Service<Uri> for Given {
    type Response = TokioIo<Sip>;
    type Error = Spent;
    type Future = Ready<Result<Self::Response, Spent>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Spent>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or(Spent))
    }
}

/// The one connection was taken before.
#[derive(Debug, thiserror::Error)]
#[error("no connection is left")]
struct Spent;

const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of the head that answers a CONNECT.
const LARGEST_HEAD: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(url: &str, no_proxy: &[&str]) -> Parent {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let no_proxy: Vec<String> = no_proxy.iter().map(ToString::to_string).collect();
        Parent::new(url, &no_proxy, &tls, HeaderValue::from_static("1.1 me")).unwrap()
    }

    #[test]
    fn names_suffixes_and_networks_go_around_it() {
        let parent = parent(
            "http://parent:8080",
            &["registry.corp", ".intra.example", "10.0.0.0/8", "fd00::/8"],
        );
        for (host, through) in [
            ("registry.corp", false),
            ("sub.registry.corp", false),
            ("otherregistry.corp", true),
            ("intra.example", false),
            ("a.INTRA.example", false),
            ("10.2.3.4", false),
            ("11.2.3.4", true),
            ("fd00::7", false),
            ("2001:db8::7", true),
            ("ghcr.io", true),
        ] {
            assert_eq!(parent.leads_to(&host.parse().unwrap()), through, "{host}");
        }
    }

    #[test]
    fn the_login_is_decoded_and_never_shown() {
        let parent = parent("https://us%40er:s3cr%3Aet@parent:8443", &[]);
        assert_eq!(
            super::super::credentials::Login::from_basic(parent.login().unwrap()),
            Some(super::super::credentials::Login::new("us@er", "s3cr:et"))
        );
        assert_eq!(parent.place(), "https://parent:8443");
        let shown = format!("{parent:?}");
        assert!(!shown.contains("s3cr") && !shown.contains("dXN"), "{shown}");
    }

    #[test]
    fn ports_have_their_usual_defaults() {
        for (url, place) in [
            ("http://p", "http://p:80"),
            ("https://p", "https://p:443"),
            ("socks5h://p", "socks5://p:1080"),
            ("http://[::1]:3", "http://[::1]:3"),
        ] {
            assert_eq!(parent(url, &[]).place(), place);
        }
    }
}
