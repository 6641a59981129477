//! Redirects are followed here: a client never learns a blob host, a blob host never a credential.

use http::header::{self, HeaderMap};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Response, StatusCode, Uri};

use super::{Fault, Redirected, Upstream};
use crate::wire::body::Body;

impl Upstream {
    pub(super) async fn follow(
        &self,
        name: &str,
        method: Method,
        mut uri: Uri,
        mut headers: HeaderMap,
    ) -> Result<Response<Body>, Fault> {
        for hops in 0..MOST {
            let mut response = self.ask_once(name, &method, &uri, &headers).await?;
            if hops > 0 {
                response.extensions_mut().insert(Redirected);
            }
            if !leads_on(response.status()) {
                return Ok(response);
            }
            let Some(location) = response.headers().get(header::LOCATION) else {
                return Ok(response);
            };
            let next = location
                .to_str()
                .ok()
                .and_then(|location| join(&uri, location))
                .ok_or_else(|| {
                    Fault::nonsense(format!(
                        "{} redirects to what is no address",
                        uri.authority().map_or("", Authority::as_str)
                    ))
                })?;
            if origin(&next) != origin(&uri) {
                for secret in [header::AUTHORIZATION, header::COOKIE] {
                    headers.remove(secret);
                }
            }
            uri = next;
        }
        Err(Fault::nonsense(format!("more than {MOST} redirects")))
    }
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port: what a credential belongs to.
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let scheme = uri.scheme_str();
    let default = if scheme == Some("http") { 80 } else { 443 };
    (
        scheme,
        uri.host().map(str::to_ascii_lowercase),
        uri.port_u16().or(Some(default)),
    )
}

/// Resolves a `Location` against the address that sent it (RFC 3986 section 5.2, without fragments).
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let begins = |scheme: &str| {
        let start = location.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if begins("https://") || begins("http://") {
        let next: Uri = location.parse().ok()?;
        // A name and password in an address are nobody's business here.
        return (!next.authority()?.as_str().contains('@')).then_some(next);
    }
    let mut parts = Parts::default();
    parts.scheme = Some(base.scheme().cloned().unwrap_or(Scheme::HTTPS));
    let path = if let Some(rest) = location.strip_prefix("//") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return None;
        }
        parts.authority = Some(authority.parse::<Authority>().ok()?);
        if path.is_empty() {
            "/".to_owned()
        } else {
            path.to_owned()
        }
    } else {
        parts.authority = base.authority().cloned();
        if location.starts_with('/') {
            location.to_owned()
        } else if location.split(['/', '?']).next()?.contains(':') {
            // Another scheme (section 4.2: no relative address has a colon there).
            return None;
        } else {
            let folder = base
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        }
    };
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_resolved_against_its_sender() {
        let base: Uri = "https://r.example:444/v2/a/blobs/x?y=1".parse().unwrap();
        for (location, expected) in [
            (
                "https://cdn.example/b?sig=1#top",
                Some("https://cdn.example/b?sig=1"),
            ),
            ("/other", Some("https://r.example:444/other")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            (
                "next?z=2",
                Some("https://r.example:444/v2/a/blobs/next?z=2"),
            ),
            ("ftp:x", None),
            ("ftp://cdn.example/b", None),
            ("file:///etc/passwd", None),
            ("HTTPS://cdn.example/b", Some("https://cdn.example/b")),
            ("b/c:d", Some("https://r.example:444/v2/a/blobs/b/c:d")),
            ("https://user:pw@cdn.example/", None),
            ("//user:pw@cdn.example/", None),
            ("https://", None),
        ] {
            assert_eq!(
                join(&base, location).map(|u| u.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
    }

    #[test]
    fn another_port_is_another_host() {
        let a: Uri = "https://r.example/a".parse().unwrap();
        assert_eq!(
            origin(&a),
            origin(&"https://R.example:443/b".parse().unwrap())
        );
        assert_ne!(
            origin(&a),
            origin(&"https://r.example:444/b".parse().unwrap())
        );
        assert_ne!(origin(&a), origin(&"http://r.example/b".parse().unwrap()));
    }
}
