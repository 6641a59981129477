//! A plot over time, as one inline drawing with its number above it.

use maud::{Markup, html};

/// One stretch of time.
pub struct Bar {
    /// What the reader is told of it.
    pub label: String,
    /// What stands upon the line, and what stands upon that.
    pub parts: [f64; 2],
}

/// A number, and how it came to be.
pub struct Plot<'a> {
    pub id: &'a str,
    pub title: &'a str,
    pub number: String,
    /// What the number means, in few words.
    pub about: Markup,
    /// Of the highest bar that there can be; zero: of the highest that there is.
    pub most: f64,
    /// What `most` is, as people write it.
    pub top: String,
    /// When the plot begins, and its middle.
    pub times: [&'a str; 2],
    pub bars: &'a [Bar],
}

// === impl Plot ===

impl Plot<'_> {
    pub fn draw(&self) -> Markup {
        let highest = self.bars.iter().map(|bar| bar.parts[0] + bar.parts[1]);
        let most = match self.most > 0.0 {
            true => self.most,
            false => highest.fold(0.0, f64::max).max(f64::MIN_POSITIVE),
        };
        let step = WIDTH / self.bars.len().max(1) as f64;
        let high = |n: f64| match n > 0.0 {
            // What there is can be seen.
            true => (n / most * HEIGHT).max(1.5),
            false => 0.0,
        };
        html! {
            section.card.plot id={ (self.id) "-plot" } {
                h2 id=(self.id) { (self.title) }
                p.number { (self.number) }
                p.about { (self.about) }
                div.drawing {
                    span.top aria-hidden="true" { (self.top) }
                    svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (self.title) " over time; the table below has the numbers" } preserveAspectRatio="none" {
                        @for (at, bar) in self.bars.iter().enumerate() {
                            @let x = at as f64 * step;
                            @let below = high(bar.parts[0]);
                            @let above = high(bar.parts[1]);
                            g {
                                title { (bar.label) }
                                // The whole stretch shows its label.
                                rect.stretch x=(round(x)) y="0" width=(round(step)) height=(HEIGHT) {}
                                @if below > 0.0 {
                                    rect.below x=(round(x)) y=(round(HEIGHT - below)) width=(round(step * GAP)) height=(round(below)) {}
                                }
                                @if above > 0.0 {
                                    rect.above x=(round(x)) y=(round((HEIGHT - below - above).max(0.0))) width=(round(step * GAP)) height=(round(above)) {}
                                }
                            }
                        }
                    }
                }
                p.times aria-hidden="true" { span { (self.times[0]) } span { (self.times[1]) } span { "now" } }
            }
        }
    }
}

/// Tenths are finer than any screen.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;
/// How much of its stretch a bar takes.
const GAP: f64 = 0.8;
