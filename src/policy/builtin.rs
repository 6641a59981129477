//! The well-known registries, as data.
//!
//! A row says what a registry's clients ask for: the hosts that speak `/v2/`, the hosts that hand
//! out tokens, where search happens, and the hosts that blobs are redirected to. The last are
//! listed so that a denial can explain itself: pierhead follows redirects, a client behind it never
//! needs them, and they stay denied.

use std::sync::LazyLock;

use super::hosts::{Host, HostPattern};

/// One well-known registry.
#[derive(Debug)]
pub struct Known {
    /// What people call it; for Docker Hub that is no host that answers.
    pub name: &'static str,
    /// Answered without any configuration. Registries of which every account has its own (ECR, ACR)
    /// are known but not `public`: allowing them would open all accounts of that cloud, and the
    /// CA would need to be trusted for all of the cloud's names.
    pub public: bool,
    /// Whether `hosts` and `search` are names of one and the same set of repositories.
    pub one_namespace: bool,
    /// Hosts that speak `/v2/`; the first one is the one to dial.
    pub hosts: &'static [&'static str],
    /// Hosts that hand out tokens. Where such a host does other things as well, only paths that
    /// begin with the prefix are relayed.
    pub auth: &'static [(&'static str, Option<&'static str>)],
    /// Hosts that `docker search` asks, where they are not among `hosts`.
    pub search: &'static [&'static str],
    /// Hosts that blobs are redirected to.
    pub blobs: &'static [&'static str],
}

/// Every well-known registry, those of `builtin_registries`.
pub const KNOWN: &[Known] = &[
    Known {
        name: "docker.io",
        public: true,
        one_namespace: true,
        hosts: &["registry-1.docker.io", "registry.hub.docker.com"],
        // The last two: `docker login` without a user name goes through a browser and these.
        auth: &[
            ("auth.docker.io", None),
            ("login.docker.com", Some("/oauth/")),
            ("hub.docker.com", Some("/v2/access-tokens")),
        ],
        search: &["index.docker.io"],
        blobs: &[
            "production.cloudflare.docker.com",
            "production.cloudfront.docker.com",
            "*.r2.cloudflarestorage.com",
        ],
    },
    Known {
        name: "ghcr.io",
        hosts: &["ghcr.io"],
        blobs: &["pkg-containers.githubusercontent.com"],
        ..PLAIN
    },
    Known {
        name: "quay.io",
        hosts: &["quay.io"],
        blobs: &["cdn.quay.io", "cdn0*.quay.io"],
        ..PLAIN
    },
    Known {
        name: "registry.k8s.io",
        hosts: &["registry.k8s.io"],
        blobs: &["prod-registry-k8s-io-*.s3.dualstack.*.amazonaws.com"],
        ..PLAIN
    },
    Known {
        name: "mcr.microsoft.com",
        hosts: &["mcr.microsoft.com"],
        blobs: &["*.data.mcr.microsoft.com"],
        ..PLAIN
    },
    Known {
        name: "gcr.io",
        hosts: &["gcr.io", "*.gcr.io"],
        blobs: &["storage.googleapis.com"],
        ..PLAIN
    },
    // Artifact Registry; its other hosts (`*-npm`, `*-python`) are none of ours.
    Known {
        name: "pkg.dev",
        hosts: &["*-docker.pkg.dev", "docker.pkg.dev"],
        blobs: &["storage.googleapis.com"],
        ..PLAIN
    },
    Known {
        name: "public.ecr.aws",
        hosts: &["public.ecr.aws"],
        blobs: &[
            "d5l0dvt14r5h8.cloudfront.net",
            "d2glxqk2uabbnd.cloudfront.net",
        ],
        ..PLAIN
    },
    Known {
        name: "registry.gitlab.com",
        hosts: &["registry.gitlab.com"],
        auth: &[("gitlab.com", Some("/jwt/auth"))],
        blobs: &["cdn.registry.gitlab-static.net", "storage.googleapis.com"],
        ..PLAIN
    },
    Known {
        name: "nvcr.io",
        hosts: &["nvcr.io"],
        auth: &[("authn.nvidia.com", Some("/token"))],
        blobs: &["layers.nvcr.io", "*.ngc.nvidia.com"],
        ..PLAIN
    },
    Known {
        name: "registry.access.redhat.com",
        hosts: &["registry.access.redhat.com"],
        // Not tokens but signatures, which podman on RHEL looks up beside every image.
        auth: &[(
            "access.redhat.com",
            Some("/webassets/docker/content/sigstore"),
        )],
        blobs: &["cdn.quay.io", "cdn0*.quay.io"],
        ..PLAIN
    },
    Known {
        name: "registry.redhat.io",
        hosts: &["registry.redhat.io", "registry.connect.redhat.com"],
        auth: &[("sso.redhat.com", Some("/auth/realms/rhcc/"))],
        blobs: &["cdn.quay.io", "cdn0*.quay.io"],
        ..PLAIN
    },
    Known {
        name: "registry.fedoraproject.org",
        hosts: &["registry.fedoraproject.org"],
        blobs: &["cdn.registry.fedoraproject.org"],
        ..PLAIN
    },
    Known {
        name: "registry.opensuse.org",
        hosts: &["registry.opensuse.org"],
        ..PLAIN
    },
    Known {
        name: "registry.suse.com",
        hosts: &["registry.suse.com"],
        ..PLAIN
    },
    Known {
        name: "container-registry.oracle.com",
        hosts: &["container-registry.oracle.com"],
        ..PLAIN
    },
    Known {
        name: "docker.elastic.co",
        hosts: &["docker.elastic.co"],
        auth: &[("docker-auth.elastic.co", None)],
        ..PLAIN
    },
    Known {
        name: "cgr.dev",
        hosts: &["cgr.dev"],
        blobs: &["*.r2.cloudflarestorage.com"],
        ..PLAIN
    },
    // A front that sends its callers to ghcr.io for tokens and bytes.
    Known {
        name: "lscr.io",
        hosts: &["lscr.io"],
        blobs: &["pkg-containers.githubusercontent.com"],
        ..PLAIN
    },
    Known {
        name: "Amazon ECR",
        public: false,
        hosts: &["*.dkr.ecr.*.amazonaws.com", "*.dkr.ecr.*.amazonaws.com.cn"],
        blobs: &[
            "prod-*-starport-layer-bucket.s3.*.amazonaws.com",
            "prod-*-starport-layer-bucket.s3.*.amazonaws.com.cn",
        ],
        ..PLAIN
    },
    Known {
        name: "Azure Container Registry",
        public: false,
        hosts: &["*.azurecr.io", "*.azurecr.cn"],
        blobs: &["*.blob.core.windows.net"],
        ..PLAIN
    },
];

