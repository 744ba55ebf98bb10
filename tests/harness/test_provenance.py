import pytest

from harness.provenance import collect_provenance, redact
from harness.telemetry import NullGpu


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["harness", "run", "--trace", "x"], ["harness", "run", "--trace", "x"]),
        (["h", "--hf-token", "abc", "--seed", "0"], ["h", "--hf-token", "***", "--seed", "0"]),
        (["h", "--api-key=abc"], ["h", "--api-key=***"]),
        (["h", "HF_TOKEN=abc"], ["h", "HF_TOKEN=***"]),
        (["h", "--password", "--json"], ["h", "--password", "--json"]),
    ],
)
def test_values_of_secret_options_are_hidden(command, shown):
    assert redact(command) == shown


def test_provenance_names_machine_versions_and_the_missing_gpu():
    found = collect_provenance(NullGpu())
    assert found["gpu"] == "no GPU"
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 0
    assert found["versions"]["numpy"]
    assert set(found) >= {"git", "machine", "platform", "python", "cpu", "gpu_driver", "gpu_state"}
