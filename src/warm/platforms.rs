//! Which images are wanted, where only some platforms are.

use super::pull::Puller;
use super::{Event, PullError};
use crate::oci::digest::Digest;
use crate::oci::manifest::{Children, DOCKER_LIST, Descriptor, OCI_INDEX, Platform};

/// Which images of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    #[default]
    All,
    Only(Vec<Platform>),
}

// === impl Puller ===

impl<F: Fn(Event) + Send + Sync> Puller<'_, F> {
    /// The manifests of an index that are wanted.
    pub(super) fn chosen(&self, children: &Children) -> Result<Vec<Digest>, PullError> {
        let all = &children.manifests;
        let Platforms::Only(wanted) = &self.options.platforms else {
            return Ok(all.iter().map(|one| one.digest.clone()).collect());
        };
        let fits = |one: &&Descriptor| match &one.platform {
            Some(offered) => wanted.iter().any(|platform| platform.is_met_by(offered)),
            None => matches!(one.media_type.as_str(), OCI_INDEX | DOCKER_LIST),
        };
        let chosen: Vec<Digest> = all
            .iter()
            .filter(fits)
            .map(|one| one.digest.clone())
            .collect();
        if chosen.is_empty() && !all.is_empty() {
            let names = |platforms: Vec<String>| platforms.join(", ");
            let offered = all.iter().filter_map(|one| one.platform.as_ref());
            return Err(PullError::NoPlatform {
                image: self.image.to_string(),
                wanted: names(wanted.iter().map(Platform::to_string).collect()),
                offered: names(offered.map(Platform::to_string).collect()),
            });
        }
        Ok(chosen)
    }

    /// Whether an image that is in no index is for a platform that is wanted: its configuration knows,
    /// and comes before its layers then. Answers which that is, and how many bytes came; `None` where
    /// nothing had to be known.
    pub(super) async fn judge(
        &self,
        children: &Children,
    ) -> Result<Option<(Digest, u64)>, PullError> {
        let (Platforms::Only(wanted), Some(config)) = (&self.options.platforms, &children.config)
        else {
            return Ok(None);
        };
        self.tell_of(config);
        let came = self.blob(config.clone()).await?;
        let judged = Ok(Some((config.digest.clone(), came)));
        let about = self.warm.cache.about(&config.digest).await;
        // What is no image, such as a chart, runs on whatever it is given to.
        let Some(offered) = about.and_then(|about| about.platform.parse::<Platform>().ok()) else {
            return judged;
        };
        // Many builders leave the variant out; what they made may well be of the one that is wanted.
        let fits = |platform: &Platform| {
            platform.is_met_by(&offered)
                || (offered.variant.is_none()
                    && platform.os == offered.os
                    && platform.architecture == offered.architecture)
        };
        if wanted.iter().any(fits) {
            return judged;
        }
        let names: Vec<String> = wanted.iter().map(Platform::to_string).collect();
        Err(PullError::OtherPlatform {
            image: self.image.to_string(),
            wanted: names.join(", "),
            offered,
        })
    }
}
