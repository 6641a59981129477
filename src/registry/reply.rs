//! Responses: the fields that registry clients expect, and the one table from failures to statuses.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Method, Response, StatusCode};
use http_body::Body as _;

use super::call::{Answer, Asked, Call};
use crate::cache::flight::Failure;
use crate::cache::origin::Gone;
use crate::oci::digest::Digest;
use crate::oci::error::{Code, OciError};
use crate::oci::route::Route;
use crate::telemetry::access::Outcome;
use crate::upstream::{Fault, FaultKind};
use crate::wire::body::{self, Body};
use crate::wire::headers;

// === impl Answer ===

impl Answer {
    pub fn new(response: Response<Body>, outcome: Outcome) -> Self {
        Self {
            response,
            outcome,
            rule: String::new(),
            reason: String::new(),
            mend: String::new(),
            repository: Arc::default(),
            reference: Arc::default(),
        }
    }

    /// Something of the cache: says how it was found (RFC 9211), and that it is stale where it is.
    pub fn cached(mut response: Response<Body>, outcome: Outcome) -> Self {
        let status = match outcome {
            Outcome::Hit => "pierhead; hit",
            Outcome::Follow => "pierhead; fwd=miss; collapsed",
            Outcome::Miss => "pierhead; fwd=miss; stored",
            Outcome::Revalidated => "pierhead; hit; detail=revalidated",
            Outcome::Stale => "pierhead; hit; detail=stale",
            _ => "pierhead; fwd=bypass",
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
        if outcome == Outcome::Stale {
            headers.insert(header::WARNING, HeaderValue::from_static(STALE));
        }
        Self::new(response, outcome)
    }

    /// An error for a registry client (the distribution spec's error JSON).
    pub fn error(status: StatusCode, error: &OciError) -> Self {
        let mut response = Response::new(body::full(error.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(API_VERSION, HeaderValue::from_static(REGISTRY_2));
        Self::new(response, Outcome::Error)
    }

    /// A refusal by policy; `rule` names what decided.
    pub fn denied(message: &str, rule: String) -> Self {
        let error = OciError::new(Code::Denied, message);
        let mut answer = Self::error(StatusCode::FORBIDDEN, &error);
        answer.outcome = Outcome::Denied;
        answer.rule = rule;
        answer.because(message, "")
    }

    /// Says why it is denied, and what would allow it, for who looks on.
    pub fn because(mut self, reason: &str, mend: &str) -> Self {
        self.reason = reason.to_owned();
        self.mend = mend.to_owned();
        self
    }

    /// What upstream said, whole, with its own headers.
    pub fn relayed(answer: &Response<Bytes>) -> Self {
        let mut response = Response::new(body::full(answer.body().clone()));
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        headers::strip_hop_by_hop(response.headers_mut());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Self::new(response, Outcome::Relay)
    }

    /// An upstream that cannot be asked.
    pub fn fault(fault: &Fault) -> Self {
        let (status, code) = match fault.kind {
            FaultKind::Forbidden => (StatusCode::FORBIDDEN, Code::Denied),
            FaultKind::Login => (StatusCode::FORBIDDEN, Code::Denied),
            FaultKind::Disabled => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            FaultKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, Code::Unavailable),
            FaultKind::Unreachable | FaultKind::Tls | FaultKind::Nonsense => {
                (StatusCode::BAD_GATEWAY, Code::Unavailable)
            }
        };
        let mut answer = Self::error(status, &OciError::new(code, &fault.message));
        if fault.kind == FaultKind::Forbidden {
            answer.outcome = Outcome::Denied;
            answer.rule = "upstream.allow_private".into();
            answer = answer.because(&fault.message, "");
        }
        answer
    }

    /// A download that ended before its first byte could go out.
    pub fn failure(failure: &Failure) -> Self {
        match failure {
            Failure::Answer(answer) => Self::relayed(answer),
            Failure::Gone(Gone {
                message, timeout, ..
            }) => {
                let status = if *timeout {
                    StatusCode::GATEWAY_TIMEOUT
                } else {
                    StatusCode::BAD_GATEWAY
                };
                Self::error(status, &OciError::new(Code::Unavailable, message))
            }
            Failure::Mismatch(_) => Self::error(
                StatusCode::BAD_GATEWAY,
                &OciError::new(Code::DigestInvalid, failure.to_string()),
            ),
            Failure::NoRoom(_) => Self::error(
                StatusCode::INSUFFICIENT_STORAGE,
                &OciError::new(Code::Unavailable, failure.to_string()),
            ),
        }
    }

    /// Gives a refusal that came without words (the answer to a HEAD) some, where the caller's own
    /// question has room for them.
    pub fn with_words(self, call: &Call) -> Self {
        let status = self.response.status();
        if call.is_head() || status.is_success() || !self.response.body().is_end_stream() {
            return self;
        }
        self.say(&call.endpoint.name, call.path())
    }

    /// An error of upstream's, or of something before it, that is in other words than a registry's: in
    /// those, and it says whose it is. Its fields stay.
    pub fn in_words(self, asked: &Asked) -> Self {
        let status = self.response.status();
        let kind = self.response.headers().get(header::CONTENT_TYPE);
        let json = kind.is_some_and(|kind| kind.as_bytes().windows(4).any(|part| part == b"json"));
        let error = status.is_client_error() || status.is_server_error();
        if !error || json || asked.method == Method::HEAD || status.as_u16() == 416 {
            return self;
        }
        self.say(&asked.endpoint.name, asked.path())
    }

    fn say(mut self, name: &str, path: &str) -> Self {
        let status = self.response.status();
        let code = match status.as_u16() {
            401 => Code::Unauthorized,
            403 => Code::Denied,
            404 => unknown(path),
            429 => Code::TooManyRequests,
            _ => Code::Unavailable,
        };
        let message = format!("{name} answered {status}");
        let headers = self.response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        *self.response.body_mut() = body::full(OciError::new(code, message).to_json());
        self
    }

    /// One client has so much on its way from upstream that this has to come later.
    pub fn too_many(call: &Call) -> Self {
        let message = format!(
            "{} has too many requests on their way to {} at this moment; ask again",
            call.client, call.endpoint.name
        );
        let error = OciError::new(Code::TooManyRequests, message);
        let mut answer = Self::error(StatusCode::TOO_MANY_REQUESTS, &error);
        let fields = answer.response.headers_mut();
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }

    /// Names the content for the log line.
    pub fn about(
        mut self,
        repository: impl Into<Arc<str>>,
        reference: impl Into<Arc<str>>,
    ) -> Self {
        self.repository = repository.into();
        self.reference = reference.into();
        self
    }
}

/// The head of an answer with content of `digest`.
pub fn content(digest: &Digest, media_type: &str, length: Option<u64>) -> http::response::Builder {
    let mut builder = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(DOCKER_CONTENT_DIGEST, digest.as_str())
        .header(header::ETAG, format!("\"{digest}\""))
        .header(API_VERSION, REGISTRY_2);
    if let Some(length) = length {
        builder = builder.header(header::CONTENT_LENGTH, length);
    }
    builder
}

/// What a 404 at `path` says is not known.
fn unknown(path: &str) -> Code {
    match Route::parse(path) {
        Ok(Route::Blob { .. }) => Code::BlobUnknown,
        Ok(Route::Upload { .. }) => Code::BlobUploadUnknown,
        Ok(Route::Manifest { .. }) => Code::ManifestUnknown,
        _ => Code::NameUnknown,
    }
}

/// Whether a status says nothing that a registry could mean in answer to a question for content: an empty
/// success, or a redirect that leads nowhere.
pub fn is_nonsense(status: StatusCode) -> bool {
    status.is_informational()
        || status.is_redirection()
        || (status.is_success() && !matches!(status.as_u16(), 200 | 206))
}

/// Whether a document is for people, as a captive portal's.
pub fn is_page(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/"))
}

/// Finishes a head. The fields above come from parsed values, so this answers 500 only if one of them
/// could not be a header after all.
pub fn finish(builder: http::response::Builder, body: Body) -> Response<Body> {
    builder.body(body).unwrap_or_else(|e| {
        let error = OciError::new(Code::Unknown, e.to_string());
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error).response
    })
}

/// The caller has it already.
pub fn not_modified(call: &Call, digest: &Digest) -> Option<Response<Body>> {
    call.holds(digest.as_str()).then(|| {
        finish(
            Response::builder()
                .status(StatusCode::NOT_MODIFIED)
                .header(header::ETAG, format!("\"{digest}\""))
                .header(DOCKER_CONTENT_DIGEST, digest.as_str()),
            body::empty(),
        )
    })
}

pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub const REGISTRY_2: &str = "registry/2.0";
pub const STALE: &str = "110 pierhead \"upstream is away, this is what it last said\"";
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
