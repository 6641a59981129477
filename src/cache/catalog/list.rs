//! Lists.
use super::*;
use crate::cache::Cache;
impl Cache {
    /// A page of images, by origin, repository and tag.
    pub async fn images(&self, filter: &Filter) -> Page<ImageRow> {
        todo!("{filter:?}")
    }
    /// A page of repositories, by origin and name.
    pub async fn repositories(&self, filter: &Filter) -> Page<RepositoryRow> {
        todo!("{filter:?}")
    }
    /// Every registry that something is known of.
    pub async fn registries(&self) -> Vec<RegistryRow> {
        todo!()
    }
    /// The cache in numbers. Looks at every tag; blobs are counted, not looked at.
    pub async fn stats(&self) -> Stats {
        todo!()
    }
}
