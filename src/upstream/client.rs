//! One pooled HTTP/1.1 client for every upstream, over checked addresses and verified TLS.
//!
//! HTTP/1.1 on purpose: large blobs in parallel want TCP windows of their own, and one HTTP/2
//! connection to a host queues silently behind its stream limit.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower_service::Service;

use super::connection::Connection;
use super::dial::{Carries, DialError, Dialer};
use super::reads::{Buffered, Filling};
use crate::policy::{Host, HostPattern};
use crate::wire::body::Body;

pub(super) type HttpClient = Client<Timed, Body>;

/// How TLS is spoken upstream.
#[derive(Clone, Debug)]
pub struct Tls {
    /// To whoever is asked, without a certificate of ours.
    pub anyone: rustls::ClientConfig,
    /// With one, to these hosts: where a redirect leads nobody needs to know who we are.
    pub known_to: Option<(Vec<HostPattern>, rustls::ClientConfig)>,
}

/// Builds a client; idle connections live for a minute.
pub(super) fn build(tls: Tls, dialer: Arc<Dialer>) -> HttpClient {
    let connector = |tls| {
        HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Tcp {
                dialer: dialer.clone(),
            })
    };
    let known_to = tls
        .known_to
        .map(|(hosts, tls)| (hosts.into(), connector(tls)));
    let connector = Timed {
        anyone: connector(tls.anyone),
        known_to,
        dialer: dialer.clone(),
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http1_max_buf_size(READ)
        .build(connector)
}

/// A connection, in TLS or not, that is read in large pieces.
type Stream = TokioIo<Filling<TokioIo<MaybeHttpsStream<TokioIo<Buffered<Connection>>>>>>;

/// Bounds the TLS handshake together with the connection it follows.
#[derive(Clone)]
pub(super) struct Timed {
    anyone: HttpsConnector<Tcp>,
    known_to: Option<(Arc<[HostPattern]>, HttpsConnector<Tcp>)>,
    dialer: Arc<Dialer>,
}

/// Connects through the [`Dialer`].
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    dialer: Arc<Dialer>,
}

impl Service<Uri> for Timed {
    type Response = Stream;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Those that know us are the same kind, over the same dialer.
        self.anyone.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.dialer.clone();
        let host = bare_host(&uri).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let connector = match &mut self.known_to {
            Some((hosts, connector)) if covered(hosts, &host) => connector,
            _ => &mut self.anyone,
        };
        let connecting = connector.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(dialer.limit(), connecting).await {
                Ok(connected) => Ok(TokioIo::new(Filling::new(TokioIo::new(connected?)))),
                Err(_) => Err(dialer.late(&host, port).into()),
            }
        })
    }
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<Buffered<Connection>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.dialer.clone();
        Box::pin(async move {
            let host = bare_host(&uri);
            let none = HeaderMap::new();
            let (default, carries) = match uri.scheme_str() {
                Some("http") => (80, Carries::Http),
                _ => (443, Carries::Bytes(&none)),
            };
            let port = uri.port_u16().unwrap_or(default);
            let socket = dialer.dial(host, port, carries).await?;
            Ok(TokioIo::new(Buffered::new(socket)))
        })
    }
}

fn covered(hosts: &[HostPattern], host: &str) -> bool {
    host.parse::<Host>()
        .is_ok_and(|host| hosts.iter().any(|pattern| pattern.covers(&host)))
}

/// The host without the brackets of an IPv6 address.
pub(super) fn bare_host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

const IDLE: Duration = Duration::from_secs(60);
const IDLE_PER_HOST: usize = 32;
/// Bytes of a body that are read at a time, where there are so many.
const READ: usize = 256 << 10;
