//! Answers, and their bodies at the test's pace.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Response, body::Incoming};
use serde_json::Value;

use super::{client::Session, content, within};

/// A response whose body is read only when the test says so. Dropping it closes the connection.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    /// Read from the connection and not yet given to the test.
    ahead: Bytes,
    pub(super) session: Option<Session>,
}

/// What was left of a body: all of it, or what came before it broke.
#[derive(Debug)]
pub struct Rest {
    pub bytes: Bytes,
    pub whole: bool,
}

// === impl Reply ===

impl Reply {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            ahead: Bytes::new(),
            session: None,
        }
    }

    /// A header's value, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// What `Cache-Status` and `Warning` say, for messages.
    pub fn cache_status(&self) -> &str {
        self.header("cache-status")
    }

    /// Whether the connection it came over has ended, be it read to its end or not.
    pub fn is_closed(&self) -> bool {
        self.session.as_ref().is_none_or(Session::is_closed)
    }

    /// Reads exactly `n` bytes, and then no more until asked again.
    pub async fn read(&mut self, n: usize) -> Bytes {
        let mut all = Vec::with_capacity(n);
        while all.len() < n {
            if self.ahead.is_empty() {
                match self.chunk().await {
                    Some(Ok(chunk)) => self.ahead = chunk,
                    end => panic!("{end:?} after {} of {n} bytes", all.len()),
                }
            }
            let take = self.ahead.len().min(n - all.len());
            all.extend_from_slice(&self.ahead.split_to(take));
        }
        all.into()
    }

    /// Reads to the end, which may come early.
    pub async fn rest(mut self) -> Rest {
        let mut all = std::mem::take(&mut self.ahead).to_vec();
        loop {
            match self.chunk().await {
                None => {
                    return Rest {
                        bytes: all.into(),
                        whole: true,
                    };
                }
                Some(Ok(chunk)) => all.extend_from_slice(&chunk),
                Some(Err(_)) => {
                    return Rest {
                        bytes: all.into(),
                        whole: false,
                    };
                }
            }
        }
    }

    /// Reads to the end, which must be the end.
    pub async fn bytes(self) -> Bytes {
        let rest = self.rest().await;
        assert!(
            rest.whole,
            "the body broke after {} bytes",
            rest.bytes.len()
        );
        rest.bytes
    }

    /// The body as text.
    pub async fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes().await).into_owned()
    }

    /// Asserts a 200 whose bytes have this digest, and returns them.
    pub async fn verified(self, digest: &str) -> Bytes {
        let status = self.status;
        let bytes = self.bytes().await;
        assert_eq!(
            status,
            200,
            "{}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(500)])
        );
        assert_eq!(
            content::digest_like(digest, &bytes),
            digest,
            "{} bytes",
            bytes.len()
        );
        bytes
    }

    /// Asserts an OCI error in JSON that names pierhead, and returns its code and its message.
    pub async fn oci_error(self) -> (String, String) {
        let status = self.status;
        let text = self.text().await;
        let body: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{status}, not JSON ({error}): {text}"));
        let first = &body["errors"][0];
        let code = first["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no code: {text}"));
        let message = first["message"]
            .as_str()
            .unwrap_or_else(|| panic!("no message: {text}"));
        assert!(
            message.starts_with("pierhead"),
            "it does not say who speaks: {text}"
        );
        (code.to_owned(), message.to_owned())
    }

    /// The next bytes of its body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match within(120, self.body.frame()).await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
