//! `pierhead pull`: images into the cache before anybody asks.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use argh::{ArgsInfo, FromArgs};
use http::{Method, StatusCode};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::api::{Api, Purpose, Refused, read};
use super::{complain, images, run_async, say, words};

/// Pull images into the cache, or make sure that they are there and fresh, so that the next client finds
/// them. All platforms come, unless some are named. A gateway that was asked goes on even if this command
/// is stopped.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "pull")]
pub struct Pull {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway, such as http://gateway:3129 (default: PIERHEAD_GATEWAY, else the
    /// configuration's listen.admin, else the cache directory itself)
    #[argh(option)]
    gateway: Option<String>,
    /// only this platform, such as linux/arm64; may be repeated
    #[argh(option)]
    platform: Vec<String>,
    /// ask upstream for tags whatever tag_ttl says
    #[argh(switch)]
    refresh: bool,
    /// pull what refers to the images too: signatures, bills of material
    #[argh(switch)]
    referrers: bool,
    /// file with an image on each line ("-": standard input)
    #[argh(option)]
    list: Option<PathBuf>,
    /// print one JSON document instead of lines
    #[argh(switch)]
    json: bool,
    /// images, as docker pull takes them
    #[argh(positional)]
    image: Vec<String>,
}

/// A pull as the API tells of it, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Job {
    id: u64,
    state: String,
    error: Option<String>,
    digest: Option<String>,
    blobs: u64,
    blobs_done: u64,
    bytes: u64,
    bytes_done: u64,
    fetched: Option<u64>,
}

// === impl Pull ===

impl Pull {
    pub fn run(self) -> anyhow::Result<()> {
        let images = images::named(&self.image, self.list.as_deref())?;
        images::platforms(&self.platform)?;
        run_async(async {
            let gateway = self.gateway.as_deref();
            let api = Api::reach(self.config.as_deref(), gateway, Purpose::Fill).await?;
            let result = self.pull(&api, images).await;
            api.close().await;
            result
        })
    }

    async fn pull(&self, api: &Api, images: Vec<String>) -> anyhow::Result<()> {
        let board = Board::new();
        let mut waiting: VecDeque<String> = images.into();
        let all = waiting.len();
        let mut running: Vec<(String, u64, Row)> = Vec::new();
        let mut ended: Vec<Value> = Vec::new();
        let mut failed = 0;
        let mut ticks = tokio::time::interval(OFTEN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(waiting.is_empty() && running.is_empty()) {
            ticks.tick().await;
            while running.len() < AT_ONCE
                && let Some(image) = waiting.front()
            {
                let Some(id) = self.start(api, image).await? else {
                    // Others' pulls have filled the gateway's list.
                    break;
                };
                let row = board.row(image);
                running.extend(waiting.pop_front().map(|image| (image, id, row)));
            }
            let mut still = Vec::new();
            for (image, id, row) in running {
                let answer = api.get(&format!("/api/v1/pulls/{id}")).await;
                let answer = answer.map_err(|e| match e.downcast_ref::<Refused>() {
                    Some(refused) if refused.status == StatusCode::NOT_FOUND => anyhow!(
                        "{} knows nothing of the pull of {image} any more: was it restarted? Pull again",
                        api.name()
                    ),
                    _ => e,
                })?;
                let job: Job = read(&answer)?;
                row.show(&job);
                match job.state.as_str() {
                    "done" => {
                        row.end();
                        board.say(self.json, &done(&image, &job));
                        ended.push(answer);
                    }
                    "failed" => {
                        row.end();
                        let why = job.error.unwrap_or_default();
                        board.complain(&format!("pierhead: {image}: {why}"));
                        failed += 1;
                        ended.push(answer);
                    }
                    _ => still.push((image, id, row)),
                }
            }
            running = still;
        }
        if self.json {
            say(&format!("{:#}\n", json!({ "pulls": ended })));
        }
        match failed {
            0 => Ok(()),
            n => bail!("{n} of {all} images could not be pulled"),
        }
    }

    /// Starts a pull; `None`: there is no turn for it now.
    async fn start(&self, api: &Api, image: &str) -> anyhow::Result<Option<u64>> {
        let wanted = json!({
            "image": image,
            "platforms": self.platform,
            "refresh": self.refresh,
            "referrers": self.referrers,
        });
        match api.ask(Method::POST, "/api/v1/pulls", Some(&wanted)).await {
            Ok(answer) => Ok(Some(read::<Job>(&answer)?.id)),
            Err(e) => match e.downcast_ref::<Refused>() {
                Some(refused) if refused.status == StatusCode::TOO_MANY_REQUESTS => Ok(None),
                _ => Err(e),
            },
        }
    }
}

fn done(image: &str, job: &Job) -> String {
    let news = match job.fetched {
        None | Some(0) => "all of it was here".to_owned(),
        Some(fetched) => format!("{} of it new", words::bytes(fetched)),
    };
    format!(
        "{image}  {}  {}, {}, {news}\n",
        job.digest.as_deref().unwrap_or_default(),
        words::count(job.blobs, "blob"),
        words::bytes(job.bytes),
    )
}

/// Where progress is shown: bars on a terminal, and otherwise nothing but what is worth a line.
struct Board {
    bars: Option<MultiProgress>,
}

/// One image on it.
struct Row {
    bar: Option<ProgressBar>,
}

// === impl Board ===

impl Board {
    fn new() -> Self {
        Self {
            bars: std::io::stderr().is_terminal().then(MultiProgress::new),
        }
    }

    fn row(&self, image: &str) -> Row {
        let Some(bars) = &self.bars else {
            complain(&format!("pulling {image}"));
            return Row { bar: None };
        };
        let bar = bars.add(ProgressBar::new(0));
        // The template is a constant, and a good one.
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        bar.set_prefix(image.to_owned());
        Row { bar: Some(bar) }
    }

    /// A line of the result, above the bars.
    fn say(&self, silent: bool, text: &str) {
        let print = || {
            if !silent {
                say(text);
            }
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    fn complain(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| complain(text)),
            None => complain(text),
        }
    }
}

// === impl Row ===

impl Row {
    fn show(&self, job: &Job) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(job.bytes);
        bar.set_position(job.bytes_done);
        bar.set_message(match job.state.as_str() {
            "waiting" => "waits for others".to_owned(),
            _ if job.blobs == 0 => "manifests".to_owned(),
            _ => format!("{} of {}", job.blobs_done, words::count(job.blobs, "blob")),
        });
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const BAR: &str = "{prefix:40!} [{bar:24}] {bytes:>11}/{total_bytes:<11} {bytes_per_sec:>12} {msg}";
const OFTEN: Duration = Duration::from_millis(100);
/// Pulls of one command at a time; the gateway itself runs two.
const AT_ONCE: usize = 4;
