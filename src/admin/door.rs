//! Who may look, and who may change something.
//!
//! With `admin.users_file` everybody logs in. Without it whoever reaches the listener may look, and only
//! this machine may change something. A browser is made to prove that a change comes from a page of ours
//! (Fetch metadata, else `Origin`): others' pages can send forms here, but not forge these headers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::api::Problem;
use crate::policy::Host;
use crate::users::Denied;

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What the sender of a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Look,
    Change,
}

/// Lets a request pass that may; its [`Rights`] go with it.
pub async fn guard(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let rights = match rights(&admin, request.headers(), peer).await {
        Ok(rights) => rights,
        Err(refusal) => return refusal,
    };
    let changes = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if changes && rights == Rights::Look {
        return refused(StatusCode::FORBIDDEN, READ_ONLY);
    }
    if changes && !is_own_page(request.headers()) {
        return refused(
            StatusCode::FORBIDDEN,
            "this change was asked for by a page of another site",
        );
    }
    request.extensions_mut().insert(rights);
    next.run(request).await
}

async fn rights(
    admin: &Admin,
    headers: &HeaderMap,
    peer: Option<Peer>,
) -> Result<Rights, Response> {
    let sent = headers.get(header::AUTHORIZATION);
    let bearer = sent
        .and_then(|sent| sent.to_str().ok())
        .and_then(|sent| sent.strip_prefix("Bearer "));
    if bearer.is_some_and(|token| admin.token.is(token)) {
        return Ok(Rights::Change);
    }
    let users = admin.users.load_full();
    if users.asked() {
        // Who comes from nowhere is within this process.
        let client = peer.map_or(Ipv4Addr::LOCALHOST.into(), |Peer(address)| address.ip());
        return match users.verify(client, sent).await {
            Ok(_) => Ok(Rights::Change),
            Err(Denied::Busy) => {
                let mut answer = refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many passwords are being checked at this moment; try again",
                );
                let again = header::HeaderValue::from_static("1");
                answer.headers_mut().insert(header::RETRY_AFTER, again);
                Err(answer)
            }
            Err(Denied::Missing | Denied::Wrong { .. }) => {
                let mut answer = refused(
                    StatusCode::UNAUTHORIZED,
                    "log in as a user of admin.users_file",
                );
                answer.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    header::HeaderValue::from_static("Basic realm=\"pierhead\", charset=\"UTF-8\""),
                );
                Err(answer)
            }
        };
    }
    if !peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback()) {
        return Ok(Rights::Look);
    }
    // A name that an attacker made point at 127.0.0.1 would make his page one of ours.
    if !is_local_name(headers) {
        return Err(refused(
            StatusCode::MISDIRECTED_REQUEST,
            "without admin.users_file this listener answers to addresses and to localhost only",
        ));
    }
    Ok(Rights::Change)
}

fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Who sends neither is no browser: nobody's page.
    let ours = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    ours && text("origin").is_none_or(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some() && authority == text("host")
    })
}

fn is_local_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else {
        return true;
    };
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    bare.parse::<Host>()
        .is_ok_and(|host| host.ip().is_some() || host.as_str() == "localhost")
}

fn refused(status: StatusCode, message: &str) -> Response {
    Problem::new(status, message).into_response()
}

/// Why somebody may only look.
pub const READ_ONLY: &str = "from another machine this listener may only be read; admin.users_file lets people log in to change things and to take images out";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_form_of_another_site_is_not_of_ours() {
        for (pairs, own) in [
            (&[("host", "127.0.0.1:3129")][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("host", "a:3129"), ("origin", "http://a:3129")], true),
            (&[("host", "a:3129"), ("origin", "http://b")], false),
            (&[("host", "a:3129"), ("origin", "null")], false),
        ] {
            assert_eq!(is_own_page(&headers(pairs)), own, "{pairs:?}");
        }
    }

    #[test]
    fn a_name_that_anybody_may_register_is_not_local() {
        for (host, local) in [
            ("127.0.0.1:3129", true),
            ("[::1]:3129", true),
            ("localhost", true),
            ("evil.example:3129", false),
        ] {
            assert_eq!(is_local_name(&headers(&[("host", host)])), local, "{host}");
        }
    }
}
