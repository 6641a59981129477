//! `Range` and `Content-Range` in bytes (RFC 9110, sections 14.1 to 14.4).

use std::fmt;

/// The one range of a `Range` header, not yet held against a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=START-`: everything from an offset on.
    From {
        /// The offset of the first byte.
        start: u64,
    },
    /// `bytes=START-END`, where `start` is not beyond `end`.
    Span {
        /// The offset of the first byte.
        start: u64,
        /// The offset of the last byte, inclusive.
        end: u64,
    },
    /// `bytes=-COUNT`: the last bytes.
    Suffix {
        /// How many.
        count: u64,
    },
}

/// What a client wants of a representation of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, with status 200.
    Full,
    /// A part, with status 206. `start <= end`, and `end` is less than the length.
    Partial {
        /// The offset of the first byte.
        start: u64,
        /// The offset of the last byte, inclusive.
        end: u64,
    },
    /// Nothing that exists: status 416.
    Unsatisfiable,
}

/// A `Content-Range` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes START-END/TOTAL`, of a 206. `start <= end`, and `end` is less than the total.
    Part {
        /// The offset of the first byte.
        start: u64,
        /// The offset of the last byte, inclusive.
        end: u64,
        /// The complete length in bytes; `None` is written `*`.
        total: Option<u64>,
    },
    /// `bytes */TOTAL`, of a 416.
    Unsatisfied {
        /// The complete length in bytes.
        total: u64,
    },
}

// === impl ByteRange ===

impl ByteRange {
    /// The range of a `Range` header; `None` where there is no single well-formed byte range. A
    /// server may answer such a header as if it were not there (RFC 9110 section 14.2).
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // A list may have empty elements (section 5.6.1).
        let mut ranges = set.split(',').map(trim).filter(|range| !range.is_empty());
        let range = ranges.next()?;
        if ranges.next().is_some() {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        match (start, end) {
            ("", count) => Some(Self::Suffix {
                count: number(count)?,
            }),
            (start, "") => Some(Self::From {
                start: number(start)?,
            }),
            (start, end) => {
                let (start, end) = (number(start)?, number(end)?);
                (start <= end).then_some(Self::Span { start, end })
            }
        }
    }

    /// What the range comes to in a representation of `len` bytes.
    pub fn against(self, len: u64) -> Wanted {
        // No byte has an offset in an empty representation, but its suffix of any length is all
        // of it, which no `Content-Range` can express.
        let Some(last) = len.checked_sub(1) else {
            return match self {
                Self::Suffix { count } if count > 0 => Wanted::Full,
                _ => Wanted::Unsatisfiable,
            };
        };
        match self {
            Self::From { start } | Self::Span { start, .. } if start > last => {
                Wanted::Unsatisfiable
            }
            Self::From { start } => Wanted::Partial { start, end: last },
            Self::Span { start, end } => Wanted::Partial {
                start,
                end: end.min(last),
            },
            Self::Suffix { count: 0 } => Wanted::Unsatisfiable,
            Self::Suffix { count } => Wanted::Partial {
                start: len.saturating_sub(count),
                end: last,
            },
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { start } => write!(f, "bytes={start}-"),
            Self::Span { start, end } => write!(f, "bytes={start}-{end}"),
            Self::Suffix { count } => write!(f, "bytes=-{count}"),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    /// What a request with this `Range` header wants of `len` bytes. Several ranges, other units
    /// and syntax errors want all of it.
    pub fn parse(header: Option<&str>, len: u64) -> Self {
        header
            .and_then(ByteRange::parse)
            .map_or(Self::Full, |range| range.against(len))
    }

    /// How many bytes the body has, of a representation of `len` bytes.
    pub fn length(self, len: u64) -> u64 {
        match self {
            Self::Full => len,
            // `end` is less than a length, so one more does not overflow.
            Self::Partial { start, end } => end - start + 1,
            Self::Unsatisfiable => 0,
        }
    }

    /// The `Content-Range` that goes with the response, of a representation of `len` bytes.
    pub fn content_range(self, len: u64) -> Option<ContentRange> {
        match self {
            Self::Full => None,
            Self::Partial { start, end } => Some(ContentRange::Part {
                start,
                end,
                total: Some(len),
            }),
            Self::Unsatisfiable => Some(ContentRange::Unsatisfied { total: len }),
        }
    }
}

// === impl ContentRange ===

impl ContentRange {
    /// The range that a `Content-Range` header states; `None` where it is malformed, of another
    /// unit, or contradicts itself (section 14.4 forbids to use such a part).
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, rest) = trim(header).split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = trim(rest).split_once('/')?;
        if range == "*" {
            return Some(Self::Unsatisfied {
                total: exact(total)?,
            });
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (exact(start)?, exact(end)?);
        let total = match total {
            "*" => None,
            total => Some(exact(total)?),
        };
        let sound = start <= end && total.is_none_or(|total| end < total);
        sound.then_some(Self::Part { start, end, total })
    }

    /// The complete length in bytes, where it is stated.
    pub fn total(self) -> Option<u64> {
        match self {
            Self::Part { total, .. } => total,
            Self::Unsatisfied { total } => Some(total),
        }
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part {
                start,
                end,
                total: Some(total),
            } => write!(f, "bytes {start}-{end}/{total}"),
            Self::Part {
                start,
                end,
                total: None,
            } => write!(f, "bytes {start}-{end}/*"),
            Self::Unsatisfied { total } => write!(f, "bytes */{total}"),
        }
    }
}

