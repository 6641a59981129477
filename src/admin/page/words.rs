//! Numbers and times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maud::{Markup, html};

use crate::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value >= 100.0 => format!("{value:.0} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 pull`, `12,345 pulls`.
pub fn many(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", count(n)),
    }
}

/// `87 %`; a dash before there is anything to divide.
pub fn share(of: u64, all: u64) -> String {
    match all {
        0 => "–".to_owned(),
        _ => format!("{:.0} %", of as f64 / all as f64 * 100.0),
    }
}

/// A time as a table of the last hours or days has it, in UTC.
pub fn minute(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    match (text.get(5..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

/// How long something lasts, in its largest unit.
pub fn lasting(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// A time as it is written in a configuration.
pub fn built(written: &str) -> Markup {
    let time = humantime::parse_rfc3339_weak(written).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    match since {
        // Reproducible builds say 1970, which is no time.
        Some(since) if since.as_secs() > 0 => ago(since.as_secs()),
        _ => html! { (written) },
    }
}

/// A manifest's media type in a word.
pub fn kind(media_type: &str) -> &'static str {
    match media_type {
        OCI_INDEX | DOCKER_LIST => "Index of platforms",
        OCI_MANIFEST | DOCKER_MANIFEST => "Image",
        _ => "Manifest",
    }
}

/// A step of a build without what every one begins with.
pub fn step(made_by: &str) -> String {
    let text = made_by.trim();
    let text = text.strip_prefix("/bin/sh -c #(nop)").unwrap_or(text);
    let text = text.strip_prefix("/bin/sh -c ").unwrap_or(text);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LONGEST_STEP) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// How long ago, in its largest unit, with the exact time for who looks closer.
pub fn ago(at: u64) -> Markup {
    if at == 0 {
        return html! { "never" };
    }
    let exact = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at)).to_string();
    let text = match super::super::now().saturating_sub(at) {
        s @ 0..=59 => format!("{s} s ago"),
        s @ 60..=3_599 => format!("{} min ago", s / 60),
        s @ 3_600..=86_399 => format!("{} h ago", s / 3_600),
        s => format!("{} d ago", s / 86_400),
    };
    html! { time datetime=(exact) title=(exact) { (text) } }
}

/// A digest that fits a line; the whole for who looks closer.
pub fn digest(digest: &str) -> Markup {
    let short = match digest.split_once(':') {
        Some((_, hex)) if hex.len() > 12 => &hex[..12],
        _ => digest,
    };
    html! { code title=(digest) { (short) } }
}

/// A bar of how much there is.
pub fn bar(done: u64, of: u64, label: &str) -> Markup {
    html! {
        progress value=(done) max=(of.max(1)) aria-label=(label) { (share(done, of)) }
    }
}

/// Characters.
const LONGEST_STEP: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(150 << 30), "150 GiB");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(many(1, "pull"), "1 pull");
        assert_eq!(many(2000, "pull"), "2,000 pulls");
        assert_eq!(share(1, 0), "–");
        assert_eq!(share(7, 8), "88 %");
        assert_eq!(lasting(Duration::from_secs(90)), "90 s");
        assert_eq!(lasting(Duration::from_secs(7_300)), "2 h");
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(minute(at), "11-14 22:13");
    }

    #[test]
    fn a_step_is_what_was_written_into_the_file() {
        assert_eq!(
            step("/bin/sh -c #(nop) ADD file:1 in / "),
            "ADD file:1 in /"
        );
        assert_eq!(step("/bin/sh -c apk add  curl"), "apk add curl");
        assert_eq!(step(&"ü".repeat(200)).chars().count(), LONGEST_STEP + 1);
    }
}
