"""Zero-cost proxies against plain computations on discrete cells, one replica after the other."""

from collections.abc import Callable

import labs
import numpy as np
import pytest
import test_supernet_plain as plain
import torch
from torch import Tensor
from torch.nn import functional

import bench.spaces
from bench.spaces.base import NetworkSize
from bench.speed import plain as layers
from searchers import _proxies
from searchers._proxies import PROXIES, Proxy
from searchers.base import Batch, Choices, ForwardInputs, Observation, Supernet, SupernetOptions

pytestmark = pytest.mark.usefixtures("unchecked")

REPLICAS, IMAGES = 3, 6
spaces = pytest.mark.parametrize("space", ["s1", "nb201"])
each = pytest.mark.parametrize("name", list(PROXIES))
both = pytest.mark.parametrize(
    ("name", "space"), [(n, s) for n in PROXIES for s in ("s1", "nb201") if (n, s) != ("jacob_cov", "s1")]
)
Plain = Callable[[dict[str, Tensor], Callable[[Tensor], Tensor], Batch], Tensor]


def network_of(space: str, options: SupernetOptions = SupernetOptions(), replicas: int = REPLICAS) -> Supernet:
    """No parameter has a special value; those of further replicas do not change those of the first."""
    network = bench.spaces.get(space).supernet(NetworkSize(2, 1, classes=labs.CLASSES), replicas, options).double()
    with torch.no_grad():
        for i, (path, parameter) in enumerate(network.named_parameters()):
            offset = 1.0 if path.endswith("norm.weight") else 0.0
            for replica in range(replicas):
                drawn = plain.normal(*parameter.shape[1:], seed=1000 * replica + i)
                parameter[replica].copy_(offset + 0.4 * drawn)
    return network


def genotypes(space: str):
    groups, source = plain.groups_of(space), np.random.default_rng(5)
    return [plain.random_genotype(groups, source) for _ in range(REPLICAS)]


def choices_of(space: str) -> Choices:
    return plain.discrete(plain.groups_of(space), [genotypes(space)])


def matrices(weights: dict[str, Tensor]) -> list[Tensor]:
    return [value for name, value in weights.items() if name.endswith(("conv.weight", "shortcut.weight"))] + [
        weights["classifier.weight"]
    ]


