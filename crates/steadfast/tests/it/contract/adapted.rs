//! The validations that do not take a factory alone, with the signature of the others.

pub(super) mod long_polling {
    use std::sync::Arc;
    use std::time::Duration;

    use duroxide::provider_validations::{ProviderFactory, long_polling as source};
    use duroxide::providers::{Provider, TagFilter};

    use crate::contract::factory::Factory;

    /// These validations time one fetch: connecting and preparing must not count, so one of each kind comes before.
    async fn warm(factory: &Factory) -> Arc<dyn Provider> {
        let provider = ProviderFactory::create_provider(factory).await;
        let lock = Duration::from_secs(30);
        let orchestration = provider.fetch_orchestration_item(lock, Duration::ZERO, None).await;
        assert!(orchestration.expect("a fetch from an empty queue").is_none());
        let work = provider
            .fetch_work_item(lock, Duration::ZERO, None, &TagFilter::default())
            .await;
        assert!(work.expect("a fetch from an empty queue").is_none());
        provider
    }

    pub(in crate::contract) async fn test_short_poll_returns_immediately(factory: &Factory) {
        source::test_short_poll_returns_immediately(&*warm(factory).await, factory.short_poll_threshold()).await;
    }

    pub(in crate::contract) async fn test_short_poll_work_item_returns_immediately(factory: &Factory) {
        let threshold = factory.short_poll_threshold();
        source::test_short_poll_work_item_returns_immediately(&*warm(factory).await, threshold).await;
    }

    pub(in crate::contract) async fn test_long_poll_waits_for_timeout(factory: &Factory) {
        source::test_long_poll_waits_for_timeout(&*warm(factory).await).await;
    }

    pub(in crate::contract) async fn test_long_poll_work_item_waits_for_timeout(factory: &Factory) {
        source::test_long_poll_work_item_waits_for_timeout(&*warm(factory).await).await;
    }

    pub(in crate::contract) async fn test_fetch_respects_timeout_upper_bound(factory: &Factory) {
        source::test_fetch_respects_timeout_upper_bound(&*warm(factory).await).await;
    }
}

pub(super) mod race_replay {
    use duroxide::provider_validations::race_replay as source;
    pub(in crate::contract) use source::*;

    use crate::contract::factory::Factory;

    /// With the last version of the old queue policy, and with the first one of today's.
    pub(in crate::contract) async fn test_continue_as_new_transition_delivery(factory: &Factory) {
        for stamp in ["0.1.30", "0.1.31"] {
            source::test_continue_as_new_transition_delivery(factory, stamp).await;
        }
    }
}
