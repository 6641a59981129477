//! Image names as people write them (`alpine`, `ghcr.io/org/app:1`, `…@sha256:…`).

use std::fmt;
use std::str::FromStr;

use crate::oci::reference::{NameError, Reference, ReferenceError, RepoName, Tag};

/// An image, with everything that people leave out put in: Docker Hub, `library/` and `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    /// As it is written: `docker.io`, `ghcr.io`, `registry.corp:5000`.
    pub registry: String,
    pub repository: RepoName,
    /// The digest where one is written, whatever tag stands before it.
    pub reference: Reference,
}

/// Why a text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// Between the registry and the tag.
    #[error("`{image}` names no image: {source}")]
    Repository { image: String, source: NameError },
    /// Behind the colon or the at sign.
    #[error("`{image}` names no image: {source}")]
    Reference {
        image: String,
        source: ReferenceError,
    },
    /// People copy addresses from browsers.
    #[error("`{0}` is an address; an image is written without `http://` or `https://`")]
    Address(String),
}

// === impl ImageName ===

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let image = || text.to_owned();
        if text.contains("://") {
            return Err(ImageNameError::Address(image()));
        }
        let reference = |part: &str| {
            part.parse::<Reference>()
                .map_err(|source| ImageNameError::Reference {
                    image: image(),
                    source,
                })
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(reference(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(reference(tag)?)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if is_host(host) => (host.to_ascii_lowercase(), rest.to_owned()),
            _ => (DOCKER_HUB.to_owned(), name.to_owned()),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
            _ => registry,
        };
        let official = registry == DOCKER_HUB && !repository.is_empty();
        let repository = match official && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        let repository = repository
            .parse()
            .map_err(|source| ImageNameError::Repository {
                image: image(),
                source,
            })?;
        let latest = || LATEST.parse::<Tag>().map(Reference::Tag);
        let reference = match digest.or(tag) {
            Some(reference) => reference,
            None => latest().map_err(|source| ImageNameError::Reference {
                image: image(),
                source: source.into(),
            })?,
        };
        Ok(Self {
            registry,
            repository,
            reference,
        })
    }
}

impl fmt::Display for ImageName {
    /// In full: `docker.io/library/alpine:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reference {
            Reference::Digest(_) => '@',
            Reference::Tag(_) => ':',
        };
        write!(
            f,
            "{}/{}{mark}{}",
            self.registry, self.repository, self.reference
        )
    }
}

/// By docker's rule: a first component that could not be one of a name on Docker Hub.
fn is_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

const DOCKER_HUB: &str = "docker.io";
const LATEST: &str = "latest";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_leave_out_is_put_in() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (written, meant) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("acme/app", "docker.io/acme/app:latest".to_owned()),
            (
                "docker.io/alpine",
                "docker.io/library/alpine:latest".to_owned(),
            ),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine:latest".to_owned(),
            ),
            ("ghcr.io/org/app:1", "ghcr.io/org/app:1".to_owned()),
            ("GHCR.io/org/app", "ghcr.io/org/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            (
                &format!("r.corp/a/b:1@{digest}"),
                format!("r.corp/a/b@{digest}"),
            ),
        ] {
            let name: ImageName = written.parse().unwrap();
            assert_eq!(name.to_string(), meant, "{written}");
            assert_eq!(meant.parse::<ImageName>().unwrap(), name, "{written}");
        }
    }

    #[test]
    fn what_names_no_image_says_why() {
        for (written, why) in [
            ("", "not empty"),
            ("Alpine", "`Alpine` is no component"),
            ("alpine:", "not empty"),
            ("alpine@sha256:abc", "alpine@sha256:abc"),
            ("https://ghcr.io/org/app", "is an address"),
        ] {
            let said = written.parse::<ImageName>().unwrap_err().to_string();
            assert!(said.contains(why), "{written}: {said}");
        }
    }
}
