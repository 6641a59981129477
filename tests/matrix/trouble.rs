//! What can go wrong, and what kind of wrong it is.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    case::Step,
    support::{Fault, Gate, fault::Shake},
};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The name of its class, for the table.
    pub class: &'static str,
    /// Its own name.
    pub name: String,
    pub what: What,
    /// What a gateway can make of it.
    pub sort: Sort,
    /// It happens to one request, and the next is answered well.
    pub once: bool,
}

/// How it is brought about.
#[derive(Clone, Debug)]
pub enum What {
    /// The requests of the step meet these faults, one after the other.
    Script(Vec<Fault>),
    /// Every handshake with the hosts goes wrong.
    Shake(Shake),
    /// Nobody gets to the hosts at all.
    Door(Door),
}

/// How a host cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// Connections are refused.
    Refused,
    /// Connections are neither taken nor refused.
    BlackHole,
    /// Its name is not known.
    NoName,
}

/// What a gateway can make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Upstream is not there, or not well: unreachable, too slow, 5xx, 429.
    Away,
    /// Its certificate does not verify.
    Untrusted,
    /// The answer began well, and breaks.
    Breaks,
    /// The answer is well formed and wrong.
    Lies,
    /// The answer cannot be one: no HTTP, a page, an empty success, a redirect that leads nowhere.
    Odd,
    /// Upstream's word, with this status.
    Says(u16),
}

/// What may happen at `step`, whose body has `len` bytes. `draw` gives offsets.
pub fn at(step: Step, len: u64, mut draw: impl FnMut() -> u64) -> Vec<Trouble> {
    let mut all = Vec::new();
    if step != Step::Ping {
        bodies(step, len, &mut draw, &mut all);
    }
    heads(step, &mut all);
    redirects(&mut all);
    raws(&mut all);
    if matches!(step, Step::Blob | Step::Redirect) {
        resumes(step, len, &mut all);
    }
    for shake in [
        Shake::Close,
        Shake::Garbage,
        Shake::Stranger,
        Shake::OtherName,
    ] {
        let sort = match shake {
            Shake::Close => Sort::Away,
            _ => Sort::Untrusted,
        };
        all.push(Trouble {
            class: "TLS failure",
            name: format!("tls-{shake:?}").to_lowercase(),
            what: What::Shake(shake),
            sort,
            once: false,
        });
    }
    all
}

/// Ways in which nothing of upstream can be had at all.
pub fn everywhere() -> Vec<Trouble> {
    let mut all: Vec<Trouble> = [
        ("refused connections", Door::Refused),
        ("black hole", Door::BlackHole),
        ("DNS failure", Door::NoName),
    ]
    .into_iter()
    .map(|(class, door)| Trouble {
        class,
        name: format!("{door:?}").to_lowercase(),
        what: What::Door(door),
        sort: Sort::Away,
        once: false,
    })
    .collect();
    for status in [429, 500, 502, 503, 504] {
        all.push(always(
            "status",
            status.to_string(),
            Sort::Away,
            said(status),
        ));
    }
    all.push(always("hang-up", "hangup", Sort::Away, Fault::HangUp));
    let never = Fault::Silence(Gate::new());
    all.push(always("silence", "silence", Sort::Away, never));
    all.push(always("web page", "html", Sort::Odd, Fault::Html));
    let noise = Fault::Raw(Bytes::from_static(b"220 mail.test ESMTP\r\n"));
    all.push(always("no HTTP", "noise", Sort::Odd, noise));
    for (name, shake, sort) in [
        ("tls-close", Shake::Close, Sort::Away),
        ("tls-stranger", Shake::Stranger, Sort::Untrusted),
    ] {
        all.push(Trouble {
            class: "TLS failure",
            name: name.to_owned(),
            what: What::Shake(shake),
            sort,
            once: false,
        });
    }
    all
}

