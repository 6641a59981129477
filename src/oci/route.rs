//! From a request path to the registry endpoint that it names (distribution specification,
//! "Endpoints").

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::oci::digest::Digest;
use crate::oci::error::Code;
use crate::oci::reference::{Reference, ReferenceError, RepoName};

/// An endpoint of a registry. The method is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// `/v2/NAME/blobs/DIGEST`
    Blob {
        /// The repository.
        repo: RepoName,
        /// The blob.
        digest: Digest,
    },
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest {
        /// The repository.
        repo: RepoName,
        /// The tag or the digest.
        reference: Reference,
    },
    /// Anything else, within `/v2/` or not.
    Other,
    /// `/v2/`
    Ping,
    /// `/v2/NAME/referrers/DIGEST`
    Referrers {
        /// The repository.
        repo: RepoName,
        /// The manifest referred to.
        digest: Digest,
    },
    /// `/v2/NAME/tags/list`
    Tags {
        /// The repository.
        repo: RepoName,
    },
    /// `/v2/NAME/blobs/uploads/`, with or without a session after it
    Upload {
        /// The repository.
        repo: RepoName,
    },
}

/// A path that names an endpoint, but not properly. Each carries the offending text, cut to
/// 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The digest is malformed, or of an algorithm that is not supported.
    #[error("`{0}` is no sha256 or sha512 digest")]
    Digest(String),
    /// The repository name is malformed, or the path hides one behind escapes or dots.
    #[error("`{0}` is no repository name")]
    Name(String),
    /// The reference is no tag.
    #[error("`{0}` is no tag")]
    Reference(String),
}

/// The endpoint as it is cut out of a path, its parts unproven.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape<'a> {
    Blob { repo: &'a str, digest: &'a str },
    Catalog,
    Manifest { repo: &'a str, reference: &'a str },
    Other,
    Ping,
    Referrers { repo: &'a str, digest: &'a str },
    Tags { repo: &'a str },
    Upload { repo: &'a str },
}

// === impl Route ===

impl Route {
    /// The endpoint that `path` names; `path` is without its query.
    ///
    /// An upstream may undo escapes before it routes. So a path that is no endpoint as it stands,
    /// but would be one once unescaped, is an error here instead of [`Route::Other`], and so are
    /// dot components, doubled slashes and a slash too many below `/v2/`. The one escape that clients do send is `%3A` in a digest; it
    /// counts as the colon.
    pub fn parse(path: &str) -> Result<Self, RouteError> {
        let path = with_colons(path);
        let shape = Shape::cut(&path);
        let decoded = percent_decode_str(&path).decode_utf8_lossy();
        if let Some(below) = decoded.strip_prefix("/v2/") {
            let climbs = below.split('/').any(|c| matches!(c, "." | ".."));
            // Some servers read doubled slashes as one, and pass over one at the end.
            let doubled = below.starts_with('/') || below.contains("//");
            let one_more = shape == Shape::Other
                && path
                    .strip_suffix('/')
                    .is_some_and(|less| Shape::cut(less) != Shape::Other);
            if climbs || doubled || one_more {
                return Err(RouteError::Name(excerpt(below)));
            }
        }
        match shape {
            // What these two do not name is for the upstream alone to read: both readings of the
            // path must agree. Elsewhere the grammar of names and references knows no `%`.
            Shape::Other | Shape::Upload { .. } if Shape::cut(&decoded) != shape => {
                Err(RouteError::Name(excerpt(&path)))
            }
            Shape::Other => Ok(Self::Other),
            Shape::Upload { repo } => Ok(Self::Upload { repo: name(repo)? }),
            Shape::Blob { repo, digest } => Ok(Self::Blob {
                repo: name(repo)?,
                digest: hash(digest)?,
            }),
            Shape::Catalog => Ok(Self::Catalog),
            Shape::Manifest { repo, reference } => Ok(Self::Manifest {
                repo: name(repo)?,
                reference: reference.parse().map_err(|error| match error {
                    ReferenceError::Digest(_) => RouteError::Digest(excerpt(reference)),
                    ReferenceError::Tag(_) => RouteError::Reference(excerpt(reference)),
                })?,
            }),
            Shape::Ping => Ok(Self::Ping),
            Shape::Referrers { repo, digest } => Ok(Self::Referrers {
                repo: name(repo)?,
                digest: hash(digest)?,
            }),
            Shape::Tags { repo } => Ok(Self::Tags { repo: name(repo)? }),
        }
    }

    /// The repository, for the endpoints that have one.
    pub fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Blob { repo, .. }
            | Self::Manifest { repo, .. }
            | Self::Referrers { repo, .. }
            | Self::Tags { repo }
            | Self::Upload { repo } => Some(repo),
            Self::Catalog | Self::Other | Self::Ping => None,
        }
    }

    /// The path that names this endpoint and no other; none for [`Route::Other`]. An upload's is
    /// the one that starts a new session.
    pub fn path(&self) -> Option<String> {
        match self {
            Self::Blob { repo, digest } => Some(format!("/v2/{repo}/blobs/{digest}")),
            Self::Catalog => Some("/v2/_catalog".to_owned()),
            Self::Manifest { repo, reference } => Some(format!("/v2/{repo}/manifests/{reference}")),
            Self::Other => None,
            Self::Ping => Some("/v2/".to_owned()),
            Self::Referrers { repo, digest } => Some(format!("/v2/{repo}/referrers/{digest}")),
            Self::Tags { repo } => Some(format!("/v2/{repo}/tags/list")),
            Self::Upload { repo } => Some(format!("/v2/{repo}/blobs/uploads/")),
        }
    }
}

