//! The command line: what was typed, and the one thing to do about it.

mod api;
mod asked;
mod ca;
mod cache;
mod carry;
mod check;
mod doctor;
mod images;
mod manual;
mod online;
mod pull;
mod serve;
mod setup;
mod words;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use argh::{ArgsInfo, FromArgs};

use crate::app::Unusable;
use crate::config::{Config, ConfigError};
use crate::policy::Policy;
use crate::telemetry::build;

/// A forward HTTP(S) proxy that caches what container registries serve.
#[derive(FromArgs, ArgsInfo, Debug)]
struct Args {
    /// print the version and the commit it was built from
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Ca(ca::Ca),
    Manual(manual::Manual),
    Setup(setup::Setup),
    Doctor(doctor::Doctor),
    Pull(pull::Pull),
    Cache(cache::Cache),
    Export(carry::Export),
    Import(carry::Import),
}

/// argh takes `-` for an option. Only `import` has a place for it that is no option's value.
fn piped(mut words: Vec<&str>) -> Vec<&str> {
    if words.first() == Some(&"import") {
        for at in 1..words.len() {
            if words[at] == "-" && !words[at - 1].starts_with('-') {
                words[at] = "/dev/stdin";
            }
        }
        // Behind its one switch as well.
        if let Some(at) = words.windows(2).position(|pair| pair == ["--json", "-"]) {
            words[at + 1] = "/dev/stdin";
        }
    }
    words
}

/// Runs the command line `args` (with the program's name first) and answers the exit code: 0, 1
/// failed, 2 usage, 78 bad configuration.
pub fn run(args: &[String]) -> ExitCode {
    // argh would ask for a command, too.
    if args
        .get(1)
        .is_some_and(|arg| arg == "--version" || arg == "-V")
    {
        return say(&format!("{}\n", build::NAME));
    }
    // `--config=FILE` is `--config FILE`.
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .flat_map(|word| match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => vec![option, value],
            _ => vec![word.as_str()],
        })
        .collect();
    let words = piped(words);
    let args = match Args::from_args(&["pierhead"], &words) {
        Ok(args) => args,
        Err(exit) => {
            return match exit.status {
                Ok(()) => say(&exit.output),
                Err(()) => {
                    complain(exit.output.trim_end());
                    ExitCode::from(USAGE)
                }
            };
        }
    };
    if args.version {
        return say(&format!("{}\n", build::NAME));
    }
    let result = match args.command {
        Command::Serve(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Ca(args) => args.run(),
        Command::Manual(args) => args.run(),
        Command::Setup(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Pull(args) => args.run(),
        Command::Cache(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Import(args) => args.run(),
    };
    match result {
        Ok(()) if UNWRITTEN.load(Ordering::Relaxed) => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("pierhead: {}", told(&e)));
            if e.is::<ConfigError>() || e.is::<Unusable>() {
                ExitCode::from(BAD_CONFIG)
            } else if e.is::<Misused>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// An error and its causes, where a cause says what the error has not said already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// An argument that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misused(String);

fn policy(config: &Config) -> Policy {
    Policy::new(
        config.policy.clone(),
        config.registries.clone(),
        config.builtin_registries,
    )
}

/// Runs a command that waits for others.
fn run_async<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // A pull in the directory's way may still wait for an upstream.
    runtime.shutdown_background();
    result
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    Config::load_here(file)
}

/// Prints to standard output. What cannot be written is told once, and the command fails in the end: it
/// does first what it was asked to do.
fn say(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !UNWRITTEN.swap(true, Ordering::Relaxed) {
                complain(&format!("pierhead: standard output: {e}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// The same for who has another use for the error; a reader that has gone is none.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Something that [`say`] was given is not in standard output.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.
const BAD_CONFIG: u8 = 78;
