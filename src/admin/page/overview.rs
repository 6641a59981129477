//! What it does, at a glance.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::plot::{Bar, Plot};
use super::{Admin, Rights, View, action, table, words};
use crate::admin::api::status::Health;
use crate::telemetry::history::{Bucket, Counts};

/// Over which time.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    #[serde(default)]
    span: Option<String>,
}

/// A stretch of the past, and how it is drawn.
struct Span {
    name: &'static str,
    /// Where it begins, and its middle.
    times: [&'static str; 2],
    /// What a bar of the plot stands for.
    bar: &'static str,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let asked = asked.span.as_deref().unwrap_or_default();
    let span = SPANS.iter().find(|one| one.name == asked);
    let span = span.unwrap_or(&SPANS[0]);
    let part = shown(&admin, span);
    let frame = View::Overview.frame(rights);
    frame.around_part(&headers, part, |part| {
        html! {
            div.title {
                h1 { "Overview" }
                nav.choices aria-label="Time" {
                    @for one in &SPANS {
                        a href={ "/?span=" (one.name) } aria-current=[(one.name == span.name).then_some("true")] { "Last " (one.name) }
                    }
                }
            }
            div data-renewed hx-get={ "/?span=" (span.name) } hx-trigger="every 5s" { (part) }
            section {
                h2 id="configuration" { "Configuration" }
                p.quiet { "A changed file is taken without a restart; pulls that run are not disturbed." }
                (action(rights, "/actions/reload", &[], "Read it anew", None))
            }
        }
    })
}

fn shown(admin: &Admin, span: &Span) -> Markup {
    let history = &admin.metrics.history;
    let buckets = match span.name {
        "day" => history.minutes(24 * 60),
        "month" => history.hours(30 * 24),
        _ => history.minutes(60),
    };
    let all = sum(&buckets);
    let (used, most) = admin.cache.used_of();
    let tunnels = admin.metrics.live.tunnels().len();
    html! {
        @if let Some(why) = admin.steering.refused() {
            div.banner.bad role="alert" {
                strong { "The configuration was refused; the one before is in force." } " " (why)
            }
        }
        (plots(span, &buckets, &all))
        div.cards {
            section.card {
                h2 id="disk" { "Disk" }
                p.number { (words::share(used, most)) }
                p.about { (words::bytes(used)) " of " (words::bytes(most)) " (" code { "cache.max_size" } ")" }
                (words::bar(used, most, "Disk in use"))
            }
            section.card {
                h2 id="now" { "Now" }
                p.number { a href="/live" { (words::many(admin.cache.flights_under_way() as u64, "download")) } }
                p.about { "from upstream, and " a href="/live#tunnels" { (words::many(tunnels as u64, "tunnel")) } }
            }
            section.card {
                h2 id="denied" { "Denied" }
                p.number { a href="/live#denials" { (words::count(all.denials)) } }
                p.about { "requests, by policy" }
            }
            section.card {
                h2 id="errors" { "Errors" }
                p.number.bad[all.errors > 0] { (words::count(all.errors)) }
                p.about { "of " (words::many(all.requests, "request")) }
            }
        }
        section {
            h2 id="upstreams" { "Upstreams" }
            (upstreams(admin))
        }
    }
}

fn plots(span: &Span, buckets: &[Bucket], all: &Counts) -> Markup {
    let stretches: Vec<(String, Counts)> = merged(buckets, 60);
    let bars = |parts: &dyn Fn(&Counts) -> [f64; 2], label: &dyn Fn(&Counts) -> String| {
        let bars = stretches.iter().map(|(at, counts)| Bar {
            label: format!("{at}: {}", label(counts)),
            parts: parts(counts),
        });
        bars.collect::<Vec<Bar>>()
    };
    let ratio = |counts: &Counts| counts.hit_ratio().unwrap_or(0.0);
    let most = |part: &dyn Fn(&Counts) -> u64| {
        let most = stretches.iter().map(|(_, counts)| part(counts)).max();
        most.unwrap_or(0)
    };
    let pulls = Plot {
        id: "pulls",
        title: "Pulls",
        number: words::count(all.pulls),
        about: html! { "images that clients were given" },
        most: 0.0,
        top: format!("{} a {}", words::count(most(&|c| c.pulls)), span.bar),
        times: span.times,
        bars: &bars(&|c| [c.pulls as f64, 0.0], &|c| {
            words::many(c.pulls, "pull")
        }),
    };
    let hits = Plot {
        id: "hits",
        title: "Hit ratio",
        number: words::share(all.hits, all.hits + all.misses),
        about: html! { "of manifests and blobs came from the cache" },
        most: 1.0,
        top: "100 %".to_owned(),
        times: span.times,
        bars: &bars(&|c| [ratio(c), 0.0], &|c| {
            format!("{} hits", words::share(c.hits, c.hits + c.misses))
        }),
    };
    let bytes = Plot {
        id: "bytes",
        title: "Bytes saved",
        number: words::bytes(all.cached_bytes),
        about: html! {
            span.key.above {} "from the cache, not from upstream again; "
            span.key.below {} (words::bytes(all.received_bytes)) " came from there"
        },
        most: 0.0,
        top: format!(
            "{} a {}",
            words::bytes(most(&|c| c.cached_bytes + c.received_bytes)),
            span.bar
        ),
        times: span.times,
        bars: &bars(
            &|c| [c.received_bytes as f64, c.cached_bytes as f64],
            &|c| {
                format!(
                    "{} from the cache, {} from upstream",
                    words::bytes(c.cached_bytes),
                    words::bytes(c.received_bytes)
                )
            },
        ),
    };
    html! {
        div.cards.plots { (pulls.draw()) (hits.draw()) (bytes.draw()) }
        details id="numbers" {
            summary id="numbers-title" { "The plots as a table" }
            (table("The plots as a table", html! {
                th scope="col" { "From (UTC)" } th.n scope="col" { "Pulls" } th.n scope="col" { "Hit ratio" }
                th.n scope="col" { "From the cache" } th.n scope="col" { "From upstream" } th.n scope="col" { "Denied" } th.n scope="col" { "Errors" }
            }, html! {
                @for (at, counts) in merged(buckets, 12) {
                    tr {
                        th scope="row" { (at) }
                        td.n { (words::count(counts.pulls)) }
                        td.n { (words::share(counts.hits, counts.hits + counts.misses)) }
                        td.n { (words::bytes(counts.cached_bytes)) }
                        td.n { (words::bytes(counts.received_bytes)) }
                        td.n { (words::count(counts.denials)) }
                        td.n { (words::count(counts.errors)) }
                    }
                }
            }))
        }
    }
}

/// Those that were asked at all.
fn upstreams(admin: &Admin) -> Markup {
    let registries = admin.registries().into_iter();
    let asked: Vec<_> = registries
        .filter_map(|registry| Some((registry.name, registry.health?)))
        .collect();
    html! {
        @if asked.is_empty() {
            p.quiet { "No registry was asked since the start." }
        } @else {
            (table("Upstreams", html! {
                th scope="col" { "Registry" } th scope="col" { "State" } th.n scope="col" { "Requests, 5 min" }
                th.n scope="col" { "Failed" } th.n scope="col" { "Median" } th scope="col" { "Pulls left" }
            }, html! {
                @for (name, health) in &asked {
                    tr {
                        th scope="row" { (name) }
                        td { (state(health)) }
                        td.n { (words::count(health.requests)) }
                        td.n { (words::count(health.failures)) }
                        td.n { @match health.median_ms { Some(ms) => { (ms) " ms" }, None => "–" } }
                        td.tight { (left(health)) }
                    }
                }
            }))
        }
    }
}

/// Whether a registry answers.
pub fn state(health: &Health) -> Markup {
    let good = health.last_success;
    let bad = health
        .last_failure
        .filter(|bad| good.is_none_or(|good| good <= *bad));
    html! {
        @match (good, bad) {
            (_, Some(bad)) => {
                span.bad { "failed " (words::ago(bad)) }
                @if let Some(why) = &health.last_error { br; small { (why) } }
            }
            (Some(good), None) => span.good { "answered " (words::ago(good)) },
            (None, None) => span.quiet { "not asked yet" },
        }
    }
}

/// What a registry says of its rate limit.
pub fn left(health: &Health) -> Markup {
    html! {
        @match (health.rate_limit_remaining, health.rate_limit) {
            (Some(left), Some(of)) => {
                (words::bar(left.max(0).unsigned_abs(), of.max(0).unsigned_abs(), "Pulls left")) " "
                span.bad[left * 10 < of] { (left) " of " (of) }
            }
            (Some(left), None) => (left),
            _ => span.quiet { "no limit said" },
        }
    }
}

fn sum(buckets: &[Bucket]) -> Counts {
    let mut all = Counts::default();
    for bucket in buckets {
        all += bucket.counts;
    }
    all
}

/// At most `most` stretches, each with when it begins. Only as long ones can be compared: the first may
/// begin before the span.
fn merged(buckets: &[Bucket], most: usize) -> Vec<(String, Counts)> {
    let together = buckets.len().div_ceil(most).max(1);
    let mut stretches: Vec<(String, Counts)> = buckets
        .rchunks(together)
        .filter_map(|chunk| Some((words::minute(chunk.first()?.start), sum(chunk))))
        .collect();
    stretches.reverse();
    stretches
}

const SPANS: [Span; 3] = [
    Span {
        name: "hour",
        times: ["60 min ago", "30 min"],
        bar: "minute",
    },
    Span {
        name: "day",
        times: ["24 h ago", "12 h"],
        bar: "24 min",
    },
    Span {
        name: "month",
        times: ["30 d ago", "15 d"],
        bar: "12 h",
    },
];