/// The row that `pattern` of a `[[registry]]` speaks of: by name, by one of its hosts, or as one
/// of the hosts that a pattern of the row covers.
pub(super) fn row_of(pattern: &HostPattern) -> Option<&'static Known> {
    let text = pattern.as_str();
    let named =
        |row: &&Known| row.name == text || row.hosts.contains(&text) || row.search.contains(&text);
    KNOWN
        .iter()
        .find(named)
        .or_else(|| find(&pattern.exact()?, |parsed| &parsed.hosts))
}

/// The row whose `/v2/`, token or search hosts include `host`.
pub(super) fn row_serving(host: &Host) -> Option<&'static Known> {
    find(host, |parsed| &parsed.serving)
}

/// The row whose blobs come from `host`.
pub(super) fn row_redirecting_to(host: &Host) -> Option<&'static Known> {
    find(host, |parsed| &parsed.blobs)
}

/// What most rows have in common.
const PLAIN: Known = Known {
    name: "",
    public: true,
    one_namespace: false,
    hosts: &[],
    auth: &[],
    search: &[],
    blobs: &[],
};

/// A row's hosts, parsed once: every denial looks through all of them.
struct Parsed {
    row: &'static Known,
    hosts: Vec<HostPattern>,
    /// `hosts`, and those for tokens and searches.
    serving: Vec<HostPattern>,
    blobs: Vec<HostPattern>,
}

static PARSED: LazyLock<Vec<Parsed>> = LazyLock::new(|| {
    // A host that would not parse covers nothing; a test parses all of them.
    let parse = |texts: &mut dyn Iterator<Item = &&str>| -> Vec<HostPattern> {
        texts.filter_map(|text| text.parse().ok()).collect()
    };
    let parsed = |row: &'static Known| {
        let auth = row.auth.iter().map(|(host, _)| host);
        Parsed {
            row,
            hosts: parse(&mut row.hosts.iter()),
            serving: parse(&mut row.hosts.iter().chain(row.search).chain(auth)),
            blobs: parse(&mut row.blobs.iter()),
        }
    };
    KNOWN.iter().map(parsed).collect()
});

fn find(
    host: &Host,
    of: impl Fn(&'static Parsed) -> &'static [HostPattern],
) -> Option<&'static Known> {
    PARSED
        .iter()
        .find(|parsed| of(parsed).iter().any(|pattern| pattern.covers(host)))
        .map(|parsed| parsed.row)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn every_host_of_the_table_is_a_pattern() {
        for row in KNOWN {
            let auth = row.auth.iter().map(|(host, _)| host);
            for text in row
                .hosts
                .iter()
                .chain(row.search)
                .chain(row.blobs)
                .chain(auth)
            {
                let pattern: HostPattern = text.parse().unwrap();
                assert_eq!(pattern.as_str(), *text, "lower case in {}", row.name);
            }
            assert!(!row.hosts.is_empty() && !row.name.is_empty());
            for (_, prefix) in row.auth {
                assert!(prefix.is_none_or(|p| p.starts_with('/')), "{}", row.name);
            }
        }
    }

    #[test]
    fn no_host_serves_two_registries() {
        let mut seen = HashSet::new();
        for row in KNOWN {
            assert!(seen.insert(row.name));
            for text in row.hosts.iter().chain(row.search) {
                assert!(seen.insert(text) || *text == row.name, "{text}");
            }
        }
    }

    #[test]
    fn no_blob_host_is_answered_as_a_registry() {
        for row in KNOWN {
            for text in row.blobs.iter().filter(|text| !text.contains('*')) {
                assert!(row_serving(&host(text)).is_none(), "{text}");
            }
        }
    }

    #[test]
    fn a_registry_is_found_by_its_name_its_hosts_and_its_search_host() {
        for text in ["docker.io", "registry-1.docker.io", "index.docker.io"] {
            let row = row_of(&text.parse().unwrap()).unwrap();
            assert_eq!(row.name, "docker.io");
        }
        let ecr = "1.dkr.ecr.eu-west-1.amazonaws.com".parse().unwrap();
        assert_eq!(row_of(&ecr).unwrap().name, "Amazon ECR");
        assert!(row_of(&"registry.partner.example".parse().unwrap()).is_none());
        assert!(row_of(&"auth.docker.io".parse().unwrap()).is_none());
    }

    #[test]
    fn a_blob_host_leads_to_its_registry() {
        let row = row_redirecting_to(&host("production.cloudflare.docker.com")).unwrap();
        assert_eq!(row.name, "docker.io");
        assert_eq!(
            row_redirecting_to(&host("cdn03.quay.io")).unwrap().name,
            "quay.io"
        );
    }
}
