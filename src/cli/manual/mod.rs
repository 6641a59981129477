//! `pierhead manual`: the man page and the shells' completions, for packages. Made of the same
//! definitions as `--help`, so that none can say more or less than another.

mod completions;
mod page;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FromArgs};

use super::{Args, Misused, say};

/// Print the man page, or what a shell completes.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "manual")]
pub struct Manual {
    /// what to print: man, bash, zsh or fish
    #[argh(positional)]
    kind: String,
}

// === impl Manual ===

impl Manual {
    pub fn run(self) -> anyhow::Result<()> {
        let root = Args::get_args_info();
        let text = match self.kind.as_str() {
            "man" => page::man(&root),
            "bash" => completions::bash(&root),
            "zsh" => completions::zsh(&root),
            "fish" => completions::fish(&root),
            other => {
                return Err(Misused(format!(
                    "there is no manual {other:?}: man, bash, zsh or fish"
                ))
                .into());
            }
        };
        say(&text);
        Ok(())
    }
}

/// A command, or a command of a command.
struct Entry<'a> {
    /// `["ca", "show"]`; empty for the program itself.
    path: Vec<&'a str>,
    info: &'a CommandInfoWithArgs,
}

// === impl Entry ===

impl<'a> Entry<'a> {
    /// The program and all of its commands, each before its own.
    fn all(root: &'a CommandInfoWithArgs) -> Vec<Self> {
        let mut all = Vec::new();
        Self::add(Vec::new(), root, &mut all);
        all
    }

    fn add(path: Vec<&'a str>, info: &'a CommandInfoWithArgs, all: &mut Vec<Self>) {
        all.push(Self {
            path: path.clone(),
            info,
        });
        for sub in &info.commands {
            let mut below = path.clone();
            below.push(sub.name);
            Self::add(below, &sub.command, all);
        }
    }

    /// What follows it on the command line, without the options: `ca show`.
    fn words(&self) -> String {
        self.path.join(" ")
    }

    /// Its options that are shown, `--help` among them.
    fn flags(&self) -> impl Iterator<Item = &'a FlagInfo<'static>> {
        self.info.flags.iter().filter(|flag| !flag.hidden)
    }
}

/// A description on one line, without the full stop.
fn short(description: &str) -> String {
    let line: Vec<&str> = description.split_whitespace().collect();
    let line = line.join(" ");
    match line.split_once(". ") {
        Some((first, _)) => first.to_owned(),
        None => line.trim_end_matches('.').to_owned(),
    }
}
