//! What the page's buttons do; then back to the page.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use super::{Admin, Failed, Frame, Said, back};
use crate::admin::api::Problem;
use crate::admin::api::pulls::Wanted;

#[derive(Debug, Deserialize)]
pub struct Pin {
    name: String,
    pinned: bool,
    back: String,
}

#[derive(Debug, Deserialize)]
pub struct Remove {
    name: String,
    back: String,
}

#[derive(Debug, Deserialize)]
pub struct Pull {
    image: String,
    #[serde(default)]
    platform: String,
    #[serde(default)]
    refresh: bool,
    back: String,
}

#[derive(Debug, Deserialize)]
pub struct Switch {
    registry: String,
    enabled: bool,
    back: String,
}

pub async fn pin(
    State(admin): State<Arc<Admin>>,
    Form(form): Form<Pin>,
) -> Result<Response, Failed> {
    admin.pin(&form.name, form.pinned).await?;
    let said = if form.pinned {
        Said::Pinned
    } else {
        Said::Unpinned
    };
    Ok(back(&form.back, said))
}

pub async fn remove(
    State(admin): State<Arc<Admin>>,
    Form(form): Form<Remove>,
) -> Result<Response, Failed> {
    admin.remove(&form.name).await?;
    Ok(back(&form.back, Said::Removed))
}

pub async fn pull(
    State(admin): State<Arc<Admin>>,
    Form(form): Form<Pull>,
) -> Result<Response, Failed> {
    let platforms = form.platform.split([',', ' ']);
    let platforms = platforms.filter(|one| !one.is_empty());
    admin.start_pull(&Wanted {
        image: form.image,
        platforms: platforms.map(str::to_owned).collect(),
        refresh: form.refresh,
        referrers: false,
    })?;
    Ok(back(&form.back, Said::Pulling))
}

pub async fn switch(
    State(admin): State<Arc<Admin>>,
    Form(form): Form<Switch>,
) -> Result<Response, Failed> {
    let switched = admin.steering.switch(form.registry, form.enabled).await;
    switched.map_err(Problem::not_found)?;
    let said = if form.enabled { Said::On } else { Said::Off };
    Ok(back(&form.back, said))
}

pub async fn reload(State(admin): State<Arc<Admin>>) -> Result<Response, Failed> {
    let report = admin.steering.reload().await;
    let report = report.map_err(|why| Problem::new(StatusCode::CONFLICT, why))?;
    let list = |title: &str, lines: &[String]| {
        html! {
            @if !lines.is_empty() { h2 { (title) } ul { @for line in lines { li { (line) } } } }
        }
    };
    let body = html! {
        h1 { "The configuration was read" }
        @if report.changed.is_empty() && report.needs_restart.is_empty() { p { "Nothing in it has changed." } }
        (list("In force now", &report.changed))
        (list("In force after a restart", &report.needs_restart))
        (list("Worth a word", &report.warnings))
        p { a href="/" { "Overview" } }
    };
    let frame = Frame {
        view: None,
        title: "Configuration",
        rights: None,
        said: None,
    };
    Ok(frame.around(body))
}
