//! What it does, at a glance.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::plot::{self, Bar};
use super::{Admin, Rights, View, action, part_or_page, words};
use crate::telemetry::history::Bucket;

/// Over which time.
#[derive(Debug, Default, Deserialize)]
pub struct Span {
    #[serde(default)]
    span: Option<String>,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Span>,
    headers: HeaderMap,
) -> Response {
    let spans = ["hour", "day", "month"];
    let span = asked.span.as_deref().unwrap_or("hour");
    let span = spans.into_iter().find(|one| *one == span).unwrap_or("hour");
    let part = shown(&admin, span);
    part_or_page(&headers, View::Overview, part, |part| {
        html! {
            h1 { "Overview" }
            nav.spans aria-label="Time" {
                @for one in spans {
                    a href={ "/?span=" (one) } aria-current=[(one == span).then_some("true")] { "last " (one) }
                }
            }
            div hx-get={ "/?span=" (span) } hx-trigger="every 5s" { (part) }
            (action(rights, "/actions/reload", &[("back", "/")], "Read the configuration anew", None))
        }
    })
}

fn shown(admin: &Admin, span: &str) -> Markup {
    let buckets = match span {
        "day" => admin.metrics.history.hours(24),
        "month" => admin.metrics.history.hours(720),
        _ => admin.metrics.history.minutes(60),
    };
    let sum = |part: fn(&Bucket) -> u64| buckets.iter().map(part).sum::<u64>();
    let requests = sum(|b| b.counts.requests);
    let hits = sum(|b| b.counts.hits);
    let misses = sum(|b| b.counts.misses);
    let denials = sum(|b| b.counts.denials);
    let errors = sum(|b| b.counts.errors);
    let cached = sum(|b| b.counts.cached_bytes);
    let received = sum(|b| b.counts.received_bytes);
    let (used, most) = admin.cache.used_of();
    let bars: Vec<Bar> = merged(&buckets);
    html! {
        dl.tiles {
            div { dt { "Requests" } dd { (words::count(requests)) } }
            div { dt { "Answered by the cache" } dd { (words::share(hits, hits + misses)) } }
            div { dt { "Bytes saved" } dd { (words::bytes(cached.saturating_sub(received))) } }
            div { dt { "Downloads now" } dd { a href="/live" { (admin.cache.flights_under_way()) } } }
            div { dt { "Denied" } dd { a href="/live#denials" { (words::count(denials)) } } }
            div.bad[errors > 0] { dt { "Errors" } dd { (words::count(errors)) } }
        }
        (plot::bars(&format!("Bytes, last {span}"), &bars))
        section aria-labelledby="disk" {
            h2 id="disk" { "Disk" }
            p { (words::bytes(used)) " of " (words::bytes(most)) " (" code { "cache.max_size" } ")" }
            (words::bar(used, most, "disk use"))
        }
        section aria-labelledby="upstreams" {
            h2 id="upstreams" { "Upstreams" }
            (upstreams(admin))
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
            div.scroll tabindex="0" role="region" aria-label="Upstreams" { table {
                thead { tr { th scope="col" { "Registry" } th scope="col" { "State" } th.n scope="col" { "Requests, 5 min" } th.n scope="col" { "Failed" } th.n scope="col" { "Median" } th.n scope="col" { "Pulls left" } } }
                tbody {
                    @for (name, health) in &asked {
                        @let well = health.last_failure.is_none_or(|bad| health.last_success.is_some_and(|good| good > bad));
                        tr {
                            th scope="row" { (name) }
                            td {
                                @if well { span.good { "answers" } } @else {
                                    span.bad { "fails" } " "
                                    @if let Some(why) = &health.last_error { small { (why) } }
                                }
                            }
                            td.n { (words::count(health.requests)) }
                            td.n { (words::count(health.failures)) }
                            td.n { @match health.median_ms { Some(ms) => { (ms) " ms" }, None => "–" } }
                            td.n {
                                @match (health.rate_limit_remaining, health.rate_limit) {
                                    (Some(left), Some(of)) => { (left) " of " (of) },
                                    (Some(left), None) => (left),
                                    _ => "–",
                                }
                            }
                        }
                    }
                }
            } }
        }
    }
}

/// At most sixty bars: more would be thinner than a line.
fn merged(buckets: &[Bucket]) -> Vec<Bar> {
    let together = buckets.len().div_ceil(60).max(1);
    let bars = buckets.chunks(together).map(|chunk| {
        let sum = |part: fn(&Bucket) -> u64| chunk.iter().map(part).sum::<u64>();
        let cached = sum(|b| b.counts.cached_bytes);
        let received = sum(|b| b.counts.received_bytes);
        let start = chunk.first().map_or(UNIX_EPOCH, |bucket| bucket.start);
        Bar {
            label: format!(
                "{}: {} from the cache, {} from upstream",
                humantime::format_rfc3339_seconds(start),
                words::bytes(cached),
                words::bytes(received)
            ),
            saved: cached,
            received,
        }
    });
    bars.collect()
}