// === impl RouteError ===

impl RouteError {
    /// The code that tells a client of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Digest(_) => Code::DigestInvalid,
            Self::Name(_) => Code::NameInvalid,
            // The specification has no code for a bad tag.
            Self::Reference(_) => Code::ManifestInvalid,
        }
    }
}

// === impl Shape ===

impl<'a> Shape<'a> {
    /// Cuts from the right, because a repository may have components called `manifests`, `blobs`,
    /// `uploads`, `tags` or `referrers`.
    fn cut(path: &'a str) -> Self {
        let below = match path.strip_prefix("/v2") {
            Some("" | "/") => return Self::Ping,
            Some(rest) => match rest.strip_prefix('/') {
                Some(below) => below,
                None => return Self::Other,
            },
            None => return Self::Other,
        };
        if below == "_catalog" {
            return Self::Catalog;
        }
        let Some((front, last)) = below.rsplit_once('/') else {
            return Self::Other;
        };
        let (repo, keyword) = split_last(front);
        match (keyword, last) {
            ("blobs", "uploads") => return Self::Upload { repo },
            ("manifests" | "blobs" | "referrers", "") => {}
            ("manifests", reference) => return Self::Manifest { repo, reference },
            ("blobs", digest) => return Self::Blob { repo, digest },
            ("referrers", digest) => return Self::Referrers { repo, digest },
            ("tags", "list") => return Self::Tags { repo },
            // The last component is a session, or empty.
            ("uploads", _) => {
                if let (repo, "blobs") = split_last(repo) {
                    return Self::Upload { repo };
                }
            }
            _ => {}
        }
        Self::Other
    }
}

/// Everything before the last component, and that component.
fn split_last(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// `path` with `%3A` in its last component as the colon.
fn with_colons(path: &str) -> Cow<'_, str> {
    let last = path.rfind('/').map_or(0, |slash| slash + 1);
    let (front, last) = path.split_at(last);
    if !last.contains("%3A") && !last.contains("%3a") {
        return Cow::Borrowed(path);
    }
    let last = last.replace("%3A", ":").replace("%3a", ":");
    Cow::Owned(format!("{front}{last}"))
}

fn name(text: &str) -> Result<RepoName, RouteError> {
    text.parse().map_err(|_| RouteError::Name(excerpt(text)))
}

fn hash(text: &str) -> Result<Digest, RouteError> {
    text.parse().map_err(|_| RouteError::Digest(excerpt(text)))
}

