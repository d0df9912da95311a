"""The model repository: what stands in it, and that protobuf's text format is what it should be."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from vlcompress.artefacts import read_json, seal, unseal
from vlcompress.errors import VlcompressError
from vlcompress.export.model_repository import GraphFacts, Name, buckets, check_target, to_text, write_model
from vlcompress.export.onnx import export_onnx
from vlcompress.sparse.timing import Effort

QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)
FACTS = GraphFacts(20, 10, ("",))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported model that takes two text sizes."""
    from tests.conftest import make_ticket

    ticket, folder = make_ticket((1, 1), 0.5), tmp_path_factory.mktemp("exported") / "onnx"
    export_onnx(
        ticket.family, ticket.model, folder, [ticket.inputs],
        config=ticket.config, head=ticket.head, effort=QUICK, buckets={"text": [6, 12]},
    )  # fmt: skip
    return folder


def write(exported: Path, folder: Path, **options: Any) -> Any:
    return write_model(exported, folder, **{"batch": 8, "threads": 1, "target_ort": "1.27", "effort": QUICK, **options})


def test_config_tells_shapes_batching_queue_and_warmup(exported: Path, tmp_path: Path) -> None:
    manifest = write(exported, tmp_path / "repository" / "lxmert_vqa")
    config = (tmp_path / "repository" / "lxmert_vqa" / "config.pbtxt").read_text()
    assert config.startswith('name: "lxmert_vqa"\nbackend: "onnxruntime"\nmax_batch_size: 8\n')
    assert 'input {\n  name: "input_ids"\n  data_type: TYPE_INT64\n  dims: [-1]\n}' in config  # two sizes: free
    assert 'input {\n  name: "visual_feats"\n  data_type: TYPE_FP32\n  dims: [5, 16]\n}' in config  # one size: fixed
    assert 'dims: [7]\n  label_filename: "labels.txt"' in config
    assert "max_queue_size: 128" in config
    assert "timeout_action: REJECT" in config
    assert [line for line in config.splitlines() if "batch_size: " in line][1:] == [
        "  batch_size: 1",
        "  batch_size: 8",
    ] * 2
    assert config.count('key: "input_ids"') == 4
    assert ("level: -1" in config) == (manifest.graph_level.picked == "basic")


@pytest.mark.filterwarnings("ignore:Specified provider")  # the config is what is looked at; it is measured on the CPU
@pytest.mark.parametrize(
    ("provider", "accelerators"),
    [
        ("cuda", ['name: "cuda"', 'key: "use_tf32"', 'value: "0"']),
        ("cuda,use_tf32=1,device_id=3", ['name: "cuda"', 'key: "use_tf32"', 'value: "1"']),
        (
            "tensorrt,trt_fp16_enable=1,trt_max_workspace_size=4096,device_id=3",
            [
                'name: "tensorrt"', 'key: "precision_mode"', 'value: "FP16"', 'key: "max_workspace_size_bytes"',
                'value: "4096"', 'name: "cuda"', 'key: "use_tf32"', 'value: "0"',
            ],
        ),
    ],
)  # fmt: skip
def test_a_gpu_provider_is_told_to_triton(
    exported: Path, tmp_path: Path, provider: str, accelerators: list[str]
) -> None:
    manifest = write(exported, tmp_path / "model", provider=provider)
    config = (tmp_path / "model" / "config.pbtxt").read_text()
    number = 3 if "device_id=3" in provider else 0
    assert f"instance_group {{\n  count: 1\n  kind: KIND_GPU\n  gpus: [{number}]\n}}" in config
    told = config[config.index("execution_accelerators") : config.index("intra_op_thread_count")]
    words = [line.strip() for line in told.splitlines() if line.strip().startswith(("name", "key", "value"))]
    assert words[: len(accelerators)] == accelerators
    assert told.count("gpu_execution_accelerator {") == accelerators.count('name: "cuda"') + provider.count("tensorrt,")
    assert manifest.provider == provider


def test_the_cpu_has_no_accelerators(exported: Path, tmp_path: Path) -> None:
    write(exported, tmp_path / "model")
    config = (tmp_path / "model" / "config.pbtxt").read_text()
    assert "kind: KIND_CPU" in config
    assert "execution_accelerators" not in config


def test_files_are_where_triton_looks_for_them(exported: Path, tmp_path: Path) -> None:
    write(exported, tmp_path / "lxmert_vqa")
    assert sorted(path.name for path in (tmp_path / "lxmert_vqa").iterdir()) == [
        "1", "config.pbtxt", "labels.txt", "manifest.json", "preprocessing.json",
    ]  # fmt: skip
    assert (tmp_path / "lxmert_vqa" / "1" / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    found = unseal(tmp_path / "lxmert_vqa", "manifest.json")
    assert (found["target_ort"], found["opset"], found["max_batch_size"]) == ("1.27", 20, 8)


def test_weights_outside_the_graph_make_model_onnx_a_folder(exported: Path, tmp_path: Path) -> None:
    outside = tmp_path / "onnx"
    outside.mkdir()
    shutil.copyfile(exported / "labels.txt", outside / "labels.txt")
    model = onnx.load(exported / "model.onnx")
    onnx.save(
        model, outside / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024
    )
    document = {key: value for key, value in read_json(exported / "manifest.json").items() if key != "files"}
    seal(outside, "manifest.json", document)
    write(outside, tmp_path / "lxmert_vqa")
    folder = tmp_path / "lxmert_vqa" / "1" / "model.onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(folder / "model.onnx"))


def test_a_damaged_export_is_not_packed(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "onnx")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1] + b"x")
    with pytest.raises(VlcompressError, match="corrupted"):
        write(copy, tmp_path / "lxmert_vqa")
    assert not (tmp_path / "lxmert_vqa").exists()


@pytest.mark.parametrize(
    ("target", "facts", "message"),
    [
        ("1.17", FACTS, "reads at most 20 and 9"),
        ("1.16.3", FACTS, "reads at most 19 and 9"),
        ("1.2", FACTS, "unknown onnxruntime release '1.2'"),
        ("newest", FACTS, "unknown onnxruntime release 'newest'"),
        ("1.27.0", replace(FACTS, domains=("", "my.ops")), "operators of 'my.ops'"),
    ],
)
def test_a_target_that_cannot_run_the_file_is_refused(target: str, facts: Any, message: str) -> None:
    with pytest.raises(VlcompressError, match=message):
        check_target(facts, target)


@pytest.mark.parametrize("target", ["1.18", "1.27", "1.31.1", "2.0"])
def test_a_target_that_can_run_the_file_is_accepted(target: str) -> None:
    check_target(FACTS, target)


def test_every_combination_of_sizes_is_warmed_up() -> None:
    assert buckets({"text": [20, 8], "regions": [36]}) == [
        {"regions": 36, "text": 8},
        {"regions": 36, "text": 20},
    ]


def test_text_format() -> None:
    message = [("a", 1), ("b", 'say "ä"\n'), ("c", Name("KIND_CPU")), ("d", [1, -1]), ("e", [("f", True)])]
    assert to_text(message) == 'a: 1\nb: "say \\"ä\\"\\n"\nc: KIND_CPU\nd: [1, -1]\ne {\n  f: true\n}\n'
