//! While the gateway drains: whoever comes now is told so, and goes elsewhere.
//!
//! A load balancer learns of a drain by asking `/readyz`, on a new connection, seconds after it began. A
//! refused connection would look to it, and to the clients it still sends here, like a crash.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::connect::{health, readiness};
use crate::tls::Front;
use crate::wire::body::{self, Body};

/// Answers one request: how the gateway is, or that nothing is to be had any more.
pub(super) async fn answer(socket: TcpStream, front: Option<Arc<Front>>) {
    let answered = async {
        match front {
            None => speak(socket).await,
            Some(front) => {
                if let Ok(config) = front.server_config()
                    && let Ok(tls) = TlsAcceptor::from(config).accept(socket).await
                {
                    speak(tls).await;
                }
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, answered).await;
}

async fn speak<S>(socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A client that does not finish its question is nobody's loss.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(socket),
            service_fn(|request| async move { Ok::<_, Infallible>(said(&request)) }),
        )
        .await;
}

fn said(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/healthz" => health(),
        "/readyz" => readiness(true),
        _ => {
            let mut response = Response::new(body::full(
                "pierhead: it is being stopped, and takes no new requests; ask again in a moment\n",
            ));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(2);
