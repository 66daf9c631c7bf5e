"""Training: a recipe, one readable loop, a run folder, pictures, and what to compare with.

outcome = train({"data": "digits"}, "runs/digits")
outcome = train({}, "runs/digits", resume=True)
"""

from pyinception.train.baselines import score_baselines
from pyinception.train.compare import Comparison, compare_runs, write_comparison
from pyinception.train.evaluation import (
    Evaluation,
    Prediction,
    Trained,
    evaluate,
    load_trained,
    predict,
)
from pyinception.train.inspection import Look, look, write_look
from pyinception.train.loop import Outcome, TrainingError, train, weights_sha256
from pyinception.train.networks import MODELS, tiny_inception
from pyinception.train.rate_search import RateSearch, draw_find_lr, find_lr
from pyinception.train.recipe import Recipe, RecipeError, resolve
from pyinception.train.report import write_report
from pyinception.train.run_folder import RunError, RunFolder, find_run

__all__ = [
    "MODELS",
    "Comparison",
    "Evaluation",
    "Look",
    "Outcome",
    "Prediction",
    "RateSearch",
    "Recipe",
    "RecipeError",
    "RunError",
    "RunFolder",
    "Trained",
    "TrainingError",
    "compare_runs",
    "draw_find_lr",
    "evaluate",
    "find_lr",
    "find_run",
    "load_trained",
    "look",
    "predict",
    "resolve",
    "score_baselines",
    "tiny_inception",
    "train",
    "weights_sha256",
    "write_comparison",
    "write_look",
    "write_report",
]
