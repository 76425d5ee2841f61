"""`hydra/sweeper=optuna`, where Hydra looks for sweepers; `quala.workflow.sweeper` does the work.

Hydra imports this module at each start, and before it is in `sys.modules`: it imports nothing that
is slow, and a dataclass here cannot have its annotations as texts.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig


@dataclass
class OptunaSweeperConf:
    """The options of the plugin hydra-optuna-sweeper, and `objectives`."""

    _target_: str = "hydra_plugins.quala_optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    objectives: Any = None
    """A metric of the jobs' runs, or a list of them."""
    direction: Any = None
    """`minimize` or `maximize`, or a list with one for each objective."""
    sampler: Any = MISSING
    """`_target_` is a sampler of Optuna's; all else are its arguments, null is their default."""
    storage: Any = None
    """A database's address or a journal file's path; null is a file in the tracking folder."""
    study_name: str | None = None
    """Null is a name made of the workflow and of what is asked for."""
    n_trials: int = 20
    """Trials of the whole study, those of earlier commands and the failed ones included."""
    n_jobs: int = 1
    """Trials that are asked for and launched together."""
    max_failure_rate: float = 0.0
    """The share of such a batch that may fail before the sweep stops."""
    params: dict[str, Any] | None = None
    """A distribution, or one value, for each option."""
    custom_search_space: str | None = None
    """Dotted path of a function of the configuration and a trial, which may suggest more."""


SAMPLERS: dict[str, dict[str, Any]] = {
    "TPE": {"n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": False},
    "NSGAII": {"population_size": 50, "mutation_prob": None, "crossover_prob": 0.9,
               "swapping_prob": 0.5},
    "GP": {"n_startup_trials": 10, "deterministic_objective": False},
    "CmaEs": {"x0": None, "sigma0": None, "n_startup_trials": 1},
    "QMC": {"qmc_type": "sobol", "scramble": False},
    "Random": {},
    "Grid": {},
}  # fmt: skip

_store = ConfigStore.instance()
_store.store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="quala")
for _name, _options in SAMPLERS.items():
    _node = {"_target_": f"optuna.samplers.{_name}Sampler", "seed": 0, **_options}
    _store.store(group="hydra/sweeper/sampler", name=_name.lower(), node=_node, provider="quala")


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for the overrides of each job, and tells it what came out."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the launcher needs."""
        self._surroundings = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep to its end. Raises QualaError before any job for what is wrong."""
        from quala.workflow.sweeper import run_sweep

        run_sweep(self._options, arguments, *self._surroundings)
