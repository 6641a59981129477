//! The JSON API as commands use it: a running gateway's, or the one that this process puts before the
//! cache directory where none runs. Commands cannot tell, and so do the same either way.

mod reach;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::reach::Place;
pub(super) use self::reach::Purpose;
use crate::app::Directory;

/// What a request carries.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Somebody who answers the API.
pub(super) struct Api {
    way: Way,
    login: Option<HeaderValue>,
}

enum Way {
    Gateway {
        place: Place,
        tls: Option<TlsConnector>,
    },
    Directory {
        directory: Box<Directory>,
        path: String,
    },
}

/// The API's refusal, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Refused {
    pub status: StatusCode,
    detail: String,
}

/// Problem details (RFC 9457), as far as a person reads them.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

// === impl Api ===

impl Api {
    /// What answers, for a person.
    pub fn name(&self) -> String {
        match &self.way {
            Way::Gateway { place, .. } => format!("the gateway at {place}"),
            Way::Directory { path, .. } => format!("the cache directory {path}"),
        }
    }

    /// Lets go of the directory, if it is one. To be called at the end, whatever that is.
    pub async fn close(self) {
        if let Way::Directory { directory, .. } = self.way {
            directory.close().await;
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// With a JSON body, where there is one.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(path);
        let body = match body {
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                let text = Full::new(value.to_string().into());
                text.map_err(|never| match never {}).boxed_unsync()
            }
        };
        let answer = self.send(request.body(body)?).await?;
        self.json(answer).await
    }

    /// The JSON of an answer of success; the words of another one as the error.
    pub async fn json(&self, answer: Response<Incoming>) -> anyhow::Result<Value> {
        let answer = self.well(answer).await?;
        let bytes = self.whole(answer).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} answered with what is no JSON", self.name()))
    }

    /// Sends a request, and answers what comes back, whatever its status.
    pub async fn send(&self, mut request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(login) = &self.login {
            headers.insert(header::AUTHORIZATION, login.clone());
        }
        let host = match &self.way {
            Way::Gateway { place, .. } => place.authority(),
            Way::Directory { .. } => "localhost".to_owned(),
        };
        headers.insert(header::HOST, host.parse()?);
        let answered = match &self.way {
            Way::Directory { directory, .. } => exchange(directory.connect(), request).await,
            Way::Gateway { place, tls } => {
                let socket = place.connect().await?;
                match tls {
                    None => exchange(socket, request).await,
                    Some(tls) => {
                        let name = ServerName::try_from(place.host().to_owned())?;
                        let shaken = tls.connect(name, socket).await;
                        exchange(shaken.with_context(|| self.name())?, request).await
                    }
                }
            }
        };
        answered.with_context(|| format!("{} did not answer", self.name()))
    }

    /// An answer of success; the words of another one as the error.
    pub async fn well(&self, answer: Response<Incoming>) -> anyhow::Result<Response<Incoming>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::UNAUTHORIZED {
            let detail = format!(
                "{} asks for a login of its admin.users_file: set PIERHEAD_LOGIN=NAME:PASSWORD",
                self.name()
            );
            return Err(Refused { status, detail }.into());
        }
        let bytes = self.whole(answer).await?;
        let detail = match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => problem.detail,
            Err(_) => format!(
                "{} answered {status}; is it a pierhead's admin address?",
                self.name()
            ),
        };
        Err(Refused { status, detail }.into())
    }

    async fn whole(&self, answer: Response<Incoming>) -> anyhow::Result<Bytes> {
        let collected = answer.into_body().collect().await;
        let collected = collected.with_context(|| format!("{} broke off", self.name()))?;
        Ok(collected.to_bytes())
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// One request on a connection of its own, which lasts as long as the answer.
async fn exchange<S>(stream: S, request: Request<Body>) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends the body says.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Text in a query.
pub(super) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, IN_QUERY).to_string()
}

/// The fields of an answer that a command shows.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> anyhow::Result<T> {
    T::deserialize(value).map_err(|e| {
        anyhow!("the gateway's answer cannot be read: {e}; is it a pierhead of another version?")
    })
}

/// A machine that has gone is noticed, however long an answer may take.
fn keep_alive(socket: &TcpStream) {
    let often = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = SockRef::from(socket).set_tcp_keepalive(&often);
}

const AGENT: &str = concat!("pierhead/", env!("CARGO_PKG_VERSION"));
/// What stands in image names need not be written in percent signs (RFC 3986 section 3.4).
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
