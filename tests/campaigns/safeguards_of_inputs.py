"""Safeguards of ranks, stores, texts and configurations: see `tests.campaigns.safeguards`."""

from tests.campaigns.safeguard import Safeguard

_TRAINER = "tests/train/test_trainer.py::"
_NEIGHBOURS = "tests/comm/test_neighbours.py::"
_MPI = "tests/comm/test_mpi_transport.py::"
_BUILD = "tests/data/builder/test_store_builder.py::"
_STORE = "tests/data/store/test_token_store.py::"
_INTEGRITY = "tests/data/store/test_integrity.py::"
_CONFIG = "tests/config/test_load.py::"
_READING = "tests/test_reading.py::"
_LOCATION = "tests/test_location.py::"
_VERSIONS = "tests/test_versions.py::"
_SKIP = "tests/data/builder/test_skip_bad.py::"

SAFEGUARDS = (
    # ---- ranks ---------------------------------------------------------------------------------
    Safeguard(
        "a message says what it is, and is checked",
        "tttscale/comm/messages.py",
        "    if found != wanted:",
        "    if False:",
        (_NEIGHBOURS + "test_a_message_that_was_not_expected_is_named",),
    ),
    Safeguard(
        "over MPI, too",
        "tttscale/comm/mpi_transport.py",
        "        check_header(self._transport.rank, self._transfer.key, buffer[:HEADER_BYTES])",
        "        pass",
        (_MPI + "test_a_message_that_was_not_expected_is_named",),
    ),
    Safeguard(
        "a neighbour's end is noticed where MPI does not say it",
        "tttscale/comm/mpi_transport.py",
        "            if error := self._lost(transfer.peer):",
        "            if error := None:",
        (_MPI + "test_a_dead_rank_is_noticed_soon_and_named_and_ends_the_job",),
    ),
    Safeguard(
        "messages over MPI move while no rank waits",
        "tttscale/comm/mpi_transport.py",
        "        while not self._stopped:",
        "        while False:",
        (_MPI + "test_large_messages_arrive_while_no_rank_waits",),
    ),
    Safeguard(
        "MPI's ranks are the job's",
        "tttscale/comm/mpi_world.py",
        "    if world.rank != ranks.rank:",
        "    if False:",
        (_MPI + "test_ranks_that_are_others_to_mpi_are_refused",),
    ),
    Safeguard(
        "ranks agree on their configuration",
        "tttscale/comm/agreement.py",
        "        if different:",
        "        if False:",
        ("tests/comm/test_agreement.py::test_ranks_with_other_values_end_on_every_rank",),
    ),
    Safeguard(
        "ranks agree on their stores",
        "tttscale/train/build.py",
        "    if len(different):",
        "    if False:",
        ("tests/train/test_build.py::test_ranks_that_see_other_stores_end_on_every_rank",),
    ),
    Safeguard(
        "a failing rank releases the others",
        "tttscale/comm/threads.py",
        "                self.failed.set()\n",
        "                pass\n",
        ("tests/scan/test_ranks_as_threads.py::test_a_failing_rank_releases_the_others_and_is_named",),
    ),
    Safeguard(
        "a rank that waits too long says for what",
        "tttscale/comm/threads.py",
        " s for {self._key} from",
        " s from",
        ("tests/comm/test_threads.py::test_a_message_that_never_comes_is_named",),
    ),
    Safeguard(
        "a lost neighbour is a PeerError",
        "tttscale/comm/mesh.py",
        "            raise lost(f\"rank {self.rank} lost another rank {where}\", error) from None",
        "            raise",
        (_NEIGHBOURS + "test_a_dead_rank_is_noticed_in_a_sum_too",),
    ),
    Safeguard(
        "no rank ends with a code before all are done",
        "tttscale/train/training_run.py",
        "            mesh.gather([0.0])",
        "            pass",
        ("tests/train/test_resume.py::test_no_rank_ends_with_a_code_before_all_are_done",),
    ),
    Safeguard(
        "one Ctrl-C that comes twice is one",
        "tttscale/cluster/interrupts.py",
        "        if now - self._first_at > _REPEATS_SECONDS:",
        "        if True:",
        ("tests/cluster/test_interrupts.py::test_the_same_signal_passed_on_by_the_launcher",),
    ),
    # ---- stores --------------------------------------------------------------------------------
    Safeguard(
        "two builders do not share a folder",
        "tttscale/data/builder/staging.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        ("tests/data/builder/test_staging.py::test_two_builders_do_not_share_a_folder",),
    ),
    Safeguard(
        "a build never writes over what is there",
        "tttscale/data/builder/staging.py",
        "    if out.exists() or out.is_symlink():",
        "    if False:",
        ("tests/data/builder/test_staging.py::test_an_existing_out_is_refused",),
    ),
    Safeguard(
        "equal documents are never in both splits",
        "tttscale/data/builder/store_plan.py",
        "            held = _mixed(table[:, HASH], self.seed)",
        "            held = _mixed(np.arange(len(table), dtype=np.uint64), self.seed)",
        ("tests/data/builder/test_store_plan.py::test_equal_documents_never_part",),
    ),
    Safeguard(
        "a slice has no more bad documents than may be left out",
        "tttscale/data/builder/tokenized.py",
        "    if recipe.bad_documents(tally) > recipe.skip_bad:",
        "    if False:",
        (_SKIP + "test_a_piece_with_too_many_says_how_many_and_which_flag",),
    ),
    Safeguard(
        "nor have all slices together",
        "tttscale/data/builder/text_corpus.py",
        "        if bad > self._recipe.skip_bad:",
        "        if False:",
        (_SKIP + "test_one_more_than_allowed_is_refused_and_gone_on_from",),
    ),
    Safeguard(
        "what no ending declares is not read",
        "tttscale/data/builder/file_formats.py",
        "        if unknown:",
        "        if False:",
        ("tests/data/builder/test_file_formats.py::test_unknown_endings_are_refused_together_before_the_build",),
    ),
    Safeguard(
        "a file of a newer format is called one",
        "tttscale/data/store/manifest.py",
        '        if newer_format(found, cls.model_fields["format_version"].default):',
        "        if False:",
        (_VERSIONS + "test_a_newer_format",),
    ),
    Safeguard(
        "ids outside of the vocabulary do not get into a store",
        "tttscale/data/builder/tokenized.py",
        "    if len(bad):",
        "    if False:",
        (_BUILD + "test_wide_vocabularies_and_ids_outside",),
    ),
    Safeguard(
        "ids outside of the vocabulary do not get out of a store",
        "tttscale/data/store/token_store.py",
        "        if len(tokens) and tokens.max() >= vocab_size:",
        "        if False:",
        (_STORE + "test_ids_beyond_the_vocabulary_are_refused",),
    ),
    Safeguard(
        "a store's manifest has its digest",
        "tttscale/data/store/integrity.py",
        '    if attributes.get("digest") != manifest_digest(fields):',
        "    if False:",
        (_INTEGRITY + "test_edited_metadata_is_refused", _INTEGRITY + "test_every_flipped_bit_is_noticed"),
    ),
    Safeguard(
        "names in a store are no paths",
        "tttscale/data/store/manifest.py",
        "dict[Annotated[str, Field(pattern=FILE_PATTERN)], FileInfo]",
        "dict[str, FileInfo]",
        ("tests/data/store/test_manifest.py::test_manifests_that_lie",),
    ),
    Safeguard(
        "a lost shard does not read as zeros",
        "tttscale/data/store/zarr_guard.py",
        "        if value is None and info is not None:",
        "        if False:",
        (_STORE + "test_a_shard_lost_after_open_is_never_read_as_zeros",),
    ),
    Safeguard(
        "a shard is the one that was built",
        "tttscale/data/store/zarr_guard.py",
        "        if expected is None or expected.index != index_digest(index):",
        "        if False:",
        ("tests/data/store/test_storage.py::test_lost_cut_and_swapped_shards",),
    ),
    Safeguard(
        "a quarantine is about this store",
        "tttscale/data/store/quarantine.py",
        "    if found.fingerprint != fingerprint:",
        "    if False:",
        ("tests/data/store/test_quarantine.py::test_quarantine_is_for_tokens_of_this_store_only",),
    ),
    # ---- texts of others -----------------------------------------------------------------------
    Safeguard(
        "JSON is no deeper than anybody means",
        "tttscale/reading.py",
        "            if depth > _DEEPEST:",
        "            if False:",
        (_READING + "test_what_is_no_json_is_refused_in_a_few_words",),
    ),
    Safeguard(
        "JSON has no key twice",
        "tttscale/reading.py",
        "object_pairs_hook=_without_twins",
        "object_pairs_hook=dict",
        (_READING + "test_what_is_no_json_is_refused_in_a_few_words",),
    ),
    Safeguard(
        "a file larger than allowed is not taken in",
        "tttscale/reading.py",
        "    if len(data) > limit_bytes:",
        "    if False:",
        (_READING + "test_a_file_larger_than_allowed_is_not_taken_in",),
    ),
    Safeguard(
        "no error holds a credential",
        "tttscale/errors.py",
        "map(_shown, scrubbed(message))",
        "map(_shown, message)",
        ("tests/test_scrub.py::test_texts_of_libraries_are_scrubbed",),
    ),
    Safeguard(
        "no error steers the terminal",
        "tttscale/errors.py",
        '"".join(map(_shown, scrubbed(message)))',
        "scrubbed(message)",
        ("tests/test_errors.py::test_what_a_terminal_would_obey_is_escaped",),
    ),
    Safeguard(
        "a location shows no credentials",
        "tttscale/location.py",
        '    return Location(bare, f"{whole}?{parts.query}" if parts.query else whole)',
        '    return Location(f"{whole}?{parts.query}" if parts.query else whole)',
        (_LOCATION + "test_what_is_shown_and_what_is_opened",),
    ),
    Safeguard(
        "credentials that were parsed are hidden from then on",
        "tttscale/location.py",
        "        remember_userinfo(userinfo)\n",
        "        pass\n",
        ("tests/test_scrub.py::test_what_was_parsed_is_known_again_in_any_form",),
    ),
    # ---- configurations ------------------------------------------------------------------------
    Safeguard(
        "unknown keys are refused",
        "tttscale/config/section.py",
        'extra="forbid"',
        'extra="ignore"',
        ("tests/config/test_messages.py::test_unknown_keys_name_the_nearest",),
    ),
    Safeguard(
        "a key that is written twice is refused",
        "tttscale/config/source.py",
        "        if key in result:",
        "        if False:",
        ("tests/config/test_source.py::test_duplicate_keys_are_refused_with_both_lines",),
    ),
    Safeguard(
        "YAML is read by a safe loader only",
        "tttscale/config/source.py",
        "class Loader(yaml.SafeLoader):",
        "class Loader(yaml.UnsafeLoader):",
        ("tests/test_house.py::test_no_pickle_and_no_unsafe_yaml",),
    ),
    Safeguard(
        "a chunk holds whole mini-batches",
        "tttscale/config/checks.py",
        "    if unit is None or chunk % unit == 0:",
        "    if True:",
        ("tests/config/test_checks.py::test_keys_that_do_not_fit_together",),
    ),
)  # fmt: skip
