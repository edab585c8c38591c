import pytest

RUN = """\
run: {name: quick}
model: {preset: ttt-linear-125m}
data:
  store: stores/text
  sequence_length: 64Ki
train:
  steps: 10
  lr: 1e-4
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text=RUN, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file
