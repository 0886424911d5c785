//! The failure tables of docs/team.md, row by row: which tests show what each row says.

/// The rows of both tables, by how they begin, and the tests of each.
const ROWS: [(&str, &[&str]); 24] = [
    // When the server is lost
    (
        "the server stops or is paused, or the network fails",
        &[
            "lost::after_a_kill_of_the_server_each_gateway_serves_its_share_and_says_so_once",
            "lost::while_the_server_is_stopped_only_the_first_requests_wait_and_nothing_is_lost",
            "lost::a_window_holds_through_a_loss_and_a_server_that_comes_back_empty",
            "keys::a_paused_server_is_waited_for_once_and_for_the_timeout_at_most",
        ],
    ),
    (
        "a limit of a day, a quota or a budget was not used",
        &["lost::a_limit_that_was_not_used_before_the_loss_leaves_nothing_until_the_server_is_back"],
    ),
    (
        "a limit per minute was not used",
        &["lost::a_limit_that_was_not_used_before_the_loss_leaves_nothing_until_the_server_is_back"],
    ),
    (
        "the server is slower than `timeout`",
        &["lost::a_server_slower_than_the_timeout_counts_as_lost_until_it_is_fast"],
    ),
    (
        "it is read-only (a replica), or still loads its data",
        &[
            "lost::a_read_only_server_counts_as_lost_until_it_is_writable",
            "lost::a_server_that_loads_its_data_counts_as_lost_until_it_has_them",
        ],
    ),
    ("its memory is full", &["lost::a_server_out_of_memory_counts_as_lost_until_there_is_room"]),
    (
        "it returns with its data",
        &[
            "lost::while_the_server_is_stopped_only_the_first_requests_wait_and_nothing_is_lost",
            "lost::a_server_that_loads_its_data_counts_as_lost_until_it_has_them",
        ],
    ),
    (
        "it returns empty",
        &[
            "lost::after_a_kill_of_the_server_each_gateway_serves_its_share_and_says_so_once",
            "keys::an_emptied_server_gets_keys_and_the_largest_counts_back_before_it_serves",
        ],
    ),
    (
        "a key was seen in the last 15 min",
        &[
            "keys::without_the_server_each_gateway_serves_its_share_and_the_keys_it_has_seen",
            "keys::without_the_server_each_gateway_has_its_share_of_a_budget",
            "keys::a_key_revoked_while_the_server_is_unreachable_is_rejected_at_once_where_its_file_is",
        ],
    ),
    ("a key was not seen", &["keys::without_the_server_each_gateway_serves_its_share_and_the_keys_it_has_seen"]),
    (
        "a replica is promoted",
        &[
            "lost::a_promoted_replica_continues_with_the_counts_of_the_primary",
            "keys::a_promoted_replica_has_the_keys_and_what_they_spent",
        ],
    ),
    (
        "a gateway starts without the server",
        &["lost::a_gateway_that_starts_without_the_server_is_not_ready_until_it_is_reachable"],
    ),
    // One login over several machines
    ("no home has ever published a token", &["edges::an_edge_without_a_home_says_so_and_is_ready_once_there_is_one"]),
    (
        "the home stops, even during a renewal",
        &["edges::a_home_killed_in_a_renewal_leaves_the_edges_their_token_until_it_ends"],
    ),
    (
        "the home's machine is lost permanently",
        &["edges::a_home_killed_in_a_renewal_leaves_the_edges_their_token_until_it_ends"],
    ),
    (
        "the home runs and cannot renew",
        &["edges::a_home_that_runs_and_cannot_renew_leaves_the_edges_their_token_until_it_ends"],
    ),
    (
        "the server is unreachable",
        &["edges::while_the_server_is_unreachable_the_home_renews_and_the_edges_serve_from_memory"],
    ),
    (
        "the server is emptied",
        &["edges::sixteen_edges_that_saw_a_401_together_cost_one_renewal_and_an_emptied_server_none"],
    ),
    ("the server returns an older token", &["edges::an_older_token_on_the_server_costs_no_renewal"]),
    ("clocks differ", &["edges::a_home_killed_in_a_renewal_leaves_the_edges_their_token_until_it_ends"]),
    (
        "the credential file was copied",
        &["edges::a_second_home_by_a_copied_file_is_warned_about_and_a_restarted_one_is_not"],
    ),
    ("the team secrets differ", &["edges::a_token_encrypted_with_another_secret_is_reported_and_not_used"]),
    ("the home is logged out", &["edges::a_logout_at_home_ends_the_edges_and_a_login_brings_them_back"]),
    (
        "an attacker reads the server",
        &[
            "edges::sixteen_edges_that_saw_a_401_together_cost_one_renewal_and_an_emptied_server_none",
            "keys::every_change_of_a_key_applies_from_the_next_request_at_gateways_without_its_file",
        ],
    ),
];

const DOCUMENT: &str = include_str!("../../docs/team.md");

/// The first cells of the tables whose first column is headed `what happens`.
fn rows() -> Vec<&'static str> {
    let mut rows = Vec::new();
    let mut is_within = false;
    for line in DOCUMENT.lines() {
        let cell = line.strip_prefix("| ").and_then(|rest| rest.split(" |").next());
        is_within = (is_within || cell == Some("what happens")) && line.starts_with('|');
        rows.extend(cell.filter(|cell| is_within && *cell != "what happens"));
    }
    rows
}

#[test]
fn every_row_of_the_failure_tables_has_tests_and_every_test_is_there() {
    let rows = rows();
    for row in &rows {
        assert!(ROWS.iter().any(|(begins, tests)| row.starts_with(begins) && !tests.is_empty()), "no test for: {row}");
    }
    for (begins, tests) in ROWS {
        assert_eq!(rows.iter().filter(|row| row.starts_with(begins)).count(), 1, "rows that begin with: {begins}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let source = match file {
                "lost" => include_str!("lost.rs"),
                "keys" => include_str!("keys.rs"),
                _ => include_str!("edges.rs"),
            };
            assert!(source.contains(&format!("#[test]\nfn {name}()")), "{test}");
        }
    }
}
