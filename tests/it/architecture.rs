//! One room, one idea, and data flows one way: who may import whom, held true by reading the sources.
//!
//! The table here is the law. `src/lib.rs` lists the same rooms in the same order with a word on each,
//! and `docs/architecture.md` shows both to people.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every room, and the rooms it uses. Each uses only rooms after it: the order is the flow.
const ROOMS: &[(&str, &str)] = &[
    (
        "cli",
        "doctor app config admin setup warm tls users policy telemetry oci",
    ),
    ("doctor", "tls oci"),
    (
        "app",
        "config listen admin connect warm registry cache upstream tls users policy telemetry wire",
    ),
    ("config", "warm upstream policy oci"),
    ("listen", "connect tls telemetry wire"),
    (
        "admin",
        "warm carry cache upstream users policy telemetry oci wire",
    ),
    (
        "connect",
        "setup registry upstream tls users policy telemetry oci wire",
    ),
    ("setup", "policy"),
    ("warm", "registry cache upstream policy telemetry oci wire"),
    ("carry", "cache store oci wire"),
    ("registry", "cache store upstream policy telemetry oci wire"),
    ("cache", "store telemetry oci wire"),
    ("store", "oci"),
    ("upstream", "policy telemetry oci wire"),
    ("tls", ""),
    ("users", "telemetry wire"),
    ("policy", ""),
    ("telemetry", "wire"),
    ("oci", ""),
    ("wire", ""),
];

#[test]
fn every_room_uses_what_the_table_says_and_nothing_else() {
    let used = used();
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    for room in used.keys() {
        assert!(
            rooms.contains(room.as_str()),
            "{room} is a new room: say here what it may use"
        );
    }
    let mut wrong = Vec::new();
    for (room, may) in ROOMS {
        let may: BTreeSet<&str> = may.split_whitespace().collect();
        let uses = used.get(*room).unwrap_or_else(|| panic!("no room {room}"));
        for (other, place) in uses {
            if rooms.contains(other.as_str()) && !may.contains(other.as_str()) {
                wrong.push(format!("{room} may not use {other}: {place}"));
            }
        }
        for right in may.iter().filter(|right| !uses.contains_key(**right)) {
            wrong.push(format!("{room} does not use {right}: take the right away"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_room_uses_one_before_it() {
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        for other in may.split_whitespace() {
            let place = ROOMS.iter().position(|(name, _)| *name == other);
            assert!(place > Some(at), "{room} stands after {other}, and uses it");
        }
    }
}

#[test]
fn the_map_and_the_manual_list_the_rooms_in_this_order_and_in_the_same_words() {
    let map = include_str!("../../src/lib.rs");
    let map: Vec<(&str, &str)> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.split_once("; // "))
        .collect();
    let order: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let listed: Vec<&str> = map.iter().map(|(room, _)| *room).collect();
    assert_eq!(listed, order, "src/lib.rs");

    let manual = include_str!("../../docs/architecture.md");
    let (_, rooms) = manual.split_once("\n## The rooms\n").unwrap();
    let (rooms, _) = rooms.split_once("\n## ").unwrap();
    let rows: Vec<&str> = rooms.lines().filter(|l| l.starts_with("| `")).collect();
    let expected: Vec<String> = map
        .iter()
        .zip(ROOMS)
        .map(|((room, word), (_, may))| {
            let may = may.split_whitespace().collect::<Vec<_>>().join(", ");
            format!("| `{room}` | {word} | {may} |").replace("|  |", "| |")
        })
        .collect();
    assert_eq!(rows, expected, "docs/architecture.md");
    let figure = include_str!("../../docs/images/architecture.svg");
    for room in order {
        let drawn = format!(">{room}<");
        assert!(figure.contains(&drawn), "the figure does not show {room}");
    }
}

/// What each room names of the crate, with one place where it does.
fn used() -> BTreeMap<String, BTreeMap<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut seen = 0;
    for (file, text) in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let mut folders = relative.components();
        let first = folders.next().unwrap().as_os_str().to_str().unwrap();
        if folders.next().is_none() {
            assert!(
                matches!(first, "lib.rs" | "main.rs"),
                "{first} is in no room"
            );
            continue;
        }
        seen += 1;
        let uses = used.entry(first.to_owned()).or_default();
        let code = without_comments(&text);
        let depth = relative.components().count() - usize::from(relative.ends_with("mod.rs"));
        let upward = format!("{}::", vec!["super"; depth].join("::"));
        for named in code.split(&upward).skip(1).flat_map(first_names) {
            let named = ROOMS
                .iter()
                .any(|(room, _)| *room == named && named != first);
            assert!(
                !named,
                "{}: say crate:: for another room",
                relative.display()
            );
        }
        for rest in code.split("crate::").skip(1) {
            for named in first_names(rest) {
                if named != first {
                    uses.entry(named).or_insert(relative.display().to_string());
                }
            }
        }
    }
    assert!(seen > 150, "the sources were not found");
    used
}

/// The names that a path goes on with after `crate::`: one, or all of a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start().chars();
        text.take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn without_comments(text: &str) -> String {
    let lines = text.lines();
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}