def gradients(of: Tensor, weights: list[Tensor], graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(of, weights, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def plain_grad_norm(weights, run, batch):
    loss = functional.cross_entropy(run(batch.images), batch.labels)
    return sum((g**2).sum() ** 0.5 for g in gradients(loss, matrices(weights)))


def plain_snip(weights, run, batch):
    kernels = matrices(weights)
    found = gradients(functional.cross_entropy(run(batch.images), batch.labels), kernels)
    return sum((g * w).abs().sum() for g, w in zip(found, kernels, strict=True))


def plain_grasp(weights, run, batch):
    """The Hessian times the gradient as a difference of two gradients."""
    kernels = matrices(weights)
    start = [w.detach().clone() for w in kernels]

    def at(step: float, direction: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            for w, s, d in zip(kernels, start, direction, strict=True):
                w.copy_(s + step * d)
        return gradients(functional.cross_entropy(run(batch.images), batch.labels), kernels)

    along = at(0.0, start)
    ahead, behind = at(1e-6, along), at(-1e-6, along)
    return -sum((w * (a - b)).sum() for w, a, b in zip(start, ahead, behind, strict=True)) / 2e-6


def plain_jacob_cov(_weights, run, batch):
    images = batch.images.clone().requires_grad_()
    run(images).sum().backward()
    values = np.linalg.eigvalsh(np.corrcoef(images.grad.flatten(1).numpy()))
    return torch.tensor(-sum(np.log(v + 1e-5) + 1 / (v + 1e-5) for v in values))


def plain_naswot(_weights, run, batch):
    seen: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        clamp, relu = torch.Tensor.clamp, torch.Tensor.relu
        patch.setattr(torch.Tensor, "clamp", lambda x, min: (seen.append(x), clamp(x, min=min))[1])
        patch.setattr(torch.Tensor, "relu", lambda x: (seen.append(x), relu(x))[1])
        run(batch.images)
    kernel = np.zeros((IMAGES, IMAGES))
    codes = np.concatenate([(maps > 0).flatten(1).numpy() for maps in seen], 1)
    for i in range(IMAGES):
        for j in range(IMAGES):
            kernel[i, j] = (codes[i] == codes[j]).sum()
    return torch.tensor(np.linalg.slogdet(kernel)[1])


def plain_fisher(_weights, run, batch):
    seen: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        conv = layers.conv
        patch.setattr(layers, "conv", lambda *a, **k: (seen.append(conv(*a, **k)), seen[-1])[1])
        found = gradients(functional.cross_entropy(run(batch.images), batch.labels), seen)
    total = torch.zeros((), dtype=torch.float64)
    for a, g in zip(seen, found, strict=True):
        for c in range(a.shape[1]):
            total += 0.5 * sum((a[i, c] * g[i, c]).sum() ** 2 for i in range(IMAGES)) / IMAGES
    return total


def plain_synflow(weights, run, batch):
    with pytest.MonkeyPatch.context() as patch:
        for module in (layers, plain):
            patch.setattr(module, "bn", lambda x, *_: x)
        strength = run(torch.ones_like(batch.images)).sum() / len(batch.images)
    kernels = matrices(weights)
    return sum((w * g).sum() for w, g in zip(kernels, gradients(strength, kernels), strict=True))


PLAIN: dict[str, Plain] = {name: globals()[f"plain_{name}"] for name in PROXIES}


@both
def test_a_proxy_is_its_equation_on_the_discrete_cell_of_every_replica(name: str, space: str) -> None:
    proxy = PROXIES[name]
    network, batch = network_of(space, proxy.options), labs.fake_batch(REPLICAS, IMAGES)
    found = proxy.score(network, choices_of(space), batch)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    for replica, genotype in enumerate(genotypes(space)):
        weights = plain.only(dict(network.named_parameters()), replica)
        if name == "synflow":
            weights = {path: value.abs() for path, value in weights.items()}
        weights = {path: value.clone().requires_grad_() for path, value in weights.items()}
        own = Batch(batch.images[replica], batch.labels[replica])
        run = lambda x, w=weights, g=genotype: plain.discrete_network(space)(w, x, [g] * network.cells)  # noqa: E731
        expected = PLAIN[name](weights, run, own).detach()
        torch.testing.assert_close(found[replica], expected, rtol=1e-5 if name == "grasp" else 1e-9, atol=1e-9)


@both
def test_a_score_does_not_depend_on_what_it_is_stacked_with(name: str, space: str) -> None:
    """Nor does scoring change weights, leave gradients, or read random numbers."""
    proxy, choices, batch = PROXIES[name], choices_of(space), labs.fake_batch(REPLICAS, IMAGES)
    network = network_of(space, proxy.options)
    before, state = labs.leaves(dict(network.named_parameters())), torch.get_rng_state()
    together = proxy.score(network, choices, batch)
    assert torch.equal(together, proxy.score(network, choices, batch))
    assert torch.equal(torch.get_rng_state(), state)
    labs.same(labs.leaves(dict(network.named_parameters())), before)
    assert all(parameter.grad is None for _, parameter in network.named_parameters())
    last = network_of(space, proxy.options)
    alone = bench.spaces.get(space).supernet(NetworkSize(2, 1, classes=labs.CLASSES), 1, proxy.options).double()
    with torch.no_grad():
        for (_, mine), (_, theirs) in zip(alone.named_parameters(), last.named_parameters(), strict=True):
            mine.copy_(theirs[-1:])
    own = Choices(
        {n: v[:, -1:] for n, v in choices.weights.items()}, {n: v[:, -1:] for n, v in (choices.active or {}).items()}
    )
    single = proxy.score(alone, own, Batch(batch.images[-1:], batch.labels[-1:]))
    torch.testing.assert_close(together[-1:], single, rtol=1e-10, atol=1e-10)


@both
def test_what_is_left_out_does_not_count(name: str, space: str) -> None:
    proxy, choices, batch = PROXIES[name], choices_of(space), labs.fake_batch(REPLICAS, IMAGES)
    network = network_of(space, proxy.options)
    before = proxy.score(network, choices, batch)
    assert choices.active is not None
    live = network.live(choices.active)
    changed = 0
    with torch.no_grad():
        for path, value in network.named_parameters():
            if (address := network.address(path)) is not None and address.option is not None:
                idle = ~live[address.group][0, :, address.decision, address.option]
                changed += int(idle.sum())
                value[torch.from_numpy(idle)] += 1.0
    assert changed > 10
    assert torch.equal(proxy.score(network, choices, batch), before)


@spaces
def test_synflow_does_not_read_the_data(space: str) -> None:
    proxy, choices = PROXIES["synflow"], choices_of(space)
    network = network_of(space, proxy.options)
    one, other = (proxy.score(network, choices, labs.fake_batch(REPLICAS, IMAGES, seed)) for seed in (0, 1))
    assert not proxy.reads_data
    assert torch.equal(one, other)
    assert all(proxy.reads_data for name, proxy in PROXIES.items() if name != "synflow")


def test_jacob_cov_is_refused_where_batch_statistics_cancel_it() -> None:
    network, batch = network_of("s1"), labs.fake_batch(REPLICAS, IMAGES)
    with pytest.raises(ValueError, match="expected a network whose summed logits depend on its images"):
        _proxies.jacob_cov(network, choices_of("s1"), batch)


def test_the_order_of_the_images_does_not_matter_to_naswot() -> None:
    network, choices, batch = network_of("nb201"), choices_of("nb201"), labs.fake_batch(REPLICAS, IMAGES)
    order = torch.randperm(IMAGES, generator=labs.rng(1))
    turned = Batch(batch.images[:, order], batch.labels[:, order])
    found, other = (_proxies.naswot(network, choices, each) for each in (batch, turned))
    torch.testing.assert_close(found, other, rtol=1e-12, atol=1e-12)
    twice = Batch(batch.images[:, [0, 0, 1, 2]], batch.labels[:, [0, 0, 1, 2]])
    assert (_proxies.naswot(network, choices, twice) < found.min() - 5).all()


@each
def test_a_cell_without_a_path_has_a_score(name: str) -> None:
    proxy = PROXIES[name]
    network, weights = network_of("nb201", proxy.options), torch.zeros(1, REPLICAS, 6, 5, dtype=torch.float64)
    weights[..., 0] = 1
    score = proxy.score(network, Choices({"op": weights}, {"op": weights.numpy() > 0}), labs.fake_batch(REPLICAS))
    assert not score.isnan().any()


@pytest.mark.parametrize("space", plain.SPACES)
@pytest.mark.parametrize("options", [SupernetOptions(), SupernetOptions(normalise=False)], ids=["norm", "no_norm"])
def test_observing_changes_nothing_and_sees_maps_that_lead_to_the_loss(space: str, options: SupernetOptions) -> None:
    network, batch = network_of(space, options), labs.fake_batch(REPLICAS, IMAGES)
    groups = plain.groups_of(space)
    mixed = Choices({n: v / 8 for n, v in plain.mixture(groups, REPLICAS).items()})
    some = Choices(mixed.weights, plain.random_active(groups, 1, REPLICAS, seed=2))
    for choices in (mixed, some):
        seen: list[Observation] = []
        outputs = network(batch.images, choices, ForwardInputs(observe=seen.append))
        unseen = network(batch.images, choices)  # may compute convolutions of one input as one
        torch.testing.assert_close(outputs, unseen, rtol=1e-12, atol=1e-12)
        assert {each.kind for each in seen} == {"relu", "convolution"}
        assert all(len(each.maps) == (REPLICAS if each.rows is None else len(each.rows)) for each in seen)
        assert (choices is mixed) == all(each.rows is None for each in seen)
        found = torch.autograd.grad(outputs.square().sum(), [each.maps for each in seen], allow_unused=True)
        assert sum(g is not None and bool((g != 0).any()) for g in found) > len(seen) // 2


def test_every_proxy_has_a_name_that_settings_may_use() -> None:
    assert all(isinstance(proxy, Proxy) for proxy in PROXIES.values())
    assert set(PROXIES) == set(_proxies.Name.__args__)
