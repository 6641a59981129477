//! Connections as a client behind a proxy makes them, and single requests over them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection, whatever it is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
pub(super) type Socket = Box<dyn Stream>;

/// An address with a scheme, and a login that is shown to nobody.
#[derive(Clone)]
pub(super) struct Place {
    pub https: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    login: Option<HeaderValue>,
}

/// An answer, read to its end.
pub(super) struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What came of CONNECT.
pub(super) enum Tunnel {
    Open(Socket),
    Refused(Got),
}

// === impl Place ===

impl Place {
    /// Reads `http://[USER:PASSWORD@]HOST[:PORT]`; without a scheme it is `http`, as for Go's clients.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = full.parse().ok()?;
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let userinfo = authority
            .as_str()
            .rsplit_once('@')
            .map(|(userinfo, _)| userinfo);
        let login = userinfo.map(|userinfo| {
            let plain: Vec<u8> = percent_decode_str(userinfo).collect();
            let mut value =
                HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        (!host.is_empty()).then_some(Self {
            https,
            host,
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            login: login.flatten(),
        })
    }

    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

pub(super) fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// The first of `addresses` that takes a connection, or why the last did not.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(e)) => last = format!("{address}: {e}"),
            Err(_) => last = format!("{address}: no answer within {} s", PATIENCE.as_secs()),
        }
    }
    Err(last)
}

/// A tunnel to `target` (`HOST:PORT`) through the proxy at the other end of `socket`.
pub(super) async fn tunnel(socket: Socket, proxy: &Place, target: &str) -> Result<Tunnel, String> {
    let mut request = Request::connect(target).header(header::HOST, target);
    if let Some(login) = &proxy.login {
        request = request.header(header::PROXY_AUTHORIZATION, login);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let asking = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await
    };
    let answer = within(asking).await?;
    if answer.status() == StatusCode::OK {
        let upgraded = within(hyper::upgrade::on(answer)).await?;
        return Ok(Tunnel::Open(Box::new(TokioIo::new(upgraded))));
    }
    Ok(Tunnel::Refused(read(answer).await?))
}

/// GET of `path` at `host` over a connection of its own.
pub(super) async fn get(
    socket: Socket,
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Got, String> {
    let mut request = Request::get(path)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    request.headers_mut().extend(headers.clone());
    let host = HeaderValue::try_from(host).map_err(|e| e.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    request
        .headers_mut()
        .insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    let asking = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    read(within(asking).await?).await
}

// === impl Got ===

impl Got {
    /// What it says to a person: the message of a registry's error, else its first words.
    pub(super) fn said(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let message = json.as_ref().and_then(|json| {
            let message = json.get("errors")?.get(0)?.get("message")?;
            message.as_str().map(str::to_owned)
        });
        let text = message.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let line: Vec<&str> = text.split_whitespace().collect();
        let line = line.join(" ");
        let line: String = line
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST)
            .collect();
        match line.is_empty() {
            true => self.status.to_string(),
            false => format!("{} {line}", self.status.as_u16()),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Result<Got, String> {
    let (head, body) = answer.into_parts();
    let body = timeout(SLOWEST, Limited::new(body, LARGEST).collect()).await;
    let body = body.map_err(|_| "its answer does not end".to_owned())?;
    Ok(Got {
        status: head.status,
        headers: head.headers,
        body: body
            .map_err(|e| format!("its answer broke off: {e}"))?
            .to_bytes(),
    })
}

async fn within<T>(asking: impl Future<Output = hyper::Result<T>>) -> Result<T, String> {
    match timeout(SLOWEST, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(match std::error::Error::source(&e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        }),
        Err(_) => Err(format!("no answer within {} s", SLOWEST.as_secs())),
    }
}

const AGENT: &str = concat!("pierhead-doctor/", env!("CARGO_PKG_VERSION"));
const PATIENCE: Duration = Duration::from_secs(5);
/// A gateway may have to ask far away.
const SLOWEST: Duration = Duration::from_secs(30);
const LARGEST: usize = 8 << 20;
const LONGEST: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_as_go_reads_it_and_its_login_is_not_shown() {
        for (text, shown) in [
            ("http://gw:3128", "http://gw:3128"),
            ("gw:3128", "http://gw:3128"),
            ("https://gw", "https://gw:443"),
            ("http://ci:s3cret@gw:3128/", "http://gw:3128"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!(place.to_string(), shown);
            assert_eq!(format!("{place:?}"), shown);
            assert_eq!(place.login.is_some(), text.contains('@'));
        }
        for text in ["", "socks5://gw:1080", "http://"] {
            assert!(Place::parse(text).is_none(), "{text}");
        }
    }
}
