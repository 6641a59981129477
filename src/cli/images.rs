//! Images and platforms as they are named on the command line, checked before anybody is asked.

use std::io::Read;
use std::path::Path;

use anyhow::Context;

use super::Misused;
use crate::oci::manifest::Platform;
use crate::oci::name::ImageName;

/// The images that are named, and those of a list, in full and each once. At least one.
pub(super) fn named(images: &[String], list: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> = images.to_vec();
    if let Some(path) = list {
        all.extend(listed(&read(path)?));
    }
    let mut full: Vec<String> = Vec::new();
    for image in all {
        let name: ImageName = image.parse().map_err(|e| Misused(format!("{e}")))?;
        let name = name.to_string();
        if !full.contains(&name) {
            full.push(name);
        }
    }
    match (full.is_empty(), list) {
        (false, _) => Ok(full),
        (true, Some(path)) => {
            Err(Misused(format!("the list {} names no image", path.display())).into())
        }
        (true, None) => {
            Err(Misused("name an image, such as alpine:3 or ghcr.io/org/app:1".to_owned()).into())
        }
    }
}

/// Platforms as they were written, each known to be one.
pub(super) fn platforms(written: &[String]) -> anyhow::Result<&[String]> {
    for text in written {
        text.parse::<Platform>()
            .map_err(|e| Misused(e.to_string()))?;
    }
    Ok(written)
}

/// A line for each image; what follows a `#` is for people.
fn listed(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| {
        let line = line.split_once('#').map_or(line, |(before, _)| before);
        line.trim().to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.with_context(|| format!("the list {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_line_for_each_image_and_words_for_people() {
        let text = "# base images\nalpine:3\n\n  ghcr.io/org/app:1  # the app\n";
        assert_eq!(listed(text), ["alpine:3", "ghcr.io/org/app:1"]);
    }

    #[test]
    fn an_image_is_named_in_full_and_once() {
        let all = ["alpine", "docker.io/library/alpine:latest"].map(str::to_owned);
        assert_eq!(
            named(&all, None).unwrap(),
            ["docker.io/library/alpine:latest"]
        );
        for wrong in [&[][..], &["UPPER".to_owned()], &["https://a/b".to_owned()]] {
            assert!(named(wrong, None).unwrap_err().is::<Misused>(), "{wrong:?}");
        }
        let wrong = ["linux".to_owned()];
        assert!(platforms(&wrong).unwrap_err().is::<Misused>());
    }
}
