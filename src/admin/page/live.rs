//! What goes on now: downloads, pulls, tunnels; and what was denied.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::{Admin, View, part_or_page, words};
use crate::admin::api::live::{Denial, Download, Tunnel};
use crate::warm::{Job, JobState};

pub async fn view(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let part = html! {
        section aria-labelledby="downloads" { h2 id="downloads" { "Downloads" } (downloads(&admin.downloads())) }
        section aria-labelledby="pulls" { h2 id="pulls" { "Pulls asked for here" } (pulls(&admin.warm.jobs())) }
        section aria-labelledby="tunnels" { h2 id="tunnels" { "Tunnels" } (tunnels(&admin.tunnels())) }
    };
    let denied = denials(&admin.denials());
    part_or_page(&headers, View::Live, part, |part| {
        html! {
            h1 { "Live" }
            div hx-get="/live" hx-trigger="every 2s" { (part) }
            section aria-labelledby="denials" { h2 id="denials" { "Denied lately" } (denied) }
        }
    })
}

fn downloads(downloads: &[Download]) -> Markup {
    html! {
        @if downloads.is_empty() { p.quiet { "Nothing is being downloaded." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Downloads" { table {
                thead { tr { th scope="col" { "From" } th scope="col" { "Blob" } th scope="col" { "Progress" } th.n scope="col" { "Speed" } th.n scope="col" { "Followers" } } }
                tbody { @for one in downloads {
                    tr {
                        th scope="row" { (one.registry) "/" (one.repository) }
                        td { (words::digest(&one.digest)) }
                        td {
                            @match one.total {
                                Some(total) => { (words::bar(one.done, total, "downloaded")) " " (words::bytes(one.done)) " of " (words::bytes(total)) },
                                None => (words::bytes(one.done)),
                            }
                        }
                        td.n { (words::bytes(one.speed)) "/s" }
                        td.n { (one.followers) }
                    }
                } }
            } }
        }
    }
}

fn pulls(jobs: &[Job]) -> Markup {
    html! {
        @if jobs.is_empty() { p.quiet { "None. " a href="/images#pull" { "Pull one" } } } @else {
            div.scroll tabindex="0" role="region" aria-label="Pulls" { table {
                thead { tr { th scope="col" { "Image" } th scope="col" { "State" } th scope="col" { "Progress" } th scope="col" { "Began" } } }
                tbody { @for job in jobs.iter().take(20) {
                    tr {
                        th scope="row" { (job.image) }
                        td {
                            @match &job.state {
                                JobState::Waiting => "waits",
                                JobState::Running => "runs",
                                JobState::Done(_) => span.good { "done" },
                                JobState::Failed(why) => { span.bad { "failed" } " " small { (why) } },
                            }
                        }
                        td { (words::bar(job.progress.done, job.progress.total, "pulled")) " " (words::bytes(job.progress.done)) " of " (words::bytes(job.progress.total)) }
                        td { (words::ago(job.asked)) }
                    }
                } }
            } }
        }
    }
}

fn tunnels(tunnels: &[Tunnel]) -> Markup {
    html! {
        @if tunnels.is_empty() { p.quiet { "No tunnel is open." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Tunnels" { table {
                thead { tr { th scope="col" { "To" } th scope="col" { "Client" } th scope="col" { "Since" } th.n scope="col" { "Up" } th.n scope="col" { "Down" } } }
                tbody { @for one in tunnels.iter().take(200) {
                    tr {
                        th scope="row" { (one.host) }
                        td { (one.client) @if let Some(user) = &one.user { " (" (user) ")" } }
                        td { (words::ago(one.since)) }
                        td.n { (words::bytes(one.up)) }
                        td.n { (words::bytes(one.down)) }
                    }
                } }
            } }
            @if tunnels.len() > 200 { p.quiet { "and " (tunnels.len() - 200) " more" } }
        }
    }
}

fn denials(denials: &[Denial]) -> Markup {
    html! {
        @if denials.is_empty() { p.quiet { "Nothing was denied since the start." } } @else {
            ul.denials { @for one in denials {
                li {
                    p {
                        strong { (one.host) @if !one.repository.is_empty() { "/" (one.repository) } }
                        " for " (one.client) @if let Some(user) = &one.user { " (" (user) ")" }
                        ", " (words::ago(one.last)) @if one.times > 1 { ", " (words::count(one.times)) " times" }
                        br; span.quiet { (one.reason) " (" code { (one.rule) } ")" }
                    }
                    @if !one.mend.is_empty() {
                        details { summary { "What would allow it" } pre tabindex="0" { (one.mend) } }
                    }
                }
            } }
        }
    }
}
