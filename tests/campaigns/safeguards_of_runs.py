"""Safeguards of files, checkpoints, run folders and numbers: see `tests.campaigns.safeguards`."""

from tests.campaigns.safeguard import Safeguard

_DISK = "tests/train/test_on_disk.py::"
_FOLDER = "tests/train/checkpoint/test_folder.py::"
_CHECKPOINTS = "tests/train/checkpoint/test_manager.py::"
_RECORDER = "tests/train/test_recorder.py::"
_TRAINER = "tests/train/test_trainer.py::"
_WEIGHTS = "tests/model/test_pretrained.py::"
_RUN_FOLDER = "tests/train/test_run_folder.py::"
_DIVERGENCE = "tests/train/test_divergence.py::"
_FILES = "tests/test_files.py::"
_VERSIONS = "tests/test_versions.py::"
_WIDE = "tests/model/test_wide_gradients.py::"
_PRODUCTS = "tests/kernels/test_cpu_product.py::"

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
        "tttscale/train/checkpoint/writer.py",
        "                before_commit()\n",
        "                pass\n",
        (_DISK + "test_a_checkpoint_comes_after_the_metrics_that_it_continues",),
    ),
    Safeguard(
        "a checkpoint's files are on disk before it gets its name",
        "tttscale/train/checkpoint/writer.py",
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
        ("tests/train/test_final.py::test_final_weights_appear_whole_or_not_at_all",),
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
        ("tests/train/checkpoint/test_manifest.py::test_names_that_lead_elsewhere_are_never_opened",),
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
        ("tests/train/checkpoint/test_optimizer_state.py::test_moments_that_adamw_cannot_have",),
    ),
    Safeguard(
        "what is no number is not saved",
        "tttscale/train/checkpoint/writer.py",
        "        self._check_finite(snapshot)\n",
        "",
        (_DIVERGENCE + "test_what_is_no_number_is_never_saved",),
    ),
    Safeguard(
        "a checkpoint beside the steps is written from a copy",
        "tttscale/train/checkpoint/snapshot.py",
        "view.copy_(tensor, non_blocking=True)",
        "tensor",
        ("tests/train/checkpoint/test_snapshot.py::test_a_copy_stays_what_it_was",),
    ),
    Safeguard(
        "a run that has ended commits nothing",
        "tttscale/train/checkpoint/writer.py",
        "            if self._given_up:",
        "            if False:",
        (
            "tests/train/checkpoint/test_writer.py::"
            "test_given_up_it_never_gets_its_name",
        ),
    ),
    Safeguard(
        "a failure that no other rank knows of ends the run",
        "tttscale/train/checkpoint/manager.py",
        "            self._under_way = None\n            raise error\n",
        "            return False\n",
        (
            "tests/train/checkpoint/test_manager_background.py::"
            "test_a_fault_of_ours_is_not_swallowed",
        ),
    ),
    Safeguard(
        "the third failure in a row ends the run",
        "tttscale/train/checkpoint/manager.py",
        "        if self._failures == _FAILURES:",
        "        if False:",
        (
            "tests/train/checkpoint/test_manager_background.py::"
            "test_three_failures_in_a_row_end_the_run_on_all_ranks",
        ),
    ),
    Safeguard(
        "a run that is killed while its first save is written starts again",
        "tttscale/train/run_folder.py",
        " and not (done <= 2 * every and checkpoints.partial(every).is_dir())",
        "",
        (
            _RUN_FOLDER
            + "test_killed_while_its_first_save_is_written_beside_the_steps_it_starts_again",
        ),
    ),
    Safeguard(
        "damage that one rank sees is everybody's",
        "tttscale/comm/collective.py",
        '        if "problem" in row:',
        '        if "problem" in row and rank == ranks.rank:',
        (_CHECKPOINTS + "test_damage_that_one_rank_sees",),
    ),
    Safeguard(
        "too little room is said before the first step",
        "tttscale/train/checkpoint/disk_room.py",
        "    if free_bytes < at_once * size_bytes:",
        "    if False:",
        ("tests/train/checkpoint/test_disk_room.py::test_too_little_room_is_said_before_the_first_step",),
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
        "        self.heard, self._heard_at = number, now\n",
        "        pass\n",
        ("tests/train/test_resume.py::test_told_to_save",),
    ),
    Safeguard(
        "a rank ends with its launcher",
        "tttscale/cluster/launcher.py",
        "        leave(LAUNCHER_LOST)\n",
        "        pass\n",
        ("tests/cluster/test_launcher.py::test_a_rank_ends_when_its_launcher_is_killed",),
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
        "    elif done > every > 0 and not (",
        "    elif False and not (",
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
        ("tests/train/checkpoint/test_compatibility.py::test_weights_of_another_inner_learning_rate",),
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
)  # fmt: skip
