//! One `[[registry]]` entry: its rules, its TLS, its login.

use super::RegistryTls;
use super::checked::ports;
use super::file;
use crate::policy::RegistryConfig;
use crate::upstream::credentials::LoginSource;

pub(super) fn registry(entry: file::Registry) -> RegistryConfig {
    RegistryConfig {
        host: entry.host.0,
        ports: ports(entry.ports),
        auth: entry.auth,
        push: entry.push,
        tag_ttl: entry.tag_ttl,
        repositories: entry.repositories,
        deny_repositories: entry.deny_repositories,
        enabled: entry.enabled,
        url: entry.url.0.map(|url| url.0),
        token_hosts: entry.token_hosts.into_iter().map(|one| one.0).collect(),
    }
}

/// What an entry has of its own for TLS; the error is a key and what to say there.
pub(super) fn own_tls(
    entry: &file::Registry,
) -> Result<Option<RegistryTls>, (&'static str, &'static str)> {
    let client = match (&entry.client_certificate.0, &entry.client_key.0) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(("registry.client_certificate", "say client_key as well")),
        (None, Some(_)) => return Err(("registry.client_key", "say client_certificate as well")),
    };
    let tls = RegistryTls {
        ca_file: entry.ca_file.0.clone(),
        client,
    };
    Ok((tls != RegistryTls::default()).then_some(tls))
}

/// The key of an entry that says where its password is.
pub(super) fn key_of(source: &LoginSource) -> &'static str {
    match source {
        LoginSource::PasswordFile { .. } => "registry.password_file",
        LoginSource::PasswordEnv { .. } => "registry.password_env",
        LoginSource::DockerConfig { .. } => "registry.docker_config",
    }
}

/// The gateway's own login of an entry; the error is a key and what to say there.
pub(super) fn login(
    entry: &file::Registry,
) -> Result<Option<LoginSource>, (&'static str, &'static str)> {
    let (username, file, variable) = (
        entry.username.0.clone(),
        entry.password_file.0.clone(),
        entry.password_env.0.clone(),
    );
    match (username, file, variable, entry.docker_config.0.clone()) {
        (None, None, None, None) => Ok(None),
        (None, None, None, Some(file)) => Ok(Some(LoginSource::DockerConfig {
            file,
            host: entry.host.0.to_string(),
        })),
        (_, _, _, Some(_)) => Err((
            "registry.docker_config",
            "it brings its own name and password; leave out username, password_file and password_env",
        )),
        (Some(username), Some(file), None, None) => {
            Ok(Some(LoginSource::PasswordFile { username, file }))
        }
        (Some(username), None, Some(variable), None) => {
            Ok(Some(LoginSource::PasswordEnv { username, variable }))
        }
        (Some(_), Some(_), Some(_), None) => Err((
            "registry.password_env",
            "there is a password_file already; leave one of them out",
        )),
        // As anybody; whoever meant a login is warned.
        (Some(_), None, None, None) => Ok(None),
        (None, ..) => Err(("registry.password_file", "say username as well")),
    }
}
