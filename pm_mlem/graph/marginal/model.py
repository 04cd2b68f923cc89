"""From a model to the same model with its discrete latents summed out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.pytensorf import find_rng_nodes
from pytensor import shared
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import clone_replace, graph_replace
from pytensor.graph.traversal import ancestors

from pm_mlem.graph.marginal.variable import MixedPriorRV, density_at, marginal_rv, starting_at
from pm_mlem.graph.ops import numba  # noqa: F401  (registers the package's own Ops)
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.ops.shield import shield
from pm_mlem.graph.roles.rebuild import add_observed
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.units import UnitGroup, unit_groups, unit_vector


@dataclass(frozen=True, eq=False)
class Summed:
    """Connected terms with their latents summed out.

    ``log_likelihood`` has one entry for every unit; it and the scalar booleans ``guards`` are functions of the
    parameters' placeholders.
    """

    group: UnitGroup
    log_likelihood: Variable
    guards: tuple[Variable, ...]


def sum_out(tables: ModelTables, groups: Sequence[UnitGroup]) -> list[Summed]:
    """The marginal log-likelihood of some groups of variables."""
    arrays = {d.input: pt.specify_shape(d.array, d.input.type.shape) for d in tables.densities}
    constants = {v: pt.constant(array, dtype=v.type.dtype) for v, array in tables.data}
    graphs = clone_replace([unit_vector(g, tables.elimination) for g in groups], arrays, rebuild_strict=False)
    graphs = shield(clone_replace([*graphs, *tables.guards], constants, rebuild_strict=False))
    graphs, guards = graphs[: len(groups)], graphs[len(groups) :]
    placeholders = {p.placeholder for p in tables.structure.parameters}
    reads = [placeholders & set(ancestors([graph])) for graph in graphs]
    chosen: list[list[Variable]] = [[] for _ in groups]
    for guard in guards:  # of the first group that reads its parameters; those of other terms stay in these
        own = placeholders & set(ancestors([guard]))
        takers = [i for i, parameters in enumerate(reads) if own <= parameters]
        if takers:
            chosen[takers[0]].append(guard)
    return [Summed(g, v, tuple(c)) for g, v, c in zip(groups, graphs, chosen, strict=True)]


def marginal_model(model: pm.Model, tables: ModelTables) -> pm.Model:
    """The model without its discrete latents."""
    return Builder(model, tables).build()


class Builder:
    """Registers clones of the variables that stay, and the summed terms, in a new model."""

    def __init__(self, model: pm.Model, tables: ModelTables):
        self.model, self.tables, self.structure = model, tables, tables.structure
        self.new = pm.Model(model=None)
        self.random = frozenset(model.basic_RVs)
        latents = {item.name for item in self.structure.latents}
        self.gone: set[Variable] = {rv for rv in model.free_RVs if rv.name in latents}
        dropped = [rv for rv in model.free_RVs if rv.name in self.structure.dropped]
        self.gone |= {rv for rv in dropped if rv.type.dtype.startswith(("int", "uint", "bool")) or self.reads(rv)}
        self.free = [rv for rv in model.free_RVs if rv not in self.gone]
        self.transforms = {p.rv: p.transform for p in self.structure.parameters if p.held is not None}
        self.frozen = frozen_inputs(model)
        self.clone = self.clones()

    def reads(self, variable: Variable) -> bool:
        """Whether a variable of the model depends on one that is summed out, given all other random variables."""
        start = variable.owner.inputs if variable in self.random else [variable]
        return any(v in self.gone for v in ancestors(start, blockers=self.random))

    def clones(self) -> dict[Variable, Variable]:
        """Copies of all variables that the new model needs, with constants for data and dims."""
        model = self.model
        derived = [v for v in [*model.deterministics, *model.potentials] if not self.reads(v)]
        values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
        starts = [v for rv in self.free if isinstance(v := model.rvs_to_initial_values[rv], Variable)]
        wanted = list(dict.fromkeys([*self.free, *model.observed_RVs, *derived, *values, *starts]))
        return dict(zip(wanted, clone_replace(wanted, self.frozen, rebuild_strict=False), strict=True))

    def build(self) -> pm.Model:
        model = self.model
        self.register_coords()
        for rv in self.free:
            self.register_free(rv)
        for rv in model.observed_RVs:
            if not self.reads(rv):
                value = self.clone[model.rvs_to_values[rv]]
                add_observed(self.new, self.clone[rv], rv.name, value, self.dims(rv.name))
        for kind in ("potentials", "deterministics"):
            for variable in getattr(model, kind):
                if variable in self.clone:
                    self.register_derived(variable.name, self.clone[variable], kind, self.dims(variable.name))
        data = {v.name: v for v in [*model.observed_RVs, *model.potentials]}
        groups = unit_groups(self.tables)
        groups = [g for g in groups if any(self.reads(data[name]) for name in (*g.observed, *g.potentials))]
        for summed in sum_out(self.tables, groups):
            self.register_summed(summed)
        return self.new

    def dims(self, name: str):
        return self.model.named_vars_to_dims.get(name)

    # --- registration --------------------------------------------------------------------------------------

    def register_coords(self) -> None:
        for name, labels in self.model.coords.items():
            length = self.model.dim_lengths[name]
            self.new.add_coord(name, labels, length=self.frozen.get(length, length))
        for variable in self.model.data_vars:
            self.new.register_data_var(self.frozen.get(variable, variable), self.dims(variable.name))

    def register_free(self, rv: Variable) -> None:
        variable, start = self.clone[rv], self.model.rvs_to_initial_values[rv]
        if self.reads(rv):
            variable, start = self.mixed_prior(rv), None
        if isinstance(start, np.ndarray):
            variable.owner.op, start = starting_at(variable.owner.op, start), None
        self.new.register_rv(
            variable,
            rv.name,
            dims=self.dims(rv.name),
            default_transform=None,
            transform=self.transforms.get(rv, self.model.rvs_to_transforms[rv]),
            initval=self.clone[start] if isinstance(start, Variable) else start,
        )

    def mixed_prior(self, rv: Variable) -> Variable:
        """A parameter whose prior reads latents: the last of them has the joint density of all, the others none."""
        parameters = {p.name: p for p in self.structure.parameters}
        mixed = [d.term.name for d in self.tables.mixed.densities]
        last = next(v for v in reversed(self.free) if v.name in mixed)
        density, guards = self.prior_density() if rv is last else (pt.constant(0.0), ())
        read = set(ancestors([density, *guards]))
        own = parameters[rv.name]
        parents = {
            self.new[p.name]: p.placeholder for p in parameters.values() if p is not own and p.placeholder in read
        }
        draw = self.clone[rv]
        registered = frozenset(self.new.basic_RVs)
        parents |= {v: parents.get(v) for v in ancestors([draw], blockers=registered) if v in registered}
        names = [p.name for p in self.structure.free]
        initial = dict(zip(names, initial_values(self.structure), strict=True))[rv.name]
        batch_ndim = rv.type.ndim - rv.owner.op.ndim_supp
        variable = marginal_rv(
            draw, parents, density, guards, MixedPriorRV, own=own.placeholder, batch_ndim=batch_ndim, initial=initial
        )
        users = [k for k, v in self.clone.items() if k is not rv and draw in set(ancestors([v]))]
        renewed = graph_replace([self.clone[k] for k in users], {draw: variable}, strict=False)
        self.clone |= {rv: variable, **dict(zip(users, renewed, strict=True))}
        return variable

    def prior_density(self) -> tuple[Variable, tuple[Variable, ...]]:
        """The joint log-density of the parameters whose priors read latents, and conditions on their parameters."""
        constants = {v: pt.constant(array, dtype=v.type.dtype) for v, array in self.tables.data}
        density, *guards = shield(
            clone_replace([self.tables.mixed.total, *self.tables.prior_guards], constants, rebuild_strict=False)
        )
        read = set(ancestors([density]))
        known = {p.placeholder for p in self.structure.parameters}
        return density, tuple(g for g in guards if (known & set(ancestors([g]))) <= read)

    def register_derived(self, name: str, variable: Variable, kind: str, dims) -> None:
        variable.name = name
        getattr(self.new, kind).append(variable)
        self.new.add_named_variable(variable, dims)

    # --- what was summed out -------------------------------------------------------------------------------

    def register_summed(self, summed: Summed) -> None:
        read = set(ancestors([summed.log_likelihood, *summed.guards]))
        parents = {self.clone[p.rv]: p.placeholder for p in self.structure.parameters if p.placeholder in read}
        group = summed.group
        if not group.observed:
            values = {placeholder: rv for rv, placeholder in parents.items()}
            density = density_at(summed.log_likelihood, summed.guards, values)
            self.register_derived(group.name, density, "potentials", self.dims_of_units(group))
            return
        rvs = [rv for rv in self.model.observed_RVs if rv.name in group.observed]
        leaves = [self.structure.leaves[rv] for rv in rvs]
        arrays = [np.broadcast_to(leaf.data, leaf.shape) for leaf in leaves]
        shapes = [a.shape for a in arrays]
        draw = join([self.clone[rv] for rv in rvs], shapes)
        joined = function([], join([pt.constant(a) for a in arrays], shapes), mode=PLAIN)()
        data = np.asarray(joined, dtype=draw.type.dtype)
        registered = frozenset(self.new.basic_RVs)
        parents |= {v: parents.get(v) for v in ancestors([draw], blockers=registered) if v in registered}
        variable = marginal_rv(draw, parents, summed.log_likelihood, summed.guards, data=data)
        value = self.clone[self.model.rvs_to_values[rvs[0]]] if len(rvs) == 1 else pt.constant(data)
        add_observed(self.new, variable, group.name, value, self.dims_of_data(group, data.ndim))

    def dims_of_data(self, group: UnitGroup, ndim: int):
        """The dims of an observed variable, if its log-likelihood by unit has the first of them."""
        if group.grid is None or not group.grid.leading or group.grid.name not in group.observed:
            return None
        dims = self.dims(group.grid.name)
        return None if dims is None or len(dims) > ndim else (*dims, *[None] * (ndim - len(dims)))

    def dims_of_units(self, group: UnitGroup):
        dims = None if group.grid is None else self.dims(group.grid.name)
        return None if dims is None else tuple(dims[d] for d in group.grid.axes)


def frozen_inputs(model: pm.Model) -> dict[Variable, Variable]:
    """Constants for data and lengths of dimensions, fresh random generators."""
    frozen: dict[Variable, Variable] = {}
    for variable in [*model.data_vars, *model.dim_lengths.values()]:
        if not isinstance(variable, Constant):
            value = np.asarray(function([], variable, mode=PLAIN)())
            frozen[variable] = pt.constant(value, name=variable.name, dtype=variable.type.dtype)
    for rng in find_rng_nodes([*model.basic_RVs, *model.deterministics, *model.potentials]):
        frozen[rng] = shared(deepcopy(rng.get_value()))
    return frozen


def join(parts: Sequence[Variable], shapes: Sequence[tuple[int, ...]]) -> Variable:
    """Several arrays as one: side by side along a last axis if they have one shape, end to end otherwise."""
    if len(parts) == 1:
        return parts[0]
    if len(set(shapes)) == 1:
        return pt.stack(parts, axis=-1)
    return pt.concatenate([v.ravel() for v in parts])
