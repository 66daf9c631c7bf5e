"""JIT mode: compile the tile programs in this process and put them in the core's table.

The same functions as the build compiles, in memory and nowhere else: for reading, editing and
stepping through a kernel without a rebuild.
"""

from typing import Any

from .build import select_target

_kept: list[Any] = []  # the compiled functions: the core holds only their addresses


def install(core: Any, level: str, names: tuple[str, ...] = ()) -> list[str]:
    """Replace programs of `level` in the core by freshly compiled ones; all of them by default.

    Returns the names replaced. Programs of other levels stay as they were built.
    """
    select_target(level)
    from . import programs
    from .target import TARGETS

    replaced = []
    for name in programs.names(TARGETS[level]):
        if not names or name in names:
            program = programs.PROGRAMS[name](TARGETS[level])
            _kept.append(program)
            core.replace_program(level, name, program.address)
            replaced.append(name)
    return replaced
