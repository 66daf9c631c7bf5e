"""Training: a recipe, one readable loop, a run folder, pictures, and what to compare with.

outcome = train({"data": "digits"}, "runs/digits")
outcome = train({}, "runs/digits", resume=True)
"""

from pyinception.train.baselines import score_baselines
from pyinception.train.evaluation import (
    Evaluation,
    Prediction,
    Trained,
    evaluate,
    load_trained,
    predict,
)
from pyinception.train.loop import Outcome, TrainingError, train, weights_sha256
from pyinception.train.networks import MODELS, tiny_inception
from pyinception.train.recipe import Recipe, RecipeError, resolve
from pyinception.train.run_folder import RunError, RunFolder, find_run

__all__ = [
    "MODELS",
    "Evaluation",
    "Outcome",
    "Prediction",
    "Recipe",
    "RecipeError",
    "RunError",
    "RunFolder",
    "Trained",
    "TrainingError",
    "evaluate",
    "find_run",
    "load_trained",
    "predict",
    "resolve",
    "score_baselines",
    "tiny_inception",
    "train",
    "weights_sha256",
]
