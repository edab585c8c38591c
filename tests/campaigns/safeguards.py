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
_BUILD = "tests/data/test_build.py::"
_STORE = "tests/data/test_store.py::"
_INTEGRITY = "tests/data/test_integrity.py::"
_CONFIG = "tests/config/test_load.py::"
_WEIGHTS = "tests/model/test_pretrained.py::"

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
        "tttscale/train/main.py",
        "        self._recorder.sync()\n",
        "",
        (_DISK + "test_a_checkpoint_comes_after_the_metrics_that_it_continues",),
    ),
    Safeguard(
        "a checkpoint's files are on disk before it gets its name",
        "tttscale/train/checkpoint/checkpoints.py",
        "            sync(partial / name)\n",
        "            pass\n",
        (_DISK + "test_what_gets_its_name_is_on_disk",),
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
        "tttscale/model/pretrained.py",
        'path.with_name(f"{path.name}.tmp-save")',
        "path",
        (_DISK + "test_final_weights_are_never_half_there",),
    ),
    Safeguard(
        "final weights are on disk before they get their name",
        "tttscale/model/pretrained.py",
        "        sync(partial)\n",
        "",
        (_DISK + "test_final_weights_are_never_half_there",),
    ),
    # ---- checkpoints ---------------------------------------------------------------------------
    Safeguard(
        "a checkpoint that goes loses its manifest first",
        "tttscale/train/checkpoint/folder.py",
        "            (path / MANIFEST).unlink(missing_ok=True)\n",
        "            pass\n",
        (_FOLDER + "test_a_crash_at_any_moment_leaves_the_last_checkpoint_or_the_new_one",),
    ),
    Safeguard(
        "nothing is removed behind a link",
        "tttscale/train/checkpoint/folder.py",
        "        if not path.is_symlink():",
        "        if True:",
        (_FOLDER + "test_an_archive_behind_a_link_is_left_alone",),
    ),
    Safeguard(
        "only `checkpoint.keep` checkpoints stay, the newest",
        "tttscale/train/checkpoint/folder.py",
        "self.steps()[keep:]",
        "self.steps()[:-keep]",
        (_FOLDER + "test_only_checkpoints_are_ever_removed",),
    ),
    Safeguard(
        "later checkpoints are set aside",
        "tttscale/train/checkpoint/folder.py",
        "            if step > after:",
        "            if False:",
        (_FOLDER + "test_set_aside",),
    ),
    Safeguard(
        "a checkpoint's manifest has its digest",
        "tttscale/train/checkpoint/manifest.py",
        "        if found != manifest_digest(fields):",
        "        if False:",
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
        "damage that one rank sees is everybody's",
        "tttscale/train/checkpoint/checkpoints.py",
        '            if "problem" in row:',
        '            if "problem" in row and rank == self._mesh.rank:',
        (_CHECKPOINTS + "test_damage_that_one_rank_sees",),
    ),
    Safeguard(
        "too little room is said before the first step",
        "tttscale/train/checkpoint/checkpoints.py",
        "        if free < at_once * size:",
        "        if False:",
        (_CHECKPOINTS + "test_too_little_room_is_said_before_the_first_step",),
    ),
    Safeguard(
        "a run goes on with its own model and data only",
        "tttscale/train/checkpoint/same_run.py",
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
        "tttscale/train/recorder.py",
        "        fcntl.flock(metrics.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        (_RECORDER + "test_two_processes_cannot_train_in_one_folder",),
    ),
    Safeguard(
        "records after the checkpoint are cut off",
        "tttscale/observe/metrics.py",
        "        self._file.truncate(",
        "        len(",
        ("tests/observe/test_metrics_cut.py::test_later_records_move",),
    ),
    Safeguard(
        "a torn last line is not continued",
        "tttscale/observe/metrics.py",
        '    if content and not content.endswith(b"\\n"):',
        "    if False:",
        ("tests/observe/test_metrics.py::test_a_line_cut_short_is_left_out_and_written_over",),
    ),
    # ---- numbers -------------------------------------------------------------------------------
    Safeguard(
        "a gradient that is no number changes no parameter",
        "tttscale/train/trainer.py",
        "        if not everything.isfinite().all():",
        "        if False:",
        (_TRAINER + "test_a_gradient_that_is_no_number_ends_all_ranks_before_the_update",),
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
        "tttscale/kernels/cross_entropy.py",
        "torch.zeros_like(weight, dtype=wide)",
        "torch.zeros_like(weight, dtype=x.dtype)",
        ("tests/kernels/test_functions.py::test_cross_entropy_of_bf16_adds_slices_in_fp32",),
    ),
    Safeguard(
        "weights fit the model to the last key",
        "tttscale/model/pretrained.py",
        "    _check_keys(path, weights, model.state_dict())\n",
        "",
        (_WEIGHTS + "test_weights_that_do_not_fit",),
    ),
    Safeguard(
        "weights of a model that computes something else are refused",
        "tttscale/model/pretrained.py",
        "        if theirs != ours:",
        "        if False:",
        (_WEIGHTS + "test_weights_of_a_model_that_computes_something_else",),
    ),
    # ---- ranks ---------------------------------------------------------------------------------
    Safeguard(
        "a message says what it is, and is checked",
        "tttscale/comm/neighbours.py",
        "        if found != wanted:",
        "        if False:",
        (_NEIGHBOURS + "test_a_message_that_was_not_expected_is_named",),
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
        "tttscale/train/setup.py",
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
        "                if waited >= self._world.timeout_seconds:",
        "                if waited >= 2 * 60:",
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
        "tttscale/train/main.py",
        "            mesh.gather([0.0])",
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
        "tttscale/data/staging.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        (_BUILD + "test_two_builders_do_not_share_a_folder",),
    ),
    Safeguard(
        "a build never writes over what is there",
        "tttscale/data/staging.py",
        "    if out.exists() or out.is_symlink():",
        "    if False:",
        (_BUILD + "test_an_existing_out_is_refused",),
    ),
    Safeguard(
        "equal documents are never in both splits",
        "tttscale/data/layout.py",
        "            held = _mixed(table[:, HASH], self.seed)",
        "            held = _mixed(np.arange(len(table), dtype=np.uint64), self.seed)",
        (_BUILD + "test_equal_documents_never_part",),
    ),
    Safeguard(
        "ids outside of the vocabulary do not get into a store",
        "tttscale/data/runs.py",
        "    if len(bad):",
        "    if False:",
        (_BUILD + "test_wide_vocabularies_and_ids_outside",),
    ),
    Safeguard(
        "ids outside of the vocabulary do not get out of a store",
        "tttscale/data/store.py",
        "        if len(tokens) and tokens.max() >= vocab_size:",
        "        if False:",
        (_STORE + "test_ids_beyond_the_vocabulary_are_refused",),
    ),
    Safeguard(
        "a store's manifest has its digest",
        "tttscale/data/integrity.py",
        '    if attributes.get("digest") != manifest_digest(fields):',
        "    if False:",
        (_INTEGRITY + "test_edited_metadata_is_refused", _INTEGRITY + "test_every_flipped_bit_is_noticed"),
    ),
    Safeguard(
        "names in a store are no paths",
        "tttscale/data/manifest.py",
        "dict[Annotated[str, Field(pattern=FILE_PATTERN)], FileInfo]",
        "dict[str, FileInfo]",
        (_STORE + "test_manifests_that_lie",),
    ),
    Safeguard(
        "a lost shard does not read as zeros",
        "tttscale/data/guard.py",
        "        if value is None and info is not None:",
        "        if False:",
        (_STORE + "test_a_shard_lost_after_open_is_never_read_as_zeros",),
    ),
    Safeguard(
        "a shard is the one that was built",
        "tttscale/data/guard.py",
        "        if expected is None or expected.index != index_digest(index):",
        "        if False:",
        (_INTEGRITY + "test_two_good_shards_that_changed_places",),
    ),
    Safeguard(
        "a quarantine is about this store",
        "tttscale/data/quarantine.py",
        "    if found.fingerprint != fingerprint:",
        "    if False:",
        (_INTEGRITY + "test_quarantine_is_for_tokens_of_this_store_only",),
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
        "a configuration runs no code",
        "tttscale/config/source.py",
        "class Loader(yaml.SafeLoader):",
        "class Loader(yaml.UnsafeLoader):",
        (_CONFIG + "test_a_configuration_imports_nothing",),
    ),
    Safeguard(
        "a chunk holds whole mini-batches",
        "tttscale/config/checks.py",
        "    if chunk % mini == 0:",
        "    if True:",
        ("tests/config/test_checks.py::test_keys_that_do_not_fit_together",),
    ),
)  # fmt: skip
