//! One room, one idea, and data flows one way: who may import whom, held true by reading the sources.

use std::collections::BTreeMap;
use std::path::Path;

/// Every room, and the rooms it may name. Order is the flow.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "admin",
            "app",
            "config",
            "doctor",
            "oci",
            "policy",
            "setup",
            "telemetry",
            "tls",
            "users",
            "warm",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "cache",
            "config",
            "connect",
            "listen",
            "policy",
            "registry",
            "setup",
            "telemetry",
            "tls",
            "upstream",
            "users",
            "warm",
            "wire",
        ],
    ),
    ("config", &["oci", "policy", "upstream", "warm"]),
    ("listen", &["connect", "telemetry", "tls", "wire"]),
    (
        "connect",
        &[
            "oci",
            "policy",
            "registry",
            "setup",
            "telemetry",
            "tls",
            "upstream",
            "users",
            "wire",
        ],
    ),
    (
        "registry",
        &[
            "cache",
            "oci",
            "policy",
            "store",
            "telemetry",
            "upstream",
            "wire",
        ],
    ),
    (
        "warm",
        &[
            "cache",
            "oci",
            "policy",
            "registry",
            "telemetry",
            "upstream",
            "wire",
        ],
    ),
    ("cache", &["oci", "store", "telemetry", "wire"]),
    ("upstream", &["oci", "policy", "telemetry", "wire"]),
    ("doctor", &["oci", "tls"]),
    ("setup", &["policy"]),
    ("users", &["telemetry"]),
    ("store", &["oci"]),
    (
        "admin",
        &[
            "cache",
            "carry",
            "oci",
            "policy",
            "setup",
            "telemetry",
            "upstream",
            "users",
            "warm",
            "wire",
        ],
    ),
    ("carry", &["cache", "oci", "store", "wire"]),
    ("telemetry", &["wire"]),
    ("policy", &[]),
    ("tls", &[]),
    ("oci", &[]),
    ("wire", &[]),
];

#[test]
fn no_room_imports_one_before_it() {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (file, text) in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str();
        let room = first.to_str().unwrap().trim_end_matches(".rs");
        if matches!(room, "main" | "lib") {
            continue;
        }
        let may = rooms
            .get(room)
            .unwrap_or_else(|| panic!("{room} is a new room: say here what it may import"));
        seen += 1;
        for (at, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let named: String = used
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                if rooms.contains_key(named.as_str()) && named != room && !may.contains(&&*named) {
                    wrong.push(format!(
                        "{}:{}: {}",
                        relative.display(),
                        at + 1,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(seen > 50, "the sources were not found");
    assert!(wrong.is_empty(), "upward imports:\n{}", wrong.join("\n"));
}

fn sources(folder: &Path) -> Vec<(std::path::PathBuf, String)> {
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
