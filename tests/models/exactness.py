"""What the graph room says about a small model, evaluated by PyTensor, against the enumeration of its latents."""

from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor import function
from pytensor.compile.mode import Mode
from pytensor.gradient import grad
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import graph_replace

from brute_force import Exact, enumerate_exactly
from grammar import Built
from pm_mlem.graph.ops.operations import WindowLogZ
from pm_mlem.graph.ops.semirings import Choice, choosing
from pm_mlem.graph.ops.shield import shield
from pm_mlem.graph.read import read
from pm_mlem.graph.roles.structure import ModelStructure
from pm_mlem.graph.tables.model_tables import ModelTables

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@dataclass
class Found:
    """Values of the symbolic functions at one point."""

    tables: ModelTables
    log_likelihood: float
    possible: bool
    gradient: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]  # by probe
    derived: dict[str, np.ndarray]
    evidence: list[np.ndarray]
    """Gradient of the sum of the units by each density array."""
    weighted: list[np.ndarray]
    """The same for a weighted sum of the units."""
    unit_weights: np.ndarray
    densities: list[np.ndarray]


def evaluate(built: Built) -> Found:
    """Read and evaluate a model."""
    tables = read(built.model)
    theta = list(tables.free_inputs)
    densities = dict(zip([d.input for d in tables.densities], shield([d.array for d in tables.densities]), strict=True))
    units = list(tables.elimination.units)
    weights = np.random.default_rng(5).uniform(0.5, 2.0, sum(tables.elimination.sizes))
    edges = np.cumsum([0, *tables.elimination.sizes])
    parts = np.split(weights, edges[1:-1])
    total = pt.add(*[u.sum() for u in units], 0.0)
    weighted = pt.add(*[(u * w).sum() for u, w in zip(units, parts, strict=True)], 0.0)
    evidence = gradients(total, list(densities)) + gradients(weighted, list(densities))
    probed = pt.add(*[u.sum() for u in tables.probed.units], 0.0)
    probes = [p.input for p in tables.probes]
    posterior = gradients(probed, probes)
    whole = graph_replace([total, *evidence, probed, *posterior], densities, strict=False)
    known = {}
    for array, slope in zip(densities.values(), whole[1 : 1 + len(densities)], strict=True):
        known[array] = known[array] + slope if array in known else slope
    slopes = grad(None, theta, known_grads=known, disconnected_inputs="ignore") if theta else []
    outputs = [*whole, *slopes, *[d.array for d in tables.derived], *tables.guards, *densities.values()]
    inputs = [*theta, *probes, *[v for v, _ in tables.data]]
    run = function(inputs, outputs, mode=Mode("py", None), on_unused_input="ignore")
    point = [np.asarray(built.parameters[v.name], dtype=float) for v in theta]
    with np.errstate(all="ignore"):
        results = iter(run(*point, *[np.zeros(p.shape) for p in tables.probes], *[a for _, a in tables.data]))

    def following(n):
        return [np.asarray(next(results)) for _ in range(n)]

    [value], first, second = following(1), following(len(densities)), following(len(densities))
    [again], joint = following(1), following(len(probes))
    slopes, derived, guards = following(len(theta)), following(len(tables.derived)), following(len(tables.guards))
    arrays = following(len(densities))
    np.testing.assert_allclose(again, value, **CLOSE, err_msg="with and without probes")
    return Found(
        tables, float(value), all(map(bool, guards)),
        {v.name: s for v, s in zip(theta, slopes, strict=True)},
        {p.name: j for p, j in zip(tables.probes, joint, strict=True)},
        {d.name: a for d, a in zip(tables.derived, derived, strict=True)},
        first, second, weights, arrays,
    )  # fmt: skip


def gradients(total, inputs):
    return grad(total, inputs, disconnected_inputs="ignore") if inputs else []


