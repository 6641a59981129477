//! The error codes of the distribution specification ("Error Codes") and the JSON that carries
//! them to a client.

use std::fmt;

use serde_json::{Value, json};

/// An error as a registry client is told it.
///
/// The message always starts with `pierhead: `, so that nobody looks for the fault upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OciError {
    code: Code,
    message: String,
    detail: Option<Value>,
}

/// What went wrong, in the words that clients match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The blob is not known to the registry.
    BlobUnknown,
    /// The blob's upload cannot be carried on.
    BlobUploadInvalid,
    /// The blob's upload is not known to the registry.
    BlobUploadUnknown,
    /// The access is refused, whatever the credentials.
    Denied,
    /// The digest is malformed, or the content is not what it says.
    DigestInvalid,
    /// The manifest refers to a blob that is not known.
    ManifestBlobUnknown,
    /// The manifest, or the reference to it, is malformed.
    ManifestInvalid,
    /// The manifest is not known to the registry.
    ManifestUnknown,
    /// The repository name is malformed.
    NameInvalid,
    /// The repository is not known to the registry.
    NameUnknown,
    /// The length is not the length of the content.
    SizeInvalid,
    /// Too many requests; try again later.
    TooManyRequests,
    /// Credentials are needed.
    Unauthorized,
    /// The service, or what stands behind it, is not available. Not in the specification, but what
    /// distribution sends.
    Unavailable,
    /// None of the others. Not in the specification, but what distribution sends.
    Unknown,
    /// The operation is not supported.
    Unsupported,
}

// === impl OciError ===

impl OciError {
    /// An error with this code and a message that a person can act on. The `pierhead: ` in front
    /// is added if it is not there.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let message = message.as_ref();
        let message = match message.starts_with(PREFIX) {
            true => message.to_owned(),
            false => format!("{PREFIX}{message}"),
        };
        Self {
            code,
            message,
            detail: None,
        }
    }

    /// The same with a `detail` for programs.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The message, `pierhead: ` included.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The detail, if there is one.
    pub fn detail(&self) -> Option<&Value> {
        self.detail.as_ref()
    }

    /// The body of the response; its media type is `application/json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message });
        if let Some(detail) = &self.detail {
            error["detail"] = detail.clone();
        }
        json!({ "errors": [error] }).to_string().into_bytes()
    }
}

// === impl Code ===

impl Code {
    /// The code as it stands in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

const PREFIX: &str = "pierhead: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_json_that_registry_clients_read() {
        let error = OciError::new(Code::ManifestUnknown, "no \"such\" tag\n");
        let json: Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(
            json,
            json!({ "errors": [{
                "code": "MANIFEST_UNKNOWN",
                "message": "pierhead: no \"such\" tag\n",
            }]})
        );
    }

    #[test]
    fn a_detail_is_carried_along() {
        let error = OciError::new(Code::Denied, "no").with_detail(json!({ "rule": "default" }));
        let json: Value = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(json["errors"][0]["detail"]["rule"], "default");
        assert_eq!(error.detail(), Some(&json!({ "rule": "default" })));
    }

    #[test]
    fn a_message_names_pierhead_exactly_once() {
        let once = OciError::new(Code::Unknown, "full");
        let twice = OciError::new(Code::Unknown, once.message());
        assert_eq!(once, twice);
        assert_eq!(twice.to_string(), "pierhead: full");
    }
}
