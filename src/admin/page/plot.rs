//! A plot of bytes over time, as one inline drawing.

use maud::{Markup, html};

use super::words;

/// One bar: what the cache gave, and what came from upstream.
pub struct Bar {
    /// What the reader is told of it.
    pub label: String,
    pub saved: u64,
    pub received: u64,
}

/// Bars side by side; each is the two parts, one upon the other.
pub fn bars(title: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.saved + bar.received).max();
    let most = most.unwrap_or(0).max(1);
    let step = WIDTH / bars.len().max(1) as f64;
    let high = |n: u64| n as f64 / most as f64 * HEIGHT;
    let sum = |part: fn(&Bar) -> u64| bars.iter().map(part).sum::<u64>();
    let (saved, received) = (sum(|bar| bar.saved), sum(|bar| bar.received));
    let told = format!(
        "{title}: {} from the cache, {} from upstream",
        words::bytes(saved),
        words::bytes(received)
    );
    html! {
        figure.plot {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + 2.0) } role="img" aria-label=(told) preserveAspectRatio="none" {
                @for (at, bar) in bars.iter().enumerate() {
                    @let x = at as f64 * step;
                    @let up = high(bar.received);
                    @let down = high(bar.saved);
                    g {
                        title { (bar.label) }
                        @if bar.received > 0 {
                            rect.received x=(round(x)) y=(round(HEIGHT - up)) width=(round(step * 0.85)) height=(round(up)) {}
                        }
                        @if bar.saved > 0 {
                            rect.saved x=(round(x)) y=(round(HEIGHT - up - down)) width=(round(step * 0.85)) height=(round(down)) {}
                        }
                    }
                }
                line.axis x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
            }
            figcaption {
                span.key.saved {} "from the cache: " strong { (words::bytes(saved)) } " "
                span.key.received {} "from upstream: " strong { (words::bytes(received)) }
                span.most { "highest bar: " (words::bytes(most)) }
            }
        }
    }
}

/// Tenths are finer than any screen.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;
