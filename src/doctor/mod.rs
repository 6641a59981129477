//! A client machine's way to an image, walked step by step: what its settings say, then name, port,
//! gateway, clock, CONNECT, trust, registry, token, manifest. Each step that fails says how to mend it.
//!
//! It reads the client's own files and asks as the client would. Nothing is changed, and no login but the
//! proxy's is sent.

mod ask;
mod fetch;
mod route;
mod settings;
mod systemd;
mod trust;
mod walk;

use std::path::PathBuf;

use serde::Serialize;

pub use self::settings::{Client, Environment};
use crate::oci::name::ImageName;

/// What to look at.
#[derive(Debug)]
pub struct Question {
    /// Instead of what the machine's settings say.
    pub proxy: Option<String>,
    /// Whose settings count; `None`: those of every client that has some.
    pub client: Option<Client>,
    /// What to fetch a manifest of.
    pub image: ImageName,
    /// Where the machine's files are: `/`, or an image of a machine that is not running.
    pub root: PathBuf,
    pub environment: Environment,
}

/// What was found, in the order of the steps.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// No step failed.
    pub well: bool,
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub state: State,
    /// What was seen.
    pub found: String,
    /// What to do about it, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It works, and is worth a look.
    Warning,
    Failed,
    /// A step before it failed, or there is nothing to look at.
    Skipped,
}

/// Every step, in order.
pub const STEPS: [&str; 10] = [
    "settings", "name", "port", "gateway", "clock", "connect", "trust", "registry", "token",
    "manifest",
];

/// Walks all steps.
pub async fn examine(question: &Question) -> Diagnosis {
    let mut steps = Vec::new();
    walk::all(question, &mut steps).await;
    for name in STEPS {
        if !steps.iter().any(|step: &Step| step.name == name) {
            steps.push(Step {
                name,
                state: State::Skipped,
                found: "not tried".to_owned(),
                mend: None,
            });
        }
    }
    steps.sort_by_key(|step| STEPS.iter().position(|name| *name == step.name));
    Diagnosis {
        well: !steps.iter().any(|step| step.state == State::Failed),
        steps,
    }
}

// === impl Step ===

impl Step {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            mend: None,
        }
    }

    fn skipped(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            state: State::Skipped,
            ..Self::ok(name, found)
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Warning,
            mend: Some(mend.into()),
            ..Self::ok(name, found)
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            ..Self::warning(name, found, mend)
        }
    }
}
