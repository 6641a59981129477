//! What the configuration speaks of and is not there.
//!
//! `serve` goes on without: a secret may come later than the gateway, as a mounted one does, and what is
//! cached needs none. It says so at the start. `check` is asked whether the configuration is good.

use crate::config::{Config, ConfigError, KeyPath};
use crate::policy::Policy;
use crate::upstream::credentials::LoginSource;
use crate::warm;

/// A login of the gateway's own that cannot be read.
pub struct MissingLogin {
    pub error: ConfigError,
    /// The process that serves may have it all the same.
    pub perhaps: bool,
}

/// Logins of the gateway's own that cannot be read.
pub fn missing_logins(config: &Config) -> Vec<MissingLogin> {
    let mut missing = Vec::new();
    for login in config.logins.iter().filter(|login| login.used) {
        let Err(e) = login.source.examine() else {
            continue;
        };
        let mend = match login.source {
            LoginSource::PasswordFile { .. } => {
                "it has to hold the password, and to be readable for the user that the gateway runs as"
            }
            LoginSource::PasswordEnv { .. } => {
                "it has to be set in the environment of `pierhead serve`; or say password_file"
            }
            LoginSource::DockerConfig { .. } => {
                "`docker login` writes one; it has to be readable for the user that the gateway runs as"
            }
        };
        missing.push(MissingLogin {
            perhaps: e.is_of_this_process(),
            error: ConfigError::Value {
                origin: login.origin.clone(),
                key: login.key.clone(),
                message: format!("{e}; {mend}"),
            },
        });
    }
    missing
}

/// Images of `[[prefetch]]` whose registry is not answered here.
pub fn unanswered(config: &Config, policy: &Policy) -> Vec<ConfigError> {
    let entries = config.prefetch.iter().zip(&config.prefetch_origins);
    let mut unanswered = Vec::new();
    for (at, (entry, origin)) in entries.enumerate() {
        for image in &entry.images {
            if let Err(e) = warm::answered(policy, &image.registry) {
                unanswered.push(ConfigError::Value {
                    origin: origin.clone(),
                    key: KeyPath::new("prefetch.images", Some(at + 1)),
                    message: format!("{image} cannot be pulled: {e}"),
                });
            }
        }
    }
    unanswered
}
