//! What an answer from beyond says about itself.

use bytes::Bytes;
use http::header;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::fault::{Fault, FaultKind};
use crate::oci::range::ContentRange;
use crate::wire::body::Body;

/// On an answer's extensions: it came from where a redirect led.
#[derive(Clone, Copy, Debug)]
pub struct Redirected;

/// Reads a body of at most `limit` bytes whole.
pub async fn collect(body: Body, limit: u64) -> Result<Bytes, Fault> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Fault::nonsense(format!(
            "upstream sent more than {limit} bytes where a small document was due"
        ))),
        Err(e) => {
            let late = e
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut);
            Err(Fault {
                kind: match late {
                    true => FaultKind::Timeout,
                    false => FaultKind::Unreachable,
                },
                message: format!("upstream broke off: {e}"),
            })
        }
    }
}

/// The total that a `Content-Range` or, on a whole answer, `Content-Length` announces; and the first
/// byte's offset.
pub fn extent(response: &Response<Body>) -> (u64, Option<u64>) {
    let headers = response.headers();
    let length = || {
        headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
    };
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| ContentRange::parse(value.to_str().ok()?));
    match range {
        Some(ContentRange::Part { start, total, .. })
            if response.status() == StatusCode::PARTIAL_CONTENT =>
        {
            (start, total)
        }
        Some(ContentRange::Unsatisfied { total })
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE =>
        {
            (0, Some(total))
        }
        _ => (0, length()),
    }
}

/// Whether a 206 says which part it is (RFC 9110 section 15.3.7).
pub fn names_its_part(response: &Response<Body>) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|value| ContentRange::parse(value.to_str().ok()?));
    matches!(range, Some(ContentRange::Part { .. }))
}

/// What an answer says against the registry's health; nothing for an answer that is the client's own
/// business, as a 404.
pub(super) fn failure_status(status: StatusCode) -> Option<String> {
    let failed = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    failed.then(|| format!("it answered {status}"))
}

/// For metrics: the status where it says something of its own, else its class.
pub(super) fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "401",
        403 => "403",
        404 => "404",
        429 => "429",
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