def check(built: Built) -> Found:
    """Compare everything with the enumeration; raises an AssertionError that says what differs."""
    found = evaluate(built)
    exact = enumerate_exactly(built.model, built.domains, built.parameters)
    assert found.possible, "a guard fails at a valid point"
    if not np.isfinite(exact.log_likelihood):
        assert found.log_likelihood == exact.log_likelihood
        return found
    np.testing.assert_allclose(found.log_likelihood, exact.log_likelihood, **CLOSE, err_msg="log-likelihood")
    check_gradient(found, exact, built)
    check_latents(found, exact)
    check_mode(found, exact)
    check_deterministics(found, exact)
    check_units(found)
    return found


def check_gradient(found: Found, exact: Exact, built: Built) -> None:
    for name, slope in found.gradient.items():
        expected = np.asarray(exact.gradient[name])
        if np.isnan(expected).any():  # PyMC's own derivative is not defined where a parameter is 0
            expected = slope_by_differences(built, name)
            np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5, err_msg=f"gradient by {name}")
        else:
            np.testing.assert_allclose(slope, expected, **CLOSE, err_msg=f"gradient by {name}")


def slope_by_differences(built: Built, name: str) -> np.ndarray:
    centre, step = np.asarray(built.parameters[name], dtype=float), 1e-5
    slope = np.zeros(centre.shape)
    for i in np.ndindex(centre.shape):
        ends = []
        for sign in (1, -1):
            moved = centre.copy()
            moved[i] += sign * step
            ends.append(enumerate_exactly(built.model, built.domains, {**built.parameters, name: moved}).log_likelihood)
        slope[i] = (ends[0] - ends[1]) / (2 * step)
    return slope


def check_latents(found: Found, exact: Exact) -> None:
    structure = found.tables.structure
    assert {item.name for item in structure.latents} == set(exact.configurations)
    marginals = by_latent(structure, found.probabilities)
    for item in structure.latents:
        expected = exact.posterior(item.name, item.lower, item.states)
        np.testing.assert_allclose(marginals[item.name], expected, **CLOSE, err_msg=f"posterior of {item.name}")


