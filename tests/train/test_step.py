"""The training step in its variants: in parts, with recomputation, as a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vflow.io.checkpoint import list_steps
from vflow.nets.recompute import RECOMPUTE
from vflow.runtime.console import RunStopped
from vflow.runtime.distributed import Ranks
from vflow.runtime.tf32 import tf32
from vflow.train import ModelOverrides, TrainConfig, train
from vflow.train import cuda_graph as graphs
from vflow.train import trainer as trainer_module
from vflow.train.cuda_graph import EAGER_STEPS, GraphedStep, graph_refused
from vflow.train.inputs import load_inputs
from vflow.train.trainer import Trainer

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


def _trained(config: TrainConfig, steps: int = 3) -> Trainer:
    trainer = Trainer(config, load_inputs(config, CPU), Ranks(), CPU)
    trainer.begin(None)
    for _ in range(steps):
        trainer.take_step(lambda: False)
    return trainer


def _parameters(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture
def double(monkeypatch):
    make = trainer_module.create_model
    monkeypatch.setattr(trainer_module, "create_model", lambda *a, **kw: make(*a, **kw).double())


@pytest.mark.parametrize("accumulate", [2, 8])
def test_a_batch_in_parts_trains_as_a_whole_one_does(make_config, double, accumulate):
    undropped = ModelOverrides(filters=4, components=2, dropout=0.0)  # each part draws its own
    whole, parted = (
        _trained(make_config(model=undropped, accumulate=parts)) for parts in (1, accumulate)
    )
    torch.testing.assert_close(_parameters(parted), _parameters(whole), rtol=1e-9, atol=1e-11)
    for (_, ours), (_, theirs) in zip(whole.outcomes(True), parted.outcomes(True), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_parts_must_share_the_batch_evenly(make_config):
    with pytest.raises(ValueError, match="divisible by the 1 processes times accumulate 3, got 8"):
        train(make_config(accumulate=3))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("preset", ["flowpp-tiny", "vflow-tiny"])
def test_recomputation_changes_no_bit(make_config, preset, dropout):
    model = ModelOverrides(filters=4, components=2, dropout=dropout)
    kept, *computed_again = (
        _parameters(_trained(make_config(preset=preset, model=model, recompute=recompute)))
        for recompute in RECOMPUTE
    )
    for parameters in computed_again:
        assert torch.equal(kept, parameters)


def test_recomputation_keeps_less(make_config):
    def kept(recompute: str, steps: int = 2) -> int:
        sizes = []
        stages = f'flow.scales=[[["checkerboard",{steps}]],[["channel",1]]]'
        model = ModelOverrides(filters=32, components=2, blocks=8, set=(stages,))
        config = make_config(recompute=recompute, model=model)
        trainer = Trainer(config, load_inputs(config, CPU), Ranks(), CPU)
        trainer.begin(None)

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.model(trainer.images[:8])
        return sum(sizes)

    none, block, coupling = map(kept, RECOMPUTE)
    assert block < 0.3 * none
    assert coupling < none / 6
    assert kept("coupling", steps=3) - coupling < 0.03 * none


def test_recomputation_needs_what_it_computes_again(make_config):
    config = make_config(preset="glow-tiny", model=ModelOverrides(), recompute="block")
    with pytest.raises(ValueError, match="none for a model without gated blocks, got 'block'"):
        _trained(config)
    with pytest.raises(ValueError, match="one of none, block, coupling, got 'all'"):
        make_config(recompute="all")


class Recorder(graphs.SideStream):
    """Stands in for CUDA graphs: captures a body by keeping it, which has no effect yet."""

    def __init__(self, _=CPU):
        super().__init__(CPU)

    def capture(self, body):
        captures.append(body)
        return body


captures: list = []


def test_a_graphed_run_is_bit_identical_to_an_eager_one(
    make_config, whole_run, fingerprint, monkeypatch
):
    captures.clear()
    monkeypatch.setattr(trainer_module, "graph_refused", lambda *_: None)
    monkeypatch.setattr(trainer_module, "SideStream", Recorder)
    train(make_config(cuda_graph=True, steps=8, eval_every=0))
    assert len(captures) == 1
    train(make_config(cuda_graph=True))
    assert len(captures) == 2
    theirs, ours = fingerprint(whole_run), fingerprint(make_config().out)
    assert ours["files"] == theirs["files"]


def test_a_captured_step_reads_its_inputs_at_their_first_address():
    addresses = []

    def step(x):
        addresses.append(x.data_ptr())
        return 2 * x

    graphed = GraphedStep(step, 1, Recorder())
    results = [graphed(x=torch.full((2,), float(i))) for i in range(4)]
    assert [result[0].item() for result in results] == [0, 2, 4, 6]
    assert len(set(addresses[1:])) == 1


def test_what_cannot_be_captured_stops_the_run_with_the_reason(make_config, monkeypatch, capsys):
    class Failing(Recorder):
        def capture(self, body):
            # As PyTorch does: the end of the capture fails over what has failed within.
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(trainer_module, "graph_refused", lambda *_: None)
    monkeypatch.setattr(trainer_module, "SideStream", Failing)
    with pytest.raises(RunStopped, match=r"graph: operation not permitted .* capturing; run the"):
        train(make_config(cuda_graph=True, checkpoint_every=EAGER_STEPS))
    assert list(list_steps(make_config().out / "checkpoints")) == [EAGER_STEPS]
    train(make_config())  # goes on without


def test_an_error_in_an_eager_step_is_passed_on():
    def step(x):
        taken.append(x)
        raise RuntimeError("out of memory")

    taken: list = []
    with pytest.raises(RuntimeError, match=r"^out of memory"):
        GraphedStep(step, 1, Recorder())(x=torch.ones(1))
    assert len(taken) == 1


def test_without_cuda_there_is_no_graph_and_the_run_says_so(make_config, capsys):
    train(make_config(cuda_graph=True, steps=1, eval_every=0))
    assert "cuda_graph is left out: the device is cpu\n" in capsys.readouterr().out


def test_a_graph_is_refused_for_what_it_cannot_hold(make_config):
    assert graph_refused(CUDA, make_config(cuda_graph=True)) is None
    residual = make_config(cuda_graph=True, preset="residual-tiny", model=ModelOverrides())
    assert graph_refused(CUDA, residual) is not None


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("flowpp-tiny", {}),
        ("vflow-tiny", {"accumulate": 2, "recompute": "block"}),
        ("vflow-tiny", {"precision": "bf16", "recompute": "coupling"}),
    ],
    ids=str,
)
def test_the_host_looks_at_no_value_in_a_step(make_config, preset, options):
    # With tensors that have no values, a look at one is an error; so it would be in a graph.
    config = make_config(preset=preset, **options)
    trainer = _trained(config)
    inputs = {
        "images": trainer.images[:8],
        "stop": torch.zeros((), dtype=torch.float64),
        **trainer._noise(0),
    }
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outcome = trainer.update(**{k: mode.from_tensor(v) for k, v in inputs.items()})
        assert outcome.shape == (5,)
        with pytest.raises(DataDependentOutputException):
            outcome[0].item()


def test_tf32_is_set_within_and_put_back():
    flags = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [flag.fp32_precision for flag in flags]
    for allowed in (True, False):
        with tf32(allowed):
            assert [flag.fp32_precision == "tf32" for flag in flags] == [allowed, allowed]
        assert [flag.fp32_precision for flag in flags] == before


def test_tf32_needs_a_gpu(make_config):
    with pytest.raises(ValueError, match="precision must be fp32 or bf16 on cpu, got 'tf32'"):
        train(make_config(precision="tf32"))
    assert not make_config().out.exists()


def test_a_side_stream_is_nothing_on_a_cpu():
    with graphs.SideStream(CPU).entered():
        assert torch.ones(2).sum() == 2
