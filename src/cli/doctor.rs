//! `pierhead doctor`: a client machine's way to an image, and what to mend.

use std::path::PathBuf;

use anyhow::bail;
use argh::{ArgsInfo, FromArgs};

use super::{Misused, run_async, say};
use crate::doctor::{self, Client, Diagnosis, Environment, Question, State};
use crate::oci::name::ImageName;

/// Look at this machine as a client of the gateway, step by step from its settings to a manifest, and say
/// of each step that fails how to mend it. It reads the settings of dockerd, containerd, podman and the
/// shell, changes nothing, and sends no login but the proxy's.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// the gateway's proxy, such as http://gateway:3128 (default: what the machine's settings say)
    #[argh(option)]
    proxy: Option<String>,
    /// only this client's settings: docker, containerd, podman or shell (default: all that are there)
    #[argh(option)]
    client: Option<Client>,
    /// where the machine's files are (default: /)
    #[argh(option, default = "PathBuf::from(\"/\")")]
    root: PathBuf,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// image to ask for (default: alpine)
    #[argh(positional)]
    image: Option<String>,
}

// === impl Doctor ===

impl Doctor {
    pub fn run(self) -> anyhow::Result<()> {
        let image = self.image.as_deref().unwrap_or("alpine");
        let image: ImageName = image.parse().map_err(|e| Misused(format!("{e}")))?;
        let question = Question {
            proxy: self.proxy,
            client: self.client,
            image,
            root: self.root,
            environment: Environment::here(),
        };
        let found = run_async(async { Ok(doctor::examine(&question).await) })?;
        if self.json {
            say(&format!("{:#}\n", serde_json::to_value(&found)?));
        } else {
            say(&told(&found));
        }
        let failed = found
            .steps
            .iter()
            .filter(|step| step.state == State::Failed);
        match failed.count() {
            0 => Ok(()),
            1 => bail!("a step failed"),
            n => bail!("{n} steps failed"),
        }
    }
}

fn told(found: &Diagnosis) -> String {
    let mut text = String::new();
    for step in &found.steps {
        let state = match step.state {
            State::Ok => "ok",
            State::Warning => "look",
            State::Failed => "FAILED",
            State::Skipped => "-",
        };
        text.push_str(&format!("{state:<8}{:<10}{}\n", step.name, step.found));
        if let Some(mend) = &step.mend {
            text.push_str(&format!("{:<8}{:<10}mend: {mend}\n", "", ""));
        }
    }
    text
}
