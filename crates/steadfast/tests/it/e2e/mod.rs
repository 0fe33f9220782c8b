//! Workflows through the framework's own runtime: each scenario runs on each engine and in both poll modes from one source.

mod activities;
mod cancellation;
mod continue_as_new;
mod copy;
mod custom_status;
mod detached;
mod events;
mod kv;
mod management;
mod poison;
mod queues;
mod races;
mod restart;
mod retries;
mod sessions;
mod stage;
mod sub_orchestrations;
mod tags;
mod timers;
mod versioning;

/// Makes the tests `<engine>::short_poll::<theme>::<name>` and `<engine>::long_poll::<theme>::<name>` of each scenario.
macro_rules! scenarios {
    (@modes $engine:ident $($theme:ident { $($name:ident,)* })*) => {
        mod short_poll {
            $(mod $theme { $(scenarios!(@test $engine $theme $name ShortPoll);)* })*
        }

        mod long_poll {
            $(mod $theme { $(scenarios!(@test $engine $theme $name LongPoll);)* })*
        }
    };
    (@test $engine:ident $theme:ident $name:ident $mode:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let store = crate::harness::Store::on(crate::harness::Engine::$engine, crate::harness::Mode::$mode);
            crate::e2e::$theme::$name(&store).await;
            store.close().await;
        }
    };
    ($($list:tt)*) => {
        mod postgres {
            scenarios!(@modes Postgres $($list)*);
        }

        mod embedded {
            scenarios!(@modes Embedded $($list)*);
        }
    };
}

scenarios! {
    activities {
        a_chain_runs_in_sequence,
        fan_out_fans_in_in_order,
        a_failure_reaches_the_orchestration,
        an_uncaught_failure_fails_the_instance,
        a_panic_fails_the_activity,
        any_payload_survives,
        many_instances_run_side_by_side,
        two_runtimes_share_the_work,
    }
    retries {
        a_flaky_activity_is_retried,
        attempts_run_out,
        a_hanging_attempt_times_out,
    }
    timers {
        a_timer_fires_when_due,
        several_timers_are_due_together,
        timers_of_many_instances_are_due_together,
        the_shorter_timer_fires_first,
    }
    races {
        an_activity_beats_a_timer,
        a_timer_beats_an_activity,
        an_event_beats_a_timer,
        a_timer_beats_an_event,
        a_timer_beats_a_sub_orchestration,
    }
    events {
        an_event_is_received_after_waiting,
        an_event_before_its_wait_is_dropped,
        equal_waits_take_events_in_order,
        events_go_by_name,
    }
    queues {
        messages_arrive_in_order,
        messages_are_kept_until_dequeued,
        two_queues_are_independent,
        messages_survive_continue_as_new,
    }
    sub_orchestrations {
        a_child_returns_its_result,
        children_nest,
        a_child_has_the_id_it_is_given,
        children_fan_out_and_in,
        a_failure_of_the_child_reaches_the_parent,
        an_uncaught_failure_climbs_to_the_root,
    }
    continue_as_new {
        each_execution_has_its_own_history,
        unread_messages_are_carried_forward,
        the_next_execution_may_have_another_version,
        a_child_that_continues_answers_its_parent,
    }
    cancellation {
        a_waiting_instance_is_cancelled,
        cancellation_reaches_children,
        cancellation_reaches_a_running_activity,
        cancellation_removes_a_queued_activity,
        cancelling_what_has_ended_changes_nothing,
    }
    sessions {
        a_session_stays_with_one_runtime,
        a_backlog_is_worked_off_while_others_wait,
        a_session_moves_when_its_runtime_stops,
        retries_stay_on_their_session,
    }
    tags {
        activities_go_to_the_runtime_that_takes_their_tag,
        a_tag_that_nobody_takes_waits,
    }
    kv {
        values_are_set_read_and_cleared,
        values_outlive_the_instance,
        values_cross_continue_as_new,
        a_client_sees_values_while_the_instance_runs,
        an_instance_reads_the_values_of_another,
    }
    custom_status {
        changes_are_seen_one_by_one,
        a_reset_status_is_none,
        the_status_crosses_continue_as_new,
    }
    versioning {
        new_instances_take_the_latest_version,
        a_running_instance_keeps_its_version,
    }
    poison {
        an_unregistered_activity_is_poison,
        an_unregistered_orchestration_is_poison,
        a_poisoned_child_fails_its_parent,
        an_activity_that_kills_its_workers_is_poison,
        a_panicking_orchestration_fails,
        a_corrupt_history_poisons_only_its_own_instance,
    }
    detached {
        a_detached_orchestration_lives_on_its_own,
    }
    management {
        instances_are_listed_by_status,
        an_instance_describes_itself,
        statistics_count_events_and_values,
        system_metrics_count_everything,
        a_tree_is_deleted_as_a_whole,
        a_running_instance_is_deleted_only_by_force,
        a_deleted_id_can_be_used_again,
        many_are_deleted_in_bulk,
        old_executions_are_pruned,
    }
    restart {
        a_runtime_goes_on_where_another_stopped,
        a_timer_outlives_its_runtime,
        an_abandoned_activity_runs_again,
    }
}
