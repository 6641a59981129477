//! What goes on now: downloads, pulls, tunnels; and what was denied.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Admin, Rights, Said, View, table, words};
use crate::admin::api::live::{Denial, Download, Tunnel};
use crate::warm::{Job, JobState};

/// What came before.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    said: Option<Said>,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let now = admin.now();
    let (down, tunnelled, denied) = (now.downloads.len(), now.tunnels.len(), now.denials.len());
    let part = html! {
        (section("downloads", "Downloads", down, downloads(&now.downloads)))
        (section("pulls", "Pulls asked for here", admin.warm.jobs().len(), pulls(&admin.warm.jobs())))
        (section("tunnels", "Tunnels", tunnelled, tunnels(&now.tunnels)))
        (section("denials", "Denied lately", denied, denials(&now.denials)))
    };
    let mut frame = View::Live.frame(rights);
    frame.said = asked.said;
    frame.around_part(&headers, part, |part| {
        html! {
            div.title { h1 { "Live" } noscript { p.quiet { "Without JavaScript this view stands still. " a href="/live" { "Look again" } } } }
            div data-renewed data-events="/api/v1/events" hx-get="/live" hx-trigger="live, every 15s" { (part) }
        }
    })
}

fn section(id: &str, title: &str, n: usize, body: Markup) -> Markup {
    html! {
        section {
            h2 id=(id) { (title) @if n > 0 { " " span.count { (n) } } }
            (body)
        }
    }
}

fn downloads(downloads: &[Download]) -> Markup {
    html! {
        @if downloads.is_empty() { p.empty { "Nothing is being downloaded." } } @else {
            (table("Downloads", html! {
                th scope="col" { "From" } th scope="col" { "Blob" } th scope="col" { "Progress" } th.n scope="col" { "Speed" } th.n scope="col" { "Left" } th.n scope="col" { "Clients" }
            }, html! {
                @for one in downloads {
                    tr {
                        th scope="row" { (one.registry) "/" (one.repository) }
                        td { (words::digest(&one.digest)) }
                        td {
                            @match one.total {
                                Some(total) => { (words::bar(one.done, total, "Downloaded")) " " (words::bytes(one.done)) " of " (words::bytes(total)) },
                                None => (words::bytes(one.done)),
                            }
                        }
                        td.n { (words::bytes(one.speed)) "/s" }
                        td.n { (left(one)) }
                        td.n { (one.followers) }
                    }
                }
            }))
        }
    }
}

/// How long it will take if it goes on like this.
fn left(download: &Download) -> String {
    let to_come = download
        .total
        .map(|total| total.saturating_sub(download.done));
    match to_come.and_then(|bytes| bytes.checked_div(download.speed)) {
        Some(seconds) => words::lasting(std::time::Duration::from_secs(seconds)),
        None => "–".to_owned(),
    }
}

fn pulls(jobs: &[Job]) -> Markup {
    html! {
        @if jobs.is_empty() { p.empty { "None since the start. " a href="/images#pull" { "Pull one" } } } @else {
            (table("Pulls", html! {
                th scope="col" { "Image" } th scope="col" { "State" } th scope="col" { "Progress" } th scope="col" { "Began" }
            }, html! {
                @for job in jobs.iter().take(20) {
                    tr {
                        th scope="row" {
                            @let name = job.image.to_string();
                            @match &job.state {
                                JobState::Done(_) => a href={ "/image?name=" (super::encoded(&name)) } { (name) },
                                _ => (name),
                            }
                        }
                        td {
                            @match &job.state {
                                JobState::Waiting => "waits",
                                JobState::Running => "runs",
                                JobState::Done(_) => span.good { "done" },
                                JobState::Failed(why) => { span.bad { "failed" } br; small { (why) } },
                            }
                        }
                        td {
                            @if job.progress.total > 0 {
                                (words::bar(job.progress.done, job.progress.total, "Pulled")) " " (words::bytes(job.progress.done)) " of " (words::bytes(job.progress.total))
                            } @else { "–" }
                        }
                        td { (words::ago(job.asked)) }
                    }
                }
            }))
        }
    }
}

fn tunnels(tunnels: &[Tunnel]) -> Markup {
    html! {
        @if tunnels.is_empty() { p.empty { "No tunnel is open." } } @else {
            (table("Tunnels", html! {
                th scope="col" { "To" } th scope="col" { "Client" } th scope="col" { "Open since" } th.n scope="col" { "Up" } th.n scope="col" { "Down" }
            }, html! {
                @for one in tunnels.iter().take(MOST_TUNNELS) {
                    tr {
                        th scope="row" { (one.host) }
                        td { (one.client) @if let Some(user) = &one.user { " (" (user) ")" } }
                        td { (words::ago(one.since)) }
                        td.n { (words::bytes(one.up)) }
                        td.n { (words::bytes(one.down)) }
                    }
                }
            }))
            @if tunnels.len() > MOST_TUNNELS { p.quiet { "and " (tunnels.len() - MOST_TUNNELS) " more" } }
        }
    }
}

fn denials(denials: &[Denial]) -> Markup {
    html! {
        @if denials.is_empty() { p.empty { "Nothing was denied since the start." } } @else {
            ul.denials { @for one in denials {
                @let id = format!("denial-{:016x}", name(one));
                li {
                    p {
                        strong { (one.host) @if !one.repository.is_empty() { "/" (one.repository) } }
                        " for " (one.client) @if let Some(user) = &one.user { " (" (user) ")" }
                        ", " (words::ago(one.last)) @if one.times > 1 { ", " (words::count(one.times)) " times" }
                    }
                    p.quiet { (one.reason) " (rule " code { (one.rule) } ")" }
                    @if !one.mend.is_empty() {
                        details id=(id) {
                            summary.button id={ (id) "-title" } { "What would allow it" span.hidden { " (" (one.host) ")" } }
                            pre tabindex="0" { (one.mend) }
                        }
                    }
                }
            } }
        }
    }
}

/// The same for the same denial, so that one that is open stays so.
fn name(denial: &Denial) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&denial.client, &denial.user, &denial.method).hash(&mut hasher);
    (&denial.host, &denial.repository, &denial.rule).hash(&mut hasher);
    hasher.finish()
}

const MOST_TUNNELS: usize = 200;