fn bodies(step: Step, len: u64, draw: &mut impl FnMut() -> u64, all: &mut Vec<Trouble>) {
    let mut cuts = vec![0, 1, len / 2, len - 1, draw() % len];
    if len > 70_000 {
        // Where a small blob ends to be small, and where the part begins that is held back.
        cuts.extend([65_535, 65_536, len - 16_384, len - 16_385]);
    }
    for at in cuts {
        both(
            "cut",
            format!("cut@{at}"),
            Sort::Breaks,
            Fault::CutAfter(at),
            all,
        );
    }
    for at in [0, len / 2, len - 1] {
        both(
            "reset",
            format!("reset@{at}"),
            Sort::Breaks,
            Fault::ResetAfter(at),
            all,
        );
        let stall = Fault::StallAt(at, Gate::new());
        both("stall", format!("stall@{at}"), Sort::Breaks, stall, all);
    }
    let drip = Fault::Trickle(Duration::from_millis(200));
    both("trickle", "trickle", Sort::Breaks, drip, all);
    for keep in [0, len / 2, len - 1] {
        both(
            "truncated",
            format!("first{keep}"),
            Sort::Lies,
            Fault::Truncate(keep),
            all,
        );
    }
    for more in [1, 100_000] {
        both(
            "over-long",
            format!("longer{more}"),
            Sort::Lies,
            Fault::Overlong(more),
            all,
        );
    }
    for said in [0, len / 2, len + 1, len * 10, 1 << 62] {
        // Bytes that were announced and never come are a break.
        let sort = if said > len { Sort::Breaks } else { Sort::Lies };
        both(
            "wrong length",
            format!("length{said}"),
            sort,
            Fault::LengthOf(said),
            all,
        );
    }
    for at in [0, len / 2, len - 1] {
        both(
            "wrong digest",
            format!("flip@{at}"),
            Sort::Lies,
            Fault::Corrupt(at),
            all,
        );
    }
    for (name, media_type) in [("text", "text/html"), ("none", "x/y")] {
        // Of a blob, the type says nothing.
        let sort = match step {
            Step::Config | Step::Blob | Step::Redirect => continue,
            _ => Sort::Odd,
        };
        both(
            "wrong type",
            format!("type-{name}"),
            sort,
            Fault::ContentType(media_type),
            all,
        );
    }
}

fn heads(step: Step, all: &mut Vec<Trouble>) {
    for status in [
        204, 205, 206, 302, 304, 400, 401, 403, 404, 408, 410, 416, 418, 429, 500, 502, 503, 504,
    ] {
        let sort = match status {
            429 | 500.. => Sort::Away,
            // Of a place that a redirect led to, a refusal is no word of the registry's.
            400.. if step == Step::Redirect && status != 416 => Sort::Away,
            400.. => Sort::Says(status),
            _ => Sort::Odd,
        };
        both("status", status.to_string(), sort, said(status), all);
    }
    both(
        "429 with Retry-After",
        "later",
        Sort::Away,
        Fault::TooMany(1),
        all,
    );
    both("hang-up", "hangup", Sort::Away, Fault::HangUp, all);
    both(
        "silence",
        "silence",
        Sort::Away,
        Fault::Silence(Gate::new()),
        all,
    );
    both("web page", "html", Sort::Odd, Fault::Html, all);
    both(
        "web page",
        "chunked-text",
        Sort::Odd,
        Fault::Page("text/plain"),
        all,
    );
    both(
        "web page",
        "chunked-json",
        Sort::Odd,
        Fault::Page("application/json"),
        all,
    );
    for at in [1, 12, 40, 120] {
        both(
            "cut in the head",
            format!("head@{at}"),
            Sort::Away,
            Fault::CutWire(at),
            all,
        );
    }
}

fn redirects(all: &mut Vec<Trouble>) {
    for (name, to) in [
        ("unknown", "https://nowhere.test/x"),
        ("refused", "https://127.0.0.1:9/x"),
        ("private", "https://10.1.2.3/x"),
        ("metadata", "http://169.254.169.254/latest/meta-data/"),
        ("octal", "https://0251.0376.0251.0376/x"),
        ("scheme", "ftp://cdn.test/x"),
        ("file", "file:///etc/passwd"),
        ("user", "https://user:secret@cdn.test/x"),
        ("noise", "https://[::"),
    ] {
        let fault = Fault::Status(307, vec![("location", to.to_owned())], "");
        both("redirect", format!("to-{name}"), Sort::Odd, fault, all);
    }
}

