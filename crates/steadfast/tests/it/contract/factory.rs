//! What the framework's validations and stress tests ask for: providers, each over a store of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use duroxide::provider_stress_tests::parallel_orchestrations::ProviderStressFactory;
use duroxide::provider_validations::ProviderFactory;
use duroxide::providers::Provider;

use crate::harness::{Engine, Mode, Store};

/// Long enough for a statement to come back within a fraction of it on a busy machine, and no longer: some forty
/// validations sleep until it is over.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Gives each call a provider over a fresh store; its hooks act on the last one.
pub(crate) struct Factory {
    engine: Engine,
    mode: Mode,
    stores: Mutex<Vec<Arc<Store>>>,
}

impl Factory {
    pub(crate) fn new(engine: Engine, mode: Mode) -> Self {
        Self {
            engine,
            mode,
            stores: Mutex::new(Vec::new()),
        }
    }

    /// Closes every provider made so far.
    pub(crate) async fn close(&self) {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap());
        for store in stores {
            store.close().await;
        }
    }

    async fn provider(&self) -> Arc<dyn Provider> {
        let store = Arc::new(Store::on(self.engine, self.mode));
        self.stores.lock().unwrap().push(Arc::clone(&store));
        store.open().await
    }

    fn last(&self) -> Arc<Store> {
        Arc::clone(
            self.stores
                .lock()
                .unwrap()
                .last()
                .expect("a provider was created before"),
        )
    }
}

#[async_trait::async_trait]
impl ProviderFactory for Factory {
    async fn create_provider(&self) -> Arc<dyn Provider> {
        self.provider().await
    }

    fn lock_timeout(&self) -> Duration {
        LOCK_TIMEOUT
    }

    fn short_poll_threshold(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn corrupt_instance_history(&self, instance: &str) {
        self.last().corrupt_history(instance).await;
    }

    async fn get_max_attempt_count(&self, instance: &str) -> u32 {
        self.last().max_attempt_count(instance).await
    }
}

#[async_trait::async_trait]
impl ProviderStressFactory for Factory {
    async fn create_provider(&self) -> Arc<dyn Provider> {
        self.provider().await
    }
}
