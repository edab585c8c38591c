"""Safeguards, how each would be broken, and the tests that have to notice.

`old` stands exactly once in `file`; tests/test_safeguards.py fails as soon as it does not.
"""

from typing import NamedTuple


class Safeguard(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Of which at least one has to fail."""


_DISK = "tests/train/test_on_disk.py::"
_FOLDER = "tests/train/test_checkpoint_folder.py::"
_CHECKPOINTS = "tests/train/test_checkpoints.py::"
_RECORDER = "tests/train/test_recorder.py::"
_TRAINER = "tests/train/test_trainer.py::"
_NEIGHBOURS = "tests/comm/test_neighbours.py::"
_MPI = "tests/comm/test_mpi_transport.py::"
_BUILD = "tests/data/test_build.py::"
_STORE = "tests/data/test_store.py::"
_INTEGRITY = "tests/data/test_integrity.py::"
_CONFIG = "tests/config/test_load.py::"
_WEIGHTS = "tests/model/test_pretrained.py::"
_RUN_FOLDER = "tests/train/test_run_folder.py::"
_DIVERGENCE = "tests/train/test_divergence.py::"
_FILES = "tests/test_files.py::"
_READING = "tests/test_reading.py::"
_LOCATION = "tests/test_location.py::"
_VERSIONS = "tests/test_versions.py::"
_WIDE = "tests/model/test_wide_gradients.py::"
_PRODUCTS = "tests/kernels/test_cpu_product.py::"
_SKIP = "tests/data/test_skip_bad.py::"

SAFEGUARDS = (
    # ---- what is on disk, and when -------------------------------------------------------------
    Safeguard(
        "a replaced file is on disk before it takes its place",
        "tttscale/files.py",
        "            os.fsync(file.fileno())\n",
        "",
        (_DISK + "test_a_replaced_file_is_on_disk_before_it_takes_its_place",),
    ),
    Safeguard(
        "a replaced file is written beside the old one",
        "tttscale/files.py",
        'path.with_name(f"{path.name}.partial-{os.getpid()}")',
        "path",
        (_DISK + "test_a_replaced_file_is_on_disk_before_it_takes_its_place",),
    ),
    Safeguard(
        "metrics are put on disk when asked",
        "tttscale/observe/metrics.py",
        "        os.fsync(self._file.fileno())\n",
        "",
        (_DISK + "test_metrics_are_on_disk_when_they_are_said_to_be",),
    ),
    Safeguard(
        "metrics are on disk before the checkpoint that continues them",
        "tttscale/train/training_run.py",
        "        parts.recorder.sync()\n",
        "",
        (_DISK + "test_a_checkpoint_comes_after_the_metrics_that_it_continues",),
    ),
    Safeguard(
        "a checkpoint's files are on disk before it gets its name",
        "tttscale/train/checkpoint/manager.py",
        "            sync(partial / name)\n",
        "            pass\n",
        (_CHECKPOINTS + "test_nothing_is_named_before_it_is_on_disk",),
    ),
    Safeguard(
        "a checkpoint's name is on disk",
        "tttscale/train/checkpoint/folder.py",
        "        sync(self.root)\n",
        "",
        (_DISK + "test_a_checkpoint_comes_after_the_metrics_that_it_continues",),
    ),
    Safeguard(
        "final weights are not written in place",
        "tttscale/train/final.py",
        "    partial, final = run_folder / PARTIAL, run_folder / NAME\n",
        "    final = run_folder / NAME\n"
        "    model.save_pretrained(final)\n"
        "    for name in _FILES:\n"
        "        sync(final / name)\n"
        "    sync(run_folder)\n"
        "    return final\n",
        (_RUN_FOLDER + "test_final_weights_appear_whole_or_not_at_all",),
    ),
    Safeguard(
        "final weights are on disk before they get their name",
        "tttscale/train/final.py",
        "        sync(partial)\n",
        "",
        (_DISK + "test_final_weights_are_never_half_there",),
    ),
    Safeguard(
        "the name of the final weights is on disk",
        "tttscale/train/final.py",
        "    sync(run_folder)\n",
        "",
        (_DISK + "test_final_weights_are_never_half_there",),
    ),
    Safeguard(
        "a new file is none that somebody planted meanwhile",
        "tttscale/files.py",
        "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW",
        "os.O_CREAT",
        (_FILES + "test_a_link_that_is_planted_meanwhile_is_not_written_through",),
    ),
    Safeguard(
        "nothing is appended through a link",
        "tttscale/files.py",
        "os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW",
        "os.O_APPEND | os.O_NONBLOCK",
        (_FILES + "test_what_is_appended_to_is_no_link",),
    ),
    Safeguard(
        "no file is read that is none",
        "tttscale/files.py",
        "    if not stat.S_ISREG(mode):",
        "    if stat.S_ISDIR(mode):",
        (_FILES + "test_what_is_no_file_is_neither_read_nor_waited_for",),
    ),
    # ---- checkpoints ---------------------------------------------------------------------------
    Safeguard(
        "a checkpoint that goes loses its name first",
        "tttscale/train/checkpoint/folder.py",
        "            path.rename(going)\n"
        "            if not _clear(going):  # there are other files than ours in it\n"
        "                going.rename(path)\n",
        "            _clear(path)\n",
        (_FOLDER + "test_a_crash_at_any_moment_leaves_the_last_checkpoint_or_the_new_one",),
    ),
    Safeguard(
        "nothing is removed behind a link",
        "tttscale/train/checkpoint/folder.py",
        "    if folder.is_symlink() or not folder.is_dir():",
        "    if not folder.is_dir():",
        (_RUN_FOLDER + "test_a_link_under_the_name_of_a_half_written_checkpoint",),
    ),
    Safeguard(
        "files of others stay where a checkpoint goes",
        "tttscale/train/checkpoint/folder.py",
        "        if _OURS.fullmatch(path.name) and",
        "        if",
        (_RUN_FOLDER + "test_files_of_others_are_never_removed",),
    ),
    Safeguard(
        "only `checkpoint.keep` checkpoints stay, the newest",
        "tttscale/train/checkpoint/folder.py",
        "known[keep:]",
        "known[:-keep]",
        (_FOLDER + "test_only_checkpoints_are_ever_removed",),
    ),
    Safeguard(
        "later checkpoints are moved away",
        "tttscale/train/checkpoint/folder.py",
        "for later in self.steps() if later > step]",
        "for later in self.steps() if False]",
        (_FOLDER + "test_set_aside",),
    ),
    Safeguard(
        "a checkpoint's manifest has its digest",
        "tttscale/train/checkpoint/manifest.py",
        "    if found != manifest_digest(fields):",
        "    if False:",
        (_FOLDER + "test_harm_is_found_and_named_and_the_older_one_taken",),
    ),
    Safeguard(
        "a checkpoint's files have their digests",
        "tttscale/train/checkpoint/manifest.py",
        "        if digest(path) != expected.blake2b:",
        "        if False:",
        (_FOLDER + "test_harm_is_found_and_named_and_the_older_one_taken",),
    ),
    Safeguard(
        "names in a checkpoint are no paths",
        "tttscale/train/checkpoint/manifest.py",
        "dict[Annotated[str, Field(pattern=FILE_PATTERN)], SavedFile]",
        "dict[str, SavedFile]",
        (_FOLDER + "test_names_that_lead_elsewhere_are_never_opened",),
    ),
    Safeguard(
        "a checkpoint of a newer format is told before digests are compared",
        "tttscale/train/checkpoint/manifest.py",
        "        Manifest.refuse_newer(fields, path, CheckpointError, wrote)",
        "        pass",
        (_VERSIONS + "test_a_newer_format",),
    ),
    Safeguard(
        "moments are such that AdamW can have",
        "tttscale/train/checkpoint/optimizer_state.py",
        "            check_finite(path, key, values, _EARLIER)\n",
        "",
        (_FOLDER + "test_moments_that_adamw_cannot_have",),
    ),
    Safeguard(
        "what is no number is not saved",
        "tttscale/train/checkpoint/manager.py",
        "        self._check_finite(state)\n",
        "",
        (_DIVERGENCE + "test_what_is_no_number_is_never_saved",),
    ),
    Safeguard(
        "damage that one rank sees is everybody's",
        "tttscale/comm/collective.py",
        '        if "problem" in row:',
        '        if "problem" in row and rank == mesh.rank:',
        (_CHECKPOINTS + "test_damage_that_one_rank_sees",),
    ),
    Safeguard(
        "too little room is said before the first step",
        "tttscale/train/checkpoint/disk_room.py",
        "    if free_bytes < at_once * size_bytes:",
        "    if False:",
        (_CHECKPOINTS + "test_too_little_room_is_said_before_the_first_step",),
    ),
    Safeguard(
        "a run resumes with its own model and data only",
        "tttscale/train/checkpoint/compatibility.py",
        "    if fixed:",
        "    if False:",
        ("tests/train/test_resume.py::test_another_run",),
    ),
    Safeguard(
        "SIGUSR1 is heard",
        "tttscale/cluster/interrupts.py",
        "        self.heard = True\n",
        "        pass\n",
        ("tests/train/test_resume.py::test_told_to_save",),
    ),
    # ---- a run's folder ------------------------------------------------------------------------
    Safeguard(
        "two processes do not train in one folder",
        "tttscale/observe/metrics.py",
        "        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        (_RECORDER + "test_two_processes_cannot_train_in_one_folder",),
    ),
    Safeguard(
        "records after the checkpoint are cut off",
        "tttscale/observe/metrics.py",
        "        self._file.truncate(end)\n",
        "",
        ("tests/observe/test_metrics_cut.py::test_later_records_move",),
    ),
    Safeguard(
        "a torn last line is not continued",
        "tttscale/observe/metrics.py",
        '    if not tail or tail.endswith(b"\\n"):',
        "    if True:",
        ("tests/observe/test_metrics.py::test_a_line_cut_short_is_left_out_and_written_over",),
    ),
    Safeguard(
        "metrics have each step once",
        "tttscale/observe/metrics.py",
        "        if seen.last and found != seen.last + 1:",
        "        if False:",
        (_RUN_FOLDER + "test_harm_to_the_metrics_is_found_first_and_named",),
    ),
    Safeguard(
        "metrics are those of the checkpoint",
        "tttscale/train/run_folder.py",
        ' and seen.record.get("tokens", saved.tokens) != saved.tokens:',
        " and False:",
        (_RUN_FOLDER + "test_metrics_of_another_run",),
    ),
    Safeguard(
        "a run with metrics beyond its first checkpoint is not started over",
        "tttscale/train/run_folder.py",
        "    elif done > every > 0:",
        "    elif False:",
        (_RUN_FOLDER + "test_a_run_whose_checkpoints_are_lost_is_not_started_over",),
    ),
    Safeguard(
        "a run that has saved on request is not started over",
        "tttscale/train/run_folder.py",
        "    elif (folder / SAVED).exists():",
        "    elif False:",
        (_RUN_FOLDER + "test_a_checkpoint_on_request_before_the_first_planned_one_is_known_too",),
    ),
    Safeguard(
        "a checkpoint without its manifest was one",
        "tttscale/train/run_folder.py",
        "    if headless := checkpoints.headless():",
        "    if headless := list[int]():",
        (_RUN_FOLDER + "test_a_checkpoint_on_request_before_the_first_planned_one_is_known_too",),
    ),
    Safeguard(
        "what fails twice in one way is not started again",
        "tttscale/train/divergence.py",
        "            and before.times >= _TIMES\n",
        "            and False\n",
        (_DIVERGENCE + "test_a_step_that_went_well_is_forgotten_and_another_one_starts_to_count",),
    ),
    Safeguard(
        "an observer that fails does not end the run",
        "tttscale/observe/guard.py",
        "        except (Exception, SystemExit) as error:",
        "        except OSError as error:",
        ("tests/observe/test_guard.py::test_no_observer_ends_a_run",),
    ),
    # ---- numbers -------------------------------------------------------------------------------
    Safeguard(
        "a gradient that is no number changes no parameter",
        "tttscale/train/engine.py",
        "            if not norm <= LARGEST_NORM:  # nor is NaN",
        "            if norm > LARGEST_NORM:",
        (_TRAINER + "test_a_gradient_that_cannot_be_used_is_one_error_at_every_stage",),
    ),
    Safeguard(
        "a gradient too large for fp32 changes no parameter",
        "tttscale/train/engine.py",
        "LARGEST_NORM = 1e19",
        "LARGEST_NORM = math.inf",
        (_TRAINER + "test_a_gradient_that_cannot_be_used_is_one_error_at_every_stage",),
    ),
    Safeguard(
        "an update that breaks weights ends all ranks",
        "tttscale/train/trainer.py",
        "        if not largest.isfinite().all():",
        "        if False:",
        (_TRAINER + "test_an_update_that_breaks_weights_ends_all_ranks",),
    ),
    Safeguard(
        "a step without tokens is none",
        "tttscale/train/trainer.py",
        "        if tokens == 0:",
        "        if False:",
        (_TRAINER + "test_a_step_without_tokens_changes_nothing_and_has_no_loss",),
    ),
    Safeguard(
        "gradients of parameters are summed in fp32",
        "tttscale/kernels/ops/cross_entropy.py",
        "torch.zeros_like(weight, dtype=wide)",
        "torch.zeros_like(weight, dtype=x.dtype)",
        ("tests/kernels/test_functions.py::test_cross_entropy_of_bf16_adds_slices_in_fp32",),
    ),
    Safeguard(
        "gradients of parameters do not see autocast",
        "tttscale/kernels/ops/linear.py",
        "@without_autocast\ndef matmul_fp32(",
        "def matmul_fp32(",
        (_WIDE + "test_wide_products_and_operators_do_not_see_autocast",),
    ),
    Safeguard(
        "gradients are summed in one order, with and without a neighbour",
        "tttscale/kernels/torch_scan/group_scan.py",
        "        grads = _InputGrads(self)\n        for group in reversed(self.groups):",
        "        grads = _InputGrads(self)\n        for group in self.groups:",
        ("tests/scan/test_contributions.py::test_equal_in_bf16",),
    ),
    Safeguard(
        "one row does not depend on where it lies",
        "tttscale/kernels/ops/cpu_product.py",
        "    if a.shape[0] == 1:",
        "    if False:",
        (_PRODUCTS + "test_one_row_and_one_column_do_not_depend_on_where_a_matrix_lies",),
    ),
    Safeguard(
        "a product that is not strict fp32 is not used",
        "tttscale/kernels/ops/cpu_product.py",
        " or not ((whole - exact).abs() <= _TOLERANCE * sizes).all():",
        ":",
        (_PRODUCTS + "test_a_product_that_is_not_strict_is_refused",),
    ),
    Safeguard(
        "a run that resumes takes the products that it had",
        "tttscale/train/cpu_products.py",
        "        elif before in cpu_product.WAYS:",
        "        elif False:",
        ("tests/train/test_cpu_products.py::test_a_run_that_resumes_takes_what_it_had",),
    ),
    Safeguard(
        "what can be formed again is not kept",
        "tttscale/kernels/ops/linear.py",
        "        ctx.save_for_backward(x if source is None else None)",
        "        ctx.save_for_backward(x)",
        ("tests/scan/test_keep_policy.py::test_products_keep_no_output_of_an_operator_that_can_form_it_again",),
    ),
    Safeguard(
        "weights fit the model to the last key",
        "tttscale/model/pretrained.py",
        "    _check_keys(weights, wanted, config, theirs)\n",
        "",
        (_WEIGHTS + "test_weights_that_do_not_fit",),
    ),
    Safeguard(
        "weights of a model that computes something else are refused",
        "tttscale/model/pretrained.py",
        "        if there != here and not (name == \"pattern\" and _same_layers(theirs, ours)):",
        "        if False:",
        (_WEIGHTS + "test_weights_of_a_model_that_computes_something_else",),
    ),
    Safeguard(
        "weights of another inner learning rate are refused",
        "tttscale/model/architecture.py",
        '*("pad_token_id", "bos_token_id",',
        '*("ttt_base_lr", "pad_token_id", "bos_token_id",',
        ("tests/train/test_start.py::test_weights_of_another_inner_learning_rate",),
    ),
    Safeguard(
        "weights are finite",
        "tttscale/model/weights.py",
        "        check_finite(file.path, own, values, _ADVICE)\n",
        "",
        ("tests/model/test_weights.py::test_values_that_are_not_finite",),
    ),
    Safeguard(
        "names in an index are no paths",
        "tttscale/model/weights.py",
        " or not _SHARD_NAME.fullmatch(name):",
        ":",
        ("tests/model/test_weights.py::test_an_index_that_disagrees_with_its_files",),
    ),
    Safeguard(
        "a model that no memory holds is not made",
        "tttscale/model/pretrained.py",
        "    if least > 2 * weights.elements + 10**6:",
        "    if False:",
        ("tests/model/test_weights.py::test_a_model_that_no_memory_holds_is_refused_before_it_is_made",),
    ),
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
        (_NEIGHBOURS + "test_ranks_with_other_values_end_on_every_rank",),
    ),
    Safeguard(
        "ranks agree on their stores",
        "tttscale/train/build.py",
        "    if len(different):",
        "    if False:",
        (_TRAINER + "test_ranks_that_see_other_stores_end_on_every_rank",),
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
        ("tests/scan/test_ranks_as_threads.py::test_a_message_that_never_comes_is_named",),
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
        "            parts.mesh.gather([0.0])",
        "            pass",
        ("tests/train/test_resume.py::test_no_rank_ends_with_a_code_before_all_are_done",),
    ),
    Safeguard(
        "one Ctrl-C that comes twice is one",
        "tttscale/cluster/interrupts.py",
        "        if now - self._first_at > _REPEATS_SECONDS:",
        "        if True:",
        ("tests/cli/test_signals.py::test_the_same_signal_passed_on_by_the_launcher",),
    ),
    # ---- stores --------------------------------------------------------------------------------
    Safeguard(
        "two builders do not share a folder",
        "tttscale/data/builder/staging.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        (_BUILD + "test_two_builders_do_not_share_a_folder",),
    ),
    Safeguard(
        "a build never writes over what is there",
        "tttscale/data/builder/staging.py",
        "    if out.exists() or out.is_symlink():",
        "    if False:",
        (_BUILD + "test_an_existing_out_is_refused",),
    ),
    Safeguard(
        "equal documents are never in both splits",
        "tttscale/data/builder/store_plan.py",
        "            held = _mixed(table[:, HASH], self.seed)",
        "            held = _mixed(np.arange(len(table), dtype=np.uint64), self.seed)",
        (_BUILD + "test_equal_documents_never_part",),
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
        "tttscale/data/builder/store_builder.py",
        "        if bad > self._recipe.skip_bad:",
        "        if False:",
        (_SKIP + "test_one_more_than_allowed_is_refused_and_gone_on_from",),
    ),
    Safeguard(
        "what no ending declares is not read",
        "tttscale/data/builder/file_formats.py",
        "        if unknown:",
        "        if False:",
        ("tests/data/test_file_formats.py::test_unknown_endings_are_refused_together_before_the_build",),
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
        (_STORE + "test_manifests_that_lie",),
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
        ("tests/data/test_remote.py::test_lost_cut_and_swapped_shards",),
    ),
    Safeguard(
        "a quarantine is about this store",
        "tttscale/data/store/quarantine.py",
        "    if found.fingerprint != fingerprint:",
        "    if False:",
        (_INTEGRITY + "test_quarantine_is_for_tokens_of_this_store_only",),
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
        (_LOCATION + "test_texts_of_libraries_are_scrubbed",),
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
        (_LOCATION + "test_what_was_parsed_is_known_again_in_any_form",),
    ),
    # ---- configurations ------------------------------------------------------------------------
    Safeguard(
        "unknown keys are refused",
        "tttscale/config/section.py",
        'extra="forbid"',
        'extra="ignore"',
        (_CONFIG + "test_unknown_keys_name_the_nearest",),
    ),
    Safeguard(
        "a key that is written twice is refused",
        "tttscale/config/source.py",
        "        if key in result:",
        "        if False:",
        (_CONFIG + "test_duplicate_keys_are_refused_with_both_lines",),
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
