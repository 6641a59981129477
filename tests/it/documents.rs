//! What is written for people holds together.

use std::path::{Path, PathBuf};

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    documents.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    let (mut broken, mut seen) = (Vec::new(), 0);
    for document in &documents {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text) {
            seen += 1;
            if let Err(why) = follow(document, link) {
                broken.push(format!("{}: {link}: {why}", document.display()));
            }
        }
    }
    assert!(seen > 20, "the links were not found");
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// The targets of `[…](…)` that are within this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
}

fn follow(from: &Path, link: &str) -> Result<(), &'static str> {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let to: PathBuf = match file {
        "" => from.to_owned(),
        file => from.with_file_name(file),
    };
    if !to.exists() {
        return Err("no such file");
    }
    if heading.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(to).map_err(|_| "it has no headings")?;
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    match headings.map(anchor).any(|known| known == heading) {
        true => Ok(()),
        false => Err("no such heading"),
    }
}

/// A heading as links write it: in lower case, words joined by hyphens, without what is neither letter
/// nor digit.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
