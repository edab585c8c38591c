"""Check that look at several keys at once."""

from tttscale.config.schema import Config
from tttscale.config.shares import SLOTS, slot_counts
from tttscale.errors import ConfigError
from tttscale.location import Location
from tttscale.model.registry import alignment, alignments, check_pattern


def problems_of(config: Config) -> list[str]:
    """What does not fit together for any number of processes; one line per problem."""
    checks = (
        *(_one_source, _no_store_twice, _no_idle_store),
        *(_known_layers, _chunk_multiple, _enough_chunks, _whole_batches),
        *(_falling_lr, _decay_fits, _decay_of_wsd, _climbing_inner_lr),
        _way_back,
    )
    return [problem for check in checks if (problem := check(config))]


def check_world(config: Config, world_size: int) -> int:
    """Check that the configuration fits `world_size` processes.

    Returns:
        the number of data-parallel replicas, world_size / parallel.sequence.

    Raises:
        ConfigError: the processes cannot be split into replicas of parallel.sequence ranks.
    """
    ranks = config.parallel.sequence
    if world_size == 1 and ranks > 1:
        raise ConfigError(
            f"parallel.sequence = {ranks}, but this is a single process. Start it with a launcher, "
            f"such as `tttscale launch torchrun CONFIG -n {ranks}`, or set parallel.sequence=1."
        )
    if world_size % ranks:
        raise ConfigError(
            f"parallel.sequence = {ranks}, but the job has {world_size} processes, which is not a "
            f"multiple of it. Start a multiple of {ranks} processes, or set parallel.sequence to "
            f"one of {_divisors(world_size)}."
        )
    replicas = world_size // ranks
    share = replicas * config.parallel.batch
    asked = config.train.sequences_per_step
    if asked % share:
        raise ConfigError(
            f"train.sequences_per_step = {asked} is not a multiple of {share}: {replicas} replicas "
            f"({world_size} processes / parallel.sequence {ranks}) times parallel.batch "
            f"{config.parallel.batch}. Set train.sequences_per_step={_round_up(asked, share)}, or "
            "start fewer processes."
        )
    return replicas