/// The digits of a request; more than fit mean an offset beyond any representation.
fn number(text: &str) -> Option<u64> {
    is_number(text).then(|| text.parse().unwrap_or(u64::MAX))
}

/// The digits of a response; more than fit mean nothing that can be trusted.
fn exact(text: &str) -> Option<u64> {
    // `parse` alone would let a plus sign pass. The largest number is left out so that offsets
    // may be counted up by one.
    is_number(text)
        .then(|| text.parse().ok())?
        .filter(|number| *number < u64::MAX)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Without the optional white space of section 5.6.3.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(start: u64, end: u64) -> Wanted {
        Wanted::Partial { start, end }
    }

    #[test]
    fn no_header_wants_everything() {
        assert_eq!(Wanted::parse(None, 100), Wanted::Full);
    }

    #[test]
    fn one_range_wants_that_part() {
        for (header, wanted) in [
            ("bytes=0-9", part(0, 9)),
            ("bytes=10-", part(10, 99)),
            ("bytes=99-99", part(99, 99)),
            ("bytes=0-99", part(0, 99)),
            ("bytes=50-5000", part(50, 99)),
            ("bytes=-1", part(99, 99)),
            ("bytes=-5000", part(0, 99)),
            ("Bytes=0-9", part(0, 9)),
            ("bytes= 0-9 ,", part(0, 9)),
            ("bytes=5-99999999999999999999999", part(5, 99)),
        ] {
            assert_eq!(Wanted::parse(Some(header), 100), wanted, "{header}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_cannot_be_satisfied() {
        for header in [
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            let wanted = Wanted::parse(Some(header), 100);
            assert_eq!(wanted, Wanted::Unsatisfiable, "{header}");
        }
        let refusal = Wanted::Unsatisfiable.content_range(100).unwrap();
        assert_eq!(refusal.to_string(), "bytes */100");
    }

    #[test]
    fn what_cannot_be_read_wants_everything() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=9-0",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "bytes=1",
            "lines=0-9",
            "bytes=0x1-2",
            "bytes=--1",
            "bytes=1-2-3",
            "bytes=1 - 2",
            "0-9",
            "bytes=١-٢",
        ] {
            assert_eq!(Wanted::parse(Some(header), 100), Wanted::Full, "{header}");
        }
    }

    #[test]
    fn an_empty_representation_has_no_ranges() {
        assert_eq!(Wanted::parse(Some("bytes=0-0"), 0), Wanted::Unsatisfiable);
        assert_eq!(Wanted::parse(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(Wanted::parse(Some("bytes=-5"), 0), Wanted::Full);
    }

    #[test]
    fn a_content_range_is_read_and_written() {
        for header in [
            "bytes 0-9/100",
            "bytes 5-5/6",
            "bytes 0-9/*",
            "bytes */100",
            "bytes */0",
        ] {
            let range = ContentRange::parse(header).unwrap();
            assert_eq!(range.to_string(), header);
        }
        assert_eq!(
            ContentRange::parse("bytes 0-9/100").unwrap().total(),
            Some(100)
        );
        assert_eq!(ContentRange::parse("bytes 0-9/*").unwrap().total(), None);
    }

    #[test]
    fn a_content_range_that_contradicts_itself_is_refused() {
        for header in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-9",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes */*",
            "bytes=0-9/10",
            "items 0-9/10",
            "bytes 0-/10",
            "bytes -9/10",
            "bytes +0-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-18446744073709551616/*",
        ] {
            assert_eq!(ContentRange::parse(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*", tail in "[0-9,*/ -]*", len: u64) {
            let _ = ContentRange::parse(&text);
            let _ = ContentRange::parse(&format!("bytes {tail}"));
            let _ = Wanted::parse(Some(&text), len).length(len);
            let _ = Wanted::parse(Some(&format!("bytes={tail}")), len).length(len);
        }

        #[test]
        fn a_part_lies_within_the_representation(a: u64, b: u64, len: u64, kind in 0..3) {
            let range = match kind {
                0 => ByteRange::From { start: a },
                1 => ByteRange::Span { start: a.min(b), end: a.max(b) },
                _ => ByteRange::Suffix { count: a },
            };
            prop_assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
            let wanted = range.against(len);
            if let Wanted::Partial { start, end } = wanted {
                prop_assert!(start <= end && end < len);
                let content = wanted.content_range(len).unwrap();
                if len < u64::MAX {
                    prop_assert_eq!(ContentRange::parse(&content.to_string()), Some(content));
                }
            }
            prop_assert!(wanted.length(len) <= len);
        }
    }
}
