//! Where bytes come from, as the cache sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Response;

use crate::wire::body::Body;

/// One way to get one blob: a registry, a repository and a credential.
pub trait Origin: fmt::Debug + Send + Sync + 'static {
    /// Asks for a part. Every call starts at the registry, so that an expired redirect or token is
    /// renewed. Upstream may answer with more than was asked for, or with another part.
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>>;

    /// What it began to fetch has verified: upstream has let whoever it asks for read the repository.
    /// To be remembered before anybody may have the last byte.
    fn proven(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// The registry's configured name, for who looks on.
    fn registry(&self) -> &str;

    /// The repository it is asked through.
    fn repository(&self) -> &str;
}

/// Which bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset of the first byte.
    pub start: u64,
    /// Exclusive; `None`: the blob's own end.
    pub end: Option<u64>,
}

/// The head of an upstream's answer, and its body to come.
pub struct Fetched {
    /// Offset of the body's first byte.
    pub start: u64,
    /// Bytes of the whole blob, where upstream says so.
    pub total: Option<u64>,
    pub body: Body,
}

/// Why an upstream gave no bytes.
#[derive(Clone, Debug)]
pub enum FetchError {
    /// It answered, and not with bytes: what it said, for the client to read.
    Answer(Arc<Response<Bytes>>),
    /// It has no bytes at that offset (416); the whole has `total`, where it says so.
    PastTheEnd { total: Option<u64> },
    /// It cannot be reached, or broke off.
    Gone(Gone),
}

/// An upstream that cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Gone {
    /// For the person who reads the error.
    pub message: String,
    /// It was silent, rather than refusing.
    pub timeout: bool,
    /// Trying again may help: not so for a refused address or a certificate that does not verify.
    pub retry: bool,
}

/// Waits between tries: doubling, with full jitter, and only so many without progress.
#[derive(Debug)]
pub struct Backoff {
    tries: u32,
    left: u32,
    most: u32,
    total_left: u32,
}

// === impl Part ===

impl Part {
    /// Everything from `start` on.
    pub fn from(start: u64) -> Self {
        Self { start, end: None }
    }
}

impl fmt::Display for Part {
    /// As in a `Range` header (RFC 9110 section 14.1.2).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "bytes={}-{}", self.start, end.saturating_sub(1)),
            None => write!(f, "bytes={}-", self.start),
        }
    }
}

// === impl FetchError ===

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "upstream answered {}", answer.status()),
            Self::PastTheEnd { .. } => f.write_str("upstream has no bytes there"),
            Self::Gone(gone) => gone.fmt(f),
        }
    }
}

impl FetchError {
    /// Whether the same question may be answered better a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Answer(answer) => {
                let status = answer.status();
                status.is_server_error() || matches!(status.as_u16(), 408 | 429)
            }
            Self::PastTheEnd { .. } => false,
            Self::Gone(gone) => gone.retry,
        }
    }
}

impl From<Gone> for FetchError {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

// === impl Gone ===

impl Gone {
    /// It broke off, and may be well a moment later.
    pub fn broken(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            timeout: false,
            retry: true,
        }
    }

    /// It will be no better a moment later.
    pub fn for_good(message: impl Into<String>) -> Self {
        Self {
            retry: false,
            ..Self::broken(message)
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// Gives up after `most` tries in a row without progress.
    pub fn new(most: u32) -> Self {
        Self {
            tries: 0,
            left: most,
            most,
            total_left: MOST_IN_ALL,
        }
    }

    /// Bytes arrived: the patience starts anew.
    pub fn progress(&mut self) {
        self.tries = 0;
        self.left = self.most;
    }

    /// How long to wait before the next try; `None` when the patience is spent.
    pub fn wait(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.total_left = self.total_left.checked_sub(1)?;
        let ceiling = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries += 1;
        let mut random = [0u8; 4];
        // Without randomness every wait is the longest: safe, only less spread.
        let share = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        Some(ceiling.mul_f64(0.5 + share / 2.0))
    }
}

/// How long upstream asks to be left alone, within reason (RFC 9110 section 10.2.3, seconds only).
pub(super) fn retry_after(error: &FetchError) -> Duration {
    let FetchError::Answer(answer) = error else {
        return Duration::ZERO;
    };
    answer
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(Duration::ZERO, |seconds| {
            Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER)
        })
}

/// Bytes that make a try a success though it broke: who sends a few and breaks is not waited for anew.
pub(super) const WORTHWHILE: u64 = 64 << 10;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// An upstream that sends a byte and breaks, again and again, ends too.
const MOST_IN_ALL: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_starts_anew_with_progress() {
        let mut backoff = Backoff::new(3);
        assert!(backoff.wait().is_some());
        assert!(backoff.wait().is_some());
        backoff.progress();
        let waits: Vec<_> = std::iter::from_fn(|| backoff.wait()).collect();
        assert_eq!(waits.len(), 3);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
    }
}
