//! The one body type that crosses rooms.

use std::io;

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// A streamed body; an error cuts the transfer short on the wire, never ends it cleanly.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of no bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The answer to a `HEAD`: the head alone, with the length that the content would have (RFC 9110 section
/// 9.3.2). HTTP/2 does not leave the content out by itself.
pub fn without_content(mut response: Response<Body>) -> Response<Body> {
    if !response.body().is_end_stream() {
        if let Some(length) = response.body().size_hint().exact() {
            let length = HeaderValue::from(length);
            let fields = response.headers_mut();
            fields.entry(header::CONTENT_LENGTH).or_insert(length);
        }
        *response.body_mut() = empty();
    }
    response
}

/// A body held in memory.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
