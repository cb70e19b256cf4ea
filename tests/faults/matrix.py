"""The fault matrix: what is injected, what must hold, and the tests that see to it. A row without a test is printed as not built."""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """`must`: no release without it. `tests`: node ids under tests/; several together make the row. Those in lab/ need root."""

    fault: str
    oracle: str
    tests: tuple[str, ...] = ()
    must: bool = False


_CELERY: Final = "control/test_celery.py"
_DEAF: Final = "control/test_deaf.py"
_RECORD: Final = "machines/test_reconcile.py"
_WATCH: Final = "machines/test_watch_faults.py"
_KUBE: Final = "simulator/test_kube_watcher_faults.py"
_BREAKER: Final = "safety/test_breakers.py"
_STORM: Final = "recovery/test_storm.py"
_PEOPLE: Final = "recovery/test_people.py"
_BATCHES: Final = "machines/test_batches.py"
_REINSTALL: Final = "recovery/test_reinstall.py"

ROWS: Final[tuple[Row, ...]] = (
    Row("a pass dies at any numbered point", "same end, each effect once", (f"{_RECORD}::test_a_worker_that_dies_at_any_point_changes_neither_the_end_nor_how_often_a_step_runs",), True),
    Row("recovery dies after any statement", "same end, each effect once", ("recovery/test_crash.py",), True),
    Row("worker SIGSTOP past its lease, SIGCONT", "writes nothing, in database and on host", ("machines/test_hot_tasks.py::test_a_process_stopped_past_its_lease_and_continued_writes_nothing", "machines/test_fence.py")),
    Row("a worker's lease runs out", "taken with a new epoch", ("machines/test_hot_claim.py::test_a_lease_that_ran_out_is_taken_with_a_new_epoch_and_one_more_attempt",), True),
    Row("worker is asked to end in a pass", "nothing held, nothing lost", (f"{_CELERY}::test_a_worker_that_is_asked_to_end_leaves_nothing_held_and_its_name",)),
    Row("two beats at once", "periodic work once a slot", (f"{_CELERY}::test_two_beats_run_periodic_work_once_a_slot",)),
    Row("Valkey flushed, then stopped", "no work lost", (f"{_CELERY}::test_work_flows_and_outlives_a_flushed_and_a_stopped_valkey",), True),
    Row("the same batch in five hands", "done once", ("machines/test_hot_tasks.py::test_the_same_batch_in_five_hands_is_done_once",)),
    Row("PostgreSQL kill -9 under writes", "acknowledged is there, 503 meanwhile, well by itself", ("api/test_outages.py",), True),
    Row("web process restarted", "requests answered, watches go on", ("api/test_restarts.py",)),
    Row("API server away", "Unknown, never down; times restart", (f"{_KUBE}::test_a_cluster_that_cannot_be_reached_is_unknown_never_down_and_its_times_restart", f"{_WATCH}::test_a_cluster_that_does_not_answer_makes_conditions_unknown_and_never_false"), True),
    Row("most of a cluster silent", "nothing done but Unknown", (f"{_STORM}::test_a_cluster_that_falls_silent_is_unknown_and_nothing_is_done", f"{_KUBE}::test_silent_nodes_are_unknown_never_down_and_their_times_restart"), True),
    Row("a rack silent", "left alone, the rest is seen", (f"{_STORM}::test_a_rack_that_falls_silent_is_left_alone_while_the_rest_is_seen",)),
    Row("watch 410 storm", "listed anew, no node taken away", (f"{_KUBE}::test_a_storm_of_410_is_met_by_lists_and_takes_no_node_away",)),
    Row("watch silently stuck", "opened anew", (f"{_WATCH}::test_a_stream_that_says_nothing_is_opened_anew", f"{_KUBE}::test_a_half_open_stream_lets_the_view_grow_old_until_it_is_opened_anew")),
    Row("list empty or truncated with 200", "no node taken away", (f"{_WATCH}::test_an_empty_list_takes_no_node_away", f"{_KUBE}::test_lists_that_go_on_lying_take_no_node_away_and_make_nobody_unwell"), True),
    Row("API server 429 and 500", "waited for, nothing lost", (f"{_KUBE}::test_a_retry_after_is_waited_for", f"{_KUBE}::test_refusals_in_mid_stream_lose_nothing")),
    Row("an answer of a host is lost", "nothing lost, nothing twice", (f"{_RECORD}::test_a_lost_answer_loses_nothing",)),
    Row("a poisoned object", "the others go on", ("machines/test_hot_tasks.py::test_a_poisoned_machine_is_set_aside_and_the_others_go_on", f"{_RECORD}::test_a_poisoned_machine_spoils_no_batch")),
    Row("a storm: a whole cluster not ready", "the breaker's threshold and not one more; others undisturbed", (_STORM, _BREAKER), True),
    Row("four schedulers order at once", "the threshold and not one more", (f"{_STORM}::test_many_processes_that_order_at_once_do_not_go_beyond_the_threshold", f"{_BREAKER}::test_four_askers_of_a_thousand_at_once_get_exactly_the_limit")),
    Row("a breaker is reset days later", "only what is true now is acted on", (f"{_STORM}::test_after_a_reset_days_later_only_what_is_true_now_is_acted_on",), True),
    Row("a tripped breaker", "healing goes on", (f"{_STORM}::test_healing_goes_on_while_the_breaker_is_open",)),
    Row("flapping, a hundred flips", "one fault that counts them", ("recovery/test_detect.py::test_a_hundred_flips_are_one_fault_that_counts_them",)),
    Row("the same machine a fourth time in a day", "a person", (f"{_PEOPLE}::test_the_fourth_repair_within_a_day_is_a_persons",)),
    Row("a worker dies, or the answer is lost, while a system is reinstalled", "installed once, filled again, no other fault", (f"{_REINSTALL}::test_killed_after_any_statement_it_ends_the_same_and_the_provisioner_is_asked_once", f"{_REINSTALL}::test_a_request_whose_answer_is_lost_is_not_made_again", f"{_REINSTALL}::test_a_worker_that_dies_after_the_request_leaves_one_installation", f"{_REINSTALL}::test_no_other_fault_is_found_and_nobody_else_works_on_a_host_that_is_installed_anew"), True),
    Row("a repair that does not help", "the next rung, then a person", (f"{_PEOPLE}::test_a_rung_that_does_not_help_is_followed_by_the_next_and_the_last_by_a_person",)),
    Row("a person cancels, holds, cordons", "wins at once", (f"{_PEOPLE}::test_a_cancelled_remediation_ends_before_its_next_step_and_leaves_the_machine_to_people", f"{_PEOPLE}::test_a_hold_keeps_a_repair_from_beginning_and_says_whose_it_is", "machines/test_final_state.py"), True),
    Row("the kill switch in the middle", "nothing new begins", (f"{_PEOPLE}::test_the_kill_switch_stops_a_repair_that_was_ordered", "safety/test_switch.py")),
    Row("a disruption budget that never lets go", "bounded, named, no pod lost", ("machines/test_drain_faults.py",)),
    Row("a bad package", "stops at the canary, is put back", ("machines/test_layers.py::test_a_bad_version_in_a_layer_hits_one_machine_and_no_more", f"{_RECORD}::test_a_bad_version_is_rolled_back_and_the_machine_waits_for_another_set", f"{_RECORD}::test_a_wrong_checksum_stalls_and_nothing_is_installed"), True),
    Row("one person, many machines", "a second person, not the author, for exactly that list", (f"{_BATCHES}::test_over_the_limit_nothing_begins_before_another_person_approved_that_list", f"{_BATCHES}::test_whose_word_counts", f"{_BATCHES}::test_one_by_one_is_no_way_around_the_second_person"), True),
    Row("the set changes between count and word", "the frozen list, or a refusal", (f"{_BATCHES}::test_the_list_is_what_was_counted_and_nothing_that_came_later", f"{_BATCHES}::test_another_list_than_expected_is_refused", "console/test_matching.py"), True),
    Row("most of a batch fails", "nothing more begins", (f"{_BATCHES}::test_too_many_failures_stop_the_rest_until_a_person_says_go_on",)),
    Row("yesterday's database", "acts on nothing of before", ("test_cli.py::test_a_restored_database_acts_on_nothing_of_before",)),
    Row("a guard is taken out", "a test fails", ("safety/test_guards.py",)),
    Row("events doubled, late, reordered", "same end", ("events", "recovery/test_told.py")),
    Row("clock two hours ahead, or 90 minutes behind, in one process", "no lease stolen, no time written that is not the database's", ("lab/test_clock.py",)),
    Row("database disk full", "clean error, alarm, well by itself", ("lab/test_disk_full.py",)),
    Row("worker alive but deaf", "restarted by a watchdog, and not without need", ("control/test_deaf.py",)),
    Row("broker slow, resets, a black hole", "work goes on", (f"{_DEAF}::test_work_goes_on_after_a_broker_was_slow_and_broke_connections_off", f"{_DEAF}::test_work_goes_on_after_all_connections_fell_into_a_black_hole")),
    Row("a third of the packets lost", "completes, each step once", ("lab/test_packet_loss.py",)),
    Row("out of memory in one task", "set aside with its reason, the others go on", ("control/test_memory.py", "control/test_work.py::test_an_object_that_breaks_its_batch_is_set_aside_with_a_failure_counted_and_the_others_go_on")),
)  # fmt: skip
