//! Whether anybody may read a repository: found out by asking as nobody in particular.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header;
use tokio::task::JoinHandle;
use tracing::{Instrument, debug};

use super::super::call::Call;
use super::super::manifest::manifest_type;
use super::Access;
use crate::cache::index::now_seconds;
use crate::oci::reference::RepoName;
use crate::upstream::identity::Identity;

/// A question under way about everybody's access.
#[must_use]
#[derive(Debug)]
pub struct Asking(Option<JoinHandle<()>>);

// === impl Access ===

impl Access {
    /// Finds out, once in a while, whether anybody may read `repo`: so that one caller's pull makes what
    /// is public available to all, and to all while upstream is away. `path` is what the caller asks for.
    pub fn ask_for_everybody(self: &Arc<Self>, call: &Call, repo: &RepoName, path: &str) -> Asking {
        let key = self.grant_key(&call.endpoint, repo, None);
        if call.by_policy_alone()
            || call.credential().is_none()
            || self.fresh(&key)
            || self.asked.contains_key(&key)
        {
            return Asking(None);
        }
        self.asked.insert(key, ());
        let (access, path, repo) = (self.clone(), path.to_owned(), repo.clone());
        let endpoint = call.endpoint.clone();
        let mut headers = call.asking(None);
        for accept in call.headers.get_all(header::ACCEPT) {
            headers.append(header::ACCEPT, accept.clone());
        }
        let asking = async move {
            let answer = access
                .upstream
                .fetch(
                    &endpoint,
                    &Identity::Anonymous,
                    Method::HEAD,
                    &path,
                    headers,
                    repo.as_str(),
                )
                .await;
            // A registry that cannot be asked has not refused: ask again with the next request.
            let answer = match answer {
                Ok(answer) => answer,
                Err(fault) => {
                    debug!(%path, error = %fault, "everybody's access could not be asked for");
                    access.asked.invalidate(&key);
                    return;
                }
            };
            let status = answer.status();
            debug!(%path, %status, "everybody's access was asked for");
            if status.is_success() && manifest_type(answer.headers()).is_some() {
                let now = Some(now_seconds());
                access.set(&endpoint, &repo, key, now, true).await;
            } else if matches!(status.as_u16(), 401 | 403) {
                access.set(&endpoint, &repo, key, None, true).await;
            }
        };
        Asking(Some(tokio::spawn(asking.in_current_span())))
    }
}

// === impl Asking ===

impl Asking {
    /// Waits for the answer, though not for long: it decides about others, not about this caller.
    pub async fn settled(self) {
        if let Some(asking) = self.0 {
            let _ = tokio::time::timeout(ASKING_FOR, asking).await;
        }
    }
}

const ASKING_FOR: Duration = Duration::from_secs(1);