def by_latent(structure: ModelStructure, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Probabilities of the states of every latent, (states, *shape), from those of the vectors of elements."""
    place = {int(e): (v.name, i) for v in structure.vectors for i, e in enumerate(v.elements)}
    marginals = {}
    for item in structure.latents:
        lifted = structure.leaves[item.rv]
        address = np.broadcast_to(lifted.slots[0].address, item.shape)
        domain = np.broadcast_to(lifted.data, (len(lifted.data), *item.shape))
        marginal = marginals[item.name] = np.zeros((item.states, *item.shape))
        for position in np.ndindex(item.shape):
            name, i = place[int(address[position])]
            np.add.at(marginal[(..., *position)], domain[(..., *position)] - item.lower, probabilities[name][:, i])
    return marginals


COLD = 1e13
"""One over the temperature at which a sum over states is the largest of its terms."""
TIES = 1e-10
"""What is added to the log-densities so that no two configurations are equally probable."""


def check_mode(found: Found, exact: Exact) -> None:
    """The graph that chooses one configuration chooses the jointly most probable one.

    JAX alone evaluates its sums (``Choice``); here each is the sum that it stands for, at a temperature near 0.
    """
    tables, rng = found.tables, np.random.default_rng(6)
    vectors = {v.name for v in tables.structure.vectors}
    probes = [p for p in tables.probes if p.name in vectors]
    if not probes:
        return
    arrays, data = [d.input for d in tables.densities], [v for v, _ in tables.data]
    inputs, outputs = choosing([*arrays, *[p.input for p in probes], *data], tables.by_element.units, "max")
    graph = FunctionGraph(inputs, outputs, clone=False)
    chosen = [node for node in graph.toposort() if isinstance(node.op, Choice)]
    assert chosen
    for node in chosen:
        lengths = 1 if isinstance(node.op.op, WindowLogZ) else 0
        cold = [*node.inputs[:lengths], *[COLD * v for v in node.inputs[lengths:]]]
        graph.replace(node.outputs[0], node.op.op(*cold) / COLD)
    total = pt.add(*[v.sum() for v in graph.outputs], 0.0)
    here = graph.inputs[len(arrays) : len(arrays) + len(probes)]
    run = function(graph.inputs, [total, *gradients(total, here)], mode=Mode("py", None), on_unused_input="ignore")
    with np.errstate(all="ignore"):
        value, *indicators = run(
            *found.densities, *[TIES * rng.random(p.shape) for p in probes], *[a for _, a in tables.data]
        )
    best = exact.log_likelihood + np.log(np.max(exact.weights))
    np.testing.assert_allclose(value, best, rtol=1e-9, atol=1e-8, err_msg="the most probable configuration")
    marginals = by_latent(tables.structure, {p.name: i for p, i in zip(probes, indicators, strict=True)})
    same = np.ones(len(exact.weights), dtype=bool)
    for item in tables.structure.latents:
        states = item.lower + marginals[item.name].argmax(axis=0)
        values = exact.configurations[item.name]
        same &= np.all((values == states).reshape(len(values), -1), axis=1)
    [place] = np.flatnonzero(same)
    np.testing.assert_allclose(exact.weights[place], np.max(exact.weights), rtol=1e-6, err_msg="what is chosen")


def element_states(structure: ModelStructure, exact: Exact) -> np.ndarray:
    """Position of the state of every latent element in every configuration: (configurations, elements).

    Entries of a latent that are enumerated jointly are one element.
    """
    result = np.zeros((len(exact.weights), sum(v.n_elements for v in structure.vectors)), dtype=int)
    for item in structure.latents:
        lifted, values = structure.leaves[item.rv], exact.configurations[item.name]
        address = np.broadcast_to(lifted.slots[0].address, item.shape)
        domain = np.broadcast_to(lifted.data, (len(lifted.data), *item.shape))
        for element in np.unique(address):
            own = address == element
            equal = np.all(domain[:, None, own] == values[None, :, own], axis=-1)
            result[:, element] = equal.argmax(axis=0)
    return result


def check_deterministics(found: Found, exact: Exact) -> None:
    """Joint posteriors of what each Deterministic reads, and its posterior mean."""
    elements = element_states(found.tables.structure, exact)
    for d in found.tables.derived:
        table = found.derived[d.name]
        if d.lifted.slots:
            joint = d.joint(found.probabilities)
            check_joint(d, joint, elements, exact.weights)
            mean = np.where(joint == 0, 0.0, joint * table).sum(axis=tuple(range(len(d.lifted.slots))))
        else:
            mean = table
        np.testing.assert_allclose(np.broadcast_to(mean, d.lifted.shape), exact.mean(d.name), **CLOSE, err_msg=d.name)


def check_joint(d, joint: np.ndarray, elements: np.ndarray, weights: np.ndarray) -> None:
    slots = d.lifted.slots
    addresses = [np.broadcast_to(s.address, d.lifted.shape) for s in slots]
    for position in np.ndindex(d.lifted.shape):
        expected = np.zeros(tuple(s.size for s in slots))
        here = [int(a[position]) for a in addresses]
        states = [elements[:, e] if e >= 0 else np.zeros(len(weights), int) for e in here]
        np.add.at(expected, tuple(states), weights)
        got = joint[(..., *position)]
        for axis, e in enumerate(here):
            if e < 0:  # nothing is read here: the whole weight may sit anywhere along this axis
                got, expected = got.sum(axis, keepdims=True), expected.sum(axis, keepdims=True)
        np.testing.assert_allclose(got, expected, **CLOSE, err_msg=f"joint posterior of {d.name}{position}")


def check_units(found: Found) -> None:
    """Each row of a factor belongs to the unit that is named for it."""
    tables = found.tables
    for factor, unit in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        density = tables.densities[factor.term_index]
        lifted = density.lifted
        if any(lifted.is_virtual(d) for d in range(lifted.ndim)):
            continue
        axes = tuple(range(len(lifted.slots)))
        plain = found.evidence[factor.term_index].sum(axis=axes).ravel()
        weighted = found.weighted[factor.term_index].sum(axis=axes).ravel()
        np.testing.assert_allclose(
            weighted[factor.entries], found.unit_weights[unit] * plain[factor.entries],
            **CLOSE, err_msg=f"units of {factor.term}",
        )  # fmt: skip