def has_enough_chunks(tokens: int, chunk_tokens: int, ranks: int) -> bool:
    """Whether every rank of a sequence gets a chunk of it."""
    return -(-tokens // chunk_tokens) >= ranks


def _one_source(config: Config) -> str | None:
    data = config.data
    if data.store is None and data.blend is None:
        return (
            "data.store is missing; set data.store=PATH to a token store, or "
            "data.blend=[{store: PATH, weight: 2}, ...] to several"
        )
    if data.store is None or data.blend is None:
        return None
    return (
        f"data.store = {data.store} and data.blend (of {len(data.blend)} stores) are both given; "
        "set data.blend=null to train on the one store, or data.store=null to train on the blend"
    )


def _no_store_twice(config: Config) -> str | None:
    stores = [Location.parse(component.store) for component in config.data.blend or ()]
    for i, store in enumerate(stores):
        first = next(j for j, other in enumerate(stores) if other.is_same(store))
        if first != i:
            return (
                f"data.blend[{first}].store and data.blend[{i}].store are the same store "
                f"{store}; name it once, with the sum of both weights"
            )
    return None


def _no_idle_store(config: Config) -> str | None:
    components = config.data.blend or ()
    counts = slot_counts([component.weight for component in components])
    if all(counts):
        return None
    idle = counts.index(0)
    total = sum(component.weight for component in components)
    return (
        f"data.blend[{idle}].weight = {components[idle].weight} of {total} in all is too small: "
        f"{components[idle].store} would get no sequence out of {SLOTS}. Set it to "
        f"{total / SLOTS:.3g} or more, or leave the store out"
    )


def _known_layers(config: Config) -> str | None:
    try:
        check_pattern(config.architecture())
    except ValueError as error:
        return str(error)
    return None


def _chunk_multiple(config: Config) -> str | None:
    chunk, unit = config.parallel.chunk_length, _unit(config)
    if unit is None or chunk % unit == 0:
        return None
    name = f"model.mini_batch_size = {unit}"
    if config.model.pattern:
        each = ", ".join(f"{n} {of}" for n, of in alignments(config.architecture()).items())
        name = f"{unit}, at which the layers of model.pattern can be cut ({each})"
    return (
        f"parallel.chunk_length = {chunk} is not a multiple of {name}; "
        f"the nearest that is: parallel.chunk_length={max(1, round(chunk / unit)) * unit}"
    )


def _unit(config: Config) -> int | None:
    """Tokens at whose multiples chunks may begin; None if the layers are not known."""
    return None if _known_layers(config) else alignment(config.architecture())


def _enough_chunks(config: Config) -> str | None:
    tokens, chunk = config.data.sequence_length, config.parallel.chunk_length
    ranks, mini = config.parallel.sequence, _unit(config) or 1
    if has_enough_chunks(tokens, chunk, ranks):
        return None
    chunks = -(-tokens // chunk)
    # ceil(tokens / chunk) >= ranks  <=>  chunk <= (tokens - 1) // (ranks - 1)
    largest = (tokens - 1) // (ranks - 1) // mini * mini
    remedy = (
        f"the largest that works is parallel.chunk_length={largest}"
        if largest
        else f"at most parallel.sequence={-(-tokens // mini)} ranks can share so short a sequence"
    )
    return (
        f"parallel.chunk_length = {chunk} cuts data.sequence_length = {tokens} into {chunks} "
        f"chunk(s), fewer than parallel.sequence = {ranks}; {remedy}"
    )


def _whole_batches(config: Config) -> str | None:
    asked, batch = config.train.sequences_per_step, config.parallel.batch
    if asked % batch == 0:
        return None
    return (
        f"train.sequences_per_step = {asked} is not a multiple of parallel.batch = {batch}; set "
        f"train.sequences_per_step={_round_up(asked, batch)} or a smaller parallel.batch"
    )


def _falling_lr(config: Config) -> str | None:
    train = config.train
    if train.lr_schedule == "constant" or train.lr_final <= train.lr:
        return None
    what = "cosine" if train.lr_schedule == "cosine" else "decay"
    return (
        f"train.lr_final = {train.lr_final} is above train.lr = {train.lr}, so the {what} would "
        f"rise; set train.lr_final={train.lr / 100} or train.lr_schedule=constant"
    )


def _decay_fits(config: Config) -> str | None:
    train = config.train
    if train.lr_schedule != "wsd" or train.decay_steps is None:
        return None
    if train.warmup_steps + train.decay_steps <= train.steps:
        return None
    room = train.steps - train.warmup_steps
    remedy = (
        f"set train.decay_steps={room} or less, or more train.steps"
        if room > 0
        else "set more train.steps, or a shorter train.warmup_steps"
    )
    return (
        f"train.warmup_steps = {train.warmup_steps} and train.decay_steps = {train.decay_steps} are more "
        f"than train.steps = {train.steps}; {remedy}"
    )


def _decay_of_wsd(config: Config) -> str | None:
    train = config.train
    if train.decay_steps is None or train.lr_schedule == "wsd":
        return None
    return (
        f"train.decay_steps = {train.decay_steps} is for train.lr_schedule=wsd, but the schedule is "
        f"{train.lr_schedule}; set train.lr_schedule=wsd, or leave train.decay_steps out"
    )


def _climbing_inner_lr(config: Config) -> str | None:
    model = config.model
    if not model.inner_lr_warmup_steps or model.inner_lr_warmup_init <= model.ttt_base_lr:
        return None
    return (
        f"model.inner_lr_warmup_init = {model.inner_lr_warmup_init} is above model.ttt_base_lr = "
        f"{model.ttt_base_lr}, so the inner learning rate would fall in its warm-up; set "
        f"model.inner_lr_warmup_init={model.ttt_base_lr / 10} or model.inner_lr_warmup_steps=0"
    )


def _way_back(config: Config) -> str | None:
    if config.train.on_divergence != "roll_back" or config.checkpoint.every:
        return None
    return (
        "train.on_divergence = roll_back, but checkpoint.every = 0: there will be no checkpoint to roll back "
        "to. Set checkpoint.every=N, or train.on_divergence=skip or stop"
    )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _divisors(value: int) -> str:
    return ", ".join(str(n) for n in range(1, value + 1) if value % n == 0)