/// No more of a client's text than an error message should carry.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).collect()
}

/// The longest excerpt, in characters.
const EXCERPT: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "ab".repeat(32))
    }

    fn manifest(repo: &str, reference: &str) -> Result<Route, RouteError> {
        Ok(Route::Manifest {
            repo: repo.parse().unwrap(),
            reference: reference.parse().unwrap(),
        })
    }

    #[test]
    fn each_endpoint_is_recognised() {
        let digest = digest();
        let repo: RepoName = "library/alpine".parse().unwrap();
        let hash: Digest = digest.parse().unwrap();
        let at = |tail: &str| Route::parse(&format!("/v2/library/alpine/{tail}"));
        assert_eq!(Route::parse("/v2/"), Ok(Route::Ping));
        assert_eq!(Route::parse("/v2"), Ok(Route::Ping));
        assert_eq!(Route::parse("/v2/_catalog"), Ok(Route::Catalog));
        assert_eq!(at("manifests/3.19"), manifest("library/alpine", "3.19"));
        assert_eq!(
            at(&format!("manifests/{digest}")),
            manifest("library/alpine", &digest)
        );
        assert_eq!(
            at(&format!("blobs/{digest}")),
            Ok(Route::Blob {
                repo: repo.clone(),
                digest: hash.clone()
            })
        );
        assert_eq!(
            at(&format!("referrers/{digest}")),
            Ok(Route::Referrers {
                repo: repo.clone(),
                digest: hash
            })
        );
        assert_eq!(at("tags/list"), Ok(Route::Tags { repo: repo.clone() }));
        for upload in ["blobs/uploads", "blobs/uploads/", "blobs/uploads/Ab_1.2-3="] {
            assert_eq!(
                at(upload),
                Ok(Route::Upload { repo: repo.clone() }),
                "{upload}"
            );
        }
    }

    #[test]
    fn a_repository_may_have_components_called_like_endpoints() {
        assert_eq!(
            Route::parse("/v2/manifests/manifests/manifests/manifests"),
            manifest("manifests/manifests", "manifests")
        );
        assert_eq!(
            Route::parse("/v2/a/blobs/uploads/manifests/latest"),
            manifest("a/blobs/uploads", "latest")
        );
        let route = Route::parse(&format!("/v2/a/tags/list/blobs/{}", digest())).unwrap();
        assert_eq!(route.repo().unwrap().as_str(), "a/tags/list");
        let route = Route::parse("/v2/blobs/uploads/blobs/uploads/1").unwrap();
        assert_eq!(route.repo().unwrap().as_str(), "blobs/uploads");
    }

    #[test]
    fn what_is_no_endpoint_is_other() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v22",
            "/v2a/x",
            "v2/",
            "*",
            "/token",
            "/v2/x",
            "/v2/a/b/c",
            "/v2/a/manifests/",
            "/v2/a/manifests",
            "/v2/a/blobs/",
            "/v2/auth/",
            "/v2/a/uploads/1",
            "/v2/%41/x",
            "/login%2Fx",
        ] {
            assert_eq!(Route::parse(path), Ok(Route::Other), "{path}");
        }
    }

    #[test]
    fn a_missing_repository_is_a_bad_name() {
        for path in ["/v2/manifests/latest", "/v2/tags/list"] {
            assert_eq!(
                Route::parse(path),
                Err(RouteError::Name(String::new())),
                "{path}"
            );
        }
    }

    #[test]
    fn an_escaped_colon_in_a_digest_counts_as_the_colon() {
        let digest = digest();
        for escape in ["%3A", "%3a"] {
            let path = format!("/v2/a/manifests/{}", digest.replace(':', escape));
            assert_eq!(Route::parse(&path), manifest("a", &digest));
        }
    }

    #[test]
    fn any_other_escape_within_an_endpoint_is_an_error() {
        for path in [
            "/v2/%61/manifests/latest",
            "/v2/a/manifests/l%61test",
            "/v2/a%3Ab/manifests/latest",
            "/v2/a/%6Danifests/latest",
            "/v2/a%2Fmanifests%2Flatest",
            "/%762/a/manifests/latest",
            "/v2%2Fa/manifests/latest",
            "/v2/%5Fcatalog",
            "/v2/a/blobs/uploads%2F1",
            "/v2/a/blobs/uploads/1%2Fmanifests%2Flatest",
            "/v2/a/blobs/uploads/x%2Fy",
        ] {
            assert!(Route::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_session_of_an_upload_may_be_escaped() {
        let route = Route::parse("/v2/a/blobs/uploads/x%3D%3D").unwrap();
        assert_eq!(
            route,
            Route::Upload {
                repo: "a".parse().unwrap()
            }
        );
    }

    #[test]
    fn a_path_does_not_climb() {
        for path in [
            "/v2/a/../b/manifests/latest",
            "/v2/a/manifests/..",
            "/v2/a/blobs/uploads/..",
            "/v2/a/blobs/uploads/%2e%2e",
            "/v2/./x",
            "/v2/x/..",
        ] {
            assert!(
                matches!(Route::parse(path), Err(RouteError::Name(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn a_slash_too_many_leads_round_nothing() {
        for path in [
            "/v2/a/manifests//latest",
            "/v2/a/tags//list",
            "/v2/a//tags/list",
            "/v2/a%2F/tags/list",
            "/v2//_catalog",
            "/v2/_catalog/",
            "/v2/a/manifests/latest/",
            "/v2/a/tags/list/",
        ] {
            assert!(
                matches!(Route::parse(path), Err(RouteError::Name(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn each_error_carries_its_text_and_its_code() {
        let error = Route::parse("/v2/Bad/manifests/latest").unwrap_err();
        assert_eq!(error, RouteError::Name("Bad".to_owned()));
        assert_eq!(error.code(), Code::NameInvalid);
        let error = Route::parse("/v2/a/blobs/latest").unwrap_err();
        assert_eq!(error, RouteError::Digest("latest".to_owned()));
        assert_eq!(error.code(), Code::DigestInvalid);
        let error = Route::parse("/v2/a/manifests/md5:00").unwrap_err();
        assert_eq!(error, RouteError::Digest("md5:00".to_owned()));
        let error = Route::parse(&format!("/v2/a/manifests/{}", "x".repeat(500))).unwrap_err();
        assert_eq!(error, RouteError::Reference("x".repeat(128)));
        assert_eq!(error.code(), Code::ManifestInvalid);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(path in "\\PC*", below in "[a-z0-9/%.:AF-]*") {
            let _ = Route::parse(&path);
            let _ = Route::parse(&format!("/v2/{below}"));
        }

        #[test]
        fn the_path_of_a_route_is_the_route(
            repo in "(manifests|blobs|uploads|tags|list|[a-z0-9]{1,6})(/(manifests|blobs|tags|a)){0,4}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
            bytes: Vec<u8>,
        ) {
            let repo: RepoName = repo.parse().unwrap();
            let digest = Digest::of(crate::oci::digest::Algorithm::Sha512, &bytes);
            let tag = tag.parse::<Reference>().unwrap();
            for route in [
                Route::Manifest { repo: repo.clone(), reference: tag },
                Route::Manifest { repo: repo.clone(), reference: digest.clone().into() },
                Route::Blob { repo: repo.clone(), digest: digest.clone() },
                Route::Referrers { repo: repo.clone(), digest },
                Route::Tags { repo: repo.clone() },
                Route::Upload { repo },
            ] {
                prop_assert_eq!(Route::parse(&route.path().unwrap()), Ok(route));
            }
        }

        #[test]
        fn the_offending_text_is_bounded(below in "[a-zA-Z/%.]{0,400}") {
            let path = format!("/v2/{below}/manifests/{below}");
            if let Err(RouteError::Name(text) | RouteError::Digest(text) | RouteError::Reference(text))
                = Route::parse(&path)
            {
                prop_assert!(text.chars().count() <= 128);
            }
        }
    }
}
