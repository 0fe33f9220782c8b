//! Both of the framework's stress scenarios, short: every orchestration of them must complete.

use duroxide::provider_stress_tests::large_payload::{LargePayloadConfig, run_large_payload_test_with_config};
use duroxide::provider_stress_tests::parallel_orchestrations::run_parallel_orchestrations_test_with_config;
use duroxide::provider_stress_tests::{StressTestConfig, StressTestResult};

use super::factory::Factory;
use crate::harness::{Engine, Mode};

fn short() -> StressTestConfig {
    StressTestConfig {
        max_concurrent: 10,
        duration_secs: 2,
        activity_delay_ms: 5,
        ..StressTestConfig::default()
    }
}

fn assert_all_completed(result: &StressTestResult) {
    assert!(result.launched > 0, "nothing was launched: {result:?}");
    assert_eq!((result.completed, result.failed), (result.launched, 0), "{result:?}");
}

pub(super) async fn parallel_orchestrations(engine: Engine, mode: Mode) {
    let factory = Factory::new(engine, mode);
    let result = run_parallel_orchestrations_test_with_config(&factory, short())
        .await
        .expect("the stress test runs");
    assert_all_completed(&result);
    factory.close().await;
}

pub(super) async fn large_payload(engine: Engine, mode: Mode) {
    let factory = Factory::new(engine, mode);
    let config = LargePayloadConfig {
        base: StressTestConfig {
            max_concurrent: 3,
            ..short()
        },
        ..LargePayloadConfig::default()
    };
    let result = run_large_payload_test_with_config(&factory, config)
        .await
        .expect("the stress test runs");
    assert_all_completed(&result);
    factory.close().await;
}
