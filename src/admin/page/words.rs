//! Numbers and times as people read them.

use maud::{Markup, html};

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

/// `87 %`; a dash before there is anything to divide.
pub fn share(of: u64, all: u64) -> String {
    match all {
        0 => "–".to_owned(),
        _ => format!("{:.0} %", of as f64 / all as f64 * 100.0),
    }
}

/// How long ago, in its largest unit, with the exact time for who looks closer.
pub fn ago(at: u64) -> Markup {
    if at == 0 {
        return html! { "never" };
    }
    let exact = humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(at),
    )
    .to_string();
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
        assert_eq!(share(1, 0), "–");
        assert_eq!(share(7, 8), "88 %");
    }
}
