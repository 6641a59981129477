//! The fault script: what goes wrong, and with which request.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, http::request::Parts};

use super::Gate;

/// What an upstream does instead of answering well. Byte counts are of the response's body.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Announces the whole body, sends this many bytes and closes the connection.
    CutAfter(u64),
    /// The same with a TCP reset.
    ResetAfter(u64),
    /// Closes the connection without any answer.
    HangUp,
    /// Sends this many bytes, then waits at the gate, then goes on.
    StallAt(u64, Gate),
    /// A well-formed response, its `Content-Length` right for what it holds, that is only the
    /// first so many bytes of what was asked for.
    Truncate(u64),
    /// Announces this length whatever the body's is.
    LengthOf(u64),
    /// This much more than the body, in chunks and without a `Content-Length`.
    Overlong(u64),
    /// One byte of the body at a time, this far apart.
    Trickle(Duration),
    /// Sends this many bytes of the response, its head included, and closes.
    CutWire(u64),
    /// Sends these bytes in the place of a response, and closes.
    Raw(Bytes),
    /// Flips the byte at this offset.
    Corrupt(u64),
    /// The right body under another `Content-Type`.
    ContentType(&'static str),
    /// This status, these headers and this body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// 429 in the words of Docker Hub, with a `Retry-After` in seconds.
    TooMany(u64),
    /// A web page, with status 200.
    Html,
    /// A page of this type, with status 200, in chunks and without a `Content-Length`.
    Page(&'static str),
    /// Bytes without end, in chunks, as a 206 whose `Content-Range` is this.
    Endless(&'static str),
    /// Waits at the gate, then closes without any answer.
    Silence(Gate),
    /// Waits at the gate before the first byte of the answer, then answers well.
    Late(Gate),
    /// No more than so many bytes a second.
    Paced(u64),
    /// Answers a request with `Range` with 200 and everything.
    IgnoreRange,
    /// Answers a request with `Range` with 206 and a range nobody asked for, saying so.
    OtherRange,
}

/// How a handshake goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shake {
    /// Closes when the client has said hello.
    Close,
    /// Answers with what is no TLS.
    Garbage,
    /// Shows the certificate of a CA that nobody trusts.
    Stranger,
    /// Shows a good certificate for another name.
    OtherName,
}

/// Which requests a fault is for.
#[derive(Clone, Debug)]
pub struct On {
    method: Option<Method>,
    host: Option<String>,
    path: String,
    exactly: bool,
    stranger: bool,
    skip: usize,
    times: usize,
}

#[derive(Debug)]
pub(super) struct Armed {
    on: On,
    fault: Fault,
}

// === impl On ===

impl On {
    /// The first GET whose path contains `path`.
    pub fn get(path: &str) -> Self {
        Self {
            method: Some(Method::GET),
            ..Self::any(path)
        }
    }

    /// The first HEAD whose path contains `path`.
    pub fn head(path: &str) -> Self {
        Self {
            method: Some(Method::HEAD),
            ..Self::any(path)
        }
    }

    /// The first request of any method whose path contains `path`.
    pub fn any(path: &str) -> Self {
        Self {
            method: None,
            host: None,
            path: path.to_owned(),
            exactly: false,
            stranger: false,
            skip: 0,
            times: 1,
        }
    }

    /// Of this host alone.
    pub fn at(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// With this very path, and not with one that contains it.
    pub fn exactly(mut self) -> Self {
        self.exactly = true;
        self
    }

    /// From nobody in particular: without an `Authorization`.
    pub fn stranger(mut self) -> Self {
        self.stranger = true;
        self
    }

    /// Lets the first `n` that match pass.
    pub fn after(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// `n` in a row, not one.
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    /// All of them.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    fn matches(&self, request: &Parts, host: &str) -> bool {
        self.host.as_ref().is_none_or(|wanted| wanted == host)
            && self
                .method
                .as_ref()
                .is_none_or(|wanted| *wanted == request.method)
            && match self.exactly {
                true => request.uri.path() == self.path,
                false => request.uri.path().contains(&self.path),
            }
            && !(self.stranger && request.headers.contains_key("authorization"))
    }
}

// === impl Armed ===

impl Armed {
    pub(super) fn new(on: On, fault: Fault) -> Self {
        Self { on, fault }
    }

    /// Whether it is for `host` and no other.
    pub(super) fn is_at(&self, host: &str) -> bool {
        self.on.host.as_deref() == Some(host)
    }

    /// Takes the first fault of `script` that is for this request, and counts it down.
    pub(super) fn take(script: &mut Vec<Self>, request: &Parts, host: &str) -> Option<Fault> {
        for i in 0..script.len() {
            if !script[i].on.matches(request, host) {
                continue;
            }
            if script[i].on.skip > 0 {
                script[i].on.skip -= 1;
                continue;
            }
            let fault = script[i].fault.clone();
            script[i].on.times -= 1;
            if script[i].on.times == 0 {
                script.remove(i);
            }
            return Some(fault);
        }
        None
    }
}
