"""Who may import whom: the imports and #includes of the whole repository, against the table.

Folders that do not exist yet are passed over; a Python file that the table does not know fails.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyinception"

# Level of every module or folder of pyinception/. A level may import what stands below it; parts of
# one level may import each other.
LEVELS = {
    "extents": 0, "spec": 0, "spec_separable": 0, "config": 0, "rng": 0, "kernels": 0,
    "backend": 1, "overlap": 1, "workspace": 1, "prepack": 1, "emulator": 1, "cuda": 1, "_C": 1,
    "winograd": 1, "table": 2, "table_separable": 2, "dispatch": 2, "known": 2,
    "tensor": 3, "op": 3,
    "ops": 4,
    "border": 5, "functional": 5, "functional_linear": 5, "functional_lrn": 5, "functional_pool": 5,
    "functional_depthwise": 5,
    "module": 5, "layers": 5, "losses": 5, "init": 5, "optim": 5,
    "gradcheck": 5, "checkpoint": 5, "reports": 5, "precision": 5,
    "tracing": 6, "fusion": 6, "models": 6, "data": 6, "session": 6,
    "convert": 7,
    "train": 7, "interop": 7, "bench": 7, "study": 7,
    "cli": 8, "__main__": 8,
    "__init__": 8,
}  # fmt: skip

# Narrower than their level: what exactly these may import of ours.
NARROW = {
    "spec": {"extents", "spec_separable"},
    "spec_separable": {"extents"},
    "extents": set(),
    "config": set(),
    "rng": set(),
    "tensor": {"backend"},
    "op": {"backend", "overlap", "tensor"},
    "ops": {"dispatch", "op", "ops", "spec", "extents", "workspace"},
}

# Third-party packages that may be imported while a file loads; anything else only inside functions.
AT_LOAD = {"numpy"}
AT_LOAD_OF = {"cli": {"typer", "rich"}}
FRAMEWORKS = {"torch", "jax", "tensorflow", "openvino", "onnx", "onnxruntime"}
MAY_NAME_FRAMEWORKS = {"interop", "bench", "convert"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it runs when the file loads) of every import in a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if lazy or guard:
            inside.update(child for child in ast.walk(node) if child is not node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join((*above, base)).rstrip(".")
            if base in ("pyinception", "pyinception.kernels", "kernels", "kernels.cpu"):
                yield from ((f"{base}.{alias.name}", node not in inside) for alias in node.names)
            else:
                yield base, node not in inside


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py")) if folder.exists() else []


def wrong_imports(path: Path, part: str, found: Iterator[tuple[str, bool]]) -> list[str]:
    """Every import of a file of ``part`` that the table forbids, in words."""
    wrong = []
    for name, at_load in found:
        top = name.partition(".")[0]
        if top == "pyinception":
            target = (name.split(".") + [""])[1]
            if part == "__init__":
                continue
            if target not in LEVELS:
                # An attribute of the package itself: only what stands above everything may use it.
                if LEVELS[part] < 6 and target not in ("", "__version__"):
                    wrong.append(f"{path.name} imports {name}: not in the table")
                continue
            allowed = LEVELS[target] <= LEVELS[part]
            if part in NARROW:
                allowed = target in NARROW[part]
            if not allowed:
                wrong.append(f"{path.name} (level {LEVELS[part]}) imports {name}")
        elif top not in sys.stdlib_module_names:
            known = AT_LOAD | AT_LOAD_OF.get(part, set())
            if part == "interop":
                # interop/jax.py and interop/torch/ are where the frameworks themselves are imported
                known = known | set(path.with_suffix("").parts[-2:])
            if top in FRAMEWORKS and part not in MAY_NAME_FRAMEWORKS:
                wrong.append(f"{path.name} imports the framework {name}")
            elif at_load and top not in known:
                wrong.append(f"{path.name} imports {name} while it loads")
    return wrong


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_engine_imports(path: Path) -> None:
    part = part_of(path)
    assert part in LEVELS, f"{path}: the table has no level for {part}"
    assert wrong_imports(path, part, imports(path)) == []


def test_the_rule_catches_what_it_should() -> None:
    cases = [
        ("spec", "pyinception.config", True, 1),
        ("ops", "pyinception.backend", True, 1),
        ("ops", "pyinception.dispatch", True, 0),
        ("table", "pyinception.ops", False, 1),
        ("layers", "pyinception.models", True, 1),
        ("layers", "torch", False, 1),
        ("checkpoint", "safetensors", True, 1),
        ("checkpoint", "safetensors", False, 0),
        ("interop", "torch", False, 0),
        ("models", "pyinception.layers", True, 0),
        ("interop", "torch", True, 1),  # interop.py itself is not interop/torch.py
    ]
    for part, name, at_load, expected in cases:
        found = wrong_imports(Path(f"{part}.py"), part, iter([(name, at_load)]))
        assert len(found) == expected, (part, name, found)


KERNELS = ROOT / "kernels"
REFERENCE = {
    ("reference.py", "kernels.windows"),
    ("reference.py", "kernels.reference_dropout"),
    ("reference.py", "kernels.reference_separable"),
    ("reference_dropout.py", "kernels.windows"),
    ("reference_separable.py", "kernels.windows"),
}


@pytest.mark.parametrize("path", python_files(KERNELS), ids=lambda p: str(p.relative_to(KERNELS)))
def test_kernels_are_a_leaf(path: Path) -> None:
    relative = path.relative_to(KERNELS)
    allowed = {"numpy"} | ({"numba", "llvmlite"} if relative.parts[0] == "cpu" else set())
    for name, _ in imports(path):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in allowed:
            continue
        inner = name.removeprefix("pyinception.")
        own = inner.startswith(("kernels.cpu", "kernels.args")) and relative.parts[0] == "cpu"
        # The reference and its checks are one thing in four files.
        own |= (relative.name, inner) in REFERENCE
        # a record of the tensor cores holds one of the CUDA cores, as in C
        own |= (relative.name, inner) == ("cuda_mma_args.py", "kernels.cuda_args")
        assert own, f"{relative} imports {name}"


INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
SOURCES = (".h", ".hpp", ".cuh", ".cu", ".cpp", ".cc", ".c")
BANNED = {  # folder: what its files may not include
    "kernels/cuda": r"pybind11|Python\.h|numpy|cutlass|cudnn|cublas|torch|csrc|bind/|core/",
    "kernels": r"pybind11|Python\.h|torch|csrc|bind/|core/",
    "csrc/core": r"pybind11|Python\.h|numpy|torch|cudnn|cublas|bind/",
    "csrc/emulator": r"pybind11|Python\.h|torch|bind/",
    "csrc/bind": r"torch|cudnn|cublas",
    "pyinception/interop": r"pybind11|Python\.h|numpy|torch|cudnn|cublas|csrc|bind/",
}


@pytest.mark.parametrize("folder", BANNED)
def test_includes(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SOURCES
        for _, name in INCLUDE.findall(path.read_text(encoding="utf-8"))
        if re.search(BANNED[folder], name)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", ["kernels", "csrc"])
def test_files_below_the_package_stay_short(folder: str) -> None:
    files = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", *SOURCES)]
    sizes = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in files}
    assert {name: size for name, size in sizes.items() if size >= 400} == {}


FORBIDDEN = re.compile(r"\bpickle\b|allow_pickle\s*=\s*True|shell\s*=\s*True|yaml\.load")


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_data_and_the_package_is_silent(path: Path) -> None:
    """No pickle, no eval, no exec, no print in the package; files stay under 400 lines."""
    text = path.read_text(encoding="utf-8")
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "compile", "print", "__import__"}
    code = re.sub(r'"""(.|\n)*?"""|#.*|"[^"\n]*"', "", text)
    assert not FORBIDDEN.search(code)
    assert text.count("\n") < 400


def test_an_op_stands_in_at_most_120_lines() -> None:
    sizes = {p.name: len(p.read_text().splitlines()) for p in python_files(PACKAGE / "ops")}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 120} == {}


def test_import_loads_nothing_heavy() -> None:
    """``import pyinception`` in a fresh process: NumPy and our own light files, nothing else; what
    is for CUDA alone comes with the first call that asks for it."""
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest, pyinception as pyi; "
        "pyi.models, pyi.Session; "
        "heavy = {'safetensors', 'ml_dtypes', 'typer', 'rich', 'numba', 'torch', 'PIL', "
        "'matplotlib', 'cupy', 'jax', 'pyinception.cuda.executor'} & set(sys.modules); "
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    tests = str(Path(__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", code, tests], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
