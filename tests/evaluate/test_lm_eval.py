"""The harness's three kinds of requests on a local task, offline, against whole forwards of the model."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from tests.trained import byte_model
from tttscale.model import TTTForCausalLM

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from tttscale.evaluate.lm_eval import TTTScaleLM

BOS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "model"
    byte_model("linear", mini_batch_size=8).save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    return TTTScaleLM(str(folder), tokenizer="bytes", device="cpu")


def whole(folder, context, continuation):
    """Log-likelihood and greediness by one forward."""
    own = TTTForCausalLM.from_pretrained(folder)
    ids = [BOS, *context.encode(), *continuation.encode()]
    with torch.no_grad():
        likely = own(torch.tensor([ids])).logits[0, :-1, :259].log_softmax(-1)
    n = len(continuation.encode())
    wanted = torch.tensor(ids[-n:])
    total = likely[-n:].gather(1, wanted[:, None]).double().sum().item()
    return total, bool((likely[-n:].argmax(-1) == wanted).all())


def request(*args):
    return SimpleNamespace(args=args)


def test_continuations_have_the_likelihood_of_the_whole_forward(model, folder):
    pairs = [("the cat", " sat"), ("the cat", " ran on"), ("a dog is", " a"), ("the cat", " sit"),
             ("", "none"), ("x" * 50, "y" * 40)]  # fmt: skip
    found = model.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for pair, (total, greedy) in zip(pairs, found, strict=True):
        expected = whole(folder, *pair)
        assert total == pytest.approx(expected[0], rel=1e-5)
        assert greedy == expected[1]


def test_batches_change_nothing(folder):
    pairs = [("the cat", f" sat {n}") for n in range(7)]
    ones, all_at_once = (
        TTTScaleLM(str(folder), "bytes", batch_size=size, device="cpu").loglikelihood(
            [request(*pair) for pair in pairs], disable_tqdm=True
        )
        for size in (1, "auto")
    )
    for one, other in zip(ones, all_at_once, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5)


def test_the_command_asks_for_a_gpu_wherever_it_runs(folder):
    found = TTTScaleLM(str(folder), "bytes", device="cuda:0").model.lm_head.weight.device.type
    assert found == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_greedy_continuation_is_known_as_such(model, folder):
    own, ids = TTTForCausalLM.from_pretrained(folder), [BOS, *b"abc"]
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(own(torch.tensor([ids])).logits[0, -1, :259].argmax()))
    score = model._loglikelihood_tokens([(("abc", "?"), [*b"abc"], ids[4:])])
    assert score[0][1] is True


@pytest.mark.parametrize("length", [1, 15, 5000])
def test_long_documents_are_read_in_one_pass(model, folder, length):
    text = ("the quick brown fox. " * 300)[:length]
    (found,) = model.loglikelihood_rolling([request(text)], disable_tqdm=True)
    assert found == pytest.approx(whole(folder, "", text)[0], rel=1e-5)


def test_replies_are_greedy_and_stop(model, folder):
    own, ids = TTTForCausalLM.from_pretrained(folder), [BOS, *b"hello"]
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(own(torch.tensor([ids])).logits[0, -1, :259].argmax()))
            if ids[-1] == 257:
                break
    text = bytes(i for i in ids[6:] if i < 256).decode(errors="replace")
    asked = {"until": [], "max_gen_toks": 20, "do_sample": False}
    (found,) = model.generate_until([request("hello", asked)], disable_tqdm=True)
    assert found == text
    if len(text) > 3:
        stop = text[2]
        (cut,) = model.generate_until([request("hello", {**asked, "until": stop})])
        assert cut == text.split(stop)[0]
    sampled = {"until": [], "max_gen_toks": 20, "do_sample": True, "temperature": 0.9, "top_k": 20}
    one, same = (model.generate_until([request("hello", sampled)])[0] for _ in range(2))
    assert one == same != ""


def test_local_tasks_of_all_three_kinds(folder, tmp_path, monkeypatch):
    """The harness itself, without a network."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    lm_eval = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    rows = [{"q": f"key {n} is {n * 7 % 10}. key {n} is", "right": n % 3} for n in range(6)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
    )
    kinds = {
        "choice": "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['0', '1', '2']\n"
        "doc_to_target: right\nmetric_list: [{metric: acc}]\n",
        "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{q}}'\n"
        "metric_list: [{metric: bits_per_byte}]\n",
        "reply": "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: ' 1'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]\n",
    }
    for name, body in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{head}{body}")
    manager = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="tttscale",
        model_args=f"pretrained={folder},tokenizer=bytes",
        tasks=list(kinds),
        task_manager=manager,
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
    )["results"]
    right = 0
    for row in rows:
        scores = [whole(folder, row["q"], f" {n}")[0] for n in range(3)]
        right += scores.index(max(scores)) == row["right"]
    assert found["choice"]["acc,none"] == pytest.approx(right / 6)
    nats = sum(whole(folder, "", row["q"])[0] for row in rows)
    size = sum(len(row["q"]) for row in rows)
    expected = -nats / size / math.log(2)
    assert found["rolling"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-5)
    assert "exact_match,none" in found["reply"]
