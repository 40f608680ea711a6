"""Every wrong call is one ValueError or TypeError that says what came and what was expected."""

from __future__ import annotations

import importlib.util
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wassrank import _C, backends, combined_loss, grade_wasserstein, info_nce, resolve_backend

SCORES = torch.zeros(3, 12)
LABELS = torch.zeros(3, 4, dtype=torch.int64)
LEARNED = torch.ones(3, 4, requires_grad=True)

WRONG: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("scores_no_tensor", TypeError, "scores must be a tensor, got list", {"scores": [[0.0]]}),
    ("integer_scores", TypeError, r"got torch.int64.*scores.float\(\)", {"scores": SCORES.long()}),
    ("scores_1d", ValueError, r"scores must be \[Q, N\].*\(12,\)", {"scores": SCORES[0]}),
    ("bool_labels", TypeError, "integer grades.*or floats.*got torch.bool", {"labels": LABELS.bool()}),
    ("label_not_a_number", ValueError, "labels hold nan.*mask", {"labels": LABELS * float("nan"), "backend": "auto"}),
    ("labels_of_other_queries", ValueError, r"one row a query.*\(2, 4\)", {"labels": LABELS[:2]}),
    ("labels_1d", ValueError, r"one row a query.*\(4,\)", {"labels": LABELS[0]}),
    ("not_a_multiple", ValueError, r"labels \[3, 5\] do not fit scores.*Q\*K=15", {"labels": LABELS[:, [0] * 5]}),
    ("temperature_0", ValueError, "temperature must be a positive finite number, got 0", {"temperature": 0}),
    ("temperature_nan", ValueError, "temperature must be .*got nan", {"temperature": float("nan")}),
    ("label_temperature", ValueError, "label_temperature must be .*got -1", {"label_temperature": -1.0}),
    ("p_below_1", ValueError, "p must be a finite number >= 1, got 0.5", {"p": 0.5}),
    ("p_inf", ValueError, "p must be a finite number >= 1, got inf", {"p": float("inf")}),
    ("grade_too_high", ValueError, "grade 8.*num_levels-1 = 7.*larger num_levels", {"labels": LABELS + 8}),
    ("grade_negative", ValueError, "grade -1.*mask", {"labels": LABELS - 1}),
    ("grade_beyond_32_bits", ValueError, "grade 4294967296", {"labels": LABELS + 2**32}),
    ("num_levels_0", ValueError, "num_levels must lie in 1 ... 32, got 0", {"num_levels": 0}),
    ("num_levels_33", ValueError, "num_levels must lie in 1 ... 32, got 33", {"num_levels": 33}),
    ("in_batch", ValueError, "in_batch must be a grade in 0 ... num_levels-1 = 7.*got 9", {"in_batch": 9}),
    ("mask_dtype", TypeError, "mask must be a bool tensor.*got torch.int64", {"mask": LABELS}),
    ("mask_shape", ValueError, r"mask must have .*\(3, 12\).*\(3, 4\), got \(3, 3\)", {"mask": LABELS[:, :3].bool()}),
    ("mask_no_tensor", TypeError, "mask must be a bool tensor.*got list", {"mask": [True]}),
    ("weight_shape", ValueError, r"weight must be \[3\].*got \(4,\)", {"weight": torch.ones(4)}),
    ("weight_dtype", TypeError, "weight must be a floating tensor.*int64", {"weight": torch.ones(3).long()}),
    ("target_name", ValueError, "target must be one of.*'gains'", {"target": "gains"}),
    ("target_dtype", TypeError, "target must be.*int64", {"target": LABELS}),
    ("target_shape", ValueError, r"target must have the shape.*got \(3, 5\)", {"target": torch.ones(3, 5)}),
    ("target_gradient", ValueError, "target asks for a gradient.*detach", {"target": LEARNED, "backend": "native"}),
    ("weight_gradient", ValueError, "weight asks for a gradient", {"weight": LEARNED[:, 0], "backend": "native"}),
    ("label_temperatures", ValueError, r"label_temperature must be \[3\].*\(4,\)",
     {"label_temperature": torch.ones(4)}),
    ("position_short", ValueError, "num_levels=8 grades, got 3.*num_levels=3", {"position": [0.0, 1.0, 3.0]}),
    ("position_turns", ValueError, "rise or fall", {"position": [0.0, 2.0, 1.0], "num_levels": 3}),
    ("position_nan", ValueError, "must be finite", {"position": [0.0, float("nan")], "num_levels": 2}),
    ("position_shape", ValueError, r"shape of labels \(3, 4\), got \(3,\)",
     {"labels": LABELS.float(), "position": torch.zeros(3), "backend": "auto"}),
    ("position_and_others", ValueError, "says nothing of other queries' passages.*in_batch=None",
     {"labels": LABELS.float(), "position": LABELS.float(), "backend": "auto"}),
    ("in_batch_inf", ValueError, "in_batch must be a finite label",
     {"labels": LABELS.float(), "in_batch": float("inf"), "backend": "auto"}),
    ("in_batch_between", ValueError, "in_batch must be a grade.*got 1.5", {"in_batch": 1.5}),
    ("target_negative", ValueError, "negative or NaN mass", {"target": LABELS - 1.0, "validate": True}),
    ("target_sum", ValueError, "row 0 sums to 4, not to 1", {"target": torch.ones(3, 4), "validate": True}),
    ("validated_grade", ValueError, r"grades 8 \.\.\. 8", {"labels": LABELS + 8, "validate": True}),
    ("reduction", ValueError, "reduction must be one of.*'average'", {"reduction": "average"}),
    ("backend", ValueError, "backend must be 'auto' or one of.*'cuda'", {"backend": "cuda"}),
    ("devices", ValueError, "labels are on meta and scores on cpu", {"labels": LABELS.to("meta")}),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(("error", "says", "arguments"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_call_is_refused(error: type[Exception], says: str, arguments: dict[str, Any], backend: str) -> None:
    call: dict[str, Any] = {"scores": SCORES, "labels": LABELS, "backend": backend} | arguments
    with pytest.raises(error, match=says):
        grade_wasserstein(**call)


PACKED, PACKED_LABELS = torch.zeros(7), torch.zeros(7, dtype=torch.int64)
WRONG_LISTS: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("begin", ValueError, "offsets must start at 0.*got 1", {"offsets": torch.tensor([1, 7])}),
    ("end", ValueError, "offsets must end at 7.*got 6", {"offsets": torch.tensor([0, 3, 6])}),
    ("falls", ValueError, "must not decrease: list 1 would run from 5 to 3", {"offsets": torch.tensor([0, 5, 3, 7])}),
    ("floats", TypeError, "offsets must be integers.*float32", {"offsets": torch.tensor([0.0, 7.0])}),
    ("nothing", TypeError, r"offsets must be integers.*\(0,\)", {"offsets": torch.tensor([], dtype=torch.long)}),
    ("list", TypeError, "offsets must be integers.*got list", {"offsets": [0, 7]}),
    ("scores", ValueError, r"scores are packed, \[T\].*\(1, 7\)", {"scores": PACKED[None]}),
    ("labels", ValueError, r"packed labels must be \[7\].*\(6,\)", {"labels": PACKED_LABELS[:6]}),
    ("mask", ValueError, r"mask must have the shape.*\(6,\)", {"mask": PACKED_LABELS[:6].bool()}),
    ("weight", ValueError, r"weight must be \[2\].*\(7,\)", {"weight": PACKED}),
    ("target_sum", ValueError, "row 1 sums to 0.8, not to 1",
     {"target": torch.tensor([0.0, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2]), "validate": True}),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(("error", "says", "arguments"), [w[1:] for w in WRONG_LISTS], ids=[w[0] for w in WRONG_LISTS])
def test_wrong_lists_are_refused(error: type[Exception], says: str, arguments: dict[str, Any], backend: str) -> None:
    call: dict[str, Any] = {"scores": PACKED, "labels": PACKED_LABELS, "offsets": torch.tensor([0, 3, 7])} | arguments
    with pytest.raises(error, match=says):
        grade_wasserstein(**call, backend=backend)


WRONG_LOSSES: list[tuple[Any, type[Exception], str, dict[str, Any]]] = [
    (info_nce, TypeError, "positives must be an integer tensor.*float32", {"positives": torch.zeros(3)}),
    (info_nce, ValueError, r"positives must be \[3\].*\(3, 4\)", {"positives": LABELS}),
    (info_nce, ValueError, "symmetric=True ranks queries", {"labels": LABELS.repeat(1, 3), "symmetric": True}),
    (info_nce, ValueError, "symmetric=True ranks queries.*in_batch=None", {"symmetric": True, "in_batch": None}),
    (info_nce, ValueError, "symmetric=True has no loss a query", {"symmetric": True, "reduction": "none"}),
    (combined_loss, ValueError, "kl must be a finite number >= 0.*got -1", {"kl": -1.0}),
    (combined_loss, ValueError, "one of.*must be more than 0", {"wasserstein": 0.0}),
]


@pytest.mark.parametrize(("loss", "error", "says", "arguments"), WRONG_LOSSES)
def test_wrong_call_of_another_loss_is_refused(
    loss: Any, error: type[Exception], says: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(error, match=says):
        loss(**{"scores": SCORES, "labels": LABELS} | arguments)


def test_a_stray_grade_is_refused_wherever_it_stands() -> None:
    """In a long row and in a narrow label type too, and not where the passage takes no part."""
    scores, labels = torch.zeros(2, 5000), torch.zeros(2, 5000, dtype=torch.int8)
    labels[1, 4321] = 9
    with pytest.raises(ValueError, match="grade 9"):
        grade_wasserstein(scores, labels)
    mask = torch.ones(2, 5000, dtype=torch.bool)
    mask[1, 4321] = False
    assert grade_wasserstein(scores, labels, mask=mask) == 0


class Machine:
    """What torch, the driver and the extension report: by default all that the CUDA kernels need."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capabilities = [(9, 0)]
        self.architectures, self.cuda, self.driver, self.triton = ["80", "90"], "13.0", 13000, True
        monkeypatch.setattr(backends, "native", self)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: self if self.triton else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(self.capabilities))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: self.capabilities[index])
        monkeypatch.setattr(torch.version, "cuda", None)

    def build_info(self) -> dict[str, Any]:
        return {"cuda_architectures": self.architectures, "cuda_version": self.cuda}

    def cuda_driver_version(self) -> int:
        return self.driver


def forget() -> None:
    backends.missing.cache_clear()
    backends._resolve_once.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    forget()
    yield Machine(monkeypatch)
    forget()


def refused(device: str, backend: str = "native") -> str:
    with pytest.raises(ValueError, match=f"backend='{backend}' cannot run on 'cuda.*' tensors here: ") as caught:
        resolve_backend(device, backend)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_gpu_with_all_it_needs_runs_the_cuda_kernels(machine: Machine) -> None:
    machine.capabilities = [(8, 0), (8, 9), (9, 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [resolve_backend(d) for d in ("cuda", "cuda:0", "cuda:1", "cuda:2")] == ["native"] * 4


def test_without_a_gpu_the_text_says_what_torch_is_and_needs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.capabilities = []
    for backend in ("native", "triton"):
        said = refused("cuda", backend)
        assert f"torch {torch.__version__} is built without CUDA and finds no GPU; it takes a GPU" in said
        assert said.endswith("backend='auto' takes 'torch'")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    forget()
    assert "is built with CUDA 12.8 and finds no GPU" in refused("cuda")
    with pytest.warns(
        RuntimeWarning, match="no fused kernel can run on 'cuda' .* plain-torch .*finds no GPU"
    ) as said_once:
        assert [resolve_backend("cuda") for _ in range(3)] == ["torch"] * 3
    assert len(said_once) == 1
    assert said_once[0].filename == __file__


def test_a_gpu_the_extension_holds_no_code_for_takes_triton_and_says_so(machine: Machine) -> None:
    machine.capabilities = [(12, 0)]
    assert "holds code for sm_80, sm_90 and this GPU is sm_120; reinstall" in refused("cuda")
    assert refused("cuda").endswith("backend='auto' takes 'triton'")
    with pytest.warns(RuntimeWarning, match=r"CUDA kernels cannot run on 'cuda:0', using Triton's \(.*sm_120"):
        assert resolve_backend("cuda") == "triton"
    machine.triton = False
    forget()
    with pytest.warns(RuntimeWarning, match="plain-torch backend .*sm_120.*; triton: triton is not installed"):
        assert resolve_backend("cuda") == "torch"


def test_every_gpu_of_a_machine_is_asked(machine: Machine) -> None:
    machine.capabilities = [(9, 0), (7, 5), (8, 6)]
    with pytest.warns(RuntimeWarning, match="cannot run on 'cuda:1'.*sm_75") as said:
        assert [resolve_backend(f"cuda:{i}") for i in (0, 1, 2)] == ["native", "triton", "native"]
    assert len(said) == 1
    assert resolve_backend(torch.device("cuda", 2), "native") == "native"
    assert "'cuda:1'" in refused("cuda:1")


def test_a_driver_older_than_the_extensions_cuda_is_named(machine: Machine) -> None:
    machine.driver = 12080
    said = refused("cuda")
    assert "built with CUDA 13.0 and the driver here serves CUDA up to 12.8; update the driver or reinstall" in said
    with pytest.warns(RuntimeWarning, match=r"using Triton's \(.*12\.8"):
        assert resolve_backend("cuda") == "triton"


def test_an_extension_without_cuda_code_says_how_to_get_it(machine: Machine) -> None:
    machine.architectures = []
    assert "built without CUDA; reinstall with nvcc present and WASSRANK_CUDA=1" in refused("cuda")
    assert resolve_backend("cuda") == "triton"


def test_an_nvcc_of_another_cuda_than_torchs_is_built_with_and_named(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_: None)
        other_cuda = runpy.run_path(str(Path(__file__).parent.parent / "setup.py"))["other_cuda"]
    assert other_cuda(str(nvcc), None) is None
    assert other_cuda(str(nvcc), "13.2") is None
    said = other_cuda(str(nvcc), "12.8")
    assert said.startswith("wassrank: nvcc is of CUDA 13 and torch of CUDA 12.8: the CUDA kernels will run where ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("capability", "values", "says"),
    [
        (90, {"wrap_slots": 1}, 'no "wrap_slots" to tune, they have warp_slots, slots_per_thread, max_team'),
        (90, {"max_team": 96}, "max_team must be a power of two in 64 ... 512, got 96"),
        (90, {"backward_threads": 512}, "backward_threads must be a power of two in 32 ... 256, got 512"),
        (90, {"warp_slots": 0}, "warp_slots must be an integer in 1 ... 16384, got 0"),
        (0, {}, "capability must be that of a GPU, such as 90 for sm_90"),
    ],
)
def test_a_wrong_tuning_is_refused_and_changes_nothing(capability: int, values: dict[str, int], says: str) -> None:
    before = _C.tuning(capability)
    with pytest.raises(ValueError, match=says):
        _C.set_tuning(capability, values)
    assert _C.tuning(capability) == before
