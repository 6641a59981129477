//! Tells the program which commit it is built from.
//!
//! In an archive that git made, `scripts/commit` has it; elsewhere `BUILD_COMMIT` in the environment may
//! say it. No date is taken: two builds of one commit are the same.

use std::process::Command;

/// What the program is made of; a change here makes the build a dirty one.
const SOURCES: [&str; 4] = ["src", "Cargo.toml", "Cargo.lock", "scripts/build.rs"];
const ARCHIVED: &str = "scripts/commit";

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    // Each commit and checkout adds a line to the log of HEAD.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let told = std::env::var("BUILD_COMMIT").ok();
    let commit = told
        .filter(|told| !told.is_empty())
        .or_else(archived)
        .or_else(commit);
    println!(
        "cargo::rustc-env=BUILD_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

/// What `git archive` put in the place of `$Format:%H$`.
fn archived() -> Option<String> {
    println!("cargo::rerun-if-changed={ARCHIVED}");
    let text = std::fs::read_to_string(ARCHIVED).ok()?;
    let hash = text.trim();
    let whole = hash.len() >= 40 && hash.chars().all(|c| c.is_ascii_hexdigit());
    whole.then(|| hash[..12].to_owned())
}

fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=normal", "--"];
    status.extend(SOURCES);
    let clean = git(&status).is_some_and(|changes| changes.is_empty());
    Some(if clean { commit } else { commit + "-dirty" })
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