fn raws(all: &mut Vec<Trouble>) {
    let bomb = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(3000));
    let continues = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    for (name, bytes) in [
        ("noise", "220 mail.test ESMTP\r\n".to_owned()),
        ("nul", "\0\0\0\0\0\0".to_owned()),
        ("http0", "<html>hello</html>".to_owned()),
        (
            "lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello".to_owned(),
        ),
        (
            "smuggled",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            "chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        ),
        (
            "huge-chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello"
                .to_owned(),
        ),
        (
            "negative",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello".to_owned(),
        ),
        ("until-close", "HTTP/1.1 200 OK\r\n\r\nhello".to_owned()),
        (
            "switch",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        ),
        ("bomb", bomb),
        ("many", many),
        ("continues", continues),
    ] {
        let fault = Fault::Raw(bytes.into());
        both("no HTTP", format!("raw-{name}"), Sort::Odd, fault, all);
    }
}

/// A download that breaks, and what the attempt to go on meets.
fn resumes(step: Step, len: u64, all: &mut Vec<Trouble>) {
    let cut = || Fault::CutAfter(len / 2);
    let part = |range: String| Fault::Status(206, vec![("content-range", range)], "");
    let whole = |status| Fault::Status(status, Vec::new(), "");
    let challenge = Fault::Status(
        401,
        vec![(
            "www-authenticate",
            r#"Bearer realm="https://nowhere.test/token",service="x""#.to_owned(),
        )],
        "",
    );
    let away = if step == Step::Redirect {
        Sort::Breaks
    } else {
        Sort::Says(404)
    };
    for (class, name, sort, second) in [
        ("ignored Range", "ignored", Sort::Breaks, Fault::IgnoreRange),
        ("other Range", "other", Sort::Breaks, Fault::OtherRange),
        (
            "other Range",
            "beyond",
            Sort::Breaks,
            part(format!("bytes {}-{}/{len}", len - 2, len - 1)),
        ),
        (
            "other Range",
            "nonsense",
            Sort::Breaks,
            part("bytes x-y/z".to_owned()),
        ),
        (
            "other Range",
            "other-whole",
            Sort::Breaks,
            part(format!("bytes {}-{}/{}", len / 2, len, len + 1)),
        ),
        ("resumed: status", "416", Sort::Lies, whole(416)),
        ("resumed: status", "503", Sort::Breaks, said(503)),
        ("resumed: status", "429", Sort::Breaks, Fault::TooMany(1)),
        ("resumed: status", "404", away, whole(404)),
        (
            "token or signature expired",
            "403",
            Sort::Breaks,
            whole(403),
        ),
        ("token or signature expired", "401", Sort::Breaks, challenge),
        ("resumed: page", "html", Sort::Lies, Fault::Html),
        ("resumed: page", "204", Sort::Lies, whole(204)),
        ("resumed: break", "hangup", Sort::Breaks, Fault::HangUp),
        (
            "resumed: break",
            "cut",
            Sort::Breaks,
            Fault::CutAfter(len / 4),
        ),
        (
            "resumed: break",
            "nothing",
            Sort::Breaks,
            Fault::CutAfter(0),
        ),
        (
            "resumed: wrong digest",
            "flip",
            Sort::Lies,
            Fault::Corrupt(10),
        ),
    ] {
        all.push(Trouble {
            class,
            name: format!("resume-{name}"),
            what: What::Script(vec![cut(), second]),
            sort,
            once: true,
        });
    }
}

fn said(status: u16) -> Fault {
    let json = vec![("content-type", "application/json".to_owned())];
    match status {
        ..400 => Fault::Status(status, Vec::new(), ""),
        _ => Fault::Status(
            status,
            json,
            r#"{"errors":[{"code":"UNKNOWN","message":"no"}]}"#,
        ),
    }
}

fn both(
    class: &'static str,
    name: impl Into<String>,
    sort: Sort,
    fault: Fault,
    all: &mut Vec<Trouble>,
) {
    let name = name.into();
    all.push(Trouble {
        class,
        name: format!("{name}-once"),
        what: What::Script(vec![fault.clone()]),
        sort,
        once: true,
    });
    all.push(always(class, name, sort, fault));
}

fn always(class: &'static str, name: impl Into<String>, sort: Sort, fault: Fault) -> Trouble {
    Trouble {
        class,
        name: name.into(),
        what: What::Script(vec![fault]),
        sort,
        once: false,
    }
}
