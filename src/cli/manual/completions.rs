//! What bash, zsh and fish complete. Where neither a command nor an option fits, files do.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::{Entry, short};

/// A function that walks the words typed so far down to a command, then offers what may follow.
pub fn bash(root: &CommandInfoWithArgs) -> String {
    let mut offers = String::new();
    let mut names = String::new();
    for entry in Entry::all(root) {
        let key = entry.words();
        offers.push_str(&format!(
            "        {key:?}) words=\"{}\" ;;\n",
            offer(&entry)
        ));
        if !key.is_empty() {
            names.push_str(&format!("            {key:?}) at=\"$next\" ;;\n"));
        }
    }
    format!(
        r#"# bash completion of pierhead
_pierhead() {{
    local at="" next word words
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        next="${{at:+$at }}$word"
        case "$next" in
{names}        esac
    done
    case "$at" in
{offers}    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o bashdefault -o default -F _pierhead pierhead
"#
    )
}

/// The same for zsh, with what each one means.
pub fn zsh(root: &CommandInfoWithArgs) -> String {
    let mut offers = String::new();
    let mut names = String::new();
    for entry in Entry::all(root) {
        let key = entry.words();
        offers.push_str(&format!("        {key:?})\n            offers=(\n"));
        for sub in &entry.info.commands {
            let meaning = zsh_quoted(&format!("{}:{}", sub.name, short(sub.command.description)));
            offers.push_str(&format!("                {meaning}\n"));
        }
        for flag in entry.flags() {
            for name in spellings(flag) {
                let meaning = zsh_quoted(&format!("{name}:{}", short(flag.description)));
                offers.push_str(&format!("                {meaning}\n"));
            }
        }
        offers.push_str("            )\n            ;;\n");
        if !key.is_empty() {
            names.push_str(&format!("            {key:?}) at=\"$next\" ;;\n"));
        }
    }
    format!(
        r#"#compdef pierhead
# zsh completion of pierhead
_pierhead() {{
    local at="" next word
    local -a offers
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        next="${{at:+$at }}$word"
        case "$next" in
{names}        esac
    done
    case "$at" in
{offers}    esac
    _describe -o pierhead offers || _files
}}
compdef _pierhead pierhead
"#
    )
}

/// One line for each word that fish may offer.
pub fn fish(root: &CommandInfoWithArgs) -> String {
    let mut text = String::from("# fish completion of pierhead\n");
    for entry in Entry::all(root) {
        let mut here: Vec<String> = entry
            .path
            .iter()
            .map(|word| format!("__fish_seen_subcommand_from {word}"))
            .collect();
        if !entry.info.commands.is_empty() {
            let below: Vec<&str> = entry.info.commands.iter().map(|sub| sub.name).collect();
            here.push(format!(
                "not __fish_seen_subcommand_from {}",
                below.join(" ")
            ));
        }
        let condition = here.join("; and ");
        for sub in &entry.info.commands {
            text.push_str(&format!(
                "complete -c pierhead -f -n '{condition}' -a {} -d {}\n",
                sub.name,
                fish_quoted(&short(sub.command.description))
            ));
        }
        for flag in entry.flags() {
            let letter = flag.short.map(|c| format!(" -s {c}")).unwrap_or_default();
            let value = match flag.kind {
                FlagInfoKind::Option { .. } => " -r",
                FlagInfoKind::Switch => "",
            };
            text.push_str(&format!(
                "complete -c pierhead -n '{condition}'{letter} -l {}{value} -d {}\n",
                flag.long.trim_start_matches('-'),
                fish_quoted(&short(flag.description))
            ));
        }
    }
    text
}

/// The commands below `entry`, and its options.
fn offer(entry: &Entry<'_>) -> String {
    let commands = entry.info.commands.iter().map(|sub| sub.name.to_owned());
    let words: Vec<String> = commands.chain(entry.flags().flat_map(spellings)).collect();
    words.join(" ")
}

fn spellings(flag: &FlagInfo<'_>) -> Vec<String> {
    let mut all = vec![flag.long.to_owned()];
    all.extend(flag.short.map(|letter| format!("-{letter}")));
    all
}

fn zsh_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
