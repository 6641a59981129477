//! The man page and the completions, held against `--help` and given to the programs that read them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::gateway;

/// What `pierhead manual KIND` prints, in a file.
async fn manual(kind: &str, home: &TempDir) -> (String, String) {
    let output = gateway::run(&["manual", kind], home.path()).await;
    assert!(output.status.success(), "{kind}");
    let text = String::from_utf8(output.stdout).unwrap();
    let file = home.path().join(kind);
    std::fs::write(&file, &text).unwrap();
    (text, file.to_str().unwrap().to_owned())
}

/// Every command there is, with its words and options: read from `--help` of each, down the tree.
async fn commands(home: &Path) -> Vec<(Vec<String>, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut ahead = vec![Vec::<String>::new()];
    while let Some(words) = ahead.pop() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let output = gateway::run(&args, home).await;
        assert!(output.status.success(), "{args:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        let mut options = BTreeSet::new();
        let mut section = "";
        for line in help.lines() {
            if line.ends_with(':') && !line.starts_with(' ') {
                section = line;
            }
            // Descriptions go on further to the right.
            let Some(entry) = line.strip_prefix("  ").filter(|e| !e.starts_with(' ')) else {
                continue;
            };
            if section == "Options:" {
                let names = entry
                    .split([' ', ','])
                    .filter(|word| word.starts_with("--"));
                options.extend(names.take(1).map(str::to_owned));
            } else if section == "Commands:" {
                let mut below = words.clone();
                below.extend(entry.split_whitespace().take(1).map(str::to_owned));
                ahead.push(below);
            }
        }
        assert!(options.contains("--help"), "{help}");
        found.push((words, options));
    }
    assert!(found.len() > 6, "{found:?}");
    found
}

fn said(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}{wrong}");
    text
}

fn shell(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    said(command)
}

#[tokio::test]
async fn the_man_page_has_every_command_and_option() {
    let home = tempfile::tempdir().unwrap();
    let (_, file) = manual("man", &home).await;
    shell("mandoc", &["-T", "lint", "-W", "error", &file]);
    let page = shell("mandoc", &["-T", "utf8", "-O", "width=200", &file]);
    let page: String = unstruck(&page);
    for (words, options) in commands(home.path()).await {
        let name = match words.is_empty() {
            true => "OPTIONS".to_owned(),
            false => words.join(" "),
        };
        assert!(page.contains(&name), "no {name} in:\n{page}");
        // Those with commands of their own have nothing but --help.
        let Some(at) = page.lines().position(|line| line.trim() == name) else {
            let own = options.iter().filter(|option| *option != "--help");
            assert_eq!(own.count(), 0, "no section on {name:?}");
            continue;
        };
        let lines: Vec<&str> = page.lines().skip(at + 1).collect();
        let end = lines
            .iter()
            .position(|line| !line.is_empty() && line.len() - line.trim_start().len() < 5);
        let section = lines[..end.unwrap()].join("\n");
        for option in options {
            assert!(
                section.contains(&option),
                "no {option} of {name} in:\n{section}"
            );
        }
    }
}

#[tokio::test]
async fn bash_completes_every_command_and_option() {
    let home = tempfile::tempdir().unwrap();
    let (_, file) = manual("bash", &home).await;
    for (words, options) in commands(home.path()).await {
        let typed = format!("pierhead {} -", words.join(" ")).replace("  ", " ");
        let typed: Vec<&str> = typed.split(' ').collect();
        let script = format!(
            "source {file}; COMP_WORDS=({}); COMP_CWORD={}; _pierhead; echo \"${{COMPREPLY[@]}}\"",
            typed.join(" "),
            typed.len() - 1
        );
        let offered = shell("bash", &["--norc", "-euc", &script]);
        let offered: BTreeSet<String> = offered.split_whitespace().map(str::to_owned).collect();
        assert!(
            options.is_subset(&offered),
            "{words:?}: {options:?}, {offered:?}"
        );
        let Some((last, before)) = words.split_last() else {
            continue;
        };
        let script = format!(
            "source {file}; COMP_WORDS=(pierhead {} {}); COMP_CWORD={}; _pierhead; echo \"${{COMPREPLY[@]}}\"",
            before.join(" "),
            &last[..1],
            words.len()
        );
        let offered = shell("bash", &["--norc", "-euc", &script]);
        assert!(
            offered.split_whitespace().any(|one| one == last),
            "{words:?}: {offered}"
        );
    }
}

#[tokio::test]
async fn fish_completes_every_command_and_option() {
    let home = tempfile::tempdir().unwrap();
    let (_, file) = manual("fish", &home).await;
    for (words, options) in commands(home.path()).await {
        let typed = format!("pierhead {} ", words.join(" ")).replace("  ", " ");
        let offered = |typed: &str| -> BTreeSet<String> {
            let script = format!("source {file}; complete -C '{typed}'");
            let mut command = Command::new("fish");
            command
                .args(["--no-config", "-c", &script])
                .env("HOME", home.path());
            let lines = said(command);
            let names = lines.lines().filter_map(|line| line.split('\t').next());
            names.map(str::to_owned).collect()
        };
        let dashed = offered(&format!("{typed}--"));
        assert!(
            options.is_subset(&dashed),
            "{words:?}: {options:?}, {dashed:?}"
        );
        if let Some((last, before)) = words.split_last() {
            let typed = format!("pierhead {} ", before.join(" ")).replace("  ", " ");
            let offered = offered(&typed);
            assert!(offered.contains(last), "{words:?}: {offered:?}");
        }
    }
}

#[tokio::test]
async fn zsh_has_every_command_and_option() {
    let home = tempfile::tempdir().unwrap();
    let (_, file) = manual("zsh", &home).await;
    // What zsh would be told, without a terminal: its own function prints the list.
    for (words, options) in commands(home.path()).await {
        let script = format!(
            "compdef() {{ }}; _files() {{ }}; \
             source {file}; words=(pierhead {} ''); CURRENT=${{#words}}; _describe() {{ print -l -- $offers }}; _pierhead",
            words.join(" ")
        );
        let lines = shell("zsh", &["-f", "-c", &script]);
        let offered: BTreeSet<&str> = lines.lines().filter_map(|l| l.split(':').next()).collect();
        for option in &options {
            assert!(
                offered.contains(option.as_str()),
                "{words:?}: {option}, {offered:?}"
            );
        }
        for below in commands(home.path()).await.iter().map(|(words, _)| words) {
            if below.len() == words.len() + 1 && below.starts_with(&words) {
                let name = below[words.len()].as_str();
                assert!(offered.contains(name), "{words:?}: {name}, {offered:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_manual_that_is_none_is_named() {
    let home = tempfile::tempdir().unwrap();
    let output = gateway::run(&["manual", "tcsh"], home.path()).await;
    assert_eq!(output.status.code(), Some(2));
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(wrong.contains("tcsh") && wrong.contains("fish"), "{wrong}");
}

/// Bold and underlined text of a terminal as plain text: `a\u{8}a` is `a`.
fn unstruck(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\u{8}' => {
                plain.pop();
            }
            c => plain.push(c),
        }
    }
    plain
}
